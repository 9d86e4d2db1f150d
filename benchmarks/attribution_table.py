"""The figures of benchmarks/attribution.py as Markdown."""

from __future__ import annotations

from typing import Any

from table import Columns, Row, table

SHOWN = ("atp", "relp", "secant")


def _ratio(method: str) -> Any:
    return lambda r: (
        f"**{r['ratio'][method]:.2f}×**" if method in ("atp", "relp") else f"{r['ratio'][method]:.2f}×"
    )


def _peak(method: str) -> Any:
    def text(r: Row) -> str:
        mib = r["peak"][method] / 2**20
        if method == "backward":
            return f"{mib:.0f} MiB"
        return f"{mib:.0f} MiB, {r['peak'][method] / r['peak']['backward']:.2f}×"

    return text


BATCH: Columns = {"prompts": lambda r: str(r["prompts"]), "tokens": lambda r: str(r["tokens"])}
TIME: Columns = BATCH | {
    "two forwards, one backward": lambda r: f"{r['seconds']['bare']:.3f} s",
    "with gradients of the weights": lambda r: f"{r['ratio']['weights']:.2f}×",
    **{method: _ratio(method) for method in SHOWN},
}
MEMORY: Columns = BATCH | {
    "bare backward": _peak("backward"),
    **{method: _peak(method) for method in SHOWN},
}
COUNTED: Columns = {
    "method": lambda r: f"{r['method']}" + (f", {r['steps']} steps" if "steps" in r else ""),
    "sites": lambda r: str(r["sites"]),
    "forwards": lambda r: str(r["forward"]),
    "backwards": lambda r: str(r["backward"]),
}
PEER: Columns = BATCH | {
    "attribution_patch": lambda r: f"{r['peer_s']:.2f} s",
    "interp.attribute, relp": lambda r: f"{r['ours_s']:.3f} s",
    "ratio": lambda r: f"**{r['ratio']:.1f}×**",
    "atp: largest difference": lambda r: f"{r['gap']:.1e} of {r['largest']:.2g}",
}


def markdown(out: Row) -> str:
    """All tables of a run."""
    aims, shape = out["aims"], ", ".join(f"{key} {value}" for key, value in out["shape"].items())
    what = "Trained" if "model" in out["shape"] else "Random HookedTransformer"
    versions = ", ".join(f"{name} {version}" for name, version in out["versions"].items())
    parts = [
        f"# Estimates: {out['device']}, {out['threads']} threads\n\n{versions}. "
        f"{what}: {shape}. Sites resid_pre, attn_out, mlp_out and z in one call.\n",
        f"## Time, in units of two bare forwards and one backward (asked of atp and relp: {aims['time']}×)\n",
        table(TIME, out["rows"]),
        f"## Peak memory above the model's (asked of atp and relp: {aims['memory']}× of the bare backward)\n",
        table(MEMORY, out["rows"]),
        "## Passes, counted\n",
        table(COUNTED, out["counted"]),
    ]
    if out["peer"] is not None:
        exact = out["peer"]["float64"]
        parts += [
            f"## A (layer, pos) grid of three sites against TransformerLens {out['peer']['version']} "
            f"(asked: {aims['peer']:.0f}×)\n\n`attribution_patch` on its nodes, prompt by prompt; both on "
            f"the same TransformerBridge, float32. In float64 the values of atp differ by at most "
            f"{exact['gap']:.1e} of {exact['largest']:.2g} on all {exact['nodes']} nodes.\n",
            table(PEER, out["peer"]["rows"]),
        ]
    return "\n".join(parts)
