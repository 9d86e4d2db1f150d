"""Subject-verb agreement across attractors (Linzen et al. 2016, arXiv:1611.01368).

`The kings near the house` → are, were, have. The answers are all verbs that agree with the subject, the
wrong answers all that do not. Corrupt: the subject in the other number; the attractors, the nouns between
subject and verb, stay as they are.

With attractors of any number prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean
prompt of the other. With attractors that all differ from the clean subject in number, or all agree with
it, the corrupt prompt cannot do the same, as its subject alone is changed; then prompts 2i and 2i + 1 have
the same nouns, each in the other number. The cluster of a prompt is its template, or its pair where all
prompts have one template.

Spans: `subject`, `attractor` and `attractor 2` where the template has them, `end` the last token.
"""

from __future__ import annotations

import math
import random
from typing import Any

from interp._verbs import verb
from interp.tasks import wordlists
from interp.tasks._pairs import Side, cluster_name, contrast, distinct_pairs, make, written
from interp.tasks._task import Task
from interp.tasks.metrics import Metric

NUMBERS = ("any", "opposite", "same")
SLOTS = ("N", "M")
_NAMES = {"subject": "S", "attractor": "N", "attractor 2": "M"}
Noun = tuple[str, ...]  # singular and plural


@verb
def agreement(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    attractors: str = "any",
    template: int | None = None,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Which verbs agree: n prompts in pairs, words from data/tasks/agreement.json.

    attractors: the number of the nouns between: "any" (at random), "opposite" to the clean subject's or the
        "same"; the last two leave out templates without such a noun.
    template: take all prompts from this one of the templates, so that a position means the same in each.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.agreement(model, n=4))
        4
    """
    wordlists.require_even(n)
    if attractors not in NUMBERS:
        raise ValueError(f"attractors is {attractors!r}; it must be one of {', '.join(NUMBERS)}.")
    words = wordlists.load("agreement")
    verbs = list(zip(*wordlists.require_groups(model, "verbs in both numbers", words["verbs"], 1).values()))
    subjects = list(wordlists.require_groups(model, "subjects in both numbers", words["subjects"], 1))
    others = wordlists.require_groups(model, "attractors in both numbers", words["attractors"], 0)
    templates = wordlists.usable_templates(model, words["templates"])
    if attractors != "any":
        templates = {number: text for number, text in templates.items() if _slots(text)}
    templates = wordlists.chosen(templates, template)
    choices = _draw(templates, subjects, [*others, *subjects], attractors, n // 2, random.Random(seed))

    made = []
    for i, (number, subject, nouns, numbers) in enumerate(choices):
        cluster = cluster_name("agreement", number, i, len(templates) == 1)
        for clean in (0, 1):
            between = {slot: noun[k] for slot, noun, k in zip(SLOTS, nouns, numbers[clean])}
            texts = [
                written(model, templates[number], {"S": form, **between}, _NAMES, prepend_bos)
                for form in subject
            ]
            sides = [Side(tokens, list(ids), spans) for (tokens, spans), ids in zip(texts, verbs)]
            made.append(contrast(sides[clean], sides[1 - clean], cluster))
    return make(model, made, name="agreement", seed=seed, metric=metric)


def _slots(text: str) -> list[str]:
    """The attractors' slots in a template."""
    return [slot for slot in SLOTS if f"{{{slot}}}" in text]


def _draw(
    templates: dict[int, str],
    subjects: list[Noun],
    nouns: list[Noun],
    attractors: str,
    pairs: int,
    rng: random.Random,
) -> list[tuple[Any, ...]]:
    """Distinct (template, subject, attractors, their numbers for each number of the clean subject)."""
    counts = {number: len(_slots(text)) for number, text in templates.items()}
    choices = 2 if attractors == "any" else 1
    room = {
        number: len(subjects) * math.perm(len(nouns) - 1, count) * choices**count
        for number, count in counts.items()
    }

    def pick(number: int) -> tuple[Any, ...]:
        subject = rng.choice(subjects)
        between = rng.sample([noun for noun in nouns if noun != subject], counts[number])
        return subject, tuple(between), _numbers(attractors, counts[number], rng)

    return distinct_pairs(room, pick, pairs, rng)


def _numbers(attractors: str, count: int, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attractors' numbers (0 singular, 1 plural) for a singular and for a plural clean subject."""
    if attractors == "any":
        drawn = tuple(rng.randrange(2) for _ in range(count))
        return drawn, drawn
    same, opposite = (0,) * count, (1,) * count
    return (same, opposite) if attractors == "same" else (opposite, same)
