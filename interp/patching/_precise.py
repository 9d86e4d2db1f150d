"""How far effects are off under products of lower precision: some cells in both, before the sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from interp.engine.runs import Runs
from interp.experiment import Experiment
from interp.grid import Grid
from interp.patching._units import Bench

_CELLS = 20
_PROMPTS = 8


def precision_attrs(experiment: Experiment, grid: Grid, runs: Runs, engine: str) -> dict[str, str | float]:
    """What a result says of its precision, with the error that was measured; nothing where none was asked.

    Cost: 20 cells on 8 prompts at most, spread over the grid, twice. Raises ValueError where the model itself
    has to be run.
    """
    asked = experiment.contrast.precision
    if asked is None:
        return {}
    if engine != "fast":
        raise ValueError(
            f"precision={asked!r} is of our own products, and this model has to be run itself (see the "
            "warning). Leave precision out, or load the model in bfloat16."
        )
    usual = replace(experiment, contrast=replace(experiment.contrast, precision=None))
    exact, lower = (_effects(each, grid, runs) for each in (usual, experiment))
    error, largest = np.abs(exact - lower).max((0, 1)), np.abs(exact).max((0, 1))  # [metric]
    figures = ", ".join(
        f"{e:.2g} of {size:.2g} ({metric.name})" for e, size, metric in zip(error, largest, experiment.metric)
    )
    told = f"{asked} products: effects of {exact.shape[0]} cells are off by at most {figures}"
    return {"precision": told, "precision_error": float(error.max())}


def _effects(experiment: Experiment, grid: Grid, runs: Runs) -> np.ndarray:
    """Changes of the metrics by some cells of every site: [cell, prompt, metric]."""
    bench = Bench(experiment, grid, runs, "fast")
    prompts = slice(0, min(len(experiment.task), _PROMPTS, bench.room))
    each = -(-_CELLS // len(grid.cells))
    parts = []
    for cells in grid.cells:
        some = np.unique(np.linspace(0, len(cells) - 1, min(each, len(cells))).astype(int))
        parts.append(bench.of_block(prompts, cells.take(some), [None])[0][0].change)
    return np.concatenate(parts)
