"""`interp patch`: print the plan, patch, write the result and its report."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from interp.cli.measured import default_name, make_task, sweep_options


def run(args: argparse.Namespace) -> None:
    """The work of `interp patch`; results last, so that their paths are easy to find."""
    import interp
    from interp.cli.files import save, write_page

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
