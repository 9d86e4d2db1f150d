"""Attention scores and patterns from queries and keys, outside the model.

For methods that change a query or a key alone. The model's own pattern is the check: where the two differ,
the architecture has a step that is not known here, and nothing is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine import block as B
from interp.models import Anatomy, Model, attentions
from interp.models.parts import Attention

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}  # norms inside a bridge compute in float32
_LEAST = {torch.float64: 1e-30, torch.float32: 1e-30}  # weights below it are rounding; softmax is in float32


@dataclass(frozen=True, eq=False)
class Scoring:
    """The attention of one layer. `shared_norm` is True where heads read one another's queries and keys."""

    attn: Attention
    layer: int

    @property
    def shared_norm(self) -> bool:
        return self.attn.whole_norm and self.attn.q_norm is not None

    def scores(
        self, q: Float[Tensor, "prompt pos head d_head"], k: Float[Tensor, "prompt pos kv d_head"]
    ) -> Float[Tensor, "prompt head dst src"]:
        """Masked scores, -inf where hidden, from what hook_q and hook_k see."""
        q = B.finish_runs(self.attn, q, self.attn.q_norm)
        k = B.finish_runs(self.attn, k, self.attn.k_norm)
        return B.scores(self.attn, q, k, torch.arange(q.shape[1], device=q.device))

    def check(self, q: Tensor, k: Tensor, pattern: Tensor) -> None:
        """Raise ValueError unless q and k give the model's own pattern, and its logarithm.

        Where a head attends to one token alone, the weights of the others are all but 0, and only their
        logarithms tell how far its scores lie apart.
        """
        with torch.no_grad():
            scores = self.scores(q, k)
            gap = float((scores.softmax(-1) - pattern).abs().max())
            ours, theirs = scores.double().log_softmax(-1), pattern.double().log()
            seen = pattern > _LEAST.get(pattern.dtype, 1e-3)
            apart = ((ours - theirs).abs() / (1 + ours.abs()))[seen]
        tolerance = _TOLERANCE.get(pattern.dtype, 0.05)
        if not (gap <= tolerance and float(apart.max()) <= 10 * tolerance):
            gap = max(gap, float(apart.max()))
            raise ValueError(
                f"layer {self.layer}: the pattern computed from queries and keys differs from the model's by "
                f"{gap:.2g}. This attention has a step that is not known here; use a method that needs only "
                "slopes (atp, ig, relp)."
            )


def scorings(model: Model, facts: Anatomy) -> tuple[Scoring, ...]:
    """The attention of every layer. ValueError for a model whose attention is not laid out as expected."""
    if not facts.causal:
        raise ValueError("the model's attention is not causal: its patterns cannot be computed here.")
    try:
        return tuple(Scoring(attn, layer) for layer, attn in enumerate(attentions(model)))
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the model's attention weights are not laid out as expected ({error}). Use a method that needs "
            "only slopes (atp, ig, relp)."
        ) from error
