"""What an argument may be: the types that a public signature states, checked at its door, in one sentence.

`verb` hands every argument to `Door`, which reads the signature:

1. Scalars of numpy, and tensors of one number, become Python's own. Generators and arrays become lists where
   a sequence is asked for, lists and arrays become tensors where a tensor is.
2. What is none of the stated types is a ValueError that says the value and what to give. NaN is no number.
3. Some names have limits wherever they occur (`_LIMITS`).

A type that is not in the tables below passes as it is: its verb checks it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

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
    "store": (lambda n: str(n) != "", "be the path of a folder, such as 'run.zarr'"),
    "path": (lambda n: str(n) != "", "be the path of a file"),
}
_ALIASES = {
    "Number": "float | int",
    "Layers": "int | Sequence[int] | None",
    "Scores": "xr.Dataset | Circuit",
    "Estimator": "Callable[[Tensor, Tensor], Tensor]",
    "Intervene": "Callable[[Direction, Any], Any]",
    "Groups": "tuple[Sequence[Any], Sequence[Any]]",
    "Mask": "Tensor | tuple[Tensor | None, ...] | None",
    "Positive": 'Float[Tensor, "n d"]',
    "Negative": 'Float[Tensor, "m d"]',
}
_CLASSES = {  # by annotation: the class, in words
    "Task": ("interp.tasks:Task", "a Task (interp.tasks.ioi(model) and its like, or Task.from_prompts)"),
    "Direction": ("interp.steering:Direction", "a Direction (of mean_difference, or Direction.from_tensor)"),
    "Circuit": ("interp.circuits:Circuit", "a Circuit (circuits.top(scores, 40), circuits.acdc)"),
    "xr.Dataset": ("xarray:Dataset", "a result, whole: the Dataset that a verb returns"),
    "Path": ("pathlib:Path", "a path"),
    "PathLike[str]": ("os:PathLike", "a path"),
    "Place": ("interp.places:Place", "a Place"),
    "go.Figure": ("plotly.graph_objects:Figure", "a figure, such as interp.plot.heads(result)"),
    "xr.DataArray": ("xarray:DataArray", "a variable of a result, such as result['value']"),
    "np.ndarray": ("numpy:ndarray", "an array"),
}
_JUDGED = ("Ablation", "Method", "Metric", "Rules")  # whose own parsers name the nearest, or how to make one
_TENSOR = re.compile(r'(Int|Float|Bool)\[Tensor, "([^"]*)"\]')
_NO = object()  # a value that is not of a kind


@dataclass(frozen=True)
class Kind:
    """One type of a signature: in words, and a function that gives the value as the verb wants it, or _NO."""

    words: str
    take: Callable[[Any], Any]


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
        if (taken := kind.take(value)) is not _NO:
            return _within(name, taken)
    if any(kind is _PLAIN["Model"] for kind in kinds):
        _models().require_model(value, name)
    words = list(dict.fromkeys(kind.words for kind in kinds))
    raise ValueError(f"{name} is {shown(value)}; give {', or '.join(words)}.")


def _within(name: str, value: Any) -> Any:
    inside, words = _LIMITS.get(name, (None, ""))
    if inside is not None and type(value) in (int, float, str) and not inside(value):
        raise ValueError(f"{name} is {value!r}; it must {words}.")
    return value


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
    return " with numbers that are not finite" if floating and not _finite(value) else ""


def as_python(value: Any) -> Any:
    """A scalar of numpy as Python's own, anything else as it is."""
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def kinds_of(annotation: str, names: Mapping[str, Any] | None = None) -> tuple[Kind, ...] | None:
    """The kinds of an annotation, a string; None where one of them is not known.

    names: what its module calls things, for its own classes.
    """
    annotation = annotation.replace("'", '"')
    parts = [part for piece in _split(annotation) for part in _split(_ALIASES.get(piece, piece))]
    numbers = {"float", "int"} <= set(parts)
    found = [
        _kind(part, numbers) or _own_class(part, names or {})
        for part in parts
        if part != "int" or not numbers
    ]
    known = [kind for kind in found if kind is not None]
    return tuple(known) if len(known) == len(found) else None


