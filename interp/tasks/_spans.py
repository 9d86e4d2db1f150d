"""Named positions: where the subject of each prompt stands, the second name, the verb, the end.

A span is a mask [prompt, pos] with a name. It may mark one position or several, more of them in one prompt
than in another, and none in a prompt that has no such part. The two prompts of a pair share it, as they share
their length, so that patching a span compares like with like; names say what stands in the clean prompt.

A caller gives, by name, one entry a prompt:

| entry                        | marks                                                                   |
|------------------------------|-------------------------------------------------------------------------|
| 3, -1                        | that position; negative ones count from the end of the prompt           |
| [3, 5]                       | those                                                                   |
| (3, 6), range, slice         | 3 to 5                                                                  |
| "John Smith"                 | the tokens of these words, which stand once in the clean text           |
| {"clean": ..., "corrupt": ...} | an entry for each prompt of the pair, which must mark the same positions |
| None                         | nothing: the prompt has no such part                                    |

or a bool tensor [prompt, pos].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.places import hint

Spans = Mapping[str, Bool[Tensor, "prompt pos"]]
Finder = Callable[[str, int, str], list[int]]  # side, prompt, words -> positions
RESERVED = ("last", "mean", "all", "span")


@dataclass(frozen=True, eq=False)
class Reader:
    """What entries are read against: the prompts' first positions and one past their last, their texts."""

    first: Int[Tensor, "prompt"]
    stop: Int[Tensor, "prompt"]
    n_pos: int
    find: Finder | None = None

    def masks(self, given: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """Masks [prompt, pos] by name. ValueError for an entry that marks nothing of its prompt."""
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise ValueError(
                f"spans is a {type(given).__name__}; give a dict from names to positions, one entry a "
                "prompt, such as {'subject': [1, 1, 2]}."
            )
        return {str(name): self._mask(str(name), entries) for name, entries in given.items()}

    def _mask(self, name: str, entries: Any) -> Tensor:
        n = len(self.stop)
        if isinstance(entries, Tensor) and entries.dtype == torch.bool:
            if tuple(entries.shape) != (n, self.n_pos):
                raise ValueError(
                    f"span {name!r} is a mask of shape {tuple(entries.shape)}; for these prompts it must be "
                    f"{(n, self.n_pos)}."
                )
            return entries.to(self.stop.device)
        entries = entries.tolist() if hasattr(entries, "tolist") else entries
        if isinstance(entries, (str, int)) or not isinstance(entries, Sequence) or len(entries) != n:
            size = len(entries) if isinstance(entries, Sequence) and not isinstance(entries, str) else "no"
            raise ValueError(
                f"span {name!r} has {size} entries for {n} prompts. Give one a prompt, None where a prompt "
                "has no such part."
            )
        mask = torch.zeros(n, self.n_pos, dtype=torch.bool)
        for i, entry in enumerate(entries):
            mask[i, self._columns(name, i, entry)] = True
        return mask.to(self.stop.device)

    def _columns(self, name: str, i: int, entry: Any) -> list[int]:
        """The columns that an entry marks."""
        if not isinstance(entry, Mapping):
            return self._side(name, i, "clean", entry)
        if set(entry) != {"clean", "corrupt"}:
            raise ValueError(
                f"prompt {i}: span {name!r} has the keys {', '.join(map(repr, entry))}; an entry for both "
                "prompts of a pair has 'clean' and 'corrupt'."
            )
        clean, corrupt = (self._side(name, i, side, entry[side]) for side in ("clean", "corrupt"))
        if clean != corrupt:
            raise ValueError(
                f"prompt {i}: span {name!r} is at positions {_shown(clean)} of the clean prompt and at "
                f"{_shown(corrupt)} of the corrupt one. Patching compares positions: write the pair so that "
                "it stands at the same ones, or leave the span out there (None)."
            )
        return clean

    def _side(self, name: str, i: int, side: str, entry: Any) -> list[int]:
        entry = entry.tolist() if hasattr(entry, "tolist") else entry
        if entry is None:
            return []
        if isinstance(entry, str):
            if self.find is None:
                raise ValueError(
                    f"prompt {i}: span {name!r} is given by the words {entry!r}, and these prompts have no "
                    "text. Give positions."
                )
            return self.find(side, i, entry)
        first, stop = int(self.first[i]), int(self.stop[i])
        given = _listed(entry, stop)
        if given is None:
            raise ValueError(
                f"prompt {i}: span {name!r} is {entry!r}; give a position, a list of them, (start, stop), "
                "or None."
            )
        if not given:
            raise ValueError(
                f"prompt {i}: span {name!r} is empty ({entry!r}). Give None where a prompt has no such part."
            )
        columns = sorted({at + stop if at < 0 else at for at in given})
        outside = [at for at in columns if not first <= at < stop]
        if outside:
            raise ValueError(
                f"prompt {i}: span {name!r} has the position {outside[0]}, but the prompt has "
                f"{stop - first} tokens; positions count from {first} to {stop - 1}, negative ones from the "
                "end."
            )
        return columns


def _listed(entry: Any, stop: int) -> list[int] | None:
    """Positions of an entry as given; None for what is none."""
    if isinstance(entry, bool):
        return None
    if isinstance(entry, int):
        return [entry]
    if isinstance(entry, slice):
        return list(range(*entry.indices(stop)))
    if isinstance(entry, tuple) and len(entry) == 2 and all(type(end) is int for end in entry):
        start, end = (at + stop if at < 0 else at for at in entry)
        return list(range(start, end))
    if isinstance(entry, (list, tuple, range)) and all(type(at) is int for at in entry):
        return list(entry)
    return None


def require(spans: Spans, shape: tuple[int, int]) -> None:
    """Masks of the prompts, under names that nothing else has."""
    for name, mask in spans.items():
        if not name or name in RESERVED or name.lstrip("-").isdigit():
            raise ValueError(
                f"a span cannot be called {name!r}: that means other positions. Choose another name."
            )
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            kind = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"span {name!r} is {kind}; it must be a bool tensor {shape}, (prompt, pos).")


