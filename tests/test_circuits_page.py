"""docs/circuits.md holds the tables of the study, and the study is of the bundled weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import interp
from interp.models import model_fingerprint

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
DONE = json.loads((ROOT / "benchmarks" / "results" / "circuit_study.json").read_text(encoding="utf-8"))
TRAINED = [name for name, case in DONE.items() if case["kind"] == "trained"]


def tables() -> Any:
    path = ROOT / "benchmarks" / "circuit_study_tables.py"
    spec = importlib.util.spec_from_file_location("circuit_study_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_study() -> None:
    assert tables().filled(PAGE, DONE) == PAGE
    assert PAGE.count("<!-- table ") == len(tables().sections(DONE))


@pytest.mark.parametrize("name", ["tiny-ioi", "tiny-world"])
def test_the_study_is_of_the_bundled_weights(name: str) -> None:
    now = model_fingerprint(interp.load(name))[:16]
    assert {case["weights"] for key, case in DONE.items() if key.startswith(name)} == {now}


def row(case: str, method: str) -> dict[str, Any]:
    return next(one for one in DONE[case]["rows"] if one["method"] == method)


def test_what_the_text_says_of_trained_models() -> None:
    """secant and eap-ig are near exact; relp with AH is not; flow-routes finds nothing of use."""
    assert len(TRAINED) == 5
    for case in TRAINED:
        best = row(case, "exact")["cmd"]
        assert all(row(case, method)["cmd"] < best + 0.045 for method in ("eap-ig", "secant")), case
        assert row(case, "relp")["cmd"] > row(case, "relp, ah off")["cmd"] + 0.015, case
        tenth = DONE[case]["sizes"].index(0.1)
        assert abs(row(case, "flow-routes")["faithfulness"][tenth]) < 0.01, case
        assert row(case, "exact")["faithfulness"][tenth] > 0.785, case
    assert max(row("tiny-ioi: ioi", "relp")["faithfulness"][:-1]) < 0.15


def test_what_the_text_says_of_known_circuits() -> None:
    for name, case in DONE.items():
        if case["kind"] != "known":
            continue
        for one in (each for each in case["rows"] if each["method"] == "acdc"):
            assert (one["kept"] == one["right"] == one["edges"]) == (name != "or-gate")
        resample = {each["method"]: each for each in case["rows"] if each["ablation"] == "resample"}
        assert all(resample[method]["rank"] == 1 for method in ("eap-ig", "secant"))
        assert (resample["exact"]["rank"] == 1) == (name != "or-gate")
