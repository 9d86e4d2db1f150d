"""The frozen-coefficient surrogate of a HookedTransformer, in plain tensor algebra.

Norm scales, attention patterns, gates and the logits' cap are held at their values in one run. What is left
is affine in the stream: each activation a multiplication with act(x0) / x0, each product of two factors the
mean of the two halves in which one factor is held. At the run itself the surrogate is the model.

It shares no code with the package: coefficients come from a cache of the run, activations from torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

ACT: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "relu": torch.nn.functional.relu,
}
Patches = Mapping[tuple[str, int], Callable[[Tensor], Tensor]]


class Frozen:
    """The surrogate of a model around the run of `tokens`."""

    def __init__(self, model: Any, tokens: Tensor) -> None:
        self.model, self.cfg = model, model.cfg
        self.at = activations(model, tokens)

    @torch.no_grad()
    def __call__(self, patches: Patches) -> Tensor:
        """Logits with some places changed: by (site, layer), a function of what stands there."""
        x = self.at["blocks.0.hook_resid_pre"]
        for layer, block in enumerate(self.model.blocks):
            x = self._block(x, layer, block, lambda site, t, n=layer: patches.get((site, n), _same)(t))
        out = (
            self._norm(x, "ln_final", getattr(self.model, "ln_final", None)) @ self.model.W_U + self.model.b_U
        )
        if self.cfg.output_logits_soft_cap <= 0:
            return out
        cap, raw = self.cfg.output_logits_soft_cap, self.at["unembed.hook_out"]
        return out * (cap * torch.tanh(raw / cap) / raw)

    def _block(self, x: Tensor, layer: int, block: Any, patch: Callable[[str, Tensor], Tensor]) -> Tensor:
        name = f"blocks.{layer}"
        x = patch("resid_pre", x)
        attn_out = self._attention(
            self._before(x, f"{name}.ln1", block.ln1), f"{name}.attn", block.attn, patch
        )
        attn_out = patch("attn_out", self._after(attn_out, f"{name}.ln1", block))
        if self.cfg.attn_only:
            return patch("resid_post", x + attn_out)
        if self.cfg.parallel_attn_mlp:
            read, before = x, x + attn_out
        else:
            read = before = patch("resid_mid", x + attn_out)
        mlp_out = self._mlp(self._before(read, f"{name}.ln2", block.ln2), f"{name}.mlp", block.mlp, patch)
        mlp_out = patch("mlp_out", self._after(mlp_out, f"{name}.ln2", block))
        return patch("resid_post", before + mlp_out)

    @property
    def _post_norm(self) -> bool:
        return self.cfg.original_architecture == "Olmo2ForCausalLM"

    def _before(self, x: Tensor, name: str, norm: Any) -> Tensor:
        return x if self._post_norm else self._norm(x, name, norm)

    def _after(self, x: Tensor, name: str, block: Any) -> Tensor:
        """The norm of what a sublayer writes, where there is one."""
        name = name if self._post_norm else f"{name}_post"
        norm = getattr(block, name.split(".")[-1], None)
        return x if norm is None else self._norm(x, name, norm)

    def _norm(self, x: Tensor, name: str, norm: Any) -> Tensor:
        if self.cfg.normalization_type is None:
            return x
        if type(norm).__name__.startswith("LayerNorm"):
            x = x - x.mean(-1, keepdim=True)
        x = x / self.at[f"{name}.hook_scale"]
        x = x * norm.w if hasattr(norm, "w") else x
        return x + norm.b if hasattr(norm, "b") else x

    def _attention(self, x: Tensor, name: str, attn: Any, patch: Callable[[str, Tensor], Tensor]) -> Tensor:
        own = "_" if hasattr(attn, "_W_V") else ""
        v = torch.einsum("psm,hmd->pshd", x, getattr(attn, f"{own}W_V")) + getattr(attn, f"{own}b_V")
        v = patch("v", v)
        v = v.repeat_interleave(self.cfg.n_heads // v.shape[2], 2)
        z = patch("z", torch.einsum("phts,pshd->pthd", self.at[f"{name}.hook_pattern"], v))
        return torch.einsum("pthd,hdm->ptm", z, attn.W_O) + attn.b_O

    def _mlp(self, x: Tensor, name: str, mlp: Any, patch: Callable[[str, Tensor], Tensor]) -> Tensor:
        act, pre = ACT[self.cfg.act_fn], self.at[f"{name}.hook_pre"]
        if not self.cfg.gated_mlp:
            post = (act(pre) / pre) * (x @ mlp.W_in + mlp.b_in)
        else:
            linear = self.at[f"{name}.hook_pre_linear"]
            post = (act(pre) / pre * linear * (x @ mlp.W_gate) + act(pre) * (x @ mlp.W_in)) / 2 + mlp.b_in
        return patch("post", post) @ mlp.W_out + mlp.b_out


@torch.no_grad()
def activations(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """What passes every hook point that a run goes through."""
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # release 4 names the points that are switched off
        with model.hooks(fwd_hooks=[(lambda name: True, keep)]):
            model(tokens)
    return kept


def _same(x: Tensor) -> Tensor:
    return x
