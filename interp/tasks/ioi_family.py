"""Indirect object identification (Wang et al. 2022, arXiv:2211.00593).

`When Mary and John went to the store, John gave a book to` → ` Mary`. The answer is the indirect object,
the wrong answer the subject. Corrupt: the subject of the last clause is exchanged for the other name,
which makes the other name the answer.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. So half
of them name the indirect object first (order ABB) and half the subject first (order BAB), and a name
that a model likes better counts for and against equally often. The cluster of a prompt is its template, or
its mirrored pair where all prompts have one template.
"""

from __future__ import annotations

import random
from typing import Any

from interp.tasks import prompts, vocabulary, wordlists
from interp.tasks.metrics import Metric
from interp.tasks.task import Task
from interp.tasks.validate import require


def ioi(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    template: int | None = None,
    metric: Metric | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Who is given the object: n prompts in mirrored pairs, half ABB and half BAB.

    template: take all prompts from this one of the templates in data/tasks/ioi.json, so that a position means
    the same in each; by default all templates in turn, whose positions do not line up.
    """
    wordlists.require_even(n)
    vocabulary.tokenizer_of(model)
    words = wordlists.load("ioi")
    names = wordlists.require_words(model, "names", words["names"], 2)
    places = wordlists.require_words(model, "places", words["places"], 1)
    objects = wordlists.require_words(model, "objects", words["objects"], 1)
    templates = wordlists.usable_templates(model, words["templates"])
    if template is not None:
        templates = _only(templates, template)
    choices = _draw([templates, list(names), list(places), list(objects)], n // 2, random.Random(seed))

    clean, answer, wrong, clusters = [], [], [], []
    for number, first, second, place, thing in choices:
        cluster = f"ioi {number}" if template is None else f"ioi {number}, pair {len(clean) // 2}"
        for subject, other in ((second, first), (first, second)):
            text = templates[number].format(A=first, B=second, S=subject, PLACE=place, OBJECT=thing)
            clean.append(vocabulary.encode(model, text, prepend_bos))
            answer.append([names[other]])
            wrong.append([names[subject]])
            clusters.append(cluster)
    corrupt = [clean[i ^ 1] for i in range(n)]  # the other of the pair
    fields = prompts.from_ids(model, clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)
    task = Task.from_tokens(**fields, metric=metric, name="ioi", seed=seed, template=clusters)
    require(task.problems(model))
    return task


def _only(templates: dict[int, str], template: int) -> dict[int, str]:
    if template not in templates:
        have = ", ".join(map(str, sorted(templates)))
        raise ValueError(f"template {template} is not usable with this tokenizer; these are: {have}.")
    return {template: templates[template]}


def _draw(pools: list[Any], count: int, rng: random.Random) -> list[tuple[int, str, str, str, str]]:
    """Distinct (template, first name, second name, place, object), the templates in turn."""
    templates, names, places, objects = pools
    room = len(templates) * len(names) * (len(names) - 1) * len(places) * len(objects)
    if count > room:
        raise ValueError(
            f"n is {2 * count}, but the words that the tokenizer has give only {2 * room} prompts."
        )
    order = sorted(templates)
    rng.shuffle(order)
    drawn: dict[tuple[int, str, str, str, str], None] = {}
    while len(drawn) < count:
        first, second = rng.sample(names, 2)
        drawn[order[len(drawn) % len(order)], first, second, rng.choice(places), rng.choice(objects)] = None
    return list(drawn)
