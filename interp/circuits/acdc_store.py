"""A file that a search is written to as it goes, and from which a killed run resumes.

JSON lines. The first says which run it is; each other holds one batch: its decisions as [edge, metric, kept]
(metric null: dead reader), the rows it took, and the guesses that the next batch goes on with. A line that a
kill cut short is dropped. What is read back is exact, so a resumed run decides as one that was not
interrupted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.circuits.acdc_search import Proposal, Rule, Search
from interp.circuits.graph import Graph
from interp.circuits.job import Job
from interp.files import write_text
from interp.models import Model, model_fingerprint
from interp.tasks import Task

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
