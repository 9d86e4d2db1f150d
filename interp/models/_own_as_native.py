"""Our own format where HookedTransformer is gone and no class of transformers computes the model: one without
norms or MLPs, whose attention sees both ways or does not scale its scores, or whose logits have a bias or a
vocabulary of their own.

TransformerLens 4 has a small model of its own (`NativeModel`) and a bridge to it. Its attention is replaced
by one that can leave scores unscaled, and hands scores and pattern to their hook points where they are used:
what a hook returns there goes on. Norms are torch's LayerNorm or none, so float64 is float64 throughout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeAttention, NativeModel
from transformer_lens.utilities.activation_functions import apply_softcap

from interp.models import _release
from interp.models._weights import weights

Fields = dict[str, Any]
State = dict[str, Tensor]
ARCHITECTURE = "TransformerLensNative"
_OFF = -1.0  # TransformerLens's word for no soft cap
_SIZES = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab")
_CAPS = ("attn_scores_soft_cap", "output_logits_soft_cap")
_SWITCHES = (
    "d_vocab_out",
    "eps",
    "attn_only",
    "attention_dir",
    "normalization_type",
    "default_prepend_bos",
    *_CAPS,
)


class OwnAttention(NativeAttention):
    """The native model's attention with a scale of our own, and hook points that are in the path."""

    accepts_pattern_fn = False  # the pattern's hook point is called here, not by the bridge
    points: tuple[Any, ...] = ()  # of the bridge: scores, pattern

    def __init__(self, cfg: Any, scale: float) -> None:
        super().__init__(cfg)
        self.scale = scale

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        rows, n_pos, _ = hidden_states.shape
        q, k, v = (
            part(hidden_states).unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )  # each [row, head, pos, d_head]
        hidden = self.causal_mask[:n_pos, :n_pos] & self.causal
        if attention_mask is not None:
            hidden = self._combine_attention_mask(hidden, attention_mask, batch=rows)
        scores = apply_softcap(q @ k.transpose(-2, -1) / self.scale, self.attn_scores_soft_cap)
        at_scores, at_pattern = self.points
        scores = at_scores(scores.masked_fill(hidden, -torch.inf))
        blind = hidden.all(-1, keepdim=True)  # padding in front sees nothing, and would be NaN
        pattern = at_pattern(scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(hidden, 0.0))
        z = (pattern @ v).transpose(1, 2).flatten(2)  # [row, pos, head · d_head]
        return self.o(z), None


def build(
    fields: Fields,
    state: State,
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    flags: dict[str, Any],
) -> Any:
    """A TransformerBridge in compatibility mode that computes what a HookedTransformer's state dict says."""
    cfg = TransformerBridgeConfig(**_config(fields), device=str(device), dtype=dtype)
    model = NativeModel(cfg)
    model.head = torch.nn.Linear(cfg.d_model, model.head.out_features)
    for layer in model.layers:
        layer.attn = OwnAttention(cfg, _scale(fields))
    model.load_state_dict(_weights(fields, state), strict=False)  # folded norms begin as gain 1 and bias 0
    model = model.to(device=device, dtype=dtype).eval()
    bridge: Any = build_bridge_from_module(
        model, ARCHITECTURE, tl_config=cfg, tokenizer=tokenizer, dtype=dtype, model_name=fields["model_name"]
    )
    bridge.cfg.d_mlp = fields.get("d_mlp")
    for block in bridge.blocks:
        attn = block.attn
        attn.original_component.points = (attn.hook_attn_scores, attn.hook_pattern)
    default = {"default_prepend_bos": fields.get("default_prepend_bos", True)}
    return _release.to_compatibility(bridge, default | flags, _release.processing(flags)).eval()


def holds(model: Any) -> bool:
    """Whether the model was made here."""
    return isinstance(getattr(model.blocks[0].attn, "original_component", None), OwnAttention)


def written(model: Any) -> tuple[State, Fields]:
    """The state dict and fields of a HookedTransformer that computes what a model made here computes now."""
    cfg, parts, scale = model.cfg, weights(model), model.blocks[0].attn.original_component.scale
    fields = {name: getattr(cfg, name) for name in (*_SIZES, *_SWITCHES)}
    fields["act_fn"] = None if cfg.attn_only else cfg.act_fn
    fields |= {"use_attn_scale": False} if scale == 1.0 else {"attn_scale": scale}
    state = {"embed.W_E": parts.W_E, "pos_embed.W_pos": parts.W_pos}
    state |= {"unembed.W_U": parts.W_U, "unembed.b_U": parts.b_U}
    norms = {"ln_final": parts.final_norm}
    for layer, block in enumerate(parts.blocks):
        prefix = f"blocks.{layer}"
        names = [f"{side}_{name}" for side in "Wb" for name in "QKVO"]
        state |= {f"{prefix}.attn.{name}": getattr(block.attn, name) for name in names}
        norms[f"{prefix}.ln1"] = block.attn_norm
        if block.mlp is not None:
            names = ["W_in", "b_in", "W_out", "b_out"]
            state |= {f"{prefix}.mlp.{name}": getattr(block.mlp, name) for name in names}
            norms[f"{prefix}.ln2"] = block.mlp.norm
    for name, norm in norms.items():
        if norm is not None:
            state |= {f"{name}.w": norm.gain, f"{name}.b": norm.bias}
    return {name: value.detach() for name, value in state.items()}, fields


