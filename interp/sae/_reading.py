"""Files of others, read without trust: nothing is unpickled, no file takes more memory than it has bytes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TEXT = 10_000_000  # bytes of a config at most


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a file that is missing, too large, or something else."""
    parsed = _parsed(path, json.loads)
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, by the safe loader."""
    import yaml

    parsed = _parsed(path, yaml.safe_load, yaml.YAMLError)
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} holds no mapping.")
    return parsed


def _parsed(path: Path, parse: Any, *also: type[Exception]) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    if path.stat().st_size > _TEXT:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a config has at most {_TEXT}.")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, *also) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}.") from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as they are."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}.") from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """All arrays of an npz file of numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            promised = sum(entry.file_size for entry in archive.infolist())
            if promised > 100 * path.stat().st_size + _TEXT:
                raise ValueError(f"it promises {promised} bytes out of {path.stat().st_size}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not an npz file of numbers, or is damaged: {error}.") from None
