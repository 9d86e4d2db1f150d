"""Path patching the slow way: four runs with hooks on the inputs of every reader.

The reference for all others. It reads and writes the *inputs* of queries, keys, values and MLPs, where the
package's own reference engine goes by their outputs. For HookedTransformers whose blocks write straight into
the stream.
"""

from __future__ import annotations

from typing import Any

import torch
from naive import _split
from torch import Tensor

HOOKS = {"q": "hook_q_input", "k": "hook_k_input", "v": "hook_v_input", "mlp": "hook_mlp_in"}
HOOKS |= {"logits": "hook_resid_post"}
Where = tuple[str, int, int | None]  # part, layer, unit


class FourRuns:
    """Runs A and B of some prompts; senders and receivers are named by part (or hook), layer and unit."""

    def __init__(self, model: Any, own: Tensor, other: Tensor) -> None:
        self.model, self.own = model, own
        with torch.no_grad(), _split(model):
            self.a, self.b = model.run_with_cache(own)[1], model.run_with_cache(other)[1]

    def c(self, senders: list[Where], heads: set, mlps: set, at: Any) -> dict[str, Tensor]:
        """The inputs of every receiver in run C. heads, mlps: those frozen."""

        def change(x: Tensor, hook: Any) -> Tensor:
            x, (_, layer, name) = x.clone(), hook.name.split(".", 2)
            for head in range(x.shape[2]) if name == "attn.hook_z" else ():
                if (int(layer), head) in heads:
                    x[:, :, head] = self.a[hook.name][:, :, head]
            if name == "mlp.hook_post" and int(layer) in mlps:
                x = self.a[hook.name].clone()
            for part, of, unit in senders:
                if hook.name == f"blocks.{of}.{part}":
                    where = (slice(None), at) if unit is None else (slice(None), at, unit)
                    x[where] = self.b[hook.name][where]
            return x

        kept: dict[str, Tensor] = {}
        named = {f"blocks.{of}.{part}" for part, of, _ in senders}
        changed = lambda name: name in named or name.endswith(("attn.hook_z", "mlp.hook_post"))  # noqa: E731
        read = lambda name: name.endswith(tuple(HOOKS.values()))  # noqa: E731
        keep = lambda x, hook: kept.update({hook.name: x.clone()})  # noqa: E731
        with torch.no_grad(), _split(self.model):
            self.model.run_with_hooks(self.own, fwd_hooks=[(changed, change), (read, keep)])
        return kept

    def d(self, receivers: list[Where], c: dict[str, Tensor], at: Any, combine: str) -> Tensor:
        """The logits of run D: [prompt, pos, vocab]."""
        names = {(f"blocks.{layer}.{HOOKS[part]}", unit) for part, layer, unit in receivers}

        def change(x: Tensor, hook: Any) -> Tensor:
            x, new = x.clone(), c[hook.name]
            new = new if combine == "replace" else x + new - self.a[hook.name]
            for name, unit in names:
                if name == hook.name:
                    where = (slice(None), at) if unit is None else (slice(None), at, unit)
                    x[where] = new[where]
            return x

        with torch.no_grad(), _split(self.model):
            return self.model.run_with_hooks(self.own, fwd_hooks=[(lambda n: n in dict(names), change)])
