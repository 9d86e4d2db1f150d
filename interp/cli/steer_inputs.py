"""What the verbs of `interp steer` have in common: prompts, the direction, where it acts."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.steer_classes import classes

if TYPE_CHECKING:
    from interp.steering import Direction, When

_NEUTRAL = 32  # texts


def read_lines(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines do not count."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a text file with one prompt a line.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no prompts. Write one prompt a line.")
    return lines


def prompts_of(model: Any, args: argparse.Namespace) -> tuple[Any, str]:
    """The prompts to steer, a Task or strings, and what to say of them."""
    texts = getattr(args, "prompt", None)
    given = [name for name in ("task", "prompts", "prompt") if getattr(args, name, None)]
    if len(given) != 1:
        names = "--task, --prompts or --prompt" if "prompt" in vars(args) else "--task or --prompts"
        raise ValueError(f"give {names}, one of them.")
    if args.task:
        found = classes(model, args.task, args.n, args.seed + 1, held_out=True)
        up, down = found.names
        return found.turned, f"{len(found.negative)} held-out prompts of {args.task}, {down}, towards {up}"
    rows = texts or read_lines(args.prompts)
    return rows, f"{len(rows)} prompt{'s' if len(rows) != 1 else ''}"


def direction_of(model: Any, args: argparse.Namespace) -> Direction:
    """The direction of the file at the layers that are wanted; checked against the model."""
    from interp.steering import Direction

    found = Direction.load(args.direction, model)
    if args.layer is None:
        return found
    wanted = [where for where in found.places if where.layer in args.layer]
    missing = sorted(set(args.layer) - {where.layer for where in wanted})
    if missing:
        raise ValueError(
            f"{args.direction} has no vector at layer {', '.join(map(str, missing))}; it has "
            f"{', '.join(map(str, found.places))}."
        )
    return found.at(*wanted)


def one_place(direction: Direction) -> Direction:
    """The direction; ValueError unless it has a single place."""
    if len(direction.places) > 1:
        layers = ", ".join(str(where.layer) for where in direction.places)
        raise ValueError(f"the direction has layers {layers}. Choose one with --layer.")
    return direction


def when_of(args: argparse.Namespace) -> When:
    """The positions at which to steer."""
    from interp.steering import everywhere, generated, prompt_only

    return {"everywhere": everywhere, "generated": generated, "prompt_only": prompt_only}[args.when]


def neutral_text(args: argparse.Namespace) -> list[str] | None:
    """Texts that should not change: of the file, or stories of the small world beside its families."""
    if args.neutral is not None:
        return read_lines(args.neutral)
    if not args.task:
        return None
    from interp.tasks.world.stories import Stories

    stories, rng = Stories(), random.Random(args.seed)
    return [stories.document(rng, test=True).replace("^", "") for _ in range(_NEUTRAL)]
