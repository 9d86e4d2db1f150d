"""The live page: one HTML file that answers clicks by itself, or the same page with a model behind it.

1. `explore` sorts what it is given and checks it; no pass is made.
2. A file asks `Answers` everything that a click can ask for, once, and carries the answers.
3. The page is `page.html`, `page.css`, `ask.js`, `draw.js` and `page.js`, put together as they are. A policy
   in the page lets it run its own script and nothing else, and fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import xarray as xr

from interp import ablation as ablations
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits import Circuit
from interp.circuits._run.job import prepare
from interp.experiment import MEMORY, Metrics, check_metric, check_model, check_task
from interp.files import write_text
from interp.live._answers import Answer, Answers
from interp.live._circuits import require_fit
from interp.live._ladder import COEFFICIENTS, Ladder, check_ladder
from interp.models import Model, anatomy
from interp.plot._export import require_page
from interp.steering import Direction
from interp.tasks import LogitDiff, Task

_BYTES = 3_000_000  # of attention, before base64: what decides how many prompts have theirs in a file
_WEIGHTINGS = 3


@dataclass(frozen=True, eq=False)
class Page:
    """A page to look at heads, positions, circuits and steering by clicking. `explore` makes it."""

    answers: Answers
    title: str

    def save(self, path: str | Path) -> Path:
        """Write the page as one HTML file, which needs no server and no network; its path.

        Cost: two forwards a prompt for attention, one for what heads write, three passes for effects by
        position where no result has them; two runs of `circuits.run` for every edge; a
        `steering.side_by_side` of 4 prompts for every coefficient. Raises ValueError for a path that does not
        end in .html.
        """
        require_page(path)
        return write_text(Path(path), self.html)

    @cached_property
    def html(self) -> str:
        """The whole file."""
        return document(self.title, {"stored": stored(self.answers)})

    def widget(self) -> Any:
        """The page as a widget in a notebook, whose clicks ask the model. Needs the extra `widget`."""
        from interp.live._widget import make

        return make(self)

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own, which may run its script and nothing else."""
        source = html.escape(self.html, quote=True)
        return (
            f'<iframe title="{html.escape(self.title, quote=True)}" sandbox="allow-scripts" '
            f'style="width:100%;height:900px;border:0" srcdoc="{source}"></iframe>'
        )


