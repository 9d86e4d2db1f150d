"""`interp attribute`: estimate the effect of every cell, and say how good the estimate is."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import xarray as xr

from interp.cli.measured import default_name, make_task, sweep_options


def run(args: argparse.Namespace) -> None:
    """One result a method, and one page; the paths last."""
    import interp
    from interp.cli.files import save

    model = interp.load(args.model, device=args.device)
    task = make_task(model, args)
    options = sweep_options(args)
    folder = args.out or Path("out") / f"{default_name(args)}-{'_'.join(args.method).replace('*', 'star')}"
    print(f"{len(task)} prompts of {task.clean.shape[1]} tokens, task {task.name}")
    with warnings.catch_warnings():
        found = []
        for method in args.method:
            found.append(interp.attribute(model, task, method=method, **_steps(args, method), **options))
            warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)  # once is enough
        exact = interp.patch(model, task, **options) if args.compare else None
    for method, estimate in zip(args.method, found):
        print(save(estimate, folder / f"{method.replace('*', 'star')}.nc"))
    if exact is not None:
        print(save(exact, folder / "exact.nc"))
    print(_page(found, exact, folder / "report.html", f"{args.model}, {task.name}"))


def _steps(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """The options of integrated gradients, for it alone."""
    given = {"steps": args.steps, "rule": args.rule}
    return {name: value for name, value in given.items() if value is not None and method == "ig"}


def _page(found: list[xr.Dataset], exact: xr.Dataset | None, path: Path, title: str) -> Path:
    """For each method how it compares, then the figures of its result."""
    from interp import plot, report
    from interp.cli.pictures import figures, heading, metric_names

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
