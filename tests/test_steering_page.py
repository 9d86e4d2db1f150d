"""docs/steering.md holds the tables of the study, and the study is of the bundled weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import interp
from interp.models import model_fingerprint

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "steering.md").read_text(encoding="utf-8")
DONE = json.loads((ROOT / "benchmarks" / "results" / "steering_study.json").read_text(encoding="utf-8"))
REAL = json.loads((ROOT / "benchmarks" / "results" / "steering_smollm2.json").read_text(encoding="utf-8"))
ROWS = [{"case": name, **row} for name, case in DONE.items() for row in case["rows"] if "refused" not in row]


def tables() -> Any:
    path = ROOT / "benchmarks" / "steering_study_tables.py"
    spec = importlib.util.spec_from_file_location("steering_study_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(edit: str, method: str | None = None) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["edit"] == edit and method in (None, row["method"])]


def test_the_tables_are_those_of_the_study() -> None:
    assert tables().filled(PAGE, DONE, REAL) == PAGE
    others = PAGE.count("<!-- table smollm2-") + PAGE.count("<!-- table chat-")
    assert PAGE.count("<!-- table ") == len(tables().sections(DONE)) + others
    assert set(DONE) == {"sentiment", "register", "languages", "refusal", "pronouns"}


def test_the_study_is_of_the_bundled_weights() -> None:
    now = model_fingerprint(interp.load("tiny-world"))[:16]
    assert {case["weights"] for case in DONE.values()} == {now}


def test_every_direction_is_at_the_stated_kl_beside_twenty_draws_of_each_control() -> None:
    for row in ROWS:
        assert row["random"]["draws"] == row["shuffled"]["draws"] == 20
        assert row["passes"] == (row["effect"] > max(row["random"]["high"], row["shuffled"]["high"]))
        if row["edit"] != "ablate":
            assert row["kl"] == pytest.approx(0.2, rel=0.02)
        if row["edit"] == "add":
            assert row["random"]["kl"] == pytest.approx(0.2, rel=0.05)


def test_the_batched_runs_are_those_of_the_package() -> None:
    """Each direction was run once more by steer and the public edit; the logit differences agree."""
    assert max(row["gap"] for row in ROWS) < 1e-3
    assert min(abs(row["effect"]) for row in ROWS) > 0.01


def bar(row: dict[str, Any]) -> float:
    return max(row["random"]["high"], row["shuffled"]["high"])


def passes(edit: str, method: str) -> int:
    return sum(row["passes"] for row in rows(edit, method))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_what_the_text_says_of_methods() -> None:
    """The mean difference turned passes everywhere; optimise has the largest effect and seldom passes."""
    every = {(row["edit"], row["method"]) for row in ROWS if row["edit"] != "ablate"}
    assert {pair for pair in every if passes(*pair) == 10} == {
        ("rotate", "mean_difference"),
        ("rotate", "weighted_mean"),
    }
    assert (
        max(row["perplexity"] for row in rows("rotate"))
        < 1.05
        < 8
        < max(r["perplexity"] for r in rows("add"))
    )
    assert passes("add", "mean_difference") == passes("add", "logistic") == 9
    effects = {m: mean([row["effect"] for row in rows("add", m)]) for _, m in every if m != "class_means"}
    assert max(effects, key=effects.__getitem__) == "optimise"
    assert effects["lda"] < effects["mean_difference"]
    assert passes("add", "optimise") == 3
    assert passes("add", "prompt_pair") == 8
    assert passes("add", "class_means") == 0 < passes("rotate", "class_means") == 2
    assert min(row["cosine"] for row in rows("add", "weighted_mean")) > 0.94
    assert min(row["cosine"] for row in rows("add", "pca") if row["case"] != "pronouns") > 0.985


def test_what_the_text_says_of_failures() -> None:
    margins = [row["effect"] - bar(row) for row in rows("add", "mean_difference")]
    assert sum(0 < margin < 0.6 for margin in margins) == 7
    he = [row for row in rows("add") if (row["case"], row["sense"]) == ("pronouns", "he")]
    assert [row["method"] for row in he if row["passes"]] == ["prompt_pair"]
    assert max(row["effect"] for row in he) < 9.45
    assert max(row["flipped"] for row in ROWS if row["edit"] != "ablate") < 0.155
    assert max(row["kl"] for row in rows("ablate") if row["case"] == "pronouns") < 0.008
    wrong = [row for row in rows("ablate", "mean_difference") if row["effect"] < 0]
    assert [(row["case"], row["sense"], row["wrong"]) for row in wrong] == [("sentiment", "positive", 1.0)]
    refusal = [row["effect"] for row in rows("ablate", "mean_difference") if row["case"] == "refusal"]
    assert len(refusal) == 2
    assert min(refusal) > 13


def test_what_the_text_says_of_controls_and_side_effects() -> None:
    added = rows("add", "mean_difference")
    assert sum(row["shuffled"]["high"] > row["random"]["high"] for row in added) == 7
    assert sum(row["effect"] > row["equal_norm"]["high"] for row in added) == 9
    assert sum(row["equal_norm"]["kl"] < 0.04 for row in added) == 8
    steered = [row for row in ROWS if row["edit"] != "ablate"]
    assert min(row["entropy"] for row in steered) > 0.155
    assert max(row["repetition"] - row["base_repetition"] for row in steered) < 0.215
    assert max(row["wrong"] for row in rows("add")) < 1 / 23
    refusal = [row for row in rows("add") if row["case"] == "refusal"]
    assert max(row["random"]["wrong"] for row in refusal) < 0.045
    assert max(row["random"]["wrong"] for row in rows("add")) > 0.6


def test_what_the_text_says_of_the_real_model() -> None:
    """Every direction passes, with margins of its own for each control."""
    found = {
        (row["method"], row["edit"]): row for row in REAL["sentiment"]["rows"] if row["sense"] == "positive"
    }
    assert len(found) == 7
    for row in found.values():
        assert row["random"]["draws"] == row["shuffled"]["draws"] == 20
        assert row["kl"] == pytest.approx(0.2, rel=0.02)
        assert row["passes"]
        assert row["layer"] == 22
        assert 0.985 < row["perplexity"] < 1.015
        assert row["gap"] < 1e-3
    mean_difference, pca = (found[method, "add"] for method in ("mean_difference", "pca"))
    assert abs(mean_difference["random"]["mean"]) < 0.02
    assert 0.36 < mean_difference["effect"] - mean_difference["shuffled"]["high"] < 0.38
    assert 1.3 < mean_difference["effect"] - mean_difference["random"]["high"] < 1.32
    assert 1.28 < pca["effect"] - bar(pca) < 1.3
    assert pca["cosine"] > 0.995
    assert max(found.values(), key=lambda row: row["effect"])["method"] == "prompt_pair"
