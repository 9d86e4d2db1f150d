"""Units in other processes: the bits of one process, whoever is killed; a sentence where they cannot go."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
import small
import torch
import xarray as xr
from dask_cluster import Cluster, environment
from patching.cases import task as random_task

import interp
from interp import _locks, sae, stores, workers
from interp.cli import main
from interp.patching import _units

QUIET: dict[str, Any] = {"progress": False}
UNITS = 32
DRIVER = """
import sys, time
sys.path[:0] = {paths!r}
import interp
from interp import stores
from interp.patching import _units
_units._FLOPS["cpu"], _units._ROWS = 1, 1
write = stores.ArrayStore.write
def slow(self, unit, parts):
    write(self, unit, parts)
    print(unit, flush=True)
    time.sleep(0.2)
stores.ArrayStore.write = slow
model = interp.load("tiny-ioi")
task = interp.tasks.ioi(model, n=16, seed=0)
interp.patch(model, task, "z", store={path!r}, executor={address!r}, progress=False)
"""


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """A prompt and a layer to a unit, the last two together: many units where there would be one."""
    monkeypatch.setitem(_units._FLOPS, "cpu", 1)
    monkeypatch.setattr(_units, "_ROWS", 1)


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model):
    return interp.tasks.ioi(model, n=16, seed=0)


def patch(model, task, **options):
    return interp.patch(model, task, "z", **(options | QUIET))


@pytest.fixture
def alone(model, task):
    """The result of one process."""
    result = patch(model, task)
    assert abs(result["value"]).max() > 1
    return result


class At:
    """Does something once, after so many units are written."""

    def __init__(self, monkeypatch, n: int, act) -> None:
        write, self.units = stores.ArrayStore.write, []

        def written(store, unit, parts):
            write(store, unit, parts)
            self.units.append(unit)
            if len(self.units) == n:
                act()

        monkeypatch.setattr(stores.ArrayStore, "write", written)


# --- units --------------------------------------------------------------------------------------------------


def test_units_depend_on_neither_memory_nor_batches(model, task, monkeypatch):
    counts = []
    units_of = _units.units_of
    monkeypatch.setattr(
        "interp.patching._sweep.units_of", lambda *args: counts.append(units_of(*args)) or counts[-1]
    )
    whole, little = patch(model, task), patch(model, task, memory=2**18, batch_size=3)
    assert counts[0] == counts[1]
    assert len(counts[0]) == UNITS
    xr.testing.assert_allclose(whole, little, atol=1e-4)


@pytest.mark.parametrize("flops", [1, 1e6, 1e7, 1e12])
def test_units_cover_each_run_once(model, task, monkeypatch, flops):
    monkeypatch.setitem(_units._FLOPS, "cpu", flops)
    seen = []
    units_of = _units.units_of
    monkeypatch.setattr("interp.patching._sweep.units_of", lambda *args: seen.extend(units_of(*args)) or seen)
    interp.patch(model, task, ["resid_pre", "mlp_out"], **QUIET)
    runs = [
        (prompt, unit.site, cell)
        for unit in seen
        for prompt in range(unit.prompts.start, unit.prompts.stop)
        for cell in range(unit.cells.start, unit.cells.stop)
    ]
    assert len(runs) == len(set(runs)) == 16 * 2 * 3 * task.clean.shape[1]


# --- any executor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ablation": "gaussian", "metric": ["kl", "logit_diff"]},
        {"ablation": "mean", "direction": "noise"},
    ],
    ids=["resample", "gaussian", "mean"],
)
def test_an_executor_gives_the_bits_of_one_process(model, task, options):
    with ThreadPoolExecutor(2) as pool:
        shared = patch(model, task, executor=pool, **options)
    xr.testing.assert_identical(shared, patch(model, task, **options))


def test_two_models_and_the_reference_engine(model, task, tmp_path):
    other = interp.load("tiny-ioi")
    other.W_U.data *= 1.5
    interp.models.save(other, tmp_path / "tuned")
    tuned = interp.load(tmp_path / "tuned")
    options = {"source": tuned, "engine": "reference"}
    with ThreadPoolExecutor(1) as pool:
        shared = patch(model, task[:2], executor=pool, **options)
    xr.testing.assert_identical(shared, patch(model, task[:2], **options))


class Bare:
    """The least that an executor can be: `submit`, and futures with `done` and `result`."""

    def submit(self, function, *args):
        outcome = function(*args)
        return type("Bare", (), {"done": lambda self: True, "result": lambda self: outcome})()


def test_submit_is_all_that_is_needed(model, task, alone):
    xr.testing.assert_identical(patch(model, task, executor=Bare()), alone)


class Dying:
    """Every unit kills its worker."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, function, *args):
        self.submitted += 1
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
        return future


