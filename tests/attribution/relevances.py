"""Relevance by hand: values and slopes at hook points under rules, and the biases downstream of a cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import architectures
import torch
from torch import Tensor

from interp.attribution import gradients, relevance_rules
from interp.methods import Rules

MOE = {"num_experts": 4, "experts_per_token": 2, "gated_mlp": True, "act_fn": "silu"}
OFF = Rules(ln=False, identity=False, ah=False, half=False)
PRE, LINEAR, POST = (f"blocks.1.mlp.{name}" for name in ("hook_pre", "hook_pre_linear", "hook_post"))
STREAM = "blocks.0.hook_resid_pre"
TOKENS = architectures.tokens()[0]
ORDER = ("ln1", "attn", "ln1_post", "ln2", "mlp", "ln2_post")


def metric(logits: Tensor) -> Tensor:
    """A linear metric that reads every position and most of the vocabulary."""
    shape = logits.shape[1:]
    weight = torch.linspace(-1, 2, shape.numel(), dtype=logits.dtype).sin().reshape(shape)
    return (logits * weight).sum((1, 2))


def run(
    model: Any,
    tokens: Tensor,
    names: Sequence[str],
    rules: Rules | None,
    measure: Callable[[Tensor], Tensor] = metric,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Metric by prompt, values and slopes at hook points, slopes of its sum in the biases."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            kept[name] = tensor
            return tensor

        return hook

    biases = {name: p for name, p in model.named_parameters() if is_bias(name)}
    with nullcontext() if rules is None else relevance_rules(model, rules):
        with model.hooks(fwd_hooks=[(name, keep(name)) for name in names]):
            value = measure(model(tokens))
        inputs = {name: x for name, x in {**kept, **biases}.items() if x.requires_grad}
        slopes = torch.autograd.grad(value.sum(), list(inputs.values()), allow_unused=True)
    found = {name: slope for name, slope in zip(inputs, slopes) if slope is not None}
    by_name = {name: found.get(name, torch.zeros_like(x)) for name, x in {**kept, **biases}.items()}
    values = {name: tensor.detach() for name, tensor in kept.items()}
    return value.detach(), values, by_name, {name: p.detach() for name, p in biases.items()}


def is_bias(name: str) -> bool:
    last = name.split(".")[-1]
    return last in ("b", "bias") or last.startswith(("b_", "_b_"))


def place(name: str) -> tuple[int, int]:
    """Layer and step of a parameter, so that they sort as the model computes."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]), ORDER.index(parts[2])
    return (-1, 0) if "embed" in parts[0] and parts[0] != "unembed" else (1000, 0)


def cuts(model: Any) -> dict[str, tuple[int, int]]:
    """Hook points that cut the whole stream, with the first step behind them."""
    n_layers = model.cfg.n_layers
    found = {f"blocks.{layer}.hook_resid_pre": (layer, 0) for layer in range(n_layers)}
    found[f"blocks.{n_layers - 1}.hook_resid_post"] = (n_layers, 0)
    if "blocks.0.hook_resid_mid" in model.hook_dict and type(model).__name__ == "HookedTransformer":
        found |= {f"blocks.{layer}.hook_resid_mid": (layer, ORDER.index("ln2")) for layer in range(n_layers)}
    return found


def gaps(
    model: Any, tokens: Tensor, rules: Rules | None, measure: Callable[[Tensor], Tensor] = metric
) -> tuple[dict[str, float], float]:
    """By cut: |metric - Σ x · ρ - Σ downstream biases · their slope|; and the size of the metric."""
    at = cuts(model)
    value, values, slopes, biases = run(model, tokens, list(at), rules, measure)
    total = float(value.sum())
    out = {}
    for name, first in at.items():
        downstream = sum(float((b * slopes[n]).sum()) for n, b in biases.items() if place(n) >= first)
        out[name] = abs(total - float((values[name] * slopes[name]).sum()) - downstream)
    return out, max(1.0, abs(total))


def slope(model: Any, point: str = STREAM, rules: Rules | None = None) -> Tensor:
    return gradients(model, TOKENS, [point], metric, rules=rules)[2][point]


def attached(model: Any) -> list[tuple[str, int]]:
    """Every hook that torch would call, by module, in order."""
    return [
        (f"{name}.{kind}", key)
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        for key in getattr(module, kind)
    ]
