"""docs/estimators.md: its tables are those that were measured, on the models as they are now."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import interp
from interp.models import model_fingerprint

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/estimators.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[ModuleType, ModuleType, ModuleType]]:
    """benchmarks/estimators.py and its two parts."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import estimator_cases
        import estimator_tables
        import estimators

        yield estimators, estimator_cases, estimator_tables
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def done(scripts: Any) -> dict[str, dict[str, Any]]:
    return scripts[0].load()


def row(case: dict[str, Any], site: str, method: str) -> dict[str, Any]:
    return next(
        one for one in case["rows"] if (one["site"], one["method"], one["cells"]) == (site, method, "all")
    )


def test_the_tables_are_those_that_were_measured(scripts: Any, done: Any) -> None:
    tables = scripts[2]
    names = re.findall(r"<!-- table ([\w-]+) -->", PAGE)
    assert set(names) == set(tables.sections(done))
    assert tables.filled(PAGE, done) == PAGE, "stale: run benchmarks/estimators.py --docs"
    assert "| nan |" not in PAGE
    whole = (ROOT / "benchmarks/results/estimators.md").read_text(encoding="utf-8")
    assert tables.everything(done) == whole


def test_every_case_was_measured(scripts: Any, done: Any, tmp_path: Path) -> None:
    cases = scripts[1]
    wanted = {
        f"{case.group}: {case.name}"
        for group in ("tiny-ioi", "tiny-world", "random")
        for case in cases.cases(group, tmp_path)
    }
    assert {key for key, case in done.items() if case["group"] not in ("others", "smollm2")} == wanted
    assert sum(case["group"] == "others" for case in done.values()) == 4
    assert not list(cases.cases("others", tmp_path)), "models that are not there are skipped"


@pytest.mark.parametrize("name", ["tiny-ioi", "tiny-world"])
def test_the_weights_are_those_that_were_measured(done: Any, name: str) -> None:
    weights = model_fingerprint(interp.load(name))[:16]
    assert {case["weights"] for case in done.values() if case["group"] == name} == {weights}, (
        f"{name} has other weights now: run benchmarks/estimators.py --models {name} --again"
    )


@pytest.mark.parametrize("site", ["z", "resid_pre"])
def test_a_case_gives_the_same_figures_again(scripts: Any, done: Any, site: str) -> None:
    estimators, cases, _ = scripts
    name = "RMS-gelu_new-plain-serial-mha-learned"
    model, task = next(case for case in cases.cases("random", ROOT) if case.name == name).make()
    exact = interp.patch(model, task, site, progress=False)
    for method in ("atp", "relp", "secant"):
        estimate = interp.attribute(model, task, site, method=method, progress=False)
        again = estimators.rows(site, method, estimate, exact)[0]
        before = row(done[f"random: {name}"], site, method)
        assert before["n_cells"] > 10
        for figure in ("pearson", "relative_l1", "slope"):
            assert again[figure] == pytest.approx(before[figure], abs=2e-5)


def test_what_the_text_counts(done: Any) -> None:
    """The counts of `In short` are those of the table of duels."""
    trained = [case for case in done.values() if case["group"] not in ("random", "smollm2")]
    errors = {
        (site, method): [row(case, site, method)["relative_l1"] for case in trained]
        for site in ("resid_pre", "attn_out", "mlp_out", "post")
        for method in ("atp", "ig", "relp", "relp, ah off", "attnlrp", "gim", "secant")
    }
    for (site, method), found in errors.items():
        if site == "post" and method != "atp":
            assert all(atp < other for atp, other in zip(errors["post", "atp"], found))
    wins = {
        site: sum(a < b for a, b in zip(errors[site, "relp, ah off"], errors[site, "atp"]))
        for site in ("resid_pre", "attn_out", "mlp_out")
    }
    assert min(wins.values()) >= 23
    assert all(
        secant <= min(errors["resid_pre", other][i] for other in ("atp", "ig", "relp", "relp, ah off"))
        for i, secant in enumerate(errors["resid_pre", "secant"])
    )
