"""Indirect object identification (Wang et al. 2022, arXiv:2211.00593).

`When Mary and John went to the store, John gave a book to` → ` Mary`. The answer is the indirect object,
the wrong answer the subject. Corrupt: the subject of the last clause is exchanged for the other name,
which makes the other name the answer.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. So half
of them name the indirect object first (order ABB) and half the subject first (order BAB), and a name
that a model likes better counts for and against equally often. The cluster of a prompt is its template, or
its mirrored pair where all prompts have one template.

Variables: `subject`, which name the last clause repeats: given another prompt's, a prompt that has this name
answers with its own other name. `output_position`, whether the answer is the first or the second name: given
another prompt's, a prompt answers with its own other name. `output_token`, which name it is: with that name.

Spans: `io` the indirect object, `s1` and `s2` the two mentions of the subject, `s1+1` the token after the
first, `end` the last token.
"""

from __future__ import annotations

import random
from typing import Any

from interp._verbs import verb
from interp.tasks import vocabulary, wordlists
from interp.tasks._pairs import Marks, Row, Side, cluster_name, distinct_pairs, make, mirrored, written
from interp.tasks._task import Task
from interp.tasks._variables import Variable
from interp.tasks.metrics import Metric

_NAMES = (  # by whether the subject is the first name
    {"io": "A", "s1": "B", "s2": "S"},
    {"io": "B", "s1": "A", "s2": "S"},
)


@verb
def ioi(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    template: int | None = None,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Who is given the object: n prompts in mirrored pairs, half ABB and half BAB.

    template: take all prompts from this one of the templates in data/tasks/ioi.json, so that a position means
    the same in each; by default all templates in turn, whose positions do not line up.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> len(interp.tasks.ioi(model, n=4))
        4
    """
    wordlists.require_even(n)
    vocabulary.tokenizer_of(model)
    words = wordlists.load("ioi")
    names = wordlists.require_words(model, "names", words["names"], 2)
    places = wordlists.require_words(model, "places", words["places"], 1)
    objects = wordlists.require_words(model, "objects", words["objects"], 1)
    templates = wordlists.chosen(wordlists.usable_templates(model, words["templates"]), template)
    choices = _draw([templates, list(names), list(places), list(objects)], n // 2, random.Random(seed))

    made: list[Row] = []
    for i, (number, first, second, place, thing) in enumerate(choices):
        sides = []
        for subject, other in ((second, first), (first, second)):
            slots = {"A": first, "B": second, "S": subject, "PLACE": place, "OBJECT": thing}
            ids, spans = written(model, templates[number], slots, _NAMES[subject == first], prepend_bos)
            sides.append(Side(ids, [names[other]], _followed(spans)))
        cluster = cluster_name("ioi", number, i, len(templates) == 1)
        made += mirrored(sides[0], sides[1], cluster)
    task = make(model, made, name="ioi", seed=seed, metric=metric)
    pairs = [(names[first], names[second]) for _, first, second, _, _ in choices]
    words_of = {token: name for name, token in names.items()}
    return task.with_variables(
        subject=_subject(pairs, words_of),
        output_position=_output_position(pairs),
        output_token=_output_token(pairs, words_of),
    )


def _subject(pairs: list[tuple[int, int]], names: dict[int, str]) -> Variable:
    """Which name is repeated, of all names that occur: of mirrored prompts, first the second name."""
    tokens = sorted({token for pair in pairs for token in pair})
    values, outcomes = [], []
    for first, second in pairs:
        answers = [{first: second, second: first}.get(token, -1) for token in tokens]
        values += [tokens.index(second), tokens.index(first)]
        outcomes += [answers, answers]
    return Variable(values, outcomes, [names[token] for token in tokens])


def _output_position(pairs: list[tuple[int, int]]) -> Variable:
    """Whether the answer is the first or the second name, of mirrored prompts two by two."""
    return Variable([0, 1] * len(pairs), [pair for pair in pairs for _ in range(2)], ["first", "second"])


def _output_token(pairs: list[tuple[int, int]], names: dict[int, str]) -> Variable:
    """Which name is the answer, of all names that occur."""
    tokens = sorted({token for pair in pairs for token in pair})
    values = [tokens.index(token) for pair in pairs for token in pair]
    return Variable(values, [tokens] * len(values), [names[token] for token in tokens])


def _followed(spans: Marks) -> Marks:
    """With the token after the subject's first mention."""
    after = {"s1+1": [spans["s1"][-1] + 1]} if "s1" in spans else {}
    return {**spans, **after}


def _draw(pools: list[Any], pairs: int, rng: random.Random) -> list[tuple[Any, ...]]:
    """Distinct (template, first name, second name, place, object), the templates in turn."""
    templates, names, places, objects = pools
    room = len(names) * (len(names) - 1) * len(places) * len(objects)

    def pick(template: int) -> tuple[str, ...]:
        first, second = rng.sample(names, 2)
        return first, second, rng.choice(places), rng.choice(objects)

    return distinct_pairs(dict.fromkeys(templates, room), pick, pairs, rng)
