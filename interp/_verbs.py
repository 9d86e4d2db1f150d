"""What every public verb does beside its work: it checks its arguments, and warns its caller."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from interp._arguments import Door, lacking

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_PACKAGE = str(Path(__file__).parent)
_BETWEEN = (str(Path("jaxtyping", "_decorator.py")), "contextlib.py")


def verb(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A public function: an argument that it does not have is a TypeError that names the nearest it has.

    An argument that is not of a type in its signature is a ValueError (`_arguments`). Names that a function
    hands on to another are that one's to check.
    """
    parameters = inspect.signature(function).parameters
    handed_on = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    name_shown = function.__qualname__.removesuffix(".__init__")
    known = [name for name in parameters if name not in ("self", "cls")]
    door = Door(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in parameters and not handed_on:
                raise TypeError(_no_argument(name_shown, name, known))
        taken, named = door.take(args, kwargs)
        try:
            return function(*taken, **named)  # type: ignore[arg-type]
        except KeyError as error:
            if (name := lacking(error, (*taken, *named.values()))) is None:
                raise
            raise ValueError(
                f"{name_shown} reads {name!r}, which the result does not have. Give the result as the verb "
                f"returned it, or choose of it with a list, as in .isel({name}=[0])."
            ) from error

    return call


def settings(kind: type[_T]) -> type[_T]:
    """A public class whose fields are checked, when it is made, as the arguments of a verb are."""
    kind.__init__ = verb(kind.__init__)
    return kind


def _no_argument(function: str, name: str, parameters: list[str]) -> str:
    from interp.places import hint

    end = hint(name, parameters)
    return f"{function}() has no argument {name!r}{end} It has: {', '.join(parameters)}."


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, at the line outside of this package that called into it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _within(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _within(filename: str) -> bool:
    """Whether a frame is this package's, or one that type checks or context managers put between its own."""
    return filename.startswith((_PACKAGE, "<@beartype")) or filename.endswith(_BETWEEN)