def test_workers_that_die_at_once_are_given_up(model, task, tmp_path):
    pool = Dying()
    with pytest.raises(workers.WorkersLost, match=r"Dying\) lost its workers .* 0 of 32 units"):
        patch(model, task, executor=pool, store=tmp_path / "run.zarr")
    assert pool.submitted <= 3 * UNITS
    assert stores.status(tmp_path / "run.zarr").done == 0


# --- other verbs --------------------------------------------------------------------------------------------


def verbs(model, task, **options):
    """A result of every verb that can share its work."""
    circuits, few = interp.circuits, task[:4]
    direction = interp.steering.mean_difference(model, task.clean[:8], task.clean[8:], layer=1)
    options |= QUIET
    return {
        "exact": circuits.exact(model, few, metric=["kl", "logit_diff"], **options),
        "score_edges": circuits.score_edges(model, few[:1], method="exact", **options),
        "random_baseline": circuits.random_baseline(model, few, [10, 40], draws=10, **options),
        "sweep": interp.steering.sweep(model, direction, few, [0.0, 1.0, 2.0], **options),
    }


def test_other_verbs_give_the_bits_of_one_process(model, task):
    alone = verbs(model, task)
    for name, shared in verbs(model, task, executor=Bare()).items():
        xr.testing.assert_identical(shared, alone[name])
        assert abs(shared["value"]).max() > 0.1


def test_stores_of_other_verbs_hold_the_bits_of_one_process(model, task, tmp_path):
    """Whole, and read back by a call that measures nothing."""
    circuits, few = interp.circuits, task[:4]
    direction = interp.steering.mean_difference(model, task.clean[:8], task.clean[8:], layer=1)
    calls = {
        "random_baseline": lambda **o: circuits.random_baseline(model, few, [10, 40], draws=10, **o, **QUIET),
        "sweep": lambda **o: interp.steering.sweep(model, direction, few, [0.0, 1.0, 2.0], **o, **QUIET),
    }
    for name, call in calls.items():
        path, alone = tmp_path / f"{name}.zarr", call()
        with pytest.raises(workers.WorkersLost):
            call(store=path, executor=Dying())
        assert stores.status(path).done == 0
        xr.testing.assert_identical(call(store=path, executor=Bare()), alone)
        assert stores.status(path).finished
        xr.testing.assert_identical(call(store=path, executor=Dying()), alone)  # nothing is handed out
    with pytest.raises(ValueError, match="holds another run"):
        circuits.random_baseline(
            model, few, [10, 40], draws=10, seed=1, store=tmp_path / "random_baseline.zarr", **QUIET
        )
    with pytest.raises(ValueError, match="top level of a module"):
        interp.steering.sweep(
            model,
            direction,
            few,
            [1.0],
            intervene=lambda d, c: interp.steering.add(d, c),
            store=tmp_path / "x.zarr",
            **QUIET,
        )


def test_thresholds_by_workers_decide_as_one_process(model, task, tmp_path):
    few, thresholds = task[:4], [0.3, 0.1]
    sweep = interp.circuits.acdc_sweep
    alone = sweep(model, few, thresholds, **QUIET)
    shared = sweep(model, few, thresholds, executor=Bare(), store=tmp_path / "runs", **QUIET)
    resumed = sweep(model, few, thresholds, store=tmp_path / "runs", **QUIET)
    assert 0 < alone[0].n_edges < alone[1].n_edges
    for one, other, again in zip(alone, shared, resumed):
        assert bool((one.mask == other.mask).all())
        assert bool((again.mask == other.mask).all())
        assert again.provenance["rows"] == other.provenance["rows"]  # read back, not searched


# --- features of a dictionary -------------------------------------------------------------------------------


def dictionary(seed: int = 0) -> sae.Dictionary:
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    return sae.Dictionary(r(64, 12) / 8, 0.1 * r(12), r(12, 64) / 8, 0.1 * r(64), place="L1.resid_pre")


def features(model, task, d, **options):
    return interp.patch(model, task[:4], features=d, **(options | QUIET))


