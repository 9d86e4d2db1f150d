"""Greater-than (Hanna et al. 2023, arXiv:2305.00586): a year that is later than another.

`The war lasted from the year 1732 to the year 17` → 33, 34, ..., 99. The answers are all two-digit years
above the first one, the wrong answers all others. Corrupt: the first year ends in 01. The metric is the
paper's, the probability of the answers minus that of the wrong answers.

The tokenizer must read a year as its century and its two digits: 1732 as `17` `32` (as GPT-2 mostly
does; only such years are used), or, for word-level vocabularies, written apart, `17 32`. Where every digit is
a token of its own, the answers are tens digits: after `... 1435 to the year 14` those above 3, the wrong
answers those below it, and 3 itself, which the units decide, is neither; first years are X20 to X79. The
cluster of a prompt is its template and noun.

Spans: `noun`, `century` and `year` of the first year (`17` and `32`), `end` the last token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from interp._verbs import verb
from interp.tasks import vocabulary, wordlists
from interp.tasks._pairs import Row, filled, make, marks, require_room
from interp.tasks._task import Task
from interp.tasks.metrics import Metric, ProbDiff

YEARS = range(100)
TENS = range(20, 80)  # first years where a year is four digits: tens above and below


@dataclass(frozen=True)
class _Form:
    """How years are written, the ids of 00 to 99 (or of 0 to 9), the usable (century, year)."""

    year: str
    ids: tuple[int, ...]
    usable: tuple[tuple[int, int], ...]

    def answers(self, year: int) -> tuple[list[int], list[int]]:
        """The tokens of later years, and of the others; of tens digits, those above and those below."""
        if len(self.ids) == len(YEARS):
            return list(self.ids[year + 1 :]), list(self.ids[: year + 1])
        return list(self.ids[year // 10 + 1 :]), list(self.ids[: year // 10])

    def text(self, century: int, year: int) -> str:
        return self.year.format(CENTURY=century, YEAR=f"{year:02d}")


@verb
def greater_than(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Which years are later: n prompts, with first years drawn evenly from those the tokenizer splits.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> len(interp.tasks.greater_than(model, n=4))
        4
    """
    if n < 1:
        raise ValueError(f"n is {n}; a task needs at least one prompt.")
    vocabulary.tokenizer_of(model)
    words = wordlists.load("greater_than")
    form = _form(model, words)
    nouns = list(wordlists.require_words(model, "nouns", words["nouns"], 1))
    templates = wordlists.usable_templates(model, words["templates"])

    made = []
    for template, noun, century, year in _draw(templates, nouns, form, n, random.Random(seed)):
        texts = [
            filled(
                templates[template],
                {"NOUN": noun, "CENTURY": str(century), "START": form.text(century, start)},
            )
            for start in (year, words["corrupt_year"])
        ]
        clean, corrupt = (vocabulary.encode(model, text, prepend_bos) for text, _ in texts)
        spans = marks(model, texts[0][0], clean, _letters(texts[0][1]))
        made.append(Row(clean, corrupt, *form.answers(year), f"greater_than {template} {noun}", spans))
    return make(model, made, name="greater_than", seed=seed, metric=ProbDiff() if metric is None else metric)


def _letters(slots: dict[str, list[tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Where noun, century and year of the first year stand: the year is its last two digits."""
    start, stop = slots["START"][0]
    named = {"century": (start, start + 2), "year": (stop - 2, stop)}
    return {"noun": slots["NOUN"][0], **named} if "NOUN" in slots else named


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
    digits = _digits(model, words)
    if digits and wordlists.single_tokens(model, words["nouns"]):
        return digits
    raise ValueError(
        "greater_than needs a tokenizer in which a year is its century and two digits (1732 as '17', '32'), "
        "or four digits. "
        f"This one has {max(counts)} of {len(YEARS)} numbers 00 to 99 as tokens, or splits years otherwise. "
        "Use a model with GPT-2's tokenizer, or make the task from prompts of your own (Task.from_prompts)."
    )


def _digits(model: Any, words: dict[str, Any]) -> _Form | None:
    """Years of four digits, where each of these is a token; None where they are read otherwise."""
    ids = [vocabulary.continuation(model, str(digit)) for digit in range(10)]
    if len(set(ids)) < 10 or None in ids:
        return None
    centuries = [century for century in words["centuries"] if _spelt(model, f" {century}", ids)]
    years = [year for year in TENS if centuries and _spelt(model, f" {centuries[0]}{year:02d}", ids)]
    usable = tuple((century, year) for century in centuries for year in years)
    corrupt = centuries and _spelt(model, f" {centuries[0]}{words['corrupt_year']:02d}", ids)
    return (
        _Form("{CENTURY}{YEAR}", tuple(token for token in ids if token is not None), usable)
        if corrupt
        else None
    )


def _spelt(model: Any, text: str, ids: list[int | None]) -> bool:
    """Whether the text ends in its digits, one token each."""
    said = [ids[int(digit)] for digit in text.strip()]
    return vocabulary.encode(model, f"year{text}", prepend_bos=False)[-len(said) :] == said


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
