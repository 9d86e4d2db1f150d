"""ActAdd: one pair of prompts, added position by position to the front of a prompt."""

from __future__ import annotations

import pytest
import torch
import two_sides as sides

import interp
from interp import steering, tasks
from interp.models import logits
from interp.steering import methods
from interp.tasks import LogitDiff


def stream(model, tokens, layer, *made, **options):
    """The stream before a layer, as an intervention there leaves it."""
    seen = []
    name = f"blocks.{layer}.hook_resid_pre"
    keep = [(name, lambda tensor, hook: seen.append(tensor.clone()))]
    with torch.no_grad(), steering.steer(model, *made, **options), model.hooks(fwd_hooks=keep):
        logits(model, tokens)
    return seen[0]


def test_each_front_position_moves_by_its_own_difference_and_no_other(toy, ids, within):
    made = methods.actadd(toy, ids[0, :3], ids[1, :3], 1, 2.5)
    plain = stream(toy, ids, 1)
    difference = stream(toy, ids[:1, :3], 1) - stream(toy, ids[1:2, :3], 1)
    moved = stream(toy, ids, 1, made) - plain
    expected = 2.5 * difference.expand(4, -1, -1)
    torch.testing.assert_close(moved[:, :3], expected, rtol=0, atol=within)
    assert expected.norm(dim=-1).min() > 0.1
    assert torch.equal(moved[:, 3:], torch.zeros_like(moved[:, 3:]))


def test_zero_equal_prompts_and_exchange(model, ids):
    def run(*made):
        with torch.no_grad(), steering.steer(model, *made):
            return logits(model, ids)

    a, b = ids[0, :4], ids[1, :4]
    assert torch.equal(run(methods.actadd(model, a, b, 1, 0.0)), run())
    with pytest.raises(ValueError, match=r"the direction is 0 at L1\.resid_pre"):
        methods.actadd(model, a, a, 1, 9.0)
    there, back = run(methods.actadd(model, a, b, 1, -3.0)), run(methods.actadd(model, b, a, 1, 3.0))
    torch.testing.assert_close(there, back)
    assert (there - run()).abs().max() > 0.1


def test_the_shorter_prompt_is_padded_on_the_right_and_start_moves_the_vectors(model, ids):
    padded = torch.tensor([*ids[1, :2].tolist(), 5, 5])
    short = methods.actadd(model, ids[0, :4], ids[1, :2], 1, pad=5)
    whole = methods.actadd(model, ids[0, :4], padded, 1)
    assert torch.equal(stream(model, ids, 1, short), stream(model, ids, 1, whole))
    later = methods.actadd(model, ids[0, :4], padded, 1, start=2)
    change = [stream(model, ids, 1, made) - stream(model, ids, 1) for made in (whole, later)]
    torch.testing.assert_close(change[1][:, 2:], change[0][:, :4])
    assert torch.equal(change[1][:, :2], torch.zeros_like(change[1][:, :2]))


@pytest.mark.parametrize(("start", "first"), [("mid", 2), ("back", 3)])
def test_the_vectors_are_centred_in_a_prompt_or_end_with_it(model, ids, start, first):
    """Three vectors in prompts of 6 tokens start at 2 or 3; beside padding the row's own length counts."""
    made = methods.actadd(model, ids[0, :3], ids[1, :3], 1, start=start)
    same = methods.actadd(model, ids[0, :3], ids[1, :3], 1, start=first)
    tokens = ids[:, :6]
    moved = stream(model, tokens, 1, made) - stream(model, tokens, 1)
    assert torch.equal(moved, stream(model, tokens, 1, same) - stream(model, tokens, 1))
    assert (moved.norm(dim=-1) > 0.1).tolist() == [[first <= p < first + 3 for p in range(6)]] * 4
    alone = [steering.generate(model, row[None, :n], made, max_new_tokens=4) for row, n in zip(ids, (4, 6))]
    padded = steering.generate(model, [ids[0, :4], ids[1, :6]], made, max_new_tokens=4)
    for row, one, n in zip(padded, alone, (4, 6)):
        assert torch.equal(row[: n + 4], one[0])


