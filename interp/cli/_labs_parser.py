"""The arguments of `interp labs` and its commands. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from interp.cli._arguments import add_output, name_list, nonempty

_EXAMPLES = """\
examples:
  interp labs list
  interp labs copy class
  interp labs copy class/mary --seed 17 --lab 1,4
  interp labs copy teacher --teacher
  interp labs check class/mary/lab01_patching.ipynb
  interp labs grade class
  interp labs bundle laptops --platform win_amd64 --python 3.12
  interp labs doctor
"""


def add_labs(commands: argparse._SubParsersAction) -> None:
    """`interp labs list | copy | check | grade | bundle | doctor`."""
    labs = commands.add_parser(
        "labs",
        help="teaching labs: copies for students and teachers, and their checks",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = labs.add_subparsers(dest="of_labs", metavar="VERB", required=True)
    verbs.add_parser("list", help="every lab with its question and exercises")
    _add_copy(verbs)
    check = verbs.add_parser("check", help="run one copy and say what each check says")
    check.add_argument("file", type=Path, metavar="FILE", help="a copy, .ipynb or .py; its code is run")
    _add_grade(verbs)
    _add_bundle(verbs)
    doctor = verbs.add_parser("doctor", help="is this computer ready for the labs? one line a thing")
    doctor.add_argument(
        "--no-picture", action="store_true", help="leave out the first picture, which takes time"
    )
    for verb in verbs.choices.values():
        add_output(verb)


def _add_copy(verbs: argparse._SubParsersAction) -> None:
    copy = verbs.add_parser("copy", help="copies for students, without solutions, or for teachers")
    copy.add_argument("folder", type=nonempty, metavar="DIR", help="folder to write")
    copy.add_argument("--lab", type=name_list, metavar="N[,N]", help="labs by number or name (default: all)")
    copy.add_argument(
        "--teacher", action="store_true", help="with solutions, answers, minutes, common mistakes"
    )
    copy.add_argument(
        "--research", action="store_true", help="the research notebooks instead, as the start of a project"
    )
    copy.add_argument("--seed", type=int, default=0, help="the student's own task (default 0)")
    copy.add_argument(
        "--form", choices=("ipynb", "py"), default="ipynb", help="ipynb (default) or plain Python"
    )
    copy.add_argument("--overwrite", action="store_true", help="write over copies that are there")


def _add_grade(verbs: argparse._SubParsersAction) -> None:
    grade = verbs.add_parser("grade", help="run every copy in a folder, and write a table: grades.csv, .html")
    grade.add_argument("folder", type=Path, metavar="DIR", help="copies, here or in folders below")
    grade.add_argument(
        "--seconds", type=float, default=180.0, help="processor time of one copy (default 180)"
    )
    grade.add_argument("--memory", type=float, default=4.0, metavar="GIB", help="GiB of one copy (default 4)")
    grade.add_argument(
        "--at-once", type=int, metavar="N", help="copies at once (default: one a core and 2 GiB free)"
    )
    grade.add_argument("--out", type=nonempty, help="folder to write (default: DIR)")


def _add_bundle(verbs: argparse._SubParsersAction) -> None:
    bundle = verbs.add_parser(
        "bundle", help="one folder with wheels, labs and install scripts, for no network"
    )
    bundle.add_argument("folder", type=nonempty, metavar="DIR", help="new folder to write")
    bundle.add_argument(
        "--platform", metavar="NAME", help="of the laptops: win_amd64, macosx_11_0_arm64, ..."
    )
    bundle.add_argument("--python", metavar="3.X", help="of the laptops (default: this one's)")
    bundle.add_argument(
        "--model", type=name_list, metavar="NAME", help="real models that are here: smollm2-135m"
    )
    bundle.add_argument(
        "--index",
        metavar="URL",
        help="of torch's CPU builds (default: PyTorch's own; '' for pip's indexes alone)",
    )
    bundle.add_argument("--source", type=Path, help="checkout or wheel of interp (default: this checkout)")
