"""Circuits on the page: what each edge is worth, alone and in its circuit.

For every edge of a circuit (the 200 largest at most) and the 20 best-scored edges outside of it:

1. exact: the effect of cutting the edge alone in the whole model, metric(clean) − metric(cut) for direction
   "noise" (positive: the edge helps), with its interval over prompts.
2. toggled: the faithfulness of the circuit without the edge (or with it, for one outside).

All of it is one call of `circuits.run` and one of `circuits.evaluate` a circuit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import circuits, places, stats
from interp.circuits import Circuit
from interp.live._arrays import pack
from interp.models import Model
from interp.plot._cells import several_units
from interp.stats._means import metric_facts
from interp.tasks import Task

INSIDE, OUTSIDE = 200, 20  # edges that can be clicked
_MOST = 50  # edges that can be toggled at once


@dataclass(frozen=True, eq=False)
class Edges:
    """A circuit of the page with the edges that can be clicked."""

    id: str
    circuit: Circuit
    model: Model | None
    task: Task | None
    level: float
    options: dict[str, Any]  # of `circuits.run`

    @cached_property
    def listed(self) -> list[tuple[int, int]]:
        """Writer and reader of the edges that can be clicked: the kept ones, then the best of the others."""
        kept = [tuple(pair) for pair in self.circuit.kept.nonzero().tolist()]
        size = self._size()
        kept.sort(key=lambda pair: -size[pair])
        others: list[tuple[int, int]] = []
        if self.circuit.scores is not None:
            rest = torch.where(self.circuit.kept.cpu(), -1.0, size).flatten()
            best = rest.topk(min(OUTSIDE, len(rest)))
            pairs = [divmod(int(i), size.shape[1]) for i in best.indices]
            others = [pair for pair, value in zip(pairs, best.values.tolist()) if value > 0]
        return [*kept[:INSIDE], *others]

    @cached_property
    def names(self) -> list[str]:
        return [self.circuit.graph.name(*pair) for pair in self.listed]

    def facts(self) -> dict[str, Any]:
        """What the page says of the circuit, and how it draws it."""
        circuit, known = self.circuit, self.circuit.provenance
        rows = [self._edge_facts(number) for number in range(len(self.listed))]
        ends = {row[end] for row in rows for end in ("from", "to")}
        nodes = [node for node in circuit.graph.nodes if node in ends]
        return {
            "id": self.id,
            "name": circuit.name,
            "words": f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges"
            + ("" if circuit.n_edges <= INSIDE else f"; the {INSIDE} largest are shown"),
            "how": ", ".join(f"{name} {known[name]}" for name in _HOW if name in known),
            "nodes": [_node(node, circuit.graph.n_layers) for node in nodes],
            "edges": rows,
            "why": None if self.model is not None else "effects of edges need the model and the task",
        }

    def _edge_facts(self, number: int) -> dict[str, Any]:
        writer, reader = self.listed[number]
        graph = self.circuit.graph
        nodes = [graph.nodes[i] for i in graph.owners[reader].nonzero().flatten().tolist()]
        score = self._scores[writer, reader].item() if self._scores is not None else float("nan")
        return {
            "name": self.names[number],
            "label": f"{_label(graph.writers[writer])} → {_label(graph.readers[reader])}",
            "from": graph.writers[writer],
            "to": nodes[0],
            "part": graph.readers[reader][-2] if graph.readers[reader].endswith(">") else "",
            "kept": bool(self.circuit.kept[writer, reader]),
            "score": score if np.isfinite(score) else None,
        }

    @property
    def _scores(self) -> Tensor | None:
        """One score an edge: at the position where it is largest, of a circuit with positions."""
        scores = self.circuit.scores
        if scores is None or scores.ndim == 2:
            return None if scores is None else scores.cpu()
        flat = scores.cpu().nan_to_num()
        return flat.gather(0, flat.abs().argmax(0, keepdim=True))[0]

    def _size(self) -> Tensor:
        scores = self._scores
        if scores is None:
            return torch.zeros(self.circuit.kept.shape)
        return scores.float().abs().nan_to_num(-1.0)

    def toggled(self, names: Sequence[str]) -> Circuit:
        """The circuit with some edges exchanged, at all positions: kept ones are cut, others kept."""
        mask = self.circuit.mask.clone()
        for name in names:
            writer, reader = self.circuit.graph.edge(name)
            mask[..., writer, reader] = not bool(self.circuit.kept[writer, reader])
        return Circuit(self.circuit.graph, mask, name=" ".join(names) or self.circuit.name)

    @cached_property
    def judged(self) -> xr.Dataset:
        """Faithfulness of the circuit, and of it with each edge toggled."""
        model, task = self._sides()
        several = [self.toggled([]), *(self.toggled([name]) for name in self.names)]
        return circuits.evaluate(
            model, task, several, measures=("faithfulness",), level=self.level, **self.options
        )

    @cached_property
    def exact(self) -> tuple[xr.Dataset, dict[str, xr.DataArray]]:
        """Effects of cutting each edge alone [prompt, edge, (metric)], and their mean with its interval."""
        model, task = self._sides()
        masks = self.circuit.graph.allowed.expand(len(self.listed), -1, -1).clone()
        for number, pair in enumerate(self.listed):
            masks[(number, *pair)] = False
        run = circuits.run(model, task, masks, **self.options)
        better = xr.DataArray([facts.sign for facts in metric_facts(run)], dims="metric")
        better = better if "metric" in run.dims else better.isel(metric=0)
        takes_away = 1 if run.attrs["direction"] == "noise" else -1
        effects = run.assign(value=takes_away * better * (run["clean"] - run["raw"]))
        effects["value"] = effects["value"].transpose("prompt", "circuit", ...)
        if not several_units(run):
            return effects, {"mean": effects["value"].mean("prompt")}
        ends = stats.bootstrap(effects, level=self.level)
        return effects, {"mean": ends["estimate"], "low": ends["low"], "high": ends["high"]}

    def edge(self, name: str) -> dict[str, Any]:
        """Score and exact effect of an edge, by metric."""
        if name not in self.names:
            raise ValueError(f"edge is {name!r}; this page shows {', '.join(self.names[:4])}, ...")
        number = self.names.index(name)
        effects, ends = self.exact
        rows = []
        for k, facts in enumerate(metric_facts(effects)):
            at = {"circuit": number} | ({"metric": k} if "metric" in effects.dims else {})
            packed = pack(effects["value"].isel(at).values, "f2")
            means = {key: _number(end.isel(at)) for key, end in ends.items()}
            rows.append({"metric": facts.name, "unit": facts.unit, **means, "value": packed})
        return {**self._edge_facts(number), "exact": rows}

    def measured(self, toggles: Sequence[str]) -> dict[str, Any]:
        """Faithfulness with some edges toggled, by metric; without any, also with each one toggled."""
        if len(toggles) > 1:
            model, task = self._sides()
            if len(toggles) > _MOST:
                raise ValueError(f"{len(toggles)} edges are toggled; {_MOST} at once are possible.")
            circuit = self.toggled(toggles)
            judged = circuits.evaluate(
                model, task, circuit, measures=("faithfulness",), level=self.level, **self.options
            )
            return {"edges": circuit.n_edges, "metrics": _faithful(judged, 0)}
        for name in toggles:
            if name not in self.names:
                self.circuit.graph.edge(name)
                raise ValueError(f"{name!r} is not among the edges that this page shows.")
        row = 0 if not toggles else 1 + self.names.index(toggles[0])
        answer = {"edges": int(self.judged["edges"][row]), "metrics": _faithful(self.judged, row)}
        if toggles:
            return answer
        every = [{"name": name, **self._single(number)} for number, name in enumerate(self.names)]
        return answer | {"singles": every, "ablation": str(self.judged.attrs["ablation"])}

    def _single(self, number: int) -> dict[str, Any]:
        """Exact effect of an edge and faithfulness when it is toggled, by metric, for the list of edges."""
        effects, ends = self.exact
        exact = []
        for k in range(len(metric_facts(effects))):
            at = {"circuit": number} | ({"metric": k} if "metric" in effects.dims else {})
            exact.append({key: _number(end.isel(at)) for key, end in ends.items()})
        return {"exact": exact, "toggled": _faithful(self.judged, number + 1)}

    def _sides(self) -> tuple[Model, Task]:
        if self.model is None or self.task is None:
            raise ValueError("effects of edges need the model and the task: give both to interp.explore.")
        return self.model, self.task


_HOW = ("method", "task", "metric", "ablation", "direction", "threshold")
_KINDS = {"embed": "input", "z": "head", "mlp_out": "mlp", "logits": "logits"}


def _label(name: str) -> str:
    return name if name in ("input", "logits") else str(places.parse(name))


def _node(name: str, n_layers: int) -> dict[str, Any]:
    """A node and its row: the input first, heads of a layer before its MLP, the logits last."""
    place = places.parse(name)
    kind = _KINDS[place.site]
    layer = -1 if kind == "input" else n_layers if kind == "logits" else place.layer or 0
    return {"name": name, "label": _label(name), "kind": kind, "row": 2 * layer + (kind == "mlp")}


def _faithful(judged: xr.Dataset, row: int) -> list[dict[str, Any]]:
    rows = []
    for k, facts in enumerate(metric_facts(judged)):
        at = {"circuit": row} | ({"metric": k} if "metric" in judged.dims else {})
        ends = {key: _number(judged[key].isel(at)) for key in ("faithfulness", "low", "high")}
        rows.append({"metric": facts.name, **ends, "raw": _number(judged["raw"].isel(at).mean())})
    return rows


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None


def require_fit(circuit: Circuit, model: Model) -> None:
    """Raise ValueError for a circuit of another model."""
    graph = circuits.Graph.of(model)
    if circuit.graph != graph:
        raise ValueError(
            f"{circuit.name!r} is a circuit of another model: its graph is {circuit.graph}, this model's "
            f"is {graph}."
        )
