"""Generation: what is steered does not depend on the cache or on padding."""

from __future__ import annotations

import sys

import architectures
import pytest
import torch

from interp import positions, steering
from interp.engine import thin
from interp.models.parts import Rotary
from interp.prompts import read
from interp.steering._generate import FastDecoder, decoding, left_padded

WHENS = {
    "everywhere": positions.everywhere,
    "prompt_only": positions.prompt_only,
    "generated": positions.generated,
    "at(3)": positions.at(3),
    "at(-1)": positions.at(-1),
    "window": positions.window(1, 3),
}
SITES = ("L1.resid_pre", "L0.mlp_out", "L1H2", "L1.resid_post", "L1.resid_mid", "L1.attn_out", "L0.post")
ARCHITECTURES = dict(architectures.extras())


def made(site: str, when: positions.Positions, draw) -> tuple:
    vector = draw(6 if "H" in site else 40 if site == "L0.post" else 24)
    return steering.add(steering.Direction.from_tensor(vector, site), 3.0, when=when)


def forced(model, tokens, ends, interventions, use_cache, mask=None, engine="reference"):
    """Logits [row, step, vocab] before each of the given tokens is appended."""
    checked = [each.check(model) for each in interventions]
    padded = left_padded(read(model, tokens, mask), 0)
    steps = []
    with torch.no_grad(), decoding(model, *padded, checked, use_cache, engine) as decoder:
        for column in ends.T:
            steps.append(decoder.logits())
            decoder.append(column)
    return torch.stack(steps, 1)


@pytest.mark.parametrize("when", WHENS)
def test_a_cache_changes_nothing_and_the_engines_agree(toy, ids, draw, within, when):
    ends = ids.flip(0, 1)[:, :4]
    plain = forced(toy, ids, ends, (), use_cache=True)
    for site in SITES:
        steered = made(site, WHENS[when], draw)
        cached, *others = (
            forced(toy, ids, ends, steered, use_cache, engine=engine)
            for engine in ("reference", "fast")
            for use_cache in (True, False)
        )
        for other in others:
            torch.testing.assert_close(cached, other, rtol=0, atol=within)
        assert (cached - plain).abs().amax((0, 2)).max() > 0.01


def test_what_each_set_of_positions_first_changes(model, ids, draw):
    """everywhere, prompt_only and generated change the first new token; at(n) changes none before it."""
    ends = ids[:, :4]
    plain = forced(model, ids, ends, (), True)
    first = {}
    for name, when in {**WHENS, "at(7)": positions.at(7), "window(8)": positions.window(8, None)}.items():
        change = (forced(model, ids, ends, made("L1.resid_pre", when, draw), True) - plain).abs().amax((0, 2))
        first[name] = int((change > 1e-9).int().argmax())
        assert change.max() > 1e-3
    assert first == dict.fromkeys(WHENS, 0) | {"at(7)": 2, "window(8)": 3}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_those_rows_alone(toy, ids, draw, within, side):
    mask = torch.ones_like(ids, dtype=torch.bool)
    columns = slice(0, 2) if side == "left" else slice(-2, None)
    mask[0, columns] = False
    ends = ids[:, :3]
    for when in WHENS.values():
        steered = made("L1.resid_pre", when, draw)
        for engine in ("reference", "fast"):
            together = forced(toy, ids, ends, steered, True, mask, engine)
            for row in range(2):
                alone = forced(toy, ids[row, mask[row]][None], ends[row, None], steered, False)
                torch.testing.assert_close(together[row, None], alone, rtol=0, atol=within)


