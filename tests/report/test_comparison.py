"""Comparisons: the figures of agreement, and the cells with the largest error, largest first."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from interp import report, stats


def rows(page: str, caption: str) -> list[list[str]]:
    """The cells of the table below a caption."""
    body = page.split(caption)[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


def test_tables_of_a_comparison(result, tmp_path: Path) -> None:
    exact = result()
    estimate = exact.copy(deep=True)
    estimate["value"] = estimate["value"] * 0.9
    estimate["value"][:, 1, 4] += 7.0
    estimate["value"][:, 3, 2] -= 3.0
    page = report.write([report.Comparison(estimate, exact)], tmp_path / "page.html").read_text()
    figures = {row[0]: row[1:] for row in rows(page, "Agreement with exact patching on logit_diff")}
    found = stats.agreement(estimate, exact)
    for cells in ("all", "without largest"):
        expected = [f"{float(found[name].sel(cells=cells)):.3f}" for name in ("pearson", "spearman", "slope")]
        assert figures[cells][:3] == expected
    worst = rows(page, "cells on which the estimate errs most")
    assert [row[0] for row in worst[:2]] == ["L1H4", "L3H2"]
    exact_mean = float(exact["value"].mean("prompt")[1, 4])
    np.testing.assert_allclose(float(worst[0][1].replace("−", "-")), exact_mean, rtol=1e-2)
    np.testing.assert_allclose(float(worst[0][3].replace("−", "-")), 7 - 0.1 * exact_mean, rtol=1e-2)


def test_one_table_for_each_metric(result, tmp_path: Path) -> None:
    exact = result(metrics=("logit_diff", "kl"))
    estimate = exact.copy(deep=True)
    estimate["value"] = estimate["value"] * 1.5
    page = report.write([report.Comparison(estimate, exact)], tmp_path / "page.html").read_text()
    for name in ("logit_diff", "kl"):
        (row, _) = rows(page, f"Agreement with exact patching on {name}")
        assert row[3] == "1.500"
