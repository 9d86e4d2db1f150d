"""Coloured objects (after Merullo et al. 2023, arXiv:2310.08744): the colour of one of three objects.

`Mary painted the book red, the key blue and the hat green. What colour is the key? It is` → blue. The answer
is the colour of the object asked for. Corrupt: another of the three is asked for; its colour is the wrong
answer. The three places in the list take turns.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. The cluster
of a prompt is its template, or its mirrored pair where all prompts have one template.

Variables: `answer_pointer`, which of the three is asked for, and `object`, which object that is: with another
prompt's, a prompt answers with the colour that stands there in its own list, or that the object has in it.

Spans: `object` that is asked for, `listed` the same object in the list, `colour` its colour there (the
answer), `end` the last token.
"""

from __future__ import annotations

import math
import random
from typing import Any

from interp._verbs import verb
from interp.tasks import wordlists
from interp.tasks._pairs import Row, Side, cluster_name, distinct_pairs, make, mirrored, written
from interp.tasks._task import Task
from interp.tasks._variables import Variable
from interp.tasks.metrics import Metric
from interp.tasks.wordlists import Form

THINGS = 3
ASKED = ((0, 1), (1, 2), (2, 0))  # the clean and the corrupt prompt's object, by place in the list


@verb
def coloured_objects(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    template: int | None = None,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """What colour the object has: n prompts in mirrored pairs, words from data/tasks/coloured_objects.json.

    template: take all prompts from this one of the templates, so that a position means the same in each.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.coloured_objects(model, n=4))
        4
    """
    wordlists.require_even(n)
    words = wordlists.load("coloured_objects")
    colours = wordlists.require_words(model, "colours", words["colours"], THINGS)
    objects = wordlists.require_words(model, "objects", words["objects"], THINGS)
    pools = {"A": wordlists.load("ioi")["names"], "PLACE": words["places"]}
    usable = wordlists.usable_forms(model, words["templates"], pools, only=template)
    scenes = _draw(usable, list(colours), list(objects), n // 2, random.Random(seed))

    made: list[Row] = []
    asked_for: list[tuple[int, list[int], tuple[str, ...]]] = []
    for i, (number, paints, things, others) in enumerate(scenes):
        sides = []
        for asked in ASKED[i // len(usable) % len(ASKED)]:
            slots = _slots(usable[number], paints, things, others, asked)
            names = {"object": "O", "listed": f"O{asked + 1}", "colour": f"C{asked + 1}"}
            ids, spans = written(model, usable[number].text, slots, names, prepend_bos)
            sides.append(Side(ids, [colours[paints[asked]]], spans))
            asked_for.append((asked, [colours[paint] for paint in paints], things))
        cluster = cluster_name("coloured_objects", number, i, len(usable) == 1)
        made += mirrored(sides[0], sides[1], cluster)
    task = make(model, made, name="coloured_objects", seed=seed, metric=metric)
    return task.with_variables(
        answer_pointer=Variable(*zip(*((asked, paints) for asked, paints, _ in asked_for))),
        object=_object(asked_for),
    )


def _object(asked_for: list[tuple[int, list[int], tuple[str, ...]]]) -> Variable:
    """Which object is asked for, of all that occur; -1 for those that a prompt does not list."""
    known = sorted({thing for _, _, things in asked_for for thing in things})
    values = [known.index(things[asked]) for asked, _, things in asked_for]
    outcomes = [
        [paints[things.index(thing)] if thing in things else -1 for thing in known]
        for _, paints, things in asked_for
    ]
    return Variable(values, outcomes, known)


def _slots(
    form: Form, colours: tuple[str, ...], objects: tuple[str, ...], others: tuple[str, ...], asked: int
) -> dict[str, str]:
    slots = {f"C{i + 1}": colour for i, colour in enumerate(colours)}
    slots |= {f"O{i + 1}": thing for i, thing in enumerate(objects)}
    return {"O": objects[asked], **slots, **dict(zip(form.words, others))}


def _draw(
    usable: dict[int, Form], colours: list[str], objects: list[str], pairs: int, rng: random.Random
) -> list[tuple[Any, ...]]:
    """Distinct (template, three colours, three objects, fillers of the other slots)."""
    scenes = math.perm(len(colours), THINGS) * math.perm(len(objects), THINGS)
    room = {number: scenes * math.prod(map(len, form.words.values())) for number, form in usable.items()}

    def pick(number: int) -> tuple[tuple[str, ...], ...]:
        others = tuple(rng.choice(words) for words in usable[number].words.values())
        return tuple(rng.sample(colours, THINGS)), tuple(rng.sample(objects, THINGS)), others

    return distinct_pairs(room, pick, pairs, rng)
