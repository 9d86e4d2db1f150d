"""Experts switched off and on: a planted one is found, a gate at minus infinity is the model without it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import verbs
import zoo

import interp
from interp.models import logits
from interp.steering import methods
from interp.steering.methods._expert_switch import _switched

LAYER, EXPERT = 1, 2


@functools.cache
def mixtral() -> Any:
    return verbs.case("Mixtral")


def oracle(layer: int, change: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of transformers with the gate's logits changed, the gate written out by hand."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(zoo.folder("Mixtral")).eval()
    gate = next(m for m in model.model.layers[layer].modules() if type(m).__name__ == "MixtralTopKRouter")

    def forward(x: torch.Tensor) -> Any:
        scores = change(x.reshape(-1, x.shape[-1]) @ gate.weight.T)
        top, index = scores.float().softmax(-1).topk(gate.top_k, -1)
        return scores, top / top.sum(-1, keepdim=True), index

    gate.forward = forward
    with torch.no_grad():
        return model(tokens).logits


def off(scores: torch.Tensor) -> torch.Tensor:
    return scores.index_fill(-1, torch.tensor([EXPERT]), -torch.inf)


def test_off_is_a_gate_at_minus_infinity_and_the_model_is_left_as_it_was() -> None:
    model, tokens = mixtral().model, mixtral().task.clean
    with torch.no_grad():
        plain = logits(model, tokens)
        before = interp.models.computation_fingerprint(model)
        with methods.switch_experts(model, off=[f"L{LAYER}E{EXPERT}"]):
            without = logits(model, tokens)
        assert torch.equal(logits(model, tokens), plain)
    assert interp.models.computation_fingerprint(model) == before
    torch.testing.assert_close(without, oracle(LAYER, off, tokens), rtol=0, atol=1e-4)
    torch.testing.assert_close(plain, oracle(LAYER, lambda scores: scores, tokens), rtol=0, atol=1e-4)
    assert (without - plain).abs().max() > 1e-2


def test_what_is_off_has_no_weight_and_what_is_forced_has_the_most() -> None:
    model, tokens = mixtral().model, mixtral().task.clean
    half = len(tokens) // 2
    with methods.switch_experts(model, off=["L0E1"], forced=[f"L{LAYER}E{EXPERT}"]):
        found = methods.expert_scores(model, tokens[:half], tokens[half:])
    for side in ("positive", "negative"):
        assert float(found[side][0, 1]) == 0
        assert float(found[side][LAYER, EXPERT]) >= float(found[side][LAYER].max()) - 1e-6
        np.testing.assert_allclose(found[side].sum("expert"), 1, atol=1e-6)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tokens below 22 carry u, those from 22 on its negative; the gate of layer 1 reads u for expert 2."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(zoo.folder("Mixtral"))
    u = torch.randn(32, generator=torch.Generator().manual_seed(5))
    gate = next(m for m in model.model.layers[LAYER].modules() if type(m).__name__ == "MixtralTopKRouter")
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[4:22] += 2 * u
        table[22:] -= 2 * u
        gate.weight[EXPERT] += u
    folder = tmp_path_factory.mktemp("planted")
    model.save_pretrained(folder)
    return interp.load(folder)


def test_a_planted_expert_is_found_and_switching_it_is_not_switching_a_random_one(planted: Any) -> None:
    generator = torch.Generator().manual_seed(6)
    sides = [torch.randint(low, low + 18, (8, 6), generator=generator) for low in (4, 22)]
    found = methods.expert_scores(planted, *sides)
    assert methods.top_experts(found) == [f"L{LAYER}E{EXPERT}"]
    assert float(found["value"][LAYER, EXPERT]) > 0.5
    assert float(abs(found["shuffled"]).max()) < float(found["value"][LAYER, EXPERT]) / 2
    changes = {}
    with torch.no_grad():
        for number, rows in enumerate(sides):
            plain = logits(planted, rows).log_softmax(-1)
            for expert in (EXPERT, (EXPERT + 1) % 4):
                with methods.switch_experts(planted, off=[f"L{LAYER}E{expert}"]):
                    now = logits(planted, rows).log_softmax(-1)
                changes[number, expert] = float((plain.exp() * (plain - now)).sum(-1).mean())
    assert changes[0, EXPERT] > 3 * changes[1, EXPERT]
    assert changes[0, EXPERT] > 3 * changes[0, (EXPERT + 1) % 4]


def test_bad_names_are_sentences_before_any_pass() -> None:
    model = mixtral().model
    for options, match in (
        ({"off": ["L1H0"]}, "is no expert"),
        ({"off": ["L1E9"]}, "out of range"),
        ({"off": ["L1E0"], "forced": ["L1E0"]}, "named twice"),
        ({"off": ["L1E0", "L1E1", "L1E2"]}, "at most 2 can be off"),
    ):
        with pytest.raises(ValueError, match=match), methods.switch_experts(model, **options):
            pass
    with pytest.raises(ValueError, match="has no experts"):
        methods.expert_scores(interp.load("tiny-ioi"), [[1, 2]], [[3, 4]])


def test_a_block_in_a_block_leaves_the_outer_one_in_force() -> None:
    model, tokens = mixtral().model, mixtral().task.clean
    with torch.no_grad():
        plain = logits(model, tokens)
        with methods.switch_experts(model, off=[f"L{LAYER}E{EXPERT}"]):
            outer = logits(model, tokens)
            with methods.switch_experts(model, off=[f"L{LAYER}E0"]):
                assert not torch.equal(logits(model, tokens), outer)
            assert torch.equal(logits(model, tokens), outer)
        assert torch.equal(logits(model, tokens), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_forced_is_strictly_the_highest(dtype: torch.dtype) -> None:
    gate = torch.tensor([[3.0, 1.0, 2.0, 0.5], [-40.0, -41.0, -42.0, -43.0]], dtype=dtype)
    assert _switched(gate, [], [3]).topk(2).indices[:, 0].tolist() == [3, 3]
