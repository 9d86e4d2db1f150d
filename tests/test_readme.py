"""The README and the pages behind it run: Python blocks in order in one namespace, cheap commands, tables."""

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
PAGES = (
    "README.md",
    "docs/tasks.md",
    "docs/sites.md",
    "docs/statistics.md",
    "docs/analyses.md",
    "docs/heads.md",
    "docs/subspaces.md",
    "docs/explore.md",
    "docs/gallery.md",
    "docs/readouts.md",
)
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
TEXT = TEXTS["README.md"]
BLOCK = re.compile(r"(?P<skip><!-- no-test: [^\n]+ -->\n)?```(?P<language>python|sh)\n(?P<body>.*?)```", re.S)
WRITTEN = {
    "README.md": {"heads.html", "heads.nc", "bars.html", "report.html", "run.zarr"},
    "docs/tasks.md": {"prompts.jsonl", "ioi.json", "spans.html"},
    "docs/statistics.md": set(),
    "docs/sites.md": {"heads.nc", "bars.html", "report.html", "agreement.html", "run.zarr"},
    "docs/analyses.md": {"paths.html", "trace.html", "circuit.html", "curve.html"},
    "docs/heads.md": {"scores.html", "sinks.html"},
    "docs/subspaces.md": {"subspace.html", "where.html"},
    "docs/explore.md": {"explore.html"},
    "docs/gallery.md": set(),
    "docs/readouts.md": set(),
}


def blocks(page: str, language: str) -> list[str]:
    found = [match.groupdict() for match in BLOCK.finditer(TEXTS[page])]
    return [block["body"] for block in found if block["language"] == language and not block["skip"]]


def commands(page: str) -> list[str]:
    return [line.split("#")[0].strip() for body in blocks(page, "sh") for line in body.splitlines()]


COMMANDS = commands("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bodies = blocks(page, "python")
    assert len(bodies) >= 3
    namespace: dict[str, Any] = {}
    for number, body in enumerate(bodies):
        exec(compile(body, f"{page}, python block {number}", "exec"), namespace)
    assert {path.name for path in tmp_path.iterdir()} >= WRITTEN[page]
    if page == "README.md":
        assert "L0H0" in (tmp_path / "heads.html").read_text(encoding="utf-8")
    if page == "docs/sites.md":
        assert namespace["heads"]["value"].dims == ("prompt", "layer", "head")
        assert namespace["stream"]["value"].dims == ("prompt", "site", "layer", "pos")


def test_the_first_picture_is_four_lines() -> None:
    assert len(blocks("README.md", "python")[0].splitlines()) == 4


def test_the_readme_is_short_and_shows_a_picture_first() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 160
    picture = next(number for number, line in enumerate(lines) if line.startswith("!["))
    assert picture < 12
    assert (ROOT / re.search(r"\]\((.*)\)", lines[picture])[1]).stat().st_size > 10_000  # type: ignore[index]


@pytest.mark.parametrize("page", ["README.md", "docs/analyses.md"])
def test_the_commands_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = [line for line in commands(page) if line.startswith("interp ") and line != "interp demo"]
    assert len(ran) >= 5
    for line in ran:
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    if page == "README.md":
        assert (tmp_path / "out/heads/result.nc").is_file()
        assert (tmp_path / "out/heads.html").is_file()


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([\w-]+)", readme, re.M))
    assert targets >= {"demo", "test", "lint", "bench", "test-tl4", "notebooks"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), f"the Makefile has no target {target}"


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in COMMANDS
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
    assert script.stat().st_mode & 0o111


def test_the_table_of_sites_is_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| ([\w, ]+) \|", TEXTS["docs/sites.md"], re.M)
    told = {site: (tuple(axes.split(", ")), tuple(dims.split(", "))) for site, axes, dims in rows}
    assert told == {site: (AXES[site], DEFAULT_BY[site]) for site in SITES}


@pytest.mark.parametrize("page", [*PAGES, "docs/speed.md", "docs/map.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).is_file()] == []


def test_the_map_names_files_that_exist() -> None:
    text = (ROOT / "docs/map.md").read_text(encoding="utf-8")
    names = re.findall(r"`(interp/[\w/.]+|training/|tests/[\w/.]+)`", text)
    assert len(names) > 15
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_benchmark_table_is_the_one_that_was_measured() -> None:
    """Every row of figures in the page stands in the results file."""
    measured = (ROOT / "benchmarks/results/patching-cpu.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    section = page.split("<!-- benchmarks -->")[1].split("<!-- /benchmarks -->")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 8
    assert all(row in measured for row in rows)
