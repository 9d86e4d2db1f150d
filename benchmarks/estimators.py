"""The study of estimators: every method of `interp.attribute` against exact patching, case by case.

    python benchmarks/estimators.py [--models tiny-ioi others] [--shared ../shared/models] [--again] [--docs]

It goes on where it was: cases that stand in benchmarks/results/estimators.json are not run again. At the end
it writes all tables to benchmarks/results/estimators.md and those of docs/estimators.md between their
markers.

In every case: denoising, the task's own metric, prompt means; resid_pre, attn_out and mlp_out by (layer,
pos), z, q and k by (layer, head), post by (layer, neuron). GradDrop estimates magnitudes, so `atp*`, and
`size of atp` beside it, are compared with the mean over prompts of |exact effect|.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import estimator_cases as cases
import torch
import xarray as xr

import interp
from interp.methods import GIM, IG, Atp, AtpStar, AttnLRP, Method, Relp, Secant
from interp.models import model_fingerprint

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "estimators.json"
SITES = ("resid_pre", "attn_out", "mlp_out", "z", "post")
INPUTS = ("q", "k")
TOGETHER = (("resid_pre", "attn_out", "mlp_out"), ("z",), ("post",), INPUTS)  # sites of one call
SHORT_SITES = (("resid_pre", "mlp_out"), ("z",))  # of large models
SHORT_METHODS = ("atp", "ig", "relp", "relp, ah off", "secant")
METHODS: dict[str, Method] = {
    "atp": Atp(),
    "ig": IG(),
    "atp*": AtpStar(),
    "relp": Relp(),
    "relp, ah off": Relp(ah=False),
    "attnlrp": AttnLRP(),
    "gim": GIM(),
    "secant": Secant(),
}
SIZE = "size of atp"  # mean |estimate|, beside GradDrop's
MAGNITUDES = ("atp*", SIZE)
QK_FIX = {"qk fix": AtpStar(grad_drop=False)}
NO_INPUTS = ("relp", "atp*")  # under the AH-rule nothing reaches q and k; the QK fix stands for atp* there
QUIET = {"progress": False}


def study(case: cases.Case) -> dict[str, Any]:
    """Every figure of one case."""
    model, task = case.make()
    out = {
        "group": case.group, "case": case.name, "weights": model_fingerprint(model)[:16],
        "prompts": len(task), "tokens": task.clean.shape[1],
        "changed": float((task.clean != task.corrupt).double().sum(1).mean()), "exact_s": {}, "rows": [],
    }  # fmt: skip
    for sites in SHORT_SITES if case.short else TOGETHER:
        sites = tuple(site for site in sites if _has(model, site))
        if not sites:
            continue
        neurons = list(range(0, model.cfg.d_mlp, case.neurons)) if sites == ("post",) else None
        options = {"neurons": neurons, **QUIET}
        start = time.perf_counter()
        exact = interp.patch(model, task, sites, **options)
        out["exact_s"][", ".join(sites)] = time.perf_counter() - start
        out["gap"] = float((exact["clean"] - exact["corrupt"]).mean())
        for name, method in _methods(sites, case.short).items():
            estimate = interp.attribute(model, task, sites, method=method, **options)
            for site in sites:
                out["rows"] += rows(site, name, _only(estimate, site), _only(exact, site))
                if name == "atp" and site not in INPUTS:
                    out["rows"] += rows(site, SIZE, abs(_only(estimate, site)), _only(exact, site))
    if not case.short:
        out["times"] = times(model, task)
    return out


def _only(result: xr.Dataset, site: str) -> xr.Dataset:
    return result.sel(site=site) if "site" in result["value"].dims else result


def rows(site: str, name: str, estimate: xr.Dataset, exact: xr.Dataset) -> list[dict[str, Any]]:
    """Agreement over all cells, and without the largest."""
    if name in MAGNITUDES:
        exact = exact.assign(value=abs(exact["value"]))
    found = interp.stats.agreement(estimate, exact)
    out = []
    for kept in found["cells"].values:
        one = found.sel(cells=kept)
        figures = {key: _number(one[key]) for key in ("pearson", "spearman", "slope", "relative_l1", "sign")}
        figures |= {f"recall_{k}": _number(one["recall"].sel(k=k)) for k in one["k"].values}
        cells = {"site": site, "method": name, "cells": str(kept), "n_cells": int(one["n_cells"])}
        out.append(cells | figures)
    return out


def times(model: Any, task: Any) -> dict[str, float]:
    """Seconds of one forward of the clean prompts, and of every method on all sites in one call."""
    sites = [site for site in SITES if _has(model, site)]

    def forward() -> None:
        with torch.inference_mode():
            model(task.clean)

    out = {"forward": _median(forward, 9)}
    for name, method in METHODS.items():
        out[name] = _median(partial(interp.attribute, model, task, sites, "layer", method=method, **QUIET), 3)
    return out


def _median(function: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _methods(sites: tuple[str, ...], short: bool) -> dict[str, Method]:
    if short:
        return {name: METHODS[name] for name in SHORT_METHODS}
    if sites != INPUTS:
        return METHODS
    return {name: method for name, method in METHODS.items() if name not in NO_INPUTS} | QK_FIX


def _has(model: Any, site: str) -> bool:
    return not (model.cfg.attn_only and site in ("mlp_out", "post"))


def _number(value: Any) -> float | None:
    number = float(value)
    return None if math.isnan(number) else round(number, 5)


def load() -> dict[str, dict[str, Any]]:
    """What was measured so far, by case, group by group."""
    done = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    return ordered(done)


def ordered(done: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """In the order of the groups, whatever was run first."""
    return dict(sorted(done.items(), key=lambda item: cases.GROUPS.index(item[1]["group"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=cases.GROUPS, default=list(cases.GROUPS))
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared" / "models")
    parser.add_argument("--again", action="store_true", help="measure cases that are there already")
    parser.add_argument("--docs", action="store_true", help="measure nothing, write the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = load()
    for group in () if args.docs else args.models:
        for case in cases.cases(group, args.shared):
            key = f"{case.group}: {case.name}"
            if key in done and not args.again:
                continue
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)  # random models solve nothing
                done[key] = study(case)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            print(f"{key}: {time.perf_counter() - start:.1f} s, mean gap {done[key]['gap']:.2f}", flush=True)
    _write(ordered(done))


def _write(done: dict[str, dict[str, Any]]) -> None:
    import estimator_tables as tables

    (RESULTS.parent / "estimators.md").write_text(tables.everything(done), encoding="utf-8")
    page = HERE.parent / "docs" / "estimators.md"
    if page.is_file():
        page.write_text(tables.filled(page.read_text(encoding="utf-8"), done), encoding="utf-8")
    print(RESULTS.parent / "estimators.md", page)


if __name__ == "__main__":
    main()
