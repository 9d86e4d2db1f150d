"""A public verb names the argument that was meant, and a warning points at the caller's line."""

from __future__ import annotations

import inspect
import warnings

import pytest

from interp._verbs import verb, warn


@verb
def measure(model: int, *, metric: int = 1, batch_size: int = 2) -> int:
    """Adds."""
    return model + metric + batch_size


def test_a_wrong_argument_gets_the_nearest_right_one() -> None:
    assert measure(1, metric=2) == 5
    with pytest.raises(
        TypeError, match=r"measure\(\) has no argument 'metrics'; did you mean 'metric'\? It has"
    ):
        measure(1, metrics=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'model'"):
        measure()  # type: ignore[call-arg]


def test_the_signature_and_the_text_stay() -> None:
    assert list(inspect.signature(measure).parameters) == ["model", "metric", "batch_size"]
    assert measure.__doc__ == "Adds."


def test_a_warning_points_at_the_caller() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("look")
    assert caught[0].filename == __file__
