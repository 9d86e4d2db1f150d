"""The README runs: its Python blocks in order in one namespace, its cheap commands, its table of sites."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from interp.cli import main
from interp.grid import DEFAULT_BY
from interp.places import AXES, SITES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?P<skip><!-- no-test: [^\n]+ -->\n)?```(?P<language>python|sh)\n(?P<body>.*?)```", re.S)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(TEXT)]
COMMANDS = [
    line.split("#")[0].strip()
    for block in BLOCKS
    if block["language"] == "sh"
    for line in block["body"].splitlines()
]


def python_blocks() -> list[str]:
    return [block["body"] for block in BLOCKS if block["language"] == "python" and not block["skip"]]


def test_the_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks()
    assert len(blocks) >= 5
    namespace: dict[str, Any] = {}
    for number, body in enumerate(blocks):
        exec(compile(body, f"README.md, python block {number}", "exec"), namespace)
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"heads.html", "heads.nc", "bars.html", "report.html", "prompts.jsonl", "run.zarr"}
    assert "L0H0" in (tmp_path / "heads.html").read_text(encoding="utf-8")
    assert namespace["heads"]["value"].dims == ("prompt", "layer", "head")
    assert namespace["stream"]["value"].dims == ("prompt", "site", "layer", "pos")


def test_the_first_picture_is_four_lines() -> None:
    assert len(python_blocks()[0].splitlines()) == 4


def test_the_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = [line for line in COMMANDS if line.startswith("interp ") and line != "interp demo"]
    assert len(ran) >= 5
    for line in ran:
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (tmp_path / "out/heads/result.nc").is_file()
    assert (tmp_path / "out/heads.html").is_file()


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    assert targets >= {"demo", "test", "lint", "bench", "test-tl4", "notebooks"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), f"the Makefile has no target {target}"


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in COMMANDS
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
    assert script.stat().st_mode & 0o111


def test_the_table_of_sites_is_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| ([\w, ]+) \|", TEXT, re.M)
    told = {site: (tuple(axes.split(", ")), tuple(dims.split(", "))) for site, axes, dims in rows}
    assert told == {site: (AXES[site], DEFAULT_BY[site]) for site in SITES}


def test_links_to_files_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_benchmark_table_is_the_one_that_was_measured() -> None:
    """Every row of figures in the README stands in the results file."""
    measured = (ROOT / "benchmarks/results/patching-cpu.md").read_text(encoding="utf-8")
    section = TEXT.split("<!-- benchmarks -->")[1].split("<!-- /benchmarks -->")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 8
    assert all(row in measured for row in rows)
