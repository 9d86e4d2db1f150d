"""Circuits at equal size: ensembles, EAP-GP, bootstraps, integer programming and nodes beside EAP-IG.

    python benchmarks/circuit_selection.py [--cases tiny-ioi ...] [--docs]

Circuits are found on one set of prompts and measured on another, at the same numbers of edges. CPR is the
area under faithfulness over the share of edges, with edges ranked by signed score, CMD the area between it
and 1, ranked by size; both from no edge (0) to all (1), by straight lines. Ablation by resampling, logit
difference.

Fixed before the figures were seen: a method is better than EAP-IG where its CMD is lower by more than 0.01,
and worse where it is higher by more than 0.01. It is recommended in its place only if it is better in most of
the cases in which both were run, and worse in none.

It writes benchmarks/results/circuit_selection.json and .md, and the tables of docs/circuits.md between their
markers `selection`. SmolLM2 has some 10⁵ edges: `exact`, ACDC and learned masks are left out there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import xarray as xr

import interp
from interp import circuits
from interp.circuits import Circuit
from interp.methods import IG, Atp, Exact, GradPath, Method, Relp, Secant
from interp.models import model_fingerprint
from interp.tasks import Task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "circuit_selection.json"
PAGE = HERE.parent / "docs" / "circuits.md"
METHODS: dict[str, Method] = {
    "eap-ig": IG(),
    "eap": Atp(),
    "secant": Secant(),
    "relp, ah off": Relp(ah=False),
    "eap-gp": GradPath(),
    "eap-gp, stride None": GradPath(stride=None),
    "exact": Exact(),
}
MEMBERS = ("eap-ig", "secant", "relp, ah off")
SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
LARGE_SIZES = (0.002, 0.01, 0.05, 0.2)
THRESHOLDS = (0.1, 0.03, 0.01, 0.003)
SAME_SIGN = 0.95
MARGIN = 0.01
Row = dict[str, Any]
Named = dict[tuple[str, str, float], Circuit]  # method, ranking, share asked for


def case(model: Any, task: Task, other: Task, large: bool) -> Row:
    """Areas of every method, and faithfulness by size."""
    graph, seconds, sizes = circuits.Graph.of(model), {}, LARGE_SIZES if large else SIZES
    numbers = [max(1, round(share * graph.n_edges)) for share in sizes]
    scores = {}
    for name, method in METHODS.items():
        if not (large and name == "exact"):
            start = time.perf_counter()
            scores[name] = circuits.score_edges(model, task, method=method, progress=False)
            seconds[name] = time.perf_counter() - start
    first = scores["eap-ig"]
    members = [scores[name] for name in MEMBERS]
    for how in ("mean", "min", "max"):
        scores[f"ensemble, {how}"] = circuits.ensemble(members, how=how)
    if len(np.unique(first["unit"])) > 1:
        scores["eap-ig, same sign"] = _same_sign(first)
    if not large:
        start = time.perf_counter()
        mask = circuits.train_mask(model, task, 0.9, start=first, progress=False)
        seconds["mask from eap-ig"] = time.perf_counter() - start
        scores["mask from eap-ig"] = circuits.ensemble([mask])
        scores["ensemble with mask"] = circuits.ensemble([*members, mask])
    chosen: Named = {}
    for name, each in scores.items():
        chosen |= _selected(
            name, each, numbers, lambda s, n, a: circuits.prune(circuits.top(s, n, absolute=a))
        )
    if not large:  # of 70,651 edges the solver has no circuit in a minute
        start = time.perf_counter()
        chosen |= _selected(
            "eap-ig, connected", first, numbers, lambda s, n, a: circuits.connected(s, n, absolute=a)
        )
        seconds["eap-ig, connected"] = time.perf_counter() - start
    greedy = lambda s, n, a: circuits.prune(circuits.greedy(s, n, absolute=a))  # noqa: E731
    chosen |= _selected("eap-ig, greedy", first, numbers, greedy)
    nodes = circuits.score_nodes(model, task, method=IG(), progress=False)
    for ranking in ("signed", "absolute"):
        for number in range(1, len(graph.writers) - 1, max(1, len(graph.writers) // 12)):
            whole = circuits.top(nodes, number, absolute=ranking == "absolute")
            chosen["eap-ig, nodes", ranking, whole.n_edges] = whole
    if not large:
        start = time.perf_counter()
        for threshold in THRESHOLDS:
            kept = circuits.acdc(model, task, threshold, metric="logit_diff", progress=False)
            for ranking in ("signed", "absolute"):
                chosen["acdc", ranking, kept.n_edges] = kept
        seconds["acdc"] = time.perf_counter() - start
    start = time.perf_counter()
    rows = _measured(model, other, chosen, graph.n_edges)
    out = {
        "model": str(first.attrs["model"]),
        "weights": model_fingerprint(model)[:16],
        "edges": graph.n_edges,
    }
    out |= {"prompts": len(task), "other": len(other), "sizes": sizes, "seconds": seconds, "rows": rows}
    return out | {"neurons": _neurons(model, task, other), "measuring_s": time.perf_counter() - start}


def _same_sign(scores: xr.Dataset) -> xr.Dataset:
    """Scores, 0 where the sign of an edge is not that of its mean in 95 % of the resamples."""
    found = circuits.stability(scores, 1, draws=200)
    sure = (found["same_sign"] >= SAME_SIGN) | found["value"].isnull()
    return scores.assign(value=scores["value"].where(sure, 0.0))


def _selected(
    name: str, scores: xr.Dataset, numbers: list[int], rule: Callable[[xr.Dataset, int, bool], Circuit]
) -> Named:
    pairs = [(ranking, n) for ranking in ("signed", "absolute") for n in numbers]
    return {(name, ranking, n): rule(scores, n, ranking == "absolute") for ranking, n in pairs}


def _measured(model: Any, task: Task, chosen: Named, total: int) -> dict[str, Row]:
    result = circuits.run(model, task, list(chosen.values()), progress=False)
    gap = (result["clean"] - result["empty"]).mean()
    ratio = (result["value"].mean("prompt") / gap).values
    rows: dict[str, Row] = {}
    for name in dict.fromkeys(key[0] for key in chosen):
        row = {}
        for ranking in ("signed", "absolute"):
            at = [i for i, key in enumerate(chosen) if key[:2] == (name, ranking)]
            share = [list(chosen)[i][2] / total for i in at]
            kept = [list(chosen.values())[i].n_edges for i in at]
            order = np.argsort(share, kind="stable")
            x = np.concatenate(([0.0], np.array(share)[order], [1.0]))
            y = np.concatenate(([0.0], ratio[at][order], [1.0]))
            area = np.trapezoid(y if ranking == "signed" else abs(1 - y), x)
            row["cpr" if ranking == "signed" else "cmd"] = float(area)
            row[ranking] = {"share": x[1:-1].tolist(), "edges": np.array(kept)[order].tolist()}
            row[ranking]["faithfulness"] = y[1:-1].tolist()
        rows[name] = row
    return rows


def _neurons(model: Any, task: Task, other: Task) -> Row:
    effects = interp.attribute(
        model, task, "post", ("layer", "neuron"), method="ig", direction="noise", progress=False
    )
    curve = circuits.neuron_curve(model, other, effects, sizes=(0.01, 0.05, 0.2, 0.5, 1.0), progress=False)
    shown = curve["faithfulness"].sel(ranking="absolute").values.tolist()
    return {"cpr": curve.attrs["cpr"], "cmd": curve.attrs["cmd"], "faithfulness": shown}


def _family(name: str, family: str, n: int, **options: Any) -> tuple[Any, Task, Task]:
    model, build = interp.load(name), getattr(interp.tasks, family)
    return model, build(model, n=n, seed=0, **options), build(model, n=n, seed=1, **options)


CASES: dict[str, Callable[[], tuple[Any, Task, Task]]] = {
    "tiny-ioi: ioi": lambda: _family("tiny-ioi", "ioi", 16),
    "tiny-world: ioi": lambda: _family("tiny-world", "ioi", 8),
    "tiny-world: facts": lambda: _family("tiny-world", "facts", 8),
    "smollm2-135m: ioi": lambda: _family("smollm2-135m", "ioi", 8, template=0),
}


def verdict(done: dict[str, Row], method: str) -> tuple[int, int, int]:
    """Cases in which a method is better, equal and worse than EAP-IG, by the criterion above."""
    gaps = [
        c["rows"][method]["cmd"] - c["rows"]["eap-ig"]["cmd"] for c in done.values() if method in c["rows"]
    ]
    better, worse = sum(gap < -MARGIN for gap in gaps), sum(gap > MARGIN for gap in gaps)
    return better, len(gaps) - better - worse, worse


def tables(done: dict[str, Row]) -> dict[str, str]:
    """Markdown by name."""
    methods = dict.fromkeys(name for each in done.values() for name in each["rows"])
    lines = [f"| CPR / CMD | {' | '.join(done)} | better, equal, worse |", "|---" * (len(done) + 2) + "|"]
    for name in methods:
        cells = [
            f"{each['rows'][name]['cpr']:.3f} / {each['rows'][name]['cmd']:.3f}"
            if name in each["rows"]
            else "–"
            for each in done.values()
        ]
        told = "" if name == "eap-ig" else ", ".join(map(str, verdict(done, name)))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {told} |")
    neurons = [f"| case | {' | '.join(('1 %', '5 %', '20 %', '50 %'))} | CPR / CMD |", "|---" * 6 + "|"]
    for name, each in done.items():
        shown = each["neurons"]
        kept = " | ".join(f"{value:.2f}" for value in shown["faithfulness"][:-1])
        neurons.append(f"| {name} | {kept} | {shown['cpr']:.3f} / {shown['cmd']:.3f} |")
    return {"areas": "\n".join(lines) + "\n", "neurons": "\n".join(neurons) + "\n"}


def filled(page: str, done: dict[str, Row]) -> str:
    """The page with every marked table as it is now."""

    def table(match: re.Match) -> str:
        return f"<!-- selection {match[1]} -->\n{tables(done)[match[1]]}<!-- end -->"

    return re.sub(r"<!-- selection ([\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=None, help="beginnings of names; default: all")
    parser.add_argument("--docs", action="store_true", help="only write the tables again")
    args = parser.parse_args()
    done = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)
    for name, make in CASES.items():
        if not args.docs and (args.cases is None or name.startswith(tuple(args.cases))):
            start = time.perf_counter()
            done[name] = case(*make(), large=name.startswith("smollm2")) | {"wall_s": 0.0}
            done[name]["wall_s"] = time.perf_counter() - start
            done = {each: done[each] for each in CASES if each in done}
            RESULTS.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {done[name]['wall_s']:.0f} s", file=sys.stderr)
    parts = [f"## {title}\n\n{body}" for title, body in tables(done).items()]
    head = "# Circuits at equal size\n\nMade by benchmarks/circuit_selection.py.\n\n"
    RESULTS.with_suffix(".md").write_text(head + "\n".join(parts), encoding="utf-8")
    if PAGE.exists():
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), done), encoding="utf-8")


if __name__ == "__main__":
    main()
