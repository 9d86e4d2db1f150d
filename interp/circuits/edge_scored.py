"""Scores as Datasets: of edges, with an axis of positions where these are kept apart, and of nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from interp.circuits.edge_result import edge_dataset
from interp.circuits.job import Job
from interp.patching.result import position_labels
from interp.tasks import Task

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
