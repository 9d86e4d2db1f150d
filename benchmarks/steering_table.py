"""The figures of benchmarks/steering.py as Markdown."""

from __future__ import annotations

from typing import Any

from table import Columns, Row, table

DECODING: Columns = {
    "model": lambda r: r["model"],
    "rows × new tokens": lambda r: f"{r['rows']} × {r['new']}",
    "steering": lambda r: r["steering"],
    "steered": lambda r: f"{r['ms']:.2f} ms",
    "not steered": lambda r: f"{r['none_ms']:.2f} ms",
    "ratio": lambda r: f"**{r['ratio']:.2f}×**",
    "asked": lambda r: f"≤ {r['asked']:g}×",
    "the model itself, no hooks": lambda r: f"{r['model_ms']:.2f} ms",
    "ratio to that": lambda r: f"**{r['ratio_to_model']:.2f}×**",
}
SWEEPING: Columns = {
    "model": lambda r: r["model"],
    "prompts × tokens": lambda r: f"{r['prompts']} × {r['tokens']}",
    "layers": lambda r: r["layers"],
    "coefficients": lambda r: str(r["coefficients"]),
    "whole forwards": lambda r: f"{r['whole']:.3f} s",
    "sweep": lambda r: f"{r['ours']:.3f} s",
    "ratio": lambda r: f"**{r['ratio']:.2f}×**",
    "asked": lambda r: f"≤ {r['asked']:g}×",
    "largest difference": lambda r: f"{r['gap']:.1e}",
}
EXTRACTING: Columns = {
    "model": lambda r: r["model"],
    "prompts × tokens": lambda r: f"2 · {r['prompts']} × {r['tokens']}",
    "layers": lambda r: r["layers"],
    "run_with_cache": lambda r: f"{r['cache']:.3f} s",
    "extract": lambda r: f"{r['ours']:.3f} s",
    "ratio": lambda r: f"**{r['ratio']:.2f}×**",
    "asked": lambda r: f"≤ {r['asked']:g}×",
    "largest difference": lambda r: f"{r['gap']:.1e}",
}
PEER: Columns = {
    "model": lambda r: r["model"],
    "prompts": lambda r: str(r["prompts"]),
    "steering-vectors, batch 1 (its default)": lambda r: f"{r['their_extract_1']:.3f} s",
    "batch 32": lambda r: f"{r['their_extract_32']:.3f} s",
    "interp, batch 32": lambda r: f"{r['extract_s']:.3f} s",
    "ratio to batch 32": lambda r: f"**{r['extract_s'] / r['their_extract_32']:.2f}×**",
    "largest difference": lambda r: f"{max(r['gap_1'], r['gap_32']):.1e} of {r['largest']:.2g}",
}
TOKENS: Columns = {
    "model": lambda r: r["model"],
    "steered": lambda r: r["when"],
    "steering-vectors": lambda r: f"{1e3 * r['their_s'] / r['new']:.2f} ms",
    "interp": lambda r: f"{1e3 * r['ours_s'] / r['new']:.2f} ms",
    "ratio": lambda r: f"**{r['ours_s'] / r['their_s']:.2f}×**",
    "steering-vectors: tokens as without a cache": lambda r: f"{r['their_same']:.0%}",
    "interp: tokens as without a cache": lambda r: f"{r['ours_same']:.0%}",
    "without a cache both agree": lambda r: f"{r['both_same']:.0%}",
    "tokens that steering leaves": lambda r: f"{r['unsteered']:.0%}",
}


def everything(out: dict[str, Any]) -> str:
    """All tables of a run."""
    parts = [
        "## Decoding\n\nTime of one step of all rows, with a key-value cache. Steered and not by the model's "
        "weights (`generate`); the model itself is TransformerLens's forward pass in the same loop. "
        "Baked, the computation is that of the unsteered loop: how far its ratio is from 1 is the noise.\n",
        table(DECODING, out["decoding"]),
    ]
    parts += [
        "## Sweeps\n\nAgainst a forward of the whole model under hooks for every layer and coefficient; "
        "KL at the last token.\n",
        table(SWEEPING, out["sweeping"]),
        "## Extraction\n\nMean difference of the stream at the last token, in batches of 32.\n",
        table(EXTRACTING, out["extracting"]),
    ]
    if out["peer"]:
        tokens: list[Row] = [row | one for row in out["peer"] for one in row["tokens"]]
        parts += [
            "## Against steering-vectors\n\nAll layers, the last token of each prompt.\n",
            table(PEER, out["peer"]),
            "Greedy decoding of 8 rows under a cache, time of one step; then the share of new tokens that "
            "are those of the same package without a cache.\n",
            table(TOKENS, tokens),
        ]
    return "\n".join(parts)
