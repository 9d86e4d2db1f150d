"""The arguments of every command. Nothing heavy is imported here, so that `interp --help` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from interp import __version__, methods
from interp.cli.steer._parser import add_steer

_DESCRIPTION = "Exact activation patching on TransformerLens models, estimates of it, circuits, and steering."
_PATCH_EXAMPLES = """\
examples:
  interp patch tiny-ioi --task ioi --site z
  interp patch tiny-ioi --task ioi --site resid_pre,attn_out,mlp_out --direction noise
  interp patch gpt2 --task ioi --site z --by layer,pos,head --store run.zarr
  interp patch tiny-ioi --task ioi --cells L1H0,L2H3.q,L0H1+L0H2
"""
_ATTRIBUTE_EXAMPLES = """\
examples:
  interp attribute tiny-ioi --task ioi --site z --compare exact
  interp attribute tiny-world --task agreement --site mlp_out --method atp,relp,secant --compare exact
"""
_CIRCUIT_EXAMPLES = """\
examples:
  interp circuit tiny-ioi --task ioi --method eap-ig --edges 30
  interp circuit tiny-ioi --task ioi --method acdc --threshold 0.01
  interp circuit gpt2 --task ioi --method acdc --threshold 0.05 --n 10 --out out/ioi --resume
"""
_EDGE_METHODS = ("acdc", *methods.names("edges"))


def make_parser() -> argparse.ArgumentParser:
    """The parser of `interp`; the chosen command is in `command`."""
    parser = argparse.ArgumentParser(prog="interp", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"interp {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    commands.add_parser("models", help="list the bundled models, and how to name others")
    commands.add_parser("tasks", help="list the task families, and the form of a file of prompts")
    _add_patch(commands)
    _add_attribute(commands)
    _add_circuit(commands)
    add_steer(commands)
    _add_report(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="the main job on the bundled model, as a report")
    demo.add_argument("--n", type=int, default=64, help="prompts (default 64)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write (default out/demo)")


def _add_patch(commands: argparse._SubParsersAction) -> None:
    patch = commands.add_parser(
        "patch",
        help="exact activation patching of a grid or of a list of cells",
        epilog=_PATCH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    patch.add_argument("model", help="bundled model, TransformerLens name (gpt2), or folder")
    what, how = patch.add_argument_group("what to measure"), patch.add_argument_group("how to run")
    _add_what(what)
    what.add_argument("--window", type=int, default=1, help="layers patched at once (default 1)")
    _add_how(how)
    how.add_argument("--engine", default="auto", metavar="NAME", help="auto (default), fast, reference")
    how.add_argument(
        "--store", type=Path, help="zarr folder written during the run; the same command resumes"
    )
    how.add_argument("--plan", action="store_true", help="print what the run would cost, and stop")


def _add_attribute(commands: argparse._SubParsersAction) -> None:
    attribute = commands.add_parser(
        "attribute",
        help="estimate every cell from a few passes, and compare the estimate with exact patching",
        epilog=_ATTRIBUTE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    attribute.add_argument("model", help="bundled model, TransformerLens name (gpt2), or folder")
    what = attribute.add_argument_group("what to measure")
    what.add_argument(
        "--method",
        type=_names,
        default=["relp"],
        metavar="NAME[,NAME]",
        help=f"{', '.join(methods.names())}; relp by default; several are compared",
    )
    what.add_argument("--compare", choices=("exact",), help="patch exactly too, and show how they agree")
    what.add_argument("--steps", type=int, metavar="M", help="ig: points on the path (default 8)")
    what.add_argument("--rule", choices=methods.RULES, help="ig: where the points lie")
    _add_what(what)
    _add_how(attribute.add_argument_group("how to run"))


def _add_circuit(commands: argparse._SubParsersAction) -> None:
    circuit = commands.add_parser(
        "circuit",
        help="find a circuit, measure how faithful it is on other prompts, and draw it",
        epilog=_CIRCUIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    circuit.add_argument("model", help="bundled model, TransformerLens name (gpt2), or folder")
    what, how = circuit.add_argument_group("what to find"), circuit.add_argument_group("how to run")
    what.add_argument("--method", choices=_EDGE_METHODS, default="eap-ig", help="default eap-ig")
    what.add_argument("--edges", type=int, metavar="N", help="keep the N best edges (not for acdc)")
    what.add_argument(
        "--threshold", type=float, help="acdc: what an edge must be worth; others: the least score"
    )
    what.add_argument(
        "--absolute",
        action=argparse.BooleanOptionalAction,
        help="count edges that hurt like edges that help (default: no for acdc, yes for scores)",
    )
    what.add_argument(
        "--ablation", choices=("resample", "zero", "mean"), default="resample", help="default resample"
    )
    what.add_argument("--metric", metavar="NAME", help="default: the task's own; for the search of acdc, kl")
    _add_task(what)
    _add_prompts(what)
    how.add_argument("--resume", action="store_true", help="acdc: go on with the run in the folder")
    _add_memory(how)
    how.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    how.add_argument("--out", type=Path, help="folder to write (default: below out, by model and task)")


def _add_task(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--task",
        required=True,
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


def _add_what(group: argparse._ArgumentGroup) -> None:
    _add_task(group)
    group.add_argument(
        "--site",
        type=_names,
        metavar="SITE[,SITE]",
        help="resid_pre, z, ...; several of the same axes give one panel each",
    )
    group.add_argument("--by", type=_names, metavar="DIM[,DIM]", help="dims of the grid, such as layer,head")
    group.add_argument(
        "--cells",
        type=_cells,
        metavar="CELL[,CELL]",
        help="instead of a grid, cells by name; A+B patches both together",
    )
    group.add_argument(
        "--direction",
        choices=("denoise", "noise"),
        help="denoise: clean into corrupt (default); noise: corrupt into clean",
    )
    group.add_argument(
        "--metric",
        type=_names,
        metavar="NAME[,NAME]",
        help="logit_diff, prob, prob_diff, log_prob, kl, rank, loss (default: the task's own)",
    )
    group.add_argument(
        "--ablation", default="resample", metavar="NAME", help="resample (default), gaussian, zero, mean"
    )
    _add_prompts(group)


def _add_prompts(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--n", type=int, help="prompts (default 64; a file: all)")
    group.add_argument("--seed", type=int, default=0, help="of the prompts that are drawn (default 0)")


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=int, metavar="RUNS", help="runs at once (default: what fits)")
    _add_memory(group)
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    group.add_argument(
        "--out", type=Path, help="folder to write (default: below out, by model, task and site)"
    )


def _add_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--memory", type=float, default=2.0, metavar="GIB", help="GiB above the model's own (default 2)"
    )


def _add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="one self-contained HTML page from results")
    report.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULT.nc",
        help="files that interp patch or attribute wrote",
    )
    report.add_argument(
        "--out", type=Path, default=Path("out/report.html"), help="page to write (default out/report.html)"
    )
    report.add_argument("--title", default="Activation patching")


def _names(text: str) -> list[str]:
    """`a,b` as a list; blanks around the names do not count."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _option(text: str) -> tuple[str, str | int | bool]:
    """`name=value`; numbers, `true` and `false` as such."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    named = {"true": True, "false": False}
    return name, int(value) if value.lstrip("-").isdigit() else named.get(value, value)


def _cells(text: str) -> list[str | list[str]]:
    """`A,B+C` as [A, [B, C]]."""
    entries = [[part.strip() for part in entry.split("+")] for entry in _names(text)]
    return [entry[0] if len(entry) == 1 else entry for entry in entries]
