"""Faithfulness: how much of what the model does, beyond nothing at all, a circuit does.

    faithfulness = (m(C) - m(∅)) / (m(M) - m(∅))

m is the metric with a circuit's edges kept and all others cut; M is the whole model, ∅ keeps nothing. 1: as
the model, 0: as with everything cut; above 1 or below 0 is possible. It is a ratio of means over prompts; the
mean of the ratios is given beside it, since papers differ (single prompts can have m(M) near m(∅), which
blows it up). Intervals are those of `interp.stats.bootstrap` of the ratio of means.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.circuits._run.batch import run_masks
from interp.circuits._run.job import Job
from interp.patching.result import versions
from interp.tasks import Task


def faithfulness(
    values: Float[np.ndarray, "prompt circuit"],
    whole: Float[np.ndarray, "prompt"],
    empty: Float[np.ndarray, "prompt"],
    recipe: dict[str, Any],
    templates: tuple[str, ...],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """`faithfulness`, `low`, `high` and `mean_of_ratios` by circuit, from raw metric values.

    One prompt has no interval: NaN. Raises ValueError where the whole model does what nothing does.
    """
    gap = whole - empty
    if not abs(gap.mean()) > 1e-9 * (1 + np.abs(whole).mean()):
        raise ValueError(
            f"the metric of the whole model and with every edge cut are both {whole.mean():.4g}: there is "
            "nothing for a circuit to explain. Use another ablation, metric or task."
        )
    sign = 1.0 if recipe["better"] == "higher" else -1.0
    effects = xr.Dataset(
        {
            "value": (("prompt", "circuit"), sign * (values - empty[:, None])),
            "clean": (("prompt",), whole),
            "corrupt": (("prompt",), empty),
        },
        {"prompt": np.arange(len(whole)), "template": ("prompt", np.array(templates, dtype=object))},
        recipe,
    )
    ratio = (values - empty[:, None]).mean(0) / gap.mean()
    low = high = np.full(len(ratio), np.nan)
    if len(whole) > 1:
        found = stats.bootstrap(effects, level=level, seed=seed, statistic="normalised")
        low, high = found["low"].values, found["high"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (values - empty[:, None]) / gap[:, None]
    mean = np.where(np.isfinite(ratios).all(0), ratios.mean(0), np.nan)
    named = {"faithfulness": ratio, "low": low, "high": high, "mean_of_ratios": mean}
    return xr.Dataset({name: (("circuit",), array) for name, array in named.items()})


def recipe(job: Job, task: Task, direction: str, method: str) -> dict[str, str | int | float]:
    """What every number about a circuit must carry: ablation, granularity, direction, metric, model, task."""
    return {
        "method": method,
        "ablation": job.ablation.kind,
        "granularity": "edges",
        "direction": direction,
        "metric": job.metric.name,
        "unit": job.metric.unit,
        "better": job.metric.better,
        "model": job.budget.facts.name,
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "n_prompts": len(task),
        "versions": json.dumps(versions()),
    }


def measured(job: Job, masks: Tensor, progress: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The metric of circuits [prompt, circuit], of the whole model and with every edge cut [prompt]."""
    every = torch.cat([job.graph.allowed[None], torch.zeros_like(masks[:1]), masks])
    with torch.inference_mode():
        found = run_masks(job, every.to(job.runs.base.device), None, True, progress)
    whole, empty, *rest = found.cpu().numpy()
    return np.stack(rest, 1), whole, empty
