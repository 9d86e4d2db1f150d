"""The arguments of `interp steer` and its subcommands. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from interp.cli._arguments import add_output, name_list, nonempty

_EXAMPLES = """\
examples:
  interp steer fit tiny-world --task sentiment --out out/sentiment
  interp steer fit gpt2 --positive love.txt --negative hate.txt --layer 6
  interp steer sweep tiny-world out/sentiment/direction.safetensors --task sentiment
  interp steer generate tiny-world out/sentiment/direction.safetensors --task sentiment --layer 2 --kl 0.3
  interp steer calibrate tiny-world out/sentiment/direction.safetensors --task sentiment --kl 0.2
  interp steer bake tiny-world out/sentiment/direction.safetensors --layer 2 --coefficient 1
chat models:
  interp steer fit smollm2-135m --positive formal.jsonl --negative casual.jsonl --pos response --layer 15
  interp steer fit smollm2-135m --system "Be formal." --against "Be casual." --prompts asked.txt --layer 15
  interp steer chat smollm2-135m out/formal/direction.safetensors --coefficient 1
"""
_METHODS = ("mean_difference", "pca", "lda", "logistic")
_FORMATS = ("own", "hub")
_WHEN = ("everywhere", "prompt_only", "generated")
FAMILIES = ("sentiment", "requests", "register", "languages", "pronouns")
_COEFFICIENTS = "-1,-0.5,0,0.5,1,1.5,2,3"


def add_steer(commands: argparse._SubParsersAction) -> None:
    """`interp steer fit | sweep | generate | chat | calibrate | bake`."""
    steer = commands.add_parser(
        "steer",
        help="find a direction, measure what it does and breaks, write with it, fold it into the weights",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = steer.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_fit(verbs)
    _add_sweep(verbs)
    _add_generate(verbs)
    _add_chat(verbs)
    _add_calibrate(verbs)
    _add_bake(verbs)
    for verb in verbs.choices.values():
        add_output(verb)


def _add_fit(verbs: argparse._SubParsersAction) -> None:
    fit = verbs.add_parser("fit", help="a direction from two classes of prompts, as a file")
    _add_model(fit)
    fit.add_argument("--task", metavar="NAME", help=f"a family with two classes: {', '.join(FAMILIES)}")
    for side in ("positive", "negative"):
        fit.add_argument(
            f"--{side}", type=Path, metavar="FILE", help=f"{side} prompts: one a line, or chats (.jsonl)"
        )
    fit.add_argument(
        "--system", metavar="TEXT", help="of a chat model: the system prompt of the positive class"
    )
    fit.add_argument(
        "--against", metavar="TEXT", help="and that of the negative class, on the same --prompts"
    )
    fit.add_argument("--prompts", type=Path, metavar="FILE", help="what the user says under both, one a line")
    fit.add_argument("--method", choices=_METHODS, default="mean_difference", help="default mean_difference")
    fit.add_argument("--site", default="resid_pre", help="resid_pre (default), attn_out, z, ...")
    fit.add_argument("--layer", type=_layers, metavar="L[,L]", help="default: every layer")
    fit.add_argument("--head", type=int, help="for sites that have heads")
    fit.add_argument(
        "--pos",
        type=_pos,
        default="last",
        metavar="POS",
        help="last (default), mean, an index; of chats also response or last_user (their words)",
    )
    _add_n(fit)
    _add_out(fit, "folder to write (default: below out, by model, prompts and method)")


def _add_sweep(verbs: argparse._SubParsersAction) -> None:
    sweep = verbs.add_parser("sweep", help="effect and side effects by layer and coefficient, as a page")
    _add_direction(sweep)
    _add_prompts(sweep)
    sweep.add_argument(
        "--coefficients",
        type=_numbers,
        default=_numbers(_COEFFICIENTS),
        metavar="C[,C]",
        help=f"times the vector (default {_COEFFICIENTS}); write --coefficients=-1,0 where one is negative",
    )
    sweep.add_argument(
        "--metric",
        type=name_list,
        metavar="NAME[,NAME]",
        help="default: logit_diff of a family, else entropy",
    )
    sweep.add_argument("--neutral", type=Path, metavar="FILE", help="text that should not change, one a line")
    sweep.add_argument(
        "--kl-limit", type=float, default=0.5, metavar="NATS", help="of the best setting (default 0.5)"
    )
    _add_out(sweep)


def _add_generate(verbs: argparse._SubParsersAction) -> None:
    generate = verbs.add_parser("generate", help="continuations: unsteered, steered and both controls")
    _add_direction(generate)
    _add_prompts(generate, "--prompt")
    generate.add_argument("--coefficient", type=float, metavar="C", help="times the vector, for all three")
    generate.add_argument("--kl", type=float, metavar="NATS", help="instead: each at this KL")
    generate.add_argument("--tokens", type=int, default=20, metavar="N", help="new tokens (default 20)")
    generate.add_argument("--temperature", type=float, default=0.0, help="default 0, the most likely token")
    generate.add_argument(
        "--top-k", type=int, metavar="K", help="draw from the K most likely, at a temperature"
    )
    _add_out(generate)


def _add_chat(verbs: argparse._SubParsersAction) -> None:
    text = "talk with a chat model, steered, with the plain model and a random direction beside it"
    chat = verbs.add_parser("chat", help=text, description=f"{text}. Commands: /coef 2, /reset, /quit.")
    _add_direction(chat, when=False)
    chat.add_argument("--when", choices=_WHEN, default="generated", help="default generated")
    chat.add_argument(
        "--coefficient", type=float, metavar="C", help="to begin with (default 1, or the transcript's last)"
    )
    chat.add_argument("--system", metavar="TEXT", help="the system prompt (default: the template's own)")
    chat.add_argument("--tokens", type=int, default=80, metavar="N", help="of an answer at most (default 80)")
    chat.add_argument("--temperature", type=float, default=0.0, help="default 0, the most likely token")
    chat.add_argument("--top-k", type=int, metavar="K", help="draw from the K most likely, at a temperature")
    chat.add_argument(
        "--seed", type=int, default=0, help="of the random direction and what is drawn (default 0)"
    )
    chat.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    chat.add_argument("--out", type=nonempty, help="folder of chat.jsonl (default: the direction's)")
    chat.add_argument(
        "--transcript",
        type=nonempty,
        metavar="FILE",
        help="go on with this talk; turns are added to it",
    )


def _add_calibrate(verbs: argparse._SubParsersAction) -> None:
    calibrate = verbs.add_parser("calibrate", help="the coefficient that gives a KL, by layer")
    _add_direction(calibrate)
    _add_prompts(calibrate)
    calibrate.add_argument("--kl", type=float, required=True, metavar="NATS", help="mean KL to reach")
    calibrate.add_argument("--sign", type=int, choices=(1, -1), default=1, help="which way (default 1)")
    _add_out(calibrate)


def _add_bake(verbs: argparse._SubParsersAction) -> None:
    bake = verbs.add_parser("bake", help="a model folder whose weights are steered, without hooks")
    _add_direction(bake, when=False)
    bake.add_argument("--coefficient", type=float, metavar="C", help="add the vector times this")
    bake.add_argument(
        "--ablate", action="store_true", help="instead: remove the direction from all that writes the stream"
    )
    bake.add_argument(
        "--format",
        choices=_FORMATS,
        help="hub: a folder that transformers loads alone; own: of interp.load (default: that of the model)",
    )
    _add_out(bake, "folder of the model (default: `baked` beside the direction)")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="bundled model, TransformerLens name (gpt2), or folder")


def _add_direction(parser: argparse.ArgumentParser, when: bool = True) -> None:
    _add_model(parser)
    parser.add_argument("direction", type=Path, help="a file that interp steer fit wrote")
    parser.add_argument("--layer", type=_layers, metavar="L[,L]", help="some of the direction's layers")
    if when:
        parser.add_argument("--when", choices=_WHEN, default="everywhere", help="default everywhere")


def _add_prompts(parser: argparse.ArgumentParser, *more: str) -> None:
    parser.add_argument(
        "--task",
        metavar="NAME",
        help=f"held-out prompts of the negative class of: {', '.join(FAMILIES)}",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts of your own: one a line, or chats"
    )
    for name in more:
        parser.add_argument(name, action="append", metavar="TEXT", help="one prompt; may be given again")
    _add_n(parser)


def _add_n(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n", type=int, default=64, help="prompts of a family, half of each class (64)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")


def _add_out(
    parser: argparse.ArgumentParser, text: str = "folder to write (default: the direction's)"
) -> None:
    parser.add_argument("--out", type=nonempty, help=text)
    parser.add_argument(
        "--resume", action="store_true", help="do nothing where this very run is finished in its folder"
    )


def _layers(text: str) -> list[int]:
    """`2,3` as numbers."""
    try:
        return [int(part) for part in name_list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of layers such as 2,3") from None


def _numbers(text: str) -> list[float]:
    """`-1,0,2` as numbers."""
    try:
        return [float(part) for part in name_list(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as -1,0,2") from None


def _pos(text: str) -> str | int:
    """`last`, `mean`, an index, or the words of a message."""
    if text in ("last", "mean", "response", "last_user"):
        return text
    if text.lstrip("-").isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not last, mean or an index (nor response, last_user)")
