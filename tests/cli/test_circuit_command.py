"""`interp circuit`: what it writes is what the library returns, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import circuits
from interp.cli import main

COMMAND = ("circuit", "tiny-ioi", "--task", "ioi", "--n", "8")
ACDC = (*COMMAND, "--method", "acdc", "--threshold", "0.05")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, so that its default output goes there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def test_scores_give_a_circuit_and_its_evaluation_on_other_prompts(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    status, out, err = run(capsys, *COMMAND, "--method", "eap", "--edges", "30")
    assert status == 0, err
    names = ["circuit.json", "evaluation.nc", "scores.nc", "curve.nc", "circuit.html", "report.html"]
    assert out[-6:] == [f"out/tiny-ioi-ioi-eap/{name}" for name in names]
    model = interp.load("tiny-ioi")
    task, other = (interp.tasks.ioi(model, n=8, seed=seed) for seed in (0, 1))
    expected = circuits.prune(circuits.top(circuits.score_edges(model, task), 30))
    found = circuits.Circuit.load(out[-6], circuits.Graph.of(model))
    assert torch.equal(found.mask, expected.mask)
    assert 10 < found.n_edges <= 30
    written = xr.load_dataset(out[-5], engine="h5netcdf")
    again = circuits.evaluate(model, other, expected)
    np.testing.assert_allclose(written["faithfulness"], again["faithfulness"], rtol=1e-6)
    assert written.attrs["task_fingerprint"] == other.fingerprint() != task.fingerprint()
    assert f"faithfulness {float(again['faithfulness'][0]):.3f}" in "\n".join(out)
    assert not {"without", "minimality"} & set(written)  # those take a run for each node: by name only
    page = (folder / out[-1]).read_text(encoding="utf-8")
    assert all(word in page for word in ("KL from the clean run", "L0H0", "Random circuits"))


def test_acdc_resumes_and_is_never_overwritten(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = run(capsys, *ACDC)
    assert status == 0, err
    store = folder / "out/tiny-ioi-ioi-acdc/acdc.jsonl"
    lines, first = store.read_text().splitlines(keepends=True), (folder / out[-4]).read_text()
    store.write_text("".join(lines[: len(lines) // 2]))
    status, out, err = run(capsys, *ACDC)
    assert status == 0, err
    assert (folder / out[-4]).read_text() == first
    assert len(lines) > 3
    before = store.read_text()
    status, _, err = run(capsys, *ACDC[:-1], "0.2")
    assert status == 2
    assert "another run" in err[-1]
    assert store.read_text() == before


def test_report_takes_everything_that_circuit_wrote(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    measures = "kl,completeness"
    assert (
        main([*COMMAND, "--method", "eap", "--edges", "30", "--measures", measures, "--json", "--quiet"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["model"], told["of_edges"]) == ("circuit", "tiny-ioi", 262)
    assert 10 < told["edges"] <= 30
    assert told["low"] < told["faithfulness"] < told["high"]
    files = [told["files"][name] for name in ("circuit", "evaluation", "curve", "scores")]
    status, out, err = run(capsys, "report", *files, "--out", "all.html")
    assert status == 0, err
    page = (folder / out[-1]).read_text(encoding="utf-8")
    assert page.count("<figcaption>") == 3  # the circuit, the curve, the largest scores
    for words in ("faithfulness of the rest", "Faithfulness by size", "edges left", "of 262 edges"):
        assert words in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "acdc", "--edges", "9"), "takes --threshold"),
        (("--method", "eap"), "takes --edges or --threshold"),
        (("--method", "eap", "--edges", "9", "--threshold", "1"), "one of them"),
        (("--method", "eap", "--threshold", "-1"), "--threshold is -1; it must be 0 or more"),
        (("--method", "acdc", "--threshold", "nan"), "--threshold is nan; it must be 0 or more"),
        (("--method", "eap", "--edges", "0"), "--edges is 0"),
        (("--method", "eap", "--edges", "9", "--memory", "0"), "--memory is 0.0"),
        (("--method", "eap", "--edges", "9", "--measures", "minimal"), "did you mean 'minimality'"),
        (("--method", "eap", "--edges", "999"), "there are 262 edges"),
        (("--method", "eap", "--threshold", "1e9"), "lower --threshold"),
        (("--method", "eap", "--edges", "9", "--metric", "speed"), "unknown metric 'speed'"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, _, err = run(capsys, *COMMAND, *arguments)
    assert status == 2
    assert message in err[-1]
    assert err[-1].startswith("interp: error: ")
    assert not list(folder.rglob("circuit.json"))
