"""Bias mitigation: a probe at every layer, then a direction at the best one (Dubey, 2508.09019).

1. `probe_sweep`: at each layer, a logistic probe tells biased from neutral prompts; its balanced accuracy is
   measured on prompts that it was not fitted to, fold by fold. The control is the same with shuffled labels.
2. `bias_direction`: at the layer with the best accuracy, v = mean(biased) − mean(neutral).
3. `steering.add(v, -α)` moves the stream from biased to neutral.

Sign: v goes from neutral to biased; mitigation subtracts it. Units: accuracy is a share, chance 0.5; v has
those of the activations. That a probe reads a layer does not show that the model uses what it reads there:
the effect of the direction has to be measured (`steering.sweep`, with its controls).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.steering._direction import Direction
from interp.steering.estimators import logistic_probe
from interp.steering.extract import mean_difference


@verb
def probe_sweep(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    folds: int = 4,
    l2: float | int = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
) -> xr.Dataset:
    """`accuracy` and `shuffled` (layer, fold): balanced accuracy of a linear probe on the fold's prompts.

    A prompt that stands several times is in one fold only. Where both classes have as many prompts, row i of
    the two is taken for a pair, and stays together: a probe tested on the counterparts of what it was fitted
    to would fall below chance. `shuffled`: the labels are drawn anew before the probe is fitted and measured.
    l2: as in `estimators.logistic`.

    Cost: one forward pass of each prompt as far as the last layer, and 2 · layers · folds probes. Raises
    ValueError, before any pass, for fewer distinct prompts in a class than folds, fewer than two folds,
    pos="all", a place that the model does not have. Paper: 2508.09019.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> methods.probe_sweep(model, up, down, folds=2)["accuracy"].dims
        ('layer', 'fold')
    """
    wanted = places(anatomy(model), layer, site)
    sides = read(model, positive, what="positive"), read(model, negative, what="negative")
    if pos == "all":
        raise ValueError("pos is 'all'; a probe has one row a prompt. Use 'last', 'mean' or a position.")
    for side in sides:
        weights(pos, side)
    fold = _folds(sides, folds, seed)
    label = torch.cat((torch.ones(len(sides[0])), torch.zeros(len(sides[1])))).bool()
    drawn = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))]
    found = [activations(model, side, wanted, pos, batch_size=batch_size) for side in sides]
    rows = [torch.cat([part[where] for part in found]).flatten(1).cpu() for where in wanted]
    attrs = results.provenance(
        method="probe_sweep",
        convention="balanced accuracy on held-out prompts; chance is 0.5",
        model=anatomy(model).name,
        site=site,
        n_prompts=len(label),
        seed=seed,
    )
    variables = {
        name: (("layer", "fold"), np.array([_accuracies(each, labels, fold, l2) for each in rows]))
        for name, labels in (("accuracy", label), ("shuffled", drawn))
    }
    coords = {"layer": [where.layer for where in wanted], "fold": np.arange(folds)}
    return results.dataset(variables, coords, attrs | {"unit": "share"})


@verb
def bias_direction(
    model: Model,
    biased: Any,
    neutral: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    folds: int = 4,
    seed: int = 0,
    batch_size: int | None = None,
) -> tuple[Direction, xr.Dataset]:
    """The mean difference at the layer whose probe is best, and the sweep of probes that chose the layer.

    Where several layers are equally good the first is taken. Add the direction with a negative coefficient.
    Cost and errors: those of `probe_sweep`, and a second forward pass of each prompt. Paper: 2508.09019.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> d, probes = methods.bias_direction(model, up, down, layer=[1, 2], folds=2)
        >>> d.method
        'mean_difference'
    """
    read_at: dict[str, Any] = {"site": site, "pos": pos, "seed": seed, "batch_size": batch_size}
    probes = probe_sweep(model, biased, neutral, layer=layer, folds=folds, **read_at)
    mean = probes["accuracy"].mean("fold")
    best = int(probes["layer"][int(mean.argmax("layer"))])
    return mean_difference(model, biased, neutral, layer=best, **read_at), probes


def _folds(sides: tuple[Prompts, Prompts], folds: int, seed: int) -> Int[Tensor, "row"]:
    """The fold of every row; the groups of each class are spread evenly."""
    if folds < 2:
        raise ValueError(f"folds is {folds}; use 2 or more, so that some prompts are held out.")
    group = _groups(sides)
    up, down = set(group[: len(sides[0])]), set(group[len(sides[0]) :])
    for name, members in (("positive", up), ("negative", down)):
        if len(members) < folds:
            raise ValueError(
                f"the {name} class has {len(members)} distinct prompts for {folds} folds. Give more prompts, "
                "or lower folds."
            )
    generator, fold = torch.Generator().manual_seed(seed), {}
    for members in (up & down, up - down, down - up):
        order = torch.randperm(len(members), generator=generator) % folds
        fold |= dict(zip(sorted(members), order.tolist()))
    return torch.tensor([fold[each] for each in group])


def _groups(sides: tuple[Prompts, Prompts]) -> list[int]:
    """A number for every row, the same for equal prompts and, with as many in both classes, for a pair."""
    keys = [tuple(row[:n]) for side in sides for row, n in zip(side.tokens.tolist(), side.lengths.tolist())]
    parent, first, n = list(range(len(keys))), {}, len(sides[0])

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, key in enumerate(keys):
        parent[root(i)] = root(first.setdefault(key, i))
        if n == len(sides[1]) and i >= n:
            parent[root(i)] = root(i - n)
    return [root(i) for i in range(len(keys))]


def _accuracies(
    rows: Float[Tensor, "row d"], label: Tensor, fold: Int[Tensor, "row"], l2: float | int
) -> list[float]:
    """Balanced accuracy on each fold of a probe fitted to the others."""
    out = []
    for number in range(int(fold.max()) + 1):
        test = fold == number
        w, b = logistic_probe(rows[~test & label], rows[~test & ~label], l2)
        score = rows[test].double() @ w + b
        sides = [(score[label[test]] > 0).double(), (score[~label[test]] <= 0).double()]
        out.append(torch.stack([side.mean() for side in sides if len(side)]).mean().item())
    return out
