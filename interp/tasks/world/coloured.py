"""Coloured objects in the templates of data/tasks/coloured_objects.json.

Held out: what three colours and objects stand together, in which order.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out
from interp.tasks.world.names import cast


class ColouredObjects:
    """`Mary painted the book red, the key blue and the hat green. What colour is the key? It is` → blue."""

    name = "coloured_objects"
    description = "the colour of one of three objects"

    def __init__(self) -> None:
        words = wordlists.load("coloured_objects")
        self.templates: list[str] = words["templates"]
        self.colours: list[str] = words["colours"]
        self.objects: list[str] = words["objects"]
        self.cast = cast()

    def document(self, rng: random.Random) -> str:
        """Two of the three are asked for, one after the other."""
        colours, objects = self._draw(rng, test=False)
        name, place = rng.choice(self.cast.people), rng.choice(self.cast.places)
        template = rng.choice(self.templates)
        first, second = (
            self._fill(template, colours, objects, name, place, i) + f" ^{colours[i]}."
            for i in rng.sample(range(3), 2)
        )
        return f"{first} {second.split('. ', 1)[1]}"

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt asks for another of the three."""
        colours, objects = self._draw(rng, test)
        asked, other = rng.sample(range(3), 2)
        number = rng.randrange(len(self.templates))
        name, place = rng.choice(self.cast.people), rng.choice(self.cast.places)
        clean, corrupt = (
            self._fill(self.templates[number], colours, objects, name, place, index)
            for index in (asked, other)
        )
        return Pair(clean, corrupt, (colours[asked],), (colours[other],), f"coloured_objects {number}")

    def _draw(self, rng: random.Random, test: bool) -> tuple[list[str], list[str]]:
        while True:
            colours, objects = rng.sample(self.colours, 3), rng.sample(self.objects, 3)
            if held_out("coloured:" + ":".join(colours + objects)) == test:
                return colours, objects

    @staticmethod
    def _fill(
        template: str, colours: list[str], objects: list[str], name: str, place: str, asked: int
    ) -> str:
        slots = {f"C{i + 1}": colour for i, colour in enumerate(colours)}
        slots |= {f"O{i + 1}": thing for i, thing in enumerate(objects)}
        return template.format(A=name, PLACE=place, O=objects[asked], **slots)
