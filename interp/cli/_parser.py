"""The arguments of every command. Nothing heavy is imported here, so that `interp --help` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from interp import __version__
from interp.cli._arguments import (
    add_contrast,
    add_direction,
    add_how,
    add_output,
    add_prompts,
    add_task,
    add_what,
    cell_list,
    name_list,
    nonempty,
    number_list,
    position_list,
)
from interp.cli._labs_parser import add_labs
from interp.cli._written_parser import add_written
from interp.cli.steer._parser import add_steer
from interp.methods import RULES, names

_DESCRIPTION = "Exact activation patching on TransformerLens models, estimates of it, circuits, and steering."
_HEADS_EXAMPLES = """\
examples:
  interp heads tiny-ioi
  interp heads tiny-ioi --load-bearing induction --top 2
  interp heads tiny-ioi --load-bearing previous_token --task ioi
"""
_PATCH_EXAMPLES = """\
examples:
  interp patch tiny-ioi --task ioi --site z
  interp patch tiny-ioi --task ioi --site resid_pre,attn_out,mlp_out --direction noise
  interp patch gpt2 --task ioi --site z --by layer,pos,head --store run.zarr
  interp patch tiny-ioi --task ioi --cells L1H0,L2H3.q,L0H1+L0H2
  interp patch gpt2 --task ioi --site z --by layer,pos,head --store run.zarr --workers 4
"""
_PATH_EXAMPLES = """\
examples:
  interp path tiny-ioi --task ioi --receivers L2H3.q,L2H3.k,L2H3.v
  interp path tiny-ioi --task ioi --receivers out/heads/result.nc --top 2
  interp path tiny-world --task agreement --senders all --receivers logits --freeze all --direction noise
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
  interp circuit gpt2 --task ioi --method acdc --threshold 0.05 --n 10 --metric kl,logit_diff
"""
_EXPLORE_EXAMPLES = """\
examples:
  interp explore tiny-ioi --task ioi
  interp explore tiny-ioi out/heads/result.nc --task ioi --out page.html
"""
_SERVE_EXAMPLES = """\
examples:
  interp serve tiny-ioi --task ioi
  interp serve tiny-ioi out/heads/result.nc out/circuit/circuit.json --task ioi --port 8123