def test_a_prompt_shorter_than_the_pair_takes_the_last_vectors_at_its_end(model, ids):
    whole = steering.methods.prompt_pair(model, ids[0, :5], ids[1, :5], layer=1).vector
    made = methods.actadd(model, ids[0, :5], ids[1, :5], 1, start="back")
    change = stream(model, ids[:, :3], 1, made) - stream(model, ids[:, :3], 1)
    torch.testing.assert_close(change[0], whole[2:])


def test_a_slice_of_the_coordinates(model, ids):
    made = methods.actadd(model, ids[0, :3], ids[1, :3], 1, coordinates=slice(4, 9))
    whole = methods.actadd(model, ids[0, :3], ids[1, :3], 1)
    some, every = (stream(model, ids, 1, each) - stream(model, ids, 1) for each in (made, whole))
    assert torch.equal(some[..., 4:9], every[..., 4:9])
    assert some[:, :3, 4:9].abs().min() > 0
    some[..., 4:9] = 0
    assert torch.equal(some, torch.zeros_like(some))
    with pytest.raises(ValueError, match="select none of the 24"):
        methods.actadd(model, ids[0, :3], ids[1, :3], 1, coordinates=slice(30, 40))


def test_what_is_generated_is_not_edited(model, ids):
    """A pair of 5 tokens on a prompt of 2: the tokens after the prompt stay as they are."""
    made = methods.actadd(model, ids[0, :5], ids[1, :5], 1, 3.0)
    change = stream(model, ids, 1, made, prompt_length=2) - stream(model, ids, 1)
    assert change[:, :2].norm(dim=-1).min() > 0.1
    assert torch.equal(change[:, 2:], torch.zeros_like(change[:, 2:]))
    kept, anew = (
        steering.generate(model, ids[:, :2], made, max_new_tokens=6, use_cache=cache)
        for cache in (True, False)
    )
    assert torch.equal(kept, anew)


@pytest.mark.parametrize("layer", [1, 2])
def test_one_pair_of_reviews_turns_the_sentiment_of_others(layer):
    """`wonderful` against `terrible` raises praise in reviews that began badly, and exchanged it does not."""
    world = interp.load("tiny-world")
    task = sides.exchanged(sides.sides(world, tasks.sentiment(world, n=24, seed=1), "terrible")[0])
    pair = ("Review: The film was wonderful.", "Review: The film was terrible.")
    d = steering.methods.prompt_pair(world, *pair, layer=layer)
    found = steering.sweep(
        world, d, task, [-2.0, 0.0, 2.0], metric=LogitDiff(), intervene=steering.edits.inject
    )
    effect, chance = (found[name].mean("prompt").values[0] for name in ("value", "random"))
    assert effect[1] == 0
    assert effect[2] > 6  # logits; measured 9.5
    assert effect[2] > effect[0] + 4
    assert effect[2] > abs(chance).max() + 4
    rows = torch.arange(len(task))
    with torch.no_grad(), steering.steer(world, methods.actadd(world, *pair, layer, 2.0)):
        last = logits(world, task.clean)[rows, task.positions]
    answer, wrong = (last.gather(1, each).mean(1) for each in (task.answers, task.wrongs))
    assert (answer - wrong).mean() == pytest.approx(float(found["raw"][:, 0, 2].mean()), abs=1e-3)


def test_bad_input_before_any_pass(model, ids):
    sides.refused(
        model,
        [
            (lambda: methods.actadd(model, ids[:2], ids[0], 1), "positive has 2"),
            (lambda: methods.actadd(model, ids[0], ids[1], 1, float("nan")), "coefficient is nan"),
            (lambda: methods.actadd(model, ids[0], ids[1], 1, start=-1), "start is -1"),
            (lambda: methods.actadd(model, ids[0], ids[1], 1, start="end"), "start is 'end'"),
            (lambda: methods.actadd(model, ids[0], ids[1], 7), "layer 7 is out of range"),
            (lambda: methods.actadd(model, ids[0], ids[1], 1, site="stream"), "unknown site"),
        ],
    )
