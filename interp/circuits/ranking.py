"""Edges in the order of their scores: prompt means, signed or absolute, ties by name order."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.circuit import Circuit
from interp.circuits.graph import Graph

Scores = xr.Dataset | Circuit
RANKINGS = ("signed", "absolute")


def mean_scores(scores: Scores, graph: Graph) -> Float[np.ndarray, "writer reader"]:
    """One score for every edge, the mean over prompts; NaN where there is no edge or no score.

    Raises ValueError for scores of another graph, or a circuit without scores.
    """
    found = _of_circuit(scores) if isinstance(scores, Circuit) else _of_dataset(scores, graph)
    wanted = (len(graph.writers), len(graph.readers))
    if found.shape != wanted:
        raise ValueError(
            f"the scores are {list(found.shape)}, but the graph ({graph}) has {wanted[0]} writers and "
            f"{wanted[1]} readers. Use scores of the same model."
        )
    found = np.where(graph.allowed.numpy(), found, np.nan)
    if np.isnan(found).all():
        raise ValueError("no edge has a score: all are NaN.")
    return found


def ranked(means: Float[np.ndarray, "writer reader"], by: str) -> np.ndarray:
    """Flat indices of the edges that exist and have a score, best first."""
    if by not in RANKINGS:
        raise ValueError(f"ranking {by!r} is not one of {', '.join(RANKINGS)}.")
    size = means.ravel() if by == "signed" else np.abs(means.ravel())
    order = np.argsort(-np.nan_to_num(size, nan=-np.inf), kind="stable")
    return order[~np.isnan(means.ravel()[order])]


def first(graph: Graph, order: np.ndarray, n: int) -> Bool[Tensor, "writer reader"]:
    """The mask of the first n edges of an order."""
    mask = torch.zeros_like(graph.allowed)
    mask.view(-1)[torch.from_numpy(order[:n].copy())] = True
    return mask


def _of_circuit(circuit: Circuit) -> np.ndarray:
    if circuit.scores is None:
        raise ValueError(f"{circuit.name!r} has no scores. Use a circuit of acdc or top, or a Dataset.")
    if circuit.scores.ndim != 2:
        raise ValueError(f"{circuit.name!r} has scores by position; give one score for each edge.")
    return circuit.scores.detach().double().cpu().numpy()


def _of_dataset(scores: xr.Dataset, graph: Graph) -> np.ndarray:
    value = scores["value"]
    extra = set(value.dims) - {"prompt", "writer", "reader"}
    if extra or not {"writer", "reader"} <= set(value.dims):
        raise ValueError(
            f"the scores have dims {tuple(map(str, value.dims))}; they need writer and reader, and prompt or "
            "not. Take one metric or position with .sel()."
        )
    for dim, names in (("writer", graph.writers), ("reader", graph.readers)):
        if dim in scores.coords and tuple(map(str, scores[dim].values)) != names:
            raise ValueError(f"the {dim}s of the scores are not those of this model's graph ({graph}).")
    mean = value.mean("prompt") if "prompt" in value.dims else value
    return mean.transpose("writer", "reader").values.astype(float)
