"""How good is a circuit? Faithfulness, KL, completeness and minimality, with intervals over prompts.

F(C) is the metric with a circuit's edges kept and all others cut; M is the whole model, ∅ keeps nothing.

| variable         | what                                                                                |
|------------------|-------------------------------------------------------------------------------------|
| `faithfulness`   | (F(C) - F(∅)) / (F(M) - F(∅)), ratio of means (`low`, `high`); and `mean_of_ratios`  |
| `kl`             | KL(model ‖ circuit) of the next-token distribution, nats, by prompt                  |
| `without`        | faithfulness of M with the circuit's edges cut: near 0 if complete (Marks et al.)    |
| `incompleteness` | |F(C \\ K) - F(M \\ K)| / |F(M) - F(∅)|, random sets K of its nodes (Wang et al.)    |
| `minimality`     | (F(C) - F(C \\ v)) / (F(M) - F(∅)) for each of its nodes v: near 0 if not needed     |

Wang et al. 2022 (2211.00593), Marks et al. 2024 (2403.19647), Miller et al. 2024 (2407.08734) on why a number
without its ablation, granularity and direction means little: they are in the attributes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._judge.faithfulness import faithfulness, recipe
from interp.circuits._run.ablation import Ablation
from interp.circuits._run.batch import run_masks
from interp.circuits._run.job import Job, masks_of, prepare, the_metric
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric


def evaluate(
    model: Model,
    task: Task,
    circuits: Circuit | Sequence[Circuit],
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str = "noise",
    metric: Metric | None = None,
    subsets: int = 10,
    minimality: bool = True,
    level: float = 0.95,
    seed: int = 0,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> xr.Dataset:
    """The variables above for one circuit or several of the same model.

    ablation, direction, metric: as in `circuits.run`. subsets: random sets of nodes for `incompleteness`, 0
    for none. minimality: measure every node. level, seed: of the intervals and the sets.

    Returns a Dataset with dims circuit, prompt, node and subset: also `value`, `complement` (raw metric by
    circuit and prompt), `clean` and `empty` (by prompt), and counts: `edges`, `nodes`, `heads`.

    Cost, by prompt: a forward of a circuit for each of 2 + circuits × (3 + 2 subsets + nodes). Raises
    ValueError before the first forward pass for circuits of another model and as `circuits.run` does.
    """
    given = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    masks = masks_of(given, Graph.of(model), task)
    if subsets < 0:
        raise ValueError(f"subsets is {subsets}; give 0 or more.")
    job = prepare(model, task, ablation, direction, the_metric(metric, task.metric), memory)
    graph, rng = job.graph, np.random.default_rng(seed)
    drawn = [[_subset(circuit, rng) for _ in range(subsets)] for circuit in given]
    tried = [_inner(circuit) if minimality else [] for circuit in given]
    runs = _requests(graph, masks, drawn, tried)
    values = _measure(job, torch.cat([part.flatten(0, -masks.ndim) for part in runs]), progress)
    parts = _split(values, [len(part) for part in runs])
    attrs = recipe(job, task, direction, "evaluate") | {"level": level, "seed": seed}
    whole, empty, kept = parts[0][0], parts[1][0], parts[2]
    found = faithfulness(kept.T, whole, empty, attrs, task.template, level=level, seed=seed)
    divergence = _measure(prepare(model, task, ablation, direction, KL(), memory), masks, progress)
    more = {**_measures(graph, parts, subsets, tried), **_counts(given)}
    found = found.assign({**more, "kl": (("circuit", "prompt"), divergence)})
    return found.assign_coords(_coords(given, graph, task)).assign_attrs(attrs)


def _measures(
    graph: Graph, parts: list[np.ndarray], subsets: int, tried: list[list[str]]
) -> dict[str, tuple]:
    """What follows from the metric of the runs of `_requests`, each [circuit, prompt]."""
    whole, empty, kept, rest, cut, left, fewer = parts
    gap = float((whole[0] - empty[0]).mean())
    incomplete = np.abs(cut.mean(1) - left.mean(1)).reshape(len(kept), subsets) / abs(gap)
    return {
        "without": (("circuit",), (rest - empty).mean(1) / gap),
        "incompleteness": (("circuit", "subset"), incomplete),
        "minimality": (("circuit", "node"), _minimality(graph, kept, fewer, tried, gap)),
        "value": (("circuit", "prompt"), kept),
        "complement": (("circuit", "prompt"), rest),
        "clean": (("prompt",), whole[0]),
        "empty": (("prompt",), empty[0]),
    }


def without(mask: Bool[Tensor, "*pos writer reader"], graph: Graph, nodes: Sequence[str]) -> Tensor:
    """A mask with every edge out of and into some nodes cut. Shared keys and values stay for the others."""
    found = mask.clone()
    owners = graph.owners.to(mask.device)
    index = [graph.nodes.index(node) for node in nodes]
    gone = owners[:, index].sum(1) == owners.sum(1)
    found[..., gone] = False
    found[..., index, :] = False
    return found


def _requests(
    graph: Graph, masks: Tensor, drawn: list[list[list[str]]], tried: list[list[str]]
) -> list[Tensor]:
    """Masks to run: whole, empty, circuits, their complements, C \\ K, M \\ K, C \\ v."""
    whole = graph.allowed.to(masks.device).expand(masks.shape[1:])
    cut = [without(mask, graph, k) for mask, sets in zip(masks, drawn) for k in sets]
    left = [without(whole, graph, k) for sets in drawn for k in sets]
    fewer = [without(mask, graph, [node]) for mask, nodes in zip(masks, tried) for node in nodes]
    none = masks[:0]
    stacked = [torch.stack(part) if part else none for part in (cut, left, fewer)]
    return [whole[None], torch.zeros_like(whole)[None], masks, whole & ~masks, *stacked]


def _measure(job: Job, masks: Tensor, progress: bool) -> np.ndarray:
    """[circuit, prompt]"""
    with torch.inference_mode():
        return run_masks(job, masks.to(job.runs.base.device), None, True, progress).cpu().numpy()


def _split(values: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _inner(circuit: Circuit) -> list[str]:
    return [node for node in circuit.nodes() if node not in ("input", "logits")]


def _subset(circuit: Circuit, rng: np.random.Generator) -> list[str]:
    """Each node with probability one half."""
    nodes = _inner(circuit)
    return [node for node, take in zip(nodes, rng.random(len(nodes)) < 0.5) if take]


def _minimality(
    graph: Graph, kept: np.ndarray, fewer: np.ndarray, tried: list[list[str]], gap: float
) -> Float[np.ndarray, "circuit node"]:
    """NaN where a node is not in the circuit."""
    found = np.full((len(tried), len(graph.nodes)), np.nan)
    row = 0
    for i, nodes in enumerate(tried):
        for node in nodes:
            found[i, graph.nodes.index(node)] = (kept[i] - fewer[row]).mean() / gap
            row += 1
    return found


def _counts(circuits: list[Circuit]) -> dict[str, tuple]:
    counts = {"edges": [c.n_edges for c in circuits], "nodes": [len(c.nodes()) for c in circuits]}
    counts["heads"] = [len(c.heads()) for c in circuits]
    return {name: (("circuit",), np.array(values)) for name, values in counts.items()}


def _coords(circuits: list[Circuit], graph: Graph, task: Task) -> dict:
    return {
        "circuit": np.array([circuit.name for circuit in circuits], dtype=object),
        "node": np.array(graph.nodes, dtype=object),
        "prompt": np.arange(len(task)),
        "template": ("prompt", np.array(task.template, dtype=object)),
    }