@verb
def explore(
    items: Sequence[Any],
    model: Model | None = None,
    task: Task | None = None,
    *,
    title: str | None = None,
    prompts: int | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    coefficients: Sequence[float] = COEFFICIENTS,
    max_new_tokens: int = 12,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> Page:
    """One page of results to click through: a head → its attention, its effect by position, its tokens.

    items: results with layers (maps of heads, positions, spans or experts; scores of heads), circuits, and
        directions to steer along.
    model, task: what they are of. Without them the page has the maps and the circuits' scores alone.
    title: of the page; by default model and task.
    prompts: how many prompts have their attention on the page; by default as many as fit into 4 MB.
    ablation, direction, metric, batch_size, memory, progress: of the edges of circuits, as in `circuits.run`.
    coefficients, max_new_tokens, seed: of the texts that are steered along each direction, beside those of
        its controls, for the first 4 prompts.
    level: of the intervals.

    `page.save("page.html")` writes one file without a server or a network, a notebook shows the page by
    itself. Attention is kept to 8 bits and effects by prompt to 16; the page says the largest error. Nothing
    runs before the page is saved or shown; `Page.save` says what that costs. Raises ValueError for an item
    that is none of these, results of another model, and a model without a task.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> heads = interp.patch(model, task, "z", progress=False)
        >>> page = interp.explore([heads], model, task)
        >>> page.answers.ask("meta")["results"][0]["name"]
        'Effect of each head (z)'
    """
    listed: list[Any] = list(items) if isinstance(items, (list, tuple)) else [items]
    _check_sides(model, task)
    for number, item in enumerate(listed):
        _check_item(item, number, model)
    options: dict[str, Any] = {"ablation": ablation, "direction": direction, "metric": metric}
    options |= {"batch_size": batch_size, "memory": memory, "progress": progress}
    ablations.parse(ablation)
    check_metric(metric, LogitDiff())
    circuits = [item for item in listed if isinstance(item, Circuit)]
    if circuits and model is not None and task is not None:
        prepare(model, task, **options)  # raises for what does not fit
    answers = Answers(
        [item for item in listed if isinstance(item, xr.Dataset)],
        model,
        task,
        circuits=circuits,
        ladders=_ladders(listed, model, task, list(coefficients), max_new_tokens, seed),
        shown=_shown(model, task, prompts),
        level=level,
        options=options,
    )
    meta = answers.ask("meta")
    return Page(answers, title or f"{meta['model']} on {meta['task']}")


def _ladders(
    items: Sequence[Any], model: Model | None, task: Task | None, steps: list[float], n_new: int, seed: int
) -> list[Ladder]:
    directions = [item for item in items if isinstance(item, Direction)]
    if model is None or task is None:
        return []
    for each in directions:
        check_ladder(each, model, steps, n_new)
    return [Ladder(f"d{i}", each, model, task, steps, n_new, seed) for i, each in enumerate(directions)]


def _check_sides(model: Model | None, task: Task | None) -> None:
    if (model is None) != (task is None):
        lacks = "task" if task is None else "model"
        raise ValueError(
            f"the page needs model and task together, and {lacks} is missing. Give both, or none."
        )
    if model is not None and task is not None:
        check_model(model, anatomy(model))
        check_task(task, anatomy(model), model)


def _check_item(item: Any, number: int, model: Model | None) -> None:
    if isinstance(item, Circuit):
        return None if model is None else require_fit(item, model)
    if isinstance(item, Direction):
        if model is None:
            raise ValueError(f"item {number} is a direction, and texts need model= and task=.")
        return None
    if not isinstance(item, xr.Dataset):
        raise ValueError(
            f"item {number} is a {type(item).__name__}. A page takes results (xarray Datasets, as "
            "interp.patch returns them), circuits and directions."
        )
    named = str(item.attrs.get("model", ""))
    if model is not None and named != anatomy(model).name:
        raise ValueError(f"item {number} is of model {named!r}, and the page of {anatomy(model).name!r}.")


def _shown(model: Model | None, task: Task | None, prompts: int | None) -> int:
    """How many prompts have their attention on the page."""
    if model is None or task is None:
        return 0
    if prompts is not None and (type(prompts) is not int or not 0 <= prompts <= len(task)):
        raise ValueError(
            f"prompts is {prompts!r}; give a number from 0 to {len(task)}, the prompts of the task."
        )
    facts, n = anatomy(model), task.clean.shape[1]
    cells = n * (n + 1) // 2 if facts.causal else n * n
    fits = _BYTES // (facts.n_layers * facts.n_heads * cells * _WEIGHTINGS)
    return min(len(task), max(1, fits)) if prompts is None else prompts


def stored(answers: Answers) -> dict[str, dict[str, Answer]]:
    """Answers by kind and by their arguments, as the page asks for them."""
    out: dict[str, dict[str, Answer]] = {}
    for kind, args, answer in answers.stored():
        out.setdefault(kind, {})[key(args)] = answer
    return out


def key(args: dict[str, Any]) -> str:
    """Arguments as a string: JSON with sorted names and no blanks, as `page.js` writes it."""
    return json.dumps(args, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def document(title: str, data: dict[str, Any]) -> str:
    """The page with what it starts from: `stored` answers, or nothing where it asks a server."""
    style, script = source("page.css"), module()
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:"
    policy += "; connect-src 'self'" if "stored" not in data else ""
    parts = {
        "POLICY": policy + "; base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _json(data),
    }
    page = source("page.html")
    for name, part in parts.items():
        head, mark, tail = page.partition(f"<!--{name}-->")
        assert mark, name
        page = head + part + tail
    return page


def module() -> str:
    """The page's one ES module."""
    return "\n".join(map(source, ("ask.js", "draw.js", "page.js")))


def source(name: str) -> str:
    """A file of this folder."""
    return resources.files("interp.live").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data: Any) -> str:
    """JSON that can stand in a script element: no tag can begin in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
