"""From scores to circuits.

| function    | keeps                                                                                     |
|-------------|-------------------------------------------------------------------------------------------|
| `top`       | the n edges with the highest scores                                                        |
| `threshold` | the edges whose score is at least x                                                        |
| `greedy`    | n edges, best first, each into a node that is in the circuit already, from the logits back |
| `connected` | n edges, the best circuit without loose ends (`_connected.py`)                             |
| `stable`    | the edges among the n best however the prompts are drawn again (`_combine.py`)             |
| `prune`     | what lies on a path from the input to the logits                                           |

Scores are those of `score_edges` (their mean over prompts) or of a circuit. `absolute` (the default) ranks by
size, so that edges that hurt count as much as edges that help; without it edges that hurt come last. Ties go
to the edge that comes first in the graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp._verbs import verb
from interp.circuits._circuit import Circuit, Provenance
from interp.circuits._graph import Graph
from interp.circuits._paths import on_paths, on_paths_by_pos

Scores = xr.Dataset | Circuit
RANKINGS = ("signed", "absolute")
_TOLD = ("method", "variant", "steps", "rule", "rules", "direction", "ablation", "metric", "unit", "better")
_TOLD += ("model", "task", "task_fingerprint", "seed", "versions", "convention")


@verb
def top(scores: Scores, n: int, *, absolute: bool = True) -> Circuit:
    """The n edges with the highest scores. With positions or spans: n of the edges at their positions.

    Scores of `score_nodes` give the n best heads and MLPs, and every edge between them, the input and the
    logits; such a circuit has no scores of edges.

    Raises ValueError for more edges than there are.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> interp.circuits.top(scores, 40).n_edges
        40
    """
    if _about_nodes(scores):
        return _nodes(scores, lambda ranked: _first_nodes(ranked, n), "top", absolute, n=n)
    graph, values, told = read(scores)
    ranked = ranks(values, absolute)
    require_number(n, int((ranked > -math.inf).sum()))
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[torch.argsort(ranked.flatten(), descending=True, stable=True)[:n]] = True
    return made(graph, mask.view(values.shape), values, told, "top", absolute, n=n)


@verb
def threshold(scores: Scores, x: float | int, *, absolute: bool = True) -> Circuit:
    """The edges whose score (its size, if `absolute`) is at least x, in the unit of the scores.

    Scores of `score_nodes` give nodes, as in `top`. Raises ValueError for NaN.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> interp.circuits.threshold(scores, 0.05).n_edges < scores["value"][0].size
        True
    """
    shown = x if math.isfinite(x) else str(x)
    if _about_nodes(scores):
        return _nodes(scores, lambda ranked: ranked >= x, "threshold", absolute, threshold=shown)
    graph, values, told = read(scores)
    ranked = ranks(values, absolute)
    mask = (ranked >= x) & (ranked > -math.inf)
    return made(graph, mask, values, told, "threshold", absolute, threshold=shown)


@verb
def greedy(scores: Scores, n: int, *, absolute: bool = True) -> Circuit:
    """n edges, each time the best of those that enter a node of the circuit; the first enter the logits.

    All of them lead to the logits; those that nothing leads into from the input go with `prune`. Raises
    ValueError for scores with positions, and for more edges than there are.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> interp.circuits.greedy(scores, 40).n_edges
        40
    """
    graph, values, told = read(scores)
    if values.ndim != 2:
        raise ValueError(
            f"greedy takes scores without positions, and these have {values.shape[0]}. Use top and prune, or "
            "sum over positions: scores.sum('pos', min_count=1)."
        )
    ranked = ranks(values, absolute)
    require_number(n, int((ranked > -math.inf).sum()))
    mask = torch.zeros_like(values, dtype=torch.bool)
    owners = graph.owners
    open_readers = owners[:, -1].clone()  # [reader]: inputs of nodes that are in the circuit
    for _ in range(n):
        best = int(ranked.where(open_readers, -math.inf).argmax())
        writer, reader = divmod(best, len(graph.readers))
        mask[writer, reader] = True
        ranked[writer, reader] = -math.inf
        open_readers |= owners[:, writer]
    return made(graph, mask, values, told, "greedy", absolute, n=n)


@verb
def prune(circuit: Circuit) -> Circuit:
    """The edges of a circuit that lie on a path from the input to the logits. Scores are kept.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> interp.circuits.prune(interp.circuits.top(scores, 40)).n_edges <= 40
        True
    """
    kept = circuit.mask.cpu()
    if kept.ndim == 2:
        found = on_paths(circuit.graph, kept)
    else:
        found = on_paths_by_pos(circuit.graph, kept, ordered=not circuit.spans)
    mask = found.to(circuit.mask.device)
    told = circuit.provenance | {"pruned": int(circuit.mask.sum() - mask.sum())}
    return Circuit(circuit.graph, mask, circuit.scores, told, circuit.name)


def _about_nodes(scores: Scores) -> bool:
    return isinstance(scores, xr.Dataset) and scores.attrs.get("site") == "nodes"


def _nodes(
    scores: Scores, rule: Callable[[Tensor], Tensor], name: str, absolute: bool, **more: str | int | float
) -> Circuit:
    """Every edge between the input, the writers that a rule keeps by their ranks, and the logits."""
    assert isinstance(scores, xr.Dataset)
    value = scores["value"]
    if set(value.dims) - {"prompt"} != {"writer"}:
        raise ValueError(
            f"the scores of nodes have dims {tuple(map(str, value.dims))}; a circuit of nodes needs writer, "
            "and prompt or not. Take one metric with .sel(), and score without positions."
        )
    graph = Graph.from_sizes(str(scores.attrs.get("graph", "")))
    mean = value.mean("prompt") if "prompt" in value.dims else value
    kept = rule(ranks(torch.from_numpy(mean.values[1:].astype(float)), absolute))
    names = [writer for writer, there in zip(graph.writers[1:], kept.tolist()) if there]
    mask = graph.between(["input", *names], [*names, "logits"])
    told = {key: scores.attrs[key] for key in _TOLD if key in scores.attrs}
    told |= {"n_prompts": int(scores.sizes.get("prompt", 1)), "granularity": "nodes"}
    return made(graph, mask, None, told, name, absolute, **more)


def _first_nodes(ranked: Float[Tensor, "node"], n: int) -> Bool[Tensor, "node"]:
    if not 0 <= n <= len(ranked):
        raise ValueError(f"n is {n}; there are {len(ranked)} heads and MLPs, so 0 to {len(ranked)} fits.")
    kept = torch.zeros(len(ranked), dtype=torch.bool)
    kept[torch.argsort(ranked, descending=True, stable=True)[:n]] = True
    return kept


def read(scores: Scores) -> tuple[Graph, Float[Tensor, "*pos writer reader"], Provenance]:
    """The graph, a score for every edge (NaN where there is none), and where they come from."""
    if isinstance(scores, Circuit):
        if scores.scores is None:
            raise ValueError(
                f"{scores.name!r} has no scores. Give one that was found by scores, or a result."
            )
        return scores.graph, _effects(scores.scores, scores.provenance), scores.provenance
    graph = graph_of(scores)
    value = scores["value"]
    mean = value.mean("prompt") if "prompt" in value.dims else value
    values = torch.from_numpy(mean.transpose(..., "writer", "reader").values.copy()).double()
    told = {key: scores.attrs[key] for key in _TOLD if key in scores.attrs}
    told = {key: value.item() if isinstance(value, np.generic) else value for key, value in told.items()}
    if "span" in value.dims:
        told["spans"] = json.dumps([str(name) for name in scores["span"].values])
    return graph, values, {**told, "n_prompts": int(scores.sizes.get("prompt", 1))}


def ranks(values: Tensor, absolute: bool) -> Tensor:
    """Higher is better; -inf where there is no score."""
    return (values.abs() if absolute else values).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def require_number(n: int, most: int) -> None:
    if not 0 <= n <= most:
        raise ValueError(f"n is {n}; there are {most} edges with a score, so 0 to {most} fits.")


def made(
    graph: Graph,
    mask: Bool[Tensor, "*pos writer reader"],
    values: Tensor | None,
    told: Provenance,
    rule: str,
    absolute: bool,
    **more: str | int | float,
) -> Circuit:
    made: Provenance = {**told, "selection": rule, "absolute": absolute, **more}
    method = told.get("method", "scores")
    return Circuit(graph, mask, values, made, f"{method} {rule} {next(iter(more.values()))}")


def graph_of(scores: xr.Dataset) -> Graph:
    """The graph. Raises ValueError for something that is not a result about all edges of a graph."""
    if "value" not in scores or not {"writer", "reader"} <= set(scores["value"].dims):
        raise ValueError(
            f"expected scores with dims writer and reader, got {list(scores.sizes)}. Use score_edges."
        )
    writers, readers = ([str(name) for name in scores[dim].values] for dim in ("writer", "reader"))
    heads = sum(name.startswith("a0.") for name in writers)
    shared = sum(name.startswith("a0.") and name.endswith("<k>") for name in readers)
    layers = len({name.split(".")[0] for name in writers if name.startswith("a")})
    if not heads or not shared:
        raise ValueError(
            f"the writers are {writers[:3]}... and the readers {readers[:3]}...: not those of a graph."
        )
    mlps = "m0" in writers
    graph = Graph(layers, heads, shared, attn_only=not mlps, parallel=mlps and _parallel(scores))
    if list(graph.writers) != writers or list(graph.readers) != readers:
        raise ValueError(
            f"the scores are of {len(writers)} writers and {len(readers)} readers, and a model of {graph} "
            f"has {len(graph.writers)} and {len(graph.readers)}. Select from scores of all edges, in order."
        )
    return graph


def _parallel(scores: xr.Dataset) -> bool:
    """Whether attention and MLP of a layer read the same stream: then there is no edge between them."""
    return bool(np.isnan(scores["value"].sel(writer="a0.h0", reader="m0")).all())


def name_of(scores: Scores) -> str:
    """What scores are called: the method of a result, the name of a circuit."""
    return str(scores.attrs.get("method", "")) if isinstance(scores, xr.Dataset) else scores.name


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
    return _effects(circuit.scores, circuit.provenance).numpy()


def _effects(scores: Tensor, provenance: Provenance) -> Tensor:
    """The scores of a circuit, positive where an edge helps: of a learned mask the share that is open."""
    values = scores.detach().double().cpu()
    return torch.sigmoid(values) if provenance.get("method") == "train_mask" else values


def _of_dataset(scores: xr.Dataset, graph: Graph) -> np.ndarray:
    if "value" not in scores:
        raise ValueError("the scores have no variable 'value'. Give a result of score_edges.")
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
