"""The Dataset of a sweep: named dims, labelled coordinates, provenance in its attributes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr

from interp.models import Anatomy
from interp.patching.corruption import Corruption, Gaussian
from interp.patching.request import Request
from interp.tasks import Task
from interp.tasks.metrics import Metric

CONVENTION = {
    "denoise": "effect = metric(patched) - metric(corrupt), clean patched into corrupt",
    "noise": "effect = metric(clean) - metric(patched), corrupt patched into clean",
}


def sizes(request: Request, n_prompts: int, n_metrics: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Dims and shape of the whole array: prompt, site, the request's dims, metric."""
    dims = ("prompt", "site", *request.by, "metric")
    widest = [max(len(coords[dim]) for coords in request.coords) for dim in request.by]
    return dims, (n_prompts, len(request.sites), *widest, n_metrics)


def signs(metrics: Sequence[Metric], direction: str) -> np.ndarray:
    """+1 or -1 by metric: what turns patched - base into an effect that is positive when it helps."""
    better = np.array([1.0 if metric.better == "higher" else -1.0 for metric in metrics])
    return better if direction == "denoise" else -better


def dataset(
    arrays: dict[str, np.ndarray],
    *,
    request: Request,
    facts: Anatomy,
    task: Task,
    metrics: Sequence[Metric],
    attrs: dict[str, Any],
) -> xr.Dataset:
    """A result from its arrays: effects `value` (and `draw_variance`) [prompt, site, ..., metric], baselines
    `clean` and `corrupt` [prompt, metric], and `clean_right` [prompt]."""
    cells, _ = sizes(request, len(task), len(metrics))
    dims = {"clean": ("prompt", "metric"), "corrupt": ("prompt", "metric"), "clean_right": ("prompt",)}
    variables = {name: (dims.get(name, cells), array) for name, array in arrays.items()}
    out = xr.Dataset(variables, coords=_coords(request, facts, task, metrics), attrs=attrs)
    out = out if request.several else out.squeeze("site", drop=True)
    out = out if len(metrics) > 1 else out.squeeze("metric", drop=True)
    sizes_now = dict(zip(out["value"].dims, out["value"].shape))
    return out.assign_coords(_labels(out, facts, task, request) if sizes_now else {})


def _coords(request: Request, facts: Anatomy, task: Task, metrics: Sequence[Metric]) -> dict[str, Any]:
    coords: dict[str, Any] = {
        "prompt": np.arange(len(task)),
        "site": list(request.sites),
        "metric": [metric.name for metric in metrics],
        "template": ("prompt", np.array(task.template, dtype=object)),
    }
    for dim in request.by:
        longest = max((c[dim] for c in request.coords), key=len)
        coords[dim] = longest
    return coords


def _labels(out: xr.Dataset, facts: Anatomy, task: Task, request: Request) -> dict[str, Any]:
    """Tokens, head names and texts beside the integer coordinates."""
    labels: dict[str, Any] = {}
    if task.labels is not None:
        texts = [" ".join(tokens).strip() for tokens in task.labels]
        labels["text"] = ("prompt", np.array(texts, dtype=object))
    tokens = position_labels(task)
    for dim, name in (("pos", "token"), ("dst", "dst_token"), ("src", "src_token")):
        if dim in out.dims:
            labels[name] = (dim, tokens[out[dim].values])
    if "layer" in out.dims and "head" in out.dims:
        mesh = [[f"L{layer}H{head}" for head in out["head"].values] for layer in out["layer"].values]
        labels["head_name"] = (("layer", "head"), np.array(mesh, dtype=object))
    if "layer" in out.dims and request.window > 1:
        labels["last_layer"] = ("layer", out["layer"].values + request.window - 1)
    return labels


def position_labels(task: Task) -> np.ndarray:
    """One label a position: the token where all prompts agree, else the first prompt's and an ellipsis."""
    n_pos = task.clean.shape[1]
    if task.labels is None:
        return np.array([str(p) for p in range(n_pos)], dtype=object)
    out = []
    for pos in range(n_pos):
        seen = [row[pos] for row in task.labels if pos < len(row) and row[pos]]
        out.append("" if not seen else seen[0] if len(set(seen)) == 1 else f"{seen[0]}…")
    return np.array(out, dtype=object)


def provenance(
    request: Request,
    facts: Anatomy,
    task: Task,
    metrics: Sequence[Metric],
    direction: str,
    corruption: Corruption,
    method: str,
    engine: str,
) -> dict[str, Any]:
    """What a result says of itself: strings and numbers only, so that every file format keeps them."""
    attrs: dict[str, Any] = {
        "method": method,
        "site": ", ".join(request.all_sites),
        "direction": direction,
        "model": facts.name,
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "metric": ", ".join(metric.name for metric in metrics),
        "unit": ", ".join(metric.unit for metric in metrics),
        "better": ", ".join(metric.better for metric in metrics),
        "corruption": repr(corruption),
        "window": request.window,
        "engine": engine,
        "seed": -1 if task.seed is None else task.seed,
        "versions": json.dumps(versions()),
        "convention": CONVENTION[direction] + "; positive: the component helps the metric",
    }
    if isinstance(corruption, Gaussian):
        attrs["draws"] = corruption.draws
    return attrs


def versions() -> dict[str, str]:
    """Versions of the packages that a number depends on."""
    names = ("interp-workbench", "transformer-lens", "torch", "numpy")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
