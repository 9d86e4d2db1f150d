"""Probes that read while text is generated: the scores of the whole text so far, and nothing else changed."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp import probes, steering
from interp.models import anatomy
from interp.places import Place
from interp.probes.aggregate import KINDS, Weights, scores
from interp.probes.thresholds import operating, threshold

HEADS = {"attention": 2, "multimax": 3, "rolling": 2}


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    """Of three lengths, so that two are padded on the left."""
    tokens = architectures.tokens(3, 3)[0].tolist()
    return [tokens[0], tokens[1][:4], tokens[2][:6]]


def drawn(kind: str, model: Any, layers: tuple[int, ...] = (1, 2)) -> probes.Probes:
    generator = torch.Generator().manual_seed(0)
    heads = HEADS.get(kind, 1)
    parts = {
        Place("resid_pre", layer): Weights(
            torch.randn(1, 24, heads, generator=generator, dtype=torch.float64),
            torch.randn(1, 24, heads, generator=generator, dtype=torch.float64),
            torch.randn(1, generator=generator, dtype=torch.float64),
        )
        for layer in layers
    }
    return probes.Probes(parts, kind, "all", anatomy(model).name)


def whole(model: Any, probe: probes.Probes, ids: list[int]) -> np.ndarray:
    """The batch score of each prefix of a row, [place, pos]."""
    found = []
    for place, weights in probe.weights.items():
        rows = interp.activations(model, [ids], str(place), pos="all").double()
        parts = [rows[None, : n + 1] for n in range(len(ids))]
        found.append(
            [float(scores(probe.agg, h, torch.ones(h.shape[:2]).bool(), weights)[0, 0]) for h in parts]
        )
    return np.array(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_stream_is_the_batch_score_of_every_prefix(kind: str, engine: str, model: Any, rows: Any) -> None:
    """Across the prompt and what is generated, on rows padded on the left, at several places."""
    probe = drawn(kind, model)
    tokens, found = probes.watch(model, rows, probe, max_new_tokens=4, stop=(), engine=engine)
    for i, row in enumerate(rows):
        read = [*row, *tokens[i, len(row) : len(row) + 3].tolist()]  # all but the last
        expected = whole(model, probe, read)
        np.testing.assert_allclose(found["value"].values[i, :, : len(read)], expected, atol=1e-9)
        assert np.isnan(found["value"].values[i, :, len(read) :]).all()
        np.testing.assert_allclose(found["highest"].values[i], expected.max(-1), atol=1e-9)
        np.testing.assert_allclose(found["last"].values[i], expected[:, -1], atol=1e-9)
    assert float(np.nanstd(found["value"].values)) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_any_chunks_of_a_prompt_give_the_same(kind: str, model: Any, rows: Any) -> None:
    probe = drawn(kind, model)
    at_once = probes.stream(model, rows, probe)
    for piece in (1, 2, 5):
        np.testing.assert_allclose(
            probes.stream(model, rows, probe, piece=piece)["value"], at_once["value"], atol=1e-9
        )
    np.testing.assert_allclose(at_once["value"].values[0], whole(model, probe, rows[0]), atol=1e-9)


def test_long_texts_have_blocks(model: Any) -> None:
    """A moving mean in blocks of 64 tokens, against the matrix over all of them."""
    from interp.probes._stream import State

    weights = drawn("ema", model).weights[Place("resid_pre", 1)]
    h = torch.randn(2, 150, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    running = State("ema", weights).take(h, torch.tensor([150, 150]))
    for n in (1, 64, 65, 150):
        batch = scores("ema", h[:, :n], torch.ones(2, n).bool(), weights)[0]
        np.testing.assert_allclose(running[:, n - 1], batch, atol=1e-9)


def test_nothing_of_the_text_is_changed_and_no_pass_is_added(model: Any, rows: Any) -> None:
    passes = []
    model.add_hook("blocks.0.hook_resid_pre", lambda tensor, hook: passes.append(tensor.shape))
    try:
        plain = steering.generate(model, rows, max_new_tokens=3, stop=(), engine="reference")
        n = len(passes)
        watched, _ = probes.watch(
            model, rows, drawn("mean", model), max_new_tokens=3, stop=(), engine="reference"
        )
        assert len(passes) == 2 * n
    finally:
        model.reset_hooks()
    assert torch.equal(plain, watched)


def test_a_row_that_is_over_is_read_no_further(model: Any, rows: Any) -> None:
    probe = drawn("mean", model)
    free = steering.generate(model, rows, max_new_tokens=4, stop=())
    new = free[0, len(rows[0]) :].tolist()
    stop = new[-1]
    together = probes.watch(model, rows, probe, max_new_tokens=4, stop=stop)[1]
    for i, row in enumerate(rows):
        alone = probes.watch(model, [row], probe, max_new_tokens=4, stop=stop)[1]["value"].values[0]
        both = together["value"].values[i]
        np.testing.assert_allclose(both[:, ~np.isnan(both[0])], alone, atol=1e-9)
    assert int((~np.isnan(together["value"].values[0, 0])).sum()) == len(rows[0]) + new.index(stop)


def test_it_fires_where_the_score_first_passes_and_where_it_is_not_finite(model: Any, rows: Any) -> None:
    probe = drawn("multimax", model, (1,))
    found = probes.stream(model, rows, probe)
    theta = float(found["highest"].max()) - 1e-9
    fired = probes.stream(model, rows, probe, thresholds=theta)["fired"].values[:, 0]
    row = int(found["highest"].values.argmax())
    first = int(np.nanargmax(found["value"].values[row, 0]))
    assert fired[row] == first
    assert (np.delete(fired, row) == -1).all()
    broken = Weights(
        *(torch.full_like(part, torch.nan) for part in vars(probe.weights[Place("resid_pre", 1)]).values())
    )
    nan = probes.Probes({Place("resid_pre", 1): broken}, "mean", "all", probe.model)
    assert (probes.stream(model, rows, nan, thresholds=1e9)["fired"].values == 0).all()


def test_probes_of_one_position_have_no_stream(model: Any, rows: Any) -> None:
    probe = probes.Probes(drawn("mean", model).weights, "mean", "last", anatomy(model).name)
    with pytest.raises(ValueError, match=r"these probes read at pos='last'"):
        probes.watch(model, rows, probe)
    with pytest.raises(ValueError, match=r"thresholds has no 'L2\.resid_pre'"):
        probes.stream(model, rows, drawn("mean", model), thresholds={"L1.resid_pre": 0.0})


def realised(grouped: bool, per: str, n: int = 400, alpha: float = 0.05, draws: int = 1000) -> np.ndarray:
    """False positive rates on fresh negatives: groups share an effect."""
    rng, rates = np.random.default_rng(0), []
    for seed in range(draws):
        size = 20 if grouped else 1
        effect = rng.normal(size=(2, n // size, 1))
        rows = effect + rng.normal(size=(2, n // size, size))
        labels = np.repeat(np.arange(n // size), size) if grouped else None
        theta = threshold(rows[0].ravel(), alpha, groups=labels, per=per, seed=seed).value
        fresh = rows[1].max(-1) if grouped and per == "group" else rows[1]
        rates.append((fresh > theta).mean())
    return np.array(rates)


@pytest.mark.parametrize(
    ("grouped", "per", "n"), [(False, "group", 40), (True, "group", 400), (True, "row", 400)]
)
def test_false_alarms_keep_their_rate(grouped: bool, per: str, n: int) -> None:
    rates = realised(grouped, per, n)
    error = rates.std() / len(rates) ** 0.5
    assert rates.mean() < 0.05 + 3 * error
    assert rates.mean() > 0.02  # and it is no threshold that never fires


def test_too_few_negatives_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match=r"18 negatives cannot keep a rate of 0\.05: 19 or more"):
        threshold(np.arange(18.0), 0.05)
    assert threshold(np.arange(19.0), 0.05).value == 18
    with pytest.raises(ValueError, match="5 groups cannot keep"):
        threshold(np.arange(100.0), 0.05, groups=np.arange(100) % 5)
    with pytest.raises(ValueError, match="1 scores that are not finite"):
        threshold([1.0, np.nan], 0.5)


def test_what_a_threshold_does_has_an_exact_interval() -> None:
    found = operating(0.5, [1.0] * 8 + [0.0] * 2, [0.0] * 19 + [np.nan], prevalence=0.1)
    np.testing.assert_allclose(found["value"], [0.8, 0.05])
    np.testing.assert_allclose(found["low"], [0.4439, 0.001265], atol=1e-3)
    np.testing.assert_allclose(found["high"], [0.9748, 0.2487], atol=1e-3)
    assert float(found["precision"]) == pytest.approx(0.08 / (0.08 + 0.045))
    assert found["not_finite"].values.tolist() == [0, 1]
    grouped = operating(0.5, [1.0, 0.0, 0.0], [0.0, 0.0], groups=(["a", "a", "b"], ["c", "c"]))
    assert grouped["n"].values.tolist() == [2, 1]
    assert grouped["value"].values.tolist() == [0.5, 0.0]
