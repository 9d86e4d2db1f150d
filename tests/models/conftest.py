"""Folders of small random models, in our own format and in the hub's."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_folders import SIZES, WORDS, random_state, save_llama, save_random, write

from interp.models._folder import write_tokenizer
from training import network


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model of our own format with a tokenizer."""
    shapes = {name: value.shape for name, value in network.hooked_state(network.initial(SIZES, 0)).items()}
    folder = write(tmp_path / "own", network.hooked_config(SIZES, "own"), random_state(shapes))
    write_tokenizer(WORDS, folder, SIZES.n_ctx)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 as transformers saves it, with a tokenizer, in a folder whose name misleads."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("not-a-llama-but-gpt2")
    sizes = {"vocab_size": len(WORDS), "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}
    save_random(GPT2LMHeadModel, GPT2Config(**sizes, bos_token_id=1, eos_token_id=2), folder)
    write_tokenizer(WORDS, folder, 12)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with grouped-query attention as transformers saves it, without tokenizer."""
    return save_llama(tmp_path_factory.mktemp("small"))
