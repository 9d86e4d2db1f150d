"""A text contradicts a fact, and a cue word says which of the two to follow.

`The story says that the capital of France is Rome. In fiction, the capital of France is` → Rome;
`... In truth, the capital of France is` → Paris. Held out: pairs of subject and claim.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world import facts
from interp.tasks.world.grammar import Pair, held_out


class Conflict:
    """The cue decides between claim and fact. `follows`: which of them answers the clean prompt."""

    description = "the claim or the fact, as the cue word says"

    def __init__(self, follows: str | None = None) -> None:
        words = wordlists.load("world")["conflict"]
        self.name = "conflict" if follows is None else f"conflict_{follows}"
        self.cues: dict[str, list[str]] = {"fiction": words["fiction"], "truth": words["truth"]}
        self.sides = list(self.cues) if follows is None else [follows]
        self.media: list[str] = words["media"]
        self.forms: list[tuple[str, str]] = list(zip(words["claims"], words["questions"]))
        self.known = [facts.capitals(), facts.birthplaces()]

    def document(self, rng: random.Random) -> str:
        """Either cue, or both one after the other."""
        form, slots, false, true = self._draw(rng, test=False)
        text, asked = self.forms[form][0].format(**slots), self.forms[form][1]
        sides = [side for side in ("fiction", "truth") if rng.random() < 0.6] or ["truth"]
        rng.shuffle(sides)
        for side in sides:
            cue, value = rng.choice(self.cues[side]), false if side == "fiction" else true
            text += " " + asked.format(CUE=cue, **slots) + f" ^{value}."
        return text

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt has a cue of the other kind."""
        form, slots, false, true = self._draw(rng, test)
        side = rng.choice(self.sides)
        other = "truth" if side == "fiction" else "fiction"
        claim, asked = (text.format(CUE="{CUE}", **slots) for text in self.forms[form])
        clean, corrupt = (
            f"{claim} {asked}".format(CUE=rng.choice(self.cues[kind])) for kind in (side, other)
        )
        answer, wrong = (false, true) if side == "fiction" else (true, false)
        return Pair(clean, corrupt, (answer,), (wrong,), f"conflict {form} {slots['MEDIUM']}")

    def _draw(self, rng: random.Random, test: bool) -> tuple[int, dict[str, str], str, str]:
        while True:
            form = rng.randrange(len(self.forms))
            subject = rng.choice(list(self.known[form]))
            true = self.known[form][subject]
            false = rng.choice([city for city in self.known[0].values() if city != true])
            if held_out(f"conflict:{subject}:{false}") == test:
                return (
                    form,
                    {"SUBJECT": subject, "FALSE": false, "MEDIUM": rng.choice(self.media)},
                    false,
                    true,
                )
