"""What an argument may be: the types that a public signature states, checked at its door, in one sentence.

`verb` hands every argument to `Door`, which reads the signature:

1. Scalars of numpy, and tensors of one number, become Python's own. Generators and arrays become lists where
   a sequence is asked for, lists and arrays become tensors where a tensor is.
2. What is none of the stated types is a ValueError that says the value and what to give. NaN is no number.
3. Some names have limits wherever they occur (`_LIMITS`), and lists of some names have each entry once.

What the types are is `_kinds`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterable
from functools import cached_property
from pathlib import PurePath
from typing import Any

from interp._kinds import NO, PLAIN, Kind, as_python, finite, kinds_of, models, number_of

INFINITE = float("inf")
_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {  # whether a value is inside, and in words
    "seed": (lambda n: 0 <= n < 2**63, "be a whole number from 0 to 2**63 - 1"),
    "batch_size": (lambda n: 1 <= n <= 2**31, "be a whole number of at least 1, or None to fill the memory"),
    "memory": (lambda n: n >= 1, "be a number of bytes such as 2 * 2**30, at least 1"),
    "draws": (lambda n: 1 <= n <= 10**6, "be a whole number from 1 to a million"),
    "n_draws": (lambda n: 1 <= n <= 10**6, "be a whole number from 1 to a million"),
    "steps": (lambda n: 1 <= n <= 10**6, "be a whole number from 1 to a million"),
    "max_new_tokens": (lambda n: 1 <= n <= 10**9, "be 1 or more, a whole number"),
    "n": (lambda n: n <= 10**7, "be at most ten million"),
    "level": (lambda n: 0 < n < 1, "lie between 0 and 1, for example 0.95"),
    "l1": (lambda n: 0 <= n < INFINITE, "be a finite number, 0 or more"),
    "l2": (lambda n: 0 <= n < INFINITE, "be a finite number, 0 or more"),
    "ridge": (lambda n: 0 <= n < INFINITE, "be a finite number, 0 or more"),
    "lr": (lambda n: 0 < n < INFINITE, "be a finite number above 0"),
    "held_out": (lambda n: 0 < n < 1, "be a share between 0 and 1, such as 0.3"),
    "target_kl": (lambda n: 0 < n < INFINITE, "be a finite number of nats above 0"),
    "coefficient": (lambda n: abs(n) < INFINITE, "be a finite number"),
    "n_pairs": (lambda n: n >= 4, "be a whole number of at least 4"),
    "top": (lambda n: n >= 1, "be a whole number of at least 1"),
    "bins": (lambda n: 2 <= n <= 10**6, "be a whole number from 2 to a million"),
    "store": (lambda n: _is_path(n), "be the path of a folder, such as 'run.zarr'"),
    "folder": (lambda n: _is_path(n), "be the path of a folder"),
    "path": (lambda n: _is_path(n), "be the path of a file"),
}
_NUMBERS = (  # what is a number in every result
    "accuracy", "clean", "control", "corrupt", "edges", "empty", "entropy", "estimate", "faithfulness",
    "heads", "high", "in_top", "kl", "low", "nodes", "p", "q", "quantile", "rank", "raw", "same_sign", "t",
    "top_id", "top_value", "value",
)  # fmt: skip
_ASKED = re.compile(r"(?:No variable named )?'?(\w+)'?(?:$|\.)")  # what a KeyError of xarray's says
_EACH_ONCE = (  # as labels of a result, two of one name could not be told apart
    "cells", "coefficients", "controls", "counts", "dst", "freeze", "heads", "layer", "neurons", "places",
    "pos", "quantiles", "site", "sites", "src", "thresholds",
)  # fmt: skip


class Door:
    """The arguments of one function, checked."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.parameters = inspect.signature(function).parameters
        self._names = inspect.unwrap(function).__globals__

    @cached_property
    def kinds(self) -> dict[str, tuple[Kind, ...] | None]:
        """The kinds of every argument; None where some type of it is not known here."""
        return {p: kinds_of(str(each.annotation), self._names) for p, each in self.parameters.items()}

    @cached_property
    def _positional(self) -> list[str]:
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [name for name, each in self.parameters.items() if each.kind in plain]

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the function wants them. Raises ValueError for one that it cannot take."""
        names = self._positional
        taken = [self._taken(name, value) for name, value in zip(names, args)]
        return [*taken, *args[len(names) :]], {n: self._taken(n, value) for n, value in kwargs.items()}

    def _taken(self, name: str, value: Any) -> Any:
        kinds = self.kinds.get(name)
        return as_python(value) if kinds is None else checked(name, value, kinds)


def checked(name: str, value: Any, kinds: tuple[Kind, ...]) -> Any:
    """The value as the first of the kinds that takes it. Raises ValueError for none, or out of its limits."""
    for kind in kinds:
        if (taken := kind.take(value)) is not NO:
            return _within(name, taken)
    if any(kind is PLAIN["Model"] for kind in kinds):
        models().require_model(value, name)
    words = list(dict.fromkeys(kind.words for kind in kinds))
    raise ValueError(f"{name} is {shown(value)}; give {', or '.join(words)}.")


def _within(name: str, value: Any) -> Any:
    inside, words = _LIMITS.get(name, (None, ""))
    limited = type(value) in (int, float, str) or isinstance(value, PurePath)
    if inside is not None and limited and not inside(value):
        raise ValueError(f"{name} is {value!r}; it must {words}.")
    for result in results_in(value):
        _require_result(name, result)
    if name in _EACH_ONCE and type(value) is list and (twice := _twice(value)) is not None:
        raise ValueError(f"{name} has {twice!r} twice; give each once.")
    return value


def results_in(value: Any) -> list[Any]:
    """The results (Datasets) that an argument is, or holds as a list or by name."""
    listed = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [each for each in (value, *listed) if hasattr(each, "data_vars")]


def _require_result(name: str, result: Any) -> None:
    """Raise ValueError for a result without entries along a dim, or with numbers that are none."""
    empty = next((dim for dim, size in result.sizes.items() if size == 0), None)
    if empty is not None:
        raise ValueError(f"{name} has no {empty}s: its dim {empty} has length 0. Give one or more.")
    for variable, values in result.data_vars.items():
        kind = values.dtype.kind
        if kind not in "biuf" and (variable in _NUMBERS or kind not in "OSUT"):
            raise ValueError(
                f"{name} has {str(variable)!r} as {values.dtype}, which are no real numbers. Give the result "
                "as the verb returned it."
            )


def lacking(error: KeyError, values: Iterable[Any]) -> str | None:
    """What a result among the arguments lacks that was asked for; None for nothing.

    A variable, coordinate or attribute that is not there, or a dim of which one entry was chosen.
    """
    key = _ASKED.match(str(error.args[0])) if error.args else None
    if key is None:
        return None
    results = [result for value in values for result in results_in(value)]
    there = [{*each.attrs, *(name for name, v in each.variables.items() if v.ndim)} for each in results]
    return key[1] if any(key[1] not in names for names in there) else None


def _is_path(value: Any) -> bool:
    """Whether a file system can have such a name: no part of it is longer than 255 bytes."""
    text = str(value).encode("utf-8", "surrogatepass")
    return text != b"" and b"\0" not in text and max(map(len, text.split(b"/"))) <= 255


def _twice(values: list[Any]) -> Any:
    """The first entry that came before; None where all are different."""
    seen: set[Any] = set()
    for each in values:
        if isinstance(each, Hashable) and each in seen:
            return each
        seen.add(each if isinstance(each, Hashable) else id(each))
    return None


def shown(value: Any) -> str:
    """A value in an error message: short, and a type where its text would say nothing."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "data_vars"):
        return f"a {type(value).__name__} of {list(map(str, value.data_vars))}"
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype") and tuple(shape):
        return f"a {type(value).__name__} {list(shape)} of {value.dtype}{_oddity(value)}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, list, tuple, dict, set)):
        text = " ".join(repr(value).split())
        return text if len(text) <= 80 else f"{text[:77]}..."
    return repr(value) if hasattr(value, "dtype") else f"a {type(value).__name__}"


def _oddity(value: Any) -> str:
    """What a tensor may have that others have not."""
    if getattr(value, "is_meta", False):
        return " on the meta device, without numbers"
    floating = hasattr(value, "is_floating_point") and value.is_floating_point()
    return " with numbers that are not finite" if floating and not finite(value) else ""


def whole(name: str, value: Any, lowest: int | None = None) -> int:
    """A whole number, of numpy or not. Raises ValueError for anything else, and for one below the lowest."""
    number = checked(name, value, (PLAIN["int"],))
    if lowest is not None and number < lowest:
        raise ValueError(f"{name} is {number}; give a whole number of {lowest} or more.")
    return number


def number(name: str, value: Any) -> float | int:
    """A finite number, of numpy or not. Raises ValueError for anything else."""
    found = checked(name, value, (Kind("a finite number", lambda given: number_of(given, whole=True)),))
    if abs(found) == float("inf"):
        raise ValueError(f"{name} is {found}; give a finite number.")
    return found
