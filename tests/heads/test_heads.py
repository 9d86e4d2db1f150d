"""Attention as the model has it, composition as TransformerLens defines it."""

from __future__ import annotations

import itertools

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp import heads


@pytest.mark.parametrize("name", ["tiny-world", "induction", "gpt2", "llama", "own grouped"])
def test_composition_is_that_of_transformer_lens(name):
    """On both releases; folded, and with key-value heads that stand for every head of their group."""
    if name in small.FAMILIES:
        model = small.bridge(name)
    else:
        model = architectures.build({"n_key_value_heads": 2}) if " " in name else interp.load(name)
    if not hasattr(model, "all_composition_scores"):
        pytest.skip("bridges of this release have no composition scores")
    value = heads.composition(model)["value"]
    for mode in ("Q", "K", "V"):
        theirs = model.all_composition_scores(mode)
        theirs = getattr(theirs, "scores", theirs).detach().double().numpy()
        np.testing.assert_allclose(value.sel(mode=mode), theirs, atol=1e-6, equal_nan=True)
    assert float(value.sel(mode="K").max()) > 0.1


def test_the_baseline_is_that_of_heads_turned_at_random():
    """Of any spectra: these have one singular value that is most of them."""
    generator = torch.Generator().manual_seed(0)
    d = 12
    OV, QK = (torch.diag(torch.tensor([5.0, 1.0, 0.5] + [0.0] * (d - 3))).double() for _ in range(2))
    squares = []
    for _ in range(4000):
        turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator)).Q
        squares.append(float((OV @ turn @ QK).norm() / (OV.norm() * QK.norm())) ** 2)
    assert np.mean(squares) == pytest.approx(1 / d, rel=0.05)
    found = heads.composition(interp.load("tiny-ioi"))
    assert found.attrs["baseline"] == pytest.approx(64**-0.5)
    excess = found["excess"].sel(mode="K")
    np.testing.assert_allclose(excess[0, :, 1], found["value"].sel(mode="K")[0, :, 1] - 64**-0.5)
    assert np.isnan(excess[1, :, :2]).all()


def test_attention_by_spans_of_prompts_of_several_lengths():
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=8)
    assert len(set(task.lengths.tolist())) > 1
    whole = heads.attention(model, task)["value"]
    named = heads.attention(model, task, dst="end", src=["io", (0, 2)])["value"]
    assert named["src"].values.tolist() == ["io", "(0, 2)"]
    for prompt, length in enumerate(task.lengths.tolist()):
        row = whole[prompt, :, :, length - 1]
        io = int(task.spans["io"][prompt].int().argmax())
        np.testing.assert_allclose(named[prompt, :, :, 0, 0], row[..., io], atol=1e-6)
        np.testing.assert_allclose(named[prompt, :, :, 0, 1], row[..., :2].sum("src"), atol=1e-6)
        assert np.isnan(whole[prompt, :, :, length:]).all()
        alone = heads.attention(model, task.clean[prompt : prompt + 1, :length])["value"][0]
        np.testing.assert_allclose(whole[prompt, :, :, :length, :length], alone, atol=1e-6)


def test_attention_from_span_to_span():
    """Means over queries of sums over keys, by the model's own patterns; NaN without a span."""
    model = interp.load("tiny-ioi")
    ids = model.to_tokens(["When Mary and John went to the store", "John gave Mary the key"])
    rows = [ids[0].tolist(), ids[1, :6].tolist()]
    task = interp.Task.from_tokens(
        clean=rows,
        answer=[5, 5],
        wrong=[6, 6],
        spans={"name": [(2, 5), 3], "store": [8, None], "end": [-1, -1]},
    )
    found = heads.attention(model, task, by="span")["value"]
    assert found["dst"].values.tolist() == found["src"].values.tolist() == ["name", "store", "end"]
    marks = {name: mask.nonzero() for name, mask in task.spans.items()}
    for prompt, row in enumerate(rows):
        _, cache = model.run_with_cache(torch.tensor([row]))
        own = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in range(3)]).detach()
        for dst, src in itertools.product(marks, marks):
            queries, keys = (marks[name][marks[name][:, 0] == prompt, 1] for name in (dst, src))
            value = found[prompt].sel(dst=dst, src=src).values
            if len(queries) and len(keys):
                expected = own[:, :, queries][..., keys].sum(-1).mean(-1)
                np.testing.assert_allclose(value, expected, atol=1e-6)
            else:
                assert prompt == 1
                assert np.isnan(value).all()
    some = heads.attention(model, task, by="span", dst="end", src=["name"])["value"]
    np.testing.assert_array_equal(some[..., 0, 0], found.sel(dst="end", src="name"))
    for options, match in (
        ({"by": "spam"}, "it must be 'pos' or 'span'"),
        ({"by": "span", "src": ["nmae"]}, "did you mean 'name'"),
        ({"by": "span", "src": []}, "no spans are given"),
    ):
        with pytest.raises(ValueError, match=match):
            heads.attention(model, task, **options)
    with pytest.raises(ValueError, match="no named positions"):
        heads.attention(model, "When Mary went", by="span")


