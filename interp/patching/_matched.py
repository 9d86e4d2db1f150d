"""Random sets that match a set of places: as many heads, or neurons, of every layer.

The null is that the set is any set of its kind, so that draws come from all units of a layer, those of the
set itself included; only the whole set is never drawn. The rank of the set among its draws is then a
permutation test, p = (1 + draws at least as extreme) / (1 + draws).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import comb, prod

import numpy as np

from interp.grid import place
from interp.models import Anatomy
from interp.places import Place

DRAWS = 50
_TRIES = 50  # for each draw that is still missing
_UNITS = ("head", "neuron")


def places_of(facts: Anatomy, n_pos: int, names: Sequence[str]) -> list[Place]:
    """The places of a set by name. ValueError for none, one named twice, or one that the model lacks."""
    if isinstance(names, str) or not len(names):
        raise ValueError(f"{names!r} is no set of places; give a list of names such as ['L1H0', 'L2H3'].")
    parsed = [place(facts, n_pos, name) for name in names]
    twice = [str(each) for each, count in Counter(parsed).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice in one set.")
    return parsed


def matched_sets(
    facts: Anatomy, places: Sequence[Place], draws: int, generator: np.random.Generator
) -> list[list[str]]:
    """Distinct random sets like the given one, by name; fewer than `draws` where there are no more.

    Raises ValueError where every set like it is the set itself.
    """
    blocks = Counter(map(_block, places))  # how many units of which layer and site
    sizes = [_size(facts, block) for block in blocks]
    possible = prod(comb(size, count) for size, count in zip(sizes, blocks.values())) - 1
    if possible < 1:
        raise ValueError(
            f"there is no other set like {', '.join(map(str, places))}: it holds every unit of its "
            "layers, or places that are alone in theirs. Give fewer heads or neurons."
        )
    kept = {frozenset(places)}
    wanted = min(draws, possible)
    for _ in range(_TRIES * draws):
        if len(kept) > wanted:
            break
        kept.add(frozenset(_draw(blocks, sizes, generator)))
    return [sorted(map(str, each)) for each in kept - {frozenset(places)}]


def _block(one: Place) -> Place:
    """A place without its unit: what it is drawn from."""
    return replace(one, **dict.fromkeys(_UNITS))


def _axis(block: Place) -> str | None:
    return {"post": "neuron"}.get(
        block.site, "head" if block.site in ("z", "q", "k", "v", "pattern") else None
    )


def _size(facts: Anatomy, block: Place) -> int:
    axis = _axis(block)
    return 1 if axis is None else facts.size(block.site, axis, 1)


def _draw(blocks: Counter[Place], sizes: list[int], generator: np.random.Generator) -> list[Place]:
    drawn = []
    for (block, count), size in zip(blocks.items(), sizes):
        axis = _axis(block)
        units = generator.choice(size, count, replace=False).tolist()
        drawn += [replace(block, **{axis: unit}) if axis else block for unit in units]
    return drawn