def shapes(fields: Fields) -> dict[str, torch.Size]:
    """Names and shapes of the state dict that a HookedTransformer of these fields has."""
    d, inner, vocab, heads = (fields[name] for name in ("d_model", "d_head", "d_vocab", "n_heads"))
    out = _vocab_out(fields)
    table: dict[str, tuple[int, ...]] = {"embed.W_E": (vocab, d), "pos_embed.W_pos": (fields["n_ctx"], d)}
    table |= {"unembed.W_U": (d, out), "unembed.b_U": (out,)}
    norms = ["ln_final"]
    for block in (f"blocks.{layer}" for layer in range(fields["n_layers"])):
        table |= {f"{block}.attn.W_{name}": (heads, d, inner) for name in "QKV"}
        table |= {f"{block}.attn.b_{name}": (heads, inner) for name in "QKV"}
        table |= {f"{block}.attn.W_O": (heads, inner, d), f"{block}.attn.b_O": (d,)}
        norms.append(f"{block}.ln1")
        if not fields.get("attn_only"):
            mlp = fields["d_mlp"]
            table |= {f"{block}.mlp.W_in": (d, mlp), f"{block}.mlp.b_in": (mlp,)}
            table |= {f"{block}.mlp.W_out": (mlp, d), f"{block}.mlp.b_out": (d,)}
            norms.append(f"{block}.ln2")
    if fields["normalization_type"] == "LN":
        table |= {f"{name}.{part}": (d,) for name in norms for part in "wb"}
    return {name: torch.Size(shape) for name, shape in table.items()}


def _config(fields: Fields) -> Fields:
    """TransformerBridgeConfig's arguments."""
    return {
        "model_name": fields["model_name"],
        **{name: fields.get(name) for name in _SIZES},
        "d_vocab_out": _vocab_out(fields),
        "act_fn": fields.get("act_fn") or "relu",
        "eps": fields.get("eps", 1e-5),
        "attn_only": bool(fields.get("attn_only")),
        "attention_dir": fields.get("attention_dir", "causal"),
        "normalization_type": fields["normalization_type"] and "LN",
        "use_attn_scale": fields.get("use_attn_scale", True),
        **{name: fields.get(name) or _OFF for name in _CAPS},
        "architecture": ARCHITECTURE,
        "init_weights": False,
    }


def _vocab_out(fields: Fields) -> int:
    out = fields.get("d_vocab_out") or -1
    return out if out > 0 else fields["d_vocab"]


def _scale(fields: Fields) -> float:
    """What scores are divided by, as in a HookedTransformer."""
    if not fields.get("use_attn_scale", True):
        return 1.0
    scale = fields.get("attn_scale") or -1.0
    return scale if scale > 0 else fields["d_head"] ** 0.5


def _weights(fields: Fields, state: State) -> State:
    """The native model's state dict; its linear maps are (output, input)."""
    table = {
        "tok_embed.weight": state["embed.W_E"],
        "pos.weight": state["pos_embed.W_pos"],
        "head.weight": state["unembed.W_U"].T,
        "head.bias": state["unembed.b_U"],
        **_norm(state, "ln_final", "ln_out"),
    }
    for layer in range(fields["n_layers"]):
        ours, theirs = f"blocks.{layer}", f"layers.{layer}"
        table |= _norm(state, f"{ours}.ln1", f"{theirs}.ln1") | _norm(state, f"{ours}.ln2", f"{theirs}.ln2")
        for name in "QKV":  # [head, d_model, d_head] to [head · d_head, d_model]
            part = f"{theirs}.attn.{name.lower()}"
            table[f"{part}.weight"] = state[f"{ours}.attn.W_{name}"].transpose(1, 2).flatten(0, 1)
            table[f"{part}.bias"] = state[f"{ours}.attn.b_{name}"].flatten()
        table[f"{theirs}.attn.o.weight"] = state[f"{ours}.attn.W_O"].flatten(0, 1).T
        table[f"{theirs}.attn.o.bias"] = state[f"{ours}.attn.b_O"]
        if not fields.get("attn_only"):
            for side in ("in", "out"):
                table[f"{theirs}.mlp.fc_{side}.weight"] = state[f"{ours}.mlp.W_{side}"].T
                table[f"{theirs}.mlp.fc_{side}.bias"] = state[f"{ours}.mlp.b_{side}"]
    return {name: value.contiguous() for name, value in table.items()}


def _norm(state: State, ours: str, theirs: str) -> State:
    pairs = ((f"{ours}.w", f"{theirs}.weight"), (f"{ours}.b", f"{theirs}.bias"))
    return {new: state[old] for old, new in pairs if old in state}
