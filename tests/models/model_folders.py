"""Making folders of small random models, in our own format and in the hub's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interp.models._release import has_hooked_transformer
from training import network
from training.language import SPECIAL

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"
WORDS = [*SPECIAL, "one", "two", "three", "four", "five", "six"]
SIZES = network.Sizes(d_vocab=len(WORDS), n_layers=2, d_model=16, n_heads=4, d_head=4, d_mlp=24, n_ctx=12)
TOKENS = torch.tensor([[1, 4, 7, 5, 6, 9], [1, 8, 8, 4, 0, 3]])
CLASS = "HookedTransformer" if has_hooked_transformer() else "TransformerBridge"
needs_hooked = pytest.mark.skipif(not has_hooked_transformer(), reason="no HookedTransformer in this release")


def shared(name: str) -> Path:
    """The folder of a shared model; the test is skipped where it is not."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the shared models are not at {SHARED}")
    return folder


def random_state(shapes: dict[str, torch.Size], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random numbers everywhere, biases and gains included, but no bias of the unembedding."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {"unembed.b_U": torch.zeros(shapes["unembed.b_U"])}


def write(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Path:
    """A folder in our own format, without tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return folder


def save_llama(folder: Path, **fields: Any) -> Path:
    """A random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    save_random(LlamaForCausalLM, LlamaConfig(**(sizes | heads | fields), pad_token_id=None), folder)
    return folder


def save_random(kind: Any, config: Any, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # transformers starts with zero biases and unit gains
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)


def transformers_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of transformers itself, with the attention that TransformerLens computes."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        return model(tokens).logits.float()
