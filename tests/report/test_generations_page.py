"""Pages of steering: texts side by side, the table of a sweep, the table of probes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from interp import report

RUNS = ("base", "steered", "random", "shuffled")
PROMPTS = ("I found the", "The <b>film</b> was")


def generations(runs: tuple[str, ...] = RUNS) -> xr.Dataset:
    """As steering.side_by_side returns it."""
    texts = [[f"{run} text {i}" for i in range(len(PROMPTS))] for run in runs]
    texts[1][1] = "<script>alert(1)</script>"
    two = ("run", "prompt")
    numbers = np.arange(2.0 * len(runs)).reshape(len(runs), 2)
    found = {
        "text": (two, np.array(texts, dtype=object)),
        "coefficient": ("run", [0.0, -1.25, 2.0, 4.0][: len(runs)]),
    }
    found |= {"kl": (two, numbers), "loss": (two, numbers + 0.25), "repetition": (two, numbers / 100)}
    coords = {"run": list(runs), "prompt": [0, 1], "prompt_text": ("prompt", np.array(PROMPTS, dtype=object))}
    attrs = {"method": "generations", "direction_method": "mean_difference", "site": "L2.resid_pre"}
    attrs |= {
        "when": "generated",
        "model": "toy",
        "seed": 3,
        "versions": '{"torch": "2.9"}',
        "convention": "kl: ...",
    }
    return xr.Dataset(found, coords, attrs)


def rows(page: str, after: str) -> list[list[str]]:
    body = page.split(after)[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


def test_texts_stand_side_by_side_below_the_means(tmp_path: Path) -> None:
    page = report.write([generations()], tmp_path / "page.html").read_text()
    header = re.findall(r"<th scope='col'>(.*?)</th>", page.split("class='texts'")[1])
    assert header == ["prompt", "unsteered", "steered", "random direction", "shuffled labels"]
    first, second = rows(page, "class='texts'")
    assert first == ["I found the", *(f"{run} text 0" for run in RUNS)]
    assert second[:3] == [
        "The &lt;b&gt;film&lt;/b&gt; was",
        "base text 1",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ]
    numbers = rows(page, "mean_difference at L2.resid_pre, generated, on 2 prompts")
    assert numbers[1] == ["steered", "−1.25", "2.500", "2.750", "0.025"]
    assert [row[0] for row in numbers] == ["unsteered", "steered", "random direction", "shuffled labels"]
    assert "<script>" not in page
    assert "method generations; model toy" in page


def test_a_run_without_shuffled_labels_has_no_column_for_it(tmp_path: Path) -> None:
    page = report.write([generations(RUNS[:3])], tmp_path / "page.html").read_text()
    assert all(len(row) == 4 for row in rows(page, "class='texts'"))
    assert "shuffled labels" not in page


def test_a_sweep_is_a_table_of_the_best_setting_of_each_layer(tmp_path: Path) -> None:
    dims = ("prompt", "layer", "coefficient", "metric")
    value = np.zeros((2, 3, 4, 2))
    value[0, :, :, 0] = np.array([0.0, 1.0, 5.0])[:, None]
    value[1, :, :, 0] = np.array([0.0, 2.0, 3.0])[:, None]
    value[1, :, 0, 0] = [0.0, -1.0, -2.0]  # one prompt of four the wrong way
    value[..., 1] = np.array([0.0, 0.3, 0.9])[:, None]  # beyond the limit at the last coefficient
    value = value.transpose(2, 0, 1, 3) * [1, -1]  # an effect: what lowers the KL helps
    found = {"value": (dims, value), "random": (dims, value / 10)}
    found["clean"] = (("prompt", "metric"), np.zeros((4, 2)))
    coords = {"layer": [2, 5], "coefficient": [0.0, 1.0, 2.0], "metric": ["logit_diff", "kl"]}
    attrs = {"method": "sweep", "metric": "logit_diff, kl", "unit": "logits, nats", "better": "higher, lower"}
    page = report.write([xr.Dataset(found, coords, attrs)], tmp_path / "page.html").read_text()
    assert rows(page, "mean KL of 0.5 nats or less") == [
        ["2", "1", "+1", "+0.1", "0.3", "0 %"],
        ["5", "1", "+1.25", "+0.125", "0.3", "25 %"],
    ]


@pytest.mark.parametrize("by_head", [False, True])
def test_probes_are_a_table_with_the_most_accurate_first(tmp_path: Path, by_head: bool) -> None:
    dims = ("layer", "head") if by_head else ("layer",)
    shape = (3, 5) if by_head else (3,)
    accuracy = np.linspace(0.5, 0.9, int(np.prod(shape))).reshape(shape)
    names = ("auroc", "p_value", "ece_raw", "ece")
    found = {"accuracy": (dims, accuracy), "control": (("draw", *dims), np.full((4, *shape), 0.5))}
    found |= {name: (dims, np.full(shape, 0.25)) for name in names}
    coords = {dim: np.arange(n) for dim, n in zip(dims, shape)}
    attrs = {"method": "probe", "site": "z", "reads": "last token", "n_train": 8, "n_held_out": 4}
    page = report.write([xr.Dataset(found, coords, attrs)], tmp_path / "page.html").read_text()
    table = rows(page, "trained on 8 prompts, measured on 4")
    assert len(table) == (12 if by_head else 3)
    assert table[0] == ["L2H4" if by_head else "L2", "0.900", "0.250", "0.500", "0.250", "0.250", "0.250"]
    shown = [float(row[1]) for row in table]
    assert shown == sorted(shown, reverse=True)
