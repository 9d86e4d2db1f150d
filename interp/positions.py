"""Positions in prompts: one language to say where activations are read and where an intervention acts.

Positions are absolute and count from the first real token of each row: neither a cache nor padding moves them
(see `Frame`). A prompt of n tokens has positions 0 to n-1. `pos=` and `when=` take any of these:

| positions       | which                                                                      |
|-----------------|----------------------------------------------------------------------------|
| "all", everywhere | all                                                                      |
| "last"          | the last token of the prompt                                               |
| 3, at(3, -1)    | those; negative ones count from the end of the prompt                      |
| (a, b), window(a, b), a slice | a to b-1; negative ends count from the end, None is open     |
| prompt_only     | 0 to n-1                                                                   |
| generated       | n-1 and after: the last prompt token makes the first new token             |
| tokens(5, 7)    | where the token is one of these ids                                        |
| before(ids)     | the token before the first occurrence of a sequence of ids                 |
| "verb", span("verb") | a named position of a task: one of its `spans`                           |
| last_user       | the words of the user's last message, of prompts given as messages         |
| response        | the words of the answer that ends a conversation; else what is generated   |
| mask(t)         | where t [pos] or [row, pos] is True; nothing beyond its end                |
| a function      | (tokens, lengths) -> indices [prompt], or a mask [prompt, pos]             |

Sets join with & | and ~. Reading averages over the positions of a prompt ("mean" is the average over all);
only `pos="all"` gives a row for every token. `marked` gives any of these as a mask over a task's prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp._arguments import as_python, shown, whole
from interp._columns import by_function, by_index, by_span, ends
from interp.places import hint
from interp.prompts import Prompts
from interp.tasks._spans import Spans, named

AnyPositions = Any  # Positions | "last" | "mean" | "all" | int | (int, int) | slice | mask | function


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the rows of a running pass stand. Negative positions are padding on the left.

    With a key-value cache a pass holds only the newest tokens, and with left padding the first columns are no
    tokens; neither changes the position of a token here.
    """

    offset: int  # columns in the cache
    padding: Int[Tensor, "row"] | None  # columns before the first real token; None: no row has any
    size: tuple[int, int]  # rows, columns of this pass
    device: torch.device
    prompt_lengths: Int[Tensor, "row"] | None
    all_tokens: Int[Tensor, "row pos"] | None = None  # of this pass, where it started from tokens
    source: Callable[[], Prompts | None] | None = None  # the prompts, for sets that depend on them

    @cached_property
    def positions(self) -> Int[Tensor, "row pos"]:
        """Absolute position of every column of the pass."""
        columns = torch.arange(self.offset, self.offset + self.size[1], device=self.device)[None]
        columns = columns if self.padding is None else columns - self.padding[:, None]
        return columns.expand(self.size[0], -1)

    def on(self, device: torch.device) -> Frame:
        """The same on a device: itself where it is there."""
        if device == self.device:
            return self
        move = lambda part: None if part is None else part.to(device)  # noqa: E731
        return replace(
            self, device=device, padding=move(self.padding), prompt_lengths=move(self.prompt_lengths),
            all_tokens=move(self.all_tokens),
        )  # fmt: skip

    @cached_property
    def keys(self) -> Frame:
        """The frame of all columns that the pass attends to: the cache's and its own."""
        whole = (self.size[0], self.offset + self.size[1])
        tokens = self.all_tokens if self.offset == 0 else None
        return Frame(0, self.padding, whole, self.device, self.prompt_lengths, tokens, self.source)

    @property
    def lengths(self) -> Int[Tensor, "row 1"]:
        """Tokens of each prompt."""
        if self.prompt_lengths is None:
            raise ValueError(
                "the prompt's length is not known: the pass goes on from a cache that was filled before. Put "
                "the prefill inside steer as well, or give steer(prompt_length=...)."
            )
        return self.prompt_lengths[:, None]

    @property
    def tokens(self) -> Int[Tensor, "row pos"]:
        """Token ids of this pass."""
        if self.all_tokens is None or self.all_tokens.shape != self.size:
            raise ValueError(
                "tokens(...) needs the token ids of the pass, which started from the stream or goes back "
                "into a cache. Run the model on tokens, or use mask(...)."
            )
        return self.all_tokens

    @property
    def prompts(self) -> Prompts:
        """The prompts of the rows."""
        prompts = None if self.source is None else self.source()
        if prompts is None or len(prompts) != self.size[0]:
            raise ValueError(
                "these positions depend on the prompt's tokens, and no pass of this run began with them. Put "
                "the prefill inside steer as well, or use mask(...)."
            )
        return prompts


