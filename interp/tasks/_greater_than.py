"""Greater-than (Hanna et al. 2023, arXiv:2305.00586): a year that is later than another.

`The war lasted from the year 1732 to the year 17` → 33, 34, ..., 99. The answers are all two-digit years
above the first one, the wrong answers all others. Corrupt: the first year ends in 01. The metric is the
paper's, the probability of the answers minus that of the wrong answers.

The tokenizer must read a year as its century and its two digits: 1732 as `17` `32` (as GPT-2 mostly
does; only such years are used), or, for word-level vocabularies, written apart, `17 32`. The cluster of
a prompt is its template and noun.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from interp.tasks import vocabulary, wordlists
from interp.tasks._pairs import Row, make, require_room
from interp.tasks._task import Task
from interp.tasks.metrics import Metric, ProbDiff

YEARS = range(100)


@dataclass(frozen=True)
class _Form:
    """How a tokenizer reads years: how to write them, the ids of 00 to 99, the usable (century, year)."""

    year: str
    ids: tuple[int, ...]
    usable: tuple[tuple[int, int], ...]

    def text(self, century: int, year: int) -> str:
        return self.year.format(CENTURY=century, YEAR=f"{year:02d}")


def greater_than(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Which years are later: n prompts, with first years drawn evenly from those the tokenizer splits."""
    if n < 1:
        raise ValueError(f"n is {n}; a task needs at least one prompt.")
    vocabulary.tokenizer_of(model)
    words = wordlists.load("greater_than")
    form = _form(model, words)
    nouns = list(wordlists.require_words(model, "nouns", words["nouns"], 1))
    templates = wordlists.usable_templates(model, words["templates"])

    made = []
    for template, noun, century, year in _draw(templates, nouns, form, n, random.Random(seed)):
        texts = (
            templates[template].format(NOUN=noun, CENTURY=century, START=form.text(century, start))
            for start in (year, words["corrupt_year"])
        )
        clean, corrupt = (vocabulary.encode(model, text, prepend_bos) for text in texts)
        later, others = list(form.ids[year + 1 :]), list(form.ids[: year + 1])
        made.append(Row(clean, corrupt, later, others, f"greater_than {template} {noun}"))
    return make(model, made, name="greater_than", seed=seed, metric=metric or ProbDiff())


def _form(model: Any, words: dict[str, Any]) -> _Form:
    """The first way of writing years that the tokenizer reads as century and two digits."""
    counts = []
    for written in words["forms"]:
        found = [vocabulary.continuation(model, f"{written['join']}{year:02d}") for year in YEARS]
        ids = [token for token in found if token is not None]
        counts.append(len(set(ids)))
        if counts[-1] == len(YEARS):
            usable = _splitting(model, written["year"], ids, words["centuries"], words["corrupt_year"])
            if usable:
                return _Form(written["year"], tuple(ids), usable)
    raise ValueError(
        "greater_than needs a tokenizer in which a year is its century and two digits (1732 as '17', '32'). "
        f"This one has {max(counts)} of {len(YEARS)} numbers 00 to 99 as tokens, or splits years otherwise. "
        "Use a model with GPT-2's tokenizer, or make the task from prompts of your own (Task.from_prompts)."
    )


def _splitting(
    model: Any, written: str, ids: list[int], centuries: list[int], corrupt_year: int
) -> tuple[tuple[int, int], ...]:
    """The (century, year) that split in two, where the corrupt year does; 98 at most, so that 99 is later."""
    found = []
    for century in centuries:
        base = vocabulary.continuation(model, f" {century}")

        def splits(year: int, century: int = century, base: int | None = base) -> bool:
            text = f" {written.format(CENTURY=century, YEAR=f'{year:02d}')}"
            return base is not None and vocabulary.encode(model, text, prepend_bos=False) == [base, ids[year]]

        if splits(corrupt_year):
            found += [(century, year) for year in range(corrupt_year + 1, YEARS[-1]) if splits(year)]
    return tuple(found)


def _draw(
    templates: dict[int, str], nouns: list[str], form: _Form, count: int, rng: random.Random
) -> list[tuple[int, str, int, int]]:
    """Distinct (template, noun, century, year), templates in turn and years spread evenly."""
    require_room(count, len(templates) * len(nouns) * len(form.usable))
    by_year: dict[int, list[int]] = {}
    for century, year in form.usable:
        by_year.setdefault(year, []).append(century)
    years: list[int] = []
    drawn: dict[tuple[int, str, int, int], None] = {}
    while len(drawn) < count:
        years = years or rng.sample(sorted(by_year), len(by_year))
        year = years.pop()
        template = sorted(templates)[len(drawn) % len(templates)]
        drawn[template, rng.choice(nouns), rng.choice(by_year[year]), year] = None
    return list(drawn)
