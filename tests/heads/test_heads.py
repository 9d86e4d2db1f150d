"""What heads do: exact scores on a hand-built model, composition as TransformerLens defines it."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch

import interp
from interp import heads

needs_hooked = pytest.mark.skipif(
    not architectures.has_hooked_transformer(), reason="this release has no HookedTransformer"
)


@pytest.fixture(scope="module")
def induction():
    return interp.load("induction")


@pytest.fixture(scope="module")
def found(induction):
    return heads.scores(induction, lengths=[6, 9], prepend_bos=False, n=4, progress=False)


def test_the_hand_built_heads_have_their_scores_exactly(found):
    value = found["value"]
    np.testing.assert_allclose(value.sel(score="previous_token", layer=0, head=0), 1.0, atol=1e-6)
    np.testing.assert_allclose(value.sel(score="induction", layer=1, head=0), 1.0, atol=1e-6)
    np.testing.assert_allclose(value.sel(score="anti_induction", layer=1, head=0), 0.0, atol=1e-6)
    # Position 0 can only attend to itself, so that both it and 1 say "x0 came before": half of one query.
    np.testing.assert_allclose(
        value.sel(score="duplicate_token", layer=1, head=0), 0.5 / found["repeat"].values, atol=1e-6
    )


def test_an_idle_head_has_the_uniform_score(found):
    idle = found["value"].sel(layer=0, head=1)
    for length in (6, 9):
        here = idle[found["repeat"].values == length]
        assert here.std("prompt").max() < 1e-7
    np.testing.assert_allclose(idle.mean("prompt"), found["uniform"], atol=1e-6)


def test_a_head_that_looks_a_fixed_distance_back_is_no_induction_head(monkeypatch):
    """It scores 1 at one length of the repeat only, and the two lengths tell."""
    from interp.heads import _patterns

    model = interp.load("tiny-ioi")

    def fixed(model, rows, layers, batch_size):
        n, width = rows.shape
        pattern = torch.zeros(n, 1, 1, width, width, dtype=torch.float64)
        queries = torch.arange(5, width)
        pattern[..., queries, queries - 5] = 1  # R − 1 for R = 6
        yield pattern.expand(n, model.cfg.n_layers, model.cfg.n_heads, width, width)

    monkeypatch.setattr(_patterns, "_batches", fixed)
    value = heads.scores(model, lengths=[6, 11], n=2, progress=False)["value"].sel(score="induction")
    assert value.isel(layer=0, head=0).values.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_scores_do_not_depend_on_the_batch():
    model = interp.load("tiny-ioi")
    whole, single = (
        heads.scores(model, lengths=[5], n=3, batch_size=size, progress=False) for size in (None, 1)
    )
    np.testing.assert_allclose(whole["value"], single["value"], atol=1e-6)
    assert float(whole["value"].max()) > 0.3


@pytest.mark.parametrize("name", ["tiny-world", "induction"])
@needs_hooked
def test_composition_is_that_of_transformer_lens(name):
    model = interp.load(name)
    value = heads.composition(model)["value"]
    for mode in heads_modes():
        theirs = model.all_composition_scores(mode).detach().double().numpy()
        np.testing.assert_allclose(value.sel(mode=mode), theirs, atol=1e-6, equal_nan=True)
    assert float(value.sel(mode="K").max()) > 0.1


@needs_hooked
def test_composition_under_grouped_queries():
    """Key-value heads stand for every head of their group."""
    model = architectures.build({"n_key_value_heads": 2})
    value = heads.composition(model)["value"]
    for mode in heads_modes():
        theirs = model.all_composition_scores(mode).detach().double().numpy()
        np.testing.assert_allclose(value.sel(mode=mode), theirs, atol=1e-6, equal_nan=True)


def heads_modes():
    return ("Q", "K", "V")


@needs_hooked
def test_copying_by_the_small_matrix_is_that_by_the_vocabulary():
    model = architectures.build({})
    value = heads.copying(model)["value"]
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            OV = model.blocks[layer].attn.W_V[head] @ model.blocks[layer].attn.W_O[head]
            circuit = (model.W_E @ OV @ model.W_U).detach().double()
            eigenvalues = torch.linalg.eigvals(circuit)
            expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
            assert abs(float(value[layer, head]) - expected) < 1e-6


def test_the_hand_built_induction_head_copies():
    assert float(heads.copying(interp.load("induction"))["value"].sel(layer=1, head=0)) == pytest.approx(1)


def test_attention_is_the_models_own():
    model = interp.load("tiny-ioi")
    text = "When Mary and John went to the store"
    found = heads.attention(model, text, layer=[1])
    _, cache = model.run_with_cache(model.to_tokens(text))
    own = cache["blocks.1.attn.hook_pattern"].detach()
    np.testing.assert_allclose(found["value"][:, 0], own, atol=1e-6)
    assert found["head_name"].values[0].tolist() == [f"L1H{h}" for h in range(model.cfg.n_heads)]
    assert "Mary" in "".join(found["src_token"].values[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads.attention(m, "Mary", layer=9), "layer .* is not there: the model has layers 0 to 2"),
        (lambda m: heads.attention(m, torch.tensor([[99999]])), "token ids 99999 to 99999"),
        (lambda m: heads.attention(m, torch.zeros(1, 0, dtype=torch.long)), "a token at least"),
        (
            lambda m: heads.attention(m, torch.ones(1, 400, dtype=torch.long)),
            "400 tokens, the model's context",
        ),
        (lambda m: heads.scores(m, lengths=[1000], progress=False), "a repeat of 1000 tokens does not fit"),
        (lambda m: heads.scores(m, among=[0, 5], progress=False), "token 0 is special"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(interp.load("tiny-ioi"))
