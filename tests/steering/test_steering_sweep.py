"""Sweeps against runs one by one, and what is read from them."""

from __future__ import annotations

import math

import held
import numpy as np
import pytest
import torch

from interp import positions, steering
from interp.models import logits, weights
from interp.steering._runs import Suffix, Whole, question_of, runner
from interp.tasks import KL, LogitDiff, Loss, Task

STEPS = [-2.0, 0.0, 1.0, 3.0]


@pytest.fixture
def answers(ids):
    return ids[:, 0], ids[:, 1]


@pytest.fixture
def directions(toy, ids):
    return steering.mean_difference(toy, ids[:2], ids[2:], layer=[0, 1, 2])


def test_a_sweep_is_the_runs_one_by_one(toy, ids, answers, directions, within):
    answer, wrong = answers
    mask = torch.ones_like(ids, dtype=torch.bool)
    metrics = [LogitDiff(), KL(), steering.measures.Entropy(), Loss()]
    found = steering.sweep(toy, directions, ids, STEPS, metric=metrics, answer=answer, wrong=wrong)
    assert found["value"].dims == ("prompt", "layer", "coefficient", "metric")
    with torch.no_grad():
        clean = logits(toy, ids)[:, -1].log_softmax(-1)
    for part in directions.split():
        for step in STEPS:
            with torch.no_grad(), steering.steer(toy, steering.add(part, step)):
                whole = logits(toy, ids)
            log = whole[:, -1].log_softmax(-1)
            entropy = -(log.exp() * log).sum(-1)
            kl = (clean.exp() * (clean - log)).sum(-1)
            loss = torch.nn.functional.cross_entropy(
                whole[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            )
            difference = whole[:, -1].gather(1, answer[:, None]) - whole[:, -1].gather(1, wrong[:, None])
            wanted = torch.stack((difference[:, 0], kl, entropy, loss.view(4, -1).mean(1)), -1)
            got = found["raw"].sel(layer=part.layer, coefficient=step).values
            np.testing.assert_allclose(got, wanted, rtol=0, atol=100 * within)
    assert abs(found["value"].sel(coefficient=0.0)).max() < 100 * within
    signs = np.array([1, -1, -1, -1])
    np.testing.assert_allclose(found["value"], signs * (found["raw"] - found["clean"]), rtol=0, atol=1e-9)
    assert mask.all()


def test_blocks_of_prompts_take_turns_in_the_memory_given(model, ids):
    """The same numbers from a bound that holds neither all prompts nor all coefficients at once."""
    directions = steering.mean_difference(model, ids[:2], ids[2:], layer=[0, 1])
    many = ids.repeat(8, 1)
    options = {"neutral": many[:4], "progress": False}
    whole: list = []
    steering.sweep(model, directions, ids, STEPS, **options)  # the trust check
    unbounded = held.peak(lambda: whole.append(steering.sweep(model, directions, many, STEPS, **options)))
    bound = unbounded // 4
    pieces: list = []
    tight = held.peak(
        lambda: pieces.append(steering.sweep(model, directions, many, STEPS, memory=bound, **options))
    )
    assert tight <= 1.1 * bound
    for name in ("value", "raw", "random", "neutral_loss", "clean"):
        np.testing.assert_allclose(pieces[0][name], whole[0][name], atol=1e-9)
    assert abs(whole[0]["value"]).max() > 1e-3


def test_both_runners_agree_under_every_when_and_site(toy, ids, draw, within):
    ragged = [ids[0, :4].tolist(), ids[1].tolist(), ids[2, :5].tolist()]
    question = question_of(toy, ragged, None, None, None, [steering.measures.Entropy(), Loss()])
    reads = question.reads
    for name in (
        "L1.resid_pre",
        "L1.resid_mid",
        "L1H2",
        "L1.post",
        "L2.mlp_out",
        "L1.attn_out",
        "L0.resid_post",
    ):
        width = 6 if "H" in name else 40 if name.endswith("post") and "resid" not in name else 24
        d = steering.Direction.from_tensor(draw(width), name)
        for when in (
            positions.everywhere,
            positions.at(-1),
            positions.window(1, 3),
            positions.tokens(int(ids[0, 2])),
        ):
            made = [each.check(toy) for each in steering.add(d, 2.0, when=when)]
            rows = torch.tensor([2, 0, 0, 1])
            fast = Suffix(weights(toy), question, {0, 1, 2}).run(rows, made)
            whole = Whole(toy, question).run(rows, made)
            for row in range(4):
                n = int(reads.runs.lengths[rows[row]])
                torch.testing.assert_close(fast[row, :n], whole[row, :n], rtol=0, atol=100 * within)


def test_models_that_the_engine_cannot_run_are_swept_under_hooks(model, ids, monkeypatch):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=[1, 2])
    fast = steering.sweep(model, d, ids, STEPS)
    monkeypatch.setattr("interp.engine.trust.unsupported", lambda model: "a test says so")
    question = question_of(model, ids, None, None, None, KL())
    assert isinstance(runner(model, question, [], "reference", 1), Whole)
    with pytest.warns(UserWarning, match="a test says so"):
        slow = steering.sweep(model, d, ids, STEPS)
    assert (fast.attrs["engine"], slow.attrs["engine"]) == ("fast", "reference")
    np.testing.assert_allclose(fast["value"], slow["value"], rtol=0, atol=1e-9)
    assert float(abs(fast["value"]).max()) > 0.01


