"""`interp steer fit`: a direction from two classes of prompts, and how well it separates held-out ones."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.steer_classes import classes
from interp.cli.steer_inputs import read_lines

if TYPE_CHECKING:
    from interp.steering import Direction

_LEAST = 1e-6  # of the median norm
Sides = tuple[Any, Any]  # prompts of the positive and of the negative class


def run(args: argparse.Namespace) -> None:
    """The direction's file; one line a layer says how long the vector is and how it separates the classes."""
    import interp
    from interp import steering
    from interp.models.anatomy import anatomy
    from interp.steering.places import places

    _check(args)
    model = interp.load(args.model, device=args.device)
    places(anatomy(model), args.layer, args.site, args.head)  # its checks, before prompts are drawn
    train, test, told = _sides(model, args)
    print(told)
    options: dict[str, Any] = {"layer": args.layer, "site": args.site, "head": args.head, "pos": args.pos}
    direction = _live(getattr(steering, args.method)(model, *train, seed=args.seed, **options))
    print(_table(model, direction, test, args.pos))
    print(direction.save(_folder(args) / "direction.safetensors"))


def _check(args: argparse.Namespace) -> None:
    """What can be said without a model."""
    files = [args.positive, args.negative]
    if (args.task is not None) == any(files) or (any(files) and not all(files)):
        raise ValueError("give --task, or --positive and --negative (files of prompts).")


def _live(direction: Direction) -> Direction:
    """The direction at the places where the classes differ; says which are left out."""
    lengths = {part.place: float(part.vector.norm()) / part.norms[part.place] for part in direction.split()}
    kept = [where for where, length in lengths.items() if length > _LEAST]
    same = ", ".join(str(where) for where in direction.places if where not in kept)
    if not kept:
        raise ValueError(f"the classes do not differ at {same}. Read later layers, or with --pos mean.")
    if same:
        print(f"the classes do not differ at {same}, which the file leaves out")
    return direction.at(*kept)


def _sides(model: Any, args: argparse.Namespace) -> tuple[Sides, Sides, str]:
    """Prompts to find the direction in, prompts to measure it on, and what to say of them."""
    if args.task is None:
        train = (read_lines(args.positive), read_lines(args.negative))
        counts = f"{len(train[0])} positive and {len(train[1])} negative prompts"
        return train, train, f"{counts}; the AUROC is on these prompts"
    found = classes(model, args.task, args.n, args.seed, held_out=False)
    fresh = classes(model, args.task, args.n, args.seed + 1, held_out=True)
    up, down = found.names
    told = f"{args.task}, {up} against {down}: {args.n} prompts; the AUROC is on {args.n} that were held out"
    return (found.positive, found.negative), (fresh.positive, fresh.negative), told


def _table(model: Any, direction: Direction, test: Sides, pos: str | int) -> str:
    """Length in median norms of the activations, and AUROC of the projections, by place."""
    from interp.steering import activations, selectors

    above, below = (activations(model, side, direction.places, pos) for side in test)
    lines = [f"{'place':<14}{'length':>10}{'AUROC':>10}"]
    for part in direction.split():
        up, down = (part.project(rows[part.place]) for rows in (above, below))
        length = float(part.vector.norm()) / part.norms[part.place]
        auroc = float(selectors.auroc(up[:, None], down[:, None])[0])
        lines.append(f"{part.place!s:<14}{length:>10.3f}{auroc:>10.3f}")
    return "\n".join([*lines, "length: in median norms of the activations there"])


def _folder(args: argparse.Namespace) -> Path:
    if args.out is not None:
        return args.out
    what = args.task or Path(args.positive).stem
    parts = [Path(args.model).name, what, args.method]
    return Path("out") / "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts)
