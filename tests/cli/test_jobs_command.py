"""`interp run`, `--resume`, `--log`, `summary.json`: long work in one process, done once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr

import interp
from interp.cli import main
from interp.patching import _units
from interp.stores import ArrayStore

PATCH = ("patch", "tiny-ioi", "--task", "ioi", "--site", "z", "--n", "8")
JOBS = """
[[job]]
name = "heads"
run = "interp patch tiny-ioi --task ioi --site z --n 8"

[[job]]
name = "broken"
run = "patch tiny-ioi --task ioi --site z --n 8 --template 99"

[[job]]
name = "circuit"
run = "circuit tiny-ioi --task ioi --n 8 --method eap --edges 30"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, so that its default output goes there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are loaded."""
    names: list[str] = []
    load = interp.models.load
    monkeypatch.setattr(interp, "load", lambda name, **more: names.append(name) or load(name, **more))
    return names


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict, list[str]]:
    """Exit status, the object on standard output, lines of standard error."""
    status = main([*arguments, "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out), captured.err.splitlines()


def test_a_job_that_fails_stops_nothing_and_the_others_are_done_once(
    capsys: pytest.CaptureFixture[str], folder: Path, loads: list[str]
) -> None:
    (folder / "jobs.toml").write_text(JOBS)
    status, told, err = run(capsys, "run", "jobs.toml", "--out", "night")
    assert status == 1
    assert [(job["name"], job["outcome"]) for job in told["jobs"]] == [
        ("heads", "done"),
        ("broken", "FAILED"),
        ("circuit", "done"),
    ]
    assert "template" in told["jobs"][1]["error"]
    assert "interp: failed: broken" in err[-1]
    assert loads == ["tiny-ioi"]  # one model serves all jobs
    assert "L0H0" in (folder / "night/heads/log.txt").read_text()
    assert xr.load_dataset(folder / "night/heads/result.nc", engine="h5netcdf").sizes["prompt"] == 8
    loads.clear()
    (folder / "jobs.toml").write_text(JOBS.replace(" --template 99", ""))
    status, told, _ = run(capsys, "run", "jobs.toml", "--out", "night")
    assert status == 0
    assert [job["outcome"] for job in told["jobs"]] == ["done before", "done", "done before"]
    assert loads == ["tiny-ioi"]
    status, told, _ = run(capsys, "run", "jobs.toml", "--out", "night", "--again")
    assert [job["outcome"] for job in told["jobs"]] == ["done"] * 3


def test_a_page_is_a_job_too(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    line = "explore tiny-ioi --task ioi --n 4 --prompts 2"
    (folder / "jobs.toml").write_text(f"[[job]]\nname = 'page'\nrun = '{line}'")
    for outcome in ("done", "done before"):
        status, told, _ = run(capsys, "run", "jobs.toml")
        assert (status, told["jobs"][0]["outcome"]) == (0, outcome)
    assert (folder / "out/page/page.html").stat().st_size > 10_000


def test_an_error_that_nobody_foresaw_is_in_the_log(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "jobs.toml").write_text(JOBS.split("\n\n")[0])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(interp, "patch", fail)
    status, told, _ = run(capsys, "run", "jobs.toml")
    assert status == 1
    assert told["jobs"][0]["error"] == "RuntimeError: out of memory"
    assert "Traceback" in (folder / "out/heads/log.txt").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has nothing; give [[job]]"),
        ("a = [", "is not TOML"),
        ("[[job]]\nname = 'a'", "job 1 has name; give name and run"),
        ("[[job]]\nname = '../a'\nrun = 'patch m'", "is no name of a folder"),
        (
            "[[job]]\nname = 'a'\nrun = 'patch tiny-ioi'",
            "job 1 (a): the following arguments are required: --task",
        ),
        ("[[job]]\nname = 'a'\nrun = 'models'", "interp models is not a job"),
        ("[[job]]\nname = 'a'\nrun = 'run jobs.toml'", "interp run is not a job"),
        (JOBS.replace("broken", "heads"), "job 2: the name 'heads' is given twice"),
    ],
)
def test_a_file_that_is_wrong_runs_nothing(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str, said: str, loads: list[str]
) -> None:
    (folder / "jobs.toml").write_text(text)
    status, told, _ = run(capsys, "run", "jobs.toml")
    assert status == 2
    assert said in told["error"]
    assert loads == []
    assert [path.name for path in folder.iterdir()] == ["jobs.toml"]


def test_resume_leaves_a_finished_run_and_does_another_one(
    capsys: pytest.CaptureFixture[str], folder: Path, loads: list[str]
) -> None:
    _, first, _ = run(capsys, *PATCH)
    before = (folder / first["files"]["result"]).stat().st_mtime_ns
    status, again, err = run(capsys, *PATCH, "--resume", "--batch-size", "5")  # how to run changes nothing
    assert status == 0
    assert loads == ["tiny-ioi"]
    assert again.pop("resumed") is True
    assert "done before" in err[0]
    assert again == {**first, "files": {k: v for k, v in first["files"].items() if k != "summary"}}
    _, other, _ = run(capsys, *PATCH, "--resume", "--seed", "1")
    assert "resumed" not in other
    assert other["task_fingerprint"] != first["task_fingerprint"]
    assert (folder / first["files"]["result"]).stat().st_mtime_ns > before
    (folder / other["files"]["result"]).unlink()
    assert "resumed" not in run(capsys, *PATCH, "--resume", "--seed", "1")[1]


def test_a_file_of_prompts_that_changed_is_another_run(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    model = interp.load("tiny-ioi")
    for seed, resumed in ((0, False), (0, True), (3, False)):
        interp.tasks.ioi(model, n=4, seed=seed).to_file(model, "mine.jsonl")
        command = ("patch", "tiny-ioi", "--task", "mine.jsonl", "--site", "z", "--resume")
        assert ("resumed" in run(capsys, *command)[1]) is resumed


def test_a_sweep_that_was_killed_goes_on(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, fill = [], ArrayStore.write

    def write(self: object, *args: object, **more: object) -> object:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return fill(self, *args, **more)

    command = (*PATCH, "--batch-size", "4", "--out", "here")
    monkeypatch.setattr(ArrayStore, "write", write)
    monkeypatch.setitem(_units._FLOPS, "cpu", 1.0)  # else so small a sweep is one unit
    monkeypatch.setattr(_units, "_ROWS", 1)
    assert main(list(command)) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert [path.suffix for path in (folder / "here").iterdir() if path.is_dir()] == [".zarr"]
    monkeypatch.setattr(ArrayStore, "write", lambda self, *a, **m: (done.append(1), fill(self, *a, **m))[1])
    done.clear()
    assert main(list(command)) == 0
    resumed = len(done)
    assert main(list(command)) == 0
    assert 0 < resumed == len(done) - resumed - 1
    assert not [path for path in (folder / "here").iterdir() if path.is_dir()]


def test_the_summary_says_what_was_asked_and_what_came_out(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    _, told, _ = run(capsys, *PATCH, "--log", "logs/all.txt")
    summary = json.loads((folder / told["files"]["summary"]).read_text())
    assert summary["line"] == "interp " + " ".join(PATCH) + " --log logs/all.txt --json"
    assert (summary["arguments"]["n"], summary["arguments"]["site"]) == (8, ["z"])
    assert summary["top"] == told["top"]
    assert summary["task_fingerprint"] == interp.tasks.ioi(interp.load("tiny-ioi"), n=8).fingerprint()
    assert summary["versions"]["interp-workbench"]
    assert summary["seconds"] > 0
    assert summary["files"] == {"task": "task.jsonl", "result": "result.nc", "report": "report.html"}
    log = (folder / "logs/all.txt").read_text()
    assert told["top"][0]["cell"] in log
    assert told["files"]["report"] in log


def test_quiet_says_only_paths(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main([*PATCH, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["out/tiny-ioi-ioi-z/result.nc", "out/tiny-ioi-ioi-z/report.html"]
    assert captured.err == ""


def test_a_log_that_cannot_be_written_is_said_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], folder: Path, loads: list[str]
) -> None:
    status, told, _ = run(capsys, *PATCH, "--log", ".")
    assert (status, loads) == (2, [])
    assert "--log . is a folder" in told["error"]


def test_a_circuit_of_own_prompts_is_measured_on_others(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    model = interp.load("tiny-ioi")
    for name, seed in (("mine", 0), ("theirs", 1)):
        interp.tasks.ioi(model, n=8, seed=seed).to_file(model, f"{name}.jsonl")
    command = ("circuit", "tiny-ioi", "--task", "mine.jsonl", "--method", "eap", "--edges", "30")
    _, same, _ = run(capsys, *command)
    _, other, _ = run(capsys, *command, "--eval", "theirs.jsonl")
    _, split, _ = run(capsys, *command, "--split", "0.5")
    assert same["evaluated"] == "evaluated on the same prompts"
    assert other["evaluated"] == "evaluated on the 8 prompts of theirs.jsonl"
    assert split["evaluated"] == "evaluated on the other 4 of 8 prompts"
    assert len({told["faithfulness"] for told in (same, other, split)}) == 3
    for wrong, said in (
        (("--split", "1"), "--split is 1"),
        (("--eval", "none.jsonl"), "--eval none.jsonl does not exist"),
    ):
        status, told, _ = run(capsys, *command, *wrong)
        assert status == 2
        assert said in told["error"]
