"""What is packed is read back within the error that is stated."""

from __future__ import annotations

import numpy as np
import pytest

from interp.live._arrays import KINDS, at_prompt, pack, unpack

SIZES = {"u1": 1 / 254, "f2": 2**-10, "f4": 2**-23}  # of the range, at most


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 3, (4, 5, 6))
    holes = np.where(rng.random((4, 5, 6)) < 0.2, np.nan, drawn)
    huge, small = drawn * 1e30, drawn * 1e-30
    return {"drawn": drawn, "with NaN": holes, "huge": huge, "small": small, "zeros": np.zeros((2, 3))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", arrays())
def test_the_error_is_that_which_is_stated(kind: str, name: str) -> None:
    values = arrays()[name]
    packed = pack(values, kind)
    read = unpack(packed)
    assert read.shape == values.shape
    np.testing.assert_array_equal(np.isnan(read), np.isnan(values))
    assert np.nanmax(np.abs(read - values)) == packed["error"]
    assert packed["error"] <= SIZES[kind] * (np.nanmax(values) - np.nanmin(values))


def test_a_lower_triangle_is_kept_and_nothing_else() -> None:
    values = np.tril(np.random.default_rng(0).random((3, 4, 7, 7)))
    packed = pack(values, "u1", by="prompt", lower=True)
    read = unpack(packed)
    assert np.abs(read - values).max() == packed["error"] < 1 / 254
    assert np.triu(read, 1).max() == 0
    assert len(packed["data"]) < len(pack(values, "u1")["data"]) * 0.6


def test_one_prompt_of_an_answer() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3, 4))
    square = np.tril(np.random.default_rng(1).random((5, 6, 6)))
    answer = {
        "deep": [{"value": pack(values, "f2", by="prompt")}],
        "mean": pack(values.mean(0), "f4"),
        "words": {"by": "prompt", "list": list("abcde")},
        "matrix": pack(square, "u1", by="prompt", lower=True),
    }
    one = at_prompt(answer, 3)
    np.testing.assert_array_equal(unpack(one["deep"][0]["value"]), unpack(answer["deep"][0]["value"])[3])
    np.testing.assert_array_equal(unpack(one["matrix"]), unpack(answer["matrix"])[3])
    assert one["mean"] == answer["mean"]
    assert one["words"] == "d"
