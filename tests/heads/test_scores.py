"""Scores of heads on repeats: exact on a hand-built model, and what they must not be fooled by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp import heads
from interp.heads import _patterns

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def induction():
    return interp.load("induction")


@pytest.fixture(scope="module")
def found(induction):
    return heads.scores(induction, lengths=[6, 9], prepend_bos=False, n=4, **QUIET)


def test_the_hand_built_heads_have_their_scores_exactly(found):
    value = found["value"]
    np.testing.assert_allclose(value.sel(score="previous_token", layer=0, head=0), 1.0, atol=1e-6)
    np.testing.assert_allclose(value.sel(score="induction", layer=1, head=0), 1.0, atol=1e-6)
    np.testing.assert_allclose(value.sel(score="anti_induction", layer=1, head=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(value.sel(score="duplicate_token", layer=1, head=0), 0.0, atol=1e-6)
    assert float(found["copying"].sel(layer=1, head=0)) == pytest.approx(1)


def test_the_first_query_of_the_second_copy_is_half_right(induction):
    """Position 0 can only attend to itself, so that it and position 1 both say that x0 came before."""
    words = torch.tensor([[4, 9, 6, 12, 4, 9, 6, 12]])
    pattern = heads.attention(induction, words, layer=1)["value"].sel(head=0).values[0, 0]
    np.testing.assert_allclose(pattern[4, :2], 0.5, atol=1e-6)  # the answer is at 1
    np.testing.assert_allclose(pattern[[5, 6, 7], [2, 3, 4]], 1.0, atol=1e-6)


def test_an_idle_head_has_the_uniform_score(found):
    idle = found["value"].sel(head=1)
    for length in (6, 9):
        assert idle[found["repeat"].values == length].std("prompt").max() < 1e-7
    np.testing.assert_allclose(idle.mean("prompt"), found["uniform"], atol=1e-6)
    assert np.isnan(found["positional"].sel(head=1)).all()


def test_the_positional_share_tells_positions_from_content(found):
    share = found["positional"]
    assert float(share.sel(layer=0, head=0)) == pytest.approx(1.0, abs=1e-6)
    assert abs(float(share.sel(layer=1, head=0))) < 0.1
    assert float(found["positional_low"].sel(layer=1, head=0)) < float(share.sel(layer=1, head=0))
    assert float(found["positional_high"].sel(layer=1, head=0)) < 0.5


def test_the_positional_share_is_its_definition():
    from interp.heads._scores import _shares

    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(5, 2, 4, 4, generator=generator, dtype=torch.float64).tril().softmax(-1)
    flat = torch.full((4, 4), 0.25, dtype=torch.float64)
    whole, left_out = _shares(patterns, flat)

    def slow(some):
        n, mean = len(some), some.mean(0)
        within, away = ((some - c).pow(2).sum((0, 2, 3)) for c in (mean, flat))
        return (1 - n / (n - 1) * within / away).numpy()

    np.testing.assert_allclose(whole, slow(patterns))
    for row in range(5):
        np.testing.assert_allclose(left_out[row], slow(torch.cat((patterns[:row], patterns[row + 1 :]))))


def test_a_head_that_looks_a_fixed_distance_back_is_no_induction_head(monkeypatch):
    """It scores 1 at one length of the repeat only, and the two lengths tell."""
    model = interp.load("tiny-ioi")

    def fixed(model, rows, layers, batch_size):
        n, width = rows.shape
        pattern = torch.zeros(n, 1, 1, width, width, dtype=torch.float64)
        queries = torch.arange(5, width)
        pattern[..., queries, queries - 5] = 1  # R − 1 for R = 6
        yield pattern.expand(n, model.cfg.n_layers, model.cfg.n_heads, width, width)

    monkeypatch.setattr(_patterns, "batches", fixed)
    value = heads.scores(model, lengths=[6, 11], n=2, **QUIET)["value"].sel(score="induction")
    assert value.isel(layer=0, head=0).values.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_scores_do_not_depend_on_the_batch():
    model = interp.load("tiny-ioi")
    whole, single = (heads.scores(model, lengths=[5], n=3, batch_size=size, **QUIET) for size in (None, 1))
    np.testing.assert_allclose(whole["value"], single["value"], atol=1e-6)
    np.testing.assert_allclose(whole["positional"], single["positional"], atol=1e-4)
    assert float(whole["value"].max()) > 0.3


def test_texts_are_repeated_instead_of_random_tokens():
    model = interp.load("tiny-ioi")
    texts = ["When Mary and John went to the store", "When Anna and Paul went to the park"]
    found = heads.scores(model, texts, lengths=[5], **QUIET)
    assert found.sizes["prompt"] == 2
    assert found.attrs["data"] == "texts, repeated"
    bos = model.tokenizer.bos_token_id
    row = model.to_tokens(texts[0])[0]
    row = row[1:6] if int(row[0]) == bos else row[:5]
    start = [bos] if found.attrs["prepend_bos"] else []
    pattern = heads.attention(model, torch.tensor([[*start, *row.tolist(), *row.tolist()]]))["value"][0]
    second = np.arange(len(start) + 5, len(start) + 10)[(0 if start else 1) :]
    expected = pattern.values[..., second, second - 5].mean(-1)
    np.testing.assert_allclose(found["value"][0].sel(score="duplicate_token"), expected, atol=1e-6)


def test_intervals_are_those_of_the_bootstrap():
    found = heads.scores(interp.load("tiny-ioi"), lengths=[5], n=6, level=0.9, **QUIET)
    expected = interp.stats.bootstrap(found[["value"]], level=0.9)
    np.testing.assert_allclose(found["low"], expected["low"])
    assert found.attrs["level"] == 0.9
    assert bool((found["low"] <= found["high"]).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [1000]}, "a repeat of 1000 tokens does not fit"),
        ({"among": [0, 5]}, "token 0 is special"),
        ({"among": []}, "token none is special"),
        ({"n": 0}, "n is 0"),
        ({"embedding": "efective"}, "did you mean 'effective'"),
        ({"prompts": [[5, 2, 6, 7]], "lengths": [2]}, "holds the special token"),
        ({"prompts": torch.tensor([[5, 8, 6, 7]]), "lengths": [6]}, "a repeat of 6 tokens does not fit"),
    ],
)
def test_bad_input_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        heads.scores(interp.load("tiny-ioi"), **options, **QUIET)
