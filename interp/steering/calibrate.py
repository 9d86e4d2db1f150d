"""`calibrate`: the coefficient at which steering changes the next-token distribution by a given KL.

Coefficients mean nothing across layers, methods or models; effects are compared at equal KL.

1. From a small length, double the coefficient until the mean KL passes the target.
2. Between the last two, try eight coefficients at once (one batch), keep the interval in which the KL passes
   the target, and repeat until it is within the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.models import Model
from interp.steering.direction import Direction
from interp.steering.sweep import _by_layer, _Job, _reads
from interp.steering.when import When, everywhere
from interp.tasks.metrics import KL

_DOUBLINGS, _ROUNDS, _AT_ONCE = 40, 12, 8


@dataclass(frozen=True)
class Calibration:
    """The coefficient, and the mean KL that it gives on the prompts, in nats."""

    coefficient: float
    kl: float


def calibrate(
    model: Model,
    direction: Direction,
    prompts: Any,
    target_kl: float | int,
    *,
    sign: int = 1,
    when: When = everywhere,
    tolerance: float = 0.002,
) -> Calibration:
    """The smallest coefficient found whose mean KL(unsteered ‖ steered) is `target_kl` nats.

    KL is that of the next token after each prompt (at the answer position of a Task). sign: 1 or -1, which
    way to steer. tolerance: relative. The direction has one place. Cost: about 40 steered passes of each
    prompt from the steered layer on. Raises ValueError for a target that no coefficient reaches.
    """
    if not 0 < target_kl < float("inf"):
        raise ValueError(f"target_kl is {target_kl}; it must be finite and above 0 (coefficient 0 gives 0).")
    if sign not in (1, -1):
        raise ValueError(f"sign is {sign}; use 1 or -1.")
    parts = _by_layer(model, direction, [0.0])
    if len(parts) != 1:
        raise ValueError(
            f"calibrate takes a direction with one place, this has {len(parts)}. Use direction.split()."
        )
    length = parts[0].vector.double().norm().item()
    if length == 0:
        raise ValueError("the direction is 0: no coefficient changes anything.")
    reads = _reads(model, prompts, None, None, [KL()])
    run = _Job(model, parts, [0.0], None, when).runner(reads)

    def kl(steps: list[float]) -> Tensor:
        job = _Job(model, parts, [sign * step for step in steps], None, when)
        return torch.from_numpy(job.measure(run, reads, parts, lambda n: None))[0, :, :, 0].mean(1)

    low, high = _bracket(kl, float(target_kl), 1e-2 / length)
    for _ in range(_ROUNDS):
        steps = torch.linspace(low, high, _AT_ONCE, dtype=torch.float64).tolist()
        found = kl(steps)
        near = int((found - target_kl).abs().argmin())
        if abs(float(found[near]) - target_kl) <= tolerance * target_kl:
            return Calibration(sign * steps[near], float(found[near]))
        over = int((found >= target_kl).int().argmax())
        low, high = steps[max(over - 1, 0)], steps[over]
    raise ValueError(
        f"the KL jumps over {target_kl} near coefficient {sign * high:.4g}. Choose another target."
    )


def _bracket(kl: Any, target: float, first: float) -> tuple[float, float]:
    """Two coefficients between which the KL passes the target."""
    low, high, most = 0.0, first, 0.0
    for _ in range(0, _DOUBLINGS, _AT_ONCE):
        steps = [high * 2**i for i in range(_AT_ONCE)]
        found = kl(steps).tolist()
        for step, value in zip(steps, found):
            if value >= target:
                return low, step
            low, most = step, max(most, value)
        high = steps[-1] * 2
    raise ValueError(
        f"no coefficient up to {low:.3g} reaches a KL of {target}; the largest KL was {most:.3g}."
    )
