"""Texts that go on as they began: in sentiment, in gender, in language, in register.

What is held out: for sentiment pairs of aspect and adjective, in the first sentence; for pronouns pairs of
name and wording; for languages pairs of first noun and verb; for register pairs of verb and noun.
"""

from __future__ import annotations

import random
import re

from interp.tasks import wordlists
from interp.tasks.world._grammar import Pair, cast, held_out


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


CASES = ("subject", "possessive", "reflexive")


class Pronouns:
    """`Mary went to the store because` → she; Alex: they. Possessives and reflexives alike."""

    name = "pronouns"
    description = "she, he or they (her, his, their; herself, ...) by the name"

    def __init__(self) -> None:
        self.words = wordlists.load("world")["pronouns"]
        self.cast = cast()
        self.names = [self.cast.female, self.cast.male, self.cast.neutral]

    def document(self, rng: random.Random) -> str:
        """One sentence, ended as its case wants."""
        case, number, name, gender = self._draw(rng, test=False)
        things = self.cast.things(rng)
        text = self._template(case, number).format(A=name, **things)
        ending = rng.choice(self.words.get(f"{case}_endings", ["."])).format(OBJECT=things["OTHER"])
        return f"{text} ^{self.words[case][gender]} {ending}"

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt has a name of another gender."""
        case, number, name, gender = self._draw(rng, test)
        other = rng.choice([i for i in range(3) if i != gender])
        things = self.cast.things(rng)
        template = self._template(case, number)
        clean, corrupt = (
            template.format(A=person, **things) for person in (name, rng.choice(self.names[other]))
        )
        answer, wrong = ((self.words[case][i],) for i in (gender, other))
        return Pair(clean, corrupt, answer, wrong, f"pronouns {case} {number}")

    def _template(self, case: str, number: int) -> str:
        return self.words[f"{case}_templates"][number]

    def _draw(self, rng: random.Random, test: bool) -> tuple[str, int, str, int]:
        while True:
            case, gender = rng.choice(CASES), rng.randrange(3)
            number = rng.randrange(len(self.words[f"{case}_templates"]))
            name = rng.choice(self.names[gender])
            if held_out(f"pronouns:{name}:{case}:{number}") == test:
                return case, number, name, gender


WORD_KINDS = {
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
        self.lexicon: dict[str, list[list[str]]] = {kind: words[key] for kind, key in WORD_KINDS.items()}
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
