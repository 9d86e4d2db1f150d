"""What the commands that measure have in common: checks before a model loads, the task, options, names."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli._output import Output, require_folder
from interp.files import TASK
from interp.places import hint

if TYPE_CHECKING:
    from interp.tasks import Metric, Task

GIB = 2**30
_DEFAULT_PROMPTS = 64
_OWN = ("model", "n", "seed", "metric", "words")  # not given by --option
_FILES = (".jsonl", ".csv")


def check_run(args: argparse.Namespace, folder: Path) -> None:
    """What can be said of how to run, before a model is loaded. Raises ValueError."""
    require_memory(args)
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch-size is {args.batch_size}; it must be at least 1.")
    if not 0 < args.level < 1:
        raise ValueError(f"--level is {args.level}; it must lie between 0 and 1, for example 0.95.")
    if args.n is not None and args.n < 1:
        raise ValueError(f"--n is {args.n}; it must be at least 1.")
    if args.task is not None:
        _check_task(args.task)
    require_folder(folder)


def require_memory(args: argparse.Namespace) -> None:
    """ValueError for --memory that is no number of GiB."""
    if not 0 < args.memory < float("inf"):
        raise ValueError(f"--memory is {args.memory} GiB; it must be a finite number above 0.")


def check_measure(args: argparse.Namespace, folder: Path) -> None:
    """Everything that can be said before a model is loaded. Raises ValueError."""
    from interp.ablation import parse

    check_run(args, folder)
    make_metrics(args.metric)
    parse(args.ablation)


def _check_task(task: str) -> None:
    from interp.tasks import families

    known = families()
    if task not in known and Path(task).suffix.lower() not in _FILES:
        raise ValueError(
            f"unknown task {task!r}{hint(task, known)} Families: {', '.join(known)}; "
            "or give a file of prompts that ends in .jsonl or .csv."
        )
    if task not in known and not Path(task).is_file():
        raise ValueError(f"{task} does not exist. Give a .jsonl or .csv file of prompts.")


def load(args: argparse.Namespace) -> Any:
    """The model. `interp run` keeps it for the next job."""
    import interp

    wanted = (args.model, args.device)
    if wanted not in args.loaded:
        args.loaded.clear()  # one at a time
        with waiting(args, f"loading {args.model} ..."):
            args.loaded[wanted] = interp.load(args.model, device=args.device)
    return args.loaded[wanted]


@contextmanager
def waiting(args: argparse.Namespace, text: str) -> Iterator[None]:
    """A line that stands on the terminal until the block ends, where progress is drawn."""
    if not bars(args):
        yield
        return
    sys.stderr.write(text)
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r" + " " * len(text) + "\r")
        sys.stderr.flush()


def make_task(model: Any, args: argparse.Namespace) -> Task:
    """A family by name, or the prompts of a file (texts, or token ids)."""
    from interp.tasks import Task, families

    known = families()
    if args.task in known:
        n = _DEFAULT_PROMPTS if args.n is None else args.n
        build = known[args.task].build
        return build(model, n=n, seed=args.seed, **family_options(args, build))
    task = Task.from_file(model, args.task)
    if args.n is None:
        return task
    if args.n > len(task):
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


def say_task(task: Task, out: Output, more: str = "") -> None:
    """How many prompts of which task."""
    lengths = task.clean.shape[1]
    out.say(f"{len(task)} prompts of {lengths} tokens, task {task.name}{more}")
    out.tell(task=task.name, n_prompts=len(task), task_fingerprint=task.fingerprint())


def write_task(task: Task, folder: Path, out: Output) -> None:
    """The prompts as token ids, so that `interp.open` makes them again; of tasks that have answers."""
    if bool((task.targets >= 0).any()):
        out.files["task"] = task.to_file(None, folder / TASK, tokens=True)


def bars(args: argparse.Namespace) -> bool:
    """Whether progress is drawn: somebody is looking, and wants it."""
    return not args.quiet and sys.stderr.isatty()


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """The words that all verbs share: ablation, metric, batch_size, memory."""
    return {
        "ablation": args.ablation,
        "metric": make_metrics(args.metric),
        "batch_size": args.batch_size,
        "memory": int(args.memory * GIB),
        "progress": bars(args),
    }


def make_metrics(names: list[str] | None) -> list[Metric] | None:
    """The metrics of these names; None is the task's own."""
    from interp.tasks import METRICS

    for name in names or ():
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{hint(name, METRICS)} Metrics: {', '.join(METRICS)}.")
    return [METRICS[name]() for name in names] if names else None


def default_folder(args: argparse.Namespace, *last: str) -> Path:
    """out/MODEL-TASK-OPTIONS-LAST, without what a file name should not hold."""
    options = [str(value) for _, value in args.option or ()]
    parts = [Path(args.model).name, Path(args.task).stem, *options, *last]
    return Path("out") / "-".join(clean_name(part) for part in parts)


def clean_name(text: str) -> str:
    """A part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
