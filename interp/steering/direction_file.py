"""Files of directions: safetensors, with everything but the vectors as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from interp.files import whole
from interp.patching.result import versions
from interp.places import parse
from interp.steering.direction import Direction

FORMAT = "interp-direction-1"
_SHUFFLED = "shuffled/"
_PLAIN = ("layout", "model", "method", "positions", "data", "seed")


def save(direction: Direction, path: Path) -> Path:
    """Write the file whole; an existing one is replaced."""
    from safetensors.torch import save_file

    tensors = {str(where): vector.contiguous().cpu() for where, vector in direction.vectors.items()}
    tensors |= {_SHUFFLED + str(where): v.contiguous().cpu() for where, v in direction.shuffled.items()}
    header: dict[str, Any] = {name: getattr(direction, name) for name in _PLAIN}
    header["norms"] = {str(where): norm for where, norm in direction.norms.items()}
    header["means"] = {str(where): list(means) for where, means in direction.means.items()}
    header["versions"] = versions()
    with whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "direction": json.dumps(header)})
    return path


def load(path: Path) -> Direction:
    """Read a file of `save`. ValueError for a file that is missing, damaged, or something else."""
    return _direction(*contents(path, FORMAT, "direction", "Direction.save"))


def contents(path: Path, form: str, key: str, writer: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a file of the format and what its header holds at the key."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}.") from None
    if found.get("format") != form:
        raise ValueError(f"{path} has format {found.get('format')!r}, expected {form!r}. Use {writer}.")
    return tensors, json.loads(found[key])


def _direction(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> Direction:
    plain = {parse(name): vector for name, vector in tensors.items() if not name.startswith(_SHUFFLED)}
    places = sorted(plain, key=lambda where: (where.layer or 0, str(where)))
    return Direction(
        vectors={where: plain[where] for where in places},
        shuffled={parse(n.removeprefix(_SHUFFLED)): v for n, v in tensors.items() if n.startswith(_SHUFFLED)},
        norms={parse(name): float(norm) for name, norm in header["norms"].items()},
        means={parse(name): (float(up), float(down)) for name, (up, down) in header["means"].items()},
        **{name: header[name] for name in _PLAIN},
    )
