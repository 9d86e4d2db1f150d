"""`substitute`: vectors in the place of placeholder tokens, for a model that is asked about activations.

A prompt such as "? ? What is this?" is run; after an early layer the activations at its placeholder tokens
are replaced by vectors, each at c times the norm of what stood there. Only in the pass over the prompt: what
is generated reads them through attention, and no other position is touched. Activation oracles, LatentQA
(Pan et al. 2412.08686): a model trained for it answers in words; an untrained one is `lens.patchscope`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.places import STREAM_SITES
from interp.positions import AnyPositions, Frame, Positions
from interp.positions import parse as parse_positions
from interp.steering._direction import Direction
from interp.steering._edit_types import Edit
from interp.steering._intervention import Intervention


@dataclass(frozen=True, eq=False)
class Substitute(Edit):
    """Vectors [vector, d] or [row, vector, d] at the placeholders: the k-th in the k-th; one in all."""

    vectors: Float[Tensor, "*row vector d"]
    where: Positions
    coefficient: float | int = 1.0
    norm_matched: bool = True
    width: int | None = field(init=False)
    n_rows: int | None = field(init=False)
    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.vectors.shape[-1])
        object.__setattr__(self, "n_rows", len(self.vectors) if self.vectors.ndim == 3 else None)

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError(
            "substitute acts at tokens, so it needs a running pass: use it in steer or generate."
        )

    def at(self, h: Float[Tensor, "row pos d"], frame: Frame) -> Tensor:
        if frame.offset > 0:
            return h
        here = self.where(frame) & (frame.positions >= 0) & (frame.positions < frame.lengths)
        vectors = self.vectors.to(h)
        vectors = vectors if vectors.ndim == 3 else vectors.expand(len(h), -1, -1)
        n = vectors.shape[1]
        counts = here.sum(1)
        if not bool(counts.all() if n == 1 else (counts == n).all()):
            row = int((counts != n).nonzero()[0]) if n > 1 else int((counts == 0).nonzero()[0])
            raise ValueError(
                f"prompt {row} has {int(counts[row])} placeholders ({self.where}) for {n} vectors."
            )
        index = (here.cumsum(1) - 1).clamp(0, n - 1)  # [row, pos]
        new = vectors.gather(1, index[..., None].expand(*index.shape, h.shape[-1]))
        if self.norm_matched:
            new = new / new.norm(dim=-1, keepdim=True) * h.norm(dim=-1, keepdim=True)
        return torch.where(here[..., None], self.coefficient * new, h)


@verb
def substitute(
    direction: Any,  # a Direction, or several: one for each row
    at: AnyPositions,
    coefficient: float | int = 1.0,
    *,
    norm_matched: bool = True,
) -> tuple[Intervention, ...]:
    """Vectors in the place of the activations at placeholder tokens, in the pass over the prompt only.

    direction: of layout "vector" (the same at every placeholder) or "positions" (the k-th vector at the k-th
    placeholder); several, of one shape and place, give every row its own. at: the placeholders, such as
    `positions.tokens(id)`. norm_matched: at coefficient times the norm of what stood there; False: at
    coefficient times its own. Nothing that is generated is replaced, also where it is that token. Raises
    ValueError for sites that are not of the stream, vectors of length 0, other layouts; and in the pass for a
    prompt whose placeholders are not as many as the vectors.

    Example:
        >>> import torch
        >>> from interp import positions, steering
        >>> model = interp.load("tiny-ioi")
        >>> d = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> made = steering.edits.substitute(d, positions.at(2))
        >>> steering.generate(model, "Mary gave a book to", made, max_new_tokens=1).shape[0]
        1
    """
    several = isinstance(direction, (list, tuple))
    listed = list(direction) if several else [direction]
    if not listed or not all(isinstance(each, Direction) for each in listed):
        raise ValueError(
            "direction is no Direction; use steering.Direction.from_tensor(vector, 'L1.resid_pre')."
        )
    first = listed[0]
    place = first.place
    if place.site not in STREAM_SITES:
        raise ValueError(
            f"{place}: a placeholder holds a vector of the stream, at {', '.join(STREAM_SITES)}."
        )
    for each in listed:
        if each.layout not in ("vector", "positions"):
            raise ValueError(
                f"substitute takes vectors, by position or one; the direction has {each.layout!r}."
            )
        if each.place != place or each.vector.shape != first.vector.shape:
            raise ValueError(
                f"the directions differ: {place} {list(first.vector.shape)}, {each.place} "
                f"{list(each.vector.shape)}."
            )
        if bool((each.vector.norm(dim=-1) == 0).any()):
            raise ValueError(f"a vector at {place} is 0: it has no norm to match.")
    rows = [torch.atleast_2d(each.vector) for each in listed]
    vectors = torch.stack(rows) if several else rows[0]
    edit = Substitute(vectors, parse_positions(at), coefficient, norm_matched)
    return (Intervention(place, edit, model=first.model, weights=first.weights),)
