"""Conditional activation steering, CAST (2409.05907): steer only the prompts that meet a condition.

1. A condition vector c at each layer, from prompts that meet the condition and prompts that do not.
2. Similarity of a prompt: the cosine of h and tanh(P h), where h is the mean activation of the prompt's
   tokens and P = c c' / |c|². For small h this is |cos(h, c)|: the sign of the projection is lost, which is
   why a condition can be "below" as well as "above".
3. The layer, the threshold and the side with the largest F1. Without a grid of thresholds, every threshold
   that tells two prompts apart is tried, so the F1 is the best there is; of equals, the widest gap.
4. At the prefill each row is judged once, and the decision is held while it is generated. Rows that do not
   meet the condition are those of the unsteered model, to the bit.

The F1 is that of the prompts on which the condition was fitted: use `decide` on others to test it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model
from interp.models.places import Layers
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._direction import Direction
from interp.steering.edits import Made, Number, add, finite
from interp.steering.extract import mean_difference
from interp.steering.gates import Gate

SIMILARITIES = ("tanh", "cosine")


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition vector at one place, and when it holds.

    below: it holds where the similarity is below the threshold. f1: on the prompts of the fit. by_place: the
    best F1 of every place that was tried.
    """

    direction: Direction
    threshold: float
    below: bool
    f1: float
    by_place: Mapping[Place, float]
    similarity: str = "tanh"
    __repr__ = brief

    def gate(self) -> Gate:
        """The condition as a gate, decided on the whole prompt and held for the row."""
        return Gate(self._holds, self.direction.place, "mean", f"condition at {self.direction.place}")

    def decide(self, model: Model, prompts: Any) -> Bool[Tensor, "prompt"]:
        """Which prompts meet the condition. Cost: a pass of each as far as the condition's place."""
        self.direction.check(model)
        return self._holds(activations(model, prompts, self.direction.place, "mean"))

    def _holds(self, h: Tensor) -> Tensor:
        value = similarity(h, self.direction.vector, self.similarity)
        return value < self.threshold if self.below else value > self.threshold


@verb
def cast(
    condition: Condition,
    behaviour: Direction,
    coefficient: Number = 1.0,
    *,
    unit: str = "vector",
    when: AnyPositions = everywhere,
) -> Made:
    """Add a behaviour vector to the rows that meet the condition, in `steer` or `generate`.

    The behaviour's places must come after the condition's; ValueError before any pass otherwise. unit: as in
    `steering.add`.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> condition = methods.cast_condition(model, up, down, layer=1)
        >>> len(methods.cast(condition, methods.caa(model, up, down, layer=2), 2.0))
        1
    """
    return add(behaviour, coefficient, unit=unit, when=when, gate=condition.gate())


@verb
def cast_condition(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    vectors: Direction | None = None,
    thresholds: Sequence[float] | None = None,
    kind: str = "tanh",
    batch_size: int | None = None,
) -> Condition:
    """A condition that holds on `positive` prompts and not on `negative` ones, by the largest F1.

    vectors: the condition vectors, of any extractor; by default mean differences of mean activations at
    `layer` (None: all). thresholds: a grid to choose from. kind: "tanh" (the paper's similarity) or "cosine"
    (with its sign).

    Raises ValueError, before any pass, for an empty class, a place that the model does not have, a grid that
    is empty or not finite; and where all similarities are equal. Cost: one pass of each prompt as far as the
    last layer, and one more if no vectors are given. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> condition = methods.cast_condition(model, up, down, layer=1)
        >>> 0 <= condition.f1 <= 1
        True
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"kind is {kind!r}; use 'tanh' or 'cosine'.")
    grid = None if thresholds is None else _grid(thresholds)
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    options: dict[str, Any] = {"layer": layer, "site": site, "pos": "mean", "batch_size": batch_size}
    found = mean_difference(model, up, down, **options) if vectors is None else vectors.check(model)
    found = found.require_any().at(
        *(where for where, c in found.vectors.items() if float(c.double().norm()) > 0)
    )
    on, off = (activations(model, p, found.places, "mean", batch_size=batch_size) for p in (up, down))
    best: dict[Place, tuple[float, float, float, bool]] = {}
    for where in found.places:
        high, low = (similarity(rows[where], found.vectors[where], kind) for rows in (on, off))
        best[where] = _best(high, low, grid)
    where = max(best, key=lambda each: best[each][:2])
    f1, _, threshold, below = best[where]
    by_place = {each: score[0] for each, score in best.items()}
    return Condition(found.at(where), threshold, below, f1, by_place, kind)


def similarity(
    h: Float[Tensor, "*any d"], c: Float[Tensor, "d"], kind: str = "tanh"
) -> Float[Tensor, "*any"]:
    """cos(h, tanh(P h)), or cos(h, c) for kind "cosine"; 0 where h is 0. In the dtype of h."""
    if float(c.double().norm()) == 0:
        raise ValueError("the condition vector is 0, so nothing is like it. Extract it at another layer.")
    unit = (c.double() / c.double().norm()).to(h)
    other = torch.tanh((h @ unit).unsqueeze(-1) * unit) if kind == "tanh" else unit.expand_as(h)
    return (h * other).sum(-1) / (h.norm(dim=-1) * other.norm(dim=-1)).clamp(min=1e-30)


@verb
def best_threshold(
    on: Float[Tensor, "n"], off: Float[Tensor, "m"], thresholds: Sequence[float] | None = None
) -> tuple[float, bool, float]:
    """The threshold, whether the condition is below it, and F1, for similarities that should be on and off.

    Without a grid, all midpoints between neighbouring values are tried. Pure. ValueError where all are equal.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> methods.best_threshold(torch.tensor([1.0, 0.75]), torch.tensor([0.0, 0.25]))
        (0.5, False, 1.0)
    """
    if not len(on) or not len(off):
        raise ValueError(f"on and off have {len(on)} and {len(off)} similarities; give some of each.")
    f1, _, threshold, below = _best(on, off, None if thresholds is None else _grid(thresholds))
    return threshold, below, f1


def _best(on: Tensor, off: Tensor, grid: Tensor | None) -> tuple[float, float, float, bool]:
    """F1, gap, threshold, below: the largest by F1, then by gap."""
    values = torch.cat((on, off)).double().unique()
    if len(values) < 2:
        raise ValueError(
            f"all similarities are {float(values[0]):.4g}: no threshold tells the prompts apart. Use another "
            "layer or other prompts."
        )
    cuts = (values[1:] + values[:-1]) / 2 if grid is None else grid.to(values)
    gaps = (cuts[:, None] - values).abs().amin(1)  # distance to the nearest value
    found = []
    for below in (False, True):
        f1 = _f1(on, off, cuts, below)
        best = max(range(len(cuts)), key=lambda i: (float(f1[i]), float(gaps[i])))
        found.append((float(f1[best]), float(gaps[best]), float(cuts[best]), below))
    return max(found, key=lambda each: each[:2])


def _f1(on: Tensor, off: Tensor, cuts: Tensor, below: bool) -> Float[Tensor, "cut"]:
    right, wrong = (
        (side.double()[:, None] < cuts if below else side.double()[:, None] > cuts).sum(0).double()
        for side in (on, off)
    )
    return 2 * right / (right + wrong + len(on))


def _grid(thresholds: Sequence[float]) -> Tensor:
    grid = torch.tensor(list(thresholds), dtype=torch.float64)
    if not len(grid):
        raise ValueError("thresholds is empty. Give at least one, or None to try all.")
    finite("thresholds", grid)
    return grid
