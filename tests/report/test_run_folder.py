"""`report.save` and `interp.open`: a folder that another person can check."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import xarray as xr

import interp
from interp.models import model_fingerprint


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model):
    return interp.tasks.ioi(model, n=6, seed=2)


def test_what_was_saved_is_opened(model, task, tmp_path: Path) -> None:
    result = interp.patch(model, task, "z", progress=False)
    circuit = interp.circuits.top(interp.circuits.score_edges(model, task, progress=False), 20)
    direction = interp.steering.mean_difference(model, task.clean[:2], task.clean[2:], layer=2, pos="mean")
    items = {"heads": result, "circuit": circuit, "vector": direction, "map": interp.plot.heads(result)}
    words = {"claim": "L0H0 moves the <name>.", "control": "Random heads do not.", "expected": "positive"}
    folder = interp.report.save(tmp_path / "run", items, **words, model=model, task=task)
    run = interp.open(folder)
    xr.testing.assert_identical(run.results["heads"], result)
    assert torch.equal(run.circuits["circuit"].mask, circuit.mask)
    assert torch.equal(run.directions["vector"].split()[0].vector, direction.split()[0].vector)
    assert run.task(model).fingerprint() == task.fingerprint()
    assert {name: run.summary[name] for name in words} == words
    assert run.summary["model_fingerprint"] == model_fingerprint(model)
    assert set(run.pages) == {"map", "report"}
    assert run.command is None
    page = run.pages["report"].read_text(encoding="utf-8")
    assert "L0H0 moves the &lt;name&gt;." in page
    assert "Control: Random heads do not." in page
    assert "heads" in str(run)
    assert "20 edges" in str(run)


def test_one_file_is_opened_alone(model, task, tmp_path: Path) -> None:
    result = interp.patch(model, task, "z", progress=False)
    folder = interp.report.save(tmp_path, {"heads": result, "more": result}, claim="x")
    assert set(interp.open(folder / "heads.nc").results) == {"heads"}
    with pytest.raises(ValueError, match=r"has no task\.jsonl"):
        interp.open(folder).task(model)


@pytest.mark.parametrize(
    ("items", "claim", "said"),
    [
        ({}, "x", "give results, circuits or figures by name"),
        ({"heads": xr.Dataset()}, " ", "claim is empty"),
        ({"../heads": xr.Dataset()}, "x", "cannot be the name"),
        ({"report": xr.Dataset()}, "x", "cannot be the name"),
        ({"heads": 3}, "x", "heads is a int"),
    ],
)
def test_bad_items_write_nothing(items: dict, claim: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said.replace("(", "\\(")):
        interp.report.save(tmp_path / "run", items, claim=claim)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_refusal_leaves_nothing_behind(model, task, there: bool, tmp_path: Path) -> None:
    """The second item cannot be written; what stood in the folder stays."""
    result = interp.patch(model, task, "z", progress=False)
    folder = tmp_path / "new" / "run"
    if there:
        interp.report.save(folder, {"heads": result}, claim="The first.")
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    items = {"heads": interp.patch(model, task, "q", progress=False), "broken": result.assign_attrs(seed={})}
    with pytest.raises(ValueError, match=r"the result for broken\.nc cannot be written as netCDF"):
        interp.report.save(folder, items, claim="The second.")
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (tmp_path / "new").exists() == there


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        interp.open(tmp_path / "none")
    with pytest.raises(ValueError, match="holds nothing that a run wrote"):
        interp.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="this is none"):
        interp.open(tmp_path / "notes.txt")
    (tmp_path / "a.nc").write_text("not netCDF")
    with pytest.raises(ValueError, match="cannot be read as netCDF"):
        interp.open(tmp_path)
    (tmp_path / "a.nc").unlink()
    (tmp_path / "settings.json").write_text('{"theme": "dark"}')
    with pytest.raises(ValueError, match="holds nothing"):
        interp.open(tmp_path)
    (tmp_path / "summary.json").write_text("[1")
    with pytest.raises(ValueError, match="is not JSON"):
        interp.open(tmp_path)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    """Whatever HDF5 says of it: a flipped byte, a file cut short, nothing at all, a pickle."""
    model = interp.load("tiny-ioi")
    result = interp.patch(model, interp.tasks.ioi(model, n=2), "z", progress=False)
    path = interp.report.save(tmp_path, {"heads": result}, claim="heads matter") / "heads.nc"
    data = path.read_bytes()
    for damaged in (data[:2000] + bytes(200) + data[2200:], data[: len(data) // 2], b"", pickle.dumps(1)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"heads\.nc cannot be read as netCDF"):
            interp.open(path)
