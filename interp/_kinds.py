"""The kinds of value that an annotation states, each in words and as a function that takes a value or not.

`kinds_of` reads an annotation as the string that it is, since signatures of this package are not evaluated:
a union's parts, what is inside of a list, tuple or dict, and tensors by their dims. A type that is not in the
tables below is no kind, and its verb checks it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_ALIASES = {
    "Number": "float | int",
    "Named": "str | Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]]",
    "Layers": "int | Sequence[int] | None",
    "Scores": "xr.Dataset | Circuit",
    "Estimator": "Callable[[Tensor, Tensor], Tensor]",
    "Intervene": "Callable[[Direction, Any], Any]",
    "Judge": "Callable[[Tensor], Tensor]",
    "Groups": "tuple[Sequence[str | int], Sequence[str | int]]",
    "Mask": "Tensor | tuple[Tensor | None, ...] | None",
    "Provenance": "Mapping[str, Any]",
    "Thresholds": "float | int | Mapping[str, float] | None",
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
NO = object()  # a value that is not of a kind


@dataclass(frozen=True)
class Kind:
    """One type of a signature: in words, and a function that gives the value as the verb wants it, or NO."""

    words: str
    take: Callable[[Any], Any]


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
    kinds = [_kind(part, numbers, names or {}) for part in parts if part != "int" or not numbers]
    known = [kind for kind in kinds if kind is not None]
    return tuple(known) if len(known) == len(kinds) else None


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


def _kind(part: str, whole: bool, names: Mapping[str, Any]) -> Kind | None:
    """The kind of one type. whole: whether a whole number stays one where a number is asked for."""
    if part == "float":
        return Kind("a number", lambda value: number_of(value, whole))
    if part in PLAIN:
        return PLAIN[part]
    if part in _CLASSES:
        return _class(part)
    if match := _TENSOR.fullmatch(part):
        return _tensor(*match.groups())
    if part.startswith("Callable["):
        return Kind("a function", _function)
    if part.startswith("Mapping[str, ") and part.endswith("]"):
        return _mapping(part[len("Mapping[str, ") : -1], names)
    if part.startswith("tuple[") and part.endswith("]"):
        return _tuple(part[len("tuple[") : -1], names)
    if part.startswith(("Sequence[", "Iterable[")) and part.endswith("]"):
        return _sequence(part[len("Sequence[") : -1], names)
    if part.startswith("Collection[") and part.endswith("]"):
        return _sequence(part[len("Collection[") : -1], names, ordered=False)
    return _own_class(part, names)


def _none(value: Any) -> Any:
    return value if value is None else NO


def _scalar(value: Any) -> Any:
    """The number of a scalar of numpy, or of a tensor of one number without dims."""
    value = as_python(value)
    is_tensor = hasattr(value, "item") and getattr(value, "shape", None) == () and hasattr(value, "dtype")
    return value.item() if is_tensor and str(getattr(value, "device", "cpu")) != "meta" else value


def _whole(value: Any) -> Any:
    value = _scalar(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else NO


def number_of(value: Any, whole: bool) -> Any:
    """A number; a whole one stays one where the signature says so."""
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return NO
    if isinstance(value, int) and whole and abs(value) < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return NO


def _any_tensor(value: Any) -> Any:
    import torch

    tensor = value if isinstance(value, torch.Tensor) else _made(value, "")
    return NO if tensor is NO or tensor.is_meta or not finite(tensor) else tensor


def _positions(value: Any) -> Any:
    """What may name positions; which of them a verb takes, it says itself."""
    value = _scalar(value)
    if isinstance(value, (str, slice)) or _whole(value) is not NO:
        return value
    if isinstance(value, tuple) and len(value) == 2:
        ends = [end if end is None else _whole(end) for end in value]
        return NO if any(end is NO for end in ends) else tuple(ends)
    if hasattr(value, "__array__"):
        mask = _any_tensor(value)
        return mask if mask is not NO and mask.ndim <= 2 and str(mask.dtype) == "torch.bool" else NO
    return _function(value)


def _function(value: Any) -> Any:
    """Something to call, and no class or TransformerLens model, which can be called too."""
    plain = callable(value) and not isinstance(value, type) and not hasattr(value, "hook_dict")
    return value if plain else NO


def _slice(value: Any) -> Any:
    ends = (value.start, value.stop, value.step) if isinstance(value, slice) else (NO,)
    return value if all(end is None or _whole(end) is not NO for end in ends) else NO


def _switch(value: Any) -> Any:
    value = _scalar(value)
    return bool(value) if isinstance(value, int) and value in (0, 1) else NO


def models() -> Any:
    return import_module("interp.models._anatomy")


def _model(value: Any) -> Any:
    return value if models().is_model(value) else NO


PLAIN = {
    "None": Kind("None", _none),
    "str": Kind("a string", lambda value: value if isinstance(value, str) else NO),
    "int": Kind("a whole number", _whole),
    "slice": Kind("a slice, as in slice(0, 8)", _slice),
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
        return value if isinstance(value, getattr(import_module(module), name)) else NO

    return Kind(words, take)


def _own_class(part: str, names: Mapping[str, Any]) -> Kind | None:
    """A class of this package that the function's module has under that name."""
    kind = None if part in _JUDGED or hasattr(names.get(part), "_is_protocol") else names.get(part)
    if not isinstance(kind, type) or not kind.__module__.startswith("interp."):
        return None
    article = "an" if part[0] in "AEIOU" else "a"
    return Kind(f"{article} {part}", lambda value: value if isinstance(value, kind) else NO)


