"""The command line: `interp demo | models | tasks | heads | patch | path | attribute | circuit |
steer | plan | labs | report | explore | serve | show | status | compare | run`.

Results go to standard output, progress and errors to standard error; `--json` gives one object on standard
output. Exit status: 0, 1 when a job of `interp run` failed, 2 for a user's mistake (one line says which),
130 when interrupted. Every command that computes writes `summary.json` beside its files.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from interp.cli import _summary
from interp.cli._output import Output
from interp.cli._parser import make_parser

__all__ = ["main"]

_VERBS = {  # where the function of each verb is
    "_measure": ("demo", "patch", "path", "attribute", "plan"),
    "_circuit": ("circuit",),
    "_files": ("report",),
    "_heads": ("heads",),
    "_jobs": ("run",),
    "_labs": ("labs",),
    "_lists": ("models", "tasks"),
    "_live": ("explore", "serve"),
    "_show": ("show", "status", "compare"),
    "steer._chat": ("chat",),
    "steer._directions": ("fit", "calibrate", "bake"),
    "steer._effects": ("sweep", "generate"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a job that failed, 2 for a mistake, 130 when
    interrupted.

    arguments: those of the command line, by default the process's own.

    Example:
        >>> from interp.cli import main
        >>> main(["report", "missing.nc"])
        2
    """
    words = sys.argv[1:] if arguments is None else arguments
    return execute(make_parser().parse_args(words), words, {})


def execute(args: argparse.Namespace, words: Sequence[str], loaded: dict[Any, Any]) -> int:
    """Run a command that was parsed from words. loaded: the model of the command before, if any."""
    verb = getattr(args, "verb", args.command)
    module = next(module for module, verbs in _VERBS.items() if verb in verbs)
    args.loaded, args.run = loaded, _summary.identity(args) if hasattr(args, "resume") else None
    out = Output(args.command if verb == args.command else f"{args.command} {verb}", args)
    start = time.monotonic()
    try:
        if args.log is not None:
            out.log_to(args.log)
        with _warnings_as_lines(out):
            getattr(importlib.import_module(f"interp.cli.{module}"), verb)(args, out)
            _summary.write(args, out, shlex.join(["interp", *words]), time.monotonic() - start)
            out.finish()
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        out.fail(error)
        return 2
    except KeyboardInterrupt:
        out.complain("stopped", "interrupted. What was stored, the same command resumes.")
        return 130
    return out.status


@contextmanager
def _warnings_as_lines(out: Output) -> Iterator[None]:
    """Show a warning, also a logged one, as one line, without the place in the code where it was raised."""
    shown, logger, lines = warnings.showwarning, logging.getLogger("interp"), _Lines(out)

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        out.complain("warning", message)

    warnings.showwarning, propagate = show, logger.propagate
    logger.addHandler(lines)
    logger.propagate = False
    try:
        yield
    finally:
        warnings.showwarning, logger.propagate = shown, propagate
        logger.removeHandler(lines)


class _Lines(logging.Handler):
    """Logged warnings as lines of a command."""

    def __init__(self, out: Output) -> None:
        super().__init__(logging.WARNING)
        self.out = out

    def emit(self, record: logging.LogRecord) -> None:
        self.out.complain("warning", record.getMessage())
