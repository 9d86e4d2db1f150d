"""Templates with the words that fit their slots: one token each, in their place.

A word can be one token after a space and several at the beginning of a text (in GPT-2 ` Emma` and `Emma`).
Only words of one token keep the positions of a template's prompts in line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from interp.tasks import vocabulary, wordlists


class Form(NamedTuple):
    """A template and, by slot, the words that fit."""

    text: str
    words: dict[str, list[str]]


def usable(
    model: Any,
    templates: list[str],
    pools: Mapping[str, Sequence[str]],
    *,
    least: int = 1,
    only: int | None = None,
) -> dict[int, Form]:
    """The templates whose fixed words the vocabulary has, and `least` words or more for each slot of `pools`.

    only: a template's number, to take that one alone.
    """
    found, lacking = {}, []
    for number, text in wordlists.usable_templates(model, templates).items():
        slots = [slot for slot in pools if f"{{{slot}}}" in text]
        words = {slot: fitting(model, text, slot, pools[slot]) for slot in slots}
        short = [slot for slot in slots if len(words[slot]) < least]
        lacking += [f"{{{slot}}} of template {number} fits {len(words[slot])}" for slot in short]
        if not short:
            found[number] = Form(text, words)
    if not found:
        raise ValueError(
            f"no template has {least} word(s) of one token for each of its slots: {'; '.join(lacking)}. "
            "Use prompts of your own (Task.from_prompts)."
        )
    return wordlists.chosen(found, only)


def fitting(model: Any, text: str, slot: str, words: Sequence[str]) -> list[str]:
    """The words that are one token wherever the template has the slot."""
    befores = set(re.findall(rf"( ?)\{{{slot}\}}", text))
    return [
        word
        for word in words
        if all(vocabulary.continuation(model, before + word) is not None for before in befores)
    ]
