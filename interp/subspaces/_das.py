"""Distributed alignment search: learn the subspace in which a model keeps a causal variable.

1. Pairs of prompts (own, source) with the answer that exchanging the variable would give (`_pairs.py`).
2. An orthonormal basis B of some rank at a place; B is the QR of a free matrix, so that it stays orthonormal.
3. Run the model on `own` with h + ((h_source - h) B) Bᵀ at the place; Adam on the free matrix lowers the
   cross-entropy of the expected answer among the choices, until it stops falling on pairs held out for that.
   Only the layers above the place are run; the model is left as found.
4. Interchange accuracy on further pairs, beside controls: random directions; random ones that move the
   activation as far; the same search for answers that were shuffled; and beside simpler bases: principal
   components, differences of the means.

A subspace that a search can find for shuffled answers says nothing: report the margin over the best control.

Geiger et al. 2303.02536; Mueller et al. 2504.13151 (the causal-variable track of MIB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.experiment import Budget
from interp.models import Model, anatomy
from interp.models.places import place as read_place
from interp.models.places import width
from interp.places import Place
from interp.positions import AnyPositions
from interp.subspaces._pairs import Pairs, split
from interp.subspaces._stage import Exchange, Stage, table
from interp.subspaces._subspace import Flow, Subspace, orthonormal
from interp.tasks import Task
from interp.tasks._variables import variable as variable_of

FEATURISERS = ("linear", "flow")
NULLS = ("random", "norm_matched", "shuffled")  # what would find a variable that is not there
CONTROLS = (*NULLS, "pca", "mean_difference")
_BATCH, _LEAST, _EPOCHS, _PATIENCE, _ROUND = 128, 200, 20, 3, 10
_FLOW_LAYERS = 2


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found: the subspace, its figures beside the controls', and the loss as it fell.

    table: `accuracy` on the test pairs over "none", "whole", "subspace" and the controls. losses: mean nats
    on the pairs held out for stopping, an epoch each. dropped: prompts that the model answers wrongly.
    """

    subspace: Subspace
    table: xr.Dataset
    losses: tuple[float, ...]
    dropped: int

    @property
    def accuracy(self) -> float:
        """Interchange accuracy on the test pairs."""
        return float(self.table["raw"].sel(exchange="subspace").mean())

    @property
    def selectivity(self) -> float:
        """Accuracy less that of the best of random, norm_matched and shuffled; NaN without any of these.

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
    rank: int = 1,
    featuriser: str = "linear",
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
    the name of a span. rank: directions; featuriser: "linear", or "flow" (two invertible coupling layers
    first; it fits much, so look at its controls). controls: which of random, norm_matched, shuffled, pca,
    mean_difference. n_pairs: to learn from; half as many to stop by and to measure on. steps: at most; by
    default 20 epochs or 200 steps, whichever is more, and less where the held-out loss stops falling.

    Returns `Found`: subspace, table, losses. The same seed gives the same. Cost: a forward of the prompts,
    then for each step a forward and backward of the layers above the place on 128 pairs; twice with
    "shuffled". Raises ValueError for unknown variables, controls and featurisers, a rank that does not fit,
    prompts that do not make pairs; before the first step.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=32, template=0)
        >>> found = interp.subspaces.das(
        ...     model, task, "position", "L2.resid_pre", "end", n_pairs=64, steps=8, progress=False)
        >>> found.subspace.rank, found.table["raw"].dims
        (1, ('pair', 'exchange'))
    """
    Budget(engine=engine, progress=progress)
    search = _Search(_checked(rank, "rank"), featuriser, tuple(controls), steps, lr, seed)
    stage = Stage.of(model, task, place, pos, engine)
    search.check(stage, variable)
    with tqdm(total=search.passes, disable=not progress, desc="das", unit="step") as bar:
        return search.run(stage, search.pairs(stage, variable, n_pairs), bar.update)


