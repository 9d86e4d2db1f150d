"""Every snippet of docs/methods.md runs, in order, and every method of the package is in the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interp.steering import methods

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for number, body in enumerate(BLOCKS):
        exec(compile(body, f"docs/methods.md, block {number}", "exec"), namespace)
    assert len(BLOCKS) >= 18


def test_every_method_has_its_entry() -> None:
    homes = {name: getattr(methods, name).__module__.rpartition(".")[2] for name in methods.__all__}
    modules = set(homes.values()) - {"_effects", "_neurons"}
    assert len(modules) >= 18
    missing = [
        module
        for module in modules
        if not any(f"methods.{name}" in PAGE for name, home in homes.items() if home == module)
    ]
    assert not missing
