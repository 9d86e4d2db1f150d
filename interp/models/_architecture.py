"""What differs between architectures, in one table: read from the transformers config where the model has one
(a TransformerBridge keeps the model that it runs), from TransformerLens's `cfg` otherwise.

| fact            | read from                                                                               |
|-----------------|-----------------------------------------------------------------------------------------|
| name            | `cfg.original_architecture`, `cfg.architecture` (bridges), `config.architectures`       |
| windows         | `layer_types`, `attention_layers` or `max_window_layers`, and the width |
| causal          | `cfg.attention_dir`, `config.is_causal`, `use_bidirectional_attention` (Gemma 3 and 4); |
|                 | encoders (BERT) unless `is_decoder`                                                     |
| act_fn          | `hidden_act`, `hidden_activation`, `activation_function`, `activation`                  |
| embed_scale     | the embedding's own `embed_scale` (Gemma: √d_model)                                     |
| logit_scale     | the model's own `logit_scale` (Cohere), 1 / `logits_scaling` (Granite)                  |
| residual_scale  | `residual_multiplier` (Granite)                                                         |
| rotary          | `rope_parameters` or `rope_scaling`: kinds whose tables depend on the prompt's length   |
| rotary_switch   | `original_max_position_embeddings` of such a kind: where the tables become others       |
| interleaved     | pairs (0, 1), (2, 3), ...: GPT-J, Cohere; else (i, i + d/2)                             |
| norms_writes    | OLMo 2 and 3: what a sublayer writes is normed, not what it reads                       |
| whole_qk_norm   | OLMo 2 and 3, OLMoE: the queries (keys) of all heads are normed together                |
| sinks           | gpt-oss: a learned score beside those of the keys                                       |
| experts         | the layers whose MLP is a mixture of experts                                            |
| latent          | DeepSeek: queries, keys and values come out of a compressed stream (MLA)                |

The gain of a norm (w or 1 + w) is not listed: it is measured at the module itself (`_norms`). All of it is
proved at every use: own weights are trusted only where they give the model's logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Model = Any  # HookedTransformer | TransformerBridge: neither class exists in every release

NORMS_WRITES = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
WHOLE_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "FlexOlmoForCausalLM")
LOCAL = ("sliding_attention", "local", "local_attention")
STATIC_ROTARY = ("default", "linear", "llama3", "yarn", "proportional")  # one table, whatever the prompt
ACTIVATION_FIELDS = ("hidden_act", "hidden_activation", "activation_function", "activation", "act_fn")
ACTIVATION_OF = {"bloom": "gelu_bloom", "mpt": "gelu"}  # written in code, not in the config
ENCODERS = ("bert", "roberta", "distilbert", "electra", "albert", "deberta", "camembert", "xlm-roberta")


@dataclass(frozen=True)
class Architecture:
    """The facts of one model; windows and experts by layer."""

    name: str
    windows: tuple[int | None, ...]
    causal: bool
    act_fn: str | None
    embed_scale: float
    logit_scale: float
    residual_scale: float
    rotary: tuple[str, ...]
    rotary_switch: int | None  # longer prompts turn queries and keys by other angles; None: all alike
    interleaved: bool
    norms_writes: bool
    whole_qk_norm: bool
    sinks: bool
    experts: tuple[bool, ...]
    latent: bool

    @property
    def length_dependent(self) -> str | None:
        """A kind of rotary scaling whose tables change with the prompt's length, if there is one."""
        return _length_dependent(self.rotary)


def architecture(model: Model) -> Architecture:
    """Read the facts. No forward pass, nothing changed.

    Raises ValueError for a model without attention in every block, and for an encoder-decoder.
    """
    cfg, config = model.cfg, transformers_config(model)
    name = architecture_name(model)
    _require_attention(model, name, config)
    n_layers = len(model.blocks)
    return Architecture(
        name=name,
        windows=_windows(config, n_layers) if config is not None else _own_windows(model),
        causal=_causal(cfg, config),
        act_fn=_act_fn(cfg, config),
        embed_scale=_embed_scale(model),
        logit_scale=_logit_scale(model, config),
        residual_scale=float(getattr(config, "residual_multiplier", None) or 1.0),
        rotary=_rotary_kinds(config),
        rotary_switch=_rotary_switch(config),
        interleaved=_interleaved(cfg, name),
        norms_writes=name in NORMS_WRITES,
        whole_qk_norm=name in WHOLE_QK_NORM,
        sinks=bool(getattr(cfg, "use_attention_sinks", False))
        or hasattr(inner(model.blocks[0].attn), "sinks"),
        experts=tuple(is_mixture(getattr(block, "mlp", None)) for block in model.blocks),
        latent="MLA" in type(model.blocks[0].attn).__name__,
    )


def architecture_name(model: Model) -> str:
    """The class in transformers, such as "LlamaForCausalLM"; "" where nothing says."""
    for field in ("original_architecture", "architecture"):
        if getattr(model.cfg, field, None):
            return str(getattr(model.cfg, field))
    return next(iter(getattr(transformers_config(model), "architectures", None) or ()), "")


