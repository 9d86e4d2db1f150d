"""The decisions of ACDC, and how they are guessed ahead.

`Search` knows nothing of models. It proposes rows, each a mask in which one more edge is cut and every
earlier edge is as it is guessed to be decided; it is told their losses; it takes the decisions that these
prove, which are those up to the first wrong guess, and no others. So the decisions are the sequential ones
whatever the guesses were.

Guesses: cut, unless an edge is expected to be kept. After a wrong guess, the rows behind it, which prove
nothing, still tell about how much each of their edges adds to the loss: the next guesses come from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numpy as np
import torch

from interp import results
from interp._verbs import verb
from interp.circuits._circuit import Circuit, Provenance
from interp.circuits._graph import Graph
from interp.experiment import Experiment

ORDERS = ("late", "early")
TIE = 1e-6
SMALLEST = 8  # rows of a batch, however wrong the guesses


@dataclass(frozen=True)
class Rule:
    """An edge is cut if the loss grows by less than the threshold (`absolute`: changes by less)."""

    threshold: float
    absolute: bool = False
    resolution: float = TIE  # what rounding may do to a loss

    def size(self, increase: float) -> float:
        return abs(increase) if self.absolute else increase

    def cuts(self, increase: float) -> bool:
        return self.size(increase) < self.threshold

    def tie(self, increase: float) -> bool:
        """Whether rounding could have decided."""
        return abs(self.size(increase) - self.threshold) <= self.resolution


@dataclass(frozen=True, eq=False)
class Proposal:
    """Edges in order, and the rows that decide them; an edge of a dead reader has no row (-1)."""

    first: int  # number of the first edge in the order
    rows: list[int]  # by edge
    guesses: list[bool]  # by edge: kept
    masks: np.ndarray  # [row, writer, reader]


def edge_order(graph: Graph, order: str) -> np.ndarray:
    """(writer, reader) of every edge as they are decided: readers from the logits back to the first layer;
    within a reader the writers from the last ("late") or from the first ("early")."""
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is not one of {', '.join(ORDERS)}.")
    step = -1 if order == "late" else 1
    columns = graph.allowed.numpy()
    edges = [
        (writer, reader)
        for reader in reversed(range(columns.shape[1]))
        for writer in np.flatnonzero(columns[:, reader])[::step].tolist()
    ]
    return np.array(edges)


class Search:
    """Where a search stands. `mask` is what is kept so far; `increase` is NaN for edges of dead readers."""

    def __init__(self, graph: Graph, order: str, rule: Rule, loss: float, size: int, limit: int) -> None:
        self.graph, self.rule, self.limit = graph, rule, limit
        self.order_name, self.order = order, edge_order(graph, order)  # [edge, 2]
        self.mask = graph.allowed.numpy().copy()
        self.expected = np.zeros_like(self.mask)  # to be kept
        self.increase = np.full(len(self.order), nan)
        self.at, self.loss, self.size = 0, loss, min(size, limit)
        self._masks = np.empty((0, *self.mask.shape), bool)
        self._stops = {reader: end + 1 for end, reader in enumerate(self.order[:, 1].tolist())}
        owners = graph.owners.numpy()  # [reader, node]
        self._writers = [np.flatnonzero(row[:-1]) for row in owners]  # nodes of a reader; none for the logits

    @property
    def done(self) -> bool:
        return self.at == len(self.order)

    @property
    def kept(self) -> int:
        """Edges kept among those decided."""
        return int(self.mask.sum()) - (len(self.order) - self.at)

    def propose(self) -> Proposal:
        """The next edges, up to `size` rows. The masks of the proposal before are written over."""
        mask, out = self.mask.copy(), self.mask.sum(1)
        if len(self._masks) < self.size:
            self._masks = np.empty((self.size, *mask.shape), bool)
        rows: list[int] = []
        guesses: list[bool] = []
        n_rows = 0
        for reader, writers in self._readers_left():
            nodes = self._writers[reader]
            if len(nodes) and not out[nodes].any():  # dead, whatever becomes of its own edges
                mask[writers, reader] = False
                out[writers] -= 1
                rows += [-1] * len(writers)
                guesses += [False] * len(writers)
                continue
            for writer in writers[: self.size - n_rows].tolist():
                keep = bool(self.expected[writer, reader])
                mask[writer, reader] = False
                self._masks[n_rows] = mask
                rows.append(n_rows)
                guesses.append(keep)
                mask[writer, reader] = keep
                out[writer] -= not keep
                n_rows += 1
            if len(rows) < self._stops[reader] - self.at:
                break
        return Proposal(self.at, rows, guesses, self._masks[:n_rows])

    def _readers_left(self) -> Iterator[tuple[int, np.ndarray]]:
        """Readers with undecided edges, in order, and the writers of those."""
        at = self.at
        while at < len(self.order):
            reader = int(self.order[at, 1])
            stop = int(self._stops[reader])
            yield reader, self.order[at:stop, 0]
            at = stop

    def take(self, proposal: Proposal, losses: Sequence[float]) -> None:
        """Decide what the losses of the proposal's rows prove; guess again from the others."""
        for number, (row, guess) in enumerate(zip(proposal.rows, proposal.guesses)):
            before = self.loss
            if self.decide(None if row < 0 else losses[row]) != guess:
                self._guess_again(proposal, losses, number + 1, before if guess else losses[row])
                self.size = max(SMALLEST, self.size // 2)
                return
        self.size = min(self.limit, 2 * self.size)

    def decide(self, loss: float | None) -> bool:
        """Decide the next edge from the loss with it cut (None: its reader is dead); whether it is kept."""
        writer, reader = self.order[self.at]
        keep = False
        if loss is not None:
            self.increase[self.at] = loss - self.loss
            keep = not self.rule.cuts(loss - self.loss)
            self.loss = self.loss if keep else loss
        self.mask[writer, reader] = keep
        self.expected[writer, reader] = False
        self.at += 1
        return keep

    def _guess_again(self, proposal: Proposal, losses: Sequence[float], first: int, before: float) -> None:
        """From the rows behind a wrong guess, each against the row that it continues."""
        for number in range(first, len(proposal.rows)):
            row = proposal.rows[number]
            if row >= 0:
                writer, reader = self.order[proposal.first + number]
                self.expected[writer, reader] = not self.rule.cuts(losses[row] - before)
                before = before if proposal.guesses[number] else losses[row]


_NAMED = 20  # ties


class Step(NamedTuple):
    """One decision. `value` is the mean metric with the edge cut; NaN for an edge of a dead reader."""

    edge: str
    value: float
    kept: bool


@verb
def trace(circuit: Circuit) -> list[Step]:
    """The decisions of ACDC, in order: steps (edge, value, kept), value the mean metric with the edge cut.

    Raises ValueError for a circuit that `acdc` did not make.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> circuit = interp.circuits.acdc(model, interp.tasks.ioi(model, n=4), 0.1, progress=False)
        >>> step = interp.circuits.trace(circuit)[0]
        >>> step.edge, step.kept
        ('m2->logits', False)
    """
    told = circuit.provenance
    if told.get("method") != "acdc" or circuit.scores is None:
        raise ValueError(f"{circuit.name!r} was not found by acdc (method {told.get('method')!r}): no trace.")
    sign = -1.0 if told["better"] == "higher" else 1.0
    loss, steps = sign * float(told["metric_clean"]), []
    for writer, reader in edge_order(circuit.graph, str(told["order"])).tolist():
        increase = float(circuit.scores[writer, reader])
        kept = bool(circuit.mask[writer, reader])
        steps.append(Step(circuit.graph.name(writer, reader), sign * (loss + increase), kept))
        loss = loss if kept or math.isnan(increase) else loss + increase
    return steps


def circuit_of(search: Search, experiment: Experiment, clean: float, rows: int, batches: int) -> Circuit:
    """A finished search as a circuit. Provenance holds strings and finite numbers, as JSON does."""
    graph, rule, metric = search.graph, search.rule, experiment.metric[0]
    scores = torch.full(search.mask.shape, math.nan, dtype=torch.float64)
    scores[tuple(search.order.T)] = torch.from_numpy(search.increase)
    tried = ~np.isnan(search.increase)
    close = [i for i in np.flatnonzero(tried) if rule.tie(float(search.increase[i]))]
    ties = [graph.name(*edge) for edge in search.order[close].tolist()]
    sign = -1.0 if metric.better == "higher" else 1.0
    finite = math.isfinite(rule.threshold)
    attrs: Provenance = results.attrs(
        experiment,
        method="acdc",
        site="edges",
        convention="score = growth of the loss when the edge was tried; positive: the edge helps",
        threshold=rule.threshold if finite else str(rule.threshold),
        absolute=rule.absolute,
        order=search.order_name,
        metric_clean=clean,
        metric_circuit=sign * search.loss,
        decided_by_a_run=int(tried.sum()),
        rows=rows,
        batches=batches,
        resolution=rule.resolution,
        n_ties=len(ties),
        ties=", ".join(ties[:_NAMED]),
    )
    mask = torch.from_numpy(search.mask)
    return Circuit(graph, mask, scores, attrs, f"acdc {metric.name} {rule.threshold:g}")
