"""A folder's model.safetensors: read whole, and compared with what config.json asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

FILE = "model.safetensors"


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
