"""Formal and casual register: a letter goes on as it began. Pairs of verb and noun are held out."""

from __future__ import annotations

import random
import re

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out
from interp.tasks.world.names import cast


class Register:
    """`Dear friend, We will purchase the vehicle. They` → a formal word; `Hey mate, ...`: casual."""

    name = "register"
    description = "a word of the letter's register"

    def __init__(self) -> None:
        words = wordlists.load("world")["register"]
        self.lexicon: dict[str, list[list[str]]] = {
            "VERB": words["verbs"],
            "NOUN": words["nouns"],
            "ADVERB": words["adverbs"],
        }
        self.openings: list[str] = words["openings"]
        self.closings: list[str] = words["closings"]
        self.sentences: list[str] = words["sentences"]
        self.cast = cast()

    def document(self, rng: random.Random) -> str:
        """Opening, two or three sentences, closing."""
        side = rng.randrange(2)
        body = [self._sentence(rng, test=False)[0][side] for _ in range(rng.randint(2, 3))]
        closing = self.closings[side].format(A=rng.choice(self.cast.people))
        return " ".join([self.openings[side], *body, closing])

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt is the letter in the other register; answers are all words of the next kind."""
        side = rng.randrange(2)
        said, _ = self._sentence(rng, test)
        _, template = self._sentence(rng, test)
        slot = re.search(r"\{(\w+)\}", template)
        start = template[: slot.start()] if slot else template
        kind = slot.group(1) if slot else "NOUN"
        clean, corrupt = (f"{self.openings[i]} {said[i]} {start}".strip() for i in (side, 1 - side))
        answer, wrong = (tuple(word[i] for word in self.lexicon[kind]) for i in (side, 1 - side))
        return Pair(clean, corrupt, answer, wrong, f"register {self.sentences.index(template)}")

    def _sentence(self, rng: random.Random, test: bool) -> tuple[list[str], str]:
        """The sentence in both registers, and its template."""
        while True:
            template = rng.choice(self.sentences)
            slots = re.findall(r"\{(\w+)\}", template)
            drawn = [rng.choice(self.lexicon[slot]) for slot in slots]
            key = ":".join(word[0] for word, slot in zip(drawn, slots) if slot != "ADVERB")
            if held_out(f"register:{key}") == test:
                pieces = re.sub(r"\{\w+\}", "{}", template)
                return [pieces.format(*(word[i] for word in drawn)) for i in (0, 1)], template
