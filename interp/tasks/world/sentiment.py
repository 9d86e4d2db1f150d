"""Reviews that go on in the sentiment in which they began.

Held out: pairs of aspect and adjective, in the first sentence.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out


class Sentiment:
    """`Review: The film was dull. I found the music` → a negative adjective."""

    name = "sentiment"
    description = "an adjective of the sentiment in which the review began"

    def __init__(self) -> None:
        words = wordlists.load("world")["sentiment"]
        self.adjectives: list[list[str]] = [words["positive"], words["negative"]]
        self.aspects: list[str] = words["aspects"]
        self.sentences: list[str] = words["sentences"]
        self.verdicts: list[list[str]] = words["verdicts"]
        self.opening: str = words["opening"]

    def document(self, rng: random.Random) -> str:
        """Two to four sentences and a verdict."""
        side = rng.randrange(2)
        first = self._first(rng, side, test=False)[0]
        others = [self._sentence(rng, side) for _ in range(rng.randint(1, 3))]
        return " ".join([self.opening, first, *others, rng.choice(self.verdicts)[side]])

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt begins with an adjective of the other sentiment."""
        side = rng.randrange(2)
        sentence, adjective, number = self._first(rng, side, test)
        other = sentence.replace(adjective, rng.choice(self.adjectives[1 - side]))
        start = rng.choice(self.sentences[:3]).format(ASPECT=rng.choice(self.aspects), ADJ="|").split("|")[0]
        clean, corrupt = (f"{self.opening} {text} {start}".strip() for text in (sentence, other))
        answer, wrong = (tuple(self.adjectives[i]) for i in (side, 1 - side))
        return Pair(clean, corrupt, answer, wrong, f"sentiment {number}")

    def _first(self, rng: random.Random, side: int, test: bool) -> tuple[str, str, int]:
        while True:
            aspect, adjective = rng.choice(self.aspects), rng.choice(self.adjectives[side])
            if held_out(f"sentiment:{aspect}:{adjective}") == test:
                number = rng.randrange(3)
                return self.sentences[number].format(ASPECT=aspect, ADJ=adjective), adjective, number

    def _sentence(self, rng: random.Random, side: int) -> str:
        first, second = rng.sample(self.adjectives[side], 2)
        text = rng.choice(self.sentences).format(ASPECT=rng.choice(self.aspects), ADJ=f"^{first}")
        return text.replace(f"and ^{first}", f"and ^{second}")
