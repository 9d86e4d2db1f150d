"""Facts: what a relation says of a subject, such as the capital of a country.

`The capital of France is` → Paris. Corrupt: another subject, with another answer, which is the wrong answer.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. The cluster
of a prompt is its template, or its mirrored pair where all prompts have one template.

A template asks about every subject once before it asks about any again, then with another corrupt subject.

Spans: `subject`, and `end` the last token.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from math import comb
from typing import Any, NamedTuple

from interp._verbs import verb
from interp.places import hint
from interp.tasks import wordlists
from interp.tasks._pairs import Row, Side, cluster_name, make, mirrored, require_room, written
from interp.tasks._task import Task
from interp.tasks.metrics import Metric
from interp.tasks.world import Facts, born, country, two_hop


class Relation(NamedTuple):
    """Templates with a slot for the subject, and the answer of every subject."""

    slot: str
    answers: str  # what the answers are, in the plural, for messages
    load: Callable[[], tuple[list[str], dict[str, str]]]


def _capitals() -> tuple[list[str], dict[str, str]]:
    words = wordlists.load("capitals")
    return words["templates"], dict(words["capitals"])


def _world(relation: Callable[[], Facts]) -> tuple[list[str], dict[str, str]]:
    made = relation()
    return made.templates, made.values


RELATIONS = {
    "capital": Relation("COUNTRY", "capitals", _capitals),
    "born": Relation("SUBJECT", "cities", partial(_world, born)),
    "country": Relation("SUBJECT", "countries", partial(_world, country)),
    "two_hop": Relation("SUBJECT", "countries", partial(_world, two_hop)),
}


@verb
def facts(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    relation: str = "capital",
    template: int | None = None,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """What is true of the subject: n prompts in mirrored pairs.

    relation: "capital" of a country (data/tasks/capitals.json); and, about the made-up people of tiny-world,
        "born" (person → city), "country" (city → country) and "two_hop" (person → country).
    template: take all prompts from this one of the templates, so that a position means the same in each.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.facts(model, n=4))
        4
    """
    wordlists.require_even(n)
    if relation not in RELATIONS:
        raise ValueError(
            f"unknown relation {relation!r}{hint(relation, RELATIONS)} Relations: {', '.join(RELATIONS)}."
        )
    slot, kind, load = RELATIONS[relation]
    templates, known = load()
    ids = wordlists.require_words(model, kind, list(dict.fromkeys(known.values())), 2)
    known = {subject: answer for subject, answer in known.items() if answer in ids}
    usable = wordlists.usable_forms(model, templates, {slot: list(known)}, least=2, only=template)
    pools = {number: form.words[slot] for number, form in usable.items()}

    made: list[Row] = []
    for i, (number, *subjects) in enumerate(_draw(pools, known, n // 2, random.Random(seed))):
        sides = []
        for subject in subjects:
            tokens, spans = written(
                model, usable[number].text, {slot: subject}, {"subject": slot}, prepend_bos
            )
            sides.append(Side(tokens, [ids[known[subject]]], spans))
        cluster = cluster_name(f"facts {relation}", number, i, len(usable) == 1)
        made += mirrored(sides[0], sides[1], cluster)
    return make(model, made, name=f"facts {relation}", seed=seed, metric=metric)


def _draw(
    pools: dict[int, list[str]], known: dict[str, str], pairs: int, rng: random.Random
) -> list[tuple[int, str, str]]:
    """Distinct (template, subject, other subject), the templates in turn, each subject once in a round."""
    room = 0
    for pool in pools.values():
        alike = Counter(known[subject] for subject in pool).values()
        room += comb(len(pool), 2) - sum(comb(count, 2) for count in alike)
    require_room(2 * pairs, 2 * room)
    drawn: dict[tuple[int, frozenset[str]], tuple[int, str, str]] = {}
    while len(drawn) < pairs:
        rounds = [[(number, *two) for two in _matched(pool, known, rng)] for number, pool in pools.items()]
        rng.shuffle(rounds)
        for item in (item for turn in zip_longest(*rounds) for item in turn if item is not None):
            drawn.setdefault((item[0], frozenset(item[1:])), item)
    return list(drawn.values())[:pairs]


def _matched(pool: list[str], known: dict[str, str], rng: random.Random) -> list[tuple[str, str]]:
    """The subjects two by two at random, without pairs that share their answer."""
    order = rng.sample(pool, len(pool))
    return [(one, other) for one, other in zip(order[::2], order[1::2]) if known[one] != known[other]]
