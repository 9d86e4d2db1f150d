"""Attention scores raised on chosen source positions: InstABoost (2506.13734).

Multiplying the attention that goes to an instruction by M and normalising again equals adding log M to its
scores before the softmax: exp(s + log M) = M · exp(s).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from interp.steering.edits import Edit
from interp.steering.frame import Frame
from interp.steering.when import When


@dataclass(frozen=True, eq=False)
class ScoreBias(Edit):
    """Scores [row, head, dst, src] + bias on the sources in `source`, a set of absolute positions."""

    source: When
    bias: float | int
    point = "attn_scores"

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError("score_bias depends on positions, so it needs a running pass: use it in steer.")

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        sources = self.source(frame.keys)  # [row, src]
        return h + self.bias * sources[:, None, None].to(h.dtype)
