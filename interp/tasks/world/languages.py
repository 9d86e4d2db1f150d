"""Two languages with one grammar and disjoint words; a text stays in its language.

Held out: pairs of first noun and verb.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out

KINDS = {
    "adjective": "adjectives",
    "noun": "nouns",
    "verb": "verbs",
    "preposition": "prepositions",
    "adverb": "adverbs",
}


class Languages:
    """`the dog sees the` → an English noun or adjective; `lo kanu vedas lo` → one of the other language."""

    name = "languages"
    description = "a word of the language of the text"

    def __init__(self) -> None:
        words = wordlists.load("world")["languages"]
        self.lexicon: dict[str, list[list[str]]] = {kind: words[key] for kind, key in KINDS.items()}
        self.lexicon["the"] = [words["the"]]
        self.orders: list[list[str]] = [order.split() for order in words["orders"]]

    def document(self, rng: random.Random) -> str:
        """One to three sentences in one language."""
        side = rng.randrange(2)
        return " ".join(
            self._said(self._sentence(rng, test=False)[0], side) for _ in range(rng.randint(1, 3))
        )

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt is the translation; the answers are all words of the kind that comes next."""
        side = rng.randrange(2)
        first, _ = self._sentence(rng, test)
        second, kinds = self._sentence(rng, test)
        end = rng.choice([i for i, kind in enumerate(kinds) if kind in ("noun", "verb")])
        clean, corrupt = (self._said([*first, *second[:end]], i) for i in (side, 1 - side))
        answer, wrong = (tuple(word[i] for word in self.lexicon[kinds[end]]) for i in (side, 1 - side))
        return Pair(clean, corrupt, answer, wrong, f"languages {kinds[end]} {end}")

    def _sentence(self, rng: random.Random, test: bool) -> tuple[list[list[str]], list[str]]:
        """Each word in both languages, and the kinds of the words."""
        while True:
            kinds = rng.choice(self.orders)
            words = [rng.choice(self.lexicon[kind]) if kind != "." else [".", "."] for kind in kinds]
            subject, verb = words[kinds.index("noun")][0], words[kinds.index("verb")][0]
            if held_out(f"languages:{subject}:{verb}") == test:
                return words, kinds

    @staticmethod
    def _said(words: list[list[str]], side: int) -> str:
        return " ".join(word[side] for word in words)