@dataclass(frozen=True, eq=False)
class Positions:
    """A set of positions. Call it on a frame for a mask [row, pos]."""

    rule: Callable[[Frame], Tensor]
    name: str
    first: int = 0  # the lowest index counted from the end of the prompt, for checks
    last: int = -1  # the highest index counted from its start; -1 where there is none
    always: bool = False
    names: tuple[str, ...] = ()  # of the spans that it is made of

    def __call__(self, frame: Frame) -> Bool[Tensor, "row pos"]:
        return self.rule(frame)

    def __and__(self, other: AnyPositions) -> Positions:
        other = parse(other)
        return self._joined(other, lambda f: self(f) & other(f), "&", self.always and other.always)

    def __or__(self, other: AnyPositions) -> Positions:
        other = parse(other)
        return self._joined(other, lambda f: self(f) | other(f), "|", self.always or other.always)

    def __invert__(self) -> Positions:
        return Positions(lambda frame: ~self(frame), f"~({self.name})", self.first, names=self.names)

    def __repr__(self) -> str:
        return self.name

    def check(self, shortest: int, longest: int | None = None, spans: Spans | None = None) -> None:
        """ValueError for a position outside prompts of these lengths (and what is generated after them).

        spans: the named positions of the prompts, where they are known; ValueError for others.
        """
        for name in self.names if spans is not None else ():
            named(spans or {}, name)
        if -self.first > shortest:
            raise ValueError(
                f"{self.name}: position {self.first} counts from the end of a prompt of {shortest} tokens."
            )
        if longest is not None and self.last >= longest:
            raise ValueError(f"{self.name}: position {self.last} is beyond the {longest} tokens of the run.")

    def _joined(
        self, other: Positions, rule: Callable[[Frame], Tensor], sign: str, always: bool
    ) -> Positions:
        name = f"({self.name} {sign} {other.name})"
        ends = (min(self.first, other.first), max(self.last, other.last))
        return Positions(rule, name, *ends, always, (*self.names, *other.names))


def _everywhere(frame: Frame) -> Tensor:
    return torch.ones(frame.size, dtype=torch.bool, device=frame.device)


everywhere = Positions(_everywhere, "everywhere", always=True)
prompt_only = Positions(lambda f: f.positions < f.lengths, "prompt_only")
generated = Positions(lambda f: f.positions >= f.lengths - 1, "generated")


def _last_user(frame: Frame) -> Tensor:
    span = frame.prompts.spans.get("last_user")
    if span is None or not bool(span.any(1).all()):
        raise ValueError(
            "last_user marks the words of the user's last message, and these prompts have none that is "
            "known. Give prompts as messages ([{'role': 'user', 'content': ...}]), to generate, extraction "
            "or a sweep."
        )
    return _looked_up(span, frame)


def _response(frame: Frame) -> Tensor:
    prompts = None if frame.source is None else frame.source()
    span = None if prompts is None else prompts.spans.get("response")
    if span is None:
        return generated(frame)
    span = span.to(frame.device)
    return torch.where(span.any(1, keepdim=True), _looked_up(span, frame), generated(frame))


last_user = Positions(_last_user, "last_user")
response = Positions(_response, "response")


def at(*positions: int) -> Positions:
    """The given positions; -1 is the last token of the prompt. ValueError for none."""
    if not positions:
        raise ValueError("at() needs at least one position, a whole number, as in at(3) or at(-1).")
    positions = tuple(whole("at: a position", each) for each in positions)
    index = torch.tensor(positions)
    low, high = min(positions), max(positions)

    def rule(frame: Frame) -> Tensor:
        wanted = index.to(frame.device).expand(frame.size[0], -1)  # [row, position]
        if low < 0:
            wanted = torch.where(wanted < 0, wanted + frame.lengths, wanted)
        return (frame.positions[:, :, None] == wanted[:, None]).any(-1)

    return Positions(rule, f"at({', '.join(map(str, positions))})", min(low, 0), high)


