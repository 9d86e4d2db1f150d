"""Scores of edges that are written as they come: the same numbers, no array of all prompts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import xarray as xr
from cases import QUIET, task

from interp import stores
from interp.circuits import score_edges, top
from interp.circuits._score import estimates, sheet

OPTIONS = [
    {"positions": True},
    {"metric": ["logit_diff", "log_prob"]},
    {"method": "exact"},
]


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.mark.parametrize("options", OPTIONS, ids=["positions", "two metrics", "exact"])
def test_a_store_holds_the_result(model: Any, options: dict[str, Any], tmp_path: Path) -> None:
    call = partial(score_edges, model, task(n=3), **options, **QUIET)
    whole, kept = call(), call(store=tmp_path / "edges.zarr")
    assert not kept["value"].variable._in_memory  # read when it is asked for
    xr.testing.assert_identical(kept.load(), whole)
    assert float(abs(whole["value"]).max()) > 1e-3
    assert stores.status(tmp_path / "edges.zarr").finished


def test_no_array_of_all_prompts_is_made(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver holds of the effects is one number, and what it takes in at once one block."""
    taken: list[tuple[int, ...]] = []
    take = sheet.Sheet.take

    def seen(self: sheet.Sheet, block: slice, effects: np.ndarray, ends: np.ndarray) -> None:
        assert not any(self.effects.strides)
        taken.append(effects.shape)
        take(self, block, effects, ends)

    monkeypatch.setattr(sheet.Sheet, "take", seen)
    found = score_edges(
        model, task(n=5), positions=True, batch_size=2, store=tmp_path / "edges.zarr", **QUIET
    )
    assert [shape[0] for shape in taken] == [2, 2, 1]
    assert top(found.mean("pos", keep_attrs=True), 10).n_edges == 10


def test_a_kill_costs_a_block(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = partial(score_edges, model, task(n=6), batch_size=2, **QUIET)
    path, blocks, block = tmp_path / "edges.zarr", [], estimates.Scoring._block

    def counted(self: Any, prompts: slice, *rest: Any) -> Any:
        if len(blocks) == 2:
            blocks.clear()
            raise KeyboardInterrupt
        blocks.append(prompts)
        return block(self, prompts, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(estimates.Scoring, "_block", counted)
        with pytest.raises(KeyboardInterrupt):
            call(store=path)
        assert stores.status(path).done == 4
        again = call(store=path)
        assert blocks == [slice(4, 6)]
    xr.testing.assert_identical(again.load(), call())


def test_what_a_store_cannot_hold_is_refused(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "edges.zarr"
    score_edges(model, task(n=2), store=path, **QUIET)
    with pytest.raises(ValueError, match="holds another run"):
        score_edges(model, task(n=2), method="eap-ig", store=path, **QUIET)
    with pytest.raises(ValueError, match="by_prompt=False none"):
        score_edges(model, task(n=2), by_prompt=False, store=path, **QUIET)
    with pytest.raises(ValueError, match="they are for method='exact'"):
        score_edges(model, task(n=2), workers=2, **QUIET)
