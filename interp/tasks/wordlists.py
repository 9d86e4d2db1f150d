"""The bundled templates and words (data/tasks/*.json), and which words a model has as single tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from interp.models.files import data_dir
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
    if len(found) < needed:
        raise ValueError(
            f"the tokenizer has {len(found)} of {len(words)} {kind} as single tokens; {needed} are needed. "
            "Use a model with a larger vocabulary, or prompts of your own (Task.from_prompts)."
        )
    return found


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
