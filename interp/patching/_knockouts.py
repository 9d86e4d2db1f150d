"""Knock-outs over several tasks: does a set of components carry one behaviour and not another?

1. damage(S, t) = Σ (clean − ablated) / Σ (clean − chance of t) over the prompts of task t: 0 for nothing, 1
   where only chance is left. A ratio of means, with its interval over prompts.
2. The same of random sets with as many heads or neurons of each layer; the rank among them gives p.
3. S *hits* t where the interval lies above 0 and p ≤ 1 − level; it *spares* t where the interval lies below a
   tenth.
4. A double dissociation: S hits t1 and spares t2, and another set hits t2 and spares t1. One direction alone
   may only say that t1 is the harder task.

Selective impairment: "Disentangling Recall and Reasoning in Transformer Models" (2025). Heads that several
tasks share: Merullo et al. 2310.08744.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np
import xarray as xr

from interp import results, stats
from interp._arguments import number
from interp._verbs import verb
from interp.ablation import Ablation, check_direction, parse
from interp.experiment import MEMORY, Metrics, check_metric
from interp.models import Model, anatomy
from interp.patching._matched import DRAWS, matched_sets, places_of
from interp.patching._sweep import patch
from interp.tasks import Task
from interp.tasks.metrics import Metric

SPARED = 0.1  # damage below which a task is spared
_CHANCE = {"logit_diff": 0.0, "prob_diff": 0.0}  # what a model without a preference scores


@verb
def knockouts(
    model: Model,
    tasks: Mapping[str, Task] | Sequence[Task],
    sets: Mapping[str, Sequence[str]],
    *,
    chance: float | Mapping[str, float] | None = None,
    draws: int = DRAWS,
    ablation: str | Ablation = "resample",
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Damage that knocking out each set of components does to each task, against random sets.

    tasks: by name, or a list of tasks with different names. sets: lists of places by name, heads or neurons
    ({"movers": ["L9H9", "L9H6"]}). chance: the metric of a model that knows nothing, for all tasks or by
    name; 0 for logit_diff and prob_diff. draws: random sets for each set, as many as there are where there
    are fewer.
    metric: one; each task's own by default. Resample, mean and zero ablation all run the clean prompts.

    Returns a Dataset: `value` [set, task], the damage, with `low`, `high`; `random` [set, task, draw], that
    of the random sets, NaN where there are no more; `p` [set, task]; `hits`, `spares` [set, task]; attribute
    `dissociations`, in words. Shares, positive where the set helps the task.

    Cost: (1 + draws) cells for each set and task, on the engine of `interp.patch`. Raises ValueError as
    `interp.patch`, and for sets without another like them, metrics whose chance is not known, tasks that the
    model does at chance.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> sets = {"first": ["L0H0"], "second": ["L2H2"]}
        >>> found = interp.patching.knockouts(model, [task], sets, draws=3, progress=False)
        >>> found["value"].dims, found["random"].sizes["draw"]
        (('set', 'task'), 3)
    """
    named, facts = _named(tasks), anatomy(model)
    if not isinstance(sets, Mapping) or not sets:
        raise ValueError("sets must be a dict from a name to the places of a set, with one at least.")
    for task in named.values():
        check_direction(parse(ablation), "noise", task, "noise")
    levels = {name: _chance(name, task, metric, chance) for name, task in named.items()}
    shortest = min(task.clean.shape[1] for task in named.values())
    random = {
        name: matched_sets(facts, places_of(facts, shortest, places), draws, np.random.default_rng([seed, n]))
        for n, (name, places) in enumerate(sets.items())
    }
    cells = [cell for name, places in sets.items() for cell in (list(places), *random[name])]
    sizes = [1 + len(random[name]) for name in sets]
    columns = []
    for name, task in named.items():
        effects = patch(
            model, task, cells=cells, ablation=ablation, direction="noise", metric=metric,
            batch_size=batch_size, memory=memory, engine=engine, progress=progress,
        )  # fmt: skip
        columns.append(_damage(effects, name, levels[name], sizes, level, seed))
    attrs = results.provenance(
        method="knockouts", site="cells", direction="noise", ablation=str(parse(ablation)), model=facts.name,
        task=", ".join(named), seed=seed, n_prompts=sum(map(len, named.values())), level=level,
        convention="value = share of clean - chance that is lost; positive: the set helps the task",
    )  # fmt: skip
    return _dataset(columns, list(sets), list(named), attrs)


