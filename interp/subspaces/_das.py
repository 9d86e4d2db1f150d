"""Distributed alignment search: learn the subspace in which a model keeps a causal variable.

1. Pairs of prompts (own, source) with the answer that exchanging the variable would give (`_pairs.py`).
2. Run the model on `own` with h + ((h_source - h) B) Bᵀ at a place, B orthonormal; lower the cross-entropy of
   the expected answer among the choices (`_search.py`). Only the layers above the place are run, from the
   first position that changes; the model is left as found.
3. Interchange accuracy on further pairs, beside controls (`_controls.py`).

A subspace that a search can find for shuffled answers, or in a model that has learnt nothing, says nothing:
report the margin over the best control.

Geiger et al. 2303.02536; Mueller et al. 2504.13151 (the causal-variable track of MIB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.experiment import Budget
from interp.models import Model, anatomy
from interp.models.places import place as read_place
from interp.models.places import width
from interp.places import Place
from interp.positions import AnyPositions
from interp.subspaces._controls import CONTROLS, NULLS, Settings, control, random_model
from interp.subspaces._pairs import Pairs, split
from interp.subspaces._search import FEATURISERS, LEAST
from interp.subspaces._stage import Exchange, Stage, table
from interp.subspaces._subspace import Subspace
from interp.tasks import Task
from interp.tasks._variables import variable as variable_of


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found: the subspace, its figures beside the controls', and the loss as it fell.

    table: `accuracy` on the test pairs over "none", "whole", "subspace" and the controls. losses: mean nats
    on the pairs held out for stopping, an epoch each. projection: every prompt along the first two principal
    axes within the subspace, with the variable's value as `level` (of a span, at its first position).
    dropped: prompts that the model answers wrongly.
    """

    subspace: Subspace
    table: xr.Dataset
    losses: tuple[float, ...]
    projection: xr.Dataset
    dropped: int

    @property
    def accuracy(self) -> float:
        """Interchange accuracy on the test pairs."""
        return float(self.table["raw"].sel(exchange="subspace").mean())

    @property
    def selectivity(self) -> float:
        """Accuracy less that of the best null of random, norm_matched, shuffled, random_model; NaN without.

        Principal components and the mean difference are no null: they may find what is there as well.
        """
        others = [name for name in NULLS if name in self.table["exchange"].values]
        best = self.table["raw"].sel(exchange=others).mean("pair").max() if others else np.nan
        return self.accuracy - float(best)

    def __str__(self) -> str:
        means = self.table["raw"].mean("pair")
        parts = [f"{name} {float(means.sel(exchange=name)):.2f}" for name in self.table["exchange"].values]
        return (
            f"{self.table.attrs['variable']} at {self.subspace.place}, rank {self.subspace.rank}: "
            f"interchange accuracy on {self.table.sizes['pair']} held-out pairs: {', '.join(map(str, parts))}"
        )


@verb
def das(
    model: Model,
    task: Task,
    variable: str,
    place: str | Place,
    pos: AnyPositions = "last",
    *,
    rank: int | None = None,
    featuriser: str = "das",
    l1: float | int = 1e-3,
    controls: Sequence[str] = CONTROLS,
    n_pairs: int = 512,
    steps: int | None = None,
    lr: float | int = 1e-2,
    seed: int = 0,
    engine: str = "auto",
    progress: bool = True,
) -> Found:
    """The subspace of some rank at a place that best carries a causal variable of the task.

    variable: one of `task.variables`. place: "L3.resid_pre", "L3H2", "L3.post", ...; pos: one position, or
    the name of a span. featuriser, as MIB names them: "das", a basis of `rank` directions (1 by default);
    "dbm", which of the site's own coordinates (neurons, of "L3.post"), as many as it finds at a price of `l1`
    nats each; "dbm+pca", which of its principal components; and "flow", das after two invertible coupling
    layers, which fits much: a model drawn anew is always among its controls. controls: which of random,
    norm_matched, shuffled, random_model, pca, mean_difference. n_pairs: to learn from; half as many to stop
    by and to measure on. steps: at most; by default 20 epochs or 200 steps, whichever is more, and less where
    the held-out loss stops falling.

    Returns `Found`: subspace, table, losses. The same seed gives the same.

    Cost: a forward of the prompts, then for each step a forward and backward of the layers above the place on
    128 pairs; once more with "shuffled", and once more with "random_model" (which exchanges the model's
    weights for others in place, and puts them back). Raises ValueError for unknown variables, controls and
    featurisers, a rank that does not fit, prompts that do not make pairs; before the first step.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=32, template=0)
        >>> found = interp.subspaces.das(
        ...     model, task, "output_position", "L2.resid_pre", "end", n_pairs=64, steps=8, progress=False)
        >>> found.subspace.rank, found.table["raw"].dims
        (1, ('pair', 'exchange'))
    """
    Budget(engine=engine, progress=progress)
    search = _Search.of(rank, featuriser, l1=l1, controls=controls, steps=steps, lr=lr, seed=seed)
    stage = Stage.of(model, task, place, pos, engine)
    search.check(stage, variable)
    with tqdm(total=search.passes, disable=not progress, desc="das", unit="step") as bar:
        return search.run(stage, *search.pairs(stage, variable, n_pairs), bar.update)


