"""Circuits of a model on a task, checked before the first forward pass, and ready to run.

Memory: half of the budget for what a block of prompts holds (the base run, and the gap of every writer), half
for the circuits of a batch. Both only decide how much is done at once, never the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp import experiment as experiments
from interp._arguments import shown
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph, Spans
from interp.circuits._run.ablation import check_ablation, constants_of, sites
from interp.circuits._run.state import Base
from interp.engine.memory import Budget
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.engine.trust import require_weights
from interp.experiment import Experiment
from interp.models import Anatomy, Model, unsupported
from interp.models.parts import Weights
from interp.tasks import Task
from interp.tasks.metrics import Metric


@dataclass(frozen=True, eq=False)
class Job:
    """An experiment with circuits: the model's own weights, and the runs between which edges are cut."""

    experiment: Experiment
    weights: Weights
    spans: Spans
    runs: Runs

    @classmethod
    def of(cls, experiment: Experiment, read: tuple[str, ...] = ()) -> Job:
        """Once the trust check has passed; `read` are sites whose activations count beside the writers'.

        Cost: that of the check (`engine/trust.py`), and a forward a prompt for the means of a mean ablation.
        """
        model, facts = experiment.model, experiment.facts
        runs = experiment.runs(sites(model))
        checked = [site for site in ("z", "attn_out", "mlp_out", *read) if site in facts.sites()]
        parts = require_weights(model, runs.base, runs.lengths, sites=checked, what="circuits")
        return cls(experiment, parts, Spans(Graph.of(model)), runs)

    @property
    def graph(self) -> Graph:
        return self.spans.graph

    @property
    def metric(self) -> tuple[Metric, ...]:
        return self.experiment.metric

    @property
    def facts(self) -> Anatomy:
        return self.experiment.facts

    @property
    def room(self) -> Budget:
        return self.experiment.room

    @property
    def constants(self) -> Tensor | None:
        return constants_of(self.experiment.contrast.ablation)

    def by_metric(self) -> Iterator[Job]:
        """The same job with each metric alone."""
        for metric in self.metric:
            contrast = replace(self.experiment.contrast, metric=(metric,))
            yield replace(self, experiment=replace(self.experiment, contrast=contrast))

    def bases(self, rebased: bool = False) -> Iterator[tuple[slice, Base]]:
        """Blocks of prompts, each with its base run, which is emptied before the next is made."""
        for block in self.blocks(rebased):
            base = self.base(block)
            yield block, base
            base.let_go()

    def blocks(self, rebased: bool = False) -> list[slice]:
        """The prompts whose base run (and with `rebased` the state of another circuit) is held at once."""
        n, size = len(self.runs), self._prompts_at_once(rebased)
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def base(self, block: slice = slice(None)) -> Base:
        """The base run of some prompts."""
        return Base(self.weights, self.runs.take(block), self.spans, self.metric, self.constants)

    def _prompts_at_once(self, rebased: bool = False) -> int:
        facts, reads = self.facts, Reads(self.runs, self.metric)
        columns = facts.d_vocab if reads.columns is None else len(reads.columns)
        per_pos = len(self.graph.writers) * facts.d_model * 2
        if rebased:  # what writers write beyond the base run, what readers see, what their cuts add
            per_pos += (len(self.graph.writers) + 2 * len(self.graph.readers)) * facts.d_model
        per_pos += facts.n_layers * (8 * facts.d_model + 8 * facts.n_heads * facts.d_head)
        each = self.runs.n_pos * per_pos + 4 * columns * (self.runs.n_pos if reads.everywhere else 1)
        return max(1, int(self.room.limit / 2 / (each * self.room.item_size)))


def prepare(model: Model, task: Task, **arguments: Any) -> Experiment:
    """`interp.experiment.prepare` in circuits' natural direction, for a model whose edges can be cut."""
    experiment = experiments.prepare(model, task, natural="noise", **arguments)
    check_model(experiment.facts, model)
    check_ablation(experiment.contrast.ablation, Graph.of(model))
    return experiment


def start(experiment: Experiment) -> Job:
    """The job, with tensors of inference."""
    with torch.inference_mode():
        return Job.of(experiment)


def one_metric(experiment: Experiment, verb: str) -> Metric:
    """The metric of a verb that decides by one. Raises ValueError for several."""
    first, *others = experiment.metric
    if others:
        names = ", ".join(metric.name for metric in experiment.metric)
        raise ValueError(f"{verb} decides by one metric, and got {names}. Give one of them.")
    return first


def check_model(facts: Anatomy, model: Model) -> None:
    """Raise ValueError for a model whose edges cannot be cut."""
    if facts.post_norm:
        raise ValueError(
            f"{facts.name} norms what attention and MLPs write before it reaches the stream (Gemma 2 and 3, "
            "OLMo 2), so what a head adds depends on the other heads of its layer and no edge has a write of "
            "its own. Circuits need a model without such norms; interp.patch takes this one."
        )
    if reason := unsupported(model):
        raise ValueError(f"circuits cannot be run on {facts.name}: {reason}.")


