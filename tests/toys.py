"""Models of a few named features (see `interp.models.handmade.sketch`) that show one thing each."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

import interp
from interp.models.handmade import _catalogue
from interp.models.handmade.sketch import SHARP, SPECIAL, Sketch

GAIN = 10.0


def model(written: Sketch) -> Any:
    """The model of a sketch, float64, on whichever TransformerLens is installed."""
    with mock.patch.object(_catalogue, "sketch", return_value=written):
        return _catalogue.build("toy", torch.device("cpu"), torch.float64, {}).eval()


def ids(words: tuple[str, ...], sketch: Sketch) -> list[int]:
    return [(*SPECIAL, *sketch.words[len(SPECIAL) :]).index(word) for word in words]


def task(sketch: Sketch, words: tuple[str, ...], name: str = "copy", metric: Any = None) -> interp.Task:
    """`word =` → word; the corrupt prompt holds the next word, which is the wrong answer."""
    own, end = ids(words, sketch), ids(("=",), sketch)[0]
    other = [*own[1:], own[0]]
    return interp.Task.from_tokens(
        clean=[[i, end] for i in own], corrupt=[[i, end] for i in other], answer=own, wrong=other, name=name,
        metric=metric,
    )  # fmt: skip


def _blank(words: tuple[str, ...], kinds: tuple[str, ...], **shape: int) -> Sketch:
    features = ("pos 0", "end", *(f"{kind} {word}" for kind in kinds for word in words))
    sketch = Sketch((*words, "="), features, n_ctx=2, attn_only=True, **shape)
    sketch.place(0, "pos 0")
    sketch.place(1, "end")
    for word in words:
        sketch.embed(word, f"tok {word}")
        sketch.unembed(f"out {word}", word, GAIN)
    return sketch


WORDS = ("red", "blue", "green", "pink")


def moves(source: str, target: str, gain: float, words: tuple[str, ...] = WORDS) -> list[Any]:
    return [(f"{source} {word}", f"{target} {word}", gain) for word in words]


def chain() -> Sketch:
    """L0H0 brings the word to the end, L1H0 makes it the answer."""
    sketch = _blank(WORDS, ("tok", "mid", "out"), n_layers=2)
    sketch.head(0, 0, looks=[("end", "pos 0", SHARP)], moves=moves("tok", "mid", 1.0))
    sketch.head(1, 0, looks=[("end", "end", SHARP)], moves=moves("mid", "out", 1.0))
    return sketch


def independent() -> Sketch:
    """Two heads that each give a part of the answer; a third that does nothing."""
    sketch = _blank(WORDS, ("tok", "out"), n_layers=1, n_heads=3)
    for head, gain in ((0, 0.6), (1, 0.4)):
        sketch.head(0, head, looks=[("end", "pos 0", SHARP)], moves=moves("tok", "out", gain))
    return sketch


def with_backup() -> Sketch:
    """L0H0 gives the answer; L1H0 gives 0.7 of it where the end does not hold the word that it sees.

    L1H0 looks at the word unless what stands at the end is that word: then it looks at the end, where there
    is nothing to move. L1H1 always gives 0.3.
    """
    sketch = _blank(WORDS, ("tok", "out"), n_layers=2, n_heads=2)
    sketch.head(0, 0, looks=[("end", "pos 0", SHARP)], moves=moves("tok", "out", 1.0))
    unless = [(f"out {word}", f"tok {word}", -2 * SHARP) for word in WORDS]
    sketch.head(1, 0, looks=[("end", "pos 0", SHARP), *unless], moves=moves("tok", "out", 0.7))
    sketch.head(1, 1, looks=[("end", "pos 0", SHARP)], moves=moves("tok", "out", 0.3))
    return sketch


def two_skills(n_heads: int = 24) -> Sketch:
    """Head 0 copies colours, head 1 copies animals, the others nothing."""
    animals = ("cat", "dog", "hen", "ox")
    sketch = _blank((*WORDS, *animals), ("tok", "out"), n_layers=1, n_heads=n_heads)
    for head, words in ((0, WORDS), (1, animals)):
        sketch.head(0, head, looks=[("end", "pos 0", SHARP)], moves=moves("tok", "out", 1.0, words))
    return sketch
