"""Stores: one driver at a time, nothing of another's touched, damage is noticed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import small
import torch
import xarray as xr
from patching.cases import QUIET, task

import interp
from interp import _locks, stores
from interp.patching import _units

SITES = ["resid_pre", "attn_out"]


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Many units where there would be one."""
    monkeypatch.setitem(_units._FLOPS, "cpu", 1)
    monkeypatch.setattr(_units, "_ROWS", 1)


def run(model, path, **options):
    return interp.patch(model, task(), SITES, store=path, batch_size=4, **(options | QUIET))


@pytest.fixture
def stored(model, tmp_path):
    return run(model, tmp_path / "run.zarr"), tmp_path / "run.zarr"


def chunks(path: Path) -> list[Path]:
    """The chunks of the effects that hold numbers."""
    return sorted(f for f in (path / "value").iterdir() if not f.name.startswith("."))


def test_a_neighbour_called_new_is_left_alone(model, tmp_path):
    (tmp_path / "run.zarr.new").mkdir()
    (tmp_path / "run.zarr.new" / "thesis.txt").write_text("mine")
    run(model, tmp_path / "run.zarr")
    assert (tmp_path / "run.zarr.new" / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.zarr", "run.zarr.new"]


def _lose(chunk: Path, other: Path) -> None:
    chunk.unlink()


def _flip(chunk: Path, other: Path) -> None:
    text = bytearray(chunk.read_bytes())
    text[-1] ^= 0xFF
    chunk.write_bytes(bytes(text))


def _swap(chunk: Path, other: Path) -> None:
    mine, theirs = chunk.read_bytes(), other.read_bytes()
    chunk.write_bytes(theirs)
    other.write_bytes(mine)


@pytest.mark.parametrize("damage", [_lose, _flip, _swap])
def test_damage_is_noticed_and_measured_again(model, stored, damage):
    whole, path = stored
    damage(chunks(path)[0], chunks(path)[-1])
    with pytest.warns(UserWarning, match=r"finished units are lost or damaged, and are measured again"):
        again = run(model, path)
    xr.testing.assert_identical(again, whole)
    xr.testing.assert_identical(run(model, path), whole)  # and nothing is said any more


@pytest.mark.parametrize(
    ("name", "lose"),
    [
        ("value", lambda folder: shutil.rmtree(folder)),
        ("value", lambda folder: (folder / ".zarray").unlink()),
        ("clean", lambda folder: (folder / ".zarray").write_text("x")),
        ("_sums", lambda folder: shutil.rmtree(folder)),
    ],
)
def test_a_lost_array_is_named(model, stored, name, lose):
    lose(stored[1] / name)
    before = sorted(stored[1].rglob("*"))
    with pytest.raises(ValueError, match=rf"run\.zarr is damaged: its array '{name}' is lost"):
        run(model, stored[1])
    assert sorted(stored[1].rglob("*")) == before


def test_a_second_process_is_refused_by_name(tmp_path):
    path = tmp_path / "run.zarr"
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom interp import _locks\n"
        f"with _locks.locked(Path({str(path)!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"is being written by process {child.pid} on "),
            _locks.locked(path),
        ):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with _locks.locked(path):  # the lock went with its process
        pass
    assert not list(tmp_path.iterdir())


def test_a_store_and_a_link_to_it_are_one(model, tmp_path):
    """One lock; the link stays, and what it points to is made, filled and resumed."""
    path, link = tmp_path / "there" / "run.zarr", tmp_path / "link.zarr"
    path.parent.mkdir()
    link.symlink_to(path)
    for held, asked in ((path, link), (link, path)):
        with (
            _locks.locked(held),
            pytest.raises(ValueError, match=r"is being written by process"),
            _locks.locked(asked),
        ):
            pass
    whole = run(model, link)
    assert link.is_symlink()
    xr.testing.assert_identical(run(model, path), whole)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.zarr", "there"]
    log = tmp_path / "log.jsonl"
    log.symlink_to(tmp_path / "there" / "real.jsonl")
    with stores.open_log(log, "acdc", {}) as opened:
        opened.append({"kept": True})
    assert log.is_symlink()
    with stores.open_log(tmp_path / "there" / "real.jsonl", "acdc", {}) as opened:
        assert opened.lines == [{"kept": True}]


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_stores_obey_the_umask(model, tmp_path, umask, folder, file):
    before = os.umask(umask)
    try:
        run(model, tmp_path / "run.zarr")
        with stores.open_log(tmp_path / "a.jsonl", "acdc", {}) as log:
            log.append({"kept": True})
        with stores.open_state(tmp_path / "a.safetensors", "train_mask", {}) as state:
            state.save({"theta": torch.arange(3.0)})
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path


START = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {paths!r}
import interp, small
from interp.patching import _units
from patching.cases import task
_units._FLOPS["cpu"], _units._ROWS = 1, 1
try:
    interp.patch(small.model(), task(), {sites!r}, batch_size=4, store={path!r}, progress=False)
except ValueError as error:
    print(error)
