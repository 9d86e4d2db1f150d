"""Attack by activations: how many tokens a few positions can dictate (2312.02780).

1. P [a, d] is added to the stream before a layer, at the first a positions of a prompt; it is trained so that
   t given tokens follow (mean cross-entropy, Adam). No weight and no token changes.
2. Success: the share of the t tokens that are the likeliest, each with the right ones before it.
3. t_max(a): the largest t up to which success, a mean over random targets, is at least one half for this and
   every shorter t. Scaling law: t_max = kappa a, kappa by least squares through 0.
4. chi = a d bits / (t_max log2 V): bits of control spent for a bit of output dictated.

Derived from the abstract; the threshold of one half is that of the paper's t_max. t_max is no more than the
largest t tried: `capped` says where it is that. Control: P random, of the same norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.models.places import places
from interp.prompts import Prompts, read
from interp.steering._controls import random_like
from interp.steering._generate import require_next_tokens
from interp.steering._intervention import Intervention
from interp.steering._optimise import learn
from interp.steering._steer import steer
from interp.steering.edits import Number
from interp.tasks import vocabulary


@verb
def attack_scaling(
    model: Model,
    prompt: Any,
    positions: Sequence[int] = (1, 2, 4),
    lengths: Sequence[int] = (1, 2, 4, 8),
    *,
    layer: int | None = None,
    n_targets: int = 4,
    steps: int = 200,
    lr: Number = 0.1,
    bits: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`success` (positions, length, target): how much of random targets a few trained positions dictate.

    prompt: one, of as many tokens as the most positions. lengths: t, of the targets, drawn alike from the
    vocabulary. layer: one, 0 unless told.
    `random` is the same with P random at the same norms, `norm` the largest of P's rows, in
    norms of the stream there. `t_max`, `chi` (positions; chi infinite where t_max is 0), `capped`; the
    attribute `kappa`. bits: of a number of the model. Cost: `steps` forward and backward passes of n_targets
    rows for each pair of positions and length. The model is left as found. Raises ValueError, before any
    pass, for several prompts, one that is too short or too long for the context.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> prompt = interp.tasks.ioi(model, n=2, seed=0).clean[:1]
        >>> from interp.steering import methods
        >>> out = methods.attack_scaling(model, prompt, [1], [1], steps=3, n_targets=2, progress=False)
        >>> out["success"].dims
        ('positions', 'length', 'target')
    """
    require_next_tokens(model, "There is no text to dictate.", taught=True)
    rows, facts = read(model, prompt), anatomy(model)
    (where,) = places(facts, layer or 0, "resid_pre")
    n, room = int(rows.lengths[0]), vocabulary.context(model)
    counts, sizes = sorted(set(positions)), sorted(set(lengths))
    _require(rows, counts, sizes, n_targets, bits, room)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(counts), len(sizes), n_targets)
    out = {name: np.zeros(shape) for name in ("success", "random", "norm")}
    with tqdm(total=len(counts) * len(sizes), disable=not progress, desc="attack", unit="run") as bar:
        for j, t in enumerate(sizes):
            targets = torch.randint(vocabulary.size(model), (n_targets, t), generator=generator)
            whole = torch.cat((rows.tokens.cpu().expand(n_targets, -1)[:, :n], targets), 1).to(facts.device)
            run = _Run(model, str(where), whole, n)
            for i, a in enumerate(counts):
                P, scale = run.train(a, steps, float(lr), generator)
                out["success"][i, j] = run.success(P)
                out["random"][i, j] = run.success(random_like(P, generator))
                out["norm"][i, j] = (P.norm(dim=-1).amax(1) / scale).cpu().numpy()
                bar.update()
    t_max = _t_max(out["success"].mean(-1), sizes)
    a = np.array(counts, dtype=float)
    spent = a * facts.d_model * bits
    chi = np.divide(spent, t_max * math.log2(facts.d_vocab_out), out=np.full(len(a), np.inf), where=t_max > 0)
    variables = {name: (("positions", "length", "target"), values) for name, values in out.items()}
    variables |= {"t_max": (("positions",), t_max), "chi": (("positions",), chi)}
    variables |= {"capped": (("positions",), t_max == sizes[-1])}
    attrs = results.provenance(
        method="attack_scaling", convention="share of the target tokens that are the likeliest",
        model=facts.name, site=str(where), n_prompts=1, seed=seed, bits=bits, n_steps=steps,
        kappa=float((a * t_max).sum() / (a * a).sum()),
    )  # fmt: skip
    return results.dataset(variables, {"positions": counts, "length": sizes}, attrs)


