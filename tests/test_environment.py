"""The environments of the tests: every package by version, inside pyproject.toml's ranges, both releases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOCKS = {"3.9": ROOT / "constraints.txt", "4.3": ROOT / "constraints-tl4.txt"}


def listed(name: str) -> list[Requirement]:
    """The requirements of one list in pyproject.toml, without the package's own extras."""
    start = PROJECT.index(f"\n{name} = [")
    body = re.split(r"\]\n", PROJECT[start:])[0]
    texts = re.findall(r'"([^"]+)"', body)
    return [Requirement(text) for text in texts if not text.startswith("interp-workbench")]


def pins(release: str) -> dict[str, str]:
    lines = LOCKS[release].read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(pin.specifier)) for pin in pinned)
    return {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pinned}


@pytest.mark.parametrize("release", LOCKS)
@pytest.mark.parametrize("group", ["dependencies", "dev", "notebooks", "images", "gguf", "widget"])
def test_every_requirement_is_pinned_inside_its_range(release: str, group: str) -> None:
    versions = pins(release)
    for requirement in listed(group):
        if requirement.marker is None or requirement.marker.evaluate():
            version = versions[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), (str(requirement), version)


@pytest.mark.parametrize("release", LOCKS)
def test_the_pins_are_of_the_whole_environment(release: str) -> None:
    versions = pins(release)
    assert len(versions) > 100
    assert versions["transformer-lens"].startswith(release + ".")
    assert versions["transformers"].startswith("5.23.")
    assert {"tokenizers", "huggingface-hub", "pandas", "hatchling", "editables"} <= set(versions)


def test_a_lock_names_no_place_on_a_machine() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in LOCKS.values())
    assert not re.search(r"file:|://|/|\+cpu|-e ", text)


def test_continuous_integration_runs_both_releases() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["make test", "make test-tl4"]


def test_the_package_does_not_need_its_training() -> None:
    imports = re.compile(r"^\s*(from|import) training\b", re.M)
    sources = (ROOT / "interp").rglob("*.py")
    assert [path for path in sources if imports.search(path.read_text(encoding="utf-8"))] == []
    assert 'packages = ["interp"]' in PROJECT


def test_a_plain_install_shows_pictures_in_jupyter() -> None:
    """plotly's first picture in a notebook is an error without nbformat."""
    import plotly.graph_objects as go
    import plotly.io as pio

    assert {"nbformat", "plotly"} <= {need.name for need in listed("dependencies")}
    assert pio.renderers["plotly_mimetype"].to_mimebundle(go.Figure().to_dict())
