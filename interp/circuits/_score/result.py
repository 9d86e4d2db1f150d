"""Scores as Datasets: of edges, with an axis of positions where these are kept apart, and of nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp import results
from interp.circuits._graph import Graph
from interp.circuits._run.batch import metric_coord
from interp.circuits._run.job import Job

_CUT = {
    "edge": {"denoise": "clean brought in along the edge", "noise": "the edge cut"},
    "node": {"denoise": "clean brought in from the node", "noise": "all edges out of the node cut"},
}


def edge_dataset(
    values: Float[np.ndarray, "*lead writer reader metric"],
    clean: Float[np.ndarray, "prompt metric"],
    corrupt: Float[np.ndarray, "prompt metric"],
    job: Job,
    lead: tuple[str, ...] = ("prompt",),
    *,
    method: str,
    **more: str | int | float,
) -> xr.Dataset:
    """Effects of edges, which are written into: NaN where there is no edge.

    lead: the dims before writer and reader, of prompt (without it values are means) and pos or span.
    """
    if values.flags.writeable:  # else nothing is there yet
        values[..., ~job.graph.allowed.numpy(), :] = np.nan
    coords: dict[str, Any] = {"writer": _names(job.graph.writers), "reader": _names(job.graph.readers)}
    if "span" in lead:
        spans = job.experiment.task.spans
        present = np.array([int(mask.any(1).sum()) for mask in spans.values()])
        coords |= {"span": np.array(list(spans), dtype=object), "present": ("span", present)}
    dims = (*lead, "writer", "reader", "metric")
    return _dataset("edge", (dims, values), clean, corrupt, coords, job, method, more)


def averaged(result: xr.Dataset, by_prompt: bool) -> xr.Dataset:
    """The mean of the effects over prompts, unless they are wanted by prompt."""
    return result if by_prompt else result.assign(value=result["value"].mean("prompt"))


def node_dataset(
    values: Float[np.ndarray, "prompt writer metric"],
    clean: Float[np.ndarray, "prompt metric"],
    corrupt: Float[np.ndarray, "prompt metric"],
    job: Job,
    *,
    method: str,
    engine: str,
) -> xr.Dataset:
    """Effects of writers."""
    coords, more = {"writer": _names(job.graph.writers)}, {"graph": job.graph.sizes, "engine": engine}
    return _dataset(
        "node", (("prompt", "writer", "metric"), values), clean, corrupt, coords, job, method, more
    )


def of_nodes(edges: xr.Dataset, graph: Graph) -> xr.Dataset:
    """A result about edges as one about writers: first-order scores add up over a writer's edges."""
    convention = edges.attrs["convention"]
    for direction, words in _CUT["edge"].items():
        convention = convention.replace(words, _CUT["node"][direction])
    convention = convention.replace("the edge helps", "the node helps")
    total = edges["value"].sum("reader")
    words = {"site": "nodes", "convention": convention, "graph": graph.sizes}
    return edges.drop_dims("reader").assign(value=total).assign_attrs(words)


def _dataset(
    what: str,
    value: tuple[tuple[str, ...], np.ndarray],
    clean: np.ndarray,
    corrupt: np.ndarray,
    coords: dict[str, Any],
    job: Job,
    method: str,
    more: dict[str, Any],
) -> xr.Dataset:
    task, direction = job.experiment.task, job.experiment.contrast.direction
    variables = {"value": value, "clean": (("prompt", "metric"), clean)}
    variables["corrupt"] = (("prompt", "metric"), corrupt)
    if "pos" in value[0]:
        n_pos = value[1].shape[value[0].index("pos")]
        coords |= {"pos": np.arange(n_pos), "token": ("pos", results.position_labels(task))}
    start = results.CONVENTION[direction].split(",")[0]
    words = {"convention": f"{start}, {_CUT[what][direction]}; positive: the {what} helps"} | more
    attrs = results.attrs(job.experiment, method=method, site=f"{what}s", **words)
    return results.dataset(variables, coords | metric_coord(job.experiment), attrs, task)


def _names(names: tuple[str, ...]) -> np.ndarray:
    return np.array(names, dtype=object)
