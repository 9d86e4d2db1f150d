"""docs/smollm2-ioi.md: its tables and sentences are those of the study, and its pictures are there."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "smollm2-ioi.md").read_text(encoding="utf-8")
DONE = json.loads((ROOT / "benchmarks" / "results" / "smollm2_ioi.json").read_text(encoding="utf-8"))


def tables() -> Any:
    spec = importlib.util.spec_from_file_location(
        "smollm2_ioi_tables", ROOT / "benchmarks" / "smollm2_ioi_tables.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_and_sentences_are_those_of_the_study() -> None:
    assert tables().filled(PAGE, DONE) == PAGE
    assert set(re.findall(r"<!-- table ([\w-]+) -->", PAGE)) == set(tables().sections(DONE))


def test_pictures_are_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / path).stat().st_size > 10_000, path
