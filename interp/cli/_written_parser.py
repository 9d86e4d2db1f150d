"""The arguments of the commands that start from what is written: report, show, status, compare, run."""

from __future__ import annotations

import argparse
from pathlib import Path

from interp.cli._arguments import add_output, nonempty

_RUN_EXAMPLES = """\
a file of jobs:
  [[job]]
  name = "heads"
  run = "patch tiny-ioi --task ioi --site z"

  [[job]]
  name = "circuit"
  run = "circuit tiny-ioi --task ioi --method acdc --threshold 0.01"

Each job writes into a folder of its name, with log.txt. Finished jobs are skipped; a job that fails does not
stop the others. Exit status: 0, 1 when a job failed, 2 when the file is wrong (then nothing is run).
"""


def add_written(commands: argparse._SubParsersAction) -> None:
    """These commands."""
    for add in (_add_report, _add_show, _add_status, _add_compare, _add_run):
        add(commands)


def _add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="one self-contained HTML page from results")
    report.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="results (.nc), circuits (.json), or folders that the commands wrote",
    )
    report.add_argument(
        "--out",
        type=nonempty,
        default=Path("out/report.html"),
        help="page to write (default out/report.html)",
    )
    report.add_argument("--title", help="of the page (default: Results)")
    add_output(report)


def _add_show(commands: argparse._SubParsersAction) -> None:
    show = commands.add_parser("show", help="what a result, circuit, direction or folder holds")
    show.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="files and folders that a command wrote"
    )
    show.add_argument("--top", type=int, default=10, help="largest cells that are listed (default 10)")
    show.add_argument("--level", type=float, default=0.95, help="of the intervals (default 0.95)")
    add_output(show)


def _add_status(commands: argparse._SubParsersAction) -> None:
    status = commands.add_parser("status", help="how far the store of a run has come, and who writes it")
    status.add_argument(
        "stores", nargs="+", type=Path, metavar="STORE", help="what store= or --store named (run.zarr)"
    )
    add_output(status)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    text = "two results of the same cells, or two circuits: how far they agree, and where they differ most"
    compare = commands.add_parser("compare", help=text)
    compare.add_argument("a", type=Path, metavar="A", help="a result (.nc) or a circuit (.json)")
    compare.add_argument("b", type=Path, metavar="B", help="another one; of results, the exact one")
    compare.add_argument("--top", type=int, default=10, help="largest differences listed (default 10)")
    compare.add_argument("--out", type=nonempty, metavar="FILE", help="page to write (.html; default: none)")
    add_output(compare)


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run", help="the commands of a file, one after the other, in one process", epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    run.add_argument("jobs", type=Path, metavar="FILE", help="a .toml file of jobs")
    run.add_argument(
        "--out", type=nonempty, default=Path("out"), help="folder of the jobs' folders (default out)"
    )
    run.add_argument("--again", action="store_true", help="do jobs that are finished once more")
    add_output(run)