def window(start: int | None, stop: int | None) -> Positions:
    """Positions start to stop-1. ValueError for an empty window."""
    start, stop = (None if end is None else whole("window: an end", end) for end in (start, stop))
    if start is not None and stop is not None and (start < 0) == (stop < 0) and start >= stop:
        raise ValueError(f"window({start}, {stop}) is empty. Give start < stop.")
    first = 0 if start is None else start

    def rule(frame: Frame) -> Tensor:
        low = first + frame.lengths if first < 0 else first
        inside = frame.positions >= low
        if stop is None:
            return inside
        return inside & (frame.positions < (stop + frame.lengths if stop < 0 else stop))

    ends = [end for end in (start, stop) if end is not None]
    return Positions(rule, f"window({start}, {stop})", min([0, *ends]), max(first, -1))


def span(name: str) -> Positions:
    """The named positions of a task's prompts. ValueError, when used, for a name that they do not have."""
    if not isinstance(name, str):
        raise ValueError(f"span: a name is {shown(name)}; give that of a task's span, a string.")
    return Positions(lambda frame: _looked_up(named(frame.prompts.spans, name), frame), name, names=(name,))


def tokens(*ids: int) -> Positions:
    """Positions whose token is one of the ids."""
    if not ids:
        raise ValueError("tokens() needs at least one token id.")
    ids = tuple(whole("tokens: a token id", each, 0) for each in ids)
    wanted = torch.tensor(ids)
    name = f"tokens({', '.join(map(str, ids))})"
    return Positions(lambda frame: torch.isin(frame.tokens, wanted.to(frame.device)), name)


def mask(marks: Bool[Tensor, "*row pos"]) -> Positions:
    """Positions that are marked, [pos] for every row or [row, pos]."""
    marks = torch.as_tensor(marks) if hasattr(marks, "__array__") else marks
    if not isinstance(marks, Tensor) or marks.dtype != torch.bool or marks.ndim not in (1, 2):
        raise ValueError(f"mask needs a bool tensor [pos] or [row, pos], got {shown(marks)}.")
    table = marks if marks.ndim == 2 else marks[None]
    return Positions(lambda frame: _looked_up(table, frame), f"mask({int(table.sum())} marked)")


def before(ids: Sequence[int]) -> Positions:
    """The token before the first occurrence of `ids` in the prompt.

    That is the last token of an instruction which a fixed marker follows ("Assistant:"). Raises ValueError,
    when used, for a prompt without the marker, and one that begins with it.
    """
    marker = torch.tensor([whole("before: a token id", each, 0) for each in _listed(ids)])

    def index(tokens: Tensor, lengths: Tensor) -> Tensor:
        if len(marker) > tokens.shape[1]:
            raise ValueError(f"prompt 0 does not have the token ids {marker.tolist()}.")
        windows = tokens.unfold(1, len(marker), 1)  # [prompt, start, len(marker)]
        starts = torch.arange(windows.shape[1], device=tokens.device)
        here = (windows == marker.to(tokens)).all(-1) & (starts + len(marker) <= lengths[:, None])
        if not bool(here.any(1).all()):
            row = int((~here.any(1)).nonzero()[0])
            raise ValueError(f"prompt {row} does not have the token ids {marker.tolist()}.")
        first = here.int().argmax(1)
        if bool((first == 0).any()):
            row = int((first == 0).nonzero()[0])
            raise ValueError(f"prompt {row} begins with the token ids {marker.tolist()}: nothing is before.")
        return first - 1

    return _by_prompt(index, f"before({marker.tolist()})")


def _listed(ids: Any) -> list[Any]:
    """Token ids, one or more. ValueError for anything else."""
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__") or not (listed := list(ids)):
        raise ValueError(f"before({shown(ids)}): give the token ids of a marker, as in before([5, 7]).")
    return listed


