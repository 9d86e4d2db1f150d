"""`interp circuit`: find a circuit, measure it on prompts that did not choose it, and draw it.

Prompts of a task family: the search uses those of --seed, the evaluation as many of the next seed. Of a file
of prompts --split takes one part for each, and --eval names another file to measure on; without them it is
used for both, and the output says so.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from interp.circuits._judge import MEASURES
from interp.cli._inputs import (
    check_measure,
    default_folder,
    load,
    make_task,
    run_options,
    say_task,
    write_task,
)
from interp.cli._output import Output
from interp.cli._summary import repeated
from interp.places import hint

if TYPE_CHECKING:
    from interp.circuits import Circuit
    from interp.tasks import Task

_DRAWS = 20
_SAME = "evaluated on the same prompts"


def circuit(args: argparse.Namespace, out: Output) -> None:
    """The circuit, its evaluation, its picture and a page; their paths last."""
    from interp import circuits, plot, report
    from interp.report._run import save_result

    folder = args.out or default_folder(args, args.method)
    _check(args, folder)
    if repeated(args, folder, out):
        return
    model = load(args)
    task, fresh, evaluated = _prompts(model, args)
    write_task(task, folder, out)
    say_task(task, out, f"; {evaluated}")
    options = run_options(args)
    circuit, scores = _search(model, task, args, folder, options)
    _require_edges(circuit, args)
    result = circuits.evaluate(model, fresh, circuit, measures=args.measures, level=args.level, **options)
    random = circuits.random_baseline(model, fresh, circuit.n_edges, draws=_DRAWS, **options)
    curve = None if scores is None else circuits.curve(model, fresh, scores, level=args.level, **options)
    summary = _summary(circuit, result, random, evaluated)
    out.say(summary)
    out.tell(**_facts(circuit, result, random), evaluated=evaluated)
    out.wrote("circuit", circuit.save(folder / "circuit.json"))
    for name, more in (("evaluation", result), ("scores", scores), ("curve", curve)):
        if more is not None:
            out.wrote(name, save_result(more, folder / f"{name}.nc"))
    figure = plot.circuit(circuit, title=f"{args.model}, {task.name}: {circuit.name}")
    out.wrote("picture", plot.save_html(figure, folder / "circuit.html"))
    items: list[Any] = [summary, figure, circuit, result]
    items += [] if curve is None else _curve_figures(curve)
    title = f"Circuit of {args.model}, {task.name}"
    out.wrote("report", report.write(items, folder / "report.html", title=title))


def _check(args: argparse.Namespace, folder: Path) -> None:
    """What can be said without a model."""
    if args.threshold is not None and not (args.threshold >= 0 and math.isfinite(args.threshold)):
        raise ValueError(f"--threshold is {args.threshold:g}; it must be 0 or more.")
    if args.edges is not None and args.edges < 1:
        raise ValueError(f"--edges is {args.edges}; it must be at least 1.")
    if args.method == "acdc":
        if args.threshold is None or args.edges is not None:
            raise ValueError("--method acdc takes --threshold (in units of its metric), not --edges.")
    elif (args.threshold is None) == (args.edges is None):
        raise ValueError(f"--method {args.method} takes --edges or --threshold, one of them.")
    for name in args.measures:
        if name not in MEASURES:
            raise ValueError(f"--measures {name!r} is not one of {', '.join(MEASURES)}{hint(name, MEASURES)}")
    if args.split is not None and not 0 < args.split < 1:
        raise ValueError(f"--split is {args.split:g}; it is the share to search on, between 0 and 1.")
    if args.eval is not None and not args.eval.is_file():
        raise ValueError(f"--eval {args.eval} does not exist. Give a .jsonl or .csv file of prompts.")
    check_measure(args, folder)


def _require_edges(circuit: Circuit, args: argparse.Namespace) -> None:
    if circuit.n_edges == 0:
        advice = "lower --threshold." if args.edges is None else "raise --edges."
        raise ValueError(f"{args.method} keeps no edge that leads from the input to the logits: {advice}")


def _search(
    model: Any, task: Task, args: argparse.Namespace, folder: Path, options: dict[str, Any]
) -> tuple[Circuit, xr.Dataset | None]:
    """The circuit, and the scores that it was chosen by. Of several metrics the first one decides."""
    from interp import circuits

    options = {**options, "metric": options["metric"] and options["metric"][0]}
    if args.method == "acdc":
        store = folder / "acdc.jsonl"
        circuit = circuits.acdc(
            model, task, args.threshold, store=store, absolute=bool(args.absolute), **options
        )
        return circuit, None
    scores = circuits.score_edges(model, task, method=args.method, **options)
    absolute = args.absolute is not False
    if args.edges is not None:
        return circuits.prune(circuits.top(scores, args.edges, absolute=absolute)), scores
    return circuits.prune(circuits.threshold(scores, args.threshold, absolute=absolute)), scores


def _prompts(model: Any, args: argparse.Namespace) -> tuple[Task, Task, str]:
    """Prompts to search on, prompts to measure on, and what to say of these."""
    from interp.tasks import Task

    task = make_task(model, args)
    if args.split is not None:
        search, rest = task.split(args.split, args.seed)
        return search, rest, f"evaluated on the other {len(rest)} of {len(task)} prompts"
    if args.eval is not None:
        other = Task.from_file(model, args.eval)
        return task, other, f"evaluated on the {len(other)} prompts of {args.eval}"
    return task, *_fresh(model, task, args)


def _fresh(model: Any, task: Task, args: argparse.Namespace) -> tuple[Task, str]:
    """Prompts of the family's next seed; those of a file are used again."""
    from interp.tasks import families

    if args.task not in families():
        return task, _SAME
    other = make_task(model, argparse.Namespace(**{**vars(args), "seed": args.seed + 1, "n": len(task)}))
    if other.fingerprint() == task.fingerprint():  # a family that has no more prompts
        return task, _SAME
    return other, f"evaluated on {len(other)} other prompts, of seed {args.seed + 1}"


