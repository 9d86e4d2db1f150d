"""Arrays as the live page reads them: base64 of few bits a number, with the largest error stated.

| kind | a number is                               | for                                             |
|------|-------------------------------------------|-------------------------------------------------|
| `u1` | offset + scale × byte; byte 255 is NaN    | attention: many numbers, all of one size        |
| `f2` | scale × float16                           | effects by prompt: to a 2,000th of each number  |
| `f4` | float32                                   | means and their intervals                       |

`error` is the largest difference between what is packed and what is read back, measured and not derived.
`by` is "prompt" where the first axis is that of prompts, so that one prompt can be taken out of it.
`lower` says that the last two axes are a lower triangle, row by row: causal attention has no other part.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jaxtyping import Float

KINDS = ("u1", "f2", "f4")
_BYTES = 254  # the highest code of a number
Packed = dict[str, Any]


def pack(values: np.ndarray, kind: str, by: str | None = None, lower: bool = False) -> Packed:
    """An array as JSON. kind: one of the table. by, lower: see above."""
    values = np.asarray(values, dtype=float)
    flat = values[(..., *np.tril_indices(values.shape[-1]))] if lower else values
    codes, scale, offset = _codes(flat, kind)
    read = _values(codes, scale, offset)
    with np.errstate(invalid="ignore"):
        gaps = np.abs(read - flat)
    return {
        "packed": kind,
        "shape": list(values.shape),
        "scale": scale,
        "offset": offset,
        "error": float(np.nanmax(gaps)) if np.isfinite(gaps).any() else 0.0,
        "data": base64.b64encode(codes.tobytes()).decode("ascii"),
        **({"by": by} if by else {}),
        **({"lower": True} if lower else {}),
    }


def unpack(packed: Packed) -> Float[np.ndarray, "..."]:
    """The array that the page reads: what `ask.js` computes, in Python. 0 above a lower triangle."""
    kind, shape = packed["packed"], tuple(packed["shape"])
    raw = np.frombuffer(base64.b64decode(packed["data"]), dtype={"u1": "u1", "f2": "<f2", "f4": "<f4"}[kind])
    values = _values(raw, packed["scale"], packed["offset"])
    if not packed.get("lower"):
        return values.reshape(shape)
    out = np.zeros(shape)
    out[(..., *np.tril_indices(shape[-1]))] = values.reshape(*shape[:-2], -1)
    return out


def at_prompt(answer: Any, prompt: int) -> Any:
    """An answer about all prompts, for one of them: every part that is by prompt, at that prompt."""
    if isinstance(answer, list):
        return [at_prompt(part, prompt) for part in answer]
    if not isinstance(answer, dict):
        return answer
    if answer.get("by") == "prompt":
        return answer["list"][prompt] if "list" in answer else _slice(answer, prompt)
    return {name: at_prompt(part, prompt) for name, part in answer.items()}


def _slice(packed: Packed, prompt: int) -> Packed:
    data = base64.b64decode(packed["data"])
    size = len(data) // packed["shape"][0]
    part = base64.b64encode(data[prompt * size : (prompt + 1) * size]).decode("ascii")
    rest = {name: value for name, value in packed.items() if name != "by"}
    return rest | {"shape": packed["shape"][1:], "data": part}


def _codes(values: np.ndarray, kind: str) -> tuple[np.ndarray, float, float]:
    """The numbers as they are stored, scale and offset."""
    finite = values[np.isfinite(values)]
    if kind == "u1":
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        scale = (high - low) / _BYTES or 1.0
        codes = np.rint((np.where(np.isfinite(values), values, low) - low) / scale).astype("u1")
        codes[~np.isfinite(values)] = 255
        return codes, scale, low
    scale = float(np.abs(finite).max()) if finite.size and np.abs(finite).max() > 0 else 1.0
    return (values / scale).astype("<f2" if kind == "f2" else "<f4"), scale, 0.0


def _values(codes: np.ndarray, scale: float, offset: float) -> np.ndarray:
    read = offset + scale * codes.astype(float)
    return np.where(codes == 255, np.nan, read) if codes.dtype == np.uint8 else read
