"""Numbers about edges as a Dataset: dims prompt, writer, reader; names and provenance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from interp.circuits.job import Job
from interp.patching.result import CONVENTION, versions
from interp.tasks import Task

_CUT = {"denoise": "clean brought in along the edge", "noise": "the edge cut"}


def edge_dataset(
    values: np.ndarray,
    clean: np.ndarray,
    corrupt: np.ndarray,
    job: Job,
    task: Task,
    direction: str,
    *,
    method: str,
    **more: str | int | float,
) -> xr.Dataset:
    """Effects [prompt, writer, reader], NaN where there is no edge, with baselines by prompt."""
    coords: dict[str, Any] = {
        "prompt": np.arange(len(task)),
        "writer": np.array(job.graph.writers, dtype=object),
        "reader": np.array(job.graph.readers, dtype=object),
        "template": ("prompt", np.array(task.template, dtype=object)),
    }
    if task.labels is not None:
        coords["text"] = (
            "prompt",
            np.array([" ".join(words).strip() for words in task.labels], dtype=object),
        )
    variables = {
        "value": (("prompt", "writer", "reader"), values),
        "clean": (("prompt",), clean),
        "corrupt": (("prompt",), corrupt),
    }
    return xr.Dataset(variables, coords, {**_provenance(job, task, direction), "method": method, **more})


def _provenance(job: Job, task: Task, direction: str) -> dict[str, str | int]:
    metric = job.metric
    return {
        "site": "edges",
        "direction": direction,
        "ablation": job.ablation.kind,
        "model": job.budget.facts.name,
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "metric": metric.name,
        "unit": metric.unit,
        "better": metric.better,
        "seed": -1 if task.seed is None else task.seed,
        "versions": json.dumps(versions()),
        "convention": f"{CONVENTION[direction].split(',')[0]}, {_CUT[direction]}; positive: the edge helps",
    }
