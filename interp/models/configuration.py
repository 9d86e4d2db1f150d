"""A folder's config.json: which format it is in, and whether its fields make sense."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from pathlib import Path
from typing import Any

REQUIRED = ("n_layers", "d_model", "d_head", "n_ctx", "d_vocab")
DROPPED = ("device", "seed", "init_weights", "init_mode", "dtype", "tokenizer_name", "n_params")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def check_fields(folder: Path, config: dict[str, Any]) -> None:
    """Every field is one of HookedTransformerConfig's, and the sizes are there."""
    path, known = folder / "config.json", _known_fields()
    for name in sorted(set(config) - known):
        near = difflib.get_close_matches(name, known, n=2)
        offer = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"{path}: {name!r} is not a field of HookedTransformerConfig{offer}")
    missing = [name for name in REQUIRED if name not in config]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(map(repr, missing))}; add the model's sizes.")


def clean(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields that describe the model, without those about one machine or about initialisation.

    `seed` in particular would seed torch's, numpy's and Python's global generators.
    """
    kept = {key: value for key, value in config.items() if key not in DROPPED}
    return {"model_name": name} | kept


def written_dtype(folder: Path, config: dict[str, Any]) -> Any:
    """The torch dtype that the config names, else float32."""
    import torch

    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{folder / 'config.json'}: dtype is {name!r}; use 'float32' or another of torch's.")
    return found


def _known_fields() -> set[str]:
    """HookedTransformerConfig's fields; where it is gone, those of the classes that took its place."""
    import transformer_lens.config as classes

    if hasattr(classes, "HookedTransformerConfig"):
        return {field.name for field in dataclasses.fields(classes.HookedTransformerConfig)}
    fields = {field.name for field in dataclasses.fields(classes.TransformerLensConfig)}
    return fields | set(inspect.signature(classes.TransformerBridgeConfig.__init__).parameters)
