"""The command line: `interp demo | models | tasks | patch | attribute | circuit | steer | report`.

Results go to standard output, progress and errors to standard error. Exit status: 0, 2 for a user's mistake
(one line says which), 130 when interrupted.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from interp.cli.parser import make_parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Each command is the module of its name."""
    args = make_parser().parse_args(arguments)
    command = importlib.import_module(f"interp.cli.{args.command}_command")
    try:
        with _warnings_as_lines():
            command.run(args)
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        _say("error", error)
        return 2
    except KeyboardInterrupt:
        _say("stopped", "interrupted. What --store wrote, the same command resumes; acdc with --resume.")
        return 130
    return 0


def _say(kind: str, message: object) -> None:
    """One line on standard error."""
    print(f"interp: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show a warning as one line, without the place in the code where it was raised."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        _say("warning", message)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
