"""Argument names in a docstring (Heimersheim & Janiak 2023): the next argument of a function.

`def port(self, load, size, file, last): ... :param load: ... :param size: ... :param` → file. The answer is
the third argument. Corrupt: the third and the fourth argument are exchanged in the definition, which makes
the fourth the answer; so it is the wrong answer.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. The cluster
of a prompt is its template, or its mirrored pair where all prompts have one template.

Spans, named as in the paper: `function`; `A_def` to `D_def`, the arguments in the definition (`C_def` is the
answer); `A_doc` and `B_doc` in the docstring; `end`, the last token.
"""

from __future__ import annotations

import math
import random
from typing import Any

from interp._verbs import verb
from interp.tasks import wordlists
from interp.tasks._pairs import Row, Side, cluster_name, distinct_pairs, make, mirrored, written
from interp.tasks._task import Task
from interp.tasks.metrics import Metric
from interp.tasks.wordlists import Form

ARGUMENTS, FILLERS = 4, 7
_NAMES = {
    "function": "F", "A_def": "A1", "B_def": "A2", "C_def": "A3", "D_def": "A4", "A_doc": ("A1", 1),
    "B_doc": ("A2", 1),
}  # fmt: skip


@verb
def docstring(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    template: int | None = None,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Which argument comes next: n prompts in mirrored pairs, words from data/tasks/docstring.json.

    template: take all prompts from this one of the templates.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.docstring(model, n=4))
        4
    """
    wordlists.require_even(n)
    words = wordlists.load("docstring")
    arguments = wordlists.require_words(model, "argument names", words["arguments"], ARGUMENTS)
    functions = wordlists.require_words(model, "function names", words["functions"], 1)
    spare = [word for word in words["fillers"] if word not in {*arguments, *functions}]
    fillers = wordlists.require_words(model, "filler words", spare, FILLERS)
    usable = wordlists.usable_forms(model, words["templates"], {"D1": list(fillers)}, only=template)
    pools = [list(arguments), list(functions), list(fillers)]
    choices = _draw(usable, pools, n // 2, random.Random(seed))

    made: list[Row] = []
    for i, (number, function, (first, second, *last), texts) in enumerate(choices):
        sides = []
        for third, fourth in (last, last[::-1]):
            slots = {"F": function, "A1": first, "A2": second, "A3": third, "A4": fourth}
            slots |= {f"D{k + 1}": word for k, word in enumerate(texts)}
            ids, spans = written(model, usable[number].text, slots, _NAMES, prepend_bos)
            sides.append(Side(ids, [arguments[third]], spans))
        cluster = cluster_name("docstring", number, i, len(usable) == 1)
        made += mirrored(sides[0], sides[1], cluster)
    return make(model, made, name="docstring", seed=seed, metric=metric)


def _draw(
    usable: dict[int, Form], pools: list[list[str]], pairs: int, rng: random.Random
) -> list[tuple[Any, ...]]:
    """Distinct (template, function, arguments, fillers); a pair has its last two arguments in both orders."""
    arguments, functions, fillers = pools
    orders = len(functions) * math.perm(len(arguments), ARGUMENTS) // 2
    tails = math.perm(len(fillers) - 1, FILLERS - 1)
    room = {number: orders * len(form.words["D1"]) * tails for number, form in usable.items()}

    def pick(number: int) -> tuple[Any, ...]:
        first, second, *last = rng.sample(arguments, ARGUMENTS)
        start = rng.choice(usable[number].words["D1"])  # stands after quotation marks, not after a space
        rest = rng.sample([word for word in fillers if word != start], FILLERS - 1)
        return rng.choice(functions), (first, second, *sorted(last)), (start, *rest)

    return distinct_pairs(room, pick, pairs, rng)