FEATURES: dict[str, dict[str, Any]] = {
    "positions": {"by": ("pos", "feature"), "metric": ["kl", "logit_diff"]},
    "mean": {"ablation": "mean", "direction": "noise"},
    "cells": {"cells": [["L1.resid_pre.F3", "L1.resid_pre.error@5"], "L1.resid_pre.F1"]},
    "reference": {"engine": "reference", "ablation": "gaussian"},
}


@pytest.mark.parametrize("options", FEATURES.values(), ids=list(FEATURES))
def test_features_by_an_executor_have_the_bits_of_one_process(model, task, options):
    d = dictionary()
    alone = features(model, task, d, **options)
    assert abs(alone["value"]).max() > 0.01
    xr.testing.assert_identical(features(model, task, d, executor=Bare(), **options), alone)


def test_another_dictionary_at_the_path_is_refused(model, task, tmp_path):
    d = sae.load(dictionary().save(tmp_path / "d"))
    alone = features(model, task, d)
    dictionary(seed=1).save(tmp_path / "d")
    with pytest.raises(ValueError, match=r"gives a worker another dictionary: .* features=dictionary\.but"):
        features(model, task, d, executor=Bare())
    xr.testing.assert_identical(features(model, task, d.but(), executor=Bare()), alone)
    shutil.rmtree(tmp_path / "d")
    with pytest.raises(ValueError, match="a worker cannot load the dictionary: there is no file or folder"):
        features(model, task, d, executor=Bare())


# --- what cannot be sent ------------------------------------------------------------------------------------


def no_pass(*args, **kwargs):
    raise AssertionError("a unit was handed out")


@pytest.fixture
def pool():
    return type("Pool", (), {"submit": staticmethod(no_pass)})()


def test_a_worker_of_another_release_is_refused(model, task, monkeypatch):
    theirs = workers.versions() | {"transformer-lens": "4.9.9"}
    monkeypatch.setattr(workers, "versions", lambda: theirs)
    with pytest.raises(ValueError, match=r"a worker on .* has transformer-lens .*, the driver 4\.9\.9"):
        patch(model, task, executor=Bare())


def test_a_model_changed_after_loading_is_refused(task):
    model = interp.load("tiny-ioi")
    model.blocks[1].mlp.b_in.data[3] += 1e-3
    with pytest.raises(ValueError, match=r"gives a worker another model: its fingerprint is .* Save it with"):
        patch(model, task, executor=Bare())


def test_another_dtype_is_refused(task):
    model = interp.load("tiny-ioi").double()
    with pytest.raises(ValueError, match=r"its (dtype is float32 and the driver's float64|fingerprint)"):
        patch(model, task, executor=Bare())


def test_a_model_made_by_hand_is_refused(pool):
    with pytest.raises(ValueError, match=r"made or changed by hand\. Save it with interp\.models\.save"):
        patch(small.model(), random_task(), executor=pool)


def test_a_model_with_hooks_is_refused(task, pool):
    model = interp.load("tiny-ioi")
    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: 2 * x)]),
        pytest.raises(ValueError, match="the model has hooks of yours"),
    ):
        patch(model, task, executor=pool)


def test_a_metric_that_does_not_pickle_is_named(model, task, pool):
    mine = interp.tasks.Custom(lambda reading: reading.logits[:, 0], name="mine")
    with pytest.raises(ValueError, match=r"metric 'mine' cannot be sent to workers .* top level of a module"):
        patch(model, task, metric=["kl", mine], executor=pool)


def test_what_is_no_executor_is_refused(model, task, pool):
    with pytest.raises(ValueError, match="executor is a int, which has no submit"):
        patch(model, task, executor=3)
    with pytest.raises(ValueError, match="Give one of them"):
        patch(model, task, executor=pool, workers=2)
    with pytest.raises(ValueError, match="workers is 0"):
        patch(model, task, workers=0)


def test_a_scheduler_that_is_not_there(model, task, monkeypatch, capsys, tmp_path):
    pytest.importorskip("distributed")
    assert workers.CONNECT < 10
    monkeypatch.setattr(workers, "CONNECT", 1)
    with pytest.raises(ValueError, match=r"there is no Dask scheduler at 'tcp://127\.0\.0\.1:9'"):
        patch(model, task, executor="tcp://127.0.0.1:9")
    line = "patch tiny-ioi --task ioi --site z --n 2 --quiet --scheduler tcp://127.0.0.1:9"
    assert main([*line.split(), "--out", str(tmp_path)]) == 2
    assert "there is no Dask scheduler" in capsys.readouterr().err


