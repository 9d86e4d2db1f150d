"""Faithfulness by size: circuits of the best 0.1 to 100 % of edges (MIB, Mueller et al. 2504.13151).

1. Rank the edges by their mean score: signed (what helps most comes first) and absolute (what matters most).
2. For each size keep the first edges, and of them those on a path from the input to the logits.
3. Run them all, and give the areas over the share of edges: CPR, that of faithfulness, under the signed
   ranking (higher is better), and CMD, that of |1 - faithfulness|, under the absolute one (lower is better).

Sizes are nominal (the share that was asked for, as MIB counts) and true (what is left on paths); both areas
are given on both. They run from the smallest size to 1, by straight lines.

The bar that a found circuit has to pass is circuits of the same size drawn at random (`random_baseline`):
`uniform` draws edges; `paths` draws random walks from the logits back to the input and keeps their edges, so
that every edge of the random circuit can matter: the harder comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.integrate import trapezoid
from torch import Tensor
from tqdm import tqdm

from interp import results, stores
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits._graph import Graph
from interp.circuits._judge.faithfulness import faithfulness, recipe
from interp.circuits._judge.overlap import SIZES
from interp.circuits._paths import on_paths, random_paths
from interp.circuits._run import elsewhere
from interp.circuits._run.batch import Measured, measure, metric_coord
from interp.circuits._run.job import Job, prepare, start
from interp.circuits._select import RANKINGS, Scores, first, mean_scores, name_of, ranked
from interp.experiment import MEMORY, Metrics
from interp.models import Model
from interp.tasks import Task
from interp.workers import Parcel

KINDS = ("uniform", "paths")
_MASKS = 16  # circuits of a unit


@verb
def curve(
    model: Model,
    task: Task,
    scores: Scores,
    *,
    sizes: Sequence[float | int] = SIZES,
    paths: bool = True,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> xr.Dataset:
    """Faithfulness of the best edges, by size and ranking.

    scores: of `score_edges`, or a circuit with scores. sizes: shares of all edges, above 0, at most 1.
    paths: drop edges that are on no path from the input to the logits.
    ablation, direction, metric: as in `circuits.run`. level, seed: of the intervals.

    Returns a Dataset, dims prompt, ranking, size (and metric, if there are several): `faithfulness`, `low`,
    `high`, `mean_of_ratios`, `edges` (what is left), and by prompt `value`, the effect, `raw`, the metric,
    `clean` and `empty`. Attributes: cpr, cmd (nominal sizes), cpr_true, cmd_true (of the first metric; of
    others with its name before it), and the recipe.

    Cost: one forward of a circuit a size, ranking and prompt. Raises ValueError before the first forward.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> scores = interp.circuits.score_edges(model, task, progress=False)
        >>> curve = interp.circuits.curve(model, task, scores, sizes=[0.1, 1.0], progress=False)
        >>> curve["faithfulness"].dims, round(float(curve["faithfulness"][0, -1]), 3)
        (('ranking', 'size'), 1.0)
    """
    graph = Graph.of(model)
    means, shares = mean_scores(scores, graph), check_sizes(sizes)
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, seed=seed,
        batch_size=batch_size, memory=memory, progress=progress,
    )  # fmt: skip
    masks = [_mask(graph, means, by, share, paths) for by in RANKINGS for share in shares]
    measured = measure(start(experiment), torch.stack(masks))
    dims, grid = ("ranking", "size"), (len(RANKINGS), len(shares))
    edges = np.array([int(mask.sum()) for mask in masks]).reshape(grid)
    ratios = faithfulness(measured, experiment, level=level, seed=seed)
    variables = measured.variables(experiment, dims, grid)
    variables |= {name: ((*dims, "metric"), ratio.reshape(*grid, -1)) for name, ratio in ratios.items()}
    variables["edges"] = (dims, edges)
    attrs = recipe(experiment, "curve", level=level, n_edges=graph.n_edges, scores=name_of(scores))
    for number, each in enumerate(experiment.metric):
        found = areas(ratios["faithfulness"][:, number].reshape(grid), shares, edges / graph.n_edges)
        attrs |= {f"{each.name}_{name}" if number else name: area for name, area in found.items()}
    coords = {"ranking": list(RANKINGS), "size": shares, **metric_coord(experiment)}
    return results.dataset(variables, coords, attrs, task)


@verb
def random_baseline(
    model: Model,
    task: Task,
    n_edges: int | Sequence[int],
    *,
    kind: str = "paths",
    draws: int = 20,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """Faithfulness of random circuits.

    n_edges: the size, or several. kind: "uniform" or "paths" (then a circuit can be larger by a path's
    length). draws: circuits of each size. ablation, direction, metric: as in `circuits.run`. store,
    workers, executor: as in `interp.patch`; a unit is sixteen circuits.

    Returns a Dataset: `faithfulness` and `edges` by size and draw, `quantile` by size and level (and metric,
    if there are several), and by prompt `value`, the effect, `raw`, the metric, `clean` and `empty`.

    Cost: a forward of a circuit a draw, size and prompt. Raises ValueError before the first forward.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> chance = interp.circuits.random_baseline(model, task, [10, 40], draws=5, progress=False)
        >>> dict(chance["faithfulness"].sizes)
        {'size': 2, 'draw': 5}
    """
    graph = Graph.of(model)
    sizes = [n_edges] if isinstance(n_edges, int) else list(n_edges)
    _check_draws(kind, draws, sizes, graph)
    if not quantiles or not all(0 <= each <= 1 for each in quantiles):
        raise ValueError(f"quantiles is {list(quantiles)}; give numbers from 0 to 1.")
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, seed=seed,
        batch_size=batch_size, memory=memory, store=store, workers=workers, executor=executor,
        progress=progress,
    )  # fmt: skip
    parcel = elsewhere.packed(experiment, _of_masks)
    rng = np.random.default_rng(seed)
    masks = torch.stack([random_mask(graph, size, kind, rng) for size in sizes for _ in range(draws)])
    drawn = {"kind": kind, "draws": draws, "sizes": [int(size) for size in sizes], "drawn with": seed}
    measured = _in_units(start(experiment), parcel, masks, drawn)
    dims, grid = ("size", "draw"), (len(sizes), draws)
    ratio = faithfulness(measured, experiment)["faithfulness"].reshape(*grid, -1)  # [size, draw, metric]
    variables = measured.variables(experiment, dims, grid)
    variables |= {
        "faithfulness": ((*dims, "metric"), ratio),
        "edges": (dims, masks.flatten(1).sum(1).numpy().reshape(grid)),
        "quantile": (("size", "level", "metric"), np.moveaxis(np.quantile(ratio, quantiles, axis=1), 0, 1)),
    }
    coords = {"size": sizes, "level": list(quantiles), **metric_coord(experiment)}
    return results.dataset(variables, coords, recipe(experiment, "random baseline", kind=kind), task)


def _in_units(job: Job, parcel: Parcel | None, masks: Tensor, drawn: dict[str, Any]) -> Measured:
    """`measure`, some masks at a time, here or elsewhere; in a store each unit as it comes."""
    budget, n, n_metrics = job.experiment.budget, len(job.runs), len(job.metric)
    starts = range(0, len(masks), _MASKS)
    units = [(number, masks[start : start + _MASKS]) for number, start in enumerate(starts)]
    ends = ("part", "prompt", "metric")  # each unit runs both ends, which differ by rounding
    sizes = {
        "raw": (n, len(masks), n_metrics),
        "whole": (len(units), n, n_metrics),
        "empty": (len(units), n, n_metrics),
    }
    dims = {"raw": ("prompt", "circuit", "metric"), "whole": ends, "empty": ends}
    sheet = xr.Dataset({name: (dims[name], np.full(size, np.nan)) for name, size in sizes.items()})
    regions = [_regions(number, some) for number, some in units]
    identity = job.experiment.identity() | {"method": "random_baseline", "graph": str(job.graph)} | drawn
    with (
        stores.open_arrays(budget.store, sheet, identity, {"circuit": _MASKS, "part": 1}, regions) as store,
        tqdm(total=len(masks), disable=not budget.progress, desc="random circuits", unit="circuit") as bar,
    ):
        todo = [unit for unit in units if store is None or not store.done[unit[0]]]
        for (number, some), part in elsewhere.measured(job, parcel, _of_masks, todo):
            filled = {name: (at, getattr(part, name)) for name, at in regions[number].items()}
            for name, (at, values) in filled.items():
                sheet[name].values[at] = values
            if store is not None:
                store.write(number, filled)
            bar.update(len(some))
        found = sheet if store is None else store.load()
    return Measured(found["raw"].values, *(found[name].values[-1] for name in ("whole", "empty")))


def _regions(number: int, masks: Tensor) -> dict[str, tuple[slice | int, ...]]:
    """What a unit fills."""
    start = number * _MASKS
    circuits = slice(start, start + len(masks))
    return {"raw": (slice(None), circuits), "whole": (number,), "empty": (number,)}


def _of_masks(job: Job, unit: tuple[int, Tensor]) -> Measured:
    quiet = replace(job.experiment, budget=job.experiment.budget.of_a_worker)
    return measure(replace(job, experiment=quiet), unit[1])


def areas(
    curves: Float[np.ndarray, "ranking size"],
    nominal: Float[np.ndarray, "size"],
    true: Float[np.ndarray, "ranking size"],
) -> dict[str, float]:
    """CPR of the signed curve and CMD of the absolute one, over nominal and true sizes."""
    signed, absolute = curves[RANKINGS.index("signed")], np.abs(1 - curves[RANKINGS.index("absolute")])
    return {
        "cpr": float(trapezoid(signed, nominal)),
        "cmd": float(trapezoid(absolute, nominal)),
        "cpr_true": float(trapezoid(signed, true[RANKINGS.index("signed")])),
        "cmd_true": float(trapezoid(absolute, true[RANKINGS.index("absolute")])),
    }


def _mask(graph: Graph, means: np.ndarray, by: str, share: float, paths: bool) -> Tensor:
    mask = first(graph, ranked(means, by), max(1, round(share * graph.n_edges)))
    return on_paths(graph, mask) if paths else mask


def check_sizes(sizes: Sequence[float | int]) -> np.ndarray:
    """Growing shares above 0, at most 1, else a ValueError."""
    found = np.array(sizes, dtype=float)
    if (
        found.ndim != 1
        or not len(found)
        or not ((found > 0) & (found <= 1)).all()
        or (np.diff(found) <= 0).any()
    ):
        raise ValueError(
            f"sizes are {sizes}; give growing shares of all edges (or neurons), above 0 and at most 1."
        )
    return found


def random_mask(graph: Graph, n_edges: int, kind: str, rng: np.random.Generator) -> Tensor:
    """The mask of one random circuit."""
    if kind == "paths":
        return random_paths(graph, n_edges, rng)
    mask = torch.zeros_like(graph.allowed)
    every = np.flatnonzero(graph.allowed.numpy().ravel())
    mask.view(-1)[torch.from_numpy(rng.choice(every, n_edges, replace=False))] = True
    return mask


def _check_draws(kind: str, draws: int, sizes: list[int], graph: Graph) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
    if draws < 1 or not sizes or not all(1 <= size <= graph.n_edges for size in sizes):
        raise ValueError(
            f"draws is {draws} and n_edges {sizes}; give at least 1 draw, and sizes from "
            f"1 to {graph.n_edges}."
        )
