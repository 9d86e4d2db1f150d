"""The zarr store: same values, resumes after a kill, refuses what is not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small
import xarray as xr
import zarr
from cases import QUIET, task

import interp
from interp.patching import _units

SITES = ["resid_pre", "attn_out"]
SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import cases, interp, small, interp.stores as store
from interp.patching import _units
_units._FLOPS["cpu"], _units._ROWS = 1, 1
write = store.ArrayStore.write
def slow(self, unit, parts):
    write(self, unit, parts)
    print(unit, flush=True)
    time.sleep(0.2)
store.ArrayStore.write = slow
interp.patch(small.model(), cases.task(), {sites!r}, batch_size=4, store={path!r}, progress=False)
"""


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Many units where there would be one."""
    monkeypatch.setitem(_units._FLOPS, "cpu", 1)
    monkeypatch.setattr(_units, "_ROWS", 1)


def run(model, path=None, **options):
    return interp.patch(model, task(), SITES, store=path, **(options | QUIET))


def test_store_holds_the_result(model, tmp_path):
    plain = run(model)
    stored = run(model, tmp_path / "run.zarr", batch_size=4)
    np.testing.assert_allclose(stored["value"], plain["value"], atol=1e-12)
    assert stored["value"].dims == plain["value"].dims
    assert stored.attrs == plain.attrs
    assert list(stored["token"].values) == list(plain["token"].values) if "token" in plain else True
    opened = xr.open_zarr(tmp_path / "run.zarr", consolidated=False)
    np.testing.assert_array_equal(opened["value"], stored["value"])


def test_several_metrics_and_draws(model, tmp_path):
    metrics = [interp.tasks.LogitDiff(), interp.tasks.KL()]
    options = {"metric": metrics, "ablation": "gaussian"}
    stored = run(model, tmp_path / "run.zarr", batch_size=8, **options)
    plain = run(model, **options)
    for name in ("value", "draw_variance", "clean", "corrupt"):
        np.testing.assert_allclose(stored[name], plain[name], atol=1e-12)
        assert abs(plain[name]).max() > 0


def test_finished_store_is_read_not_run(model, tmp_path, monkeypatch):
    first = run(model, tmp_path / "run.zarr")
    monkeypatch.setattr("interp.patching._units.Prepared", None)
    xr.testing.assert_identical(first, run(model, tmp_path / "run.zarr"))


def test_killed_run_resumes_to_the_same_file(model, tmp_path):
    """SIGKILL in the middle; the same call again finishes, bit for bit as an undisturbed run."""
    path = tmp_path / "killed.zarr"
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    script = SCRIPT.format(paths=paths, sites=SITES, path=str(path))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(_threads())},
    )  # fmt: skip
    written = [child.stdout.readline().strip() for _ in range(3)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert written == ["0", "1", "2"]
    time.sleep(0.1)
    done = np.asarray(zarr.open_group(str(path), mode="r")["_sums"][:])
    assert 3 <= (done != 0).sum() < len(done)
    assert np.isnan(np.asarray(zarr.open_group(str(path), mode="r")["value"][:])).any()
    resumed = run(model, path, batch_size=4)
    whole = run(model, tmp_path / "whole.zarr", batch_size=4)
    xr.testing.assert_identical(resumed, whole)
    assert not np.isnan(resumed["value"]).any()
    assert _files(path) == _files(tmp_path / "whole.zarr")


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_store_of_another_run_is_refused(model, tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    run(model, path)
    before = _files(path)
    for options in ({"direction": "noise"}, {"window": 2}, {"metric": interp.tasks.KL()}):
        with pytest.raises(ValueError, match=r"holds another run .* nothing was changed"):
            run(model, path, **options)
    with pytest.raises(ValueError, match="task_fingerprint"):
        interp.patch(model, task(first=4), SITES, store=path, **QUIET)
    monkeypatch.setattr(_units, "_ROWS", 10**6)
    with pytest.raises(ValueError, match=r"written in .* units"):
        run(model, path)
    assert _files(path) == before


def test_a_folder_of_something_else_is_refused(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not a store of interp\.patch"):
        run(model, tmp_path / "notes")
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_netcdf_round_trip(model, tmp_path):
    result = run(model)
    result.to_netcdf(tmp_path / "r.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "r.nc"), result)
