"""Subject-verb agreement in the templates of data/tasks/agreement.json.

Held out: pairs of subject and first attractor.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out


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
