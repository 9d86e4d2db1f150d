"""Attention knock-out: which layers carry what from one span of the prompt to another (Geva et al.
2304.14767).

1. In the layers of a window, queries of one span get minus infinity on the keys of another; the other
   attention of these queries is normalised again.
2. The window moves over the layers. Runs start from the clean stream before the window's first layer.
3. value = metric(clean) - metric(knocked out), turned so that positive means: the answer needs this flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from interp import experiment as experiments
from interp import results, stores
from interp._arguments import shown
from interp._verbs import verb
from interp.engine.memory import Budget
from interp.experiment import MEMORY, Metrics
from interp.models import Model, anatomy, model_fingerprint
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions, marked, parse
from interp.prompts import Prompts, read
from interp.steering._edit_types import ScoreBias
from interp.steering._intervention import Intervention
from interp.steering._runs import question_of, runner, score
from interp.tasks import Task
from interp.tasks.metrics import Metric

_CONVENTION = "effect = metric(clean) - metric(knocked out); positive: the answer needs this attention"
_DIMS = ("prompt", "pair", "layer", "metric")
Pairs = Mapping[str, tuple[AnyPositions, AnyPositions]] | Sequence[tuple[str, str]]


@verb
def attention_knockout(
    model: Model,
    task: Task,
    pairs: Pairs,
    *,
    window: int = 1,
    layer: Layers = None,
    metric: Metrics | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Effect of cutting all attention from a query span to a key span, in windows of layers.

    pairs: (query, key) names of spans of the task, as in [("end", "s2"), ("end", "io")], or a dict of names
    to pairs of any positions. window: layers that are cut together, centred on each layer. layer: centres;
    None: all. metric: the task's own by default. store: a zarr folder from which the same call goes on.

    Returns `value` [prompt, pair, layer] (and metric, where there are several), with `raw` and `clean`;
    attribute `engine`. `interp.plan("attention_knockout", model, task, runs=len(pairs) * n_layers)` says what
    it costs: a pass of each prompt, then one from the window's first layer on for each pair and layer. Raises
    ValueError, before any pass, for spans that a prompt does not have and for a query that would see nothing
    else.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> found = interp.steering.methods.attention_knockout(
        ...     model, task, [("end", "s2"), ("end", "io")], progress=False)
        >>> found["value"].dims, found["pair"].values.tolist()
        (('prompt', 'pair', 'layer'), ['end to s2', 'end to io'])
    """
    facts = anatomy(model)
    rows, named = read(model, task), _named(pairs)
    centres = [where.layer or 0 for where in places(facts, layer, "pattern")]
    _require_flow(rows, named, window, facts.n_layers)
    question = question_of(model, task, None, None, None, task.metric if metric is None else metric)
    units = [(name, centre) for name in named for centre in centres]
    made = [_cut(model, named[name], _window(centre, window, facts.n_layers)) for name, centre in units]
    identity = _identity(model, task, named, centres, window, question.reads.metrics)
    run = runner(model, question, made, engine, len(units))
    size = batch_size or _at_once(question.reads, Budget(facts, experiments.Budget(memory=memory).memory))
    every = torch.arange(len(rows), device=rows.tokens.device)
    clean = score(question.reads, run.clean, run.clean, every).cpu().numpy()

    def measured(edits: list[Intervention]) -> np.ndarray:
        parts = [
            score(question.reads, run.run(some, edits), run.clean[some], some) for some in every.split(size)
        ]
        return torch.cat(parts).cpu().numpy()

    shape = (len(rows), len(named), len(centres), len(question.reads.metrics))
    raw = _filled(shape, made, measured, store, identity, progress)
    signs = np.array([1.0 if each.better == "higher" else -1.0 for each in question.reads.metrics])
    variables = {
        "value": (_DIMS, signs * (clean[:, None, None] - raw)),
        "raw": (_DIMS, raw),
        "clean": (("prompt", "metric"), clean),
    }
    attrs = results.provenance(
        method="attention_knockout", site="pattern", convention=_CONVENTION, metric=question.reads.metrics,
        model=facts.name, task=task.name, task_fingerprint=task.fingerprint(), n_prompts=len(rows), seed=seed,
        window=window, engine=run.engine,
    )  # fmt: skip
    coords = {"pair": list(named), "layer": centres, "metric": [each.name for each in question.reads.metrics]}
    return results.dataset(variables, coords, attrs, task)