@pytest.fixture
def sliced(monkeypatch):
    """Products of few rows run by slices, as those of wide matrices do on several cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(thin, "WIDTH", 8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_engines_agree_on_other_architectures(sliced, ids, draw, name):
    """Position biases, local attention, caps, parallel blocks: padded rows, a gate at an earlier place."""
    model = architectures.build(ARCHITECTURES[name])
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :2] = False
    vectors = [steering.Direction.from_tensor(draw(24), f"L{layer}.resid_pre") for layer in (0, 2)]
    gate = steering.gates.cosine_gate(vectors[0], 0.0, held="last")
    steered = (
        *steering.add(vectors[1], 3.0, gate=gate),
        *steering.ablate(vectors[0], when=positions.generated),
        *steering.edits.scale_units("L1.z", [1, 3], 0.2),
    )
    ends = ids.flip(0, 1)[:, :5]
    runs = [
        forced(model, ids, ends, steered, use_cache, mask, engine)
        for engine in ("reference", "fast")
        for use_cache in (True, False)
    ]
    for other in runs[1:]:
        torch.testing.assert_close(runs[0], other, rtol=0, atol=1e-9)
    assert (runs[0] - forced(model, ids, ends, (), True, mask)).abs().max() > 0.01


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_makes_its_angles_once_for_all_layers(ids, monkeypatch, padded):
    model = architectures.build(architectures.ROTARY)
    turned, plain = [], Rotary.__call__
    monkeypatch.setattr(Rotary, "__call__", lambda self, x, pos: turned.append(len(x)) or plain(self, x, pos))
    prompts = [ids[0].tolist(), ids[1, 2:].tolist()] if padded else ids[:2]
    steering.generate(model, prompts, max_new_tokens=1)
    first = len(turned)  # the proof and the prompt
    turned.clear()
    steering.generate(model, prompts, max_new_tokens=4, stop=())
    proofs = first - 2 * model.cfg.n_layers
    assert turned[-3:] == [2 if padded else 1] * 3
    assert len(turned) <= proofs + 2 * model.cfg.n_layers + 3


def test_which_engine_runs(model, ids, draw, monkeypatch):
    """Fast where it can; the model under hooks for attention scores, hooks of one's own, another result."""
    fast = [0]

    class Counted(FastDecoder):
        def logits(self):
            fast[0] += 1
            return super().logits()

    monkeypatch.setattr(sys.modules["interp.steering._generate"], "FastDecoder", Counted)

    def steps(*made, **options):
        fast[0] = 0
        steering.generate(model, ids, *made, max_new_tokens=3, **options)
        return fast[0]

    biased = steering.edits.score_bias(1, positions.at(1), 5.0)
    assert steps(made("L1.resid_pre", positions.generated, draw)) == 3
    assert steps(engine="reference") == 0
    assert steps(biased) == 3
    with pytest.raises(ValueError, match="not one of"):
        steps(engine="slow")
    hook = ("blocks.0.hook_resid_pre", lambda tensor, hook: tensor)
    with model.hooks(fwd_hooks=[hook]), pytest.warns(UserWarning, match="hooks are attached"):
        assert steps() == 0
    monkeypatch.setattr("interp.engine.trust.unsupported", lambda model: "a test says so")
    with pytest.warns(UserWarning, match="a test says so"):
        assert steps() == 0
    with pytest.raises(ValueError, match="a test says so"):
        steps(engine="fast")


@pytest.mark.parametrize("use_cache", [True, False])
def test_without_interventions_it_is_greedy_decoding(toy, ids, use_cache):
    """Also with learned positions and no tokenizer, where HookedTransformer.generate goes wrong."""
    tokens = ids
    with torch.no_grad():
        for _ in range(6):
            tokens = torch.cat((tokens, toy(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
    written = steering.generate(toy, ids, max_new_tokens=6, use_cache=use_cache, stop=())
    assert torch.equal(written, tokens)


def test_padding_stays_where_it_was(model, ids):
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :2] = False
    left = steering.generate(model, ids, mask=mask, max_new_tokens=4, pad=0)
    right = steering.generate(model, [ids[0, 2:].tolist(), *ids[1:].tolist()], max_new_tokens=4, pad=0)
    assert (left[0, :2] == 0).all()
    assert (right[0, -2:] == 0).all()
    assert torch.equal(left[0, 2:], right[0, :-2])
    assert torch.equal(left[1:], right[1:])


def test_draws_are_reproducible_and_stops_end_a_row(model, ids):
    state = torch.get_rng_state()
    hot = [steering.generate(model, ids, max_new_tokens=8, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(hot[0], hot[1])
    assert not torch.equal(hot[0], hot[2])
    assert torch.equal(torch.get_rng_state(), state)
    greedy = steering.generate(model, ids, max_new_tokens=6)
    assert torch.equal(steering.generate(model, ids, max_new_tokens=6, temperature=2.0, top_k=1), greedy)
    stop = int(greedy[0, 7])
    stopped = steering.generate(model, ids[:1], max_new_tokens=6, stop=[stop], pad=1)
    end = 6 + int((greedy[0, 6:] == stop).int().argmax())
    assert torch.equal(stopped[0], greedy[0, : end + 1])


def test_the_longest_run_fits_the_context(model, ids):
    assert steering.generate(model, ids, max_new_tokens=11).shape == (4, 17)
    with pytest.raises(ValueError, match="context of 17"):
        steering.generate(model, ids, max_new_tokens=12)
