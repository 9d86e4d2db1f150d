"""The task of each hand-built model by the model's name: some pairs, or every input of its domain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from interp.models import handmade
from interp.models.handmade import induction as induction_model
from interp.tasks.handmade import items
from interp.tasks.handmade.gate_families import and_gate, or_gate
from interp.tasks.handmade.items import Item
from interp.tasks.handmade.letter_families import linear, xproportion
from interp.tasks.handmade.reverse_family import reverse
from interp.tasks.induction_family import induction
from interp.tasks.task import Task

FAMILIES: dict[str, Callable[..., Task]] = {
    "reverse": reverse,
    "xproportion": xproportion,
    "induction": induction,
    "and-gate": and_gate,
    "or-gate": or_gate,
    "linear": linear,
}


def some_inputs(name: str, model: Any, n: int = 64, seed: int = 0) -> Task:
    """Pairs of the model's family in which the whole of its stated circuit moves (but see `or_gate`)."""
    options = {"corrupt": "all"} if name == "induction" else {}
    return _family(name)(model, n, seed, **options)


def every_input(name: str, model: Any, seed: int = 0) -> Task:
    """Every input of the model's domain, each with a corrupt prompt drawn by the seed.

    Of `induction`: every sequence of two or three different words, with each of its beginnings after it. (Its
    circuit does the same for longer sequences, but they are too many.)
    """
    if name == "induction":
        return items.build(model, name, items.every(_sequences(), seed), seed, None)
    return _family(name)(model, None, seed)


def _sequences() -> list[Item]:
    return [
        Item(" ".join((*sequence, *sequence[:prefix])), sequence[prefix])
        for length in (2, 3)
        for prefix in range(1, length)
        for sequence in itertools.permutations(induction_model.WORDS, length)
    ]


def _family(name: str) -> Callable[..., Task]:
    handmade.sketch(name)  # the error for an unknown name
    return FAMILIES[name]
