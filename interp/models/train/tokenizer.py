"""The word-level tokenizer: one token per word or punctuation mark, `<bos>` before every text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.tasks.world.grammar import SPECIAL


def save(words: list[str], folder: Path, longest: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, which transformers reads."""
    _backend(words).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
        "padding_side": "right",
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _backend(words: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import WordLevel

    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no space before punctuation
    bos = [("<bos>", ids["<bos>"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=bos
    )
    return tokenizer
