"""Arguments that several commands share, and the values that they are read as."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_output(parser: argparse.ArgumentParser) -> None:
    """What every verb takes."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, everything else on error"
    )
    group.add_argument("--quiet", action="store_true", help="say only paths, warnings and errors; no bars")
    group.add_argument("--log", type=nonempty, metavar="FILE", help="add all that is said to a file as well")


def add_contrast(group: argparse._ArgumentGroup, default: str = "the task's own") -> None:
    """What stands in, and what is measured."""
    group.add_argument(
        "--metric",
        type=name_list,
        metavar="NAME[,NAME]",
        help=f"logit_diff, prob, prob_diff, log_prob, kl, rank, loss, in_context_loss (default: {default})",
    )
    group.add_argument(
        "--ablation", default="resample", metavar="NAME", help="resample (default), gaussian, zero, mean"
    )


def add_task(group: argparse._ArgumentGroup, required: bool = True) -> None:
    """Which prompts: a family with its options, or a file."""
    group.add_argument(
        "--task",
        required=required,
        metavar="NAME|FILE",
        help="a task family (interp tasks lists them), or a file of prompts (.jsonl, .csv)",
    )
    group.add_argument(
        "--template",
        type=int,
        metavar="N",
        help="all prompts from one template, so that positions line up (for sweeps by position)",
    )
    group.add_argument(
        "--option",
        type=_option,
        action="append",
        metavar="NAME=VALUE",
        help="an option of the task family, such as relation=two_hop for facts; may be given several times",
    )


def add_what(group: argparse._ArgumentGroup) -> None:
    """Which cells of which task, and by what contrast."""
    add_task(group)
    group.add_argument(
        "--site",
        type=name_list,
        metavar="SITE[,SITE]",
        help="resid_pre, z, ...; several of the same axes give one panel each",
    )
    group.add_argument(
        "--by", type=name_list, metavar="DIM[,DIM]", help="dims of the grid, such as layer,head or layer,span"
    )
    group.add_argument(
        "--cells",
        type=cell_list,
        metavar="CELL[,CELL]",
        help="instead of a grid, cells by name; A+B patches both together",
    )
    add_direction(group)
    add_contrast(group)
    add_prompts(group)


def add_direction(group: argparse._ArgumentGroup) -> None:
    """Which prompt goes into which."""
    group.add_argument(
        "--direction",
        choices=("denoise", "noise"),
        help="denoise: clean into corrupt (default); noise: corrupt into clean",
    )


def add_prompts(group: argparse._ArgumentGroup) -> None:
    """How many prompts, and their seed."""
    group.add_argument("--n", type=int, help="prompts (default 64; a file: all)")
    group.add_argument("--seed", type=int, default=0, help="of the prompts that are drawn (default 0)")


def add_how(
    group: argparse._ArgumentGroup,
    out: str | None = "folder to write (default: below out, by model, task and site)",
) -> None:
    """What changes no number. out: what --out is; None for a command that writes nothing."""
    group.add_argument("--batch-size", type=int, metavar="RUNS", help="runs at once (default: what fits)")
    group.add_argument(
        "--memory", type=float, default=2.0, metavar="GIB", help="GiB above the model's own (default 2)"
    )
    group.add_argument(
        "--level", type=float, default=0.95, help="of the intervals that are shown (default 0.95)"
    )
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    if out is None:
        return
    group.add_argument("--out", type=nonempty, help=out)
    group.add_argument(
        "--resume", action="store_true", help="do nothing where this very run is finished in its folder"
    )


def nonempty(text: str) -> Path:
    """A path; the empty text is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def name_list(text: str) -> list[str]:
    """`a,b` as a list; blanks around the names do not count."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; give one, or several as in a,b")
    return names


def number_list(text: str) -> list[int]:
    """`20,41` as whole numbers."""
    try:
        return [int(each) for each in name_list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers") from None


def _option(text: str) -> tuple[str, str | int | bool]:
    """`name=value`; numbers, `true` and `false` as such."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    named = {"true": True, "false": False}
    return name, int(value) if value.lstrip("-").isdigit() else named.get(value, value)


def position_list(text: str) -> str | list[int]:
    """`3,-1` as numbers; a name as it is."""
    parts = name_list(text)
    if parts and all(part.lstrip("-").isdigit() for part in parts):
        return [int(part) for part in parts]
    return text


def cell_list(text: str) -> list[str | list[str]]:
    """`A,B+C` as [A, [B, C]]."""
    entries = [[part.strip() for part in entry.split("+")] for entry in name_list(text)]
    return [entry[0] if len(entry) == 1 else entry for entry in entries]