@verb
def scan(
    model: Model,
    task: Task,
    variable: str,
    places: Iterable[str | Place],
    pos: str | int | Sequence[str | int] = "last",
    *,
    rank: int = 1,
    featuriser: str = "linear",
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
        ...     model, task, "position", ["L1.resid_pre", "L2.resid_pre"], ["s2", "end"], n_pairs=32, steps=2,
        ...     progress=False)
        >>> result["value"].dims, result["value"].shape
        (('layer', 'pos'), (2, 2))
    """
    facts = anatomy(model)
    spots = [read_place(each, facts) for each in places]
    kinds = {(spot.site, spot.head) for spot in spots}
    if len(kinds) != 1:
        raise ValueError(f"places are of {len(kinds)} sites or heads; scan one of them, layer by layer.")
    where = [pos] if isinstance(pos, (str, int)) else list(pos)
    search = _Search(_checked(rank, "rank"), featuriser, tuple(controls), steps, lr, seed)
    stages = [[Stage.of(model, task, spot, each, engine) for each in where] for spot in spots]
    for row in stages:
        for stage in row:
            search.check(stage, variable)
    total = search.passes * len(spots) * len(where)
    with tqdm(total=total, disable=not progress, desc="das", unit="step") as bar:
        drawn = search.pairs(stages[0][0], variable, n_pairs)  # the same for every place
        found = [[search.run(stage, drawn, bar.update) for stage in row] for row in stages]
    return _grid(found, [spot.layer or 0 for spot in spots], [str(each) for each in where])


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Pairs of prompts by part, and how many prompts were left out."""

    parts: dict[str, Pairs]
    dropped: int


