"""Probes on models in which one head alone carries what the probes look for, and on a trained model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import architectures
import numpy as np
import pytest
import torch
import two_sides
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import interp
from interp import probes, steering
from interp.models import anatomy
from interp.probes.aggregate import Weights

LAYER, HEAD = 1, 2
MARKS = (3, 4)  # the first token: of the positive and of the negative prompts
N, N_POS = 60, 7


@pytest.fixture(scope="module")
def planted():
    """An attention-only model in which head L1H2 alone reads the difference of the two marks."""
    model = architectures.build(
        {"attn_only": True, "d_mlp": None, "act_fn": None, "normalization_type": None}
    )
    mark = model.W_E[MARKS[0]] - model.W_E[MARKS[1]]
    unit = (mark / mark.norm()).detach()
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            for W in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):  # [head, d_model, d_head]
                keep = [layer == LAYER and W is block.attn.W_V and head == HEAD for head in range(W.shape[0])]
                along = unit[:, None] * torch.einsum("d,hde->he", unit, W)[:, None]
                W -= torch.where(torch.tensor(keep)[:, None, None], 0.0, along)
        model.blocks[LAYER].attn.W_V[HEAD] += 5 * unit[:, None]
        model.blocks[LAYER].attn.W_Q[HEAD] *= 0.1  # it attends to every token, the mark among them
    return model


@pytest.fixture(scope="module")
def prompts():
    """Random tokens after the mark, positive and negative."""
    generator = torch.Generator().manual_seed(11)
    rows = torch.randint(5, architectures.VOCAB, (2, N, N_POS), generator=generator)
    rows[0, :, 0], rows[1, :, 0] = MARKS
    return rows[0], rows[1]


def test_the_planted_head_is_found_and_no_other(planted, prompts) -> None:
    found, _ = probes.fit(planted, *prompts, site="z", layer=[0, LAYER], draws=10)
    accuracy = found["accuracy"]
    assert accuracy.dims == ("layer", "head")
    assert float(accuracy.sel(layer=LAYER, head=HEAD)) > 0.9
    others = np.delete(accuracy.values.ravel(), 4 * LAYER + HEAD)
    assert others.max() < 0.78
    assert abs(others.mean() - 0.5) < 0.08
    p = found["p_value"]
    assert float(p.sel(layer=LAYER, head=HEAD)) == pytest.approx(1 / 11)
    assert found["head_name"].sel(layer=LAYER, head=HEAD).item() == "L1H2"
    some, _ = probes.fit(planted, *prompts, site="z", layer=LAYER, heads=[HEAD], draws=10)
    assert some["accuracy"].item() == float(accuracy.sel(layer=LAYER, head=HEAD))


def test_the_stream_has_it_from_the_planted_layer_on(planted, prompts) -> None:
    found, made = probes.fit(planted, *prompts, site="resid_post", draws=10)
    before, *after = found["accuracy"].values
    assert before < 0.75
    assert min(after) > 0.9
    assert min(found["auroc"].values[1:]) > 0.97
    fresh = torch.cat(prompts).flip(0)
    score = made.score(planted, fresh)
    side = torch.cat((torch.zeros(N), torch.ones(N))).numpy()
    right = ((score["probability"].sel(place="L1.resid_post") > 0.5) == (side > 0)).mean()
    assert float(right) > 0.9
    assert score["logit"].dims == ("place", "prompt")


def test_shuffled_labels_are_at_chance(planted, prompts) -> None:
    found, _ = probes.fit(planted, *prompts, site="resid_post", layer=2, draws=60)
    control = found["control"].values
    assert abs(control.mean() - 0.5) < 0.03
    assert 0.03 < control.std() < 0.13  # of 36 prompts: 0.083
    assert control.max() < found["accuracy"].item()


@pytest.mark.parametrize("agg", probes.aggregate.KINDS)
def test_tokens_put_together_see_the_mark_at_once(planted, prompts, agg: str) -> None:
    """At the last token layer 0 knows nothing; over all tokens the mark is there."""
    last, _ = probes.fit(planted, *prompts, layer=0, draws=2)
    found, made = probes.fit(planted, *prompts, layer=0, agg=agg, draws=2)
    assert last["accuracy"].item() < 0.75
    assert found["accuracy"].item() > 0.9
    score = made.score(planted, prompts[0])
    assert float((score["logit"] > 0).mean()) > 0.9


def test_held_out_prompts_of_ones_own_and_unequal_lengths(planted, prompts) -> None:
    up, down = ([row[: 4 + i % 4].tolist() for i, row in enumerate(side)] for side in prompts)
    fresh = (up[40:], down[40:])
    found, made = probes.fit(planted, up[:40], down[:40], site="resid_post", layer=1, held_out=fresh, draws=5)
    assert found.attrs["n_held_out"] == 40
    assert found.attrs["n_train"] == 80
    score = made.score(planted, up[40:])["logit"].values
    alone = [made.score(planted, [row])["logit"].item() for row in up[40:44]]
    np.testing.assert_allclose(score[0, :4], alone, atol=1e-9)


def test_the_normal_of_a_probe_is_a_direction(planted, prompts) -> None:
    _, made = probes.fit(planted, *prompts, site="resid_post", layer=[1, 2], draws=1)
    direction = made.direction()
    up, down = (steering.activations(planted, side, "L1.resid_post") for side in prompts)
    part = direction.at("L1.resid_post").check(planted)
    assert float(part.project(up).mean() - part.project(down).mean()) > 0
    with pytest.raises(ValueError, match="not linear"):
        probes.fit(planted, *prompts, layer=0, agg="multimax", draws=1)[1].direction()


def test_a_model_is_left_as_it_was_and_the_result_is_reproducible(planted, prompts) -> None:
    state = torch.get_rng_state()
    weights = {name: value.clone() for name, value in planted.state_dict().items()}
    one, two = (probes.fit(planted, *prompts, layer=1, draws=3, seed=5)[0] for _ in range(2))
    np.testing.assert_array_equal(one["control"], two["control"])
    other, _ = probes.fit(planted, *prompts, layer=1, draws=3, seed=6)
    assert not np.array_equal(one["control"], other["control"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in planted.state_dict().items())
    assert not any(point.fwd_hooks for point in planted.hook_dict.values())


def test_sentiment_is_read_in_a_trained_model_on_prompts_held_out_of_its_training() -> None:
    world = interp.load("tiny-world")
    train, fresh = (interp.tasks.sentiment(world, n=48, seed=s, held_out=bool(s)) for s in (0, 1))
    good = {world.to_single_token(f" {word}") for word in ("superb", "brilliant", "great", "lovely")}
    sides = []
    for task in (train, fresh):
        up = torch.tensor([bool(good & set(row)) for row in task.answers.tolist()])
        sides.append((task[up.nonzero().flatten()], task[(~up).nonzero().flatten()]))
    found, _ = probes.fit(world, *sides[0], layer=[0, 3], held_out=sides[1], draws=8)
    assert found["accuracy"].sel(layer=0).item() < 0.7  # the last token is the same in both classes
    assert found["accuracy"].sel(layer=3).item() > 0.95
    assert found["control"].sel(layer=3).mean().item() < 0.65


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agg": "median"}, "agg is 'median'"),
        ({"agg": "mean", "pos": 2}, "pos=2 has no place"),
        ({"pos": "all"}, "no score for a prompt"),
        ({"site": "resid_pre", "heads": [0]}, "has no heads"),
        ({"site": "z", "heads": [9]}, "has heads 0 to 3"),
        ({"held_out": 1.5}, "held_out is 1.5"),
        ({"draws": 0}, "draws is 0"),
        ({"layer": 7}, "layer 7 is out of range"),
    ],
)
def test_mistakes_are_refused_before_any_pass(planted, prompts, monkeypatch, options, message) -> None:
    monkeypatch.setattr(type(planted), "forward", lambda *a, **k: pytest.fail("a pass was made"))
    with pytest.raises(ValueError, match=message):
        probes.fit(planted, *prompts, **options)


@pytest.mark.parametrize(("agg", "pos"), [(None, 2), (None, (1, 4)), ("attention", "last")])
def test_saved_probes_score_as_they_did(planted, prompts, tmp_path, agg: str | None, pos: Any) -> None:
    _, made = probes.fit(planted, *prompts, layer=[0, 2], agg=agg, pos=pos, draws=1)
    found = probes.Probes.load(made.save(tmp_path / "made.safetensors"), planted)
    assert found.places == made.places
    assert found.score(planted, prompts[0]).identical(made.score(planted, prompts[0]))
    assert float(made.score(planted, prompts[0])["probability"].std()) > 0.001
    with pytest.raises(ValueError, match="trained on"):
        probes.Probes.load(tmp_path / "made.safetensors", interp.load("tiny-world"))


def test_files_of_something_else_and_positions_that_no_file_holds(planted, prompts, tmp_path) -> None:
    path = steering.mean_difference(planted, *prompts, layer=1).save(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"'interp-direction-1', expected 'interp-probes-1'"):
        probes.Probes.load(path)
    with pytest.raises(ValueError, match="there is no file"):
        probes.Probes.load(tmp_path / "none")
    _, made = probes.fit(planted, *prompts, layer=1, pos=lambda tokens, lengths: lengths - 1, draws=1)
    with pytest.raises(ValueError, match="no file can hold"):
        made.save(path)
    assert steering.Direction.load(path).layer == 1


def test_a_probe_judges_what_a_steered_model_writes() -> None:
    """Its probability of praise rises with the coefficient; it is the score of the text that was written."""
    world = interp.load("tiny-world")
    task = interp.tasks.sentiment(world, n=48, seed=0, held_out=False)
    good = (task.answers == world.to_single_token(" wonderful")).any(1)
    up, down = task[good.nonzero().flatten()], task[(~good).nonzero().flatten()]
    _, probe = probes.fit(world, up, down, layer=3, agg="mean", draws=1)
    d = steering.mean_difference(world, up, down, layer=3)
    found = steering.sweep(
        world, d, down, [0, 2], judges={"praise": probe.judge(world)}, max_new_tokens=8, with_controls=False
    )
    written = steering.generate(world, down, steering.add(d, 2), max_new_tokens=8)
    end = world.tokenizer.eos_token_id
    rows = [row[n : n + 8].tolist() for row, n in zip(written, down.lengths.tolist())]
    new = [row[: row.index(end)] if end in row else row for row in rows]  # a judge reads up to the end
    again = probe.score(world, new)["probability"].values[0]
    np.testing.assert_array_equal(found["praise"].isel(layer=0, coefficient=1).values, again)
    assert found["praise"].mean("prompt").isel(layer=0).values.tolist() == pytest.approx(
        [0.007, 0.98], abs=0.1
    )
    two = probes.fit(world, up, down, layer=[2, 3], draws=1)[1]
    with pytest.raises(ValueError, match="at one place"):
        two.judge(world)


def test_three_prompts_are_too_few_to_split(planted, prompts) -> None:
    with pytest.raises(ValueError, match="the negative class has 3 prompts"):
        probes.fit(planted, prompts[0], prompts[1][:3])


def test_probes_of_another_model_are_refused(planted, prompts) -> None:
    _, made = probes.fit(planted, *prompts, layer=0, draws=1)
    assert made.model == anatomy(planted).name
    with pytest.raises(ValueError, match="trained on"):
        made.score(interp.load("tiny-world"), "The king")


def test_probes_of_another_model_of_the_same_name_and_other_widths_are_refused(planted, prompts, tmp_path):
    _, made = probes.fit(planted, *prompts, layer=0, draws=1, progress=False)
    twin = architectures.build({"attn_only": True, "d_mlp": None, "act_fn": None})
    with torch.no_grad():
        twin.unembed.W_U.neg_()
    assert anatomy(twin).name == made.model
    with two_sides.no_pass(twin):
        for call in (lambda: made.score(twin, prompts[0]), lambda: probes.stream(twin, prompts[0], made)):
            with pytest.raises(ValueError, match="on another model that is called 'custom' as well"):
                call()
    allowed = replace(made, identity=())
    assert allowed.score(twin, prompts[0])["logit"].shape == (1, N)
    wide = {
        where: Weights(w.v.repeat(1, 2, 1), w.q.repeat(1, 2, 1), w.b) for where, w in made.weights.items()
    }
    with two_sides.no_pass(planted), pytest.raises(ValueError, match=r"reads 48 numbers, and custom has 24"):
        replace(made, weights=wide).score(planted, prompts[0])
    path = made.save(tmp_path / "made.safetensors")
    tensors = load_file(path) | {"more": torch.zeros(2)}
    with safe_open(path, "pt") as file:
        save_file(tensors, tmp_path / "more.safetensors", metadata=file.metadata())
    with pytest.raises(ValueError, match="also has more; expected are"):
        probes.Probes.load(tmp_path / "more.safetensors")
