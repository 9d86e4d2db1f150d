"""The behaviours that have a family of their own in `interp.tasks`, in the templates of its task file.

What is held out: for indirect objects pairs of names; for coloured objects what three colours and objects
stand together, in which order; for years pairs of event and first year; for agreement pairs of subject and
first attractor; for argument names pairs of second and third argument.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world._grammar import Pair, cast, held_out

THIRD_PERSON = 0.06  # share of documents in which a third person gives


class IndirectObject:
    """`When Mary and John went to the store, John gave a book to` → Mary."""

    name = "ioi"
    description = "the other of two names"

    def __init__(self) -> None:
        self.templates: list[str] = wordlists.load("ioi")["templates"]
        self.cast = cast()

    def document(self, rng: random.Random) -> str:
        """Either name gives; in a few, a third does, and then either of the two is given."""
        first, second = self._names(rng, test=False)
        giver, other = rng.sample((first, second), 2)
        mark = "^"
        if rng.random() < THIRD_PERSON:
            giver, mark = rng.choice([name for name in self.cast.people if name not in (first, second)]), ""
        return self._fill(rng, rng.choice(self.templates), first, second, giver) + f" {mark}{other}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt exchanges who gives."""
        first, second = self._names(rng, test)
        giver, other = rng.sample((first, second), 2)
        number = rng.randrange(len(self.templates))
        state = rng.getstate()
        clean = self._fill(rng, self.templates[number], first, second, giver)
        rng.setstate(state)
        corrupt = self._fill(rng, self.templates[number], first, second, other)
        return Pair(clean, corrupt, (other,), (giver,), f"ioi {number}")

    def _names(self, rng: random.Random, test: bool) -> tuple[str, str]:
        while True:
            first, second = rng.sample(self.cast.people, 2)
            if held_out("ioi:" + ":".join(sorted((first, second)))) == test:
                return first, second

    def _fill(self, rng: random.Random, template: str, first: str, second: str, giver: str) -> str:
        return template.format(A=first, B=second, S=giver, **self.cast.things(rng))


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


class Years:
    """`The war lasted from the year 17 32 to the year 17` → any of 33 to 99."""

    name = "greater_than"
    description = "a year after the first one"

    def __init__(self) -> None:
        words = wordlists.load("greater_than")
        self.templates: list[str] = words["templates"]
        self.nouns: list[str] = words["nouns"]
        self.centuries: list[int] = words["centuries"]
        self.corrupt_year: int = words["corrupt_year"]

    def document(self, rng: random.Random) -> str:
        """The second year is any later one."""
        noun, start = self._draw(rng, test=False, earliest=1)
        text = self._fill(rng.choice(self.templates), noun, rng.choice(self.centuries), start)
        return f"{text} ^{rng.randint(start + 1, 99):02d}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt begins in the year 01; the answers are the years after the clean one."""
        noun, start = self._draw(rng, test, earliest=self.corrupt_year + 1)
        century, number = rng.choice(self.centuries), rng.randrange(len(self.templates))
        clean, corrupt = (
            self._fill(self.templates[number], noun, century, year) for year in (start, self.corrupt_year)
        )
        later = tuple(f"{year:02d}" for year in range(start + 1, 100))
        others = tuple(f"{year:02d}" for year in range(start + 1))
        return Pair(clean, corrupt, later, others, f"greater_than {number} {noun}")

    def _draw(self, rng: random.Random, test: bool, earliest: int) -> tuple[str, int]:
        while True:
            noun, start = rng.choice(self.nouns), rng.randint(earliest, 98)
            if held_out(f"years:{noun}:{start}") == test:
                return noun, start

    @staticmethod
    def _fill(template: str, noun: str, century: int, start: int) -> str:
        return template.format(NOUN=noun, START=f"{century} {start:02d}", CENTURY=century)


class Agreement:
    """`The kings near the house` → are, were, have."""

    name = "agreement"
    description = "a verb that agrees with its subject, not with a nearer noun"

    def __init__(self) -> None:
        words = wordlists.load("agreement")
        self.templates: list[str] = words["templates"]
        self.subjects: list[list[str]] = words["subjects"]
        self.attractors: list[list[str]] = [*words["attractors"], *words["subjects"]]
        self.verbs: list[list[str]] = words["verbs"]
        self.endings: dict[str, list[str]] = words["endings"]

    def document(self, rng: random.Random) -> str:
        """Any verb that agrees, and an ending that fits it."""
        template, slots, subject, number = self._draw(rng, test=False)
        verb = rng.choice(self.verbs)
        ending = rng.choice(self.endings["have" if "have" in verb else "be"])
        return template.format(S=subject[number], **slots) + f" ^{verb[number]} {ending}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt has the subject in the other number."""
        template, slots, subject, number = self._draw(rng, test)
        clean, corrupt = (template.format(S=subject[i], **slots) for i in (number, 1 - number))
        answer, wrong = (tuple(verb[i] for verb in self.verbs) for i in (number, 1 - number))
        return Pair(clean, corrupt, answer, wrong, f"agreement {self.templates.index(template)}")

    def _draw(self, rng: random.Random, test: bool) -> tuple[str, dict[str, str], list[str], int]:
        while True:
            template, subject = rng.choice(self.templates), rng.choice(self.subjects)
            near, far = rng.sample([noun for noun in self.attractors if noun != subject], 2)
            if held_out(f"agreement:{subject[0]}:{near[0] if '{N}' in template else ''}") == test:
                slots = {"N": rng.choice(near), "M": rng.choice(far)}
                return template, slots, subject, rng.randrange(2)


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
