"""What a sweep will cost, counted before anything runs.

FLOPs are multiply-adds times two of the matrix products (as `torch.utils.flop_counter` counts), from the
tokens alone: cells that turn out to be no-ops only by their values are still counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.engine.cells import Cells
from interp.engine.items import Items, first_reached, live_items
from interp.engine.memory import Budget
from interp.engine.readout import Reads
from interp.models import Anatomy
from interp.places import AXES


@dataclass(frozen=True)
class Plan:
    """Counts of a sweep: counterfactual runs in all and those that must be computed, FLOPs, bytes, chunks.

    Of other verbs `cells` is how many edges or runs there are, and none is a no-op. least_forwards,
    least_flops: of a search, whose other counts are at most; None elsewhere. seconds: on this machine.
    """

    cells: int
    prompts: int
    live: int
    flops: float
    naive_flops: float
    memory: int
    chunks: int
    engine: str
    note: str = ""
    verb: str = "patch"
    forwards: int = 0
    backwards: int = 0
    seconds: float | None = None
    least_forwards: int | None = None
    least_flops: float | None = None

    @property
    def no_ops(self) -> int:
        """Runs that are exactly the baseline, as no change reaches them, and are not run."""
        return self.cells * self.prompts - self.live if self.verb == "patch" else 0

    def __str__(self) -> str:
        ratio = self.naive_flops / self.flops if self.flops else float("inf")
        naive = f", a naive loop {self.naive_flops:.3g} ({ratio:.1f} times more)"
        least = (
            ("", "")
            if self.least_forwards is None
            else (f"{self.least_forwards:,} to ", f"{self.least_flops:.3g} to ")
        )
        passes = f"{least[0]}{self.forwards:,} forwards and {self.backwards:,} backwards"
        passes += f" of {self.prompts:,} prompts"
        swept = {
            "cells": f"{self.cells:,} on {self.prompts:,} prompts",
            "runs": f"{self.live:,} to compute, {self.no_ops:,} no-ops by causality",
        }
        lines = (swept if self.verb == "patch" else {"passes": passes}) | {
            "FLOPs": f"{least[1]}{self.flops:.3g}" + (naive if self.verb == "patch" else ""),
            "memory": f"about {self.memory / 2**20:.0f} MiB above the model, in {self.chunks:,} chunk(s)",
            "engine": self.engine + (f" ({self.note})" if self.note else ""),
        }
        if self.seconds is not None:
            lines["time"] = f"at least {self.seconds:.2g} s, by the rate of products here (docs/scaling.md)"
        return "\n".join(f"{name:>7}  {text}" for name, text in lines.items())


def layer_flops(facts: Anatomy, gated: bool) -> dict[str, float]:
    """FLOPs of one row in one block, by part; `score` is for each query and key pair."""
    d, width, kv = facts.d_model, facts.n_heads * facts.d_head, facts.n_key_value_heads * facts.d_head
    return {
        "key": 4.0 * d * kv,
        "query": 2.0 * d * width,
        "write": 2.0 * width * d,
        "mlp": 0.0 if facts.attn_only else (6.0 if gated else 4.0) * d * facts.d_mlp,
        "score": 4.0 * width,
    }


def forward_flops(facts: Anatomy, gated: bool, n_pos: int, n_columns: int, n_read: int) -> float:
    """FLOPs of one run of all positions, unembedding `n_read` positions into `n_columns`."""
    part = layer_flops(facts, gated)
    row = part["key"] + part["query"] + part["write"] + part["mlp"]
    block = n_pos * row + n_pos * n_pos * part["score"]
    return facts.n_layers * block + 2.0 * facts.d_model * n_columns * n_read


def token_touched(facts: Anatomy, reads: Reads):
    """`touched` as the tokens alone tell it: what a changed token can reach may differ."""
    first = first_reached(facts, reads.runs)
    n, n_pos = len(first), reads.runs.n_pos
    later = np.arange(n_pos)[None] >= first[:, None]  # [prompt, pos]

    def touched(site: str, layer: int) -> np.ndarray:
        runs = reads.runs
        by_token = runs.fill is None and runs.noise is None and not runs.two_models
        if site == "resid_pre" and layer == 0 and by_token:
            return (reads.runs.base != reads.runs.source).cpu().numpy()
        if site == "pattern":
            seen = np.tril(np.ones((n_pos, n_pos), bool)) if facts.causal else np.ones((n_pos, n_pos), bool)
            seen = seen[None] & later[:, :, None]  # [prompt, dst, src]
            seen = np.concatenate((seen, seen.any(2, keepdims=True)), 2)
            return np.broadcast_to(seen[:, None], (n, facts.n_heads + 1, n_pos, n_pos + 1))
        if len(AXES[site]) == 1:
            return later
        return np.broadcast_to(later[:, :, None], (n, n_pos, facts.size(site, AXES[site][1], n_pos) + 1))

    return touched


def fast_flops(facts: Anatomy, gated: bool, items: Items, reads: Reads) -> float:
    """FLOPs of the counterfactual runs alone, without base and source."""
    part, n_layers = layer_flops(facts, gated), facts.n_layers
    rows = (items.stop - items.start).astype(float)
    pairs = rows * items.stop
    n_read = rows if reads.everywhere else np.ones_like(rows)
    before_last = np.clip(n_layers - 1 - (items.point + 1) // 2, 0, None)  # whole blocks still to run
    half = (items.point % 2 == 1) & (items.point < 2 * n_layers - 1)  # an MLP alone first
    whole = rows * (part["key"] + part["query"] + part["write"] + part["mlp"]) + pairs * part["score"]
    last = rows * part["key"] + n_read * (part["query"] + part["write"] + items.stop * part["score"])
    total = (before_last * whole + half * rows * part["mlp"]).sum()
    total += (last * (items.point <= 2 * n_layers - 2)).sum()
    total += (n_read * part["mlp"] * (items.point <= 2 * n_layers - 1)).sum()
    n_columns = facts.d_vocab_out if reads.columns is None else len(reads.columns)
    return float(total + (n_read * 2.0 * facts.d_model * n_columns).sum())


def make_plan(
    facts: Anatomy, gated: bool, cells: Cells, reads: Reads, budget: Budget, engine: str, note: str = ""
) -> Plan:
    """Count a sweep. No forward pass."""
    n, n_pos = len(reads.runs), reads.runs.n_pos
    items = live_items(facts, cells, reads, token_touched(facts, reads))
    n_columns = facts.d_vocab_out if reads.columns is None else len(reads.columns)
    n_read = n_pos if reads.everywhere else 1
    capture = 2.0 * n * forward_flops(facts, gated, n_pos, n_columns, n_read)
    full = forward_flops(facts, gated, n_pos, facts.d_vocab_out, n_pos)
    naive = (len(cells) + 2.0 / max(n, 1)) * n * full
    per_prompt = budget.prompt_bytes(n_pos, cells.sites, n_columns, reads.everywhere)
    block = min(n, budget.prompts(n_pos, cells.sites, n_columns, reads.everywhere))
    running = items.rows() * budget.row_bytes() * block / max(n, 1)
    return Plan(
        cells=len(cells),
        prompts=n,
        live=len(items),
        flops=capture + fast_flops(facts, gated, items, reads) if engine == "fast" else naive,
        naive_flops=naive,
        memory=int(block * per_prompt + min(running, budget.limit / 2)),
        chunks=-(-n // block) if n else 0,
        engine=engine,
        note=note,
    )