def _filled(
    shape: tuple[int, int, int, int],
    made: list[list[Intervention]],
    measured: Callable[[list[Intervention]], np.ndarray],
    store: str | Path | None,
    identity: dict[str, Any],
    progress: bool,
) -> np.ndarray:
    """Raw metrics [prompt, pair, layer, metric] of every cut; those that the store has are not run again."""
    template = xr.Dataset({"raw": (_DIMS, np.full(shape, np.nan))})
    regions = [_region(unit, shape[2]) for unit in range(len(made))]
    raw = template["raw"].values.copy()
    with (
        stores.open_arrays(store, template, identity, {"pair": 1, "layer": 1}, regions) as kept,
        tqdm(total=len(made), disable=not progress, desc="attention_knockout", unit="cut") as bar,
    ):
        for number, edits in enumerate(made):
            if kept is None:
                raw[regions[number]["raw"]] = measured(edits)
            elif not kept.done[number]:
                kept.write(number, {"raw": (regions[number]["raw"], measured(edits))})
            bar.update()
        return raw if kept is None else kept.load()["raw"].values


def _named(pairs: Pairs) -> dict[str, tuple[AnyPositions, AnyPositions]]:
    if isinstance(pairs, Mapping):
        named = dict(pairs)
    elif not isinstance(pairs, (list, tuple)) or not all(
        isinstance(each, (tuple, list)) and len(each) == 2 for each in pairs
    ):
        raise ValueError(f'pairs is {shown(pairs)}; give (query, key) spans, as in [("end", "s2")].')
    else:
        named = {f"{query} to {key}": (query, key) for query, key in pairs}
    if not named:
        raise ValueError('pairs is empty. Give (query, key) spans, as in [("end", "s2")].')
    return named


def _identity(
    model: Model,
    task: Task,
    named: dict[str, tuple[AnyPositions, AnyPositions]],
    centres: list[int],
    window: int,
    metrics: Sequence[Metric],
) -> dict[str, Any]:
    """What a store must agree on for the same call to go on from it."""
    return {
        "method": "attention_knockout", "model_fingerprint": model_fingerprint(model),
        "task": task.fingerprint(), "window": window,
        "pairs": [f"{name}: {pair}" for name, pair in named.items()], "layers": centres,
        "metric": ", ".join(map(repr, metrics)),
    }  # fmt: skip


def _require_flow(
    rows: Prompts, named: dict[str, tuple[AnyPositions, AnyPositions]], window: int, n_layers: int
) -> None:
    """ValueError for a window that the model has not, and for pairs that cannot be cut."""
    if not 1 <= window <= n_layers:
        raise ValueError(f"window is {window}; the model has {n_layers} layers: give 1 to {n_layers}.")
    for name, pair in named.items():
        _require_other_keys(rows, name, pair)


def _require_other_keys(rows: Prompts, name: str, pair: tuple[AnyPositions, AnyPositions]) -> None:
    """ValueError where a prompt lacks one of the spans, or a query would see nothing else."""
    queries, keys = (marked(each, rows) for each in pair)  # [prompt, pos]
    for what, marks in (("query", queries), ("key", keys)):
        empty = (~marks.any(1)).nonzero()
        if len(empty):
            raise ValueError(f"pair {name!r}: prompt {int(empty[0])} has no {what} position there.")
    others = (rows.real & ~keys).int().cumsum(1) > 0  # whether something else is seen
    blind = (queries & ~others).any(1).nonzero()
    if len(blind):
        raise ValueError(
            f"pair {name!r}: in prompt {int(blind[0])} a query would see nothing but the keys that are "
            "cut. Choose "
            "spans that leave it something, such as the first token."
        )


def _window(centre: int, size: int, n_layers: int) -> range:
    """The layers that are cut together; fewer at the ends."""
    first = centre - (size - 1) // 2
    return range(max(0, first), min(n_layers, first + size))


def _cut(model: Model, pair: tuple[AnyPositions, AnyPositions], layers: range) -> list[Intervention]:
    query, key = parse(pair[0]), parse(pair[1])
    edit = ScoreBias(key, -float("inf"))
    return [Intervention(Place("pattern", each), edit, query).check(model) for each in layers]


def _region(unit: int, n_layers: int) -> dict[str, tuple[slice | int, ...]]:
    return {"raw": (slice(None), unit // n_layers, unit % n_layers, slice(None))}


def _at_once(reads: Any, budget: Budget) -> int:
    """Prompts in a batch."""
    columns = budget.facts.d_vocab_out if reads.columns is None else len(reads.columns)
    each = budget.run_bytes(reads.runs.n_pos, columns, reads.everywhere)
    return max(1, int(budget.limit / 2 / each))
