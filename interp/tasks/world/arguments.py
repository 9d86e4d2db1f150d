"""Argument names of code in the template of data/tasks/docstring.json.

Held out: pairs of second and third argument.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out


class Arguments:
    """`def port(self, load, size, file, last): ... :param load: ... :param size: ... :param` → file."""

    name = "docstring"
    description = "the next argument of a function"

    def __init__(self) -> None:
        words = wordlists.load("docstring")
        self.template: str = words["templates"][0]
        self.arguments: list[str] = words["arguments"]
        self.functions: list[str] = words["functions"]
        self.fillers: list[str] = words["fillers"]

    def document(self, rng: random.Random) -> str:
        """Every argument after the first follows from the definition."""
        arguments = self._draw(rng, test=False)
        slots = self._slots(rng, arguments)
        marked = {key: f"^{slots[key]}" for key in ("A1", "A2")}
        definition, doc = self.template.split('"""')
        text = f'{definition.format(**slots)}"""{doc.format(**{**slots, **marked})}'
        a, b, c, d = slots["spare"].split()
        third, fourth = arguments[2:]
        return f'{text} ^{third}: {a} {b}\n    :param ^{fourth}: {c} {d}\n    """'

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt definition exchanges the third and the fourth argument."""
        a, b, c, d = self._draw(rng, test)
        slots = self._slots(rng, [a, b, c, d])
        clean = self.template.format(**slots)
        corrupt = clean.replace(f"{a}, {b}, {c}, {d}", f"{a}, {b}, {d}, {c}")
        return Pair(clean, corrupt, (c,), (d,), "docstring 0")

    def _draw(self, rng: random.Random, test: bool) -> list[str]:
        while True:
            arguments = rng.sample(self.arguments, 4)
            if held_out("arguments:" + ":".join(arguments[1:3])) == test:
                return arguments

    def _slots(self, rng: random.Random, arguments: list[str]) -> dict[str, str]:
        fillers = rng.sample(self.fillers, 11)
        slots = {f"A{i + 1}": word for i, word in enumerate(arguments)}
        slots |= {f"D{i + 1}": word for i, word in enumerate(fillers[:7])}
        return {"F": rng.choice(self.functions), "spare": " ".join(fillers[7:]), **slots}
