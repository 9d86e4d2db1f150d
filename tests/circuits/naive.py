"""Edge ablation the slow way: one forward with hooks for each set of cut edges. The reference for all others.

What reader v sees is resid − Σ over cut edges u→v of (what u writes now − what it is replaced by), at all
positions, before the norm. Writers: `input`, `a0.h0`, `m0`; readers: `a0.h0<q>` (`k`, `v`), `m0`, `logits`.
Any HookedTransformer whose heads and MLPs write straight into the stream (no norm after them).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Writes = dict[str, Tensor]  # by writer: [prompt, pos, d_model]


def edges(model: Any) -> list[str]:
    """Every edge of the graph, by layer of the reader."""
    cfg, writers, found = model.cfg, ["input"], []
    for layer in range(cfg.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(cfg.n_heads)]
        groups = [f"a{layer}.h{group}" for group in range(cfg.n_key_value_heads or cfg.n_heads)]
        readers = [*(f"{h}<q>" for h in heads), *(f"{g}<{part}>" for g in groups for part in "kv")]
        found += [f"{writer}->{reader}" for writer in writers for reader in readers]
        mlp = [] if cfg.attn_only else [f"m{layer}"]
        before = writers if cfg.parallel_attn_mlp else writers + heads
        found += [f"{writer}->{m}" for m in mlp for writer in before]
        writers += heads + mlp
    return found + [f"{writer}->logits" for writer in writers]


def forward(model: Any, tokens: Tensor, cut: Iterable[str] = (), replaced: Writes | None = None) -> tuple:
    """Logits [prompt, pos, column] with the edges cut, and what every writer wrote."""
    now: Writes = {}
    cuts: dict[str, list[str]] = {}
    for edge in cut:
        writer, reader = edge.split("->")
        cuts.setdefault(reader, []).append(writer)

    def less(x: Tensor, reader: str) -> Tensor:
        return x - sum((now[u] - replaced[u] for u in cuts.get(reader, [])), torch.zeros_like(x))

    def read(x: Tensor, hook: Any) -> Tensor:
        layer, kind = hook.layer(), hook.name.rsplit(".", 1)[-1]
        if kind == "hook_mlp_in":
            return less(x, f"m{layer}")
        if kind == "hook_resid_post":
            return less(x, "logits")
        readers = [f"a{layer}.h{h}<{kind[5]}>" for h in range(x.shape[2])]  # hook_q_input
        return torch.stack([less(x[:, :, h], reader) for h, reader in enumerate(readers)], 2)

    def write(x: Tensor, hook: Any) -> None:
        kind = hook.name.rsplit(".", 1)[-1]
        if kind == "hook_result":
            now.update({f"a{hook.layer()}.h{h}": x[:, :, h] for h in range(x.shape[2])})
        else:
            now["input" if kind == "hook_resid_pre" else f"m{hook.layer()}"] = x

    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    reads = re.compile(rf".*hook_([qkv]_input|mlp_in)|{re.escape(last)}")
    writes = re.compile(r".*hook_(result|mlp_out)|blocks\.0\.hook_resid_pre")
    hooks = [(lambda name: writes.fullmatch(name) is not None, write)]
    hooks += [(lambda name: reads.fullmatch(name) is not None, read)]
    with torch.no_grad(), _split(model):
        return model.run_with_hooks(tokens, fwd_hooks=hooks), now


@contextlib.contextmanager
def _split(model: Any) -> Iterator[None]:
    """Queries, keys, values and MLP read copies of the stream, and every head's write is seen."""
    switches = ("use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")
    before = {switch: getattr(model.cfg, switch) for switch in switches}
    try:
        for switch in switches:
            setattr(model.cfg, switch, True)
        yield
    finally:
        for switch, value in before.items():
            setattr(model.cfg, switch, value)


def replacements(model: Any, task: Any, ablation: str) -> Writes:
    """What each writer is replaced by: what it writes in the corrupt run, the mean of that, or zero."""
    _, now = forward(model, task.corrupt)
    real = torch.arange(task.corrupt.shape[1]) < task.lengths[:, None]  # [prompt, pos]
    share = real.to(model.W_E.dtype) / real.sum(0)
    change = {
        "resample": lambda x: x,
        "mean": lambda x: torch.einsum("bp,bpd->pd", share, x).expand_as(x),
        "zero": torch.zeros_like,
    }[ablation]
    return {writer: change(x) for writer, x in now.items()}


def answer_logits(model: Any, task: Any, cut: Iterable[str], replaced: Writes) -> Tensor:
    """Every logit at the answer position, with the edges cut: [prompt, column]."""
    logits, _ = forward(model, task.clean, cut, replaced)
    return logits[torch.arange(len(task)), task.positions]


def moved(model: Any, task: Any, ablation: str, cuts: Iterable[Iterable[str]]) -> list[float]:
    """The largest change of any answer-position logit on any prompt, for each set of cut edges."""
    replaced = replacements(model, task, ablation)
    plain = answer_logits(model, task, (), replaced)
    return [(answer_logits(model, task, cut, replaced) - plain).abs().max().item() for cut in cuts]
