"""Scores as Datasets: of edges, with an axis of positions where these are kept apart, and of nodes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from interp.circuits._run.job import Job
from interp.patching.result import CONVENTION, position_labels, versions
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


_NODE_WORDS = (
    (" along the edge", ""),
    ("the edge cut", "all edges out of the node cut"),
    ("the edge", "the node"),
)


def scored_edges(
    values: np.ndarray,
    clean: np.ndarray,
    corrupt: np.ndarray,
    job: Job,
    task: Task,
    direction: str,
    *,
    method: str,
    **attrs: str | int | float,
) -> xr.Dataset:
    """Effects [prompt, (pos,) writer, reader]; NaN where there is no edge."""
    graph = job.graph
    values[..., ~graph.allowed.numpy()] = np.nan
    whole = values if values.ndim == 3 else np.broadcast_to(np.nan, (len(task), *graph.allowed.shape))
    out = edge_dataset(whole, clean, corrupt, job, task, direction, method=method, **attrs)
    if values.ndim == 3:
        return out
    coords: dict[str, Any] = {"pos": np.arange(values.shape[1]), "token": ("pos", position_labels(task))}
    return out.assign(value=(("prompt", "pos", "writer", "reader"), values)).assign_coords(coords)


def of_nodes(edges: xr.Dataset, value: xr.DataArray) -> xr.Dataset:
    """A result about edges with values about writers in their place."""
    out = edges.drop_dims("reader").assign(value=value)
    convention = out.attrs["convention"]
    for old, new in _NODE_WORDS:
        convention = convention.replace(old, new)
    return out.assign_attrs(site="nodes", convention=convention)
