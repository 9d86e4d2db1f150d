"""The Dataset that every verb returns, and the contract that it keeps.

1. Dims begin with `prompt` where there are prompts.
2. `value` is an effect: a difference of a metric in its unit, positive where the component helps. `raw` is a
   metric as it was measured. Baselines: `clean`, and `corrupt` (two runs) or `empty` (nothing kept).
3. Coordinates have labels: templates and texts of prompts, tokens of positions, names of heads.
4. Attributes say how it was made: those of `ATTRS`, always, and `level` where there is an interval. They are
   strings and numbers, so that every file format keeps them. "none" stands where a thing does not apply.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    import torch

    from interp.experiment import Experiment
    from interp.tasks import Task
    from interp.tasks.metrics import Metric

ATTRS = (
    "method", "site", "direction", "ablation", "metric", "unit", "better", "convention", "model", "task",
    "task_fingerprint", "seed", "versions", "n_prompts",
)  # fmt: skip
# What is said of a result wherever it is shown (terminal, JSON, page), in this order: those that it has.
FACTS = (
    "method", "model", "task", "task_fingerprint", "n_prompts", "site", "direction", "ablation", "metric",
    "unit", "window", "engine", "precision", "granularity", "seed",
)  # fmt: skip
CONVENTION = {
    "denoise": "effect = metric(patched) - metric(corrupt), clean patched into corrupt",
    "noise": "effect = metric(clean) - metric(patched), corrupt patched into clean",
}
SCALED = "effect = metric(patched) - metric(clean), activations of the clean run made stronger"
VARIES = "*"  # after the token of a position that has another one in other prompts
_PACKAGES = ("interp-workbench", "transformer-lens", "torch", "numpy")


def facts(result: xr.Dataset) -> dict[str, Any]:
    """What a result says of itself, by name: the attributes of `FACTS` that it has and that apply to it."""
    return {name: result.attrs[name] for name in FACTS if result.attrs.get(name) not in (None, "", "none")}


def attrs(
    experiment: Experiment,
    *,
    method: str,
    site: str,
    convention: str | None = None,
    **more: str | int | float,
) -> dict[str, Any]:
    """What a result says of itself. convention: of the sign; by default that of a patch."""
    task, contrast, dtype = experiment.task, experiment.contrast, experiment.facts.dtype
    seed = task.seed if contrast.seed is None else contrast.seed
    usual = SCALED if contrast.ablation.adds else CONVENTION[contrast.direction]
    usual += "; positive: the component helps the metric"
    usual += "; what is patched in is a run of source_model" if contrast.source is not None else ""
    return provenance(
        method=method,
        site=site,
        convention=usual if convention is None else convention,
        metric=contrast.metric,
        model=experiment.facts.name,
        task=task.name,
        task_fingerprint=task.fingerprint(),
        n_prompts=len(task),
        direction=contrast.direction,
        ablation=str(contrast.ablation),
        seed=-1 if seed is None else seed,
        dtype=str(dtype).removeprefix("torch."),
        **({"part": task.part} if task.part else {}),
        **precision(dtype),
        **experiment.source_attrs,
        **more,
    )


def precision(dtype: torch.dtype) -> dict[str, str]:
    """What a model in half precision can and cannot decide."""
    if dtype.itemsize > 2:
        return {}
    import torch

    parts = round(1 / torch.finfo(dtype).eps)
    name = str(dtype).removeprefix("torch.")
    return {
        "precision": f"{name} knows a number to one part in {parts}: effects below that share of the logits "
        "are rounding. Load the model in float32 to decide them"
    }


def provenance(
    *,
    method: str,
    convention: str,
    metric: Sequence[Metric] = (),
    model: str = "none",
    site: str = "none",
    task: str = "none",
    task_fingerprint: str = "none",
    n_prompts: int = 0,
    direction: str = "none",
    ablation: str = "none",
    seed: int = -1,
    **more: str | int | float,
) -> dict[str, Any]:
    """`attrs` of a result that has no experiment: of prompts without a task, or of weights alone."""
    words = {
        "metric": [each.name for each in metric],
        "unit": [each.unit for each in metric],
        "better": [each.better for each in metric],
    }
    return {
        "method": method,
        "site": site,
        "direction": direction,
        "ablation": ablation,
        **{name: ", ".join(listed) or "none" for name, listed in words.items()},
        "convention": convention,
        "model": model,
        "task": task,
        "task_fingerprint": task_fingerprint,
        "seed": seed,
        "versions": json.dumps(versions()),
        "n_prompts": n_prompts,
        **more,
    }


def dataset(
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
    task: Task | None = None,
) -> xr.Dataset:
    """A result. A lone metric loses its dim; prompts get the numbers, templates and texts of the task.

    Raises ValueError where the contract is broken.
    """
    prompts = {} if task is None else prompt_coords(task)
    out = xr.Dataset(dict(variables), {**prompts, **coords}, dict(attrs))
    if out.sizes.get("metric") == 1:
        out = out.squeeze("metric", drop=True)
    check(out)
    return out


def check(result: xr.Dataset) -> None:
    """Raise ValueError where a Dataset breaks the contract of results."""
    missing = [name for name in ATTRS if name not in result.attrs]
    if missing:
        raise ValueError(f"the result lacks the attributes {', '.join(missing)}.")
    if "low" in result and "level" not in result.attrs:
        raise ValueError("the result has an interval and does not say its level.")
    for name, variable in result.data_vars.items():
        if "prompt" in variable.dims and variable.dims[0] != "prompt":
            raise ValueError(f"{name!r} has dims {variable.dims}; prompt comes first.")


def require_axes(result: xr.Dataset, reader: str, *dims: str) -> None:
    """Raise ValueError for a result without a dim that is read: one entry was chosen, or a mean was taken."""
    for dim in dims:
        if dim not in result.dims:
            raise ValueError(
                f"{reader} reads the dims {', '.join(dims)}; this result has no {dim}. Give it as the verb "
                f"returned it, or choose with a list, as in .isel({dim}=[0])."
            )


def prompt_coords(task: Task) -> dict[str, Any]:
    """Numbers, templates, texts and units of a task's prompts."""
    coords: dict[str, Any] = {
        "prompt": np.arange(len(task)),
        "template": ("prompt", np.array(task.template, dtype=object)),
        "unit": ("prompt", prompt_units(task)),
    }
    if task.labels is not None:
        texts = [" ".join(tokens).strip() for tokens in task.labels]
        coords["text"] = ("prompt", np.array(texts, dtype=object))
    return coords


