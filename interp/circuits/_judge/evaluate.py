"""How good is a circuit? Faithfulness, KL, completeness and minimality, with intervals over prompts.

F(C) is the metric with a circuit's edges kept and all others cut; M is the whole model, ∅ keeps nothing.

| measure        | variable         | what                                                                   |
|----------------|------------------|------------------------------------------------------------------------|
| `faithfulness` | `faithfulness`   | (F(C) - F(∅)) / (F(M) - F(∅)), ratio of means (`low`, `high`); and     |
|                |                  | `mean_of_ratios`                                                       |
| `kl`           | `kl`             | KL(model ‖ circuit) of the next-token distribution, nats, by prompt    |
| `completeness` | `without`        | faithfulness of M with the circuit's edges cut: near 0 if complete     |
|                |                  | (Marks et al.); `complement`, the raw metric of it                     |
|                | `incompleteness` | |F(C \\ K) - F(M \\ K)| / |F(M) - F(∅)|, random sets K of its nodes    |
|                |                  | (Wang et al.)                                                          |
| `minimality`   | `minimality`     | (F(C) - F(C \\ v)) / (F(M) - F(∅)) for each of its nodes v: near 0 if  |
|                |                  | not needed                                                             |

Wang et al. 2022 (2211.00593), Marks et al. 2024 (2403.19647), Miller et al. 2024 (2407.08734) on why a number
without its ablation, granularity and direction means little: they are in the attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._judge import MEASURES
from interp.circuits._judge.faithfulness import faithfulness, recipe
from interp.circuits._run.batch import Measured, measure, metric_coord
from interp.circuits._run.job import masks_of, prepare, start
from interp.experiment import MEMORY, Experiment, Metrics
from interp.models import Model
from interp.places import hint
from interp.tasks import Task
from interp.tasks.metrics import KL


@verb
def evaluate(
    model: Model,
    task: Task,
    circuits: Circuit | Sequence[Circuit],
    *,
    measures: Sequence[str] = ("faithfulness", "kl"),
    subsets: int = 10,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> xr.Dataset:
    """The variables above for one circuit or several of the same model.

    measures: any of "faithfulness", "kl", "completeness", "minimality"; the first is always there. subsets:
        random sets of nodes for `incompleteness`, 0 for none.
    ablation, direction, metric: as in `circuits.run`. level, seed: of the intervals and the sets.

    Returns a Dataset with dims prompt, circuit, node and subset (and metric, if there are several): `value`,
    the effect F(C) - F(∅), positive where the circuit helps; `raw`, F(C); `clean` and `empty`, F(M) and F(∅)
    by prompt; counts `edges`, `nodes`, `heads`; and the variables of the measures asked for.

    The attribute `selected_on` says whether a circuit was found on the same prompts, where it is known.
    Cost, by prompt: a forward of a circuit for each of 1 + circuits, and with completeness another circuits ×
    (1 + 2 subsets), with minimality one for each node; all metrics are read off the same forwards. Raises
    ValueError before the first forward pass for circuits of another model and as `circuits.run` does.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> circuit = interp.circuits.top(interp.circuits.score_edges(model, task, progress=False), 40)
        >>> found = interp.circuits.evaluate(model, task, circuit, progress=False)
        >>> bool(found["low"] <= found["faithfulness"]), found["kl"].dims
        (True, ('prompt', 'circuit'))
    """
    given = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    masks, wanted = masks_of(given, Graph.of(model), task), _measures(measures, subsets)
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, seed=seed,
        batch_size=batch_size, memory=memory, progress=progress,
    )  # fmt: skip
    requests = _Requests(Graph.of(model), given, masks, wanted, subsets, np.random.default_rng(seed))
    parts, divergence = requests.run(experiment, "kl" in wanted)
    kept = parts["kept"]
    attrs = recipe(experiment, "evaluate", level=level, **_selected_on(given, task))
    ratios = faithfulness(kept, experiment, level=level, seed=seed)
    variables = kept.variables(experiment, ("circuit",)) | _counts(given)
    variables |= {name: (("circuit", "metric"), ratio) for name, ratio in ratios.items()}
    variables |= requests.measured(parts)
    if divergence is not None:
        variables["kl"] = (("prompt", "circuit"), divergence)
    coords: dict[str, Any] = {"circuit": np.array([circuit.name for circuit in given], dtype=object)}
    if "minimality" in wanted:
        coords["node"] = np.array(Graph.of(model).nodes, dtype=object)
    return results.dataset(variables, coords | metric_coord(experiment), attrs, task)


def _selected_on(circuits: Sequence[Circuit], task: Task) -> dict[str, str]:
    """Whether circuits were found on these prompts, where their provenance says on which."""
    known = {str(c.provenance["task_fingerprint"]) for c in circuits if "task_fingerprint" in c.provenance}
    if not known:
        return {}
    return {"selected_on": "the same prompts" if task.fingerprint() in known else "other prompts"}


class _Requests:
    """The masks that the measures need, by what they are for, and what follows from their metrics."""

    def __init__(
        self,
        graph: Graph,
        circuits: list[Circuit],
        masks: Bool[Tensor, "circuit *pos writer reader"],
        measures: set[str],
        subsets: int,
        rng: np.random.Generator,
    ) -> None:
        self.graph, self.measures, self.subsets = graph, measures, subsets
        whole = graph.allowed.to(masks.device).expand(masks.shape[1:])
        sets = subsets if "completeness" in measures else 0
        drawn = [[_subset(circuit, rng) for _ in range(sets)] for circuit in circuits]
        self.tried = [_inner(circuit) if "minimality" in measures else [] for circuit in circuits]
        self.masks: dict[str, list[Tensor]] = {
            "kept": list(masks),
            "rest": list(whole & ~masks) if "completeness" in measures else [],
            "cut": [without(mask, graph, nodes) for mask, sets in zip(masks, drawn) for nodes in sets],
            "left": [without(whole, graph, nodes) for sets in drawn for nodes in sets],
            "fewer": [without(mask, graph, [n]) for mask, nodes in zip(masks, self.tried) for n in nodes],
        }

    def run(self, experiment: Experiment, kl: bool) -> tuple[dict[str, Measured], np.ndarray | None]:
        """The metrics of all masks, by what they are for, and the KL of the circuits, from one run."""
        metrics = experiment.metric
        more = kl and not any(metric.name == KL().name for metric in metrics)
        both = replace(experiment.contrast, metric=(*metrics, KL())) if more else experiment.contrast
        every = [mask for masks in self.masks.values() for mask in masks]
        raw, whole, empty = measure(start(replace(experiment, contrast=both)), torch.stack(every))
        n, names = len(metrics), [metric.name for metric in both.metric]
        ends = np.cumsum([len(masks) for masks in self.masks.values()])[:-1]
        split = zip(self.masks, np.split(raw[..., :n], ends, axis=1))
        parts = {name: Measured(part, whole[:, :n], empty[:, :n]) for name, part in split}
        return parts, raw[:, : ends[0], names.index(KL().name)] if kl else None

    def measured(self, parts: dict[str, Measured]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Completeness and minimality, where they are asked for."""
        raw = {name: part.raw for name, part in parts.items()}
        whole, empty = parts["kept"].whole, parts["kept"].empty
        gap, n = (whole - empty).mean(0), raw["kept"].shape[1]  # [metric]
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        if "completeness" in self.measures:
            missing = np.abs(raw["cut"].mean(0) - raw["left"].mean(0)) / np.abs(gap)
            without = (raw["rest"] - empty[:, None]).mean(0) / gap
            variables["without"] = (("circuit", "metric"), without)
            variables["complement"] = (("prompt", "circuit", "metric"), raw["rest"])
            dims = ("circuit", "subset", "metric")
            variables["incompleteness"] = (dims, missing.reshape(n, self.subsets, len(gap)))
        if "minimality" in self.measures:
            loss = self._minimality(raw["kept"].mean(0), raw["fewer"].mean(0)) / gap
            variables["minimality"] = (("circuit", "node", "metric"), loss)
        return variables

    def _minimality(
        self, kept: Float[np.ndarray, "circuit metric"], fewer: Float[np.ndarray, "tried metric"]
    ) -> Float[np.ndarray, "circuit node metric"]:
        """What each node adds; NaN where a node is not in the circuit."""
        out = np.full((len(kept), len(self.graph.nodes), kept.shape[-1]), np.nan)
        losses = iter(fewer)
        for number, nodes in enumerate(self.tried):
            for node in nodes:
                out[number, self.graph.nodes.index(node)] = kept[number] - next(losses)
        return out