def test_attention_is_the_models_own():
    model = interp.load("tiny-ioi")
    text = "When Mary and John went to the store"
    found = heads.attention(model, text, layer=[1])
    _, cache = model.run_with_cache(model.to_tokens(text))
    own = cache["blocks.1.attn.hook_pattern"].detach()
    np.testing.assert_allclose(found["value"][:, 0], own, atol=1e-6)
    assert found["head_name"].values[0].tolist() == [f"L1H{h}" for h in range(model.cfg.n_heads)]
    assert "Mary" in "".join(found["src_token"].values[0])


@pytest.mark.filterwarnings("ignore:A hook on attn.hook_pattern returned a modified tensor")
def test_attention_is_read_where_a_change_of_it_is_thrown_away(monkeypatch):
    """Transformers computes it there; it is that by which z was made, or else it is refused."""
    model, ids = small.bridge("gptj"), torch.tensor([[3, 5, 4, 7, 6]])
    inner = small.transformers_model("gptj")
    inner.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = torch.stack([each[0] for each in inner(ids, output_attentions=True).attentions])
    np.testing.assert_allclose(heads.attention(model, ids)["value"][0], wanted, atol=1e-6)
    monkeypatch.setattr(model.blocks[1].attn.hook_pattern, "forward", lambda pattern: pattern.flip(1))
    with pytest.raises(ValueError, match="'pattern' cannot be changed here"):
        heads.attention(model, ids)


@pytest.mark.skipif(not architectures.has_hooked_transformer(), reason="a bridge makes its hook points anew")
def test_attention_that_no_layer_shows_is_a_sentence():
    model = small.own()
    for block in model.blocks:
        block.attn.hook_pattern = torch.nn.Identity().eval()
    with pytest.raises(ValueError, match=r"does not pass its hook point blocks\.0\.attn\.hook_pattern"):
        heads.attention(model, torch.tensor([[3, 5, 4, 7, 6]]))


def test_attention_weighted_by_values_is_the_norm_of_what_is_written():
    """Oracle: the model's own z, with attention put on one token alone, through W_O."""
    model = interp.load("tiny-ioi")
    text = "When Mary and John went to the store"
    found = heads.attention(model, text, layer=[1, 2], weighting="value")
    plain = heads.attention(model, text, layer=[1, 2])["value"].values
    tokens, layer, source = model.to_tokens(text), 2, 3

    def only(pattern, hook):
        return torch.zeros_like(pattern).index_fill(-1, torch.tensor([source]), 1.0)

    kept = []
    hooks = [(f"blocks.{layer}.attn.hook_pattern", only)]
    hooks += [(f"blocks.{layer}.attn.hook_z", lambda z, hook: kept.append(z))]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
        written = torch.einsum("hd,hdm->hm", kept[0][0, -1], model.blocks[layer].attn.W_O)
    norms = written.norm(dim=-1).numpy()
    assert norms.min() > 0.01
    np.testing.assert_allclose(
        found["value"].values[0, 1, :, :, source], plain[0, 1, :, :, source] * norms[:, None], rtol=1e-4
    )
    assert found.attrs["weighting"] == "value"
    assert "norm" in found.attrs["unit"]
    with pytest.raises(ValueError, match="weighting is 'norm'"):
        heads.attention(model, text, weighting="norm")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads.attention(m, "Mary", layer=9), "layer .* is not there: the model has layers 0 to 2"),
        (lambda m: heads.attention(m, torch.tensor([[99999]])), "99999"),
        (lambda m: heads.attention(m, torch.zeros(1, 0, dtype=torch.long)), "has no tokens"),
        (
            lambda m: heads.attention(m, torch.ones(1, 400, dtype=torch.long)),
            "400 tokens, the model's context",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(interp.load("tiny-ioi"))
