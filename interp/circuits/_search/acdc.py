"""ACDC: cut every edge that the metric does not miss (Conmy et al. 2023, arXiv:2304.14997).

1. Start with every edge. Go through the readers from the logits back to the first layer, and through the
   edges of each from the last writer to the first.
2. A reader whose nodes have no kept edge to anything is dead: its edges are cut without a run.
3. Cut the edge and measure the loss (the mean over prompts; for metrics where higher is better, minus it).
   If it grows by less than the threshold, the edge stays cut.

The decisions are exactly these, one after the other. What makes them fast:
- speculation: one batch holds the next edges, row i as if the edges before it were decided as guessed; rows
  count up to the first wrong guess (`decisions.py`);
- laziness: a row is computed as a change to the circuit so far, so that only what kept edges reach from the
  cut is run, at the positions that matter (`forward.py`).

Rounding: a batch and a single run agree to about 1e-7 in float32. Decisions within 1e-6 of the threshold are
counted and named in the provenance (`n_ties`, `ties`). In half precision the same circuit has another loss in
another company: by how much is measured on circuits drawn at random, stands in the provenance (`resolution`)
and takes the place of 1e-6; a threshold below it decides by rounding, and a warning says so.

`acdc_sweep` goes from the highest threshold down. Each circuit guesses the decisions of the next, which saves
rows where thresholds lie close; every circuit is exactly what `acdc` finds at its threshold.

A store is a file that a search is written to as it goes, and from which a killed run resumes: JSON lines.
The first says which run it is; each other holds one batch: its decisions as [edge, metric, kept] (metric
null: dead reader), the rows it took, and the guesses that the next batch goes on with. A line that a kill cut
short is dropped. What is read back is exact, so a resumed run decides as one that was not
interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp._verbs import verb, warn
from interp.ablation import Ablation
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._run import elsewhere
from interp.circuits._run.batch import batch_reach, planned_room, planned_values, rebased, values
from interp.circuits._run.job import Job, one_metric, prepare, start
from interp.circuits._run.state import Base, State
from interp.circuits._search.decisions import TIE, Proposal, Rule, Search, circuit_of, edge_order
from interp.experiment import MEMORY, Experiment, Metrics
from interp.models import Model
from interp.stores import LogStore, open_log
from interp.tasks import Task
from interp.tasks.metrics import KL

_FIRST = 16


@verb
def acdc(
    model: Model,
    task: Task,
    threshold: float | int,
    *,
    absolute: bool = False,
    order: str = "late",
    guess: Circuit | None = None,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    progress: bool = True,
) -> Circuit:
    """The circuit that is left when every edge has been tried once.

    threshold: in units of the metric; a lower one keeps more edges. -inf keeps all, inf none.
    absolute: cut if the loss changes by less than the threshold, up or down.
    order: of the edges into a reader: "late" (from the last writer) or "early".
    guess: a circuit that the result will be like, such as that of a higher threshold. It saves forwards where
        it is right and changes nothing else.
    ablation: what a cut edge carries: "resample" (the corrupt prompts), "zero", "mean", or constants
        [writer, d_model]. The clean prompts are run; give `task.swap()` for the other direction.
    metric: one, KL by default; any that a mean over prompts makes sense of.
    batch_size: rows in a batch at most; by default what keeps the processor busy. memory: bytes to use above
        the model's own.
    store: a file that every batch of decisions is appended to; the same call after a kill goes on from there.
        One that holds another run, or is in use, is refused.
    progress: one bar, counting decided edges.

    Returns a Circuit whose scores are the growth of the loss when each edge was tried (NaN: dead reader) and
    whose provenance has threshold, recipe and counts; `trace(circuit)` gives the decisions in order.

    Cost: two forwards per prompt; for each edge into a live reader a row, of which only the changes are run.
    Where `memory` does not hold all prompts, another two forwards per prompt for every batch of rows.
    Raises ValueError for anything wrong with the request, before the first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> circuit = interp.circuits.acdc(model, task, threshold=0.1, progress=False)
        >>> 0 < circuit.n_edges < circuit.graph.n_edges
        True
    """
    experiment = prepare(
        model, task, ablation=ablation, direction="noise", metric=KL() if metric is None else metric,
        batch_size=batch_size, memory=memory, store=store, progress=progress,
    )  # fmt: skip
    one_metric(experiment, "acdc")
    rule = Rule(float(threshold), absolute)
    _check(rule, order, guess, model)
    with open_log(experiment.budget.store, "acdc", _identity(experiment, rule, order)) as log:
        job = start(experiment)
        with torch.inference_mode():
            losses = Losses(job)
            return search(job, _resolved(rule, job, losses), order, guess, log, losses)


@verb
def acdc_sweep(
    model: Model,
    task: Task,
    thresholds: Sequence[float | int],
    *,
    absolute: bool = False,
    order: str = "late",
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
    progress: bool = True,
) -> list[Circuit]:
    """The circuit of each threshold, in the order given: a Pareto curve of size against loss.

    store: a folder, with a file for each threshold. workers, executor: as in `interp.patch`; a unit is a
    threshold, whose file is written when it is whole, and no circuit guesses for the next: the decisions are
    the same, and take more rows. The rest is as in `acdc`.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> small, large = interp.circuits.acdc_sweep(model, task, [0.3, 0.1], progress=False)
        >>> small.n_edges < large.n_edges
        True
    """
    if not len(thresholds):
        raise ValueError("no threshold given. Give at least one, for example [0.1, 0.03, 0.01].")
    if store is not None and Path(store).is_file():
        raise ValueError(f"{store} is a file. A sweep has a file for each threshold; give a folder.")
    circuits: dict[float, Circuit] = {}
    guess, descending = None, sorted({float(t) for t in thresholds}, reverse=True)
    paths = {each: None if store is None else Path(store) / f"{each:g}.jsonl" for each in descending}
    if workers is not None or executor is not None:
        experiment = prepare(
            model, task, ablation=ablation, direction="noise", metric=KL() if metric is None else metric,
            batch_size=batch_size, memory=memory, store=store, workers=workers, executor=executor,
            progress=progress,
        )  # fmt: skip
        todo = [each for each in descending if (path := paths[each]) is None or not path.exists()]
        circuits = _found_elsewhere(experiment, todo, absolute, order, paths)
    for threshold in (each for each in descending if each not in circuits):
        path = paths[threshold]
        guess = circuits[threshold] = acdc(
            model, task, threshold, absolute=absolute, order=order, guess=guess, ablation=ablation,
            metric=metric, batch_size=batch_size, memory=memory, store=path, progress=progress,
        )  # fmt: skip
    return [circuits[float(threshold)] for threshold in thresholds]


def _found_elsewhere(
    experiment: Experiment,
    thresholds: Sequence[float],
    absolute: bool,
    order: str,
    paths: Mapping[float, Path | None],
) -> dict[float, Circuit]:
    """The circuits of some thresholds, searched by workers; the driver alone writes their files."""
    one_metric(experiment, "acdc")
    rules = [Rule(threshold, absolute) for threshold in thresholds]
    for rule in rules:
        _check(rule, order, None, experiment.model)
    circuits, quiet = {}, not experiment.budget.progress
    with tqdm(total=len(rules), disable=quiet, desc="acdc", unit="threshold") as bar:
        handed = elsewhere.handed(experiment, _found, [(rule, order) for rule in rules])
        for (rule, _), (circuit, lines) in handed:
            identity = _identity(experiment, rule, order)
            with open_log(paths[rule.threshold], "acdc", identity) as log:
                if log is not None and not log.lines:
                    for line in lines:
                        log.append(line)
            circuits[rule.threshold] = circuit
            bar.update()
    return circuits


class _Kept(LogStore):
    """Decisions that go back to the driver, which writes them."""

    def append(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))


def _found(job: Job, unit: tuple[Rule, str]) -> tuple[Circuit, list[dict[str, Any]]]:
    """In a worker: the circuit of a threshold, and its decisions."""
    (rule, order), kept, losses = unit, _Kept(Path()), Losses(job)
    return search(job, _resolved(rule, job, losses), order, None, kept, losses), kept.lines


def search(
    job: Job, rule: Rule, order: str, guess: Circuit | None, log: LogStore | None, losses: Losses
) -> Circuit:
    """Decide every edge, from where the log stands on."""
    budget = job.experiment.budget
    limit = losses.limit if budget.batch_size is None else min(budget.batch_size, losses.limit)
    state = Search(job.graph, order, rule, losses.loss(losses.clean), _FIRST, limit)
    if guess is not None:
        state.expected |= guess.kept.cpu().numpy()
    rows, batches = (0, 0) if log is None else _replay(log, state, losses.sign)
    total = len(state.order)
    with tqdm(total=total, initial=state.at, disable=not budget.progress, desc="acdc", unit="edge") as bar:
        bar.set_postfix(kept=state.kept)
        while not state.done:
            first, proposal = state.at, state.propose()
            measured = losses(proposal.masks, state.mask) if len(proposal.masks) else []
            state.take(proposal, [losses.loss(value) for value in measured])
            rows, batches = rows + len(measured), batches + 1
            if log is not None:
                log.append(_entry(state, first, proposal, measured))
            bar.update(state.at - first)
            bar.set_postfix(kept=state.kept)
    return circuit_of(state, job.experiment, losses.clean, rows, batches)


def _resolved(rule: Rule, job: Job, losses: Losses) -> Rule:
    """The rule with what rounding may do to a loss, in half precision."""
    if job.facts.dtype.itemsize > 2:
        return rule
    graph, rng = job.graph, np.random.default_rng(0)
    allowed = graph.allowed.numpy()
    masks = np.stack([allowed & (rng.random(allowed.shape) < share) for share in np.linspace(0.1, 0.99, 8)])
    together, alone = losses(masks, allowed), [losses(mask[None], allowed)[0] for mask in masks]
    fresh = [losses(mask[None], mask | (allowed & (rng.random(allowed.shape) < 0.5)))[0] for mask in masks]
    gaps = np.abs(np.array([together, fresh]) - np.array(alone))
    resolution = max(TIE, 2 * float(gaps.max()))
    if abs(rule.threshold) < resolution:
        dtype = str(job.facts.dtype).removeprefix("torch.")
        warn(
            f"in {dtype} a loss of this model is known to about {resolution:.2g}, and the threshold is "
            f"{rule.threshold:g}: rounding decides. Load the model in float32, or raise the threshold."
        )
    return replace(rule, resolution=resolution)


def _check(rule: Rule, order: str, guess: Circuit | None, model: Model) -> None:
    if math.isnan(rule.threshold):
        raise ValueError("the threshold is NaN. Give a number in units of the metric, or inf.")
    graph = Graph.of(model)
    edge_order(Graph(1, 1), order)  # raises for an unknown order
    if guess is not None and guess.graph != graph:
        raise ValueError(
            f"guess={guess.name!r} is a circuit of another model: its graph is {guess.graph}, this model's "
            f"is {graph}. Give a circuit of this model, or none."
        )


def _identity(experiment: Experiment, rule: Rule, order: str) -> dict[str, Any]:
    """What must be the same for a run to be the same."""
    own = {"threshold": repr(rule.threshold), "absolute": rule.absolute, "order": order}
    return {**experiment.identity(), "graph": str(Graph.of(experiment.model)), **own}


def _replay(log: LogStore, state: Search, sign: float) -> tuple[int, int]:
    """Bring a new search to where the log stands; rows and batches that it took."""
    for line in log.lines:
        for edge, value, kept in line["decisions"]:
            name = _name(state.graph, state.order[state.at])
            if state.decide(None if value is None else sign * value) != kept or name != edge:
                raise ValueError(f"{log.path}: the decision on {edge!r} does not follow from the file.")
    if log.lines:
        last = log.lines[-1]
        state.size = last["size"]
        state.expected[:] = False
        for edge in last["expected"]:
            state.expected[state.graph.edge(edge)] = True
    return sum(line["rows"] for line in log.lines), len(log.lines)


def _entry(state: Search, first: int, proposal: Proposal, measured: list[float]) -> dict[str, Any]:
    """The decisions of a batch, from edge number `first` on."""
    decisions = []
    for number in range(first, state.at):
        edge, row = state.order[number], proposal.rows[number - first]
        value = None if row < 0 else measured[row]
        decisions.append([_name(state.graph, edge), value, bool(state.mask[tuple(edge)])])
    expected = [_name(state.graph, edge) for edge in np.argwhere(state.expected)]
    return {"decisions": decisions, "rows": len(measured), "size": state.size, "expected": expected}


def _name(graph: Graph, edge: np.ndarray) -> str:
    return f"{graph.writers[edge[0]]}->{graph.readers[edge[1]]}"


_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}  # of the stream in a batch: beyond, a larger batch is no faster
_MOST = 128  # a wrong guess throws half of a batch away


class Losses:
    """The mean metric of batches of circuits over all prompts, each batch as changes to the circuit so far.

    Base runs stay in memory where all prompts fit into its half. Where they do not, blocks of prompts take
    turns, and every batch makes the base runs again.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = job.runs.base.device
        self.kept = [job.base()] if len(job.blocks(rebased=True)) == 1 else []
        self.sign = -1.0 if job.metric[0].better == "higher" else 1.0
        ends = [(base.values[None], base.pre[0].numel()) for base in self._bases()]
        self.clean = self._mean([values for values, _ in ends])[0]
        self.elements = sum(elements for _, elements in ends)  # of the stream that one row computes

    def _bases(self) -> Iterator[Base]:
        yield from self.kept or (base for _, base in self.job.bases(rebased=True))

    @property
    def limit(self) -> int:
        """Rows beyond which a batch is no faster."""
        most = _ELEMENTS.get(self.device.type, 2**24) // self.elements
        return max(8, min(most, _MOST))

    def loss(self, value: float) -> float:
        """Lower is better."""
        return self.sign * value

    def __call__(
        self, masks: Bool[np.ndarray, "circuit writer reader"], now: Bool[np.ndarray, "writer reader"]
    ) -> list[float]:
        """The metric of each mask; all of them keep no edge that `now` has cut."""
        rows, start = torch.from_numpy(masks).to(self.device), torch.from_numpy(now.copy()).to(self.device)
        return self._mean([self._values(base, rows, start) for base in self._bases()])

    def _values(self, base: Base, masks: Tensor, now: Tensor) -> Tensor:
        state = self._state(base, now)
        plan = batch_reach(base, state, masks, True)
        size = planned_room(base, plan, self.job.room)
        if size >= len(masks):
            return planned_values(base, state, masks, plan)
        return torch.cat([values(base, state, some) for some in masks.split(size)])

    def _state(self, base: Base, now: Tensor) -> State:
        return base.full if torch.equal(now, base.full.mask) else rebased(base, now)

    def _mean(self, parts: list[Tensor]) -> list[float]:
        return torch.cat(parts, 1)[..., 0].mean(1).tolist()
