"""The command line: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import interp
from interp.cli import main
from interp.models import available

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny-ioi"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, so that its default output goes there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit status, lines of standard output, lines of standard error."""
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def read(path: Path) -> xr.Dataset:
    return xr.load_dataset(path, engine="h5netcdf")


def test_models_lists_the_bundled_ones(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "models")
    assert status == 0
    (line,) = [line for line in out if line.split()[:1] == [MODEL]]
    card = json.loads((ROOT / "data" / MODEL / "card.json").read_text(encoding="utf-8"))
    assert f"{card['parameters']:,} parameters" in line
    assert f"ioi {card['tasks']['ioi']:.1%}" in out[out.index(line) + 1]
    named = {line.split()[0] for line in out if "parameters" in line}
    assert named == {card.name for card in available()}


def test_tasks_lists_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "tasks")
    assert status == 0
    families = interp.tasks.families()
    assert {line.split()[0] for line in out} >= set(families)
    for card in available():
        for name, share in card.tasks.items():
            (at,) = [i for i, line in enumerate(out) if line.split()[0] == name]
            assert f"{card.name} {share:.1%}" in out[at + 1]


def test_attribute_compares_methods_with_exact_patching(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    command = ("attribute", MODEL, "--task", "ioi", "--site", "z", "--method", "atp,relp", "--n", "8")
    status, out, err = run(capsys, *command, "--compare", "exact")
    assert status == 0, err
    assert [Path(line).name for line in out[-4:]] == ["atp.nc", "relp.nc", "exact.nc", "report.html"]
    atp, relp, exact = (read(folder / line) for line in out[-4:-1])
    assert [found.attrs["method"] for found in (atp, relp, exact)] == ["atp", "relp", "patch"]
    assert interp.stats.agreement(atp, exact)["pearson"][0] > 0.9
    page = (folder / out[-1]).read_text(encoding="utf-8")
    assert page.count("Agreement with exact patching on logit_diff") == 2
    status, out, err = run(capsys, *command)
    assert [Path(line).name for line in out[-3:]] == ["atp.nc", "relp.nc", "report.html"]
    status, _, err = run(capsys, "attribute", MODEL, "--task", "ioi", "--site", "z", "--method", "magic")
    assert status == 2
    assert "magic" in err[-1]


def test_a_task_takes_its_options(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    command = (
        "patch",
        "tiny-world",
        "--task",
        "facts",
        "--option",
        "relation=two_hop",
        "--site",
        "z",
        "--n",
        "8",
    )
    status, out, err = run(capsys, *command)
    assert status == 0, err
    assert out[-2] == "out/tiny-world-facts-two_hop-z/result.nc"
    assert read(folder / out[-2]).attrs["task"] == "facts two_hop"
    status, _, err = run(capsys, *command[:4], "--option", "kind=x", "--site", "z")
    assert status == 2
    assert "--task facts has no option 'kind'. It has: relation, template, prepend_bos." in err[-1]
    with pytest.raises(SystemExit):
        run(capsys, *command[:4], "--option", "relation", "--site", "z")
    (line,) = capsys.readouterr().err.splitlines()
    assert "'relation' is not NAME=VALUE" in line


def test_patch_writes_what_the_library_returns(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = run(capsys, "patch", MODEL, "--task", "ioi", "--site", "z", "--n", "8", "--seed", "3")
    assert status == 0, err
    assert out[-2:] == ["out/tiny-ioi-ioi-z/result.nc", "out/tiny-ioi-ioi-z/report.html"]
    written = read(folder / out[-2])
    model = interp.load(MODEL)
    expected = interp.patch(model, interp.tasks.ioi(model, n=8, seed=3), "z", progress=False)
    xr.testing.assert_identical(written, expected)
    assert np.ptp(written["value"].values) > 1
    page = (folder / out[-1]).read_text(encoding="utf-8")
    assert "plotly" in page
    assert "L0H0" in page


def test_patch_passes_its_options_on(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["--site", "resid_pre,mlp_out", "--by", "layer,pos", "--direction", "noise", "--n", "4"]
    arguments += [
        "--metric",
        "logit_diff,kl",
        "--ablation",
        "gaussian",
        "--window",
        "2",
        "--batch-size",
        "7",
    ]
    arguments += ["--engine", "reference", "--memory", "0.5", "--store", "run.zarr", "--out", "here"]
    status, _, err = run(capsys, "patch", MODEL, "--task", "induction", *arguments)
    assert status == 0, err
    written = read(folder / "here" / "result.nc")
    assert written["value"].dims == ("prompt", "site", "layer", "pos", "metric")
    assert [str(name) for name in written["site"].values] == ["resid_pre", "mlp_out"]
    assert [str(name) for name in written["metric"].values] == ["logit_diff", "kl"]
    facts = {"direction": "noise", "window": 2, "engine": "reference", "task": "induction"}
    assert {name: written.attrs[name] for name in facts} == facts
    assert written.attrs["ablation"].startswith("gaussian")
    assert (folder / "run.zarr").is_dir()


def test_the_plan_is_printed_first_and_alone_when_asked(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    arguments = ["patch", MODEL, "--task", "ioi", "--site", "z", "--n", "6"]
    _, planned, _ = run(capsys, *arguments, "--plan")
    assert list(folder.iterdir()) == []
    _, out, _ = run(capsys, *arguments)
    assert out[: len(planned)] == planned
    model = interp.load(MODEL)
    assert str(interp.plan("patch", model, interp.tasks.ioi(model, n=6), "z")) == "\n".join(planned[1:])


def test_patch_takes_a_list_of_cells(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["--cells", "L0H0,L2H1.q,L2H1+L2H2", "--n", "4", "--out", "here"]
    status, _, err = run(capsys, "patch", MODEL, "--task", "ioi", *arguments)
    assert status == 0, err
    written = read(folder / "here" / "result.nc")
    assert [str(name) for name in written["cell"].values] == ["L0H0", "L2H1.q", "L2H1 + L2H2"]


def test_patch_takes_a_file_of_prompts(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    model = interp.load(MODEL)
    task = interp.tasks.ioi(model, n=6, seed=1)
    task.to_file(model, folder / "own.jsonl")
    arguments = ["--task", "own.jsonl", "--site", "z", "--n", "4", "--out", "here"]
    status, _, err = run(capsys, "patch", MODEL, *arguments)
    assert status == 0, err
    expected = interp.patch(model, task[:4], "z", progress=False)["value"]
    written = read(folder / "here" / "result.nc")["value"]
    np.testing.assert_allclose(written.values, expected.values, rtol=0, atol=1e-5)


def test_patch_takes_a_file_of_token_ids(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    model = interp.load(MODEL)
    task = interp.tasks.ioi(model, n=4, seed=1, template=1)
    rows = [
        {name: ids.tolist() for name, ids in zip(("clean", "corrupt", "answer", "wrong"), row)}
        for row in zip(task.clean, task.corrupt, task.answers[:, 0], task.wrongs[:, 0])
    ]
    (folder / "ids.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--task", "ids.jsonl", "--site", "z", "--out", "here"]
    status, out, err = run(capsys, "patch", MODEL, *arguments)
    assert status == 0, err
    assert "4 prompts of" in out[0]
    expected = interp.patch(model, task, "z", progress=False)["value"]
    np.testing.assert_allclose(read(folder / "here" / "result.nc")["value"], expected.values, atol=1e-5)


def test_one_prompt_has_a_report_without_intervals(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "one.jsonl").write_text(
        '{"clean": "When Mary and John went to the store, John gave a book to", "answer": " Mary", '
        '"corrupt": "When Mary and John went to the store, Mary gave a book to", "wrong": " John"}\n'
    )
    status, out, err = run(capsys, "patch", MODEL, "--task", "one.jsonl", "--site", "resid_pre")
    assert status == 0, err
    assert (folder / out[-1]).is_file()


def test_report_joins_results(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    for site in ("z", "mlp_out"):
        run(capsys, "patch", MODEL, "--task", "ioi", "--site", site, "--n", "4", "--out", site)
    files = ["z/result.nc", "mlp_out/result.nc"]
    status, out, _ = run(capsys, "report", *files, "--out", "both.html", "--title", "Two <sites>")
    assert (status, out) == (0, ["both.html"])
    page = (folder / "both.html").read_text(encoding="utf-8")
    assert "Two &lt;sites&gt;" in page
    assert page.count("<figcaption>") == 4
    assert "patch · tiny-ioi · ioi · mlp_out · denoise" in page


def test_demo_writes_two_results_and_a_report(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = run(capsys, "demo", "--n", "8")
    assert status == 0, err
    assert out[-1] == "out/demo/report.html"
    assert (folder / out[-1]).is_file()
    positions, heads = (read(folder / "out" / "demo" / f"{name}.nc") for name in ("positions", "heads"))
    assert positions["value"].dims == ("prompt", "site", "layer", "pos")
    forms = {cluster.split(",")[0] for cluster in positions["template"].values.tolist()}
    assert forms == {"ioi 1"}
    assert "" not in positions["token"].values.tolist()
    assert heads["value"].dims == ("prompt", "layer", "head")
    assert len(set(heads["template"].values.tolist())) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("patch no-such-model --task ioi --site z", "no-such-model"),
        ("patch tiny-ioi --task oii --site z", "did you mean 'ioi'"),
        ("patch tiny-ioi --task missing.jsonl --site z", "missing.jsonl does not exist"),
        ("patch tiny-ioi --task ioi --site resid_prey", "did you mean 'resid_pre'"),
        ("patch tiny-ioi --task ioi --site z --by layer,neuron", "no dim 'neuron'"),
        ("patch tiny-ioi --task ioi --site z --metric logit_dif", "did you mean 'logit_diff'"),
        ("patch tiny-ioi --task ioi --site z --engine fastest", "engine 'fastest'"),
        ("patch tiny-ioi --task ioi --site z --ablation nois", "ablation 'nois'"),
        ("patch tiny-ioi --task ioi --site z --n 7", "7"),
        ("patch tiny-ioi --task ioi --site z --memory 0", "--memory is 0.0 GiB"),
        ("patch tiny-ioi --task ioi --cells L9H6", "layer 9 is out of range"),
        ("patch tiny-ioi --task ioi", "give --site (a grid, such as --site z) or --cells"),
        ("patch no-such-model --task ioi", "give --site"),
        ("patch no-such-model --task ioi --site z --batch-size 0", "--batch-size is 0"),
        ("patch no-such-model --task ioi --site z --level 95", "--level is 95.0; it must lie between"),
        ("patch no-such-model --task ioi --site z --window 0", "--window is 0"),
        ("patch no-such-model --task ioi --site z --n 0", "--n is 0"),
        ("patch no-such-model --task ioi --site z --metric speed", "unknown metric 'speed'"),
        ("patch no-such-model --task ioi --site z --out text.nc/here", "text.nc is a file. Give a folder"),
        ("patch no-such-model --task ioi --site z --store text.nc", "text.nc is a file; a store is a folder"),
        ("patch no-such-model --task ioi --site z --out /proc/here", "--out /proc/here cannot be written"),
        ("patch no-such-model --task ioi --site z --store /proc/x", "--store /proc/x cannot be written"),
        ("attribute no-such-model --task ioi --site z --method magic", "'magic'"),
        ("attribute no-such-model --task ioi", "give --site"),
        ("circuit no-such-model --task ioi --edges 3 --out text.nc", "text.nc is a file"),
        ("demo --out text.nc", "text.nc is a file"),
        ("report text.nc --out x.pdf", "'x.pdf' does not end in .html"),
        ("report text.nc --out /proc/x.html", "--out /proc cannot be written"),
        ("report missing.json", "missing.json does not exist"),
        ("report broken.json", "broken.json"),
        ("report missing.nc", "missing.nc does not exist"),
        ("report text.nc", "text.nc cannot be read as netCDF"),
        ("report other.nc", "other.nc is not a result: it lacks the attribute 'method'"),
        ("demo --n 3", "3"),
        ("patch no-such-model --task ioi --site z --memory nan", "--memory is nan GiB"),
        ("circuit no-such-model --task ioi --edges 3 --memory inf", "--memory is inf GiB"),
        ("plan patch gpt2 --memory inf", "--memory is inf GiB"),
        ("plan patch gpt2 --site zz", "unknown site 'zz'"),
        ("plan patch gpt2 --by nonsense", "site 'z' has no dim 'nonsense'"),
        ("plan patch gpt2 --by layer,span", "sizes name no spans"),
        ("plan patch gpt2 --first 20", "first is 20, and prompts have 20 tokens"),
        ("plan patch gpt2 --first -1", "first is -1; give a whole number of 0 or more"),
        ("plan patch gpt2 --n 100000000", "100000000 prompts of 20 tokens are more than"),
        ("plan patch gpt2 --device cuda", "gpt2 is a shape"),
        ("plan acdc gpt2 --method eap", "method is 'eap', and acdc has none"),
        ("attribute no-such-model --task ioi --site z --method atp,atp", "with one twice"),
        ("attribute no-such-model --task ioi --site z --method atp --steps 4", "--steps: of ig alone"),
        ("patch tiny-ioi --task ioi --cells L0H0,L0H0", "cells has 'L0H0' twice"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "text.nc").write_text("no netCDF")
    (folder / "broken.json").write_text("{")
    xr.Dataset({"else": ("x", [1.0])}).to_netcdf(folder / "other.nc", engine="h5netcdf")
    status, out, err = run(capsys, *arguments.split())
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("interp: error: ")
    assert message in err[0]
    assert not (folder / "out").exists()
    assert not [line for line in out if line.endswith((".nc", ".html"))]
    assert {path.name for path in folder.iterdir()} == {"text.nc", "broken.json", "other.nc"}


@pytest.mark.parametrize("option", ["--metric ''", "--site z,", "--by ,", "--cells ''"])
def test_a_list_has_no_empty_names(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["patch", MODEL, "--task", "ioi", "--site", "z", *shlex.split(option)])
    assert "has an empty name; give one, or several as in a,b" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--store"])
def test_an_empty_path_is_none(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["patch", MODEL, "--task", "ioi", "--site", "z", option, ""])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument {option}: the path is empty" in line


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict:
    """The one object on standard output."""
    assert main([*arguments, "--json"]) == status
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_json_is_one_object_and_the_logs_are_on_stderr(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    told = json_of(capsys, "patch", MODEL, "--task", "ioi", "--site", "z", "--n", "8", "--metric", "kl,prob")
    assert (told["command"], told["model"], told["task"], told["n_prompts"]) == ("patch", MODEL, "ioi", 8)
    assert told["metric"] == "kl, prob"
    result = read(folder / told["files"]["result"])
    top = told["top"][0]
    assert set(top) == {"cell", "effect", "unit", "low", "high", "metric", "p", "significant"}
    means = result["value"].mean("prompt").sel(metric=top["metric"])
    assert top["effect"] == pytest.approx(
        float(means.values.ravel()[np.abs(means.values).argmax()]), rel=1e-4
    )
    assert set(told["files"]) == {"result", "report", "task", "summary"}
    assert all((folder / path).is_file() for path in told["files"].values())
    plan = json_of(capsys, "patch", MODEL, "--task", "ioi", "--site", "z", "--n", "8", "--plan")
    assert plan["files"] == {}
    assert any("runs" in line for line in plan["plan"])
    command = ("attribute", MODEL, "--task", "ioi", "--site", "z", "--n", "8", "--method", "atp")
    told = json_of(capsys, *command, "--compare", "exact")
    assert told["agreement"]["atp"]["pearson"] > 0.9
    page = json_of(capsys, "report", told["files"]["atp"], "--out", "page.html")
    assert page["files"] == {"report": "page.html", "summary": "report-summary.json"}


def test_json_of_lists_and_of_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    models = json_of(capsys, "models")["models"]
    assert {card["name"] for card in models} == {card.name for card in available()}
    assert {task["name"] for task in json_of(capsys, "tasks")["tasks"]} == set(interp.tasks.families())
    told = json_of(capsys, "patch", MODEL, "--task", "ioi", status=2)
    assert told["command"] == "patch"
    assert "give --site" in told["error"]


def test_a_level_is_that_of_the_pictures(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ("patch", MODEL, "--task", "ioi", "--site", "z", "--n", "8", "--level", "0.8")
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    page = (folder / out[-1]).read_text(encoding="utf-8")
    assert "80 % intervals over 4 groups of prompts" in page.replace("\\u003cbr\\u003e", " ")


def test_quiet_draws_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("patch", MODEL, "--task", "ioi", "--site", "z", "--n", "8", "--quiet")
    assert run(capsys, *arguments)[2] == []


def test_traceback_shows_where(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.nc"):
        main(["--traceback", "report", "missing.nc"])


def test_a_store_of_another_run_is_refused_and_kept(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["patch", MODEL, "--task", "ioi", "--site", "z", "--n", "4", "--store", "run.zarr"]
    assert run(capsys, *arguments)[0] == 0
    before = {path: path.read_bytes() for path in folder.joinpath("run.zarr").rglob("*") if path.is_file()}
    status, _, err = run(capsys, *arguments, "--seed", "1")
    assert status == 2
    assert "holds another run" in err[-1]
    after = {path: path.read_bytes() for path in folder.joinpath("run.zarr").rglob("*") if path.is_file()}
    assert after == before


def test_an_unfinished_file_is_not_left(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "out").write_text("a file where the folder should be")
    status, _, err = run(capsys, "patch", MODEL, "--task", "ioi", "--site", "z", "--n", "4", "--out", "out")
    assert status == 2
    assert "out" in err[-1]
    assert [path.name for path in folder.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "usage: interp"),
        ([], 2, "COMMAND"),
        (["patch", MODEL], 2, "--task"),
        (["dmeo"], 2, "demo"),
    ],
)
def test_python_m_interp(arguments: list[str], status: int, said: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "interp", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_path_writes_what_the_library_returns(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    command = ("path", MODEL, "--task", "ioi", "--n", "8", "--receivers", "L2H3.q,L2H3.k+L2H3.v")
    status, out, err = run(capsys, *command, "--sender-positions", "-1", "--freeze", "none")
    assert status == 0, err
    assert out[-2:] == ["out/tiny-ioi-ioi-path-set/result.nc", "out/tiny-ioi-ioi-path-set/report.html"]
    written = read(folder / out[-2])
    model = interp.load(MODEL)
    expected = interp.path_patch(
        model, interp.tasks.ioi(model, n=8), "heads", ["L2H3.q", ["L2H3.k", "L2H3.v"]],
        freeze=(), sender_positions=[-1], progress=False,
    )  # fmt: skip
    xr.testing.assert_identical(written, expected)
    assert np.nanmax(np.abs(written["value"].values)) > 1e-3
    assert "L2H3.k + L2H3.v" in (folder / out[-1]).read_text(encoding="utf-8")
    again = ("path", MODEL, "--task", "ioi", "--n", "4", "--receivers", out[-2], "--top", "1")
    status, out, err = run(capsys, *again, "--senders", "all", "--out", "again", "--json")
    assert status == 0, err
    assert json.loads(out[-1])["receivers"].count(", ") == 2
