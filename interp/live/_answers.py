"""`Answers.ask(kind, args)`: everything that the live page can be told, as JSON, whoever carries it.

The page asks by kind and arguments, and gets an answer or {"error": sentence}. One file holds answers that
were made beforehand (`stored`), `interp serve` and the widget ask this class.

| kind        | arguments                          | answer                                                  |
|-------------|------------------------------------|---------------------------------------------------------|
| `meta`      |                                    | model, task, prompts, results, what can be asked        |
| `grid`      | result, metric, at, prompt         | a map: mean, low, high, p; values by prompt             |
| `attention` | layer, head, weighting, prompt     | matrix [dst, src] (see `_heads`)                        |
| `head`      | layer, head, prompt                | effects by position, other results, scores, top tokens  |
| `measure`   | layer, head, prompt, metric        | exact effects of the head by position, of one prompt    |
| `circuit`   | circuit, toggles                   | faithfulness with edges toggled; of none, also of each  |
| `edge`      | circuit, edge                      | its score, and its exact effect with an interval        |
| `generate`  | direction, prompt or text,         | the texts of each rung of the ladder, or of one         |
|             | coefficient                        | coefficient, beside those of the controls               |

Without `prompt` an answer is about all of them, and its parts "by": "prompt" begin with that axis; with it
they are cut to the one. Arrays are packed (`_arrays`), each with its largest error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from interp._arguments import shown
from interp.circuits import Circuit
from interp.live import _heads
from interp.live._arrays import at_prompt
from interp.live._circuits import Edges
from interp.live._ladder import Ladder
from interp.live._maps import maps
from interp.models import Model, anatomy
from interp.plot._theme import visible
from interp.tasks import Task

Answer = dict[str, Any]
Checkpoint = Callable[[], None]  # raises Superseded where the answer is not wanted any more
_GIVE = "give model= and task= to interp.explore"
_BY_PROMPT = ("generate", "measure")  # kinds that ask for one prompt, and have no answer about all
_SCORES = (
    "head scores",
    "head roles",
    "copying",
    "telemetry",
    "composition",
)  # of heads, on their own prompts


class Superseded(Exception):
    """A newer question has come."""


class Answers:
    """What can be asked of some results, and of the model and the task that they are of."""

    def __init__(
        self,
        results: Sequence[xr.Dataset],
        model: Model | None,
        task: Task | None,
        *,
        circuits: Sequence[Circuit] = (),
        ladders: Sequence[Ladder] = (),
        shown: int,
        level: float,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.task, self.level = model, task, level
        several = enumerate(circuits)
        self.circuits = [Edges(f"c{i}", each, model, task, level, options or {}) for i, each in several]
        self.maps = maps(results, None if task is None else task.fingerprint(), level)
        self.ladders = list(ladders)
        self.shown = shown  # prompts whose attention can be asked for
        part = None if task is None else task[:shown]
        self.heads = None if model is None or part is None else _heads.Heads(model, part)
        self._checkpoint: Checkpoint = _go_on
        self._kinds: dict[str, Callable[..., Answer]] = {
            "meta": self._meta,
            "grid": self._grid,
            "attention": self._attention,
            "head": self._head,
            "measure": self._measure,
            "circuit": self._circuit,
            "edge": self._edge,
            "generate": self._generate,
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be asked."""
        return tuple(self._kinds)

    def ask(
        self, kind: str, args: Mapping[str, Any] | None = None, checkpoint: Checkpoint | None = None
    ) -> Answer:
        """The answer, or {"error": sentence}. See the module's table. checkpoint: called between steps."""
        self._checkpoint = checkpoint or _go_on
        self._checkpoint()
        try:
            if not isinstance(kind, str) or kind not in self._kinds:
                raise ValueError(f"kind is {shown(kind)}; ask for one of {', '.join(self._kinds)}.")
            if args is not None and not isinstance(args, Mapping):
                raise ValueError(f"args is {shown(args)}; give a dict of arguments by name.")
            given = dict(args or {})
            prompt = None if kind in _BY_PROMPT else given.pop("prompt", None)
            answer = self._kinds[kind](**given)
            self._checkpoint()
            return answer if prompt is None else at_prompt(answer, self._prompt(kind, prompt))
        except (ValueError, TypeError) as error:
            return {"error": " ".join(str(error).split())}

    def stored(self) -> list[tuple[str, dict[str, Any], Answer]]:
        """All that a file holds: kind, arguments, answer."""
        asked: list[tuple[str, dict[str, Any]]] = [("meta", {})]
        for each in self.maps:
            sizes = [range(each.value.sizes[dim]) for dim in each.choices]
            for metric, at in product(each.metrics, product(*sizes)):
                choice = dict(zip(each.choices, at))
                asked.append(("grid", {"result": each.id, "metric": metric.name, "at": choice}))
        for layer, head in self.all_heads():
            asked.append(("head", {"layer": layer, "head": head}))
            possible = self.heads.weightings() if self.heads else {}
            asked += [
                ("attention", {"layer": layer, "head": head, "weighting": weighting})
                for weighting, why in possible.items()
                if why is None
            ]
        for each in self.circuits if self.model is not None else ():
            asked.append(("circuit", {"circuit": each.id, "toggles": []}))
            asked += [("circuit", {"circuit": each.id, "toggles": [name]}) for name in each.names]
            asked += [("edge", {"circuit": each.id, "edge": name}) for name in each.names]
        for ladder in self.ladders:
            prompts = range(ladder.facts()["prompts"])
            asked += [("generate", {"direction": ladder.id, "prompt": prompt}) for prompt in prompts]
        return [(kind, args, self.ask(kind, args)) for kind, args in asked]

    def all_heads(self) -> list[tuple[int, int]]:
        """Layer and head of every head, where there are any to click."""
        if self.model is None:
            known = [each for each in self.maps if each.across == "head"]
            pairs = [
                product(m.value["layer"].values.tolist(), m.value["head"].values.tolist()) for m in known
            ]
            return sorted({pair for listed in pairs for pair in listed})
        facts = anatomy(self.model)
        return list(product(range(facts.n_layers), range(facts.n_heads)))

    def _meta(self) -> Answer:
        model, task = self.model, self.task
        attrs = self.maps[0].result.attrs if self.maps else {}
        return {
            "model": anatomy(model).name if model is not None else str(attrs.get("model", "")),
            "task": task.name if task is not None else str(attrs.get("task", "")),
            "prompts": [] if task is None else prompts(model, task, self.shown),
            "results": [each.facts() for each in self.maps],
            "weightings": {} if self.heads is None else self.heads.weightings(),
            "causal": True if model is None else anatomy(model).causal,
            "circuits": [each.facts() for each in self.circuits],
            "directions": [each.facts() for each in self.ladders],
            "level": self.level,
            "live": False,
        }

    def _grid(self, result: str, metric: str, at: dict[str, int] | None = None) -> Answer:
        known = {each.id: each for each in self.maps}
        if result not in known:
            raise ValueError(f"result is {result!r}; this page has {', '.join(known)}.")
        if not isinstance(at or {}, dict):
            raise ValueError(f"at is {at!r}; give an index by dim, such as {{'pos': 3}}.")
        return known[result].grid(metric, at or {})

    def _attention(self, layer: int, head: int, weighting: str = "plain", text: str | None = None) -> Answer:
        self._require_head(layer, head)
        if self.heads is None:
            raise ValueError(f"attention needs the model and the task: {_GIVE}.")
        if text is None:
            return self.heads.attention(layer, head, weighting)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text is {text!r}; give the words of a prompt.")
        return self.heads.attention_of(text, layer, head, weighting)

    def _measure(self, layer: int, head: int, prompt: int, metric: str) -> Answer:
        self._require_head(layer, head)
        if self.heads is None or self.task is None:
            raise ValueError(f"an exact effect needs the model and the task: {_GIVE}.")
        one = self.task[[self._prompt("measure", prompt)]]
        return {"positions": [_heads.exact_row(self.heads.model, one, layer, head, self._like(metric))]}

    def _like(self, metric: str) -> tuple[str, str | None]:
        """Metric and direction of the map of this page's prompts that has this metric."""
        for each in self.maps:
            if each.by_prompt and metric in [facts.name for facts in each.metrics]:
                way = str(each.result.attrs["direction"])
                return metric, way if way in ("denoise", "noise") else None
        raise ValueError(f"metric is {metric!r}; no result of this page's prompts has it.")

    def _head(self, layer: int, head: int) -> Answer:
        self._require_head(layer, head)
        answer: Answer = {
            "elsewhere": [row for each in self.maps for row in each.at_head(layer, head)],
            "scores": self._scores(layer, head),
        }
        if self.heads is None:
            return answer
        try:
            answer["positions"] = _heads.position_rows(self._by_position, layer, head)
        except ValueError as error:
            answer["no_positions"] = str(error)
        tokens = self.heads.tokens
        if isinstance(tokens, str):
            return answer | {"no_tokens": tokens}
        assert self.task is not None
        rest = [None] * (len(self.task) - self.shown)
        return answer | {"tokens": {"by": "prompt", "list": [*tokens[layer][head], *rest]}}

    @cached_property
    def _by_position(self) -> list[tuple[str, xr.Dataset]]:
        assert self.model is not None
        assert self.task is not None
        return _heads.by_position(self.maps, self.model, self.task)

    def _circuit(self, circuit: str, toggles: list[str] | None = None) -> Answer:
        if not isinstance(toggles or [], list):
            raise ValueError(f"toggles is {toggles!r}; give a list of edges by name.")
        return self._of_circuits(circuit).measured(sorted(set(toggles or [])))

    def _edge(self, circuit: str, edge: str) -> Answer:
        return self._of_circuits(circuit).edge(edge)

    def _generate(
        self,
        direction: str,
        prompt: int | None = None,
        text: str | None = None,
        coefficient: float | None = None,
    ) -> Answer:
        for each in self.ladders:
            if each.id == direction:
                return each.climb(prompt, text, coefficient, self._checkpoint)
        known = ", ".join(each.id for each in self.ladders) or "none"
        raise ValueError(f"direction is {direction!r}; this page has {known}.")

    def _of_circuits(self, name: str) -> Edges:
        for each in self.circuits:
            if each.id == name:
                return each
        known = ", ".join(each.id for each in self.circuits) or "none"
        raise ValueError(f"circuit is {name!r}; this page has {known}.")

    def _scores(self, layer: int, head: int) -> list[dict[str, Any]]:
        """Scores of a head, among the results that are of scores."""
        rows = []
        for each in self.maps:
            if each.result.attrs["method"] not in _SCORES or "score" not in each.result.dims:
                continue
            for number, name in enumerate(each.value["score"].values.tolist()):
                cut = {"layer": layer, "head": head}
                ends = {key: float(end.isel(score=number).sel(cut)) for key, end in each.ends.items()}
                rows.append({"name": str(name).replace("_", " "), **_finite(ends)})
        return rows

    def _require_head(self, layer: Any, head: Any) -> None:
        known = self.all_heads()
        if type(layer) is not int or type(head) is not int or (layer, head) not in known:
            last = known[-1] if known else ("none", "none")
            raise ValueError(
                f"there is no head {head!r} in layer {layer!r}: the last is L{last[0]}H{last[1]}."
            )

    def _prompt(self, kind: str, prompt: Any) -> int:
        n = self.shown if kind == "attention" or self.task is None else len(self.task)
        if not isinstance(prompt, int) or isinstance(prompt, bool) or not 0 <= prompt < n:
            more = " have their attention here" if kind == "attention" else ""
            raise ValueError(f"prompt is {prompt!r}; prompts 0 to {n - 1}{more}.")
        return prompt


def _go_on() -> None:
    """The answer is wanted."""


def prompts(model: Model | None, task: Task, shown: int) -> list[dict[str, Any]]:
    """The prompts of a task: tokens, answers, where the answer is read, and whether attention is here."""
    rows = []
    for number, (row, length) in enumerate(zip(task.clean.tolist(), task.lengths.tolist())):
        tokens = row[:length] if task.labels is None else list(task.labels[number][:length])
        rows.append({
            "tokens": [visible(str(token)) for token in tokens],
            "answer": _words(model, task.answers[number].tolist()),
            "wrong": _words(model, task.wrongs[number].tolist()),
            "at": int(task.last_position[number]),
            "shown": number < shown,
        })  # fmt: skip
    return rows


def _words(model: Model | None, ids: list[int]) -> str:
    real = [token for token in ids if token >= 0]
    return ", ".join(str(token) if model is None else _heads.word(model, token) for token in real)


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: number if np.isfinite(number) else None for name, number in numbers.items()}