def _sequence(inside: str, names: Mapping[str, Any], ordered: bool = True) -> Kind | None:
    """A list of anything that can be gone through, where it is ordered in an order: a set has none."""
    refused = (str, bytes, Mapping, Set) if ordered else (str, bytes, Mapping)
    if inside == "Any":
        return Kind("a list", lambda value: _listed(value, refused))
    kinds = kinds_of(inside, names)
    if kinds is None:
        return None

    def take(value: Any) -> Any:
        if isinstance(value, refused) or not isinstance(value, Iterable) or _is_one(value):
            return NO
        listed = [_first(kinds, each) for each in getattr(value, "tolist", lambda: value)()]
        return NO if any(each is NO for each in listed) else listed

    return Kind(f"a list, each {' or '.join(kind.words for kind in kinds)}", take)


def _listed(value: Any, refused: tuple[type, ...]) -> Any:
    """A list of anything; arrays have one dim."""
    if isinstance(value, refused) or not isinstance(value, Iterable) or _is_one(value):
        return NO
    return NO if getattr(value, "ndim", 1) != 1 else list(getattr(value, "tolist", lambda: value)())


def _tuple(inside: str, names: Mapping[str, Any]) -> Kind | None:
    """As many entries as the annotation has; any number for `tuple[int, ...]`."""
    entries = _split(inside, ",")
    if entries[-1] != "...":
        return _entries([kinds_of(entry, names) for entry in entries])
    several = _sequence(entries[0], names)
    if several is None:
        return None

    def take(value: Any) -> Any:
        taken = several.take(value)
        return taken if taken is NO else tuple(taken)

    return Kind(several.words, take)


def _entries(kinds: list[tuple[Kind, ...] | None]) -> Kind:
    """A tuple with an entry of each kind, or of any where that is None."""
    words = "a pair" if len(kinds) == 2 else f"{len(kinds)} entries"
    known = [None if each is None else " or ".join(kind.words for kind in each) for each in kinds]
    if len(set(known)) == 1 and known[0] is not None:
        words += f", each {known[0]}"

    def take(value: Any) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) != len(kinds):
            return NO
        taken = [each if kind is None else _first(kind, each) for kind, each in zip(kinds, value)]
        return NO if any(each is NO for each in taken) else tuple(taken)

    return Kind(words, take)


def _mapping(inside: str, names: Mapping[str, Any]) -> Kind:
    """A dict of anything where what is inside is not known here; its keys are names."""
    kinds = kinds_of(inside, names)

    def take(value: Any) -> Any:
        if not isinstance(value, Mapping) or hasattr(value, "data_vars"):
            return NO
        if not all(isinstance(name, str) for name in value):
            return NO
        taken = {name: each if kinds is None else _first(kinds, each) for name, each in value.items()}
        return NO if any(each is NO for each in taken.values()) else taken

    words = (
        "a dict by name" if kinds is None else f"a dict by name, each {' or '.join(k.words for k in kinds)}"
    )
    return Kind(words, take)


def _is_one(value: Any) -> bool:
    """Things that can be gone through and are one: a tensor without dims or numbers, a result, a table."""
    table = hasattr(value, "data_vars") or hasattr(value, "columns") or getattr(value, "is_meta", False)
    return isinstance(value, type) or getattr(value, "shape", None) == () or table


def _first(kinds: tuple[Kind, ...], value: Any) -> Any:
    return next((taken for kind in kinds if (taken := kind.take(value)) is not NO), NO)


_DTYPES = {"Int": "whole numbers", "Float": "finite floating-point numbers", "Bool": "True and False"}


def _tensor(dtype: str, shape: str) -> Kind:
    names = shape.split()
    fixed = not any(name.startswith("*") or name == "..." for name in names)

    def take(value: Any) -> Any:
        import torch

        tensor = value if isinstance(value, torch.Tensor) else _made(value, dtype)
        if tensor is NO or (fixed and tensor.ndim != len(names)) or tensor.is_meta:
            return NO
        if dtype == "Float":
            return tensor if tensor.is_floating_point() and finite(tensor) else NO
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        return tensor if whole and (tensor.dtype == torch.bool) == (dtype == "Bool") else NO

    return Kind(f"a tensor [{', '.join(names)}] of {_DTYPES[dtype]}", take)


def finite(tensor: Any) -> bool:
    return bool(tensor.isfinite().all())


def _made(value: Any, dtype: str) -> Any:
    """A tensor of an array or of lists of numbers; NO for anything else."""
    import torch

    array = hasattr(value, "__array__") and not isinstance(value, type) and not hasattr(value, "data_vars")
    if not array and not (isinstance(value, (list, tuple)) and value):
        return NO
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return NO
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
    return tensor.float() if dtype == "Float" and whole else tensor
