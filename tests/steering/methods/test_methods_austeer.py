"""AUSteer: planted dimensions are found, and nothing but them is changed."""

from __future__ import annotations

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.places import parse
from interp.steering import methods


def test_momentum_is_the_signed_share_of_the_majority_with_ties_up():
    up = torch.tensor(
        [[1.0, 5.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
    )
    down = torch.tensor(
        [[0.0, 6.0, 0.0, 0.0], [0.0, 7.0, 0.0, 1.0], [2.0, 8.0, 0.0, 0.0], [0.0, 9.0, 0.0, 1.0]]
    )
    assert methods.momentum(up, down).tolist() == [0.75, -1.0, 0.0, 0.5]


def test_planted_dimensions_of_256_are_found_with_their_signs(draw):
    base, planted = draw(64, 256), torch.arange(5, 256, 32)
    signs = torch.tensor([1.0, -1.0] * 4).double()
    up, down = base + draw(64, 256), base + draw(64, 256)
    up[:, planted] += 3 * signs
    beta = methods.momentum(up, down)
    top = beta.abs().argsort(descending=True)[:8].sort().values
    assert torch.equal(top, planted)
    assert torch.equal(beta[planted].sign(), signs)
    assert beta[planted].abs().min() > 0.9
    rest = torch.ones(256, dtype=torch.bool)
    rest[planted] = False
    assert beta[rest].abs().max() < 0.75


def test_dimensions_of_a_model_by_hand_over_all_places_at_once(model, ids):
    up, down, sites = ids[:2], ids[2:], ("L0.mlp_out", "L2.resid_post", "L1H2")
    found = methods.austeer(model, up, down, sites, k=7)
    assert len(found) == 7
    above, below = (steering.activations(model, rows, sites) for rows in (up, down))
    every = torch.cat([methods.momentum(above[where], below[where]).abs() for where in above])
    smallest = torch.cat([beta.abs() for beta in found.beta.values()]).min()
    assert (every > smallest).sum() <= 7
    for where, index in found.index.items():
        gap = above[where] - below[where]
        same = (gap > 0).all(0) | (gap < 0).all(0)
        assert same[index].all()
        torch.testing.assert_close(found.beta[where], gap[0, index].sign())


def test_only_the_selected_dimensions_change_and_by_the_formula(model, ids):
    where = parse("L1.mlp_out")
    found = methods.austeer(model, ids[:2], ids[2:], where, k=5)
    seen = []
    keep = [("blocks.1.hook_mlp_out", lambda tensor, hook: seen.append(tensor.clone()))]
    with torch.no_grad(), model.hooks(fwd_hooks=keep):
        logits(model, ids)
    with torch.no_grad(), steering.steer(model, *found.scale(0.5)), model.hooks(fwd_hooks=keep):
        steered = logits(model, ids)
    index = found.index[where]
    rest = torch.ones(24, dtype=torch.bool)
    rest[index] = False
    assert torch.equal(seen[1][..., rest], seen[0][..., rest])
    torch.testing.assert_close(seen[1][..., index], seen[0][..., index] * (1 + 0.5 * found.beta[where]))
    with torch.no_grad(), steering.steer(model, *found.scale(0.0)):
        assert torch.equal(logits(model, ids), logits(model, ids))
    with torch.no_grad():
        base = logits(model, ids)
    assert (steered - base).abs().max() > 1e-3
    with torch.no_grad(), steering.steer(model, *found.scale(0.0)):
        assert torch.equal(logits(model, ids), base)


def test_negative_dimensions_go_the_wrong_way_and_are_counted(draw):
    level = torch.tensor([2.0, -2.0]).double()
    found = methods.Dimensions(
        {parse("L0.mlp_out"): torch.tensor([0, 1])},
        {parse("L0.mlp_out"): torch.ones(2).double()},
        {parse("L0.mlp_out"): level},
        {parse("L0.mlp_out"): 24},
    )
    assert found.against == 0.5
    edit = found.scale(0.5)[0].edit
    moved = edit(torch.zeros(24).double().index_put((torch.tensor([0, 1]),), level))[:2] - level
    assert moved.tolist() == [1.0, -1.0]  # beta says up for both


def test_bad_input_before_any_pass(model, ids):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    try:
        for call, match in (
            (lambda: methods.austeer(model, ids, ids[:3], "L1.post", 3), "4 positive and 3 negative"),
            (lambda: methods.austeer(model, ids, ids, "L1.post", 41), "k is 41; the places have 40"),
            (lambda: methods.austeer(model, ids, ids, "L1.z", 3), "has several heads"),
            (lambda: methods.austeer(model, ids, ids, [], 3), "sites is empty"),
            (lambda: methods.austeer(model, ids, ids, "L9.post", 3), "out of range"),
            (lambda: methods.austeer(model, ids, [], "L1.post", 3), "negative: got no prompts"),
            (lambda: methods.momentum(torch.zeros(0, 3), torch.zeros(0, 3)), "0 pairs"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
