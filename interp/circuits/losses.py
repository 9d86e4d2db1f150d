"""The mean metric of batches of circuits over all prompts, each batch as changes to the circuit so far."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.job import Job, batch_reach, planned_room, planned_values, rebased, values
from interp.circuits.state import Base, State

_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}  # of the stream in a batch: beyond, a larger batch is no faster
_MOST = 256


class Losses:
    """All prompts stay in memory, block by block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.bases = [base for _, base in job.bases()]
        self.sign = -1.0 if job.metric.better == "higher" else 1.0
        self.clean = self._mean([base.values[None] for base in self.bases])[0]

    @property
    def limit(self) -> int:
        """Rows beyond which a batch is no faster."""
        each = sum(base.pre[0].numel() for base in self.bases)
        most = _ELEMENTS.get(self.bases[0].pre[0].device.type, 2**24) // each
        return max(8, min(most, _MOST))

    def loss(self, value: float) -> float:
        """Lower is better."""
        return self.sign * value

    def __call__(
        self, masks: Bool[np.ndarray, "circuit writer reader"], now: Bool[np.ndarray, "writer reader"]
    ) -> list[float]:
        """The metric of each mask; all of them keep no edge that `now` has cut."""
        device = self.bases[0].pre[0].device
        rows, start = torch.from_numpy(masks).to(device), torch.from_numpy(now.copy()).to(device)
        return self._mean([self._values(base, rows, start) for base in self.bases])

    def _values(self, base: Base, masks: Tensor, now: Tensor) -> Tensor:
        state = self._state(base, now)
        plan = batch_reach(base, state, masks, True)
        size = planned_room(base, plan, self.job.budget)
        if size >= len(masks):
            return planned_values(base, state, masks, plan)
        return torch.cat([values(base, state, some) for some in masks.split(size)])

    def _state(self, base: Base, now: Tensor) -> State:
        return base.full if torch.equal(now, base.full.mask) else rebased(base, now)

    def _mean(self, parts: list[Tensor]) -> list[float]:
        return torch.cat(parts, 1).mean(1).tolist()
