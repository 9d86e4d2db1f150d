"""Heads and positions: the numbers drawn are the result's, where and as they should be."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from interp import plot, stats


def layer_axis(fig: go.Figure) -> go.layout.YAxis:
    return fig.layout.yaxis


def test_heads_draws_the_prompt_means_by_layer_and_head(result) -> None:
    data = result()
    fig = plot.heads(data)
    (trace,) = fig.data
    np.testing.assert_allclose(trace.z, data["value"].mean("prompt"), rtol=1e-5)
    assert trace.z.dtype == np.float32
    assert layer_axis(fig).range == (3.5, -0.5)  # layer 0 is on top
    assert layer_axis(fig).ticktext == ("0", "1", "2", "3")
    assert fig.layout.xaxis.ticktext == ("0", "1", "2", "3", "4", "5")
    assert trace.hovertext[2][4].startswith("<b>L2H4</b>")


def test_the_axes_do_not_depend_on_the_order_of_the_dims(result) -> None:
    data = result()
    turned = data.transpose("head", "prompt", "layer")
    (a,), (b,) = plot.heads(data).data, plot.heads(turned).data
    np.testing.assert_array_equal(a.z, b.z)
    np.testing.assert_array_equal(a.hovertext, b.hovertext)


def test_the_scale_is_symmetric_and_blue_is_positive(result) -> None:
    data = result()
    axis = plot.heads(data).layout.coloraxis
    assert (
        axis.cmax == -axis.cmin == pytest.approx(float(np.abs(data["value"].mean("prompt")).max()), rel=1e-6)
    )
    (_, low), (_, middle), (_, high) = (axis.colorscale[i] for i in (0, 5, -1))
    red, green, blue = (int(high[i : i + 2], 16) for i in (1, 3, 5))
    assert blue > green > red
    red, green, blue = (int(low[i : i + 2], 16) for i in (1, 3, 5))
    assert red > max(green, blue)
    assert middle == "#f7f7f7"


def test_normalised_effects_and_their_unit(result) -> None:
    data = result()
    fig = plot.heads(data, normalise=True)
    np.testing.assert_allclose(fig.data[0].z, stats.normalise(data)["value"], rtol=1e-6)
    assert "normalised: 0 unpatched" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert "share of clean − corrupt" in fig.data[0].hovertext[0][0]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_subtitle_says_direction_prompts_metric_and_scale(result, direction: str) -> None:
    subtitle = plot.heads(result(n_prompts=7, direction=direction)).layout.title.subtitle.text
    for words in (f"{direction}: ", "7 prompts", "logit_diff (logits)", "not normalised"):
        assert words in subtitle.replace("<br>", " ")


def test_intervals_are_on_hover_and_in_the_subtitle(result) -> None:
    data = result()
    found = stats.bootstrap(data)
    fig = plot.heads(data, interval=0.95)
    low = f"{float(found['low'][1, 2]):+.4g}".replace("-", "−")
    assert f"95 % interval {low} to" in fig.data[0].hovertext[1][2]
    assert "95 % intervals over 12 groups of prompts" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert fig == plot.heads(data, interval=found)
    tested = stats.test(data)
    p = float(tested["p"][1, 2])
    end = f"<br>p {p:.2g} with all {tested.attrs['family']} cells allowed for (max-|t|)"
    assert fig.data[0].hovertext[1][2].endswith(end)
    assert plot.heads(found).data[0].hovertext[1][2] == fig.data[0].hovertext[1][2].removesuffix(end)


def test_a_panel_for_every_site_on_one_scale(result) -> None:
    sites = ("q", "k", "v", "pattern", "z")
    data = result(sites=sites)
    fig = plot.heads(data)
    assert [a.text for a in fig.layout.annotations] == [f"<b>{site}</b>" for site in sites]
    for site, trace in zip(sites, fig.data):
        np.testing.assert_allclose(trace.z, data["value"].sel(site=site).mean("prompt"), rtol=1e-5)
        assert trace.coloraxis == "coloraxis"
    assert fig.data[1].hovertext[2][4].startswith("<b>L2H4.k</b>")


def test_one_of_several_metrics(result) -> None:
    data = result(metrics=("logit_diff", "kl"))
    fig = plot.heads(data, metric="kl")
    np.testing.assert_allclose(fig.data[0].z, data["value"].sel(metric="kl").mean("prompt"), rtol=1e-5)
    assert "kl (nats)" in fig.layout.title.subtitle.text
    assert "nats" in fig.data[0].hovertext[0][0]
    with pytest.raises(ValueError, match=r"2 metrics: logit_diff, kl\. Choose one"):
        plot.heads(data)
    with pytest.raises(ValueError, match="did you mean 'logit_diff'"):
        plot.heads(data, metric="logit_dif")
    alone = plot.heads(data.sel(metric="kl"))
    np.testing.assert_array_equal(alone.data[0].z, fig.data[0].z)


def test_cells_that_do_not_exist_are_left_blank(result) -> None:
    data = result(sites=("q", "k"))
    data["value"][{"site": 1, "head": slice(2, None)}] = np.nan
    fig = plot.heads(data)
    assert np.isnan(fig.data[1].z[:, 2:]).all()
    assert np.isfinite(fig.layout.coloraxis.cmax)


def test_a_cell_without_a_value_is_hatched_and_says_so(result) -> None:
    data = result()
    data["value"][:, 1, 2:4] = np.nan
    data["value"][:, 3, 5] = np.nan
    data["value"][:, 0, 0] = 0.0
    fig = plot.heads(data)
    effects, hatched = fig.data
    assert np.isnan(effects.z[1, 2:4]).all()
    assert hatched.fillpattern.shape == "/"
    corners = [(x, y) for x, y in zip(hatched.x, hatched.y) if x is not None]
    assert set(corners[:5]) == {(1.5, 0.5), (3.5, 0.5), (3.5, 1.5), (1.5, 1.5)}
    assert set(corners[5:]) == {(4.5, 2.5), (5.5, 2.5), (5.5, 3.5), (4.5, 3.5)}
    assert "no value (NaN)" in effects.hovertext[1][2]
    assert effects.text[1, 2] == ""
    assert "hatched: no value" in fig.layout.title.subtitle.text
    assert "hatched" not in plot.heads(result()).layout.title.subtitle.text


def test_long_tokens_on_few_layers(result) -> None:
    """The gap between rows of panels was larger than a figure of one row."""
    data = result(by=("layer", "pos"), site="resid_pre", sizes={"layer": 3})
    data["token"][3] = "antidisestablishme"
    assert len(plot.positions(data).data) == 1
    panels = result(by=("layer", "pos"), sites=("q", "k", "v", "z"), sizes={"layer": 3})
    panels["token"][3] = "antidisestablishme"
    assert len(plot.positions(panels).data) == 4


def test_the_end_of_the_scale_can_be_given(result) -> None:
    axis = plot.heads(result(), zmax=0.5).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-0.5, 0.5)
    with pytest.raises(ValueError, match="zmax is -1"):
        plot.heads(result(), zmax=-1.0)


def test_one_huge_cell_does_not_flatten_the_rest(result) -> None:
    data = result(sizes={"layer": 12, "head": 12})
    rest = float(np.sort(np.abs(data["value"].mean("prompt").values).ravel())[-3])
    data["value"][:, 5, 7] = -40.0
    fig = plot.heads(data)
    assert rest <= fig.layout.coloraxis.cmax < 4
    assert fig.layout.coloraxis.colorbar.ticktext[-1].startswith("≥")
    assert "beyond the colours: L5H7 −40" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert fig.data[0].text[5, 7] == "−40.00"
    assert "beyond" not in plot.heads(data, zmax=40.0).layout.title.subtitle.text
    data["value"][:, :, :7] = 30.0  # many large cells are the result, and no outliers
    assert plot.heads(data).layout.coloraxis.cmax == 40.0


def test_hovers_have_the_interval_unless_it_is_not_wanted(result) -> None:
    assert "95 % interval" in plot.heads(result()).data[0].hovertext[0][0]
    assert "interval" not in plot.heads(result(), interval=None).data[0].hovertext[0][0]
    assert "interval" not in plot.heads(result(n_prompts=1)).data[0].hovertext[0][0]
    assert "% of clean − corrupt" in plot.heads(result()).data[0].hovertext[0][0]


def test_a_choice_of_heads_keeps_their_numbers(result) -> None:
    fig = plot.heads(result().isel(head=[0, 5]))
    assert fig.layout.xaxis.ticktext == ("0", "5")
    assert fig.layout.xaxis.range == (-0.5, 1.5)


def test_a_window_is_named_by_its_layers(result) -> None:
    fig = plot.positions(result(by=("layer", "pos"), site="resid_pre", window=3))
    assert fig.data[0].hovertext[0][1].startswith("<b>L0.resid_pre@1 to L2</b>")


def test_positions_have_a_column_for_every_token(result) -> None:
    data = result(by=("layer", "pos"), site="resid_pre")
    fig = plot.positions(data)
    (trace,) = fig.data
    np.testing.assert_allclose(trace.z, data["value"].mean("prompt"), rtol=1e-5)
    axis = fig.layout.xaxis
    assert list(axis.tickvals) == list(range(trace.z.shape[1])) == list(range(12))
    assert axis.ticktext[:8] == (
        "&lt;s&gt;",
        "·When",
        "·Mary",
        "·and",
        "·&#36;5",
        "·&#36;6",
        "&lt;b&gt;x",
        "·Mary",
    )
    assert axis.ticktext[9:11] == ("\\n", "&amp;amp;")
    assert "pos 6: &lt;b&gt;x" in trace.hovertext[0][6]


def test_positions_without_tokens_are_numbered(result) -> None:
    data = result(by=("layer", "pos"), site="resid_pre").drop_vars("token")
    fig = plot.positions(data.isel(pos=slice(4, 8)))
    assert fig.layout.xaxis.ticktext == ("4", "5", "6", "7")


def test_positions_of_three_sites(result) -> None:
    sites = ("resid_pre", "attn_out", "mlp_out")
    fig = plot.positions(result(by=("layer", "pos"), sites=sites), normalise=True)
    assert [a.text for a in fig.layout.annotations] == [
        "<b>residual stream (resid_pre)</b>",
        "<b>attention (attn_out)</b>",
        "<b>MLP (mlp_out)</b>",
    ]
    assert fig.data[2].hovertext[3][5].startswith("<b>MLP3@5</b>")


def test_positions_of_one_head(result) -> None:
    data = result(by=("layer", "pos", "head"))
    fig = plot.positions(data, head=4, interval=stats.bootstrap(data))
    np.testing.assert_allclose(fig.data[0].z, data["value"].sel(head=4).mean("prompt"), rtol=1e-5)
    assert fig.data[0].hovertext[2][7].startswith("<b>L2H4@7</b>")
    with pytest.raises(ValueError, match="Choose a head"):
        plot.positions(data)
    with pytest.raises(ValueError, match="heads 0 to 5"):
        plot.positions(data, head=6)
    with pytest.raises(ValueError, match="no head dim"):
        plot.positions(result(by=("layer", "pos")), head=0)


@pytest.mark.parametrize(
    ("draw", "by", "says"),
    [
        (plot.heads, ("layer", "pos"), "has the dims layer, pos. Use plot.positions"),
        (plot.positions, ("layer", "head"), "has the dims layer, head. Use plot.heads"),
        (plot.heads, ("layer", "neuron"), "Use plot.bars"),
        (plot.heads, ("layer", "pos", "head"), r"result.isel\(pos=0\)"),
        (plot.heads, ("layer", "head", "dst", "src"), r"result.isel\(dst=0, src=0\)"),
    ],
)
def test_other_dims_say_which_function(result, draw, by: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw(result(by=by))


def test_what_is_no_result(result) -> None:
    with pytest.raises(ValueError, match="no variable 'value'"):
        plot.heads(result()[["clean"]])
    with pytest.raises(ValueError, match="needs the prompts"):
        plot.heads(stats.mean(result()), normalise=True)


def test_means_draw_like_the_result(result) -> None:
    data = result()
    assert plot.heads(stats.mean(data)) == plot.heads(data, interval=None)
    assert plot.heads(stats.normalise(data)) == plot.heads(data, normalise=True, interval=None)


def test_the_template_is_the_figures_own(result) -> None:
    before = pio.templates.default
    fig = plot.heads(result())
    assert pio.templates.default == before
    assert fig.layout.template.layout.plot_bgcolor == "#ffffff"


def test_a_wide_figure_stays_on_the_page(result) -> None:
    wide = result(by=("layer", "pos"), sites=("resid_pre", "attn_out", "mlp_out"), sizes={"pos": 15})
    fig = plot.positions(wide)
    assert fig.layout.width is None  # it fills its container
    assert len({axis.domain for axis in fig.select_xaxes()}) == 3
    fifty = plot.positions(result(by=("layer", "pos"), sites=("resid_pre", "attn_out"), sizes={"pos": 50}))
    assert len({axis.domain for axis in fifty.select_xaxes()}) == 1  # one below the other
    many = plot.positions(result(by=("layer", "pos"), site="resid_pre", sizes={"pos": 200}))
    assert 20 < len(many.layout.xaxis.ticktext) < 70


def test_long_titles_are_wrapped_and_escaped(result) -> None:
    fig = plot.heads(result(model="word " * 60), title="a <b> title")
    lines = fig.layout.title.subtitle.text.split("<br>")
    assert len(lines) > 3
    assert max(map(len, lines)) <= 118
    assert fig.layout.margin.t > plot.heads(result()).layout.margin.t
    assert fig.layout.title.text == "<b>a &lt;b&gt; title</b>"
