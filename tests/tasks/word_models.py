"""Small random models with a tokenizer: a HookedTransformer where there is one, else a TransformerBridge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.tasks import wordlists

SPECIAL = ("<pad>", "<bos>", "<unk>")


def word_tokenizer(words: list[str], folder: Path) -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark; read from files, as TransformerLens asks for."""
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    pad, bos, unk = SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, bos_token=bos, unk_token=unk)
    made.save_pretrained(folder / "tokenizer")
    return PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")


def build_words(words: list[str], folder: Path) -> Any:
    """A model that reads these words, one token each."""
    return build(word_tokenizer(words, folder), folder)


def bundled_words() -> list[str]:
    """Every word of the task files of the families, and the numbers 00 to 99."""
    files = ("ioi", "greater_than", "coloured_objects", "agreement", "docstring", "capitals")
    texts = [text for name in files for text in _strings(wordlists.load(name))]
    splitter = Whitespace()
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(re.sub(r"\{\w+\}", " ", text))]
    return [*words, *(f"{number:02d}" for number in range(100))]


def _strings(content: Any) -> Iterator[str]:
    """All strings in the lists and fields, but for the explanations."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        content = [value for key, value in content.items() if key not in ("about", "slots", "forms")]
    if isinstance(content, list):
        for value in content:
            yield from _strings(value)


def build(tokenizer: Any, folder: Path, vocabulary: int | None = None) -> Any:
    """A one-layer random model that reads with this tokenizer."""
    vocabulary = len(tokenizer) if vocabulary is None else vocabulary
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError:
        return _bridge(tokenizer, folder, vocabulary)
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=16,
        n_heads=2,
        d_head=8,
        d_mlp=32,
        n_ctx=48,
        act_fn="gelu",
        d_vocab=vocabulary,
        seed=0,
    )
    return HookedTransformer(config, tokenizer=tokenizer).eval()


def _bridge(tokenizer: Any, folder: Path, vocabulary: int) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_positions=48, n_embd=16, n_layer=1, n_head=2)
    config.architectures = ["GPT2LMHeadModel"]
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer)
    bridge.enable_compatibility_mode()
    return bridge.eval()
