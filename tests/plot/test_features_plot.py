"""The feature heatmap draws the numbers of the result, the error last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import sae

PAGE = Path(__file__).resolve().parents[2] / "docs" / "features.md"


@pytest.fixture(scope="module")
def result() -> Any:
    model = interp.load("tiny-ioi")
    g = torch.Generator().manual_seed(0)
    W = torch.randn(64, 96, generator=g) / 8
    d = sae.Dictionary(W, torch.zeros(96), W.T, torch.zeros(64), place="L1.resid_pre")
    return interp.attribute(model, interp.tasks.ioi(model, n=6, seed=0), features=d, progress=False)


def test_rows_are_the_largest_features_and_the_error(result: Any) -> None:
    fig = interp.plot.features(result, top=7)
    size = abs(result["value"]).mean("prompt")
    order = [i for i in np.argsort(-size.values, kind="stable") if result["index"].values[i] >= 0][:7]
    np.testing.assert_array_equal(fig.data[0].z, result["value"].values.T[[*order, -1]])
    assert fig.layout.yaxis.ticktext[-1] == "L1.resid_pre.error"
    assert fig.layout.coloraxis.cmid == 0


def test_other_dims_are_refused(result: Any) -> None:
    with pytest.raises(ValueError, match="this draws prompt and feature"):
        interp.plot.features(result.expand_dims(pos=2))
    with pytest.raises(ValueError, match="top is 0"):
        interp.plot.features(result, top=0)


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for body in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        exec(compile(body, "features.md", "exec"), namespace)
    assert (tmp_path / "features.html").exists()