# --- locks and status ---------------------------------------------------------------------------------------


def test_a_driver_on_another_machine_is_believed_while_it_gives_signs(tmp_path):
    path, lock = tmp_path / "run.zarr", tmp_path / ".run.zarr.lock"
    lock.write_text("process 7 on elsewhere")
    with pytest.raises(ValueError, match="written by process 7 on elsewhere, which was there 0 s ago"):
        _locks.locked(path).__enter__()
    assert lock.read_text() == "process 7 on elsewhere"
    os.utime(lock, (time.time() - 100,) * 2)
    with _locks.locked(path):
        assert lock.read_text().startswith(f"process {os.getpid()} on ")


def test_status_says_how_far_it_is(model, task, tmp_path, capsys):
    path = tmp_path / "run.zarr"
    with pytest.raises(workers.WorkersLost):
        patch(model, task, executor=Dying(), store=path)
    status = stores.status(path)
    assert (status.done, status.total, status.holder, status.finished) == (0, UNITS, "", False)
    with _locks.locked(path):
        assert stores.status(path).holder.startswith(f"process {os.getpid()} on ")
    patch(model, task, store=path)
    assert main(["status", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["stores"][0]
    assert (told["kind"], told["done"], told["finished"]) == ("patch", UNITS, True)
    assert main(["status", str(tmp_path / "none.zarr")]) == 2


# --- kills --------------------------------------------------------------------------------------------------


def test_processes_here_and_one_of_them_killed(model, task, alone, tmp_path, monkeypatch):
    def kill():
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)

    at = At(monkeypatch, 5, kill)
    shared = patch(model, task, workers=2, store=tmp_path / "run.zarr")
    xr.testing.assert_identical(shared, alone)
    assert sorted(at.units) == list(range(UNITS))
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("distributed")
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.close()


@pytest.mark.filterwarnings("ignore")  # Dask's own, of what was killed
class TestCluster:
    """In this order: the last test leaves no scheduler."""

    def test_two_workers_load_a_dictionary_by_its_path(self, cluster, model, task, tmp_path, monkeypatch):
        d = sae.load(dictionary().save(tmp_path / "d"))
        sent = []
        of = workers.Parcel.of
        monkeypatch.setattr(workers.Parcel, "of", lambda *given: sent.append(of(*given)) or sent[-1])
        alone = features(model, task, d)
        shared = features(model, task, d, executor=cluster.address, store=tmp_path / "run.zarr")
        xr.testing.assert_identical(shared, alone)
        assert stores.status(tmp_path / "run.zarr").total == alone["value"].size
        assert (tmp_path / "d").as_posix().encode() in sent[-1].job
        assert d.W_enc.numpy().tobytes() not in sent[-1].job

    def test_a_killed_driver_resumes(self, cluster, model, task, alone, tmp_path):
        path = str(tmp_path / "run.zarr")
        script = DRIVER.format(paths=sys.path[:1], path=path, address=cluster.address)
        driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, env=environment()
        )
        assert driver.stdout is not None
        for _ in range(3):
            assert driver.stdout.readline().strip().isdigit()
        held = stores.status(path)
        driver.kill()
        driver.wait()
        driver.stdout.close()
        assert f"process {driver.pid} on" in held.holder
        done = stores.status(path).done
        assert 3 <= done < UNITS
        assert stores.status(path).holder == ""
        xr.testing.assert_identical(patch(model, task, store=path, executor=cluster.address), alone)

    def test_a_killed_worker_costs_its_unit(self, cluster, model, task, alone, tmp_path, monkeypatch):
        at = At(monkeypatch, 5, cluster.workers[0].kill)
        shared = patch(model, task, store=tmp_path / "run.zarr", executor=cluster.address)
        xr.testing.assert_identical(shared, alone)
        assert sorted(at.units) == list(range(UNITS))

    def test_a_killed_scheduler_loses_nothing(self, cluster, model, task, alone, tmp_path, monkeypatch):
        at = At(monkeypatch, 5, cluster.scheduler.kill)
        with pytest.raises(workers.WorkersLost, match=r"[0-9]+ of 32 units .*the same call goes on"):
            patch(model, task, store=tmp_path / "run.zarr", executor=cluster.address)
        assert 5 <= stores.status(tmp_path / "run.zarr").done < UNITS
        xr.testing.assert_identical(patch(model, task, store=tmp_path / "run.zarr"), alone)
        assert sorted(at.units) == list(range(UNITS))  # none was done twice
