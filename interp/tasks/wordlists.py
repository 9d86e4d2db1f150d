"""The bundled templates and words (data/tasks/*.json), and which words a model has as single tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

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