def without(mask: Bool[Tensor, "*pos writer reader"], graph: Graph, nodes: Sequence[str]) -> Tensor:
    """A mask with every edge out of and into some nodes cut. Shared keys and values stay for the others."""
    out = mask.clone()
    owners = graph.owners.to(mask.device)
    index = [graph.nodes.index(node) for node in nodes]
    gone = owners[:, index].sum(1) == owners.sum(1)
    out[..., gone] = False
    out[..., index, :] = False
    return out


def _measures(measures: Sequence[str], subsets: int) -> set[str]:
    names = [measures] if isinstance(measures, str) else list(measures)
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"measure {name!r} is not one of {', '.join(MEASURES)}{hint(name, MEASURES)}")
    if subsets < 0:
        raise ValueError(f"subsets is {subsets}; give 0 or more.")
    return set(names)


def _inner(circuit: Circuit) -> list[str]:
    return [node for node in circuit.nodes() if node not in ("input", "logits")]


def _subset(circuit: Circuit, rng: np.random.Generator) -> list[str]:
    """Each node with probability one half."""
    nodes = _inner(circuit)
    return [node for node, take in zip(nodes, rng.random(len(nodes)) < 0.5) if take]


def _counts(circuits: list[Circuit]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    counts = {"edges": [c.n_edges for c in circuits], "nodes": [len(c.nodes()) for c in circuits]}
    counts["heads"] = [len(c.heads()) for c in circuits]
    return {name: (("circuit",), np.array(values)) for name, values in counts.items()}