def _named(tasks: Mapping[str, Task] | Sequence[Task]) -> dict[str, Task]:
    if isinstance(tasks, Mapping):
        named = dict(tasks)
    else:
        listed = [tasks] if isinstance(tasks, Task) else list(tasks)
        named = {task.name: task for task in listed}
        if len(named) < len(listed):
            raise ValueError("two tasks have one name; give a dict of names to tasks.")
    if not named:
        raise ValueError("no task is given; damage is done to a task.")
    short = [name for name, task in named.items() if len(task) < 2]
    if short:
        raise ValueError(f"task {short[0]} has one prompt; intervals need at least two.")
    return named


def _chance(
    name: str, task: Task, metric: Metrics | None, given: float | Mapping[str, float] | None
) -> float:
    """What a model that knows nothing scores on a task."""
    measured: tuple[Metric, ...] = check_metric(metric, task.metric)
    if len(measured) != 1:
        raise ValueError(f"{len(measured)} metrics were given; damage is measured in one.")
    level = given.get(name) if isinstance(given, Mapping) else given
    level = _CHANCE.get(measured[0].name) if level is None else level
    if level is None:
        raise ValueError(
            f"what a model that knows nothing scores in {measured[0].name!r} on task {name} is not known. "
            f"Give chance={{{name!r}: ...}}, or use metric='logit_diff'."
        )
    return float(number("chance", level))


def _damage(
    effects: xr.Dataset, name: str, chance: float, sizes: list[int], level: float, seed: int
) -> dict[str, np.ndarray]:
    """Of every set on one task: `value`, `low`, `high`, `p` [set], `random` [set, draw]."""
    kept = effects[["value", "clean", "corrupt"]]
    whole = kept.assign(corrupt=kept["clean"] * 0 + chance)
    mean = float(whole["clean"].mean())
    gap = stats.bootstrap(whole.assign(value=whole["clean"] - chance), level=level, seed=seed)
    sign = -1.0 if effects.attrs.get("better") == "lower" else 1.0
    if not min(sign * float(gap["low"]), sign * float(gap["high"])) > 0:
        raise ValueError(
            f"the model scores {mean:.3g} on task {name}, no better than chance ({chance:.3g}): there is "
            "nothing to damage. Use a task that it does, or keep_solved."
        )
    firsts = np.cumsum([0, *sizes[:-1]])
    shares = stats.normalise(whole)["value"].values  # [cell]
    ends = stats.bootstrap(whole.isel(cell=firsts), level=level, seed=seed, statistic="normalised")
    random = np.full((len(sizes), max(sizes) - 1), np.nan)
    p = np.empty(len(sizes))
    for row, (first, size) in enumerate(zip(firsts, sizes)):
        random[row, : size - 1] = shares[first + 1 : first + size]
        p[row] = (1 + (shares[first + 1 : first + size] >= shares[first]).sum()) / size
    ends = {"low": ends["low"].values, "high": ends["high"].values}
    return {"value": shares[firsts], "random": random, "p": p, **ends}


def _dataset(
    columns: list[dict[str, np.ndarray]], sets: list[str], tasks: list[str], attrs: dict[str, Any]
) -> xr.Dataset:
    arrays = {name: np.stack([column[name] for column in columns], 1) for name in columns[0]}
    hits = (arrays["low"] > 0) & (arrays["p"] <= 1 - attrs["level"] + 1e-12)
    spares = arrays["high"] < SPARED
    variables = {
        name: (("set", "task", "draw") if name == "random" else ("set", "task"), array)
        for name, array in arrays.items()
    }
    variables |= {"hits": (("set", "task"), hits), "spares": (("set", "task"), spares)}
    coords = {"set": sets, "task": tasks, "draw": np.arange(arrays["random"].shape[2])}
    told = "; ".join(_dissociations(hits, spares, sets, tasks)) or "none"
    return results.dataset(variables, coords, attrs | {"dissociations": told})


def _dissociations(hits: np.ndarray, spares: np.ndarray, sets: list[str], tasks: list[str]) -> list[str]:
    """Double dissociations, each once, in words."""
    told = []
    for a, b in permutations(range(len(sets)), 2):
        for t, u in combinations(range(len(tasks)), 2):
            if hits[a, t] and spares[a, u] and hits[b, u] and spares[b, t]:
                told.append(f"{sets[a]} hits {tasks[t]} and spares {tasks[u]}, {sets[b]} the reverse")
    return told
