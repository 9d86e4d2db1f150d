"""English for a language model, from what is always there: Python's manual, and what the model writes itself.

| source | what | licence |
|---|---|---|
| `manual` | `pydoc_data.topics`, the manual as every installation of Python has it | PSF-2.0 |
| `docstrings` | numpy's functions and classes, as installed | BSD-3-Clause |
| `written` | answers of the model to FORMS × SUBJECTS at temperature 1, with the question | Apache-2.0 |

Each gives token ids, to fit on and held out: every fifth topic of the manual, name of numpy, subject.
"""

from __future__ import annotations

import inspect
import random
from itertools import product
from pathlib import Path
from typing import Any

from interp import steering

Rows = list[list[int]]

FORMS = (
    "Write a short story about {}.",
    "Explain {} to a child.",
    "Write a newspaper article about {}.",
    "Write a dialogue in which two friends argue about {}.",
    "Write a letter to a relative about {}.",
    "What should everybody know about {}? Give details.",
    "Write a page of a history book about {}.",
    "Describe a day in the life of somebody whose work has to do with {}.",
)
SUBJECTS = (
    "bread", "the moon", "a football match", "elections", "an old bridge", "the immune system", "jazz",
    "trains", "a lost dog", "inflation", "volcanoes", "chess", "the Roman army", "marriage", "bees",
    "nuclear power", "a village school", "the price of gold", "dreams", "whales", "a robbery", "coffee",
    "the French Revolution", "snow", "computer viruses", "a hospital", "kites", "the Amazon river", "taxes",
    "photography", "an island", "Shakespeare", "cancer", "the desert", "a new neighbour", "clocks", "wine",
    "a trial in court", "dinosaurs", "moving to another country",
)  # fmt: skip


def manual(model: Any, length: int) -> tuple[Rows, Rows]:
    """Pieces of `length` tokens of Python's manual, in an order drawn: to fit on, and held out by topic."""
    from pydoc_data.topics import topics

    return _pieces(model, [topics[name] for name in sorted(topics)], length)


def docstrings(model: Any, length: int) -> tuple[Rows, Rows]:
    """Pieces of numpy's docstrings of more than 1,000 characters: to fit on, and held out by name."""
    import numpy

    found = {name: inspect.getdoc(getattr(numpy, name)) or "" for name in sorted(dir(numpy))}
    return _pieces(model, [text for text in dict.fromkeys(found.values()) if len(text) > 1000], length)


def documentation(model: Any, length: int) -> Rows:
    """Pieces of this project's own pages, which no dictionary is fitted on."""
    pages = sorted((Path(__file__).resolve().parents[1] / "docs").glob("*.md"))
    fit, held = _pieces(model, [page.read_text(encoding="utf-8") for page in pages], length)
    return held + fit


def _pieces(model: Any, texts: list[str], length: int) -> tuple[Rows, Rows]:
    rows: tuple[Rows, Rows] = ([], [])
    for n, text in enumerate(texts):
        ids = model.to_tokens(text)[0]
        rows[n % 5 == 0].extend([piece.tolist() for piece in ids.split(length) if len(piece) == length])
    for side in rows:
        random.Random(0).shuffle(side)
    return rows


def written(model: Any, new: int, batch_size: int = 64, seed: int = 0) -> tuple[Rows, Rows]:
    """What the model answers, `new` tokens each at most, after the question but without the system's turn:
    to fit on, and held out by subject."""
    rows: tuple[Rows, Rows] = ([], [])
    asked = [(form.format(subject), n % 5 == 0) for (n, subject), form in product(enumerate(SUBJECTS), FORMS)]
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        chats = [[{"role": "user", "content": text}] for text, _ in part]
        ids = steering.generate(
            model, chats, max_new_tokens=new, temperature=1.0, seed=seed + start, pad=_END
        )
        for (_, held), row in zip(part, ids.tolist()):
            turn = [n for n, token in enumerate(row) if token == _TURN][1]  # the user's
            rows[held].append([token for token in row[turn:] if token != _END])
    return rows


_END, _TURN = 0, 1  # <|endoftext|>, which no answer has, and <|im_start|>