def problems(spans: Spans, lengths: Int[Tensor, "prompt"]) -> list[str]:
    """A sentence for every span that is in no prompt, or marks padding."""
    found = []
    for name, mask in spans.items():
        if not bool(mask.any()):
            found.append(f"span {name!r} marks nothing in any of the {len(mask)} prompts; leave it out.")
        outside = mask & (torch.arange(mask.shape[1], device=mask.device) >= lengths[:, None])
        found += [
            f"prompt {i}: span {name!r} marks position {int(outside[i].int().argmax())}, but the prompt "
            f"has {int(lengths[i])} tokens."
            for i in outside.any(1).nonzero().flatten().tolist()
        ]
    return found


def named(spans: Spans, name: str) -> Bool[Tensor, "prompt pos"]:
    """The mask of a name. ValueError, with the nearest name, for one that is not there."""
    if name in spans:
        return spans[name]
    if not spans:
        raise ValueError(
            f"no span {name!r}: these prompts have no named positions. Give spans= when building the task, "
            "or a position."
        )
    raise ValueError(f"no span {name!r}{hint(name, spans)} The prompts have: {', '.join(spans)}.")


def with_rest(
    spans: Spans, lengths: Int[Tensor, "prompt"], clean: Int[Tensor, "prompt pos"], name: str
) -> Spans:
    """One span more: the real positions that none marks. ValueError for none, or a name that is taken."""
    if name in spans:
        raise ValueError(f"the task has a span {name!r} already. Give with_rest another name.")
    real = torch.arange(clean.shape[1], device=clean.device) < lengths[:, None]
    mask = real & ~torch.stack([torch.zeros_like(real), *spans.values()]).any(0)
    if not mask.any():
        raise ValueError(f"the spans {', '.join(spans)} mark every position: nothing is left over.")
    return {**spans, name: mask}


def take(spans: Spans, rows: Tensor) -> dict[str, Tensor]:
    """The spans of some prompts; a name that none of them has is dropped."""
    some = {name: mask[rows.to(mask.device)] for name, mask in spans.items()}
    return {name: mask for name, mask in some.items() if bool(mask.any())}


def join(parts: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> dict[str, Tensor]:
    """The spans of tasks with these tokens, one below the other."""
    width = max(tokens.shape[1] for _, tokens in parts)
    out: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for spans, _ in parts for name in spans):
        rows = []
        for spans, tokens in parts:
            wide = torch.zeros(len(tokens), width, dtype=torch.bool, device=tokens.device)
            if name in spans:
                wide[:, : tokens.shape[1]] = spans[name]
            rows.append(wide)
        out[name] = torch.cat(rows)
    return out


def swapped(
    spans: Spans, clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"]
) -> dict[str, Tensor]:
    """The spans when clean and corrupt are exchanged: those of the clean prompt with the same tokens.

    So the two names of a mirrored pair exchange their names too. Where there is no such prompt the positions
    stay.
    """
    row = {tuple(tokens): i for i, tokens in enumerate(clean.tolist())}
    source = [row.get(tuple(tokens), i) for i, tokens in enumerate(corrupt.tolist())]
    return {name: mask[torch.tensor(source, device=mask.device)] for name, mask in spans.items()}


def listed(spans: Spans, i: int) -> dict[str, int | list[int]]:
    """The positions of one prompt by name, one or several, for files."""
    columns = {name: mask[i].nonzero().flatten().tolist() for name, mask in spans.items()}
    return {name: at[0] if len(at) == 1 else at for name, at in columns.items() if at}


def _shown(columns: list[int]) -> str:
    return ", ".join(map(str, columns)) or "none"
