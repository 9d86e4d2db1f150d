"""Faithfulness: how much of what the model does, beyond nothing at all, a circuit does.

    faithfulness = (m(C) - m(∅)) / (m(M) - m(∅))

m is the metric with a circuit's edges kept and all others cut; M is the whole model, ∅ keeps nothing. 1: as
the model, 0: as with everything cut; above 1 or below 0 is possible. It is a ratio of means over prompts; the
mean of the ratios is given beside it, since papers differ (single prompts can have m(M) near m(∅), which
blows it up). Intervals are those of `interp.stats.bootstrap` of the ratio of means.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp import results, stats
from interp.circuits._run.batch import CONVENTION, Measured
from interp.experiment import Experiment
from interp.tasks.metrics import Metric

_GIVEN = ("faithfulness", "low", "high", "mean_of_ratios")


def faithfulness(
    measured: Measured, experiment: Experiment, *, level: float = 0.95, seed: int = 0
) -> dict[str, Float[np.ndarray, "circuit metric"]]:
    """`faithfulness`, `low`, `high` and `mean_of_ratios`.

    `low` and `high` are NaN for one prompt, or prompts that share a text, and where the gap m(M) - m(∅) could
    be 0, by its own 95 % interval: such a ratio can be anything. Raises ValueError where the whole model does
    what nothing does.
    """
    columns = [
        _of_metric(measured, number, metric, experiment, level, seed)
        for number, metric in enumerate(experiment.metric)
    ]
    return {name: np.stack([column[name] for column in columns], -1) for name in _GIVEN}


def _of_metric(
    measured: Measured, number: int, metric: Metric, experiment: Experiment, level: float, seed: int
) -> dict[str, Float[np.ndarray, "circuit"]]:
    whole, empty = measured.whole[:, number], measured.empty[:, number]
    above, gap = measured.raw[..., number] - empty[:, None], whole - empty
    if not abs(gap.mean()) > 1e-9 * (1 + np.abs(whole).mean()):
        raise ValueError(
            f"{metric.name} of the whole model and with every edge cut are both {whole.mean():.4g}: there is "
            "nothing for a circuit to explain. Use another ablation, metric or task."
        )
    ratio = above.mean(0) / gap.mean()
    low = high = np.full(len(ratio), np.nan)
    coords = results.prompt_coords(experiment.task)
    if len(np.unique(coords["unit"][1])) > 1:
        sign = 1.0 if metric.better == "higher" else -1.0
        effects = xr.Dataset(
            {
                "value": (("prompt", "circuit"), sign * above),
                "clean": ("prompt", whole),
                "corrupt": ("prompt", empty),
            },
            coords,
            {"metric": metric.name, "unit": metric.unit, "better": metric.better},
        )
        with warnings.catch_warnings():  # of a gap that could be 0: low and high are NaN
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(effects, level=level, seed=seed, statistic="normalised")
        low, high = interval["low"].values, interval["high"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = above / gap[:, None]
    mean = np.where(np.isfinite(ratios).all(0), ratios.mean(0), np.nan)
    return dict(zip(_GIVEN, (ratio, low, high, mean)))


def recipe(experiment: Experiment, method: str, **more: str | int | float) -> dict[str, Any]:
    """What every number about a circuit must carry: ablation, granularity, direction, metric, model, task."""
    return results.attrs(
        experiment, method=method, site="edges", convention=CONVENTION, granularity="edges", **more
    )