"""


def test_two_processes_at_once_leave_a_whole_store(model, tmp_path):
    path = tmp_path / "run.zarr"
    here = str(Path(__file__).parent)
    script = START.format(paths=[here, str(Path(here).parent)], sites=SITES, path=str(path))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        for _ in range(2)
    ]
    told = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    for text in told:
        assert text == "" or "is being written by process" in text
    xr.testing.assert_allclose(run(model, path), run(model, None))
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_a_log_resumes_and_refuses(tmp_path):
    path, identity = tmp_path / "search.jsonl", {"model": "a", "threshold": "0.1"}
    with stores.open_log(path, "acdc", identity) as log:
        log.append({"edge": "a->b", "kept": True})
        log.append({"edge": "b->c", "kept": False})
    with path.open("a") as file:
        file.write('{"cut')  # a kill
    with stores.open_log(path, "acdc", identity) as log:
        assert [line["kept"] for line in log.lines] == [True, False]
    for other, message in (({**identity, "threshold": "0.2"}, "threshold: '0.1' there, '0.2' here"),):
        with pytest.raises(ValueError, match=message), stores.open_log(path, "acdc", other):
            pass
    with (
        pytest.raises(ValueError, match="is not a store of train_mask"),
        stores.open_log(path, "train_mask", identity),
    ):
        pass
    head, one, two = path.read_text().splitlines(keepends=True)
    for text, line in (
        (head + one + two.replace('"b->c"', '"b->d"'), 3),
        (head + two, 2),  # a line was lost
        (head + two + one, 2),  # two were exchanged
    ):
        path.write_text(text)
        with (
            pytest.raises(ValueError, match=f"line {line} is damaged"),
            stores.open_log(path, "acdc", identity),
        ):
            pass
        assert path.read_text() == text
    with pytest.raises(ValueError, match="is a folder"), stores.open_log(tmp_path, "acdc", identity):
        pass


def test_a_state_resumes_and_refuses(tmp_path):
    path, identity = tmp_path / "masks.safetensors", {"model": "a"}
    with stores.open_state(path, "train_mask", identity) as store:
        assert store.tensors is None
        store.save({"theta": torch.arange(3.0)})
    with stores.open_state(path, "train_mask", identity) as store:
        assert torch.equal(store.tensors["theta"], torch.arange(3.0))
    with (
        pytest.raises(ValueError, match=r"holds another run \(model: 'a' there, 'b' here\)"),
        stores.open_state(path, "train_mask", {"model": "b"}),
    ):
        pass
    text = bytearray(path.read_bytes())
    text[-1] ^= 0x01
    path.write_bytes(bytes(text))
    with pytest.raises(ValueError, match="is damaged"), stores.open_state(path, "train_mask", identity):
        pass
    path.write_text("my notes")
    with (
        pytest.raises(ValueError, match="is not a store of"),
        stores.open_state(path, "train_mask", identity),
    ):
        pass
    assert path.read_text() == "my notes"


def test_a_path_that_cannot_be_written_is_told_before_the_first_pass(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(type(model.blocks[0]), "forward", lambda *_, **__: pytest.fail("a pass was run"))
    with pytest.raises(ValueError, match=r"file/run\.zarr cannot be written: .*Choose another path"):
        run(model, tmp_path / "file" / "run.zarr")


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    """Its last holder removes it; who had opened it before would hold nothing, beside the next one."""
    path, lock = tmp_path / "run.zarr", tmp_path / ".run.zarr.lock"
    take, gone = _locks._take, []

    def late(file):
        if not gone:
            gone.append(lock.unlink())
        return take(file)

    monkeypatch.setattr(_locks, "_take", late)
    with _locks.locked(path):
        assert lock.exists()
        with pytest.raises(ValueError, match="is being written by process"), _locks.locked(path):
            pass


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_an_interrupted_kernel_leaves_model_and_store_as_they_were(model, tmp_path, monkeypatch, engine):
    """A notebook's stop button: KeyboardInterrupt between two units, in a process that goes on."""
    path, write, written = tmp_path / "run.zarr", stores.ArrayStore.write, []

    def stop(self, unit, parts):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(unit)
        write(self, unit, parts)

    def hooks():
        return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]

    options = {"engine": engine}
    run(model, None, **options)  # a bridge adds some hooks of its own as it is first used
    found = hooks()
    mode = (model.training, torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().sum())
    with monkeypatch.context() as patched:
        patched.setattr(stores.ArrayStore, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(model, path, **options)
    assert hooks() == found
    left = (model.training, torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().sum())
    assert left == mode
    assert [each.name for each in tmp_path.iterdir()] == ["run.zarr"]  # no lock is left, nor anything half
    xr.testing.assert_allclose(run(model, path, **options), run(model, None, **options))


def test_no_path_is_no_store():
    for opened in (
        stores.open_log(None, "acdc", {}),
        stores.open_state(None, "train_mask", {}),
        stores.open_arrays(None, xr.Dataset({"value": ("x", np.zeros(1))}), {}, {}, []),
    ):
        with opened as store:
            assert store is None


def test_a_store_interrupted_while_it_is_made_leaves_nothing(model, tmp_path, monkeypatch):
    """Zarr writes from a thread of its own, which goes on after Ctrl-C has come to ours."""
    from zarr.storage import LocalStore

    written, interrupted = LocalStore.set, []

    async def slow(self, key, value, *rest):
        if not interrupted:
            interrupted.append(key)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        await asyncio.sleep(0.02)
        return await written(self, key, value, *rest)

    monkeypatch.setattr(LocalStore, "set", slow)
    with pytest.raises(KeyboardInterrupt):
        interp.patch(model, task(), "z", store=tmp_path / "run.zarr", **QUIET)
    time.sleep(0.1)  # for what still writes
    assert interrupted
    assert not list(tmp_path.iterdir())
    assert "value" in interp.patch(model, task(), "z", store=tmp_path / "run.zarr", **QUIET)
