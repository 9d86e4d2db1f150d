"""Telemetry against planted sinks and outliers, closed forms, and what a cache holds."""

from __future__ import annotations

from functools import partial

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp import heads
from interp.heads import _telemetry

T = 12


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(1, architectures.VOCAB, (2, T), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def flat():
    """Six layers whose heads attend alike to all they see."""
    model = architectures.build({"n_layers": 6})
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    return model


def harmonic(n):
    return sum(1 / i for i in range(1, n + 1))


def test_uniform_attention_gives_the_baseline_in_closed_form(flat, tokens):
    found = heads.telemetry(flat, tokens)
    for j in range(T - 2):
        first = max(j + 1, 4)
        expected = (harmonic(T) - harmonic(first)) / (T - first)
        np.testing.assert_allclose(found["uniform"].values[:, :, j], expected, atol=1e-9)
        np.testing.assert_allclose(found["received"].values[..., j], expected, atol=1e-9)
    assert np.isnan(found["received"].values[..., T - 2 :]).all()
    assert float(abs(found["value"]).max()) < 1e-9
    assert int(found["lifetime"].max()) == 0
    assert int(found["first_layer"].max()) == -1


def test_a_planted_bias_on_a_key_is_a_sink_of_three_layers(flat, tokens):
    def bias(scores, hook):
        scores = scores.clone()
        scores[:, :, 3:, 3] += 5.0
        return scores

    planted = [(f"blocks.{layer}.attn.hook_attn_scores", bias) for layer in (2, 3, 4)]
    with flat.hooks(fwd_hooks=planted):
        found = heads.telemetry(flat, tokens)
    assert found["lifetime"].values[0].tolist() == [0, 0, 0, 3, *[0] * (T - 4)]
    assert found["first_layer"].values[1, 3] == 2
    assert found["secondary"].values[0].tolist() == [0, 0, 0, 1, *[0] * (T - 4)]
    assert float(found["sink_heads"].values[0, 2, 3]) == 1
    assert float(found["max_logit"].sel(layer=2).min()) == pytest.approx(5, abs=1e-6)
    assert float(found["max_logit"].sel(layer=1).max()) < 1e-6


def test_lifetime_is_the_longest_run():
    sink = np.zeros((1, 6, 2), dtype=bool)
    sink[0, [0, 2, 3, 5], 0] = True
    lifetime, first = _telemetry.lifetimes(sink)
    assert lifetime.tolist() == [[2, 0]]
    assert first.tolist() == [[2, -1]]


def _spike(stream, hook):
    stream = stream.clone()
    stream[0, 5, 7] = 5000.0
    return stream


def test_a_planted_outlier_is_massive_and_a_random_model_has_none(tokens):
    model = small.model()
    assert int(heads.telemetry(model, tokens)["massive"].sum()) == 0
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", _spike)]):
        found = heads.telemetry(model, tokens)
    before, after = found.sel(layer=0), found.sel(layer=1)
    assert before["massive"].values.tolist() == [0, 0]
    assert after["massive"].values.tolist() == [1, 0]
    assert (int(after["top_pos"][0]), int(after["top_dim"][0])) == (5, 7)
    assert float(after["top"][0]) == 5000
    assert float(after["top_ratio"][0]) > 1000


def test_a_large_value_that_is_not_far_from_the_median_is_not_massive(tokens):
    model = small.model()
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * 1000)]):
        found = heads.telemetry(model, tokens).sel(layer=1)
    assert float(found["top"].min()) > 100
    assert int(found["massive"].sum()) == 0


def test_norms_and_logits_are_those_of_the_cache(tokens):
    model = small.model()
    found = heads.telemetry(model, tokens)
    _, cache = model.run_with_cache(tokens)
    hooks = {"stream_norm": "hook_resid_post", "attn_norm": "hook_attn_out", "mlp_norm": "hook_mlp_out"}
    for name, hook in hooks.items():
        np.testing.assert_allclose(
            found[name].sel(layer=1), cache[f"blocks.1.{hook}"].norm(dim=-1).detach(), atol=1e-9
        )
    q = cache["blocks.2.attn.hook_q"].norm(dim=-1).transpose(1, 2).detach()
    np.testing.assert_allclose(found["q_norm"].sel(layer=2), q, atol=1e-9)
    seen = torch.ones(T, T).tril().bool()
    largest = cache["blocks.2.attn.hook_attn_scores"].detach()[..., seen].abs().amax(-1)
    np.testing.assert_allclose(found["max_logit"].sel(layer=2), largest, atol=1e-6)
    write, stream = (cache[f"blocks.1.{name}"].detach() for name in ("hook_mlp_out", "hook_resid_post"))
    cosine = torch.cosine_similarity(write, stream[:, :1], dim=-1)
    np.testing.assert_allclose(found["mlp_cosine"].sel(layer=1), cosine, atol=1e-6)
    assert found.attrs["missing"] == "nothing"


def test_prompts_of_several_lengths_are_each_as_alone(tokens):
    model = small.model()
    rows = [tokens[0].tolist(), tokens[1, :9].tolist()]
    both, alone = heads.telemetry(model, rows), heads.telemetry(model, tokens[1:, :9])
    for name in alone.data_vars:
        if "pos" in alone[name].dims:
            part = both[name].isel(prompt=1, pos=slice(0, 9))
            assert np.isnan(both[name].isel(prompt=1, pos=slice(9, None)).astype(float)).all() or name in (
                "lifetime", "first_layer", "secondary",
            )  # fmt: skip
        else:
            part = both[name].isel(prompt=1)
        np.testing.assert_allclose(part, alone[name].isel(prompt=0), atol=1e-9, err_msg=name)


def test_it_costs_one_forward_a_batch(tokens, monkeypatch):
    passes = []

    def counted(model, batch, own):
        passes.append(len(batch))
        return own(model, batch)

    monkeypatch.setattr(_telemetry, "logits", partial(counted, own=_telemetry.logits))
    heads.telemetry(small.model(), tokens.repeat(5, 1), batch_size=4)
    assert passes == [4, 4, 2]


def test_a_picture_of_sinks_by_position():
    found = heads.telemetry(interp.load("tiny-ioi"), "When Mary and John went to the store")
    fig = interp.plot.positions(found)
    assert "sink" in fig.layout.title.text.lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prompts": []}, "no prompts"), ({"prompts": "Mary", "batch_size": 0}, "batch_size is 0")],
)
def test_bad_input_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        heads.telemetry(interp.load("tiny-ioi"), **options)
