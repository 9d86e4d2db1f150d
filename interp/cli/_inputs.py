"""What the commands that measure have in common: the task, the cells, the metrics, the folder's name."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.places import hint

if TYPE_CHECKING:
    from interp.tasks import Metric, Task

_GIB = 2**30
_DEFAULT_PROMPTS = 64
_OWN = ("model", "n", "seed", "metric", "words")  # not given by --option


def make_task(model: Any, args: argparse.Namespace) -> Task:
    """A family by name, or the prompts of a file."""
    from interp.tasks import Task, families

    known = families()
    if args.task in known:
        n = _DEFAULT_PROMPTS if args.n is None else args.n
        build = known[args.task].build
        return build(model, n=n, seed=args.seed, **family_options(args, build))
    if Path(args.task).suffix.lower() not in (".jsonl", ".csv"):
        raise ValueError(
            f"unknown task {args.task!r}{hint(args.task, known)} Families: {', '.join(known)}; "
            "or give a file of prompts that ends in .jsonl or .csv."
        )
    task = Task.from_file(model, args.task)
    if args.n is None:
        return task
    if not 1 <= args.n <= len(task):
        raise ValueError(f"--n is {args.n}, but {args.task} has {len(task)} prompts. Use 1 to {len(task)}.")
    return task[: args.n]


def family_options(args: argparse.Namespace, build: Callable[..., Task]) -> dict[str, Any]:
    """--template and every --option NAME=VALUE, if the family has an option of that name."""
    given = dict(args.option or ())
    if args.template is not None:
        given["template"] = args.template
    has = [name for name in inspect.signature(build).parameters if name not in _OWN]
    for name in given:
        if name not in has:
            raise ValueError(
                f"--task {args.task} has no option {name!r}. It has: {', '.join(has) or 'none'}."
            )
    return given


def sweep_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `interp.patch` and `interp.attribute` share. One site alone gives a result without a site dim."""
    site = args.site[0] if args.site and len(args.site) == 1 else args.site
    if args.memory <= 0:
        raise ValueError(f"--memory is {args.memory} GiB; it must be more than 0.")
    return {
        "site": site,
        "by": args.by,
        "cells": args.cells,
        "direction": args.direction,
        "metric": make_metrics(args.metric),
        "ablation": args.ablation,
        "batch_size": args.batch_size,
        "memory": int(args.memory * _GIB),
    }


def make_metrics(names: list[str] | None) -> list[Metric] | None:
    """The metrics of these names; None is the task's own."""
    from interp.tasks import METRICS

    for name in names or ():
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{hint(name, METRICS)} Metrics: {', '.join(METRICS)}.")
    return [METRICS[name]() for name in names] if names else None


def default_name(args: argparse.Namespace, last: str | None = None) -> str:
    """MODEL-TASK-OPTIONS-SITE (or `last` in place of the site), without what a file name should not hold."""
    site = last or ("_".join(args.site) if args.site else "cells")
    options = [str(value) for _, value in args.option or ()]
    parts = [Path(args.model).name, Path(args.task).stem, *options, site]
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts)
