"""Models whose logits are of no next token: classifiers, and attention that goes both ways."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import torch
from two_sides import no_pass

from interp import Task, steering
from interp.models import logits
from interp.steering import methods

pytestmark = pytest.mark.skipif(
    not architectures.has_hooked_transformer(), reason="this release has no HookedTransformer"
)
IDS = torch.randint(3, architectures.VOCAB, (6, 8), generator=torch.Generator().manual_seed(8))
TARGETS = torch.full((6, 1), 4)


def build(**config: Any) -> Any:
    return architectures.build(config)


def told(model: Any) -> dict[str, Any]:
    """Calls that teach or foretell tokens."""
    return {
        "optimise": lambda: steering.optimise(model, IDS, TARGETS, layer=1, steps=1),
        "adaptive": lambda: methods.adaptive_vector(model, IDS, TARGETS, layer=1, steps=1),
        "adapter": lambda: methods.rank_one_adapter(model, IDS, TARGETS, layer=1, steps=1),
        "bias": lambda: methods.tuned_bias(model, IDS, TARGETS, layer=1, steps=1),
        "attack": lambda: methods.attack_scaling(model, IDS[:1, :4], [1], [1], steps=1, progress=False),
        "sink": lambda: methods.sink_effect(model, IDS, 0),
    }


def written(model: Any) -> dict[str, Any]:
    """Calls that generate."""
    d = steering.mean_difference(model, IDS[:3], IDS[3:], layer=1)
    find = methods.returns([5], [6])
    return {
        "generate": lambda: steering.generate(model, IDS, max_new_tokens=1, stop=()),
        "side_by_side": lambda: steering.side_by_side(model, IDS, d, 1.0, max_new_tokens=1),
        "rast": lambda: methods.rast(model, model, model, IDS, 1.0, max_new_tokens=1),
        "resistance": lambda: methods.resistance(
            model, IDS, steering.add(d), find, max_new_tokens=1, progress=False
        ),
    }


def test_a_classifier_writes_and_foretells_nothing() -> None:
    model = build(d_vocab_out=2)
    calls = told(model) | written(model)
    with no_pass(model):
        for call in calls.values():
            with pytest.raises(ValueError, match="gives logits for 2, which are of no next token"):
                call()


def test_a_classifier_is_taught_by_a_reward_of_its_logits() -> None:
    model = build(d_vocab_out=2)

    def reward(out: torch.Tensor, rows: Any) -> torch.Tensor:
        return out[:, -1].log_softmax(-1)[:, 1]

    d = steering.optimise(model, IDS, reward=reward, layer=1, steps=15, lr=0.3)
    with torch.no_grad():
        before = logits(model, IDS)[:, -1].softmax(-1)[:, 1]
        with steering.steer(model, steering.add(d)):
            after = logits(model, IDS)[:, -1].softmax(-1)[:, 1]
    assert (after > before).all()
    task = Task.from_tokens(clean=IDS, corrupt=IDS.flip(1), answer=[1] * 6, wrong=[0] * 6)
    out = methods.vector_paths(model, d, task, progress=False)
    by_hand = methods.measure(model, task, steering.add(d)) - methods.measure(model, task)
    torch.testing.assert_close(torch.tensor(out["value"].sel(path="all").values), by_hand)


def test_attention_both_ways_would_see_what_is_to_be_foretold() -> None:
    model = build(attention_dir="bidirectional")
    with no_pass(model):
        for call in told(model).values():
            with pytest.raises(ValueError, match="goes both ways, so it would see"):
                call()


@pytest.mark.filterwarnings("ignore:using the reference engine")
def test_attention_both_ways_is_decoded_without_a_cache() -> None:
    """What a cache holds of the earlier tokens has not seen the new one."""
    model = build(attention_dir="bidirectional")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_V.mul_(3)
    right = IDS.clone()
    with torch.no_grad():
        for _ in range(6):
            right = torch.cat([right, model(right)[:, -1].argmax(-1, keepdim=True)], 1)
    with pytest.warns(UserWarning, match="attention goes both ways"):
        found = steering.generate(model, IDS, max_new_tokens=6, stop=())
    assert torch.equal(found, right)
