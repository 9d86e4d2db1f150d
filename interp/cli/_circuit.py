"""`interp circuit`: find a circuit, measure it on prompts that did not choose it, and draw it.

Prompts of a task family: the search uses those of --seed, the evaluation as many of the next seed. A file of
prompts is used for both, and the output says so.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from interp.cli._inputs import default_name, make_metrics, make_task

if TYPE_CHECKING:
    from interp.circuits import Circuit
    from interp.tasks import Task

_GIB = 2**30
_DRAWS = 20


def circuit(args: argparse.Namespace) -> None:
    """The circuit, its evaluation, its picture and a page; their paths last."""
    import interp
    from interp import circuits, plot
    from interp.cli._files import save

    _check(args)
    folder = args.out or Path("out") / default_name(args, args.method)
    model = interp.load(args.model, device=args.device)
    task = make_task(model, args)
    fresh, told = _fresh(model, task, args)
    print(f"{len(task)} prompts of {task.clean.shape[1]} tokens, task {task.name}; {told}")
    options = _options(args)
    found, scores = _found(model, task, args, folder, options)
    if found.n_edges == 0:
        raise ValueError(
            f"{args.method} keeps no edge that leads from the input to the logits: {_more(args)}"
        )
    measure: dict[str, Any] = {"ablation": args.ablation, "memory": options["memory"]}
    measure["metric"] = options["metric"]
    result = circuits.evaluate(model, fresh, found, **measure)
    random = circuits.random_baseline(model, fresh, found.n_edges, draws=_DRAWS, **measure)
    curve = None if scores is None else circuits.curve(model, fresh, scores, **measure)
    summary = _summary(found, result, random, told)
    print(summary)
    print(found.save(folder / "circuit.json"))
    print(save(result, folder / "evaluation.nc"))
    for name, more in (("scores", scores), ("curve", curve)):
        if more is not None:
            print(save(more, folder / f"{name}.nc"))
    title = f"{args.model}, {task.name}: {found.name}"
    figure = plot.circuit(found, title=title)
    print(plot.save_html(figure, folder / "circuit.html"))
    items: list[Any] = [summary, figure, result]
    items += [] if curve is None else [plot.curve(curve)]
    print(_page(items, folder / "report.html", f"Circuit of {args.model}, {task.name}"))


def _check(args: argparse.Namespace) -> None:
    """What can be said without a model."""
    if args.memory <= 0:
        raise ValueError(f"--memory is {args.memory} GiB; it must be more than 0.")
    if args.method == "acdc":
        if args.threshold is None or args.edges is not None:
            raise ValueError("--method acdc takes --threshold (in units of its metric), not --edges.")
        return
    if (args.threshold is None) == (args.edges is None):
        raise ValueError(f"--method {args.method} takes --edges or --threshold, one of them.")
    if args.resume:
        raise ValueError(f"--resume is for --method acdc; {args.method} has nothing to resume.")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    given = make_metrics([args.metric]) if args.metric else None
    memory = int(args.memory * _GIB)
    return {"ablation": args.ablation, "memory": memory, "metric": given and given[0], "progress": True}


def _found(
    model: Any, task: Task, args: argparse.Namespace, folder: Path, options: dict[str, Any]
) -> tuple[Circuit, xr.Dataset | None]:
    """The circuit, and the scores that it was chosen by."""
    from interp import circuits

    if args.method == "acdc":
        store = folder / "acdc.jsonl"
        if store.exists() and not args.resume:
            raise ValueError(
                f"{store} holds an earlier run. Add --resume to go on with it, or choose another --out."
            )
        found = circuits.acdc(
            model, task, args.threshold, store=store, absolute=bool(args.absolute), **options
        )
        return found, None
    scores = circuits.score_edges(model, task, args.method, **options)
    absolute = args.absolute is not False
    if args.edges is not None:
        return circuits.prune(circuits.top(scores, args.edges, absolute=absolute)), scores
    return circuits.prune(circuits.threshold(scores, args.threshold, absolute=absolute)), scores


def _fresh(model: Any, task: Task, args: argparse.Namespace) -> tuple[Task, str]:
    """Prompts to evaluate on, and what to say of them."""
    from interp.tasks import families

    if args.task not in families():
        return task, "evaluated on the same prompts"
    other = make_task(model, argparse.Namespace(**{**vars(args), "seed": args.seed + 1, "n": len(task)}))
    if other.fingerprint() == task.fingerprint():  # a family that has no more prompts
        return task, "evaluated on the same prompts"
    return other, f"evaluated on {len(other)} other prompts, of seed {args.seed + 1}"


def _more(args: argparse.Namespace) -> str:
    return "lower --threshold." if args.edges is None else "raise --edges."


def _summary(found: Circuit, result: xr.Dataset, random: xr.Dataset, told: str) -> str:
    """What the circuit keeps, how faithful it is, how sure that is, and what chance would reach."""
    share = 100 * found.n_edges / found.graph.n_edges
    one = result.isel(circuit=0)
    value, low, high = (float(one[name]) for name in ("faithfulness", "low", "high"))
    ends = random["quantile"].isel(size=0).values
    interval = f" (95 % interval {low:.3f} to {high:.3f})" if math.isfinite(low) else ""
    return (
        f"{found.n_edges} of {found.graph.n_edges:,} edges ({share:.1f} %), {len(found.heads())} heads; "
        f"faithfulness {value:.3f}{interval} under {result.attrs['ablation']} ablation, {told}. "
        f"Random circuits of that size: {ends[0]:.3f} to {ends[-1]:.3f} (5 % to 95 % of {_DRAWS})."
    )


def _page(items: list[Any], path: Path, title: str) -> Path:
    from interp import report

    return report.write(items, path, title=title)
