"""Which prompts a task has: some of them, those of several tasks, two parts, clean and corrupt exchanged.

Every function gives a new task; labels, templates, spans and variables go with their prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp._arguments import as_python, shown
from interp.results import prompt_coords
from interp.stats._units import units_of
from interp.tasks import _spans, _tokens, _variables

if TYPE_CHECKING:
    from interp.tasks._task import Task


def take(task: Task, index: Any) -> Task:
    """The task of some of the prompts, in the order given; the width (pos) stays."""
    rows = torch.arange(len(task))[_picked(index)].reshape(-1)
    picked = rows.tolist()
    clean = task.clean[rows]
    return replace(
        task,
        clean=clean,
        corrupt=task.corrupt[rows] if task.has_corrupt else clean,
        answer=task.answer[rows],
        wrong=task.wrong[rows],
        positions=task.positions[rows],
        lengths=task.lengths[rows],
        labels=None if task.labels is None else tuple(task.labels[i] for i in picked),
        template=tuple(task.template[i] for i in picked),
        spans=_spans.take(task.spans, rows),
        variables=_variables.take(task.variables, rows),
    )


def _picked(index: Any) -> Any:
    """What picks rows of a tensor. ValueError for what cannot."""
    index = as_python(index)
    if isinstance(index, slice):
        return index
    if isinstance(index, (bool, str, float)) or index is None or isinstance(index, type):
        raise ValueError(f"a task is indexed by {shown(index)}; give a whole number, a slice, or a list.")
    listed = index if hasattr(index, "__array__") else [index] if isinstance(index, int) else list(index)
    rows = torch.as_tensor(listed, device="cpu")
    if rows.is_floating_point() and rows.numel():
        raise ValueError(f"a task is indexed by {shown(index)}; give whole numbers.")
    return rows if rows.dtype == torch.bool else rows.long()


def parted(task: Task, share: float, seed: int, cluster: str | None) -> tuple[Task, Task]:
    """Two parts that share no independent unit. ValueError where one would be empty."""
    units = units_of(xr.Dataset(coords=prompt_coords(task)), cluster)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; give that of the prompts to discover on, between 0 and 1.")
    first = round(share * units.n)
    if not 0 < first < units.n:
        raise ValueError(
            f"share is {share}: of {units.n} independent units ({units}) {min(max(first, 0), units.n)} "
            "would go to discovery, and one part would be empty. Use more prompts, or another share."
        )
    chosen = np.random.default_rng(seed).permutation(units.n)[:first]
    here = np.isin(units.group, chosen)
    parts = (("discovery", here), ("verification", ~here))
    one, other = (replace(task[np.flatnonzero(rows).tolist()], part=name) for name, rows in parts)
    return one, other


def swapped(task: Task) -> Task:
    """Clean and corrupt exchanged, answers with wrong answers, spans with those of the mirrored prompts."""
    if bool((task.wrong < 0).all()):
        raise ValueError("the task has no wrong answers, which would be the answers when exchanged.")
    labels = task.labels
    if labels is not None:
        labels = _tokens.relabel(task.clean, labels, task.corrupt, task.lengths)
    spans = _spans.swapped(task.spans, task.clean, task.corrupt)
    return replace(
        task, clean=task.corrupt, corrupt=task.clean, answer=task.wrong, wrong=task.answer, labels=labels,
        spans=spans, variables={},
    )  # fmt: skip


def joined(tasks: Sequence[Task]) -> Task:
    """The prompts of several tasks in one, padded to the longest; templates, labels and spans stay.

    ValueError for tasks of different metrics or devices, for reads and single positions together, and where
    some have corrupt prompts and some have not.
    """
    first = tasks[0]
    for name, facts in (
        ("metric", [repr(task.metric) for task in tasks]),
        ("device", [str(task.clean.device) for task in tasks]),
        ("corrupt prompts", [task.has_corrupt for task in tasks]),
        ("several read-out positions", [task.positions.ndim == 2 for task in tasks]),
    ):
        if len(set(facts)) > 1:
            other = next(fact for fact in facts if fact != facts[0])
            raise ValueError(f"the tasks differ in {name}: {facts[0]} and {other}. Join tasks that share it.")
    width = max(task.clean.shape[1] for task in tasks)
    corrupt = _tokens.stacked([task.corrupt for task in tasks], 0)
    clean = _tokens.stacked([task.clean for task in tasks], 0)
    names, seeds = dict.fromkeys(task.name for task in tasks), {task.seed for task in tasks}
    answers, wrongs = _alike([task.answer for task in tasks]), _alike([task.wrong for task in tasks])
    labels = [task.labels for task in tasks]
    return replace(
        first,
        clean=clean,
        corrupt=corrupt if first.has_corrupt else clean,
        answer=_tokens.stacked(answers, -1),
        wrong=_tokens.stacked(wrongs, -1),
        positions=_tokens.stacked([task.positions for task in tasks], -1),
        lengths=torch.cat([task.lengths for task in tasks]),
        name=" + ".join(names),
        part=first.part if all(task.part == first.part for task in tasks) else "",
        seed=seeds.pop() if len(seeds) == 1 else None,
        labels=None
        if any(rows is None for rows in labels)
        else _tokens.pad_labels([row for rows in labels for row in rows or ()], width),
        template=tuple(name for task in tasks for name in task.template),
        spans=_spans.join([(task.spans, task.clean) for task in tasks]),
        variables=_variables.join([task.variables for task in tasks]),
    )


def _alike(ids: list[Tensor]) -> list[Tensor]:
    """Answers with as many dims as those that have most."""
    dims = max(each.ndim for each in ids)
    return [each if each.ndim == dims else each.unsqueeze(-1) for each in ids]
