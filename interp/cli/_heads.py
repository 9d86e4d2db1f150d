"""`interp heads`: what every head looks like on repeated random tokens, and whether a score bears load."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli._inputs import GIB, bars, check_run, clean_name, load, make_task
from interp.cli._output import Output
from interp.cli._summary import repeated
from interp.places import hint

if TYPE_CHECKING:
    import xarray as xr


def heads(args: argparse.Namespace, out: Output) -> None:
    """The scores and the heads that have most of each; with --load-bearing the test; the paths last."""
    from interp import heads as of_heads
    from interp.cli._files import about
    from interp.heads._scores import SCORES
    from interp.report._run import save_result

    folder = args.out or Path("out") / f"{clean_name(Path(args.model).name)}-heads"
    if args.top < 1:
        raise ValueError(f"--top is {args.top}; it must be at least 1.")
    if args.task is not None and args.load_bearing is None:
        raise ValueError("--task says what is damaged by --load-bearing SCORE; give that as well.")
    if args.load_bearing not in (None, *SCORES):
        raise ValueError(
            f"--load-bearing is {args.load_bearing!r}{hint(args.load_bearing, SCORES)} "
            f"Scores: {', '.join(SCORES)}."
        )
    check_run(args, folder)
    if repeated(args, folder, out):
        return
    model = load(args)
    options = {"seed": args.seed, "batch_size": args.batch_size, "progress": bars(args)}
    n = {} if args.n is None else {"n": args.n}
    scores = of_heads.scores(model, lengths=args.lengths, level=args.level, **n, **options)
    leading = {str(score): _leading(scores.sel(score=score), args.top) for score in scores["score"].values}
    out.tell(**about(scores), top=leading)
    for score, rows in leading.items():
        out.say(f"{score.replace('_', ' ')}: " + ", ".join(_told(row) for row in rows))
    test = None if args.load_bearing is None else _test(args, model, scores, out)
    out.wrote("scores", save_result(scores, folder / "scores.nc"))
    if test is not None:
        out.wrote("load_bearing", save_result(test, folder / "load_bearing.nc"))
    out.wrote("report", _page(args, scores, test, folder / "report.html"))


def _leading(scores: xr.Dataset, top: int) -> list[dict[str, Any]]:
    from interp.heads import top as first

    rows = []
    for name in first(scores, top):
        layer, head = map(int, name[1:].split("H"))
        one = scores.sel(layer=layer, head=head)
        ends = {"low": float(one["low"]), "high": float(one["high"])}
        rows.append({"head": name, "score": float(one["value"].mean()), **ends})
    return rows


def _told(row: dict[str, Any]) -> str:
    return f"{row['head']} {row['score']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _test(args: argparse.Namespace, model: Any, scores: xr.Dataset, out: Output) -> xr.Dataset:
    from interp.heads import load_bearing

    task = None if args.task is None else make_task(model, args)
    test = load_bearing(
        model, task, scores, score=args.load_bearing, n=args.top, level=args.level, seed=args.seed,
        batch_size=args.batch_size, memory=int(args.memory * GIB), progress=bars(args),
    )  # fmt: skip
    names = ("difference", "difference_low", "difference_high", "rank", "p")
    facts = {name: float(test[name]) for name in names}
    out.tell(load_bearing={"heads": test.attrs["heads"], "draws": test.attrs["draws"], **facts})
    out.say(
        f"without {test.attrs['heads']}: {facts['difference']:.3g} {test.attrs['unit']} more damage to "
        f"{test.attrs['metric']} on {test.attrs['task']} than without random heads of the same layers "
        f"({facts['difference_low']:.3g} to {facts['difference_high']:.3g}), rank {facts['rank']:.0f} of "
        f"{test.sizes['set']}, p = {facts['p']:.2g}"
    )
    return test


def _page(args: argparse.Namespace, scores: xr.Dataset, test: xr.Dataset | None, path: Path) -> Path:
    from interp import plot
    from interp.report import write

    items: list[Any] = [plot.heads(scores), plot.bars(scores), scores]
    if test is not None:
        named = test.assign_coords(set=test["members"].values).rename(set="cell")
        items += [("heading", f"Without {test.attrs['heads']}"), plot.bars(named)]
    return write(items, path, title=f"Heads of {args.model}")
