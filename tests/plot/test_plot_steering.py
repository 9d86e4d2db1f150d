"""The picture of a sweep: the effect with its sign, what it costs, and the controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from interp import plot

LAYERS, STEPS, N = [1, 3, 4], [-1.0, 0.0, 2.0], 10


def sweep(metrics: tuple[str, ...] = ("logit_diff", "kl"), neutral: bool = True, seed: int = 0) -> xr.Dataset:
    """A result as steering.sweep returns it."""
    rng = np.random.default_rng(seed)
    dims = ("prompt", "layer", "coefficient", "metric")
    shape = (N, len(LAYERS), len(STEPS), len(metrics))
    found = {name: (dims, rng.normal(0, 1, shape)) for name in ("value", "random", "shuffled")}
    found["clean"] = (("prompt", "metric"), rng.normal(0.5, 1, (N, len(metrics))))
    if neutral:
        found["neutral_loss"] = (("layer", "coefficient", "neutral_prompt"), rng.uniform(1, 3, (3, 3, 7)))
    coords = {"layer": LAYERS, "coefficient": STEPS, "prompt": np.arange(N), "metric": list(metrics)}
    coords["in_norms"] = (dims[1:3], np.outer([0.5, 1, 2], STEPS))
    coords["place"] = ("layer", np.array([f"L{layer}.resid_pre" for layer in LAYERS], dtype=object))
    lower = [name for name in metrics if name in ("kl", "loss", "entropy")]
    attrs = {
        "method": "sweep", "direction_method": "mean_difference", "site": "resid_pre", "model": "toy",
        "when": "everywhere", "task": "ioi", "n_prompts": N, "metric": ", ".join(metrics),
        "unit": ", ".join("nats" for _ in metrics),
        "better": ", ".join("lower" if name in lower else "higher" for name in metrics),
    }  # fmt: skip
    made = xr.Dataset(found, coords, attrs)
    return made if len(metrics) > 1 else made.squeeze("metric", drop=True)


def test_panels_are_the_effect_the_kl_and_the_perplexity() -> None:
    result = sweep()
    figure = plot.steering(result)
    effect, kl, perplexity = (trace.z for trace in figure.data)
    np.testing.assert_allclose(effect, result["value"].sel(metric="logit_diff").mean("prompt"))
    unsteered, change = (result[name].sel(metric="kl") for name in ("clean", "value"))
    np.testing.assert_allclose(kl, (unsteered - change).mean("prompt"))  # lower is better
    np.testing.assert_allclose(perplexity, np.exp(result["neutral_loss"].mean("neutral_prompt")))
    assert [a.text for a in figure.layout.annotations] == [
        "<b>effect on logit_diff</b>",
        "<b>KL</b>",
        "<b>perplexity of neutral text</b>",
    ]
    assert figure.data[0].y.tolist() == LAYERS
    assert figure.layout.xaxis.ticktext == ("−1", "0", "2")


def test_blue_is_better_and_the_scale_is_centred() -> None:
    figure = plot.steering(sweep())
    axis = figure.layout.coloraxis
    end = np.abs(figure.data[0].z).max()
    assert (axis.cmin, axis.cmid, axis.cmax) == pytest.approx((-end, 0, end))
    assert axis.colorscale[-1][1] == "#053061"
    assert figure.layout.coloraxis2.cmin == 0


def test_the_kl_alone_is_a_cost() -> None:
    result = sweep(("loss", "kl"))
    np.testing.assert_allclose(
        plot.steering(result).data[0].z, result["value"].sel(metric="loss").mean("prompt")
    )
    assert "effect on kl" not in str(plot.steering(result, metric="kl").layout.annotations)
    cost = (result["clean"] - result["value"]).sel(metric="kl").mean("prompt")
    np.testing.assert_allclose(plot.steering(result, metric="kl").data[0].z, cost)


def test_hover_has_the_controls_and_the_length_in_norms() -> None:
    result = sweep()
    text = plot.steering(result).data[0].hovertext[1][2]
    assert text.startswith("<b>layer 3, coefficient 2</b><br>2 median norms<br>steered: ")
    difference = result["random"].sel(metric="logit_diff", layer=3, coefficient=2.0)
    shown = text.split("random: ")[1].split(" ")[0].replace("−", "-")
    assert float(shown) == pytest.approx(float(difference.mean()), rel=1e-3)
    assert "shuffled: " in text


def test_one_layer_gives_lines_with_the_spread_and_both_controls() -> None:
    result = sweep().isel(layer=[1], coefficient=[2, 0, 1])  # coefficients in any order
    figure = plot.steering(result)
    drawn = {(trace.name, trace.xaxis): trace for trace in figure.data}
    ordered = result.sortby("coefficient")
    for name, variable in (
        ("steered", "value"),
        ("random direction", "random"),
        ("shuffled labels", "shuffled"),
    ):
        line = drawn[(name, "x")]
        effect = ordered[variable].sel(metric="logit_diff").isel(layer=0)
        np.testing.assert_allclose(line.x, sorted(STEPS))
        np.testing.assert_allclose(line.y, effect.mean("prompt"))
    band = drawn[("spread over prompts", "x")]
    effect = ordered["value"].sel(metric="logit_diff").isel(layer=0)
    low, high = (effect.quantile(q, "prompt").values for q in (0.1, 0.9))
    np.testing.assert_allclose(band.y, [*high, *low[::-1]])
    assert ("steered", "x3") in drawn
    assert ("random direction", "x3") not in drawn  # neutral text is not measured for controls
    assert sum(bool(trace.showlegend) for trace in figure.data) == 4
    assert "L3.resid_pre" in figure.layout.title.text


def test_what_was_not_measured_is_not_drawn() -> None:
    assert len(plot.steering(sweep(neutral=False)).data) == 2
    alone = sweep(("logit_diff",), neutral=False)
    assert [a.text for a in plot.steering(alone).layout.annotations] == ["<b>effect on logit_diff</b>"]
    bare = plot.steering(alone.drop_vars(["random", "shuffled"]).isel(layer=[0]))
    assert [trace.name for trace in bare.data] == ["spread over prompts", "steered"]


def test_the_subtitle_says_how_on_what_and_on_how_many() -> None:
    words = plot.steering(sweep()).layout.title.subtitle.text
    for part in ("mean_difference", "toy on ioi", "resid_pre", "everywhere", "10 prompts"):
        assert part in words


def test_names_are_text_and_not_markup() -> None:
    result = sweep()
    result.attrs["model"] = "<script>"
    assert "<script>" not in plot.steering(result, title="<i>").to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.assign_attrs(method="patch"), "not the result of steering.sweep"),
        (lambda r: r.drop_vars("clean"), "not the result of steering.sweep"),
        (lambda r: r.isel(layer=0), "lost its dim 'layer'"),
        (lambda r: r.isel(prompt=0), "lost its dim 'prompt'"),
    ],
)
def test_other_data_is_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot.steering(change(sweep()))


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'logit_diff'"):
        plot.steering(sweep(), metric="logit_dif")


def test_both_pictures_can_be_rendered(browser: None, tmp_path: Path) -> None:
    result = sweep()
    paths = [tmp_path / "map.png", tmp_path / "lines.png"]
    plot.save_image([plot.steering(result), plot.steering(result.isel(layer=[0]))], paths, scale=1.0)
    assert all(path.stat().st_size > 10_000 for path in paths)
