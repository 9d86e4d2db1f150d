"""Pages of docs/howto run as they stand; pages of docs/errors raise what they say and do what they advise."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOW = sorted(DOCS.glob("howto/*.md"))
ERRORS = sorted(DOCS.glob("errors/*.md"))
BLOCK = re.compile(r"```(?P<language>\w+)\n(?P<body>.*?)```", re.S)


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [match["body"] for match in BLOCK.finditer(text) if match["language"] == language]


def run(page: Path, number: int, body: str, namespace: dict[str, Any]) -> None:
    exec(compile(body, f"{page.name}, python block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", HOW, ids=lambda page: page.stem)
def test_a_task_page_runs_as_it_stands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert page.read_text(encoding="utf-8").startswith("# I want to ")
    namespace: dict[str, Any] = {}
    for number, body in enumerate(blocks(page, "python")):
        run(page, number, body, namespace)
    assert "interp" in namespace


@pytest.mark.parametrize("page", ERRORS, ids=lambda page: page.stem)
def test_an_error_page_says_what_is_raised_and_its_advice_works(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (message,), (wrong, right) = blocks(page, "text"), blocks(page, "python")
    namespace: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            run(page, 0, wrong, namespace)
            said = [str(each.message) for each in warned]
        except ValueError as error:
            said = [str(error)]
    assert any(message.strip() in each for each in said), said
    if "hook" in namespace:
        namespace["hook"].remove()
    run(page, 1, right, namespace)


def test_every_page_of_the_site_is_in_its_menu_and_every_link_leads_somewhere() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path for path in DOCS.rglob("*.md") if "images" not in path.parts]
    missing = [str(page.relative_to(DOCS)) for page in pages if str(page.relative_to(DOCS)) not in menu]
    assert not missing
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_picture_of_the_gallery_is_there_and_light() -> None:
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"images/(gallery/[\w-]+\.png)", page))
    files = {f"gallery/{path.name}": path.stat().st_size for path in (DOCS / "images/gallery").glob("*.png")}
    assert shown == set(files)
    assert {name: size for name, size in files.items() if size > 60_000} == {}