@dataclass(frozen=True)
class _Search:
    """The settings of a search."""

    rank: int
    featuriser: str
    controls: tuple[str, ...]
    steps: int | None
    lr: float
    seed: int

    def __post_init__(self) -> None:
        if self.featuriser not in FEATURISERS:
            raise ValueError(f"featuriser {self.featuriser!r} is not one of {', '.join(FEATURISERS)}.")
        unknown = [each for each in self.controls if each not in CONTROLS]
        if unknown:
            raise ValueError(f"control {unknown[0]!r} is not one of {', '.join(CONTROLS)}.")
        if self.steps is not None:
            _checked(self.steps, "steps")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr!r}; give a positive number.")

    @property
    def passes(self) -> int:
        return (self.steps or _LEAST) * (2 if "shuffled" in self.controls else 1)

    def check(self, stage: Stage, name: str) -> None:
        """ValueError for what does not fit; no forward pass."""
        variable_of(stage.task.variables, name)
        size = width(stage.where, anatomy(stage.model))
        if self.rank > size:
            raise ValueError(
                f"rank is {self.rank}, and the activation at {stage.where} has {size} dimensions."
            )

    def pairs(self, stage: Stage, name: str, n_pairs: int) -> _Drawn:
        """Pairs of the prompts that the model answers, whatever the place. Cost: a forward of the prompts."""
        solved = stage.solved()
        return _Drawn(split(stage.task, name, solved, n_pairs, self.seed), int((~solved).sum()))

    def run(self, stage: Stage, drawn: _Drawn, tick: Callable[[int], object]) -> Found:
        parts = drawn.parts
        subspace, losses = self.fit(stage, parts["train"], parts["stop"], tick)
        exchanges: dict[str, Exchange] = {"subspace": subspace.exchange}
        for name in self.controls:
            exchanges[name] = self._control(name, stage, parts, subspace, tick)
        seen = table(stage, parts["test"], exchanges, rank=self.rank, featuriser=self.featuriser)
        return Found(subspace, seen, losses, drawn.dropped)

    def fit(
        self, stage: Stage, train: Pairs, stop: Pairs, tick: Callable[[int], object]
    ) -> tuple[Subspace, tuple[float, ...]]:
        """The subspace of the lowest held-out loss, and that loss after every epoch."""
        generator = torch.Generator().manual_seed(self.seed)
        batches = -(-len(train) // _BATCH)
        limit = self.steps or max(_LEAST, _EPOCHS * batches)
        with torch.inference_mode(False), torch.enable_grad():
            free = self._start(stage, generator)
            optimiser = torch.optim.Adam(free, lr=self.lr)
            best, kept, losses, taken = float("inf"), self._made(stage, free), [], 0
            while taken < limit and not _stalled(losses):
                epochs = max(
                    1, _ROUND // batches
                )  # small sets: several before the held-out loss is looked at
                orders = [
                    torch.randperm(len(train), generator=generator).split(_BATCH) for _ in range(epochs)
                ]
                for rows in [rows for order in orders for rows in order][: limit - taken]:
                    loss = stage.loss(train.take(rows), self._made(stage, free).exchange)
                    for parameter, slope in zip(free, torch.autograd.grad(loss, free)):
                        parameter.grad = slope
                    optimiser.step()
                    taken += 1
                    tick(1)
                with torch.no_grad():
                    losses.append(float(stage.loss(stop, self._made(stage, free).exchange)))
                    if losses[-1] < best:
                        best, kept = losses[-1], _detached(self._made(stage, free))
        return kept, tuple(losses)

    def _start(self, stage: Stage, generator: torch.Generator) -> list[Tensor]:
        """Free parameters: the matrix, and of a flow its layers, whose last weights are 0."""
        values, size = stage.values, stage.values.shape[-1]
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        if self.featuriser == "linear":
            drawn = [draw(size, self.rank)]
        else:
            drawn = [draw(size, size)]
            for number in range(_FLOW_LAYERS):
                read, written = _halves(size, number)
                drawn += [
                    draw(read, 2 * size) / read**0.5,
                    torch.zeros(2 * size),
                    torch.zeros(2 * size, written),
                ]
        return [each.to(values.device, dtype).requires_grad_(True) for each in drawn]

    def _made(self, stage: Stage, free: Sequence[Tensor]) -> Subspace:
        method = f"das, {self.featuriser}"
        Q = orthonormal(free[0])
        if self.featuriser == "linear":
            return Subspace(Q, stage.where, method, self.seed)
        layers = tuple((free[i], free[i + 1], free[i + 2]) for i in range(1, len(free), 3))
        return Subspace(Q[:, : self.rank], stage.where, method, self.seed, Flow(Q, layers))

    def _control(
        self,
        name: str,
        stage: Stage,
        parts: dict[str, Pairs],
        subspace: Subspace,
        tick: Callable[[int], object],
    ) -> Exchange:
        generator = torch.Generator().manual_seed(self.seed + 1)
        if name == "shuffled":
            train, stop = (_shuffled(parts[part], generator) for part in ("train", "stop"))
            return self.fit(stage, train, stop, tick)[0].exchange
        if name == "pca":
            return self._span(stage, _centred(stage.values), name)
        if name == "mean_difference":
            return self._span(stage, _class_means(stage, parts["train"]), name)
        values = stage.values
        drawn = torch.randn(values.shape[-1], self.rank, generator=generator, dtype=torch.float64)
        random = Subspace(orthonormal(drawn).to(values), stage.where)
        return random.exchange if name == "random" else _as_far(random, subspace)

    def _span(self, stage: Stage, rows: Tensor, name: str) -> Exchange:
        """The exchange along the `rank` strongest directions of some rows."""
        _, sizes, V = torch.linalg.svd(rows.double(), full_matrices=False)
        kept = V[: min(self.rank, int((sizes > 1e-9 * sizes.max()).sum()))].T
        return Subspace(kept.to(stage.values), stage.where, name).exchange


def _halves(size: int, number: int) -> tuple[int, int]:
    """What a coupling layer reads and writes."""
    low, high = size // 2, size - size // 2
    return (low, high) if number % 2 else (high, low)


def _stalled(losses: list[float]) -> bool:
    """Whether the held-out loss has not fallen for some epochs."""
    return len(losses) > _PATIENCE and min(losses[-_PATIENCE:]) >= min(losses[:-_PATIENCE])


def _detached(subspace: Subspace) -> Subspace:
    flow = subspace.flow
    if flow is not None:
        weights = tuple(
            (a.detach().clone(), b.detach().clone(), c.detach().clone()) for a, b, c in flow.weights
        )
        flow = Flow(flow.rotation.detach().clone(), weights)
    return Subspace(subspace.basis.detach().clone(), subspace.place, subspace.method, subspace.seed, flow)


def _shuffled(pairs: Pairs, generator: torch.Generator) -> Pairs:
    """The pairs with other expected answers: one permutation of the choices for each source's value."""
    values = pairs.task.variables[pairs.variable].values[pairs.source]
    target, n = pairs.target, len(pairs.choices)
    moved = target.clone()
    for value in values.unique().tolist():
        mine = values == value
        moved[mine] = torch.randperm(n, generator=generator)[target[mine]]
    return replace(pairs, expected=pairs.choices[moved])


def _centred(values: Tensor) -> Tensor:
    rows = values.flatten(0, -2).double()
    return rows - rows.mean(0)


def _class_means(stage: Stage, train: Pairs) -> Tensor:
    """The mean at each value of the variable, less their mean: [value, width]."""
    rows = torch.cat((train.own, train.source)).unique()
    values = stage.task.variables[train.variable].values[rows]
    kept = stage.values[rows.to(stage.values.device)].double().mean(1)
    means = torch.stack([kept[(values == each).to(kept.device)].mean(0) for each in values.unique().tolist()])
    return means - means.mean(0)


def _as_far(random: Subspace, subspace: Subspace) -> Exchange:
    """The random exchange, made to move every activation as far as the subspace's does."""

    def exchange(own: Tensor, source: Tensor) -> Tensor:
        step = random.exchange(own, source) - own
        wanted = (subspace.exchange(own, source) - own).norm(dim=-1, keepdim=True)
        return own + step * wanted / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    return exchange


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
