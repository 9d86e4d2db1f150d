"""The tokenizer of a model's folder: in the folder itself, or in its `hf/` when it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer, or None when there is none: such a model reads token ids only."""
    from transformers import AutoTokenizer

    for place in (folder, folder / "hf"):
        if not any((place / name).is_file() for name in FILES):
            continue
        try:
            return AutoTokenizer.from_pretrained(str(place.resolve()), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the tokenizer files in {place} cannot be read: {error} "
                "Save them again with the tokenizer's save_pretrained, or remove them to use token ids."
            ) from error
    return None
