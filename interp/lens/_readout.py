"""From vectors to the vocabulary: the one kernel of every lens.

1. A *state* (the stream at some layer) goes through the final norm, with statistics of its own, the
   unembedding and its bias, and a soft cap: what the model would say if it stopped there.
2. A *direction* (what a head or neuron writes, a decoder row, a steering vector) is a difference of states,
   to which the norm's scale, biases and caps mean nothing: v ⊙ gain (centred for LayerNorm) through the
   unembedding, minus its mean over the vocabulary.
3. Softmax, entropy and ranks are over the whole vocabulary, in float32 or better, at most `ROWS` rows at
   once. A rank counts the strictly larger logits: 0 is the best, ties share.

The model's own logits are asked once for what 1. makes of its last stream: a model in which something else
stands between stream and logits is refused. nostalgebraist 2020 (logit lens).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._arguments import shown
from interp.engine.trust import prove_readout
from interp.models import Model, final_norm
from interp.models.parts import Norm, beside
from interp.tasks import vocabulary
from interp.tasks._prompts import unknown_words
from interp.tasks._validate import require

ROWS = 64  # of logits at once
KINDS = ("state", "direction")


@dataclass(frozen=True, eq=False)
class Readout:
    """The way from the stream to the logits of a model."""

    norm: Norm | None
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, "vocab"] | None
    cap: float

    def logits(self, state: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """What the model would say of these states."""
        x = state.to(self.W_U)
        x = x if self.norm is None else self.norm(x)
        out = wide(x @ self.W_U if self.b_U is None else torch.addmm(self.b_U, x, self.W_U))
        return self.cap * torch.tanh(out / self.cap) if self.cap > 0 else out

    def direct(self, direction: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """What these directions add to the logits, per unit of the norm's scale, against the mean token."""
        out = wide(self.gained(direction.to(self.W_U)) @ self.W_U)
        return out - out.mean(-1, keepdim=True)

    def gained(self, direction: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """A direction after the norm, but for its scale."""
        if self.norm is None:
            return direction
        x = direction - direction.mean(-1, keepdim=True) if self.norm.centred else direction
        return x if self.norm.gain is None else x * self.norm.gain


def read(readout: Readout, vectors: Float[Tensor, "row d_model"], kind: str) -> Float[Tensor, "row vocab"]:
    """Log probabilities of states, centred logits of directions."""
    return readout.logits(vectors).log_softmax(-1) if kind == "state" else readout.direct(vectors)


def readout_of(model: Model) -> Readout:
    """The readout of a model, compared with its own logits.

    Cost: one forward of a short row, once while the model stays as it is. Raises ValueError where the stream
    has another width than the unembedding reads, or where the model's logits are not those.
    """
    d_model, width = model.cfg.d_model, model.W_U.shape[0]
    if d_model != width:
        raise ValueError(
            f"the stream of {model.cfg.model_name} has width {d_model}, its unembedding reads {width}: there "
            "is a step between them that no lens knows. Use interp.attribute or interp.patch."
        )
    prove_readout(model)
    home = model.W_E.device
    norm, b_U = beside(final_norm(model), home), beside(getattr(model, "b_U", None), home)
    norm = None if norm is None else Norm(norm.centred, norm.eps, _free(norm.gain), _free(norm.bias))
    cap = float(getattr(model.cfg, "output_logits_soft_cap", None) or -1.0)
    return Readout(norm, beside(model.W_U.detach(), home), _free(b_U), cap)


def _free(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def wide(tensor: Tensor) -> Tensor:
    """In float32 or better."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def entropy(log_probs: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """In nats."""
    return -torch.xlogy(log_probs.exp(), log_probs.exp()).sum(-1)


def divergence(end: Float[Tensor, "row vocab"], here: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """KL(end ‖ here) in nats, of log probabilities."""
    p = end.exp()
    return torch.where(p > 0, p * (end - here), 0.0).sum(-1)


def ranks(logits: Float[Tensor, "row vocab"], ids: Int[Tensor, "row target"]) -> Int[Tensor, "row target"]:
    """How many logits are strictly larger."""
    at = logits.gather(-1, ids)
    return torch.stack([(logits > at[:, k, None]).sum(-1) for k in range(ids.shape[1])], -1)


def token_ids(model: Model, tokens: Any, what: str = "targets") -> list[int]:
    """The ids of tokens given as ids or as strings of one token. ValueError for anything else."""
    listed = [tokens] if isinstance(tokens, (str, int, np.integer)) else tokens
    if not isinstance(listed, Iterable) or getattr(listed, "ndim", 1) != 1:
        raise ValueError(f"{what} is {shown(tokens)}; give tokens, as strings of one token or as ids.")
    listed = list(listed)
    if not listed:
        raise ValueError(f"{what} is empty; give tokens, as strings of one token or as ids.")
    return [_token_id(model, each, what) for each in listed]


def ids_by_prompt(model: Model, targets: Tensor, n: int) -> Int[Tensor, "prompt target"]:
    """Ids of each prompt's own tokens. ValueError for another shape, and for what is no id."""
    if len(targets) != n or targets.is_floating_point():
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}, {targets.dtype}; give ids [{n}, target]."
        )
    token_ids(model, targets.flatten().tolist())
    return targets.long()


def followed(model: Model, targets: Any, n: int) -> Int[Tensor, "prompt target"] | None:
    """Ids to follow of n prompts, the same of all or ids [prompt, target]; None where none are given."""
    if targets is None:
        return None
    if isinstance(targets, Tensor) and targets.ndim == 2:
        return ids_by_prompt(model, targets, n)
    listed = targets.tolist() if isinstance(targets, Tensor) else targets
    return torch.tensor(token_ids(model, listed)).expand(n, -1)


def _token_id(model: Model, token: Any, what: str) -> int:
    size = vocabulary.output_size(model)
    if isinstance(token, str):
        require(unknown_words(model, what, [token]))
        ids = vocabulary.encode(model, token, False)
        if len(ids) != 1:
            raise ValueError(
                f"{what}: {token!r} is {len(ids)} tokens, {ids}; a lens reads one. Give its first."
            )
        return ids[0]
    token = token.item() if isinstance(token, (Tensor, np.generic)) else token
    whole = isinstance(token, (int, np.integer)) and not isinstance(token, bool)
    if not whole or not 0 <= token < size:
        raise ValueError(f"{what}: {shown(token)} is no token; give a string, or an id from 0 to {size - 1}.")
    return int(token)


def names(model: Model, ids: np.ndarray) -> np.ndarray:
    """Tokens as text, the id as a string where there is no tokenizer; "" for −1."""
    known = {int(each): _name(model, int(each)) for each in np.unique(ids)}
    return np.array([known[int(each)] for each in ids.ravel()], dtype=object).reshape(ids.shape)


def _name(model: Model, token: int) -> str:
    if token < 0:
        return ""
    return vocabulary.decode(model, [token]) if vocabulary.has_tokenizer(model) else str(token)


def check_top(top: int, model: Model) -> None:
    """ValueError unless there are so many tokens."""
    if not 1 <= top <= vocabulary.output_size(model):
        raise ValueError(
            f"top is {top}; give 1 to {vocabulary.output_size(model)}, the size of the vocabulary."
        )


def check_kind(kind: str) -> None:
    """ValueError for what is neither a state nor a direction."""
    if kind not in KINDS:
        raise ValueError(f"as_ is {kind!r}; give 'state' (through the norm) or 'direction' (a difference).")


def chunks(n: int) -> Sequence[slice]:
    """Rows, as many at once as the kernel takes."""
    return [slice(start, start + ROWS) for start in range(0, n, ROWS)]
