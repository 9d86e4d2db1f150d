"""`interp patch`, `path`, `attribute`, `demo`: effects, exact or estimated, and their pages."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from interp.cli._inputs import (
    GIB,
    bars,
    check_measure,
    default_folder,
    load,
    make_task,
    require_memory,
    run_options,
    say_task,
    write_task,
)
from interp.cli._output import Output, require_folder, require_store
from interp.cli._summary import repeated, unfinished
from interp.methods import IG, Method, parse

MODEL = "tiny-ioi"
STREAM = ("resid_pre", "attn_out", "mlp_out")
TEMPLATE = 1  # "When Mary and John got a bag at the hospital, John gave it to"
OPENING = """\
The model completes "When Mary and John went to the store, John gave a book to" with "Mary". In the \
corrupt prompt the other name is repeated, so that the answer is the other name. Every cell below is one \
run of the corrupt prompt with one activation copied from the clean run. Its effect is the change of the \
metric, the logit of the right name minus that of the wrong one: blue cells bring the answer back, white \
ones do not matter.

The first figure is by position, for prompts of one template: resid_pre shows where the information is \
before each layer, attn_out where attention moves it, mlp_out what is computed in place. The heads \
figure says which heads do it, for all templates. Hover over a cell for its value, token and 95 % \
bootstrap interval."""


def patch(args: argparse.Namespace, out: Output) -> None:
    """The plan, the result and its report; their paths last, so that they are easy to find."""
    import interp
    from interp.cli._files import about, largest, table
    from interp.report._figures import write_page
    from interp.report._run import save_result

    folder = args.out or default_folder(args, _what(args))
    _check(args, folder)
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers is {args.workers}; it must be at least 1.")
    require_store(args.store)
    if repeated(args, folder, out):
        return
    model = load(args)
    task = make_task(model, args)
    say_task(task, out)
    options = {**_cells(args), **run_options(args), "window": args.window, "engine": args.engine}
    plan = interp.plan(
        "patch", model, task, **{name: value for name, value in options.items() if name != "progress"}
    )
    out.say(plan)
    if args.plan:
        return out.tell(plan=str(plan).splitlines())
    out.say("; ".join(str(task.check(model)).splitlines()[:2]))  # its notes come as warnings
    with warnings.catch_warnings(), unfinished(args, folder) as own:
        warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)  # the check has warned of it
        result = interp.patch(
            model, task, store=args.store or own, workers=args.workers, executor=args.scheduler,
            precision=args.precision, **options,
        )  # fmt: skip
        out.files["result"] = save_result(result, folder / "result.nc")
    write_task(task, folder, out)
    top = largest(result, level=args.level)
    out.say("", *table(top), *_conclusions(result))
    out.tell(**about(result), top=top, summary=_conclusions(result))
    out.wrote("result", folder / "result.nc")
    page = write_page([result], folder / "report.html", f"{args.model}, {task.name}", level=args.level)
    out.wrote("report", page)


def plan(args: argparse.Namespace, out: Output) -> None:
    """What a verb would cost. Nothing is run, and nothing is written."""
    import interp
    from interp.plans import SHAPES, Sizes

    for name in ("n", "tokens", "runs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least 1.")
    require_memory(args)
    if args.model in SHAPES and args.device != "cpu":
        raise ValueError(
            f"--device is {args.device!r}, and {args.model} is a shape: its seconds are those of this "
            "machine's processor. Leave --device out, or give a model that is loaded."
        )
    model = args.model if args.model in SHAPES else load(args)
    counted = interp.plan(
        args.of, model, Sizes(args.n, args.tokens, args.first), args.site, args.by, method=args.method,
        runs=args.runs, memory=int(args.memory * GIB),
    )  # fmt: skip
    out.say(counted)
    numbers = ("forwards", "backwards", "flops", "memory", "chunks", "seconds")
    out.tell(verb=args.of, **{name: getattr(counted, name) for name in numbers})


def path(args: argparse.Namespace, out: Output) -> None:
    """The result and its report; the paths last."""
    import interp
    from interp.cli._files import about, largest
    from interp.report._figures import write_page
    from interp.report._run import read_result, save_result

    lone = args.receivers[0] if len(args.receivers) == 1 and isinstance(args.receivers[0], str) else None
    from_file = lone is not None and Path(lone).suffix == ".nc"
    folder = args.out or default_folder(
        args, "path", Path(lone).stem if lone and from_file else lone or "set"
    )
    check_measure(args, folder)
    if repeated(args, folder, out):
        return
    receivers = read_result(Path(lone)) if lone and from_file else lone or args.receivers
    senders = args.senders[0] if len(args.senders) == 1 and isinstance(args.senders[0], str) else args.senders
    model = load(args)
    task = make_task(model, args)
    say_task(task, out)
    result = interp.path_patch(
        model, task, senders, receivers, top=args.top, norm=args.norm, combine=args.combine,
        freeze=() if args.freeze == ["none"] else args.freeze, direction=args.direction, engine=args.engine,
        sender_positions=args.sender_positions, receiver_positions=args.receiver_positions,
        **run_options(args),
    )  # fmt: skip
    write_task(task, folder, out)
    out.tell(**about(result), receivers=result.attrs["receivers"], top=largest(result))
    out.wrote("result", save_result(result, folder / "result.nc"))
    page = write_page([result], folder / "report.html", f"{args.model}, {task.name}", level=args.level)
    out.wrote("report", page)


def attribute(args: argparse.Namespace, out: Output) -> None:
    """One result a method, and one page; the paths last."""
    import interp
    from interp.cli._files import about, largest
    from interp.report._run import save_result

    folder = args.out or default_folder(args, _what(args), "_".join(_file(name) for name in args.method))
    _check(args, folder)
    methods = _methods(args)
    if repeated(args, folder, out):
        return
    model = load(args)
    task = make_task(model, args)
    say_task(task, out)
    options = {**_cells(args), **run_options(args)}
    estimates = []
    with warnings.catch_warnings():
        for method in methods:
            estimates.append(interp.attribute(model, task, method=method, **options))
            warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)  # once is enough
        exact = interp.patch(model, task, **options) if args.compare else None
    write_task(task, folder, out)
    out.tell(**about(estimates[0]) | {"method": args.method})
    out.tell(top={name: largest(result) for name, result in zip(args.method, estimates)})
    for name, estimate in zip(args.method, estimates):
        out.wrote(name, save_result(estimate, folder / f"{_file(name)}.nc"))
    if exact is not None:
        out.tell(agreement={n: _agreement(e, exact) for n, e in zip(args.method, estimates)})
        out.wrote("exact", save_result(exact, folder / "exact.nc"))
    title = f"{args.model}, {task.name}"
    out.wrote("report", _page(estimates, exact, folder / "report.html", title, args.level))


def _check(args: argparse.Namespace, folder: Path) -> None:
    if bool(args.site) == bool(args.cells):
        raise ValueError(
            "give --site (a grid, such as --site z) or --cells (a list, such as --cells L1H0,L2.mlp_out), "
            "one of them."
        )
    if getattr(args, "window", 1) < 1:
        raise ValueError(f"--window is {args.window}; it must be at least 1.")
    check_measure(args, folder)


def _what(args: argparse.Namespace) -> str:
    return "_".join(args.site) if args.site else "cells"


def _file(method: str) -> str:
    return method.replace("*", "star")


def _cells(args: argparse.Namespace) -> dict[str, Any]:
    """What is measured. One site alone gives a result without a site dim."""
    site = args.site[0] if args.site and len(args.site) == 1 else args.site
    return {"site": site, "by": args.by, "cells": args.cells, "direction": args.direction}


def _methods(args: argparse.Namespace) -> list[Method]:
    """The methods by name, each once; --steps and --rule are those of integrated gradients."""
    if len(set(args.method)) < len(args.method):
        raise ValueError(f"--method is {','.join(args.method)}, with one twice; give each once.")
    given = {"steps": args.steps, "rule": args.rule}
    options = {option: value for option, value in given.items() if value is not None}
    methods = [parse(name) for name in args.method]
    if options and not any(isinstance(each, IG) for each in methods):
        raise ValueError(
            f"--{' and --'.join(options)}: of ig alone, and --method is {','.join(args.method)}. Add ig to "
            "it, or leave that out."
        )
    return [replace(each, **options) if isinstance(each, IG) else each for each in methods]


def _conclusions(result: xr.Dataset) -> list[str]:
    """What can be concluded, where there is something to be tested over."""
    from interp import stats
    from interp.plot._cells import is_tested

    return stats.summary(result).splitlines() if is_tested(result) else []


def _agreement(estimate: xr.Dataset, exact: xr.Dataset) -> dict[str, Any]:
    """The figures of agreement over all cells, for scripts."""
    from interp import stats

    figures = stats.agreement(estimate, exact).sel(cells="all").drop_dims("k")
    return {str(name): figures[name].values.tolist() for name in figures.data_vars}


def _page(
    estimates: list[xr.Dataset], exact: xr.Dataset | None, path: Path, title: str, level: float
) -> Path:
    """For each method how it compares, then the figures of its result."""
    from interp import plot, report
    from interp.report._figures import figures, heading, metric_names

    items: list[Any] = []
    for estimate in estimates:
        items.append(("heading", f"{estimate.attrs['method']} · {heading(estimate)}"))
        if exact is not None:
            items += [plot.agreement(estimate, exact, metric=name) for name in metric_names(estimate)]
            items.append(report.Comparison(estimate, exact))
        items += [*figures(estimate, level), estimate]
    if exact is not None:
        items += [("heading", f"exact · {heading(exact)}"), *figures(exact, level), exact]
    return report.write(items, path, title=title)


def demo(args: argparse.Namespace, out: Output) -> None:
    """Run both sweeps, write results and report, print their paths; the report's is the last line."""
    import interp
    from interp.cli._files import largest
    from interp.report._figures import write_page
    from interp.report._run import save_result

    require_folder(args.out)
    model = interp.load(MODEL)
    task = interp.tasks.ioi(model, n=args.n, seed=args.seed)
    aligned = interp.tasks.ioi(model, n=args.n, seed=args.seed, template=TEMPLATE)
    out.say(f"{MODEL}: {len(task)} prompts such as {' '.join((task.labels or ((),))[0])}", task.check(model))
    results = []
    for name, site, prompts in (("positions", STREAM, aligned), ("heads", "z", task)):
        out.say(f"\n{name}: {site if isinstance(site, str) else ', '.join(site)}")
        out.say(interp.plan("patch", model, prompts, site))
        results.append(interp.patch(model, prompts, site, progress=bars(args)))
        out.wrote(name, save_result(results[-1], args.out / f"{name}.nc"))
    out.tell(model=MODEL, task=task.name, n_prompts=len(task), top=largest(results[-1]))
    title = f"Indirect objects in {MODEL}"
    out.wrote("report", write_page(results, args.out / "report.html", title, OPENING))
