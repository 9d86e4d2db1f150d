"""`interp heads`: scores, the test of what bears load, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr

from interp.cli import main
from interp.report._figures import figures
from interp.report._run import read_result as read

BASE = ("heads", "tiny-ioi", "--lengths", "5", "--n", "2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_scores_and_a_page(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(BASE) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == ["out/tiny-ioi-heads/scores.nc", "out/tiny-ioi-heads/report.html"]
    induction = next(line for line in out if line.startswith("induction: "))
    assert induction.startswith("induction: L2H")
    assert "Score of each head" in (folder / out[-1]).read_text(encoding="utf-8")
    heatmap, bars = figures(read(folder / out[-2]))  # what `interp report` draws of it
    assert heatmap.layout.annotations[0].text == "<b>previous token</b>"
    assert "L1H1 previous token" in bars.layout.yaxis.ticktext


def test_load_bearing_on_a_task(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    options = ("--load-bearing", "induction", "--top", "1", "--task", "ioi", "--json")
    assert main((*BASE[:-2], "--n", "4", *options)) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["load_bearing"]["draws"] == 3  # the other heads of the layer
    assert facts["load_bearing"]["heads"] == facts["top"]["induction"][0]["head"]
    result = xr.load_dataset(folder / facts["files"]["load_bearing"], engine="h5netcdf")
    assert float(result["difference"]) == pytest.approx(facts["load_bearing"]["difference"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--load-bearing", "inductoin"), "--load-bearing is 'inductoin'; did you mean 'induction'"),
        (("--task", "ioi"), "--task says what is damaged by --load-bearing"),
        (("--top", "0"), "--top is 0"),
        (("--task", "magic", "--load-bearing", "induction"), "unknown task 'magic'"),
    ],
)
def test_a_mistake_is_one_line(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*BASE, *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
