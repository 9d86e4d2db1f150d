"""Results made by hand: known effects, tokens that are hard to draw."""

from __future__ import annotations

import numpy as np
import xarray as xr

TOKENS = ("<s>", " When", " Mary", " and", " $5", " $6", "<b>x", " Mary", " and", "\n", "&amp;", " to")
SIZES = {"layer": 4, "head": 6, "pos": len(TOKENS), "neuron": 9, "dst": len(TOKENS), "src": len(TOKENS)}


def make(
    by: tuple[str, ...] = ("layer", "head"),
    site: str = "z",
    sites: tuple[str, ...] = (),
    metrics: tuple[str, ...] = (),
    n_prompts: int = 20,
    seed: int = 0,
    sizes: dict[str, int] | None = None,
    **attrs: str | int,
) -> xr.Dataset:
    """A Dataset as interp.patch returns it; the largest effects are at layer 2, last head or position 7."""
    size = {**SIZES, **(sizes or {})}
    dims = ["prompt", *(["site"] if sites else []), *by, *(["metric"] if metrics else [])]
    lengths = {**size, "prompt": n_prompts, "site": len(sites), "metric": len(metrics)}
    shape = [lengths[dim] for dim in dims]
    rng = np.random.default_rng(seed)
    value = rng.normal(0, 0.15, shape[1:]) + rng.normal(0, 0.3, shape)
    value[..., :] += np.where(np.arange(size["layer"]) == 2, 1.0, 0.0).reshape(
        [-1 if dim == "layer" else 1 for dim in dims]
    ) * rng.normal(0.5, 0.8, shape[1:])
    names = metrics or ("logit_diff",)
    baseline = ("prompt", "metric") if metrics else ("prompt",)
    around = {"clean": 3.0, "corrupt": -2.5}
    variables: dict = {"value": (dims, value.astype(np.float32))}
    for name, level in around.items():
        variables[name] = (baseline, level + rng.normal(0, 0.4, [lengths[d] for d in baseline]))
    coords: dict = {dim: np.arange(lengths[dim]) for dim in dims if dim not in ("site", "metric")}
    if sites:
        coords["site"] = list(sites)
    if metrics:
        coords["metric"] = list(metrics)
    coords["template"] = ("prompt", np.array([f"t{i % 12}" for i in range(n_prompts)], dtype=object))
    for dim, label in (("pos", "token"), ("dst", "dst_token"), ("src", "src_token")):
        if dim in by:
            cycle = [TOKENS[i % len(TOKENS)] for i in range(size[dim])]
            coords[label] = (dim, np.array(cycle, dtype=object))
    if "layer" in by and "head" in by:
        grid = [[f"L{layer}H{head}" for head in range(size["head"])] for layer in range(size["layer"])]
        coords["head_name"] = (("layer", "head"), np.array(grid, dtype=object))
    facts = {
        "method": "patch",
        "site": ", ".join(sites) or site,
        "direction": "denoise",
        "model": "toy",
        "task": "ioi",
        "task_fingerprint": "0f" * 32,
        "metric": ", ".join(names),
        "unit": ", ".join({"kl": "nats", "prob": "probability"}.get(name, "logits") for name in names),
        "better": ", ".join("lower" if name == "kl" else "higher" for name in names),
        "ablation": "resample",
        "window": 1,
        "engine": "fast",
        "seed": 0,
        "versions": '{"interp-workbench": "0.1.0", "transformer-lens": "3.9.0", "torch": "2.9.0"}',
        "convention": "effect = metric(patched) - metric(corrupt); positive: the component helps the metric",
    }
    return xr.Dataset(variables, coords=coords, attrs={**facts, **attrs})
