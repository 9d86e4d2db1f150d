"""`interp show`, `status`, `compare`: what files hold, how far a store has come, how far two files agree.

No model is loaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from interp.cli._files import about, largest, table
from interp.cli._output import Output, require_file
from interp.plot._cells import is_tested
from interp.plot._export import require_page
from interp.report import _run
from interp.results import facts as facts_of

if TYPE_CHECKING:
    from interp.circuits import Circuit
    from interp.steering import Direction


def show(args: argparse.Namespace, out: Output) -> None:
    """Every file in turn."""
    if args.top < 1:
        raise ValueError(f"--top is {args.top}; it must be at least 1.")
    shown = [_folder(path, _run.open(path), args, out) for path in args.files]
    out.tell(shown=shown)


def status(args: argparse.Namespace, out: Output) -> None:
    """A line for every store; of a folder that a command writes, the unfinished stores in it."""
    from interp import stores

    paths = [each for path in args.stores for each in (sorted(path.glob("unfinished-*.zarr")) or [path])]
    states = [stores.status(path) for path in paths]
    out.say(*states)
    out.tell(
        stores=[
            {
                "path": str(each.path), "kind": each.kind, "done": each.done, "total": each.total,
                "finished": each.finished, "holder": each.holder, "changed_s": round(each.changed, 1),
                "run": dict(each.run),
            }
            for each in states
        ]
    )  # fmt: skip


def _folder(path: Path, run: _run.Run, args: argparse.Namespace, out: Output) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(path)}
    for name in ("claim", "line", "finished", "seconds"):
        if path.is_dir() and run.summary.get(name) is not None:
            out.say(f"{name}: {run.summary[name]}")
            facts[name] = run.summary[name]
    facts["results"] = {name: _result(name, each, args, out) for name, each in run.results.items()}
    facts["circuits"] = {name: _circuit(name, each, out) for name, each in run.circuits.items()}
    facts["directions"] = {name: _direction(name, each, out) for name, each in run.directions.items()}
    if run.pages:
        out.say("", "pages: " + ", ".join(str(page) for page in run.pages.values()))
    return facts | {"pages": {name: str(page) for name, page in run.pages.items()}}


def _result(name: str, result: xr.Dataset, args: argparse.Namespace, out: Output) -> dict[str, Any]:
    from interp import stats

    known = "; ".join(f"{fact.replace('_', ' ')} {value}" for fact, value in facts_of(result).items())
    out.say("", f"{name}: {known}", f"dims: {dict(result.sizes)}")
    facts = about(result) | {"dims": dict(result.sizes)}
    if not _has_cells(result):
        return facts
    rows = largest(result, args.top, level=args.level)
    told = stats.summary(result).splitlines() if is_tested(result) else []
    out.say(*table(rows), *told)
    return facts | {"top": rows, "summary": told}


def _has_cells(result: xr.Dataset) -> bool:
    """Whether a result is a map of effects, of which the largest are asked for."""
    return "value" in result and result.attrs.get("method") not in ("curve", "evaluate", "probe", "sweep")


def _circuit(name: str, circuit: Circuit, out: Output) -> dict[str, Any]:
    facts = {"edges": circuit.n_edges, "of_edges": circuit.graph.n_edges, "heads": circuit.heads()}
    facts |= {"name": circuit.name, "found": dict(circuit.provenance)}
    heads = ", ".join(map(str, facts["heads"]))
    out.say(
        "",
        f"{name}: {circuit.name}, {circuit.n_edges} of {circuit.graph.n_edges:,} edges; "
        f"heads {heads or 'none'}",
    )
    return facts


def _direction(name: str, direction: Direction, out: Output) -> dict[str, Any]:
    places = [str(place) for place in direction.places]
    out.say("", f"{name}: {direction.method} at {', '.join(places)}")
    return {"method": direction.method, "places": places}


def compare(args: argparse.Namespace, out: Output) -> None:
    """The figures of agreement, then where the two differ most; with --out, a page."""
    if args.out is not None:
        require_page(args.out)
        require_file(args.out)
    a, b = (_alone(path) for path in (args.a, args.b))
    if isinstance(a, xr.Dataset) != isinstance(b, xr.Dataset):
        raise ValueError(f"{args.a} and {args.b}: one is a result, the other a circuit. Give two of a kind.")
    if isinstance(a, xr.Dataset):
        _compare_results(a, b, args, out)
    else:
        _compare_circuits(a, b, args, out)


def _alone(path: Path) -> Any:
    """The one result or circuit of a path."""
    run = _run.open(path)
    parts = [*run.results.values(), *run.circuits.values()]
    if len(parts) != 1:
        raise ValueError(f"{path} holds {len(parts)} results and circuits; give the file of one.")
    return parts[0]


def _compare_results(a: xr.Dataset, b: xr.Dataset, args: argparse.Namespace, out: Output) -> None:
    from interp import plot, stats
    from interp.report import write
    from interp.report._figures import metric_names

    figures = stats.agreement(a, b)
    for metric in metric_names(figures):
        own = figures if metric is None else figures.sel(metric=metric)
        row = {
            name: float(own[name].sel(cells="all"))
            for name in ("pearson", "spearman", "slope", "relative_l1", "sign")
        }
        out.say(
            (f"{metric}: " if metric else "")
            + "; ".join(f"{name.replace('_', ' ')} {x:.3f}" for name, x in row.items())
        )
        out.tell(agreement=row if metric is None else {**out.facts.get("agreement", {}), metric: row})
    if a.attrs.get("task_fingerprint") == b.attrs.get("task_fingerprint"):
        rows = largest(stats.difference(a, b), args.top)
        out.say(f"largest differences, {args.a} less {args.b}:", *table(rows))
        out.tell(differences=rows)
    if args.out is not None:
        drawn = [plot.agreement(a, b, metric=metric) for metric in metric_names(figures)]
        out.wrote("report", write(drawn, args.out, title=f"{args.a.name} and {args.b.name}"))


def _compare_circuits(a: Circuit, b: Circuit, args: argparse.Namespace, out: Output) -> None:
    from interp import circuits, plot
    from interp.report import write

    shared = circuits.compare(a, b)
    rows = {
        str(kind): {str(name): float(shared[name].sel(kind=kind)) for name in shared.data_vars}
        for kind in shared["kind"].values
    }
    for kind, row in rows.items():
        out.say(f"{kind}: " + "; ".join(f"{name.replace('_', ' ')} {x:.3g}" for name, x in row.items()))
    out.tell(overlap=rows)
    if args.out is not None:
        title = f"{args.a.name} and {args.b.name}"
        out.wrote("report", write([plot.circuit(a), plot.circuit(b)], args.out, title=title))
