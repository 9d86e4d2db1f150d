"""LinEAS: affine maps at all places learned together, by how whole distributions come out (2503.10679).

1. A map at every place: T(z) = w z + b by unit, at first the identity.
2. The source prompts run with all maps in force. At every place and unit, the squared Wasserstein distance of
   the steered source's samples and the target's: both sorted over *samples*, and compared rank by rank. (A
   sort over features compares another thing, and is a fault seen in a public port.)
3. Loss: the sum over places and units, plus penalty (l1 (|w - 1|_1 + |b|_1) + group sqrt(d) (|w - 1|_2 +
   |b|_2)), the sum over places. The first makes single units exactly the identity, the second whole places.
4. A gradient step on the distances, then the penalty's proximal map: soft threshold, then shrinkage of each
   place. The step width falls as a cosine; a step after which the loss is higher is undone and the width
   halved, one after which it is not widens the next by a tenth.

Derived from the paper's text, not its code. Ours: units count in standard deviations of their own (of both
sides), in the loss as in b; all samples at once; undone steps. Strength s gives h + s (T(h) - h); 0 is the
model to the bit. `linear_act` is the closed form, one place after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.places import Place
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.steering._direction import found_on
from interp.steering._intervention import Intervention
from interp.steering._steer import steer
from interp.steering.edits import Number
from interp.steering.estimators import nonnegative
from interp.steering.methods._linear_act import LinearAct, _ordered, coupling

Changes = dict[Place, Tensor]  # [2, unit]: w - 1, and b in standard deviations about the source's mean


@verb
def lineas(
    model: Model,
    source: Any,
    target: Any,
    sites: str | Place | Sequence[str] | Sequence[Place],
    *,
    penalty: Number = 0.0,
    l1: Number = 1.0,
    group: Number = 1.0,
    pos: AnyPositions = "mean",
    steps: int = 200,
    lr: Number = 0.1,
) -> LinearAct:
    """Maps by place that take the source's distribution to the target's (prompts each; they need no pairs).

    sites and pos: as in `linear_act`. penalty: 0 for none; the larger, the more units and places are left
    exactly as they are. `losses` of the result holds the loss before each step. About 32 prompts a side are
    enough for the paper. Raises ValueError, before any pass, for what `linear_act` refuses, a negative
    penalty, fewer than one step; and, with the step, for a loss that is not finite. Cost: a forward pass of
    each target prompt, and `steps` forward and backward passes of all source prompts at once. The model is
    left as found; its parameters get no gradient.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> act = methods.lineas(model, task.clean[:4], task.clean[4:], "L1.resid_post", steps=5)
        >>> act.losses[-1] < act.losses[0], len(act.steer(0.5))
        (True, 1)
    """
    wanted = _ordered(model, [sites] if isinstance(sites, (str, Place)) else list(sites))
    for name, value in (("penalty", penalty), ("l1", l1), ("group", group)):
        nonnegative(name, value)
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps is {steps} and lr is {lr}; give a step or more and a width above 0.")
    start, end = read(model, source, what="source"), read(model, target, what="target")
    anatomy(model).require_one_batch(start.lengths)
    shares = weights(pos, start)
    goal = activations(model, end, wanted, pos)
    plain = activations(model, start, wanted, pos)
    frames = {where: _frame(plain[where], goal[where]) for where in wanted}
    sharpness = (float(penalty * l1), float(penalty * group))
    run = partial(_distance, model, start, (shares, pos == "all"), goal, frames)
    still = {w: goal[w].new_zeros(2, goal[w].shape[1]) for w in wanted}
    changes, losses = _descend(run, still, steps, lr, sharpness)
    scale, shift = {}, {}
    for where, (turn, step) in changes.items():
        middle, spread = frames[where]
        scale[where], shift[where] = 1 + turn, spread * step - turn * middle
    return LinearAct(scale, shift, tuple(losses), found_on(model))


def _frame(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The source's mean and a standard deviation of both sides, by unit; a dead unit has the smallest."""
    spread = torch.cat((source - source.mean(0), target - target.mean(0))).square().mean(0).sqrt()
    gap = (target.mean(0) - source.mean(0)).abs()
    return source.mean(0), (spread + gap).clamp(min=1e-6 * float((spread + gap).amax().clamp(min=1e-30)))


def _distance(
    model: Model,
    start: Prompts,
    read_at: tuple[Tensor, bool],
    goal: Mapping[Place, Tensor],
    frames: Mapping[Place, tuple[Tensor, Tensor]],
    changes: Changes,
) -> Tensor:
    """Sum over places and units of W2 squared, in standard deviations, of the source under all maps."""
    kept: dict[Place, Tensor] = {}

    def mapped(h: Tensor, where: Place) -> Tensor:
        (turn, step), (middle, spread) = changes[where], frames[where]
        kept[where] = h + (h - middle) * turn + spread * step
        return kept[where]

    made = [Intervention(where, partial(mapped, where=where)) for where in changes]
    with steer(model, *made, prompt_length=start.lengths):
        logits(model, start.tokens)
    total = torch.zeros((), dtype=torch.float64)
    for where, h in kept.items():
        share, every = read_at
        share = share[:, : h.shape[1]]
        rows = h[share > 0] if every else torch.einsum("np,npd->nd", share.to(h), h)
        total = total + _marginal(rows / frames[where][1], goal[where] / frames[where][1]).double().cpu()
    return total


def _marginal(rows: Tensor, goal: Tensor) -> Tensor:
    """Sum over units of W2 squared: each unit sorted over samples."""
    i, j, share = (each.to(rows.device) for each in coupling(len(rows), len(goal)))
    gap = rows.sort(0).values[i] - goal.to(rows).sort(0).values[j]
    return (share.to(rows)[:, None] * gap.square()).sum()


def _descend(
    distance: Any, changes: Changes, steps: int, lr: float, sharpness: tuple[float, float]
) -> tuple[Changes, list[float]]:
    """Proximal gradient descent that takes back a step after which the loss is higher."""
    losses: list[float] = []
    best, slopes, least, shrink = changes, changes, math.inf, 1.0
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(steps + 1):
            free = {where: each.detach().clone().requires_grad_(True) for where, each in changes.items()}
            value = distance(free)
            whole = float(value.detach()) + _penalty(free, sharpness)
            if not math.isfinite(whole) and step == 0:
                raise ValueError(
                    f"the loss is {whole} at step 0: the activations of the model are not finite."
                )
            if whole <= least:
                best, least = {w: each.detach() for w, each in free.items()}, whole
                slopes, shrink = (
                    dict(zip(free, torch.autograd.grad(value, list(free.values())))),
                    1.1 * shrink,
                )
            else:
                shrink /= 2
            losses.append(least)
            width = lr * shrink * (1 + math.cos(math.pi * step / (steps + 1))) / 2
            changes = {w: _prox(best[w] - width * slopes[w], width, sharpness) for w in best}
    return best, losses


def _prox(change: Tensor, width: float, sharpness: tuple[float, float]) -> Tensor:
    """Soft threshold of every entry, then shrinkage of each of the two rows [2, unit] as a group."""
    l1, group = sharpness
    soft = change.sign() * (change.abs() - width * l1).clamp(min=0)
    norm = soft.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return soft * (1 - width * group * math.sqrt(change.shape[1]) / norm).clamp(min=0)


def _penalty(changes: Changes, sharpness: tuple[float, float]) -> float:
    l1, group = sharpness
    return sum(
        l1 * float(each.detach().abs().sum())
        + group * math.sqrt(each.shape[1]) * float(each.detach().norm(dim=1).sum())
        for each in changes.values()
    )