@verb
def scan(
    model: Model,
    task: Task,
    variable: str,
    places: Iterable[str | Place],
    pos: str | int | Sequence[str | int] = "last",
    *,
    rank: int | None = None,
    featuriser: str = "das",
    l1: float | int = 1e-3,
    controls: Sequence[str] = ("random", "shuffled"),
    n_pairs: int = 512,
    steps: int | None = None,
    lr: float | int = 1e-2,
    seed: int = 0,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """`das` at every place and position: where the variable is, and where it is not.

    places: such as [f"L{i}.resid_pre" for i in range(4)], all of one site. pos: positions or names of spans.

    Returns a Dataset with dims layer, pos (of one head a layer, the same): `raw` the interchange accuracy on
    test pairs, `value` = raw less the best control, `control`, `none` and `whole` the accuracies of the best
    control, of no exchange and of the whole site.

    Cost: that of `das` for every cell. Raises what `das` raises, and ValueError for places of several sites.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=32, template=0)
        >>> result = interp.subspaces.scan(
        ...     model, task, "output_position", ["L1.resid_pre", "L2.resid_pre"], ["s2", "end"],
        ...     n_pairs=32, steps=2, progress=False)
        >>> result["value"].dims, result["value"].shape
        (('layer', 'pos'), (2, 2))
    """
    Budget(engine=engine, progress=progress)
    facts = anatomy(model)
    spots = [read_place(each, facts) for each in places]
    kinds = {(spot.site, spot.head) for spot in spots}
    if len(kinds) != 1:
        raise ValueError(f"places are of {len(kinds)} sites or heads; scan one of them, layer by layer.")
    where = [pos] if isinstance(pos, (str, int)) else list(pos)
    if not where:
        raise ValueError("pos is empty; give positions, or names of spans.")
    search = _Search.of(rank, featuriser, l1=l1, controls=controls, steps=steps, lr=lr, seed=seed)
    stages = [[Stage.of(model, task, spot, each, engine) for each in where] for spot in spots]
    for row in stages:
        for stage in row:
            search.check(stage, variable)
    total = search.passes * len(spots) * len(where)
    with tqdm(total=total, disable=not progress, desc="das", unit="step") as bar:
        drawn = search.pairs(stages[0][0], variable, n_pairs)  # the same for every place
        found = [[search.run(stage, *drawn, bar.update) for stage in row] for row in stages]
    return _grid(found, [spot.layer or 0 for spot in spots], [str(each) for each in where])


@dataclass(frozen=True, eq=False)
class _Search:
    """A search, at one place or at many."""

    settings: Settings

    @classmethod
    def of(cls, rank: int | None, featuriser: str, **others: Any) -> _Search:
        """Checked; no forward pass. ValueError for what does not fit."""
        if featuriser not in FEATURISERS:
            raise ValueError(f"featuriser {featuriser!r} is not one of {', '.join(FEATURISERS)}.")
        gated = featuriser.startswith("dbm")
        if gated and rank is not None:
            raise ValueError(
                f"rank is {rank}, but {featuriser} finds how many directions it needs; leave rank out, and "
                "raise l1 for fewer."
            )
        controls = tuple(others.pop("controls"))
        unknown = [each for each in controls if each not in CONTROLS]
        if unknown:
            raise ValueError(f"control {unknown[0]!r} is not one of {', '.join(CONTROLS)}.")
        if featuriser == "flow" and "random_model" not in controls:
            controls += ("random_model",)  # it fits that too
        if others["steps"] is not None:
            _checked(others["steps"], "steps")
        for name, least in (("lr", "a positive number"), ("l1", "0 or a positive number")):
            if not (others[name] > 0 or (name == "l1" and others[name] == 0)):
                raise ValueError(f"{name} is {others[name]!r}; give {least}.")
        number = None if gated else _checked(1 if rank is None else rank, "rank")
        return cls(Settings(number, featuriser, controls=controls, **others))

    @property
    def passes(self) -> int:
        again = {"shuffled", "random_model"} & set(self.settings.controls)
        return (self.settings.steps or LEAST) * (1 + len(again))

    def check(self, stage: Stage, name: str) -> None:
        """ValueError for what does not fit; no forward pass."""
        variable_of(stage.task.variables, name)
        size, rank = width(stage.where, anatomy(stage.model)), self.settings.rank
        if rank is not None and rank > size:
            raise ValueError(f"rank is {rank}, and the activation at {stage.where} has {size} dimensions.")

    def pairs(self, stage: Stage, name: str, n_pairs: int) -> tuple[dict[str, Pairs], int]:
        """Pairs of the prompts that the model answers, whatever the place, and how many prompts it does not.

        Cost: a forward of the prompts.
        """
        solved = stage.solved()
        return split(stage.task, name, solved, n_pairs, self.settings.seed), int((~solved).sum())

    def run(
        self, stage: Stage, parts: dict[str, Pairs], dropped: int, tick: Callable[[int], object]
    ) -> Found:
        settings = self.settings
        subspace, losses = settings.fit(stage, parts["train"], parts["stop"], tick)
        exchanges: dict[str, Exchange] = {"subspace": subspace.exchange}
        for name in settings.controls:
            if name != "random_model":
                exchanges[name] = control(name, settings, stage, parts, subspace, tick)
        wanted = "random_model" in settings.controls
        others = {"random_model": random_model(settings, stage, parts, tick)} if wanted else None
        own = {"rank": subspace.rank, "featuriser": settings.featuriser}
        judged = table(stage, parts["test"], exchanges, others, **own)
        return Found(subspace, judged, losses, _projection(stage, subspace, judged), dropped)


def _projection(stage: Stage, subspace: Subspace, judged: xr.Dataset) -> xr.Dataset:
    """The prompts along the first two principal axes within the subspace."""
    h = stage.values[:, 0].double()
    flow, B = subspace.flow, subspace.basis.to(h)
    inside = h @ B if flow is None else flow(h.to(stage.values))[:, : subspace.rank].double()
    U, sizes, _ = torch.linalg.svd(inside - inside.mean(0), full_matrices=False)
    variable = stage.task.variables[str(judged.attrs["variable"])]
    levels = np.array([variable.levels[value] for value in variable.values.tolist()], dtype=object)
    n = min(2, len(sizes))
    return results.dataset(
        {
            "value": (("prompt", "direction"), (U * sizes)[:, :n].cpu().numpy()),
            "share": (("direction",), (sizes**2 / (sizes**2).sum())[:n].cpu().numpy()),
        },
        {"direction": np.arange(1, n + 1), "level": ("prompt", levels)},
        judged.attrs
        | {"method": "projection", "convention": "value = coordinate, less the mean", "unit": "none"},
        stage.task,
    )


def _checked(value: object, name: str) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least 1.")
    return int(value)


def _grid(found: list[list[Found]], layers: list[int], positions: list[str]) -> xr.Dataset:
    """Accuracies by layer and position."""

    def by_cell(of: Callable[[Found], float]) -> tuple[tuple[str, str], np.ndarray]:
        return ("layer", "pos"), np.array([[of(each) for each in row] for row in found])

    def accuracy(name: str) -> Callable[[Found], float]:
        return lambda each: float(each.table["raw"].sel(exchange=name).mean())

    first = found[0][0].table.attrs
    attrs = first | {
        "method": "das",
        "convention": "value = interchange accuracy - of the best null; positive: the variable is there",
        "site": found[0][0].subspace.place.site,
    }
    return results.dataset(
        {
            "value": by_cell(lambda each: each.selectivity),
            "raw": by_cell(lambda each: each.accuracy),
            "control": by_cell(lambda each: each.accuracy - each.selectivity),
            "none": by_cell(accuracy("none")),
            "whole": by_cell(accuracy("whole")),
        },
        {"layer": layers, "pos": positions},
        attrs,
    )
