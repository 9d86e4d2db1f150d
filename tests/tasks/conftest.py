"""Models for the tests of tasks, one of each kind of tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from word_models import build, build_words, bundled_words

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with all words of the task files, one token each."""
    return build_words(bundled_words(), tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model with a SentencePiece tokenizer of 512 tokens, which puts a space before every text."""
    folder = SHARED / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip(f"the tokenizer of stories260K is not at {folder}")
    return build(AutoTokenizer.from_pretrained(folder), tmp_path_factory.mktemp("stories"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model with GPT-2's tokenizer."""
    folder = SHARED / "gpt2_tokenizer"
    if not folder.is_dir():
        pytest.skip(f"GPT-2's tokenizer is not at {folder}")
    return build(AutoTokenizer.from_pretrained(folder), tmp_path_factory.mktemp("gpt2"))
