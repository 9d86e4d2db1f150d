"""Control vectors for llama.cpp, in GGUF version 3.

llama.cpp adds the tensor `direction.N` (float32, [d_model]) to the stream after layer N, for N of 1 and more.
That is resid_post of layer N, and resid_pre of layer N + 1.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from interp.files import whole
from interp.places import Place
from interp.steering._direction import Direction

_ALIGNMENT = 32
_UINT32, _STRING, _FLOAT32 = 4, 8, 0


def write(direction: Direction, path: Path) -> Path:
    """Write the file. ValueError for a place that llama.cpp cannot steer."""
    if direction.layout != "vector":
        raise ValueError(f"a control vector has one vector a layer; this direction has {direction.layout!r}.")
    vectors = {_layer(where): vector for where, vector in direction.vectors.items()}
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


def read(path: Path) -> dict[int, np.ndarray]:
    """The vectors of a control-vector file of `write`, by llama.cpp's layer."""
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
