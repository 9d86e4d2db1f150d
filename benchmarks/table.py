"""The figures of a benchmark as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(out: dict[str, Any]) -> str:
    """All tables of a run."""
    parts = [f"# Exact patching\n\n{out['device']}, {out['threads']} threads, {out['versions']}\n"]
    parts.append(speed(out["rows"]))
    parts.append("\n## FLOPs (counted by torch.utils.flop_counter)\n\n" + flops(out["rows"]))
    parts.append("\n## Peak memory of a resid_pre sweep above the model\n\n" + _memory(out["memory"]))
    parts.append("\n## Scaling (6 layers, d_model 256, 16 tokens, 4 prompts; one change at a time)\n\n")
    parts.append(_scaling(out["scaling"]))
    if out["trained"]:
        parts.append("\n## Small trained models\n\n" + _trained(out["trained"]))
    return "".join(parts)


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def speed(rows: list[dict[str, Any]]) -> str:
    head = [
        "sweep",
        "tokens",
        "first difference",
        "cells",
        "peer",
        "ours (first call)",
        "ratio",
        "asked / aim",
        "largest difference",
    ]
    body = [
        [
            f"{r['site']} ({', '.join(r['by'])})", str(r["tokens"]), str(r["first_difference"]), str(r["cells"]),
            f"{r['peer_s']:.1f} s", f"{r['ours_s']:.2f} s ({r['first_call_s']:.2f})", f"**{r['ratio']:.0f}×**",
            f"{r['at_least']}× / {r['aim']}×", f"{r['gap']:.1e} of {r['largest']:.2g}",
        ]
        for r in rows
    ]  # fmt: skip
    return _rows(head, body)


def flops(rows: list[dict[str, Any]]) -> str:
    head = [
        "sweep",
        "tokens",
        "first difference",
        "counted",
        "planned",
        "exact minimum (spec)",
        "counted / minimum",
        "naive loop",
    ]
    body = []
    for r in rows:
        least = r["spec_minimum"]
        body.append(
            [
                f"{r['site']} ({', '.join(r['by'])})", str(r["tokens"]), str(r["first_difference"]),
                f"{r['flops'] / 1e9:.1f} G", f"{r['planned_flops'] / 1e9:.1f} G",
                f"{least / 1e9:.0f} G" if least else "–", f"{r['flops'] / least:.2f}" if least else "–",
                f"{r['naive_flops'] / 1e9:.0f} G",
            ]
        )  # fmt: skip
    return _rows(head, body)


def _memory(rows: list[dict[str, Any]]) -> str:
    body = [
        [str(r["prompts"]), f"{r['budget'] / 2**30:.1f} GiB", f"{r['peak'] / 2**30:.2f} GiB"] for r in rows
    ]
    return _rows(["prompts", "budget", "peak"], body)


def _scaling(rows: list[dict[str, Any]]) -> str:
    base = rows[0]
    body = [
        [
            str(r["layers"]), str(r["tokens"]), str(r["prompts"]), f"{r['site']} ({', '.join(r['by'])})",
            str(r["cells"]), f"{r['flops'] / 1e9:.2f} G", f"{r['flops'] / base['flops']:.2f}",
            f"{r['seconds'] * 1e3:.0f} ms", f"{r['seconds'] / base['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    head = [
        "layers",
        "tokens",
        "prompts",
        "sweep",
        "cells",
        "FLOPs planned",
        "× first row",
        "measured",
        "× first row",
    ]
    return _rows(head, body)


def _trained(rows: list[dict[str, Any]]) -> str:
    body = [
        [
            r["model"], f"{r['site']} ({', '.join(r['by'])})", str(r["cells"]), f"{r['peer_s']:.2f} s",
            f"{r['ours_s'] * 1e3:.0f} ms", f"{r['ratio']:.0f}×", f"{r['gap']:.1e} of {r['largest']:.2g}",
        ]
        for r in rows
    ]  # fmt: skip
    return _rows(["model", "sweep", "cells", "peer", "ours", "ratio", "largest difference"], body)
