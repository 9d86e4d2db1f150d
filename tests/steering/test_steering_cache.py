"""Decoding through the model: the same tokens with and without a cache, however it is handed on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.models import _release
from interp.steering import generate

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROOM = {"intermediate_size": 48, "max_position_embeddings": 64}
ARCHITECTURES = {
    "GPT2": {**SIZES, "n_positions": 64},
    "Gemma": {**SIZES, **ROOM, "num_key_value_heads": 2, "head_dim": 8},
    "Phi": {**SIZES, **ROOM},
    "Olmo": {**SIZES, **ROOM},
    "Mistral": {**SIZES, **ROOM, "num_key_value_heads": 2, "sliding_window": 4},
}
PROMPT = torch.tensor([[5, 9, 17, 23, 8, 11], [7, 3, 41, 3, 29, 50]])


def bridge(architecture: str) -> Any:
    """A bridge around a random model whose logits are far from ties."""
    import transformers

    name = {"GPT2": "GPT2LMHeadModel"}.get(architecture, f"{architecture}ForCausalLM")
    config = getattr(transformers, f"{architecture}Config")(
        **ARCHITECTURES[architecture], architectures=[name]
    )
    with torch.random.fork_rng(devices=[]), _release.quiet():
        torch.manual_seed(0)
        model = getattr(transformers, name)(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        return _release.bridge(architecture, model, None, {})


def decode(model: Any, **options: Any) -> torch.Tensor:
    return generate(model, PROMPT, max_new_tokens=6, engine="reference", **options)


def renamed(model: Any) -> list[Any]:
    """Hooks that hand the cache to attention as `cache=`, as transformers does from 5.24 on."""

    def rename(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = dict(kwargs)
        given["cache"] = given.pop("past_key_values", None)
        return args, given

    return [block.attn.register_forward_pre_hook(rename, with_kwargs=True) for block in model.blocks]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cache_changes_no_token(architecture: str) -> None:
    model = bridge(architecture)
    assert torch.equal(decode(model), decode(model, use_cache=False))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cache_that_stays_empty_is_not_used(architecture: str) -> None:
    model = bridge(architecture)
    plain = decode(model, use_cache=False)
    hooks = renamed(model)
    with pytest.warns(UserWarning, match="decoding runs without a cache"):
        assert torch.equal(decode(model), plain)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("use_cache", [True, False])
def test_rows_of_several_lengths_go_on_as_each_alone(use_cache: bool) -> None:
    model = bridge("GPT2")
    options = {"engine": "reference", "use_cache": use_cache, "stop": (), "max_new_tokens": 4}
    rows = [[5, 9, 3], [7, 2, 8, 4, 6, 3, 1]]
    whole = generate(model, rows, **options)
    for row, ids in zip(whole, rows):
        alone = generate(model, [ids], **options)[0]
        assert row[len(ids) : len(ids) + 4].tolist() == alone[len(ids) :].tolist()
