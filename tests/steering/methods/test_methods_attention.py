"""Attention by spans: bias and removal, regular heads, sinks, and knock-outs as a sweep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import patterns

import interp
from interp import positions, steering
from interp.models import logits
from interp.steering import methods
from interp.steering.methods._span_bias import _rates

NEVER = float("-inf")


def test_chosen_heads_look_at_chosen_keys_by_the_formula(toy, ids, within):
    old, _ = patterns(toy, ids)
    made = methods.bias_attention(toy, ["L0H1", "L0H3"], positions.window(3, 6), positions.at(1), 1.5)
    new, _ = patterns(toy, ids, *made)
    expected = old[0].clone()
    rows = expected[:, [1, 3], 3:6]
    rows[..., 1] *= torch.e**1.5
    expected[:, [1, 3], 3:6] = rows / rows.sum(-1, keepdim=True)
    torch.testing.assert_close(new[0], expected, rtol=within, atol=within)
    assert (new[0][:, 1] - old[0][:, 1]).abs().max() > 1e-3
    assert torch.equal(new[0][:, [0, 2]], old[0][:, [0, 2]])
    assert torch.equal(new[0][:, :, :3], old[0][:, :, :3])


def test_minus_infinity_removes_and_rows_still_add_up_to_one(toy, ids, within):
    made = methods.bias_attention(toy, None, positions.everywhere, positions.window(0, 2), NEVER)
    old, _ = patterns(toy, ids)
    new, out = patterns(toy, ids, *made)
    assert float(new[..., 2:, :2].max()) == 0
    torch.testing.assert_close(new.sum(-1), torch.ones_like(new[..., 0]), rtol=0, atol=max(within, 1e-7))
    assert torch.equal(new[0][:, :, :2], old[0][:, :, :2])  # these queries see nothing else
    assert bool(out.isfinite().all())
    left = old[0][:, :, 2:].clone()
    left[..., :2] = 0
    torch.testing.assert_close(new[0][:, :, 2:], left / left.sum(-1, keepdim=True), rtol=within, atol=within)


def test_a_scale_is_of_the_median_that_the_query_sees(model, ids):
    seen = {}
    hook = [("blocks.0.attn.hook_attn_scores", lambda tensor, hook: seen.update(scores=tensor.clone()))]
    with torch.no_grad(), model.hooks(fwd_hooks=hook):
        logits(model, ids)
    old, _ = patterns(model, ids)
    new, _ = patterns(model, ids, *methods.bias_attention(model, ["L0H2"], "last", (1, 3), 0.5, scale=2.0))
    scores = seen["scores"][:, 2, -1].clone()
    scores[:, 1:3] += 0.5 + 2.0 * scores.median(-1, keepdim=True).values
    torch.testing.assert_close(new[0][:, 2, -1], scores.softmax(-1), rtol=1e-9, atol=1e-9)
    same, _ = patterns(model, ids, *methods.bias_attention(model, None, "all", (1, 3), 0.0))
    assert torch.equal(same, old)


@pytest.mark.parametrize("bias", [2.0, NEVER])
def test_the_fast_engine_biases_as_hooks_do_with_and_without_a_cache(toy, ids, bias):
    made = methods.bias_attention(
        toy,
        ["L1H0", "L2H3"],
        positions.everywhere,
        positions.window(1, 4),
        bias,
        scale=0.5 if bias > 0 else 0,
    )
    options = [
        {"engine": "fast"},
        {"engine": "fast", "use_cache": False},
        {"engine": "reference", "use_cache": False},
    ]
    texts = [steering.generate(toy, ids, made, max_new_tokens=5, **each) for each in options]
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])
    ragged = steering.generate(toy, [ids[0, :4].tolist(), ids[1].tolist()], made, max_new_tokens=4)
    assert torch.equal(ragged[0, :8], steering.generate(toy, ids[:1, :4], made, max_new_tokens=4)[0])


def test_planted_diagonals_and_verticals_are_found_and_random_heads_are_not():
    generator = np.random.default_rng(0)
    n = 16
    pattern = np.tril(generator.dirichlet(np.ones(n), (1, 4, n)))
    for query in range(5, n):
        pattern[0, 1, query] = np.eye(n)[query - 4]  # four tokens back
        pattern[0, 2, query] = np.eye(n)[3]  # always the third
    pattern /= pattern.sum(-1, keepdims=True)
    rates = _rates(pattern, 0.9, 4)
    assert rates["value"][0, 1] == rates["diagonal"][0, 1] == 1
    assert rates["back"][0, 1] == 4
    assert rates["value"][0, 2] == rates["vertical"][0, 2] > 0.8
    assert rates["key"][0, 2] == 3
    assert rates["value"][0, [1, 2]].min() > rates["value"][0, [0, 3]].max()


def test_the_heads_that_copy_a_repeat_are_the_regular_ones():
    """A hand-built model: the induction head is regular on repeated tokens, by the repeat's length."""
    model = interp.load("induction")
    generator = torch.Generator().manual_seed(0)
    half = torch.stack([torch.randperm(model.cfg.d_vocab - 1, generator=generator)[:6] + 1 for _ in range(4)])
    rows = torch.cat([half, half], 1)
    found = methods.pattern_heads(model, rows, 0.85, least=3)
    names = interp.heads.top(found, 2)
    assert {name[:2] for name in names} == {"L0", "L1"}