def _split(annotation: str, mark: str = "|") -> list[str]:
    """The parts of a union, or what another mark sets apart."""
    parts, depth, quoted = [""], 0, False
    for letter in annotation:
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter == "[") - (letter == "]")
        if letter == mark and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _kind(part: str, whole: bool) -> Kind | None:
    """The kind of one type. whole: whether a whole number stays one where a number is asked for."""
    if part == "float":
        return Kind("a number", lambda value: _number(value, whole))
    if part in _PLAIN:
        return _PLAIN[part]
    if part in _CLASSES:
        return _class(part)
    if match := _TENSOR.fullmatch(part):
        return _tensor(*match.groups())
    if part.startswith("Callable["):
        return Kind("a function", _function)
    if part.startswith("Mapping[str, ") and part.endswith("]"):
        return _mapping(part[len("Mapping[str, ") : -1])
    if part.startswith("tuple[") and part.endswith("]"):
        return _tuple(part[len("tuple[") : -1])
    if part.startswith("Sequence[") and part.endswith("]"):
        return _sequence(part[len("Sequence[") : -1])
    return None


def _none(value: Any) -> Any:
    return value if value is None else _NO


def _scalar(value: Any) -> Any:
    """The number of a scalar of numpy, or of a tensor of one number without dims."""
    value = as_python(value)
    is_tensor = hasattr(value, "item") and getattr(value, "shape", None) == () and hasattr(value, "dtype")
    return value.item() if is_tensor and str(getattr(value, "device", "cpu")) != "meta" else value