def parse(given: AnyPositions) -> Positions:
    """The set of positions that a value stands for. ValueError for anything else, and for "mean"."""
    given = as_python(given)
    if isinstance(given, Positions):
        return given
    if isinstance(given, str) and given != "mean":
        known = {"last": at(-1), "all": everywhere, "last_user": last_user, "response": response}
        return known.get(given) or span(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return at(given)
    if isinstance(given, slice) or (isinstance(given, tuple) and len(given) == 2):
        return window(*ends(given))
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        return mask(torch.as_tensor(given))
    if callable(given) and not isinstance(given, type):
        return _by_prompt(given, getattr(given, "__name__", "a function"))
    raise ValueError(
        f"{given!r} names no positions to act on; use interp.positions (everywhere, generated, at(3), "
        "window(a, b), ...), 'last', 'all', an index or the name of a span."
    )


def marked(pos: AnyPositions, data: Any) -> Bool[Tensor, "prompt pos"]:
    """Which positions of a task's prompts a value stands for; a prompt without a named span has none.

    data: a Task, or `interp.prompts.Prompts`. Raises ValueError for an unknown name and for positions outside
    a prompt. No forward pass.

    Example:
        >>> task = interp.tasks.ioi(interp.load("tiny-ioi"), n=2, template=0)
        >>> interp.positions.marked("s2", task).sum(1).tolist()
        [1, 1]
    """
    if not isinstance(data, Prompts) and not hasattr(data, "clean"):
        raise ValueError(f"data is {shown(data)}; give a Task, whose positions are meant.")
    prompts = data if isinstance(data, Prompts) else Prompts(data.clean, data.lengths, None, data.spans)
    if isinstance(pos, str) and pos in ("mean", "all"):
        return prompts.real
    if isinstance(pos, str) and pos != "last":
        return named(prompts.spans, pos)
    return _chosen(pos, prompts)


def weights(pos: AnyPositions, prompts: Prompts) -> Float[Tensor, "prompt pos"]:
    """Weights by which the columns of each prompt are averaged: rows add up to 1 (for "all": 0 or 1).

    Raises ValueError for a position outside a prompt.
    """
    if isinstance(pos, str) and pos not in ("last", "mean", "all", *prompts.spans):
        known = f" The prompts' named positions are: {', '.join(prompts.spans)}." if prompts.spans else ""
        raise ValueError(
            f"pos is {pos!r}{hint(pos, prompts.spans)} Use 'last', 'mean', 'all', an index, (start, stop), "
            f"the name of a span or interp.positions.{known}"
        )
    if isinstance(pos, str) and pos == "all":
        return prompts.real.double()
    chosen = prompts.real if isinstance(pos, str) and pos == "mean" else _chosen(pos, prompts)
    return chosen.double() / chosen.sum(1, keepdim=True)


def require_one(pos: AnyPositions, prompts: Prompts, instead: str = "give one") -> None:
    """ValueError for several positions of a prompt."""
    if not bool(((weights(pos, prompts) > 0).sum(1) == 1).all()):
        raise ValueError(f"pos is {shown(pos)}, several positions of a prompt; {instead}.")


def require_rows(pos: AnyPositions) -> None:
    """ValueError for "all", which is a row for each token, where a prompt is one row."""
    if isinstance(pos, str) and pos == "all":
        raise ValueError("pos is 'all', a row a token, and each prompt is a row; give one, a span or 'mean'.")


def _chosen(pos: AnyPositions, prompts: Prompts) -> Bool[Tensor, "prompt pos"]:
    """Which columns are read; ValueError where that is none of a prompt."""
    pos = as_python(pos)
    if isinstance(pos, int) and not isinstance(pos, bool):
        return by_index(torch.full_like(prompts.lengths, pos), prompts)
    if isinstance(pos, (tuple, slice)):
        return by_span(pos, prompts)
    if callable(pos) and not isinstance(pos, (Positions, type)):
        return by_function(pos, prompts)
    chosen = parse(pos)
    shortest = int(prompts.lengths.min())
    chosen.check(shortest, shortest)
    size = (prompts.tokens.shape[0], prompts.tokens.shape[1])
    frame = Frame(0, None, size, prompts.tokens.device, prompts.lengths, prompts.tokens, lambda: prompts)
    marked = chosen(frame) & prompts.real
    if not bool(marked.any(1).all()):
        row = int((~marked.any(1)).nonzero()[0])
        raise ValueError(f"{chosen} marks no token of prompt {row}, of {int(prompts.lengths[row])} tokens.")
    return marked


def _by_prompt(chooses: Callable[[Tensor, Tensor], Any], name: str) -> Positions:
    """A set that a function of the prompts' tokens and lengths gives."""
    return Positions(lambda frame: _looked_up(by_function(chooses, frame.prompts), frame), name)


def _looked_up(table: Bool[Tensor, "row position"], frame: Frame) -> Bool[Tensor, "row pos"]:
    """The marks of absolute positions at the columns of a pass; one row of marks stands for all."""
    rows = table.to(frame.device)
    if len(rows) not in (1, frame.size[0]):
        raise ValueError(f"mask(...) has {len(rows)} rows, the batch {frame.size[0]}. Give one a row.")
    rows = rows.expand(frame.size[0], -1)
    inside = (frame.positions >= 0) & (frame.positions < rows.shape[1])
    return rows.gather(1, frame.positions.clamp(0, rows.shape[1] - 1)) & inside