def masks_of(
    circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "circuit *pos writer reader"],
    graph: Graph,
    task: Task,
) -> Bool[Tensor, "circuit *pos writer reader"]:
    """The masks of some circuits, True where an edge is kept. ValueError for those of another model.

    Of circuits by span [circuit, prompt, pos, writer, reader], since a span stands elsewhere in each prompt.
    """
    listed = [circuits] if isinstance(circuits, Circuit) else circuits
    if isinstance(circuits, Tensor):
        masks = circuits
    elif not isinstance(listed, Sequence) or not all(isinstance(each, Circuit) for each in listed):
        raise ValueError(f"circuits is {shown(circuits)}; give a Circuit, a list of them, or a mask tensor.")
    else:
        several = list(listed)
        if any(circuit.spans for circuit in several):
            return _by_span(several, graph, task)
        masks = _stacked(several, graph)
    wanted = (len(graph.writers), len(graph.readers))
    if masks.ndim not in (3, 4) or tuple(masks.shape[-2:]) != wanted or masks.dtype != torch.bool:
        raise ValueError(
            f"the mask is {masks.dtype} {list(masks.shape)}; this model needs torch.bool "
            f"[circuit, (pos,) {wanted[0]} writers, {wanted[1]} readers], True where an edge is kept."
        )
    if masks.ndim == 4:
        _check_mask_positions(masks, task)
    return masks & graph.allowed.to(masks.device)


def names_of(circuits: Circuit | Sequence[Circuit] | Tensor, n: int) -> np.ndarray:
    """What to call each of n circuits: its name, or its number."""
    if isinstance(circuits, Tensor):
        return np.array([f"circuit {number}" for number in range(n)], dtype=object)
    several = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    return np.array([circuit.name for circuit in several], dtype=object)


def _by_span(
    circuits: list[Circuit], graph: Graph, task: Task
) -> Bool[Tensor, "circuit prompt pos writer reader"]:
    """An edge is kept at the positions of the spans that it is kept in, and without spans everywhere."""
    _require_graph(circuits, graph)
    masks = []
    for circuit in circuits:
        missing = [name for name in circuit.spans if name not in task.spans]
        if missing:
            raise ValueError(
                f"{circuit.name!r} is by the spans {', '.join(circuit.spans)}, and the task has no "
                f"{', '.join(missing)}. Give spans= when building the task, or take one with the same names."
            )
        if circuit.mask.ndim == 3 and not circuit.spans:
            raise ValueError(f"{circuit.name!r} is by position and others are by span. Run them apart.")
        mask = circuit.mask.to(task.clean.device)
        if circuit.spans:
            marks = torch.stack([task.spans[name] for name in circuit.spans], -1)  # [prompt, pos, span]
            mask = (marks.float() @ mask.flatten(1).float() > 0).unflatten(-1, mask.shape[1:])
        masks.append(mask.expand(*task.clean.shape, *mask.shape[-2:]))
    return torch.stack(masks) & graph.allowed.to(task.clean.device)


def _stacked(circuits: list[Circuit], graph: Graph) -> Tensor:
    if not circuits:
        raise ValueError("no circuit given. Give a Circuit, a list of them, or a mask tensor.")
    _require_graph(circuits, graph)
    lengths = {circuit.mask.shape[0] for circuit in circuits if circuit.mask.ndim == 3}
    if len(lengths) > 1:
        raise ValueError(f"the circuits have {sorted(lengths)} positions. Run those of each length apart.")
    if not lengths:
        return torch.stack([circuit.mask for circuit in circuits])
    shape = (lengths.pop(), *graph.allowed.shape)
    return torch.stack([circuit.mask.expand(shape) for circuit in circuits])


def _require_graph(circuits: list[Circuit], graph: Graph) -> None:
    for circuit in circuits:
        if circuit.graph != graph:
            raise ValueError(
                f"{circuit.name!r} is a circuit of another model: its graph is {circuit.graph}, this model's "
                f"is {graph}. Use the model that it was found in."
            )


def _check_mask_positions(masks: Tensor, task: Task) -> None:
    n_pos = task.clean.shape[1]
    if masks.shape[1] != n_pos:
        raise ValueError(f"the masks have {masks.shape[1]} positions, the prompts have {n_pos} tokens.")
    check_positions(task, "circuits without positions")


def check_positions(task: Task, instead: str) -> None:
    """Raise ValueError unless a position is the same place in every prompt."""
    if (task.lengths != task.lengths[0]).any() or (task.positions != task.positions[0]).any():
        raise ValueError(
            f"prompts differ in length ({int(task.lengths.min())} to {int(task.lengths.max())} tokens) or in "
            "the answer's position, so one position is not the same place in all of them. Give prompts of "
            f"one length, or {instead}."
        )