"""
_MODEL = "bundled model, TransformerLens name (gpt2), folder, or GGUF file"


class Parser(argparse.ArgumentParser):
    """A parser that says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"interp: error: {message} ({self.prog} --help says more)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of `interp`; the chosen command is in `command`."""
    parser = Parser(prog="interp", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"interp {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    models = commands.add_parser("models", help="list the models and how to name others, or get one")
    models.add_argument("get", nargs="*", metavar="get NAME", help="fetch a real model, once: smollm2-135m")
    add_output(models)
    text = "list the task families, and the form of a file of prompts"
    add_output(commands.add_parser("tasks", help=text))
    _add_heads(commands)
    _add_patch(commands)
    _add_path(commands)
    _add_attribute(commands)
    _add_circuit(commands)
    _add_plan(commands)
    add_steer(commands)
    add_labs(commands)
    _add_explore(commands)
    add_written(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="the main job on the bundled model, as a report")
    demo.add_argument("--n", type=int, default=64, help="prompts (default 64)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--out", type=nonempty, default=Path("out/demo"), help="folder to write (default out/demo)"
    )
    add_output(demo)


def _add_verb(commands: argparse._SubParsersAction, name: str, text: str, epilog: str) -> Parser:
    """A verb that measures a model."""
    verb = commands.add_parser(
        name, help=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_argument("model", help=_MODEL)
    return verb


def _add_heads(commands: argparse._SubParsersAction) -> None:
    text = "what each head looks like on repeated random tokens, and whether a score bears load"
    heads = _add_verb(commands, "heads", text, _HEADS_EXAMPLES)
    what, how = heads.add_argument_group("what to measure"), heads.add_argument_group("how to run")
    what.add_argument(
        "--lengths",
        type=number_list,
        metavar="R[,R]",
        help="tokens that are repeated (default: two that fit)",
    )
    what.add_argument(
        "--load-bearing", metavar="SCORE", help="ablate its top heads against random heads of their layers"
    )
    what.add_argument("--top", type=int, default=4, help="heads that are listed, or ablated (default 4)")
    add_task(what, required=False)
    add_prompts(what)
    add_how(how)
    add_output(heads)


def _add_patch(commands: argparse._SubParsersAction) -> None:
    text = "exact activation patching of a grid or of a list of cells"
    patch = _add_verb(commands, "patch", text, _PATCH_EXAMPLES)
    what, how = patch.add_argument_group("what to measure"), patch.add_argument_group("how to run")
    add_what(what)
    what.add_argument("--window", type=int, default=1, help="layers patched at once (default 1)")
    add_how(how)
    how.add_argument("--engine", default="auto", metavar="NAME", help="auto (default), fast, reference")
    how.add_argument("--precision", metavar="NAME", help="of products: bfloat16, or tf32 on a GPU")
    how.add_argument(
        "--store", type=nonempty, help="zarr folder written during the run; the same command resumes"
    )
    others = how.add_mutually_exclusive_group()
    others.add_argument("--workers", type=int, metavar="N", help="share the work among N processes")
    others.add_argument(
        "--scheduler", metavar="ADDRESS", help="share it among a Dask cluster: tcp://host:8786"
    )
    how.add_argument("--plan", action="store_true", help="print what the run would cost, and stop")
    add_output(patch)


def _add_path(commands: argparse._SubParsersAction) -> None:
    text = "exact path patching: what of each sender goes by way of each receiver"
    path = _add_verb(commands, "path", text, _PATH_EXAMPLES)
    what, how = path.add_argument_group("what to measure"), path.add_argument_group("how to run")
    what.add_argument(
        "--senders",
        type=cell_list,
        default=["heads"],
        metavar="NAME[,NAME]",
        help="heads (default), mlps, all, or places: L0H1,MLP0,embed; A+B are patched together",
    )
    what.add_argument(
        "--receivers",
        type=cell_list,
        default=["logits"],
        metavar="NAME[,NAME]|FILE",
        help="inputs: logits (default), L2H3.q, L2H3, MLP1; A+B are received together; or a result (.nc), "
        "whose largest cells are meant",
    )
    what.add_argument("--top", type=int, default=3, help="cells of a result that receive (default 3)")
    what.add_argument(
        "--freeze",
        type=name_list,
        default=["heads"],
        metavar="NAME[,NAME]",
        help="heads (default), all, mlps, none, or places",
    )
    what.add_argument("--norm", default="exact", help="exact (default), or frozen: an approximation")
    what.add_argument("--combine", default="replace", help="several receivers: replace (default) or add")
    for end in ("sender", "receiver"):
        what.add_argument(
            f"--{end}-positions", type=position_list, default="all", metavar="POS[,POS]",
            help="all (default), last, or positions counted from 0 (-1: the last)",
        )  # fmt: skip
    add_task(what)
    add_direction(what)
    add_contrast(what)
    add_prompts(what)
    add_how(how)
    how.add_argument("--engine", default="auto", metavar="NAME", help="auto (default), fast, reference")
    add_output(path)


def _add_attribute(commands: argparse._SubParsersAction) -> None:
    text = "estimate every cell from a few passes, and compare the estimate with exact patching"
    attribute = _add_verb(commands, "attribute", text, _ATTRIBUTE_EXAMPLES)
    what = attribute.add_argument_group("what to measure")
    what.add_argument(
        "--method",
        type=name_list,
        default=["relp"],
        metavar="NAME[,NAME]",
        help=f"{', '.join(names('cells'))} (default relp); several are compared",
    )
    what.add_argument("--compare", choices=("exact",), help="patch exactly too, and show how they agree")
    what.add_argument("--steps", type=int, metavar="M", help="ig: points on the path (default 8)")
    what.add_argument("--rule", choices=RULES, help="ig: where the points lie")
    add_what(what)
    add_how(attribute.add_argument_group("how to run"))
    add_output(attribute)


def _add_circuit(commands: argparse._SubParsersAction) -> None:
    text = "find a circuit, measure how faithful it is on other prompts, and draw it"
    circuit = _add_verb(commands, "circuit", text, _CIRCUIT_EXAMPLES)
    what, how = circuit.add_argument_group("what to find"), circuit.add_argument_group("how to run")
    what.add_argument("--method", choices=("acdc", *names("edges")), default="eap-ig", help="default eap-ig")
    what.add_argument("--edges", type=int, metavar="N", help="keep the N best edges (not for acdc)")
    what.add_argument(
        "--threshold", type=float, help="acdc: what an edge must be worth; others: the least score"
    )
    what.add_argument(
        "--absolute",
        action=argparse.BooleanOptionalAction,
        help="count edges that hurt like edges that help (default: no for acdc, yes for scores)",
    )
    add_contrast(what, "the task's own, and for the search of acdc kl; the first one decides")
    what.add_argument(
        "--measures",
        type=name_list,
        default=["faithfulness", "kl"],
        metavar="NAME[,NAME]",
        help="of the circuit: faithfulness, kl, completeness, minimality (default the first two; the others "
        "take a run for each of its nodes)",
    )
    other = what.add_mutually_exclusive_group()
    other.add_argument(
        "--eval", type=nonempty, metavar="FILE", help="other prompts, on which the circuit is measured"
    )
    other.add_argument(
        "--split",
        type=float,
        metavar="SHARE",
        help="search on this share of the prompts, measure on the rest",
    )
    add_task(what)
    add_prompts(what)
    add_how(how)
    add_output(circuit)


def _add_plan(commands: argparse._SubParsersAction) -> None:
    text = "what a verb would cost: passes, FLOPs, memory, seconds; of llama-3-8b and others without weights"
    plan = commands.add_parser("plan", help=text, description=text)
    plan.add_argument(
        "of", metavar="VERB", help="patch, attribute, score_edges, exact, acdc, run, sweep, ..."
    )
    plan.add_argument("model", help="a shape (gpt2, llama-3-8b, llama-3-70b), or a model, which is loaded")
    plan.add_argument("--n", type=int, default=64, help="prompts (default 64)")
    plan.add_argument("--tokens", type=int, default=20, help="of a prompt (default 20)")
    plan.add_argument("--first", type=int, default=0, help="the first token that differs (default 0)")
    plan.add_argument("--site", type=name_list, metavar="SITE[,SITE]", help="patch, attribute: default z")
    plan.add_argument("--by", type=name_list, metavar="DIM[,DIM]", help="patch: dims of the grid")
    plan.add_argument("--method", help="attribute, score_edges: of estimation")
    plan.add_argument(
        "--runs", type=int, default=1, help="run, sweep, ...: how many, see interp.plan (default 1)"
    )
    plan.add_argument("--memory", type=float, default=2.0, metavar="GIB", help="default 2")
    plan.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    add_output(plan)


def _add_explore(commands: argparse._SubParsersAction) -> None:
    text = "one HTML page that answers clicks: from a head to its attention, its positions, its tokens"
    explore = _add_live(commands, "explore", text, _EXPLORE_EXAMPLES)
    text = "the same page on this machine with the model behind it: new prompts, exact effects, sets of edges"
    serve = _add_live(commands, "serve", text, _SERVE_EXAMPLES)
    serve.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: any that is free)")
    for each in (explore, serve):
        add_output(each)


def _add_live(commands: argparse._SubParsersAction, name: str, text: str, epilog: str) -> Parser:
    live = _add_verb(commands, name, text, epilog)
    what, how = live.add_argument_group("what to show"), live.add_argument_group("how to run")
    what.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="results (.nc) and circuits (.json) of other commands; none: heads and stream are patched",
    )
    what.add_argument("--title", help="of the page (default: model and task)")
    what.add_argument("--prompts", type=int, metavar="N", help="with their attention (default: what fits)")
    add_task(what)
    add_contrast(what)
    add_prompts(what)
    add_how(how, "page to write (default: below out, by model and task)" if name == "explore" else None)
    return live