def transformers_config(model: Model) -> Any | None:
    """The text part of the config of the transformers model that a bridge runs; None where there is none."""
    inner = vars(model).get("original_model")
    config: Any = getattr(inner, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def is_mixture(mlp: Any) -> bool:
    """Whether it is a mixture of experts; a bridge's MoE can be an ordinary MLP on some layers."""
    names = {kind.__name__ for kind in type(mlp).__mro__}
    return bool(names & {"MoE", "GptOssMoE"}) or ("MoEBridge" in names and not mlp.bound_dense)


def _require_attention(model: Model, name: str, config: Any) -> None:
    what = f"{model.cfg.model_name!r} is {_article(name or type(model).__name__)}"
    if getattr(config, "is_encoder_decoder", False) or not hasattr(model, "blocks"):
        raise ValueError(f"{what}, an encoder-decoder. Only models of one stack of blocks are supported.")
    if not len(model.blocks):
        raise ValueError(f"{what} of no layers: there is nothing in it to change. Give a model with a block.")
    if len(model.blocks) != getattr(model.cfg, "n_layers", len(model.blocks)):
        raise ValueError(
            f"{what} of {len(model.blocks)} blocks, and its cfg says {model.cfg.n_layers} layers. Where "
            "blocks were taken out or put in, set model.cfg.n_layers to their number."
        )
    without = [layer for layer, block in enumerate(model.blocks) if getattr(block, "attn", None) is None]
    if without:
        raise ValueError(
            f"{what}, whose block {without[0]} has no attention ({type(model.blocks[without[0]]).__name__}). "
            "Only models with attention in every block are supported."
        )


def _article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIO' else 'a'} {name}"


def inner(module: Any) -> Any:
    """The transformers module inside a bridge's component; the module itself elsewhere."""
    return (
        getattr(module, "original_component", None) or getattr(module, "_original_component", None) or module
    )


def _windows(config: Any, n_layers: int) -> tuple[int | None, ...]:
    width = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if not isinstance(width, int) or getattr(config, "use_sliding_window", True) is False:
        return (None,) * n_layers
    if kinds:
        return tuple(width if kind in LOCAL else None for kind in kinds)
    first = getattr(config, "max_window_layers", 0) if hasattr(config, "use_sliding_window") else 0
    return tuple(width if layer >= first else None for layer in range(n_layers))


def _own_windows(model: Model) -> tuple[int | None, ...]:
    local = (getattr(block.attn, "attn_type", "global") == "local" for block in model.blocks)
    return tuple(model.cfg.window_size if each else None for each in local)


def _causal(cfg: Any, config: Any) -> bool:
    if getattr(cfg, "attention_dir", "causal") != "causal":
        return False
    if getattr(config, "model_type", None) in ENCODERS:
        return bool(getattr(config, "is_decoder", False))
    if getattr(config, "use_bidirectional_attention", None) in (
        True,
        "all",
    ):  # "vision": between images alone
        return False
    return getattr(config, "is_causal", True) is not False


def _act_fn(cfg: Any, config: Any) -> str | None:
    if config is None:
        return cfg.act_fn
    written = ACTIVATION_OF.get(getattr(config, "model_type", ""))
    values = (getattr(config, field, None) for field in ACTIVATION_FIELDS)
    return written or next((value for value in values if isinstance(value, str)), cfg.act_fn)


def _embed_scale(model: Model) -> float:
    scale = getattr(inner(model.embed), "embed_scale", None)
    return 1.0 if scale is None or transformers_config(model) is None else float(scale)


def _logit_scale(model: Model, config: Any) -> float:
    """What the transformers model itself multiplies its logits by."""
    if config is None:
        return 1.0
    scale = getattr(vars(model)["original_model"], "logit_scale", None)
    return float(scale or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


def _rotary_kinds(config: Any) -> tuple[str, ...]:
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    tables = [found] if "rope_type" in found or "type" in found else found.values()
    tables = [table for table in tables if isinstance(table, dict)]
    return tuple(str(table.get("rope_type", table.get("type", "default"))) for table in tables)


def _length_dependent(kinds: tuple[str, ...]) -> str | None:
    return next((kind for kind in kinds if kind not in STATIC_ROTARY), None)


def _rotary_switch(config: Any) -> int | None:
    if _length_dependent(_rotary_kinds(config)) is None:
        return None
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    name = "original_max_position_embeddings"
    lengths = (found.get(name), getattr(config, name, None), getattr(config, "max_position_embeddings", None))
    return int(next((length for length in lengths if isinstance(length, int | float)), 0))


def _interleaved(cfg: Any, name: str) -> bool:
    flags = ("rotary_adjacent_pairs", "rotary_interleaved_cos_sin")
    return any(getattr(cfg, flag, False) for flag in flags) or name in (
        "GPTJForCausalLM",
        "CohereForCausalLM",
    )