def test_a_planted_unembedding_direction_raises_the_logit_difference_of_every_prompt(model, ids, answers):
    """Steering along W_U[answer] − W_U[wrong], without a norm, has that slope exactly."""
    import architectures

    model = (
        architectures.build({"normalization_type": None}) if architectures.has_hooked_transformer() else model
    )
    a, b = 5, 7
    vector = (model.W_U[:, a] - model.W_U[:, b]).detach()
    d = steering.Direction.from_tensor(vector, "L2.resid_post")
    answer, wrong = torch.full((4,), a), torch.full((4,), b)
    found = steering.sweep(model, d, ids, STEPS, metric=LogitDiff(), answer=answer, wrong=wrong)
    steps = found["value"].sel(layer=2).diff("coefficient")
    assert float(steps.min()) > 0
    slopes = steering.measures.steerability(found)
    if architectures.has_hooked_transformer():
        np.testing.assert_allclose(slopes["slope"], (vector @ vector).item(), rtol=1e-9)
        assert float(slopes["sd"].max()) < 1e-9
    assert float(slopes["wrong"].max()) == 0.0
    assert abs(slopes["slope_random"]).max() < slopes["slope"].min()


def test_the_half_of_the_prompts_whose_answers_are_turned_is_steered_the_wrong_way(model, ids):
    vector = (model.W_U[:, 5] - model.W_U[:, 7]).detach()
    d = steering.Direction.from_tensor(vector, "L2.resid_post")
    answer, wrong = torch.tensor([5, 5, 7, 7]), torch.tensor([7, 7, 5, 5])
    found = steering.sweep(model, d, ids, [-1.0, 0.0, 1.0], metric=LogitDiff(), answer=answer, wrong=wrong)
    slopes = steering.measures.steerability(found)
    assert slopes["wrong"].item() == 0.5
    assert (slopes["slope"].values[:, 0] > 0).tolist() == [True, True, False, False]


def test_metrics_where_lower_is_better_turn_the_slope(model, ids):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    found = steering.sweep(model, d, ids, [0.0, 1.0], metric=steering.measures.Entropy())
    change = found["value"].isel(coefficient=1) - found["value"].isel(coefficient=0)
    np.testing.assert_allclose(steering.measures.steerability(found)["slope"], change)


def test_controls_have_equal_norm_and_other_directions(model, ids):
    from interp.steering import controls

    d = steering.mean_difference(model, ids[:2], ids[2:], layer=[1, 2])
    made = controls(d.split(), seed=0)
    assert set(made) == {"random", "shuffled"}
    for members in made.values():
        for part, control in zip(d.split(), members):
            assert control.vector.norm().item() == pytest.approx(part.vector.norm().item())
            assert abs(control.cosine(part).item()) < 0.999
    bare = steering.Direction.from_tensor(d.at("L1.resid_pre").vector, "L1.resid_pre")
    assert set(controls([bare], seed=0)) == {"random"}


