"""Simulated results: per-prompt effects with known true means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr


def simulated(
    effect: np.ndarray,
    clean: np.ndarray | float = 3.0,
    corrupt: np.ndarray | float = 1.0,
    dims: tuple[str, ...] = ("prompt", "cell"),
    template: list[str] | None = None,
    **attrs: str,
) -> xr.Dataset:
    """A Dataset with the variables of a result, from effects whose first axis is the prompt."""
    n = effect.shape[0]
    on = ("prompt", "metric") if "metric" in dims else ("prompt",)
    shape = (n, effect.shape[dims.index("metric")]) if "metric" in dims else (n,)
    baselines = {
        name: (on, np.broadcast_to(value, shape).astype(float).copy())
        for name, value in (("clean", clean), ("corrupt", corrupt))
    }
    coords: dict = {dim: np.arange(size) for dim, size in zip(dims, effect.shape)}
    names = ["logit_diff"]
    if "metric" in dims:
        names = [f"metric{i}" for i in range(shape[1])]
        coords["metric"] = names
    if template is not None:
        coords["template"] = ("prompt", np.array(template, dtype=object))
    known = {"direction": "denoise", "metric": ", ".join(names), "unit": "logits", "better": "higher"}
    return xr.Dataset({"value": (dims, effect), **baselines}, coords=coords, attrs={**known, **attrs})


@pytest.fixture
def result() -> Callable[..., xr.Dataset]:
    return simulated
