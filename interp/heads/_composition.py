"""What heads write and read of one another, from weights alone: composition of two heads.

1. OV = W_V W_O and QK = W_Q W_Kᵀ of each head, [d_model, d_model] of rank d_head; key-value heads of grouped
   attention stand for every query head of their group.
2. Composition of an earlier head with a later one: ‖OV · R‖ / (‖OV‖ ‖R‖) in Frobenius norms, R = QK (Q), QKᵀ
   (K) or OV (V) of the later head. With one of the two turned at random, whatever their spectra, its root
   mean square is 1 / √d_model: `baseline`.

The weights are taken as they are: load the model with `fold_ln` (the default) for the norms' gains to be in
them. With rotary embeddings QK holds at distance 0. Elhage et al. 2021, "A Mathematical Framework".
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.engine.trust import require_weights, short_row
from interp.models import Model, anatomy
from interp.models.parts import Attention, Weights

MODES = ("Q", "K", "V")


@verb
def composition(model: Model) -> xr.Dataset:
    """Composition scores of all pairs of heads: `value` [mode, layer, head, to_layer, to_head].

    0 where the second head is not in a later layer; NaN for a head whose weights are 0. `excess`: value less
    the attribute `baseline`, what heads of the same spectra that have nothing to do with one another give;
    NaN where the second is not later. The same numbers as TransformerLens's `all_composition_scores`.
    Cost: once a model two forwards of a short row, which prove that the weights are the model's; then none.
    Raises ValueError for a model whose weights do not give its logits.

    Example:
        >>> scores = interp.heads.composition(interp.load("induction"))
        >>> round(float(scores["value"].sel(mode="K", layer=0, head=0, to_layer=1, to_head=0)), 2)
        0.25
    """
    facts, heads = anatomy(model), head_weights(model)
    n_layers, n_heads = facts.n_layers, facts.n_heads
    values = np.zeros((len(MODES), n_layers, n_heads, n_layers, n_heads))
    for first in range(n_layers):
        left = heads[first].OV
        norm = _norm(*left)
        for second in range(first + 1, n_layers):
            for number, mode in enumerate(MODES):
                values[number, first, :, second] = _composed(left, norm, heads[second].read(mode))
    attrs = results.provenance(
        method="composition", site="weights", model=facts.name,
        convention="value = norm of the product of two heads' matrices, relative to their norms",
        baseline=float(facts.d_model**-0.5), weights=gains(readable_weights(model)),
    )  # fmt: skip
    dims = ("mode", "layer", "head", "to_layer", "to_head")
    coords = {"mode": list(MODES), "layer": range(n_layers), "head": range(n_heads)}
    coords |= {"to_layer": range(n_layers), "to_head": range(n_heads)}
    later = np.arange(n_layers)[:, None, None] < np.arange(n_layers)[:, None]  # [layer, to_layer, 1]
    excess = np.where(later[:, None], values - attrs["baseline"], np.nan)
    return results.dataset({"value": (dims, values), "excess": (dims, excess)}, coords, attrs)


class Heads:
    """A layer's matrices as two factors each: [head, d_model, d_head] and [head, d_head, d_model]."""

    def __init__(self, attn: Attention) -> None:
        share = attn.W_Q.shape[0] // attn.W_K.shape[0]
        wide = lambda W: W.detach().double().repeat_interleave(share, 0)  # noqa: E731
        self.W_Q, self.W_O = attn.W_Q.detach().double(), attn.W_O.detach().double()
        self.W_K, self.W_V = wide(attn.W_K), wide(attn.W_V)

    @property
    def OV(self) -> tuple[Tensor, Tensor]:
        return self.W_V, self.W_O

    def read(self, mode: str) -> tuple[Tensor, Tensor]:
        """What a head reads by its queries, keys or values."""
        if mode == "V":
            return self.OV
        first, second = (self.W_Q, self.W_K) if mode == "Q" else (self.W_K, self.W_Q)
        return first, second.transpose(-1, -2)


def readable_weights(model: Model) -> Weights:
    """The model's weights; ValueError where they do not give its logits on a short row."""
    return require_weights(model, short_row(model), what="scores of heads' weights")


def head_weights(model: Model) -> list[Heads]:
    """The matrices of every layer, float64."""
    return [Heads(block.attn) for block in readable_weights(model).blocks]


def gains(parts: Weights) -> str:
    """ "folded" where no norm before attention has a gain of its own; "raw" where weights lack theirs."""
    gain = [block.attn_norm.gain for block in parts.blocks if block.attn_norm is not None]
    return "folded" if all(each is None or bool((each == 1).all()) for each in gain) else "raw"


def _norm(into: Tensor, out: Tensor) -> Float[Tensor, "head"]:
    """Frobenius norm of into · out, by Gram matrices [head, d_head, d_head]."""
    grams = (into.transpose(-1, -2) @ into) * (out @ out.transpose(-1, -2)).transpose(-1, -2)
    return grams.sum((-1, -2)).clamp(min=0).sqrt()


def _composed(left: tuple[Tensor, Tensor], norm: Tensor, right: tuple[Tensor, Tensor]) -> np.ndarray:
    """‖left · right‖ / (‖left‖ ‖right‖): [earlier head, later head].

    With M = out · into [d_head, d_head], ‖·‖² = tr(Mᵀ G M H), G and H the outer factors' Gram matrices.
    """
    middle = torch.einsum("ahd,bdk->abhk", left[1], right[0])
    gram = left[0].transpose(-1, -2) @ left[0]  # [earlier, d_head, d_head]
    other = right[1] @ right[1].transpose(-1, -2)  # [later, d_head, d_head]
    square = torch.einsum("abhk,ahi,abij,bjk->ab", middle, gram, middle, other)
    return (square.clamp(min=0).sqrt() / norm[:, None] / _norm(*right)[None]).cpu().numpy()
