"""The oracle of routers and experts: plain torch hooks, and the weights of transformers' own experts.

It shares nothing with interp. A site's effects are metrics of corrupt runs with the clean run's weight of an
expert ("router"), or with what the expert adds there ("expert_out").
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SITES = ("router", "expert_out")


class Experts:
    """The experts of a case's transformers model (`verbs.Case`), computed from their weights."""

    def __init__(self, one: Any) -> None:
        self.one = one
        self.modules: dict[int, Any] = {
            number: module
            for number, layer in enumerate(one.oracle.layers)
            for module in layer.modules()
            if hasattr(module, "gate_up_proj") and module.gate_up_proj.ndim == 3
        }

    def expert(self, layer: int, number: int, x: Tensor) -> Tensor:
        """E_e(x) [token, d_model]."""
        experts = self.modules[layer]
        if hasattr(experts, "gate_up_proj_bias"):  # gpt-oss
            both = x @ experts.gate_up_proj[number] + experts.gate_up_proj_bias[number]
            gate = both[..., ::2].clamp(max=experts.limit)
            up = both[..., 1::2].clamp(-experts.limit, experts.limit)
            inside = (up + 1) * gate * torch.sigmoid(experts.alpha * gate)
            return inside @ experts.down_proj[number] + experts.down_proj_bias[number]
        gate, up = F.linear(x, experts.gate_up_proj[number]).chunk(2, -1)
        return F.linear(F.silu(gate) * up, experts.down_proj[number])

    @contextlib.contextmanager
    def seen(self, layer: int, act: Callable[..., Tensor]) -> Iterator[None]:
        """`act(x, weights [token, expert], output)` gives the mixture's output."""

        def hook(module: Any, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
            x, chosen, weights = (*args, *kwargs.values())[:3]
            dense = torch.zeros(len(x), module.num_experts).scatter(1, chosen, weights)
            return act(x, dense, output)

        handle = self.modules[layer].register_forward_hook(hook, with_kwargs=True)
        yield
        handle.remove()

    def run(self, tokens: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [token, expert], what experts add [token, expert, d_model], and their outputs."""
        kept: list[tuple[Tensor, Tensor]] = []
        with self.seen(layer, lambda x, weights, output: kept.append((x, weights)) or output):
            self.one.oracle.logits(tokens)
        x, weights = kept[0]
        each = torch.stack([self.expert(layer, e, x) for e in range(weights.shape[1])], 1)
        return weights, weights[..., None] * each, each

    def patched(self, site: str, layer: int, number: int, pos: int | None) -> Tensor:
        """Metrics of corrupt runs with one expert's weight, or what it adds, of the clean run: [prompt]."""
        task = self.one.task
        weights, adds, _ = self.run(task.clean, layer)
        positions = torch.arange(task.clean.shape[1]).repeat(len(task))
        where = torch.ones_like(positions).bool() if pos is None else positions == pos

        def act(x: Tensor, now: Tensor, output: Tensor) -> Tensor:
            mine = self.expert(layer, number, x)
            if site == "router":
                change = (weights[:, number] - now[:, number])[:, None] * mine
            else:
                change = adds[:, number] - now[:, number, None] * mine
            return output + where[:, None] * change

        with self.seen(layer, act):
            return self.one.metric(self.one.oracle.logits(task.corrupt))

    def effects(self, site: str, layer: int) -> Tensor:
        """Metric of the patched minus that of the corrupt run, for every expert: [prompt, expert]."""
        n_experts = self.run(self.one.task.clean, layer)[0].shape[1]
        base = self.one.metric(self.one.oracle.logits(self.one.task.corrupt))
        return torch.stack([self.patched(site, layer, each, None) - base for each in range(n_experts)], -1)

    def estimated(self, site: str, layer: int) -> Tensor:
        """AtP [prompt, expert] from the slope of the metric in the mixture's output."""
        task, shifts = self.one.task, []

        def act(x: Tensor, now: Tensor, output: Tensor) -> Tensor:
            shifts.append(torch.zeros_like(output).requires_grad_())
            return output + shifts[0]

        with torch.enable_grad(), self.seen(layer, act):
            total = self.one.metric(self.one.oracle.logits(task.corrupt)).sum()
            slope = torch.autograd.grad(total, shifts[0])[0][:, None]  # [token, 1, d_model]
        (w1, c1, _), (w0, c0, each) = self.run(task.clean, layer), self.run(task.corrupt, layer)
        found = (w1 - w0) * (each * slope).sum(-1) if site == "router" else ((c1 - c0) * slope).sum(-1)
        return found.view(len(task), -1, found.shape[-1]).sum(1)
