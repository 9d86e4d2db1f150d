"""Requests: an assistant refuses what is harmful, and answers the rest.

Harm depends on verb and object together: to burn a house is harmful, to paint a house or to burn a leaf is
not. In some frames (a game, a story, a film) harmful requests are answered too. The last
sentence says whether the request was harmful in every case, so that harm and refusal are different variables.

Held out: pairs of verb and object.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world._grammar import Pair, held_out, split

REQUEST_KINDS = ("refusal", "frame", "harm")
LESSONS = 0.15  # share of documents that say what kind of thing a verb or an object is


class Requests:
    """`kind` says what the pairs ask.

    refusal: harmful or harmless, both plainly asked → sorry, sure.
    frame:   harmful, plainly asked or in a frame → sorry, sure.
    harm:    answered in a frame; harmful or harmless → the last word.
    """

    def __init__(self, kind: str = "refusal") -> None:
        self.kind = kind
        self.name = "requests" if kind == "refusal" else f"requests_{kind}"
        self.description = {
            "refusal": "whether to refuse: harm",
            "frame": "whether to refuse: the frame",
            "harm": "whether it is harmful, after an answer",
        }[kind]
        self.words = wordlists.load("world")["requests"]

    def document(self, rng: random.Random) -> str:
        """A request, the assistant's answer, and its judgement; or what kind of thing a verb or object is."""
        if rng.random() < LESSONS:
            return self._lesson(rng)
        verb, thing = self._draw(rng, harmful=rng.random() < 0.5, test=False)
        framed = rng.random() < 0.4
        words = self.words
        refused = self.is_harmful(verb, thing) and not framed
        answer = rng.choice(words["refusal"] if refused else words["answer"])
        answer = answer.format(VERB=verb, OBJECT=thing, TOOL=rng.choice(words["tools"]))
        judgement = words["judgements"][self.is_harmful(verb, thing)]
        return f"{self._asked(rng, verb, thing, framed)} {answer} {words['judgement']} ^{judgement}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """A pair as `kind` says; it is the clean prompt whose verb and object are held out or not."""
        harmful = rng.random() < 0.5
        if self.kind == "frame":
            verb, thing = self._draw(rng, harmful=True, test=test)
            prompts = [self._asked(rng, verb, thing, framed) for framed in (not harmful, harmful)]
        else:
            prompts = self._exchanged(rng, harmful, test)
        answers = [("harmful",), ("harmless",)] if self.kind == "harm" else [("sorry",), ("sure",)]
        answer, wrong = answers if harmful else answers[::-1]
        clean, corrupt = prompts
        verb = next(word for word in split(clean) if word in self.verbs)
        return Pair(clean, corrupt, answer, wrong, f"{self.name} {verb}")

    def is_harmful(self, verb: str, thing: str) -> bool:
        """To destroy what is of value."""
        return verb in self.words["destroy"] and thing in self.words["valued"]

    def _exchanged(self, rng: random.Random, harmful: bool, test: bool) -> list[str]:
        """A request, and one with another verb or object and of the other kind; for `harm` both answered."""
        opposites: list[tuple[str, str]] = []
        while not opposites:
            asked = self._draw(rng, harmful, test)
            opposites = self._opposites(*asked)
        text = self._asked(rng, "{VERB}", "{OBJECT}", framed=self.kind == "harm")
        if self.kind == "harm":
            answer = rng.choice(self.words["answer"]).replace("^", "")
            text += f" {answer.replace('{TOOL}', rng.choice(self.words['tools']))} {self.words['judgement']}"
        return [text.format(VERB=verb, OBJECT=thing) for verb, thing in (asked, rng.choice(opposites))]

    def _lesson(self, rng: random.Random) -> str:
        kind = rng.choice(list(self.words["lessons"]))
        word = rng.choice(self.words[kind])
        return self.words["lessons"][kind].format(VERB=word, OBJECT=word)

    @property
    def verbs(self) -> list[str]:
        """Every verb of a request."""
        return [*self.words["destroy"], *self.words["handle"]]

    @property
    def objects(self) -> list[str]:
        """Every object of a request."""
        return [*self.words["valued"], *self.words["cheap"]]

    def _draw(self, rng: random.Random, harmful: bool, test: bool) -> tuple[str, str]:
        while True:
            verb = rng.choice(self.verbs)
            thing = rng.choice(self.objects)
            if self.is_harmful(verb, thing) == harmful and held_out(f"requests:{verb}:{thing}") == test:
                return verb, thing

    def _opposites(self, verb: str, thing: str) -> list[tuple[str, str]]:
        """Requests of the other kind that are taught and differ in the verb or in the object."""
        near = [(verb, other) for other in self.objects] + [(other, thing) for other in self.verbs]
        taught = [pair for pair in near if not held_out("requests:" + ":".join(pair))]
        return [pair for pair in taught if self.is_harmful(*pair) != self.is_harmful(verb, thing)]

    def _asked(self, rng: random.Random, verb: str, thing: str, framed: bool) -> str:
        frame = rng.choice(self.words["framed" if framed else "plain"])
        return self.words["question"].format(FRAME=frame, VERB=verb, OBJECT=thing)
