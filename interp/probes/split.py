"""Which prompts a probe is trained on and which are held out, and their labels, true and shuffled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models import Model
from interp.steering.prompts import Prompts, read

_LEAST = 4  # prompts of a class, to split it and to calibrate on halves of what is held out


@dataclass(frozen=True, eq=False)
class Sides:
    """Prompts: positive and negative to train on, positive and negative held out."""

    prompts: tuple[Prompts, Prompts, Prompts, Prompts]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many there are of each."""
        return tuple(len(side) for side in self.prompts)


def split(model: Model, positive: Any, negative: Any, held_out: float | tuple[Any, Any], seed: int) -> Sides:
    """A share of each class held out, drawn by `seed`; or held-out prompts as they are given."""
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    if isinstance(held_out, tuple):
        fresh = [
            read(model, side, what=f"held_out {name}")
            for side, name in zip(held_out, ("positive", "negative"))
        ]
        if len(fresh) != 2 or min(map(len, fresh)) < 2:
            raise ValueError("held_out needs two prompts or more of each class: (positive, negative).")
        return Sides((up, down, fresh[0], fresh[1]))
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; give a share between 0 and 1, or (positive, negative).")
    generator = torch.Generator().manual_seed(seed)
    parts = [_cut(side, held_out, generator, name) for side, name in ((up, "positive"), (down, "negative"))]
    return Sides((parts[0][0], parts[1][0], parts[0][1], parts[1][1]))


def labellings(
    sides: Sides, draws: int, seed: int, device: torch.device
) -> tuple[Float[Tensor, "fit train"], Float[Tensor, "fit test"]]:
    """Labels of the training and of the held-out prompts: the truth first, then `draws` shuffles of it."""
    generator = torch.Generator().manual_seed(seed + 1)
    sizes, out = sides.sizes, []
    for up, down in (sizes[:2], sizes[2:]):
        truth = torch.cat((torch.ones(up), torch.zeros(down))).double()
        shuffled = [truth[torch.randperm(len(truth), generator=generator)] for _ in range(draws)]
        out.append(torch.stack([truth, *shuffled]).to(device))
    return out[0], out[1]


def _cut(side: Prompts, share: float, generator: torch.Generator, name: str) -> tuple[Prompts, Prompts]:
    n = len(side)
    if n < _LEAST:
        raise ValueError(
            f"the {name} class has {n} prompts; {_LEAST} or more are needed to hold some out. Add more, or "
            "give held_out=(positive, negative)."
        )
    order = torch.randperm(n, generator=generator)
    cut = min(max(2, round(share * n)), n - 2)
    test, rest = order[:cut].sort().values, order[cut:].sort().values
    return _rows(side, rest), _rows(side, test)


def _rows(side: Prompts, rows: Tensor) -> Prompts:
    rows = rows.to(side.tokens.device)
    return Prompts(side.tokens[rows], side.lengths[rows])