def test_a_removed_sink_receives_nothing_and_the_control_key_does(model):
    ids = torch.randint(3, 20, (4, 12), generator=torch.Generator().manual_seed(9))
    found = methods.sink_effect(model, ids, 1)
    assert float(found["received"].sel(run="removed").max()) == 0
    assert float(found["received"].sel(run="control").min()) > 0
    assert found.attrs["key"] == 1
    assert found.attrs["control"] not in (0, 1)
    assert float(abs(found["value"].sel(run="plain")).max()) == 0
    assert float(abs(found["value"].sel(run="removed")).min()) > 1e-6
    with torch.no_grad(), steering.steer(model, methods.remove_sink(model, 1)):
        log = logits(model, ids).log_softmax(-1)
    after = max(1, found.attrs["control"])
    by_hand = -log[:, after:-1].gather(-1, ids[:, after + 1 :, None]).mean((1, 2))
    np.testing.assert_allclose(found["loss"].sel(run="removed"), by_hand, rtol=1e-9)


def test_a_planted_sink_is_found(model):
    """Scores to key 2 raised in every layer: it is the key that is taken away."""
    rows = torch.randint(3, 20, (3, 12), generator=torch.Generator().manual_seed(1))
    with steering.steer(model, *methods.bias_attention(model, None, "all", positions.at(2), 6.0)):
        found = interp.heads.telemetry(model, rows)
    assert int(found["value"].mean("prompt").max("layer").argmax("pos")) == 2
    chosen = methods.sink_effect(model, rows)
    scores = interp.heads.telemetry(model, rows)["value"].isel(pos=slice(0, 8)).mean("prompt").max("layer")
    assert chosen.attrs["key"] == int(scores.argmax("pos"))


@pytest.fixture(scope="module")
def ioi():
    model = interp.load("tiny-ioi")
    return model, interp.tasks.ioi(model, n=6, seed=0)


PAIRS = [("end", "s2"), ("end", "io"), ("s2", "s1")]


def test_knockouts_are_those_of_hooks_on_patterns(ioi):
    """By hand: the pattern's entries set to 0 and the row normalised again, layer by layer."""
    model, task = ioi
    found = methods.attention_knockout(model, task, PAIRS, window=2, progress=False)
    assert found.attrs["engine"] == "fast"
    rows = torch.arange(len(task))
    for pair, (query, key) in enumerate(PAIRS):
        q, k = (positions.marked(name, task) for name in (query, key))

        def cut(pattern, hook, q=q, k=k):
            out = pattern.masked_fill((q[:, :, None] & k[:, None])[:, None], 0.0)
            return out / out.sum(-1, keepdim=True)

        for layer in range(3):
            names = [f"blocks.{each}.attn.hook_pattern" for each in range(layer, min(layer + 2, 3))]
            with torch.no_grad(), model.hooks(fwd_hooks=[(name, cut) for name in names]):
                out = logits(model, task.clean)[rows, task.last_position]
            at = torch.arange(len(out))
            gap = out[at, task.answers[:, 0]] - out[at, task.wrongs[:, 0]]
            np.testing.assert_allclose(found["raw"][:, pair, layer], gap, atol=2e-4)
    assert float(abs(found["value"]).max()) > 1
    np.testing.assert_allclose(found["value"], found["clean"] - found["raw"], atol=1e-9)
    slow = methods.attention_knockout(model, task, PAIRS, window=2, engine="reference", progress=False)
    np.testing.assert_allclose(slow["value"], found["value"], atol=2e-4)


def test_a_store_goes_on_where_it_stopped(ioi, tmp_path, monkeypatch):
    model, task = ioi
    whole = methods.attention_knockout(model, task, PAIRS[:2], progress=False)
    from interp.steering import _runs

    run, calls = _runs.Suffix.run, []

    def counted(self, prompt, made):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, prompt, made)

    monkeypatch.setattr(_runs.Suffix, "run", counted)
    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        methods.attention_knockout(model, task, PAIRS[:2], store=store, progress=False)
    again = methods.attention_knockout(model, task, PAIRS[:2], store=store, progress=False)
    assert len(calls) == 4 + 3
    np.testing.assert_array_equal(again["value"], whole["value"])
    with pytest.raises(ValueError, match="holds another run"):
        methods.attention_knockout(model, task, PAIRS[:2], window=3, store=store, progress=False)


def test_bad_input_is_a_sentence(ioi, model, ids):
    net, task = ioi
    for call, match in (
        (lambda: methods.bias_attention(model, ["L9H0"], "last", (0, 2), 1.0), "out of range|layer"),
        (lambda: methods.bias_attention(model, ["L1.z"], "last", (0, 2), 1.0), "is no head"),
        (lambda: methods.bias_attention(model, [], "last", (0, 2), 1.0), "heads is empty"),
        (lambda: methods.bias_attention(model, None, "last", (0, 2), float("nan")), "bias is nan"),
        (lambda: methods.remove_sink(model, -1), "key is -1"),
        (lambda: methods.sink_effect(model, ids[:, :5]), "has 5 tokens"),
        (lambda: methods.sink_effect(model, ids, 5), "key is 5"),
        (lambda: methods.pattern_heads(model, ids, 1.0), "quantile is 1"),
        (lambda: methods.pattern_heads(model, ids, least=6), "least is 6"),
        (lambda: methods.attention_knockout(net, task, [("end", "nobody")]), "nobody"),
        (lambda: methods.attention_knockout(net, task, []), "pairs is empty"),
        (lambda: methods.attention_knockout(net, task, "end"), "pairs is 'end'"),
        (
            lambda: methods.attention_knockout(net, task, {"all": (positions.at(1), (0, 2))}),
            "see nothing but",
        ),
        (lambda: methods.attention_knockout(net, task, PAIRS, window=4), "window is 4"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