def _first(result: xr.Dataset) -> xr.Dataset:
    """The first metric."""
    return result.isel(metric=0) if "metric" in result.dims else result


def _facts(circuit: Circuit, result: xr.Dataset, random: xr.Dataset) -> dict[str, Any]:
    """What scripts want to know of the circuit, by the first metric."""
    judged = _first(result).isel(circuit=0)
    ends = _first(random)["quantile"].isel(size=0).values
    return {
        "model": result.attrs["model"],
        "ablation": result.attrs["ablation"],
        "edges": circuit.n_edges,
        "of_edges": circuit.graph.n_edges,
        "heads": circuit.heads(),
        **{name: float(judged[name]) for name in ("faithfulness", "low", "high")},
        "random": {"low": float(ends[0]), "high": float(ends[-1]), "draws": _DRAWS},
    }


def _summary(circuit: Circuit, result: xr.Dataset, random: xr.Dataset, evaluated: str) -> str:
    """What the circuit keeps, how faithful it is, how sure that is, and what chance would reach."""
    facts = _facts(circuit, result, random)
    share = 100 * facts["edges"] / facts["of_edges"]
    level = f"{100 * float(result.attrs.get('level', 0.95)):.4g} %"
    known = math.isfinite(facts["low"])
    interval = f" ({level} interval {facts['low']:.3f} to {facts['high']:.3f})" if known else ""
    return (
        f"{facts['edges']} of {facts['of_edges']:,} edges ({share:.1f} %), {len(facts['heads'])} heads; "
        f"faithfulness {facts['faithfulness']:.3f}{interval} under {facts['ablation']} ablation, "
        f"{evaluated}. Random circuits of that size: {facts['random']['low']:.3f} to "
        f"{facts['random']['high']:.3f} (5 % to 95 % of {_DRAWS})."
    )


def _curve_figures(curve: xr.Dataset) -> list[Any]:
    """A picture for each metric, then the table."""
    from interp import plot
    from interp.report._figures import metric_names

    return [*(plot.curve(curve, metric=name) for name in metric_names(curve)), curve]
