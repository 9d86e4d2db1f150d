"""The command line: `interp demo | models | tasks | heads | patch | path | attribute | circuit |
steer | report | explore`.

Results go to standard output, progress and errors to standard error; `--json` gives one object on standard
output. Exit status: 0, 2 for a user's mistake (one line says which), 130 when interrupted.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from interp.cli._output import Output, complain
from interp.cli._parser import make_parser

__all__ = ["main"]

_VERBS = {  # where the function of each verb is
    "_measure": ("demo", "patch", "path", "attribute"),
    "_circuit": ("circuit",),
    "_files": ("report",),
    "_heads": ("heads",),
    "_lists": ("models", "tasks"),
    "_live": ("explore",),
    "steer._directions": ("fit", "calibrate", "bake"),
    "steer._effects": ("sweep", "generate"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a mistake, 130 when interrupted.

    arguments: those of the command line, by default the process's own.

    Example:
        >>> from interp.cli import main
        >>> main(["report", "missing.nc"])
        2
    """
    args = make_parser().parse_args(arguments)
    verb = getattr(args, "verb", args.command)
    module = next(module for module, verbs in _VERBS.items() if verb in verbs)
    out = Output(args.command if verb == args.command else f"{args.command} {verb}", args.json)
    try:
        with _warnings_as_lines():
            getattr(importlib.import_module(f"interp.cli.{module}"), verb)(args, out)
            out.finish()
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        out.fail(error)
        return 2
    except KeyboardInterrupt:
        complain("stopped", "interrupted. What was stored, the same command resumes.")
        return 130
    return 0


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show a warning as one line, without the place in the code where it was raised."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        complain("warning", message)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
