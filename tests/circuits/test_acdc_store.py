"""The file of a search: resumes after a kill, bit for bit; refuses what is not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import masks as M
import numpy as np
import pytest
import torch

from interp import circuits
from interp.tasks import LogitDiff

SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import masks
from interp import circuits
from interp.stores import LogStore
append = LogStore.append
def slow(self, *rest):
    append(self, *rest)
    print("batch", flush=True)
    time.sleep(0.2)
LogStore.append = slow
circuits.acdc(masks.tiny(), masks.task(), 0.002, store={path!r}, progress=False)
"""


def run(path: Path, **options: Any) -> circuits.Circuit:
    return circuits.acdc(M.tiny(), M.task(), 0.002, store=path, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[circuits.Circuit, Path]:
    path = tmp_path_factory.mktemp("acdc") / "whole.jsonl"
    return run(path), path


def same(one: circuits.Circuit, other: circuits.Circuit) -> None:
    assert one.edges() == other.edges()
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.provenance == other.provenance
    np.testing.assert_equal(circuits.trace(one), circuits.trace(other))
    assert one.n_edges > 0


def test_a_store_changes_nothing(whole: tuple) -> None:
    same(whole[0], circuits.acdc(M.tiny(), M.task(), 0.002, progress=False))


def test_a_killed_search_resumes_to_the_same_file(whole: tuple, tmp_path: Path) -> None:
    """SIGKILL in the middle; the same call again finishes, as an undisturbed run."""
    path, here = tmp_path / "killed.jsonl", Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    script = SCRIPT.format(paths=paths, path=str(path))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    written = [child.stdout.readline().strip() for _ in range(3)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert written == ["batch"] * 3
    lines = path.read_text().splitlines()
    assert 4 <= len(lines) < len(whole[1].read_text().splitlines())
    same(run(path), whole[0])
    assert path.read_text() == whole[1].read_text()


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_line_cut_short_is_dropped(whole: tuple, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "torn.jsonl"
    path.write_bytes(whole[1].read_bytes()[:-cut])
    same(run(path), whole[0])
    assert path.read_bytes() == whole[1].read_bytes()


def test_a_finished_search_is_read_back(whole: tuple) -> None:
    before = whole[1].read_bytes()
    same(run(whole[1]), whole[0])
    assert whole[1].read_bytes() == before


def test_an_empty_file_is_a_new_run(whole: tuple, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.touch()
    same(run(path), whole[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": 0.03}, r"holds another run \(threshold: '0.002' there, '0.03' here\)"),
        ({"metric": LogitDiff()}, r"metric: 'KL\(\)' there, 'LogitDiff\(\)' here"),
        ({"order": "early"}, "order: 'late' there, 'early' here"),
        ({"absolute": True}, "absolute: False there, True here"),
        ({"ablation": "zero"}, "ablation: 'resample' there, 'zero' here"),
        ({"task": M.task(3)}, "task_fingerprint: "),
    ],
)
def test_another_run_is_refused_and_nothing_changed(whole: tuple, given: dict, message: str) -> None:
    before = whole[1].read_bytes()
    arguments = {"task": M.task(), "threshold": 0.002, "store": whole[1], "progress": False, **given}
    with pytest.raises(ValueError, match=message):
        circuits.acdc(M.tiny(), **arguments)
    assert whole[1].read_bytes() == before


@pytest.mark.parametrize("text", ["hello\n", "{}\n", '{"kind": 3}\n', "[1]\n", "half"])
def test_another_file_is_refused_and_nothing_changed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="exists and is not a store of acdc"):
        run(path)
    assert path.read_text() == text


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        run(tmp_path)


def test_a_sweep_has_a_file_for_each_threshold(tmp_path: Path) -> None:
    options = {"store": tmp_path / "sweep", "progress": False}
    first = circuits.acdc_sweep(M.tiny(), M.task(), [0.01, 0.002], **options)
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0.002.jsonl", "0.01.jsonl"]
    (tmp_path / "sweep" / "0.002.jsonl").unlink()
    again = circuits.acdc_sweep(M.tiny(), M.task(), [0.01, 0.002], **options)
    for one, other in zip(first, again):
        same(one, other)
    with pytest.raises(ValueError, match="is a file"):
        circuits.acdc_sweep(M.tiny(), M.task(), [0.01], store=tmp_path / "sweep" / "0.01.jsonl")
