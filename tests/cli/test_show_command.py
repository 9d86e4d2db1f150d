"""`interp show`, `interp compare`, `interp report FOLDER`: files that commands wrote, read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import interp
from interp.cli import main
from interp.report._run import save_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results, two circuits and a folder that a command wrote."""
    at = tmp_path_factory.mktemp("files")
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=8)
    save_result(interp.patch(model, task, "z", progress=False), at / "exact.nc")
    save_result(interp.attribute(model, task, "z", method="atp", progress=False), at / "atp.nc")
    scores = interp.circuits.score_edges(model, task, method="eap", progress=False)
    interp.circuits.top(scores, 30).save(at / "a.json")
    interp.circuits.top(scores, 20).save(at / "b.json")
    command = [
        "circuit",
        "tiny-ioi",
        "--task",
        "ioi",
        "--n",
        "8",
        "--method",
        "eap",
        "--edges",
        "30",
        "--quiet",
    ]
    assert main([*command, "--out", str(at / "run")]) == 0
    return at


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_result_is_shown_with_its_largest_cells(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (shown,) = told(capsys, "show", folder / "exact.nc", "--top", "3")["shown"]
    result = shown["results"]["exact"]
    assert (result["method"], result["dims"]["prompt"], len(result["top"])) == ("patch", 8, 3)
    exact = interp.open(folder / "exact.nc").results["exact"]
    assert result["top"][0]["effect"] == pytest.approx(float(exact["value"].mean("prompt").max()))
    assert result["summary"]


def test_a_folder_is_shown_with_its_command(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["show", str(folder / "run")]) == 0
    said = capsys.readouterr().out
    assert "line: interp circuit tiny-ioi" in said
    circuit = interp.open(folder / "run").circuits["circuit"]
    assert f"{circuit.n_edges} of {circuit.graph.n_edges} edges" in said
    (shown,) = told(capsys, "show", folder / "run")["shown"]
    assert set(shown["results"]) == {"evaluation", "scores", "curve"}
    assert set(shown["circuits"]) == {"circuit"}


def test_results_are_compared(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    facts = told(capsys, "compare", folder / "atp.nc", folder / "exact.nc", "--out", page)
    a, b = (interp.open(folder / name) for name in ("atp.nc", "exact.nc"))
    figures = interp.stats.agreement(a.results["atp"], b.results["exact"]).sel(cells="all")
    assert facts["agreement"]["pearson"] == pytest.approx(float(figures["pearson"]))
    assert facts["differences"][0]["effect"] != 0
    assert "AtP estimate against exact patching" in page.read_text(encoding="utf-8")


def test_circuits_are_compared(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    facts = told(capsys, "compare", folder / "a.json", folder / "b.json")
    assert facts["overlap"]["edges"]["both"] == 20
    assert facts["overlap"]["edges"]["jaccard"] == pytest.approx(20 / 30)


def test_a_page_takes_folders(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "all.html"
    told(capsys, "report", folder / "run", folder / "exact.nc", "--out", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("plotly-graph-div") >= 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nothing.nc"), "does not exist"),
        (("show", "exact.nc", "--top", "0"), "--top is 0"),
        (("compare", "exact.nc", "a.json"), "one is a result, the other a circuit"),
        (("compare", "run", "a.json"), "holds 4 results and circuits"),
        (("compare", "a.json", "b.json", "--out", "page.txt"), ".html"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    assert said in told(capsys, *arguments, status=2)["error"]