def _whole(value: Any) -> Any:
    value = _scalar(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else _NO


def _number(value: Any, whole: bool) -> Any:
    """A number; a whole one stays one where the signature says so."""
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return _NO
    if isinstance(value, int) and whole and abs(value) < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return _NO


def _any_tensor(value: Any) -> Any:
    import torch

    tensor = value if isinstance(value, torch.Tensor) else _made(value, "")
    return _NO if tensor is _NO or tensor.is_meta or not _finite(tensor) else tensor


def _positions(value: Any) -> Any:
    """What may name positions; which of them a verb takes, it says itself."""
    value = _scalar(value)
    if isinstance(value, (str, slice)) or _whole(value) is not _NO:
        return value
    if isinstance(value, tuple) and len(value) == 2:
        ends = [end if end is None else _whole(end) for end in value]
        return _NO if any(end is _NO for end in ends) else tuple(ends)
    if hasattr(value, "__array__"):
        mask = _any_tensor(value)
        return mask if mask is not _NO and mask.ndim <= 2 and str(mask.dtype) == "torch.bool" else _NO
    return _function(value)


def _function(value: Any) -> Any:
    """Something to call, and no class or TransformerLens model, which can be called too."""
    plain = callable(value) and not isinstance(value, type) and not hasattr(value, "hook_dict")
    return value if plain else _NO


def _switch(value: Any) -> Any:
    value = _scalar(value)
    return bool(value) if isinstance(value, int) and value in (0, 1) else _NO


def _models() -> Any:
    return import_module("interp.models._anatomy")


def _model(value: Any) -> Any:
    return value if _models().is_model(value) else _NO


_PLAIN = {
    "None": Kind("None", _none),
    "str": Kind("a string", lambda value: value if isinstance(value, str) else _NO),
    "int": Kind("a whole number", _whole),
    "bool": Kind("True or False", _switch),
    "Tensor": Kind("a tensor of finite numbers", lambda value: _any_tensor(value)),
    "AnyPositions": Kind(
        "positions: 'last', 'all', an index, a span (a, b), a set of interp.positions, a mask or a function",
        lambda value: _positions(value),
    ),
    "Model": Kind("a model", _model),
}


def _class(part: str) -> Kind:
    path, words = _CLASSES[part]
    module, _, name = path.partition(":")

    def take(value: Any) -> Any:
        return value if isinstance(value, getattr(import_module(module), name)) else _NO

    return Kind(words, take)


def _own_class(part: str, names: Mapping[str, Any]) -> Kind | None:
    """A class of this package that the function's module has under that name."""
    kind = None if part in _JUDGED or hasattr(names.get(part), "_is_protocol") else names.get(part)
    if not isinstance(kind, type) or not kind.__module__.startswith("interp."):
        return None
    article = "an" if part[0] in "AEIOU" else "a"
    return Kind(f"{article} {part}", lambda value: value if isinstance(value, kind) else _NO)


def _sequence(inside: str) -> Kind | None:
    kinds = kinds_of(inside)
    if kinds is None:
        return None

    def take(value: Any) -> Any:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or _is_one(value):
            return _NO
        items = getattr(value, "tolist", lambda: value)()
        listed = [_first(kinds, each) for each in items]
        return _NO if any(each is _NO for each in listed) else listed

    return Kind(f"a list, each {' or '.join(kind.words for kind in kinds)}", take)


def _tuple(inside: str) -> Kind | None:
    """As many entries as the annotation has; any number for `tuple[int, ...]`."""
    entries = _split(inside, ",")
    if entries[-1] != "...":
        words = "a pair" if len(entries) == 2 else f"{len(entries)} entries"
        return Kind(
            words,
            lambda value: value if isinstance(value, (tuple, list)) and len(value) == len(entries) else _NO,
        )
    several = _sequence(entries[0])
    if several is None:
        return None

    def take(value: Any) -> Any:
        taken = several.take(value)
        return taken if taken is _NO else tuple(taken)

    return Kind(several.words, take)


def _mapping(inside: str) -> Kind:
    """A dict of anything where what is inside is not known here."""
    kinds = kinds_of(inside)

    def take(value: Any) -> Any:
        if not isinstance(value, Mapping) or hasattr(value, "data_vars"):
            return _NO
        taken = {name: each if kinds is None else _first(kinds, each) for name, each in value.items()}
        return _NO if any(each is _NO for each in taken.values()) else taken

    return Kind("a dict" if kinds is None else f"a dict, each {' or '.join(k.words for k in kinds)}", take)


def _is_one(value: Any) -> bool:
    """Things that can be gone through and are one: a tensor without dims or numbers, a result, a table."""
    table = hasattr(value, "data_vars") or hasattr(value, "columns") or getattr(value, "is_meta", False)
    return isinstance(value, type) or getattr(value, "shape", None) == () or table


def _first(kinds: tuple[Kind, ...], value: Any) -> Any:
    return next((taken for kind in kinds if (taken := kind.take(value)) is not _NO), _NO)


_DTYPES = {"Int": "whole numbers", "Float": "finite floating-point numbers", "Bool": "True and False"}


def _tensor(dtype: str, shape: str) -> Kind:
    names = shape.split()
    fixed = not any(name.startswith("*") or name == "..." for name in names)

    def take(value: Any) -> Any:
        import torch

        tensor = value if isinstance(value, torch.Tensor) else _made(value, dtype)
        if tensor is _NO or (fixed and tensor.ndim != len(names)) or tensor.is_meta:
            return _NO
        if dtype == "Float":
            return tensor if tensor.is_floating_point() and _finite(tensor) else _NO
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        return tensor if whole and (tensor.dtype == torch.bool) == (dtype == "Bool") else _NO

    return Kind(f"a tensor [{', '.join(names)}] of {_DTYPES[dtype]}", take)


def _finite(tensor: Any) -> bool:
    return bool(tensor.isfinite().all())


def _made(value: Any, dtype: str) -> Any:
    """A tensor of an array or of lists of numbers; _NO for anything else."""
    import torch

    array = hasattr(value, "__array__") and not isinstance(value, type) and not hasattr(value, "data_vars")
    if not array and not (isinstance(value, (list, tuple)) and value):
        return _NO
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return _NO
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
    return tensor.float() if dtype == "Float" and whole else tensor


def whole(name: str, value: Any, lowest: int | None = None) -> int:
    """A whole number, of numpy or not. Raises ValueError for anything else, and for one below the lowest."""
    number = checked(name, value, (_PLAIN["int"],))
    if lowest is not None and number < lowest:
        raise ValueError(f"{name} is {number}; give a whole number of {lowest} or more.")
    return number


def number(name: str, value: Any) -> float | int:
    """A finite number, of numpy or not. Raises ValueError for anything else."""
    found = checked(name, value, (Kind("a finite number", lambda given: _number(given, whole=True)),))
    if abs(found) == float("inf"):
        raise ValueError(f"{name} is {found}; give a finite number.")
    return found