def _require(
    rows: Prompts, counts: Sequence[int], sizes: Sequence[int], n_targets: int, bits: int, room: int | None
) -> None:
    """ValueError for what cannot be attacked."""
    if len(rows) != 1 or not counts or not sizes or counts[0] < 1 or sizes[0] < 1 or n_targets < 1:
        raise ValueError(
            f"there are {len(rows)} prompts, positions {counts}, lengths {sizes} and {n_targets} targets: "
            "give one prompt, and numbers of 1 or more."
        )
    n = int(rows.lengths[0])
    if counts[-1] > n or (room is not None and n + sizes[-1] > room):
        raise ValueError(
            f"the prompt has {n} tokens; it needs {counts[-1]} or more, and with {sizes[-1]} targets at most "
            f"{room} in all."
        )
    if bits < 1:
        raise ValueError(f"bits is {bits}; a number of the model has 1 or more.")


class _Run:
    """Targets behind one prompt, each row attacked by its own P."""

    def __init__(self, model: Model, where: str, whole: Int[Tensor, "target pos"], n: int) -> None:
        self.model, self.where, self.whole, self.n = model, where, whole, n

    def logits(self, P: Float[Tensor, "target a d"]) -> Tensor:
        """Of the target tokens, [target, t, vocab]."""

        def edit(h: Tensor) -> Tensor:
            rest = h.shape[1] - P.shape[1]
            return h + torch.nn.functional.pad(P.to(h), (0, 0, 0, rest))

        with steer(self.model, Intervention(self.where, edit)):
            return logits(self.model, self.whole)[:, self.n - 1 : -1]

    def train(
        self, a: int, steps: int, lr: float, generator: torch.Generator
    ) -> tuple[Float[Tensor, "target a d"], float]:
        """P, and the norm of the stream at the attacked positions, in which lr counts."""
        kept: list[Tensor] = []

        def keep(h: Tensor) -> Tensor:
            kept.append(h[:1, : self.n].detach())
            return h

        with torch.no_grad(), steer(self.model, Intervention(self.where, keep)):
            logits(self.model, self.whole)
        scale = float(kept[0].double().norm(dim=-1).median().clamp(min=1e-12))
        d = kept[0].shape[-1]
        unit = scale / d**0.5
        first = torch.randn(len(self.whole), a, d, generator=generator, dtype=torch.float64).to(kept[0]) * 0.1
        wanted = self.whole[:, self.n :]

        def loss(free: Mapping[str, Tensor]) -> Tensor:
            out = self.logits(unit * free["P"]).float()
            return torch.nn.functional.cross_entropy(out.flatten(0, 1), wanted.flatten())

        learnt, _ = learn({"P": first}, loss, steps=steps, lr=lr)
        return unit * learnt["P"], scale

    def success(self, P: Float[Tensor, "target a d"]) -> np.ndarray:
        """Share of the targets that are the likeliest, [target]."""
        with torch.no_grad():
            right = self.logits(P).argmax(-1) == self.whole[:, self.n :]
        return right.double().mean(1).cpu().numpy()


def _t_max(
    success: Float[np.ndarray, "positions length"], sizes: Sequence[int]
) -> Float[np.ndarray, "positions"]:
    """The largest length up to which every mean success is one half or more; 0 where none is."""
    held = np.logical_and.accumulate(success >= 0.5, axis=1)
    return (held * np.array(sizes, dtype=float)).max(1)