def test_a_task_neutral_text_judges_and_attributes(model, ids, answers):
    answer, wrong = answers
    task = Task.from_tokens(clean=ids, corrupt=ids.flip(0), answer=answer, wrong=wrong)
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    neutral = ids[:3].flip(1)
    found = steering.sweep(
        model, d, task, [0.0, 2.0], neutral=neutral, max_new_tokens=5,
        judges={"repetition": steering.measures.repetition, "first": lambda new: new[:, 0].double()},
    )  # fmt: skip
    assert list(found["metric"].values) == ["logit_diff", "kl"]
    assert found.sizes["neutral_prompt"] == 3
    plain = steering.sweep(model, d, neutral, [0.0, 2.0], metric=Loss())["raw"]
    np.testing.assert_allclose(
        found["neutral_loss"], plain.transpose("layer", "coefficient", "prompt"), atol=1e-12
    )
    made = steering.generate(model, ids, steering.add(d, 2.0), max_new_tokens=5)[:, 6:]
    assert found["first"].sel(layer=1, coefficient=2.0).values.tolist() == made[:, 0].tolist()
    np.testing.assert_allclose(
        found["repetition"].sel(layer=1, coefficient=2.0), steering.measures.repetition(made)
    )
    assert {"seed", "versions", "when", "convention", "model"} <= set(found.attrs)
    assert found["in_norms"].sel(layer=1, coefficient=2.0).item() == pytest.approx(
        2 * d.vector.norm().item() / d.norms[d.place]
    )


def test_repetition_counts_what_came_before():
    rows = torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6]])
    assert steering.measures.repetition(rows).tolist() == [1 - 2 / 5, 0.0]


def test_selection_is_held_out_and_keeps_its_limits(model, ids):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=[0, 1, 2])
    answer, wrong = torch.full((4,), 5), torch.full((4,), 7)
    found = steering.sweep(model, d, ids, STEPS, metric=[LogitDiff(), KL()], answer=answer, wrong=wrong)
    best = steering.measures.select(found, "logit_diff", kl_limit=0.5)
    kl = found["raw"].sel(metric="kl", layer=best["layer"], coefficient=best["coefficient"])
    rows = np.random.default_rng(0).permutation(4)
    assert float(kl.values[np.sort(rows[2:])].mean()) <= 0.5
    assert best["kl"] == pytest.approx(float(kl.values[np.sort(rows[:2])].mean()))
    assert {"effect", "effect_random", "effect_shuffled"} <= set(best)
    assert steering.measures.select(found, "logit_diff", kl_limit=1e9, last_layer=0)["layer"] == 0
    with pytest.raises(ValueError, match="no setting"):
        steering.measures.select(found.sel(coefficient=[3.0]), "logit_diff", kl_limit=1e-9)
    numbers = steering.measures.summary(found)["raw"]
    np.testing.assert_allclose(numbers.sel(statistic="mean"), found["raw"].mean("prompt"))
    assert bool(
        (
            numbers.sel(statistic="p95", metric="kl") >= numbers.sel(statistic="mean", metric="kl") - 1e-12
        ).all()
    )


@pytest.mark.parametrize("target", [0.01, 0.3])
def test_calibration_gives_the_kl_within_one_percent(toy, ids, target):
    d = steering.mean_difference(toy, ids[:2], ids[2:], layer=1)
    for sign in (1, -1):
        found = steering.calibrate(toy, d, ids, target, sign=sign)
        assert math.copysign(1, found.coefficient) == sign
        run = steering.sweep(toy, d, ids, [found.coefficient], metric=KL(), with_controls=False)
        assert float(run["raw"].mean()) == pytest.approx(target, rel=0.01)
        assert found.kl == pytest.approx(target, rel=0.01)


def test_a_kl_that_no_coefficient_reaches_is_an_error(model, ids):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    with pytest.raises(ValueError, match="the largest KL"):
        steering.calibrate(model, d, ids, 1e6)
    with pytest.raises(ValueError, match="above 0"):
        steering.calibrate(model, d, ids, 0.0)
