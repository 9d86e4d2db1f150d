"""The figures of a benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]

SWEEP: Columns = {
    "sweep": lambda r: f"{r['site']} ({', '.join(r['by'])})",
    "tokens": lambda r: str(r["tokens"]),
    "first difference": lambda r: str(r["first_difference"]),
}
SPEED: Columns = SWEEP | {
    "cells": lambda r: str(r["cells"]),
    "transformer_lens.patching": lambda r: f"{r['peer_s']:.1f} s",
    "interp.patch (first call)": lambda r: f"{r['ours_s']:.2f} s ({r['first_call_s']:.2f})",
    "ratio": lambda r: f"**{r['ratio']:.0f}×**",
    "asked / aim": lambda r: f"{r['at_least']}× / {r['aim']}×",
    "largest difference": lambda r: f"{r['gap']:.1e} of {r['largest']:.2g}",
}
FLOPS: Columns = SWEEP | {
    "counted": lambda r: f"{r['flops'] / 1e9:.1f} G",
    "planned": lambda r: f"{r['planned_flops'] / 1e9:.1f} G",
    "exact minimum": lambda r: f"{r['spec_minimum'] / 1e9:.0f} G" if r["spec_minimum"] else "–",
    "counted / minimum": lambda r: f"{r['flops'] / r['spec_minimum']:.2f}" if r["spec_minimum"] else "–",
    "naive loop": lambda r: f"{r['naive_flops'] / 1e9:.0f} G",
}
MEMORY: Columns = {
    "prompts": lambda r: str(r["prompts"]),
    "budget": lambda r: f"{r['budget'] / 2**30:.2f} GiB",
    "peak above the model": lambda r: f"{r['peak'] / 2**30:.2f} GiB",
}
TRAINED: Columns = {
    "model": lambda r: r["model"],
    "sweep": SWEEP["sweep"],
    "cells": lambda r: str(r["cells"]),
    "transformer_lens.patching": lambda r: f"{r['peer_s']:.2f} s",
    "interp.patch": lambda r: f"{r['ours_s'] * 1e3:.0f} ms",
    "ratio": lambda r: f"{r['ratio']:.0f}×",
    "largest difference": lambda r: f"{r['gap']:.1e} of {r['largest']:.2g}",
}


def scaling_columns(base: Row) -> Columns:
    """Absolute and relative to the first row."""
    return {
        "layers": lambda r: str(r["layers"]),
        "tokens": lambda r: str(r["tokens"]),
        "prompts": lambda r: str(r["prompts"]),
        "sweep": SWEEP["sweep"],
        "cells": lambda r: str(r["cells"]),
        "FLOPs planned": lambda r: f"{r['flops'] / 1e9:.2f} G",
        "of row 1": lambda r: f"{r['flops'] / base['flops']:.2f}×",
        "measured": lambda r: f"{r['seconds'] * 1e3:.0f} ms",
        "of row 1 ": lambda r: f"{r['seconds'] / base['seconds']:.2f}×",
    }


def table(columns: Columns, rows: list[Row]) -> str:
    """One Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def markdown(out: Row) -> str:
    """All tables of a run."""
    shape = ", ".join(f"{name} {size}" for name, size in out["shape"].items())
    parts = [
        f"# Exact patching\n\n{out['device']}, {out['threads']} threads, {out['versions']}, float32.",
        f"A random HookedTransformer: {shape}. The peer is timed on "
        f"{out['rows'][0]['peer_cells']} cells spread over each grid and scaled to the whole grid; "
        "its clean cache is not counted, ours is. First call: with the self-check.\n",
        table(SPEED, out["rows"]),
        "## FLOPs, counted by torch.utils.flop_counter\n\nThe exact minimum is that of a sweep that computes "
        "every needed row once.\n",
        table(FLOPS, out["rows"]),
        "## Peak memory of a resid_pre sweep of 15 tokens\n",
        table(MEMORY, out["memory"]),
        "## Scaling\n\n6 layers, d_model 256, 16 tokens, 4 prompts, one change at a time.\n",
        table(scaling_columns(out["scaling"][0]), out["scaling"]),
    ]
    if out["trained"]:
        parts += ["## Small trained models\n", table(TRAINED, out["trained"])]
    return "\n".join(parts)
