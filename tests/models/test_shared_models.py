"""Real models made by others, against what is known of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from model_folders import CLASS, shared
from safetensors.torch import load_file

import interp


def greedy(model: Any, tokens: torch.Tensor, count: int) -> torch.Tensor:
    with torch.inference_mode():
        for _ in range(count):
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), dim=1)
    return tokens


@pytest.mark.parametrize("folder", ["stories260K", "stories260K/hf"])
def test_stories_text(folder: str) -> None:
    model = interp.load(shared(folder))
    assert type(model).__name__ == CLASS
    start = model.to_tokens("")
    assert start.tolist() == [[1]]
    text = model.to_string(greedy(model, start, 56)[0])
    wanted = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    assert wanted in text


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_both_formats_are_one_model(name: str) -> None:
    tokens = torch.randint(3, 500, (3, 20), generator=torch.Generator().manual_seed(0))
    ours, theirs = interp.load(shared(name)), interp.load(shared(f"{name}/hf"))
    assert type(theirs).__name__ == CLASS
    assert ours.cfg.n_key_value_heads == 4
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=2e-5, rtol=0)
    assert ours(tokens).std() > 1


def log_probability(model: Any, prompt: str, continuation: str) -> float:
    """Of the whole continuation, which can be several tokens."""
    tokens, start = model.to_tokens(prompt + continuation), model.to_tokens(prompt).shape[1]
    log_probs = model(tokens).log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])[:, 0]
    return log_probs[start - 1 :].sum().item()


@pytest.mark.parametrize(
    ("who", "right", "wrong"), [("boy named Tom", "He", "She"), ("girl named Lily", "She", "He")]
)
def test_stories_chooses_the_pronoun(who: str, right: str, wrong: str) -> None:
    model = interp.load(shared("stories260K"))
    prompt = f"Once upon a time there was a {who}."
    lead = log_probability(model, prompt, f" {right}") - log_probability(model, prompt, f" {wrong}")
    assert lead > 1.4  # nats, the least that was measured over nine such stories


def test_the_sorter_sorts() -> None:
    model = interp.load(shared("llmviz_gpt_nano_sort"))
    assert model.tokenizer is None
    letters = torch.tensor(list(itertools.product(range(3), repeat=6)))
    sorted_by_model = greedy(model, letters, 6)[:, 6:]
    assert torch.equal(sorted_by_model, letters.sort(-1).values)


RECORDED = {
    "x": "blocks.0.hook_resid_pre",
    "attnResid": "blocks.0.hook_resid_mid",
    "gelu": "blocks.0.mlp.hook_post",
    "attSm": "blocks.0.attn.hook_pattern",
    "block2": "blocks.2.hook_resid_post",
}


def test_the_sorters_recorded_activations() -> None:
    folder = shared("llmviz_gpt_nano_sort")
    recorded = load_file(folder / "reference_activations.safetensors")
    logits, cache = interp.load(folder).run_with_cache(recorded["idx"].long())
    torch.testing.assert_close(logits, recorded["lm_head"], atol=2e-5, rtol=0)
    for theirs, ours in RECORDED.items():
        torch.testing.assert_close(cache[ours], recorded[theirs], atol=3e-6, rtol=1e-5)
        assert recorded[theirs].abs().max() > 0.1