def prompt_units(task: Task) -> np.ndarray:
    """Which prompts are one draw: mirrored pairs (clean and corrupt exchanged), and those of one clean text.

    A corrupt text that several share does not make them one: given it, their clean texts were drawn apart.
    """
    first: dict[Any, int] = {}
    unit = list(range(len(task)))
    for number, rows in enumerate(zip(task.clean.tolist(), task.corrupt.tolist())):
        clean, corrupt = map(tuple, rows)
        keys = (clean, frozenset((clean, corrupt)))
        linked = {unit[first[key]] for key in keys if key in first}
        unit[number] = lowest = min(linked, default=number)
        if len(linked) > 1:
            unit = [lowest if each in linked else each for each in unit]
        for key in keys:
            first.setdefault(key, number)
    return np.unique(unit, return_inverse=True)[1].ravel()


def position_labels(task: Task) -> np.ndarray:
    """One label a position of a task's prompts, its number where the task has no labels."""
    n_pos = task.clean.shape[1]
    if task.labels is None:
        return np.array([str(p) for p in range(n_pos)], dtype=object)
    return shared_labels(task.labels, n_pos)


def shared_labels(rows: Sequence[Sequence[str]], n_pos: int) -> np.ndarray:
    """One label a position: the token where all prompts agree, else the first prompt's and an asterisk."""
    out = []
    for pos in range(n_pos):
        tokens = [row[pos] for row in rows if pos < len(row) and row[pos]]
        out.append("" if not tokens else tokens[0] if len(set(tokens)) == 1 else f"{tokens[0]}{VARIES}")
    return np.array(out, dtype=object)


def made_now() -> dict[str, Any]:
    """What a summary says of its making: when it was finished, and by which versions."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"finished": now.isoformat(timespec="seconds"), "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of the packages that a number depends on."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
