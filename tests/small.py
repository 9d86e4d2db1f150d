"""A small random model on whichever TransformerLens is installed."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import architectures
import torch

FAMILIES = ("gpt2", "llama", "neox")
BRIDGES: dict[str, Any] = {}
FOUND: dict[str, dict[str, Any]] = {}


def model() -> Any:
    """HookedTransformer where there is one, else a bridge to a GPT-2; float64, 3 layers of 4 heads."""
    return architectures.build({}) if architectures.has_hooked_transformer() else bridge("gpt2")


def own() -> Any:
    """The same, of the caller's own: to be changed."""
    return architectures.build({}) if architectures.has_hooked_transformer() else new_bridge("gpt2")


def bridge(family: str) -> Any:
    """A TransformerBridge in compatibility mode over a random Hugging Face model, float64.

    One for all tests of a run; conftest holds each test to leaving it as found.
    """
    if family not in BRIDGES:
        BRIDGES[family] = new_bridge(family)
        FOUND[family] = state(BRIDGES[family])
    return BRIDGES[family]


def state(model: Any) -> dict[str, Any]:
    """What a test could leave behind: weights (by the sum of their bits), gradients and modes.

    Not hooks: a bridge adds some of its own as it is first used.
    """
    found = {
        name: (p.detach().view(torch.int64).sum().item(), p.requires_grad, p.grad is None)
        for name, p in [*model.named_parameters(), *model.named_buffers()]
        if p.dtype == torch.float64
    }
    return found | {f"{name}: mode": part.training for name, part in model.named_modules()}


def changed() -> list[str]:
    """What differs, in a bridge that tests share, from how it was made; told once."""
    told = []
    for family, model in BRIDGES.items():
        found, FOUND[family] = FOUND[family], state(model)
        names = found | FOUND[family]
        told += [f"{family}: {name}" for name in names if found.get(name) != FOUND[family].get(name)]
    return told


def new_bridge(family: str) -> Any:
    return bridged(transformers_model(family), f"random-{family}")


def bridged(inner: Any, name: str) -> Any:
    """A bridge in compatibility mode to a model of transformers, which it takes over."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner.save_pretrained(folder)
        made = TransformerBridge.boot_transformers(
            folder, hf_model=inner, tokenizer=save_tokenizer(folder), dtype=torch.float64, device="cpu"
        )
        made.enable_compatibility_mode()
    made.cfg.model_name = name  # not the temporary folder
    return made.double().eval()  # compatibility mode makes some of GPT-J anew, in float32


def transformers_model(family: str) -> Any:
    """A random model of transformers, float64, 3 layers of 4 heads."""
    import transformers

    shape = {"vocab_size": architectures.VOCAB, "bos_token_id": 0, "eos_token_id": 0}
    wide = {"num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40}
    wide |= {"max_position_embeddings": 16}
    kind, config = _kinds(transformers, wide, shape)[family]
    inner = kind(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in inner.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if gain else 0.3 * noise)
    return inner.double()


def _kinds(transformers: Any, wide: dict[str, Any], shape: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Class and config by family; those outside `FAMILIES` have blocks of their own kind."""
    t, old = transformers, {"n_layer": 3, "n_embd": 24, "n_head": 4, "n_inner": 40, "n_positions": 16}
    scales = {"residual_multiplier": 0.5, "attention_multiplier": 0.4, "logits_scaling": 2.0}
    grouped = {**wide, **shape, "num_key_value_heads": 2, "pad_token_id": None}
    return {
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config(**old, **shape)),
        # attention goes both ways, and the head has a layer of its own
        "bert": (t.BertForMaskedLM, t.BertConfig(**wide, **shape)),
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(num_key_value_heads=2, **wide, **shape)),
        "neox": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(rotary_pct=0.5, **wide, **shape)),
        # attention is delegated to transformers
        "gptj": (t.GPTJForCausalLM, t.GPTJConfig(**old, rotary_dim=2, **shape)),
        # norms without weights
        "olmo": (t.OlmoForCausalLM, t.OlmoConfig(num_key_value_heads=2, **wide, **shape)),
        # what a sublayer adds is scaled outside of it
        "granite": (t.GraniteForCausalLM, t.GraniteConfig(num_key_value_heads=2, **scales, **wide, **shape)),
        "phi": (t.PhiForCausalLM, t.PhiConfig(**wide, **shape)),
        "gemma": (t.GemmaForCausalLM, t.GemmaConfig(**grouped, head_dim=6)),
        "olmo2": (t.Olmo2ForCausalLM, t.Olmo2Config(**grouped)),
        "opt": (
            t.OPTForCausalLM,
            t.OPTConfig(
                num_hidden_layers=3, hidden_size=24, num_attention_heads=4, ffn_dim=40,
                max_position_embeddings=16, word_embed_proj_dim=24, pad_token_id=2, **shape,
            ),
        ),
    }  # fmt: skip


def save_tokenizer(folder: str) -> Any:
    """A word-level tokenizer, saved beside the model: TransformerLens loads it again by its path."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<bos>": 0, "<unk>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, architectures.VOCAB)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<bos>", "eos_token": "<bos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def patterns(model: Any, ids: torch.Tensor, *made: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention patterns [layer, row, head, dst, src] and the logits, under interventions."""
    from interp import steering
    from interp.models import logits

    seen = {}

    def keep(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        seen[hook.name] = tensor.clone()
        return tensor

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    with torch.no_grad(), steering.steer(model, *made), model.hooks(fwd_hooks=[(n, keep) for n in names]):
        out = logits(model, ids)
    return torch.stack([seen[name] for name in names]), out
