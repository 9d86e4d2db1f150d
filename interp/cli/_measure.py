"""`interp patch`, `interp attribute`, `interp demo`: effects, exact or estimated, and their pages."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from interp.cli._inputs import default_name, make_task, sweep_options
from interp.methods import IG, Method, parse


def patch(args: argparse.Namespace) -> None:
    """The work of `interp patch`; results last, so that their paths are easy to find."""
    import interp
    from interp.cli._files import save, write_page

    model = interp.load(args.model, device=args.device)
    task = make_task(model, args)
    options = {**sweep_options(args), "window": args.window, "engine": args.engine}
    print(f"{len(task)} prompts of {task.clean.shape[1]} tokens, task {task.name}")
    print(interp.plan(model, task, **options))
    if args.plan:
        return
    print("; ".join(str(task.check(model)).splitlines()[:2]))  # its notes come as warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)  # the check has warned of it
        result = interp.patch(model, task, store=args.store, **options)
    folder = args.out or Path("out") / default_name(args)
    print(save(result, folder / "result.nc"))
    print(write_page([result], folder / "report.html", f"{args.model}, {task.name}"))


def attribute(args: argparse.Namespace) -> None:
    """One result a method, and one page; the paths last."""
    import interp
    from interp.cli._files import save

    model = interp.load(args.model, device=args.device)
    task = make_task(model, args)
    options = sweep_options(args)
    folder = args.out or Path("out") / f"{default_name(args)}-{'_'.join(args.method).replace('*', 'star')}"
    print(f"{len(task)} prompts of {task.clean.shape[1]} tokens, task {task.name}")
    with warnings.catch_warnings():
        found = []
        for method in args.method:
            found.append(interp.attribute(model, task, method=_method(args, method), **options))
            warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)  # once is enough
        exact = interp.patch(model, task, **options) if args.compare else None
    for method, estimate in zip(args.method, found):
        print(save(estimate, folder / f"{method.replace('*', 'star')}.nc"))
    if exact is not None:
        print(save(exact, folder / "exact.nc"))
    print(_page(found, exact, folder / "report.html", f"{args.model}, {task.name}"))


def _method(args: argparse.Namespace, name: str) -> Method:
    """The method of a name; --steps and --rule are those of integrated gradients."""
    given = {"steps": args.steps, "rule": args.rule}
    options = {option: value for option, value in given.items() if value is not None}
    chosen = parse(name)
    return replace(chosen, **options) if isinstance(chosen, IG) else chosen


def _page(found: list[xr.Dataset], exact: xr.Dataset | None, path: Path, title: str) -> Path:
    """For each method how it compares, then the figures of its result."""
    from interp import plot, report
    from interp.cli._files import figures, heading, metric_names

    items: list[Any] = []
    for estimate in found:
        items.append(("heading", f"{estimate.attrs['method']} · {heading(estimate)}"))
        if exact is not None:
            items += [plot.agreement(estimate, exact, metric=name) for name in metric_names(estimate)]
            items.append(report.Comparison(estimate, exact))
        items += [*figures(estimate), estimate]
    if exact is not None:
        items += [("heading", f"exact · {heading(exact)}"), *figures(exact), exact]
    return report.write(items, path, title=title)


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


def demo(args: argparse.Namespace) -> None:
    """Run both sweeps, write results and report, print their paths; the report's is the last line."""
    import interp
    from interp.cli._files import save, write_page

    model = interp.load(MODEL)
    task = interp.tasks.ioi(model, n=args.n, seed=args.seed)
    aligned = interp.tasks.ioi(model, n=args.n, seed=args.seed, template=TEMPLATE)
    print(f"{MODEL}: {len(task)} prompts such as", *(task.labels or ((),))[0])
    print(task.check(model))
    results = []
    for name, site, prompts in (("positions", STREAM, aligned), ("heads", "z", task)):
        print(f"\n{name}: {site if isinstance(site, str) else ', '.join(site)}")
        print(interp.plan(model, prompts, site))
        results.append(interp.patch(model, prompts, site))
        print(save(results[-1], args.out / f"{name}.nc"))
    print(write_page(results, args.out / "report.html", f"Indirect objects in {MODEL}", OPENING))
