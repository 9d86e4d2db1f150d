"""Activations as probes read them: [prompt, pos, d] with which positions count, by place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.models import Model
from interp.places import AXES, Place
from interp.steering.activations import activations
from interp.steering.prompts import read
from interp.steering.read_positions import Positions


@dataclass(frozen=True, eq=False)
class Reading:
    """Activations of some prompts at a place, padded on the right."""

    tokens: Float[Tensor, "prompt pos d"]
    real: Bool[Tensor, "prompt pos"]

    def __getitem__(self, rows: Tensor) -> Reading:
        return Reading(self.tokens[rows], self.real[rows])

    def __len__(self) -> int:
        return len(self.tokens)


def by_head(site: str) -> bool:
    """Whether the site has heads."""
    return "head" in AXES[site]


def readings(
    model: Model,
    data: Any,
    places: tuple[Place, ...],
    pos: Positions,
    what: str = "prompts",
    batch_size: int = 32,
) -> dict[Place, Reading]:
    """One reading for every place; for sites with heads, one for every head. pos="all": every token."""
    prompts = read(model, data, what=what)
    rows = activations(model, prompts, places, pos, batch_size=batch_size)
    real = prompts.real if pos == "all" else torch.ones_like(prompts.real[:, :1])
    found = {}
    for where in places:
        whole = _padded(rows[where], real)  # [prompt, pos, (head,) d]
        if not by_head(where.site) or where.head is not None:
            found[where] = Reading(whole, real)
            continue
        for head in range(whole.shape[2]):
            found[replace(where, head=head)] = Reading(whole[:, :, head], real)
    return found


def joined(one: Reading, other: Reading) -> Reading:
    """The prompts of both, one after the other."""
    width = max(one.tokens.shape[1], other.tokens.shape[1])
    wide = [_widened(part, width) for part in (one, other)]
    return Reading(torch.cat([w.tokens for w in wide]), torch.cat([w.real for w in wide]))


def _padded(rows: Tensor, real: Tensor) -> Tensor:
    if rows.shape[0] == real.shape[0] and real.shape[1] == 1:
        return rows[:, None]
    whole = torch.zeros((*real.shape, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    whole[real] = rows
    return whole


def _widened(part: Reading, width: int) -> Reading:
    more = width - part.tokens.shape[1]
    tokens = torch.nn.functional.pad(part.tokens, (0, 0, 0, more))
    return Reading(tokens, torch.nn.functional.pad(part.real, (0, more)))
