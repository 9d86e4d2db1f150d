"""`interp steer fit`, `calibrate` and `bake`: a direction found, scaled, and folded into the weights."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.steer._prompts import classes, direction_of, one_place, prompts_of, read_lines, when_of

if TYPE_CHECKING:
    from interp.steering import Direction


_LEAST = 1e-6  # of the median norm
Sides = tuple[Any, Any]  # prompts of the positive and of the negative class


def fit(args: argparse.Namespace) -> None:
    """The direction's file; one line a layer says how long the vector is and how it separates the classes."""
    import interp
    from interp import steering
    from interp.models import anatomy
    from interp.models.places import places

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


def calibrate(args: argparse.Namespace) -> None:
    """One line a layer: the coefficient, the KL that it gives, and its length in median norms."""
    import interp
    from interp import steering

    model = interp.load(args.model, device=args.device)
    direction = direction_of(model, args)
    prompts, told = prompts_of(model, args)
    print(told)
    print(f"{'place':<14}{'coefficient':>12}{'KL':>9}{'norms':>9}")
    for part in direction.split():
        found = steering.calibrate(model, part, prompts, args.kl, sign=args.sign, when=when_of(args))
        norm = part.norms.get(part.place, float("nan"))
        length = abs(found.coefficient) * float(part.vector.norm()) / norm
        print(f"{part.place!s:<14}{found.coefficient:>12.5g}{found.kl:>9.4f}{length:>9.3f}")


_PROMPTS, _TOKENS = 4, 12  # of random tokens, for the check
_TOLERANCE = 1e-3  # of the largest logit


def bake(args: argparse.Namespace) -> None:
    """The folder, whose path comes last; how far its logits are from those under hooks before."""
    import interp
    from interp import steering
    from interp.models import require_free, save

    if (args.coefficient is None) != args.ablate:
        raise ValueError("give --coefficient or --ablate, one of them.")
    folder = args.out or args.direction.parent / "baked"
    require_free(folder)
    model = interp.load(args.model)
    edits = _edits(model, args)
    tokens = _tokens(model)
    hooked = _logits(model, tokens, edits)
    with steering.bake(model, edits):
        path = save(model, folder, source=args.model)
    error = _difference(hooked, _logits(interp.load(path), tokens, ()))
    if error > _TOLERANCE:
        raise ValueError(
            f"the model in {path} differs from the steered one by {error:.2g} of the largest logit. Its "
            "loading processes the weights; steer with hooks instead."
        )
    print(f"largest difference from steering with hooks: {error:.2g} of the largest logit")
    print(f"load it with interp.load({str(path)!r})")
    print(path)


def _edits(model: Any, args: argparse.Namespace) -> Any:
    from interp import steering
    from interp.models import anatomy

    direction = one_place(direction_of(model, args))
    if args.ablate:
        return steering.ablate(direction.spread(steering.writers(anatomy(model))))
    return steering.add(direction, args.coefficient)


def _tokens(model: Any) -> Any:
    import torch

    from interp.tasks import vocabulary

    size, limit = vocabulary.size(model), vocabulary.context(model)
    length = _TOKENS if limit is None else min(_TOKENS, limit)
    return torch.randint(size, (_PROMPTS, length), generator=torch.Generator().manual_seed(0))


def _logits(model: Any, tokens: Any, edits: Any) -> Any:
    import torch

    from interp.models import logits
    from interp.steering import steer

    with torch.no_grad(), steer(model, edits):
        return logits(model, tokens)


def _difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max() / one.abs().max())
