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
counted and named in the provenance (`n_ties`, `ties`).

`acdc_sweep` goes from the highest threshold down. Each circuit guesses the decisions of the next, which saves
rows where thresholds lie close; every circuit is exactly what `acdc` finds at its threshold.

A store is a file that a search is written to as it goes, and from which a killed run resumes: JSON lines.
The first says which run it is; each other holds one batch: its decisions as [edge, metric, kept] (metric
null: dead reader), the rows it took, and the guesses that the next batch goes on with. A line that a kill cut
short is dropped. What is read back is exact, so a resumed run decides as one that was not
interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._run.ablation import Ablation
from interp.circuits._run.batch import batch_reach, planned_room, planned_values, rebased, values
from interp.circuits._run.job import Job, prepare, the_metric
from interp.circuits._run.state import Base, State
from interp.circuits._search.decisions import Proposal, Rule, Search, circuit_of, edge_order
from interp.engine.memory import DEFAULT_BUDGET
from interp.files import write_text
from interp.models import Model, model_fingerprint
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric

_FIRST = 16


def acdc(
    model: Model,
    task: Task,
    threshold: float | int,
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metric | None = None,
    absolute: bool = False,
    order: str = "late",
    guess: Circuit | None = None,
    store: str | Path | None = None,
    resume: bool = True,
    chunk: int | None = None,
    memory: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> Circuit:
    """The circuit that is left when every edge has been tried once.

    threshold: in units of the metric; a lower one keeps more edges. -inf keeps all, inf none.
    ablation: what a cut edge carries: "resample" (the corrupt prompts), "zero", "mean", or constants
        [writer, d_model]. The clean prompts are run; give `task.swap()` for the other direction.
    metric: KL by default; any metric that a mean over prompts makes sense of.
    absolute: cut if the loss changes by less than the threshold, up or down.
    order: of the edges into a reader: "late" (from the last writer) or "early".
    guess: a circuit that the result will be like, such as that of a higher threshold. It saves forwards where
        it is right and changes nothing else.
    store: a file that every batch of decisions is appended to; the same call after a kill resumes from it
        (with `resume=False` a file that exists is refused). One that holds another run is refused.
    chunk: rows in a batch at most; by default what keeps the processor busy. memory: bytes to use above the
        model's own.
    progress: one bar, counting decided edges.

    Returns a Circuit whose scores are the growth of the loss when each edge was tried (NaN: dead reader) and
    whose provenance has threshold, recipe and counts; `trace(circuit)` gives the decisions in order.

    Cost: two forwards per prompt; for each edge into a live reader a row, of which only the changes are run.
    Raises ValueError for anything wrong with the request, before the first forward pass.
    """
    measure = the_metric(metric, KL())
    rule = Rule(float(threshold), absolute)
    _check(rule, order, guess, chunk, model)
    job = prepare(model, task, ablation, "noise", measure, memory)
    recorded = None if store is None else open_store(store, identity(model, task, job, rule, order), resume)
    with torch.inference_mode():
        return search(job, task, rule, order, guess, recorded, Losses(job), chunk, progress)


def search(
    job: Job,
    task: Task,
    rule: Rule,
    order: str,
    guess: Circuit | None,
    recorded: Store | None,
    losses: Losses,
    chunk: int | None,
    progress: bool,
) -> Circuit:
    """Decide every edge, from where the store stands on."""
    limit = losses.limit if chunk is None else min(chunk, losses.limit)
    found = Search(job.graph, order, rule, losses.loss(losses.clean), _FIRST, limit)
    if guess is not None:
        found.expected |= guess.kept.cpu().numpy()
    rows = batches = 0
    if recorded is not None:
        rows, batches = recorded.replay(found, losses.sign)
    with tqdm(
        total=len(found.order), initial=found.at, disable=not progress, desc="acdc", unit="edge"
    ) as bar:
        bar.set_postfix(kept=found.kept)
        while not found.done:
            first, proposal = found.at, found.propose()
            measured = losses(proposal.masks, found.mask) if len(proposal.masks) else []
            found.take(proposal, [losses.loss(value) for value in measured])
            rows, batches = rows + len(measured), batches + 1
            if recorded is not None:
                recorded.append(found, first, proposal, measured)
            bar.update(found.at - first)
            bar.set_postfix(kept=found.kept)
    return circuit_of(found, job, task, losses.clean, rows, batches)


def _check(rule: Rule, order: str, guess: Circuit | None, chunk: int | None, model: Model) -> None:
    if math.isnan(rule.threshold):
        raise ValueError("the threshold is NaN. Give a number in units of the metric, or inf.")
    graph = Graph.of(model)
    edge_order(Graph(1, 1), order)  # raises for an unknown order
    if guess is not None and guess.graph != graph:
        raise ValueError(
            f"guess={guess.name!r} is a circuit of another model: its graph is {guess.graph}, this model's "
            f"is {graph}. Give a circuit of this model, or none."
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1, or None.")


def acdc_sweep(
    model: Model,
    task: Task,
    thresholds: Sequence[float | int],
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metric | None = None,
    absolute: bool = False,
    order: str = "late",
    store: str | Path | None = None,
    resume: bool = True,
    memory: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> list[Circuit]:
    """The circuit of each threshold, in the order given.

    store: a folder, with a file for each threshold. The rest is as in `acdc`.
    """
    if not len(thresholds):
        raise ValueError("no threshold given. Give at least one, for example [0.1, 0.03, 0.01].")
    if store is not None and Path(store).is_file():
        raise ValueError(f"{store} is a file. A sweep has a file for each threshold; give a folder.")
    found: dict[float, Circuit] = {}
    guess = None
    for threshold in sorted({float(t) for t in thresholds}, reverse=True):
        options = {"ablation": ablation, "metric": metric, "absolute": absolute, "order": order}
        path = None if store is None else Path(store) / f"{threshold:g}.jsonl"
        guess = found[threshold] = acdc(
            model,
            task,
            threshold,
            guess=guess,
            store=path,
            resume=resume,
            memory=memory,
            progress=progress,
            **options,
        )
    return [found[float(threshold)] for threshold in thresholds]


_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}  # of the stream in a batch: beyond, a larger batch is no faster
_MOST = 256


class Losses:
    """All prompts stay in memory, block by block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.bases = [base for _, base in job.bases()]
        self.sign = -1.0 if job.metric.better == "higher" else 1.0
        self.clean = self._mean([base.values[None] for base in self.bases])[0]

    @property
    def limit(self) -> int:
        """Rows beyond which a batch is no faster."""
        each = sum(base.pre[0].numel() for base in self.bases)
        most = _ELEMENTS.get(self.bases[0].pre[0].device.type, 2**24) // each
        return max(8, min(most, _MOST))

    def loss(self, value: float) -> float:
        """Lower is better."""
        return self.sign * value

    def __call__(
        self, masks: Bool[np.ndarray, "circuit writer reader"], now: Bool[np.ndarray, "writer reader"]
    ) -> list[float]:
        """The metric of each mask; all of them keep no edge that `now` has cut."""
        device = self.bases[0].pre[0].device
        rows, start = torch.from_numpy(masks).to(device), torch.from_numpy(now.copy()).to(device)
        return self._mean([self._values(base, rows, start) for base in self.bases])

    def _values(self, base: Base, masks: Tensor, now: Tensor) -> Tensor:
        state = self._state(base, now)
        plan = batch_reach(base, state, masks, True)
        size = planned_room(base, plan, self.job.budget)
        if size >= len(masks):
            return planned_values(base, state, masks, plan)
        return torch.cat([values(base, state, some) for some in masks.split(size)])

    def _state(self, base: Base, now: Tensor) -> State:
        return base.full if torch.equal(now, base.full.mask) else rebased(base, now)

    def _mean(self, parts: list[Tensor]) -> list[float]:
        return torch.cat(parts, 1).mean(1).tolist()


_KIND = "interp acdc 1"


def identity(model: Model, task: Task, job: Job, rule: Rule, order: str) -> dict[str, str | bool]:
    """What must be the same for a run to be the same."""
    constants = job.ablation.constants
    numbers = b"" if constants is None else constants.detach().double().cpu().numpy().tobytes()
    return {
        "model": model_fingerprint(model),
        "task": task.fingerprint(),
        "graph": str(job.graph),
        "threshold": repr(rule.threshold),
        "absolute": rule.absolute,
        "order": order,
        "metric": repr(job.metric),
        "ablation": job.ablation.kind + (hashlib.sha256(numbers).hexdigest() if numbers else ""),
    }


@dataclass(eq=False)
class Store:
    """An open file: the batches that it held, and the path that further ones are appended to."""

    path: Path
    lines: list[dict[str, Any]]

    def replay(self, search: Search, sign: float) -> tuple[int, int]:
        """Bring a new search to where the file stands; rows and batches that it took."""
        for line in self.lines:
            for edge, value, kept in line["decisions"]:
                name = _name(search.graph, search.order[search.at])
                if search.decide(None if value is None else sign * value) != kept or name != edge:
                    raise ValueError(f"{self.path}: the decision on {edge!r} does not follow from the file.")
        if self.lines:
            last = self.lines[-1]
            search.size = last["size"]
            search.expected[:] = False
            for edge in last["expected"]:
                search.expected[search.graph.edge(edge)] = True
        return sum(line["rows"] for line in self.lines), len(self.lines)

    def append(self, search: Search, first: int, proposal: Proposal, measured: list[float]) -> None:
        """Write the decisions of a batch, from edge number `first` on."""
        decisions = []
        for number in range(first, search.at):
            edge, row = search.order[number], proposal.rows[number - first]
            value = None if row < 0 else measured[row]
            decisions.append([_name(search.graph, edge), value, bool(search.mask[tuple(edge)])])
        expected = [_name(search.graph, edge) for edge in np.argwhere(search.expected)]
        line = {"decisions": decisions, "rows": len(measured), "size": search.size, "expected": expected}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def open_store(path: str | Path, wanted: dict[str, str | bool], resume: bool) -> Store:
    """Open the file of a run, or make it.

    Raises ValueError, and changes nothing, if it holds another run or something else.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file.")
    if not path.exists() or path.stat().st_size == 0:
        write_text(path, json.dumps({"kind": _KIND, **wanted}) + "\n")
        return Store(path, [])
    if not resume:
        raise ValueError(f"{path} exists. Choose another path, or resume=True to go on with it.")
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]  # what comes after it, a kill cut short
    lines = _parsed(path, whole)
    differing = {key: value for key, value in wanted.items() if lines[0].get(key) != value}
    if differing:
        told = "; ".join(
            f"{key}: {lines[0].get(key)!r} there, {value!r} here" for key, value in differing.items()
        )
        raise ValueError(f"{path} holds another run ({told}). Choose another path; nothing was changed.")
    if len(whole) < len(text):
        write_text(path, whole.decode("utf-8"))
    return Store(path, lines[1:])


def _parsed(path: Path, text: bytes) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in text.decode("utf-8").splitlines()]
        if lines[0]["kind"] == _KIND:
            return lines
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(f"{path} exists and is not a store of acdc. Choose another path; nothing was changed.")


def _name(graph: Graph, edge: np.ndarray) -> str:
    return f"{graph.writers[edge[0]]}->{graph.readers[edge[1]]}"
