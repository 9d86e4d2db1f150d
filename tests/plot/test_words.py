"""What a picture says of its numbers: method, model, task, direction, prompts; differences and estimates."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from interp import plot, stats


def words(fig) -> str:
    return fig.layout.title.subtitle.text.replace("<br>", " ")


def drawings(result) -> list:
    exact = result()
    positions = result(by=("layer", "pos"), site="resid_pre")
    return [plot.heads(exact), plot.bars(exact), plot.positions(positions)]


def test_every_picture_says_how_on_what_and_on_how_many(result) -> None:
    for fig in drawings(result):
        for part in ("exact patching", "toy on ioi", "denoise: clean patched into corrupt", "20 prompts"):
            assert part in words(fig)


@pytest.mark.parametrize(
    ("method", "title", "said"),
    [
        ("patch", "<b>Effect of each head (z)</b>", "exact patching"),
        ("atp", "<b>Estimated effect of each head (z)</b>", "AtP estimate"),
        ("atp*", "<b>Estimated effect of each head (z)</b>", "AtP* estimate"),
        ("relp(ah=False)", "<b>Estimated effect of each head (z)</b>", "RelP(ah=False) estimate"),
        ("something new", "<b>Effect of each head (z)</b>", "something new"),
    ],
)
def test_an_estimate_is_called_one(result, method: str, title: str, said: str) -> None:
    fig = plot.heads(result(method=method))
    assert fig.layout.title.text == title
    assert words(fig).startswith(f"{said} · toy on ioi")
    assert ("Estimated effects" in plot.bars(result(method=method)).layout.title.text) == ("Est" in title)


def test_a_difference_is_called_one_however_it_was_made(result) -> None:
    exact = result()
    estimate = result(method="atp", seed=1)
    for name in ("clean", "corrupt"):
        estimate[name] = exact[name]
    for parted in (estimate - exact, exact - estimate):
        for given in (parted, stats.mean(parted), stats.bootstrap(parted)):
            fig = plot.heads(given)
            assert fig.layout.title.text == "<b>Difference in effect of each head (z)</b>"
            assert words(fig).startswith("difference of two results")
            assert "exact" not in words(fig)
    rounded = exact.assign(value=exact["value"] * 0.5, clean=exact["clean"] * (1 + 1e-7))
    other = rounded.assign_attrs(direction="noise", convention="another")
    for given in (exact - rounded.assign_attrs(engine="reference", model="other"), exact - other):
        assert "Difference" in plot.bars(given).layout.title.text
        assert "normalised" in words(plot.heads(given))
    assert "difference: atp − patch" in words(plot.heads(stats.difference(estimate, exact)))
    two = plot.heads(exact - exact.assign(value=exact["value"] * 0.5))  # of one method: the baselines tell
    assert "Difference" in two.layout.title.text


def test_layers_patched_together_are_said(result) -> None:
    assert "3 layers at once" in words(plot.heads(result(window=3)))
    assert "at once" not in words(plot.heads(result()))


def test_the_prompts_are_counted_after_a_mean_and_a_choice(result) -> None:
    data = result(n_prompts=7).assign_attrs(n_prompts=7)
    assert "7 prompts" in words(plot.heads(stats.mean(data)))
    assert "7 prompts" in words(plot.heads(data.mean("prompt", keep_attrs=True)))
    assert "3 prompts" in words(plot.heads(data.isel(prompt=[0, 1, 2])))
    assert "prompt 4 alone" in words(plot.heads(data.isel(prompt=4)))
    assert "1 prompt ·" in words(plot.heads(data.isel(prompt=[4])))


@pytest.mark.parametrize(
    ("direction", "ablation", "said"),
    [
        ("denoise", "resample", "denoise: clean patched into corrupt"),
        ("noise", "resample", "noise: corrupt patched into clean"),
        ("noise", "zero", "noise: zeros patched into clean"),
        ("noise", "mean(over=[4, 7] ab)", "noise: means patched into clean"),
        ("denoise", "gaussian(sigma=3.0, draws=4, seed=0)", "denoise: clean patched into a run with noised"),
    ],
)
def test_the_direction_says_what_is_put_where(result, direction: str, ablation: str, said: str) -> None:
    assert said in words(plot.heads(result(direction=direction, ablation=ablation)))


def test_an_asterisk_means_varies_and_an_ellipsis_means_cut(result) -> None:
    data = result(by=("layer", "pos"), site="resid_pre")
    assert "another token" not in words(plot.positions(data))
    tokens = data["token"].values.copy()
    tokens[2], tokens[3] = " Mary*", " antidisestablishmentarianism"
    fig = plot.positions(data.assign_coords(token=("pos", tokens)))
    assert fig.layout.xaxis.ticktext[2:4] == ("·Mary*", "·antidisestablish…")
    assert "*: another token in other prompts" in words(fig)


def test_what_is_no_result_gets_a_sentence(result) -> None:
    for checked in (plot.heads, plot.positions, plot.bars, plot.steering):
        function = inspect.unwrap(checked)  # without the types that tests check
        with pytest.raises(ValueError, match=r"draws a result .* not a ndarray of shape \(4, 6\)"):
            function(np.zeros((4, 6)))
        with pytest.raises(ValueError, match="Give the Dataset and not its variable"):
            function(result()["value"])
