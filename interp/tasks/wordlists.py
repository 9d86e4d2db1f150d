"""The bundled templates and words (data/tasks/*.json), and which words a model has as single tokens.

A word can be one token after a space and several at the beginning of a text (in GPT-2 ` Emma` and `Emma`).
Only words of one token keep the positions of a template's prompts in line (`usable_forms`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from interp.files import data_dir
from interp.tasks import vocabulary


def load(name: str) -> dict[str, Any]:
    """The content of data/tasks/<name>.json."""
    return json.loads((data_dir() / "tasks" / f"{name}.json").read_text(encoding="utf-8"))


def single_tokens(model: Any, words: Iterable[str]) -> dict[str, int]:
    """The words that are one token after a space, with their ids."""
    found = {word: vocabulary.continuation(model, f" {word}") for word in words}
    return {word: token for word, token in found.items() if token is not None}


def require_words(model: Any, kind: str, words: list[str], needed: int) -> dict[str, int]:
    """The single-token words; a `ValueError` when there are fewer than needed."""
    found = single_tokens(model, words)
    _require_count(kind, len(found), len(words), needed)
    return found


def require_groups(
    model: Any, kind: str, groups: list[list[str]], needed: int
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The groups (such as singular and plural) all of whose words are single tokens, with their ids."""
    ids = single_tokens(model, [word for group in groups for word in group])
    whole = [tuple(group) for group in groups if all(word in ids for word in group)]
    _require_count(kind, len(whole), len(groups), needed)
    return {group: tuple(ids[word] for word in group) for group in whole}


def _require_count(kind: str, count: int, of: int, needed: int) -> None:
    if count < needed:
        raise ValueError(
            f"the tokenizer has {count} of {of} {kind} as single tokens; {needed} are needed. "
            "Use a model with a larger vocabulary, or prompts of your own (Task.from_prompts)."
        )


def require_even(n: int) -> None:
    """A positive even number of prompts."""
    if n < 2 or n % 2:
        raise ValueError(f"n is {n}, but prompts come in mirrored pairs; use an even number, 2 or more.")


def usable_templates(model: Any, templates: list[str]) -> dict[int, str]:
    """The templates all of whose fixed words the vocabulary has, by number."""
    lacking = [vocabulary.unknown_words(model, re.sub(r"\{\w+\}", "", text)) for text in templates]
    found = {i: text for i, text in enumerate(templates) if not lacking[i]}
    if not found:
        raise ValueError(
            f"the tokenizer has all words of 0 of {len(templates)} templates; the first lacks {lacking[0]}. "
            "Use prompts of your own (Task.from_prompts)."
        )
    return found


def chosen(templates: dict[int, Any], template: int | None) -> dict[int, Any]:
    """All of the usable templates, or the one of this number."""
    if template is None:
        return templates
    if template not in templates:
        have = ", ".join(map(str, sorted(templates)))
        raise ValueError(f"template {template} is not usable with this tokenizer; these are: {have}.")
    return {template: templates[template]}


class Form(NamedTuple):
    """A template and, by slot, the words that fit."""

    text: str
    words: dict[str, list[str]]


def usable_forms(
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
    for number, text in usable_templates(model, templates).items():
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
    return chosen(found, only)


def fitting(model: Any, text: str, slot: str, words: Sequence[str]) -> list[str]:
    """The words that are one token wherever the template has the slot."""
    befores = set(re.findall(rf"( ?)\{{{slot}\}}", text))
    return [
        word
        for word in words
        if all(vocabulary.continuation(model, before + word) is not None for before in befores)
    ]
