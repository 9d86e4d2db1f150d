"""The files of a model's folder: config.json, model.safetensors, and the tokenizer's.

Two formats have them: our own (`_own`) and the hub's (`_hub`). Here they are read, and refused when missing,
damaged or of two different models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "model.safetensors"
ADAPTER = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")  # of the tokenizers that we write


_LARGEST = {  # more than any model has: a file that says more would take all memory
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "num_hidden_layers"), 10_000),
    **dict.fromkeys(("n_head", "n_heads", "num_attention_heads", "num_key_value_heads"), 100_000),
    **dict.fromkeys(("n_embd", "d_model", "hidden_size", "d_mlp", "intermediate_size"), 10_000_000),
    **dict.fromkeys(("d_vocab", "vocab_size", "n_ctx", "max_position_embeddings"), 1_000_000_000),
}


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json. ValueError for sizes that no model has."""
    path = folder / "config.json"
    config = read_json(path)
    for name, most in _LARGEST.items():
        size = config.get(name)
        if isinstance(size, float) or (isinstance(size, int) and size > most):
            raise ValueError(f"{path}: {name} is {size}; it must be a whole number of at most {most:,}.")
    if not isinstance(config.get("model_type", ""), str):
        raise ValueError(f"{path}: model_type is {config['model_type']!r}; it must be the name of one.")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The fields of a file, or a ValueError that says what it holds instead."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Copy the model's files again.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not an object with the model's fields.")
    return config


def is_own(folder: Path, config: dict[str, Any]) -> bool:
    """True for our own format, False for the hub's; a ValueError when it is neither."""
    if "model_type" in config or "architectures" in config:
        return False
    if "d_model" in config and "n_layers" in config:
        return True
    raise ValueError(
        f"{folder / 'config.json'} is of no known format: it has neither `model_type` (the hub's) nor "
        f"`d_model` and `n_layers` (HookedTransformerConfig). It has {', '.join(sorted(config)[:8])}."
    )


def written_dtype(folder: Path, config: dict[str, Any]) -> Any:
    """The torch dtype that the config names, else float32."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{folder / 'config.json'}: dtype is {name!r}; use 'float32' or another of torch's.")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the file; a ValueError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has config.json but no {FILE}. Save the state dict there with safetensors."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(damaged(path, error)) from None


def require_whole_model(folder: Path, config: Mapping[str, Any] | None = None) -> None:
    """ValueError for a folder that does not hold plain weights of a whole model: adapter, pickle, quantised.

    transformers would read the base model without the adapter where peft is not installed.
    """
    if (folder / ADAPTER).is_file():
        base = read_json(folder / ADAPTER).get("base_model_name_or_path") or "a base model"
        raise ValueError(
            f"{folder} holds an adapter ({ADAPTER}) of {base}. Merge it into that model (merge_and_unload of "
            "peft), save the whole with save_pretrained, and load the new folder."
        )
    quantised = (config or {}).get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else quantised
        raise ValueError(
            f"{folder} holds quantised weights ({method}), which no method here can read. Load the model "
            "that was quantised, or save it again after its dequantize()."
        )
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} has its weights in {pickled[0]}, a pickle, which can run any code when it is read. If "
            "you trust it, read it with transformers and write it again with save_pretrained."
        )


def damaged(path: Path, error: Exception) -> str:
    """What to say of a file that cannot be read."""
    return (
        f"{path} ({path.stat().st_size} bytes) is truncated or damaged: {error}. "
        "Copy or download the file again and compare its size."
    )


def check_weights(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    """The file has every tensor that the config asks for, in its shape, and no other."""
    _require_all(path, found, wanted)
    wrong = [name for name, shape in wanted.items() if found[name].shape != shape]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{path}: {name!r} has shape {tuple(found[name].shape)}, config.json asks for "
            f"{tuple(wanted[name])}{_more(wrong)}. The two files belong to different models."
        )


def _require_all(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    counts = f"The file has {len(found)} tensors, config.json asks for {len(wanted)}."
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{path} lacks {missing[0]!r}{_more(missing)}. {counts} Save the whole state dict again."
        )
    extra = [name for name in found if name not in wanted]
    if extra:
        raise ValueError(
            f"{path} has {extra[0]!r}{_more(extra)}, for which config.json has no place. {counts} "
            "Correct config.json, or save only the model's own state dict."
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer, or None when there is none: such a model reads token ids only."""
    from transformers import AutoTokenizer

    for place in (folder, folder / "hf"):
        if not any((place / name).is_file() for name in TOKENIZER_FILES):
            continue
        try:
            return AutoTokenizer.from_pretrained(str(place.resolve()), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the tokenizer files in {place} cannot be read: {error} "
                "Save them again with the tokenizer's save_pretrained, or remove them to use token ids."
            ) from error
    return None


def write_tokenizer(words: list[str], folder: Path, longest: int) -> None:
    """Write a tokenizer of one token a word or mark, `<bos>` before every text, as transformers reads it."""
    _word_level(words).save(str(folder / "tokenizer.json"))
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


def _word_level(words: list[str]) -> Any:
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
