"""Files of directions: safetensors, with all but the vectors as JSON in the header; and GGUF, version 3.

llama.cpp reads control vectors from GGUF: it adds the tensor `direction.N` (float32, [d_model]) to the stream
after layer N, for N of 1 and more. That is resid_post of layer N, and resid_pre of layer N + 1.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from interp._arguments import checked, number
from interp._kinds import kinds_of
from interp.files import read_tensors, whole, write_tensors
from interp.places import Place, parse
from interp.results import versions
from interp.steering._direction import Direction

_FORMAT = "interp-direction-1"
_SHUFFLED = "shuffled/"
_PLAIN = ("layout", "model", "method", "positions", "data", "seed")


def save(direction: Direction, path: Path) -> Path:
    """Write the file whole; an existing one is replaced."""
    tensors = {str(where): vector for where, vector in direction.vectors.items()}
    tensors |= {_SHUFFLED + str(where): vector for where, vector in direction.shuffled.items()}
    header: dict[str, Any] = {name: getattr(direction, name) for name in _PLAIN}
    header["norms"] = {str(where): norm for where, norm in direction.norms.items()}
    header["means"] = {str(where): list(means) for where, means in direction.means.items()}
    header |= {"weights": list(direction.weights), "versions": versions()}
    return write_tensors(path, tensors, form=_FORMAT, key="direction", header=header)


def load(path: Path) -> Direction:
    """Read a file of `save`. ValueError for a file that is missing, damaged, or something else."""
    form = {"form": _FORMAT, "key": "direction", "writer": "Direction.save"}
    return _from_file(*read_tensors(path, **form, fields=(*_PLAIN, "norms", "means")), path)


def _from_file(tensors: dict[str, Tensor], header: dict[str, Any], path: Path) -> Direction:
    try:
        plain = {parse(name): vector for name, vector in tensors.items() if not name.startswith(_SHUFFLED)}
        drawn = {name.removeprefix(_SHUFFLED): v for name, v in tensors.items() if name.startswith(_SHUFFLED)}
        weights = tuple(float(number("weights", value)) for value in header.get("weights", ()))
        places = sorted(plain, key=lambda where: (where.layer or 0, str(where)))
        found = Direction(
            vectors={where: plain[where] for where in places},
            shuffled={parse(name): vector for name, vector in drawn.items()},
            norms={parse(name): number(f"norm at {name}", norm) for name, norm in header["norms"].items()},
            means={
                parse(name): (number("means", up), number("means", down))
                for name, (up, down) in header["means"].items()
            },
            weights=weights,
            **{name: _plain(name, header[name]) for name in _PLAIN},
        )
        return found.require_any()
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no direction: {error} Write it with Direction.save.") from None


def _plain(name: str, value: Any) -> Any:
    kind = {"model": "str | None", "seed": "int | None"}.get(name, "str")
    return checked(name, value, kinds_of(kind) or ())


_ALIGNMENT = 32
_UINT32, _STRING, _FLOAT32 = 4, 8, 0


def write_gguf(direction: Direction, path: Path) -> Path:
    """Write the file. ValueError for a place that llama.cpp cannot steer."""
    if direction.layout != "vector":
        raise ValueError(f"a control vector has one vector a layer; this direction has {direction.layout!r}.")
    vectors = {_layer(where): vector for where, vector in direction.require_any().vectors.items()}
    data = {layer: vectors[layer].float().cpu().numpy().astype("<f4") for layer in sorted(vectors)}
    facts = [
        _string("general.architecture") + struct.pack("<I", _STRING) + _string("controlvector"),
        _string("controlvector.model_hint") + struct.pack("<I", _STRING) + _string(direction.model or ""),
        _string("controlvector.layer_count") + struct.pack("<II", _UINT32, len(data)),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(data), len(facts)) + b"".join(facts)
    body, offset = b"", 0
    for layer, vector in data.items():
        head += _string(f"direction.{layer}") + struct.pack("<IQIQ", 1, len(vector), _FLOAT32, offset)
        body += _padded(vector.tobytes())
        offset = len(body)
    with whole(path) as unfinished:
        unfinished.write_bytes(_padded(head) + body)
    return path


def read_gguf(path: Path) -> dict[int, np.ndarray]:
    """The vectors of a control-vector file of `write_gguf`, by llama.cpp's layer."""
    raw = path.read_bytes()
    if raw[:4] != b"GGUF" or struct.unpack_from("<I", raw, 4)[0] != 3:
        raise ValueError(f"{path} is not a GGUF file of version 3.")
    n_tensors, n_facts = struct.unpack_from("<QQ", raw, 8)
    at = 24
    for _ in range(n_facts):
        at = _skip_string(raw, at)
        (kind,) = struct.unpack_from("<I", raw, at)
        at = _skip_string(raw, at + 4) if kind == _STRING else at + 8
    found = []
    for _ in range(n_tensors):
        end = _skip_string(raw, at)
        _, size, _, offset = struct.unpack_from("<IQIQ", raw, end)
        found.append((int(raw[at + 8 : end].decode().split(".")[1]), size, offset))
        at = end + 24
    start = at + -at % _ALIGNMENT
    return {layer: np.frombuffer(raw, "<f4", size, start + offset) for layer, size, offset in found}


def _layer(where: Place) -> int:
    layer = {"resid_post": 0, "resid_pre": -1}.get(where.site)
    found = -1 if layer is None or where.layer is None else where.layer + layer
    if found < 1:
        raise ValueError(
            f"llama.cpp adds control vectors after a layer, from layer 1 on; not at {str(where)!r}. "
            "Use resid_post from layer 1, or resid_pre from layer 2."
        )
    return found


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _skip_string(raw: bytes, at: int) -> int:
    return at + 8 + struct.unpack_from("<Q", raw, at)[0]


def _padded(raw: bytes) -> bytes:
    return raw + b"\0" * (-len(raw) % _ALIGNMENT)
