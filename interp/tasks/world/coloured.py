"""Coloured objects in the templates of data/tasks/coloured_objects.json.

Held out: what three colours and objects stand together, in which order.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out
from interp.tasks.world.names import cast

LISTS = 0.5  # share of documents that list the colours instead of asking


class ColouredObjects:
    """`... a red book, a blue key and a green hat. The colour of the key is` → blue."""

    name = "coloured_objects"
    description = "the colour of one of three objects"

    def __init__(self) -> None:
        words = wordlists.load("coloured_objects")
        self.templates: list[str] = words["templates"]
        self.colours: list[str] = words["colours"]
        self.objects: list[str] = words["objects"]
        self.opening: str = wordlists.load("world")["colour_list"]
        self.cast = cast()

    def document(self, rng: random.Random) -> str:
        """Two of the three are asked for, or the colours of all three are listed in another order."""
        colours, objects = self._draw(rng, test=False)
        name, place = rng.choice(self.cast.people), rng.choice(self.cast.places)
        template, order = rng.choice(self.templates), rng.sample(range(3), 3)
        if rng.random() < LISTS:
            statement = self._fill(template, colours, objects, name, place, 0).split(". ")[0]
            listed = ", ".join(f"{objects[i]} ^{colours[i]}" for i in order)
            return f"{statement}. {self.opening} {listed}."
        asked = (self._fill(template, colours, objects, name, place, i) + f" ^{colours[i]}." for i in order)
        first, second, _ = asked
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
