"""The study of circuit methods: how well each finds known circuits, and how faithful what it finds is.

    python benchmarks/circuit_study.py [--cases reverse tiny-ioi ...] [--shared ../shared/models] [--docs]

Hand-built models, where the circuit is known: AUROC of every method's scores, by |score|, and whether ACDC
keeps the stated edges and no others. Trained models, where it is not: faithfulness by size. There circuits
are found on one set of prompts and measured on another. Resample ablation unless a table says otherwise, the
task's own metric (ACDC and trained masks search with KL), one thread. It writes
benchmarks/results/circuit_study.json and .md, and the tables of docs/circuits.md between their markers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import circuit_study_tables as tables
import estimator_cases
import numpy as np
import torch

import interp
from interp import circuits
from interp.methods import IG, Atp, Exact, FlowRoutes, Method, Relp, Secant
from interp.models import handmade, model_fingerprint
from interp.tasks import Task
from interp.tasks.handmade import some_inputs

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "circuit_study.json"
PAGE = HERE.parent / "docs" / "circuits.md"
METHODS: dict[str, Method] = {
    "eap": Atp(),
    "eap-ig": IG(),
    "eap-ig, activations": IG(variant="activations"),
    "relp": Relp(),
    "relp, ah off": Relp(ah=False),
    "secant": Secant(),
    "flow-routes": FlowRoutes(),
    "exact": Exact(),
}
SIZES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
THRESHOLDS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
HANDMADE_THRESHOLD = 1e-4
KEPT_BY_MASK = 0.1
DRAWS = 20
Found = dict[str, Any]
Trained = tuple[str, Callable[[], tuple[Any, Task, Task]], bool]


def known_case(name: str) -> Found:
    """Every method on a hand-built model, under each ablation that it takes."""
    model = interp.load(name)
    task = some_inputs(model, name, n=32, seed=0)
    rows = []
    for ablation in handmade.ABLATIONS:
        truth = circuits.known(name, ablation=ablation)
        for method in METHODS:
            row = {"method": method, "ablation": ablation, "edges": truth.n_edges}
            rows.append(row | _auroc(model, task, method, ablation, truth))
        start = time.perf_counter()
        kept = circuits.acdc(model, task, HANDMADE_THRESHOLD, ablation=ablation, progress=False)
        right = {
            "right": (kept & truth).n_edges,
            "kept": kept.n_edges,
            "seconds": time.perf_counter() - start,
        }
        rows.append({"method": "acdc", "ablation": ablation, "edges": truth.n_edges, **right})
    total = circuits.Graph.of(model).n_edges
    return {"kind": "known", "weights": weights(model), "prompts": len(task), "total": total, "rows": rows}


def _auroc(model: Any, task: Task, method: str, ablation: str, truth: circuits.Circuit) -> Found:
    """Nothing where the method does not take the ablation."""
    start = time.perf_counter()
    try:
        scores = circuits.score_edges(model, task, ablation=ablation, method=METHODS[method])
    except ValueError as refused:
        return {"refused": str(refused)}
    seconds = time.perf_counter() - start
    found = circuits.roc(scores, truth)["auroc"]
    return {"seconds": seconds, **{str(area): float(found.sel(area=area)) for area in found["area"].values}}


def trained_case(make: Callable[[], tuple[Any, Task, Task]], train: bool) -> Found:
    """Curves of every method; circuits of ACDC and of a trained mask, and the best edges of equal number."""
    model, task, other = make()
    total = circuits.Graph.of(model).n_edges
    scores, rows = {}, []
    for method in METHODS:
        start = time.perf_counter()
        scores[method] = circuits.score_edges(model, task, method=METHODS[method])
        row = {"method": method, "seconds": time.perf_counter() - start}
        row |= {cost: scores[method].attrs.get(cost) for cost in ("forwards", "backwards")}
        rows.append(row | _curve(model, other, scores[method], SIZES))
    found = [*_acdc(model, task), *(_mask(model, task) if train else [])]
    _measure(model, other, found, scores)
    sizes = [max(1, round(share * total)) for share in SIZES[2:-1]]
    random = circuits.random_baseline(model, other, sizes, draws=DRAWS)
    edges, quantile = (_list(random[name]) for name in ("edges", "quantile"))
    return {
        "kind": "trained", "weights": weights(model), "model": scores["eap"].attrs["model"], "total": total,
        "prompts": len(task), "other": len(other), "tokens": task.clean.shape[1], "rows": rows,
        "circuits": [{k: v for k, v in one.items() if k != "circuit"} for one in found],
        "sizes": SIZES, "random": {"sizes": SIZES[2:-1], "edges": edges, "quantile": quantile},
    }  # fmt: skip


def _curve(model: Any, task: Task, scores: Any, sizes: tuple[float, ...]) -> Found:
    curve = circuits.curve(model, task, scores, sizes=sizes)
    absolute = curve.sel(ranking="absolute")
    parts = {name: _list(absolute[name]) for name in ("edges", "faithfulness", "low", "high")}
    return {**parts, **{name: float(curve.attrs[name]) for name in ("cpr", "cmd", "cpr_true", "cmd_true")}}


def _acdc(model: Any, task: Task) -> list[Found]:
    found, guess = [], None
    for threshold in THRESHOLDS:
        start = time.perf_counter()
        guess = circuits.acdc(model, task, threshold, guess=guess, progress=False)
        row = {"method": "acdc", "setting": f"threshold {threshold:g}", "circuit": guess}
        row |= {"seconds": time.perf_counter() - start, "runs": int(guess.provenance["rows"])}
        found.append(row)
    return found


def _mask(model: Any, task: Task) -> list[Found]:
    start = time.perf_counter()
    kept = circuits.train_mask(model, task, 1 - KEPT_BY_MASK, progress=False)
    row = {"method": "train_mask", "setting": f"{KEPT_BY_MASK:.0%} of edges, 300 steps", "circuit": kept}
    return [{**row, "seconds": time.perf_counter() - start, "runs": None}]


def _measure(model: Any, task: Task, found: list[Found], scores: dict[str, Any]) -> None:
    """Faithfulness of circuits, and of as many edges by each score, paths only. All in one call."""
    every = [one["circuit"] for one in found]
    for one in found:
        n = one["circuit"].n_edges
        every += [circuits.prune(circuits.top(scores[method], n)) for method in scores]
    result = circuits.evaluate(model, task, every)
    figures = {name: result[name].values for name in ("faithfulness", "low", "high")}
    figures["kl"] = result["kl"].mean("prompt").values
    for i, one in enumerate(found):
        one["edges"] = one["circuit"].n_edges
        one |= {name: float(values[i]) for name, values in figures.items()}
        first = len(found) + i * len(scores)
        one["equal"] = {
            method: {name: float(figures[name][first + j]) for name in ("faithfulness", "kl")}
            for j, method in enumerate(scores)
        }


def _list(array: Any) -> list:
    return np.asarray(array).tolist()


def weights(model: Any) -> str:
    return model_fingerprint(model)[:16]


def trained(shared: Path) -> Iterator[Trained]:
    """Name, model with the prompts to search and to measure on, and whether a mask is trained too."""
    yield "tiny-ioi: ioi", lambda: _family("tiny-ioi", "ioi"), True
    yield "tiny-world: ioi", lambda: _family("tiny-world", "ioi"), False
    yield "tiny-world: greater_than", lambda: _family("tiny-world", "greater_than"), False
    yield "tiny-world: facts", lambda: _family("tiny-world", "facts"), False
    for case in estimator_cases.cases("others", shared):
        if case.name.startswith("stories260K"):
            yield case.name.replace(",", ":", 1), lambda case=case: _halves(*case.make()), False


def _family(model: str, family: str) -> tuple[Any, Task, Task]:
    loaded, build = interp.load(model), getattr(interp.tasks, family)
    n = 32 if model == "tiny-ioi" else 16
    return loaded, build(loaded, n=n, seed=0), build(loaded, n=n, seed=1)


def _halves(model: Any, task: Task) -> tuple[Any, Task, Task]:
    half = len(task) // 2
    return model, task[:half], task[half:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=None, help="beginnings of names; default: all")
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared" / "models")
    parser.add_argument("--docs", action="store_true", help="only write the tables again")
    args = parser.parse_args()
    done = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not args.docs:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)
        for name, work in _work(args.shared):
            if args.cases is None or name.startswith(tuple(args.cases)):
                start = time.perf_counter()
                done[name] = work() | {"wall_s": time.perf_counter() - start}
                RESULTS.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
                print(f"{name}: {done[name]['wall_s']:.0f} s", file=sys.stderr)
    RESULTS.with_suffix(".md").write_text(tables.everything(done), encoding="utf-8")
    if PAGE.exists():
        PAGE.write_text(tables.filled(PAGE.read_text(encoding="utf-8"), done), encoding="utf-8")


def _work(shared: Path) -> Iterator[tuple[str, Callable[[], Found]]]:
    for name in handmade.NAMES:
        yield name, lambda name=name: known_case(name)
    for name, make, train in trained(shared):
        yield name, lambda make=make, train=train: trained_case(make, train)


if __name__ == "__main__":
    main()
