"""`interp steer fit`, `calibrate` and `bake`: a direction found, scaled, and folded into the weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli._inputs import clean_name, load
from interp.cli._output import Output, require_folder
from interp.cli._summary import repeated
from interp.cli.steer._prompts import (
    classes,
    direction_of,
    one_place,
    prompts_of,
    read_lines,
    read_prompts,
    under,
    when_of,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.steering import Direction

_LEAST = 1e-6  # of the median norm
_PROMPTS, _TOKENS = 4, 12  # of random tokens, for the check
_TOLERANCE = 1e-3  # of the largest logit
Sides = tuple[Any, Any]  # prompts of the positive and of the negative class
Row = dict[str, Any]  # what is known of one place


def fit(args: argparse.Namespace, out: Output) -> None:
    """The direction's file; one line a layer says how long the vector is and how it separates the classes."""
    from interp import plot, steering
    from interp.models import anatomy
    from interp.models.places import places

    _check(args)
    folder = _folder(args)
    require_folder(folder)
    if repeated(args, folder, out):
        return
    model = load(args)
    places(anatomy(model), args.layer, args.site, args.head)  # its checks, before prompts are drawn
    train, test, about = _sides(model, args)
    out.say(about)
    options: dict[str, Any] = {"layer": args.layer, "site": args.site, "head": args.head, "pos": args.pos}
    direction = _live(getattr(steering, args.method)(model, *train, seed=args.seed, **options), out)
    rows = _separation(model, direction, test, args.pos)
    out.say(f"{'place':<14}{'length':>10}{'AUROC':>10}")
    out.say(*(f"{row['place']:<14}{row['length']:>10.3f}{row['auroc']:>10.3f}" for row in rows))
    out.say("length: in median norms of the activations there")
    out.tell(model=args.model, method=args.method, places=rows)
    subtitle = f"{args.method} · {args.model} · {about}"
    figure = _by_place(rows, "auroc", "AUROC", "How well the direction separates the classes", subtitle)
    out.wrote("picture", plot.save_html(figure, folder / "fit.html"))
    out.wrote("direction", direction.save(folder / "direction.safetensors"))


def _check(args: argparse.Namespace) -> None:
    """What can be said without a model."""
    sources = ([args.task], [args.positive, args.negative], [args.system, args.against, args.prompts])
    given = [source for source in sources if any(each is not None for each in source)]
    if len(given) != 1 or any(each is None for each in given[0]):
        raise ValueError(
            "give --task, or --positive and --negative (files of prompts), or --system and --against (system "
            "prompts of a chat model) with --prompts."
        )


def _live(direction: Direction, out: Output) -> Direction:
    """The direction at the places where the classes differ; says which are left out."""
    lengths = {part.place: float(part.vector.norm()) / part.norms[part.place] for part in direction.split()}
    kept = [where for where, length in lengths.items() if length > _LEAST]
    same = ", ".join(str(where) for where in direction.places if where not in kept)
    if not kept:
        raise ValueError(f"the classes do not differ at {same}. Read later layers, or with --pos mean.")
    if same:
        out.say(f"the classes do not differ at {same}, which the file leaves out")
    return direction.at(*kept)


def _sides(model: Any, args: argparse.Namespace) -> tuple[Sides, Sides, str]:
    """Prompts to find the direction in, prompts to measure it on, and what to say of them."""
    if args.system is not None:
        requests = read_lines(args.prompts)
        train = (under(args.system, requests), under(args.against, requests))
        return train, train, f"{len(requests)} requests under two system prompts; the AUROC is on these"
    if args.task is None:
        train = (read_prompts(args.positive), read_prompts(args.negative))
        counts = f"{len(train[0])} positive and {len(train[1])} negative prompts"
        return train, train, f"{counts}; the AUROC is on these prompts"
    drawn = classes(model, args.task, args.n, args.seed, held_out=False)
    fresh = classes(model, args.task, args.n, args.seed + 1, held_out=True)
    up, down = drawn.names
    about = f"{args.task}, {up} against {down}: {args.n} prompts; the AUROC is on {args.n} that were held out"
    return (drawn.positive, drawn.negative), (fresh.positive, fresh.negative), about


def _separation(model: Any, direction: Direction, test: Sides, pos: str | int) -> list[Row]:
    """Length in median norms of the activations, and AUROC of the projections, by place."""
    from interp.steering import activations, selectors

    above, below = (activations(model, side, direction.places, pos) for side in test)
    rows = []
    for part in direction.split():
        up, down = (part.project(acts[part.place]) for acts in (above, below))
        length = float(part.vector.norm()) / part.norms[part.place]
        auroc = float(selectors.auroc(up[:, None], down[:, None])[0])
        rows.append({"place": str(part.place), "length": length, "auroc": auroc})
    return rows


def _by_place(rows: list[Row], column: str, axis: str, title: str, subtitle: str) -> go.Figure:
    """One number a place, as bars."""
    import plotly.graph_objects as go

    from interp.plot._frame import frame
    from interp.plot._theme import POSITIVE

    bars = go.Bar(x=[row["place"] for row in rows], y=[row[column] for row in rows], marker_color=POSITIVE)
    fig = go.Figure(bars).update_yaxes(title_text=axis, showgrid=True, zeroline=True)
    return frame(fig, title, subtitle, theme="auto", height=260, left=72, right=32, below=80)


def _folder(args: argparse.Namespace) -> Path:
    if args.out is not None:
        return args.out
    prompts = args.task or Path(args.positive or args.prompts).stem
    parts = [Path(args.model).name, prompts, args.method]
    return Path("out") / "-".join(map(clean_name, parts))


def calibrate(args: argparse.Namespace, out: Output) -> None:
    """One line a layer: the coefficient, the KL that it gives, and its length in median norms."""
    from interp import plot
    from interp.report._run import save_result

    folder = args.out or args.direction.parent
    require_folder(folder)
    if repeated(args, folder, out):
        return
    model = load(args)
    direction = direction_of(model, args)
    prompts, about = prompts_of(model, args)
    out.say(about, f"{'place':<14}{'coefficient':>12}{'KL':>9}{'norms':>9}")
    rows = []
    for part in direction.split():
        row = _calibration(model, part, prompts, args)
        rows.append(row)
        out.say(f"{row['place']:<14}{row['coefficient']:>12.5g}{row['kl']:>9.4f}{row['norms']:>9.3f}")
    out.tell(model=args.model, target_kl=args.kl, places=rows)
    out.wrote("result", save_result(_dataset(rows, args, direction), folder / "calibration.nc"))
    title = f"The coefficient that gives a KL of {args.kl:g} nats"
    subtitle = f"{direction.method} · {args.model} · {about}"
    figure = _by_place(rows, "coefficient", "coefficient", title, subtitle)
    out.wrote("picture", plot.save_html(figure, folder / "calibration.html"))


def _calibration(model: Any, part: Direction, prompts: Any, args: argparse.Namespace) -> Row:
    from interp import steering

    reached = steering.calibrate(model, part, prompts, args.kl, sign=args.sign, when=when_of(args))
    length = abs(reached.coefficient) * float(part.vector.norm())
    norms = length / part.norms.get(part.place, float("nan"))
    return {"place": str(part.place), "coefficient": reached.coefficient, "kl": reached.kl, "norms": norms}


def _dataset(rows: list[Row], args: argparse.Namespace, direction: Direction) -> Any:
    """The calibration by place."""
    import xarray as xr

    from interp.results import provenance

    columns = {name: ("place", [row[name] for row in rows]) for name in ("coefficient", "kl", "norms")}
    attrs = provenance(
        method="calibrate",
        convention="coefficient: times the vector; kl: of the next token, from the unsteered run, nats",
        model=args.model,
        direction_method=direction.method,
        target_kl=args.kl,
    )
    return xr.Dataset(columns, {"place": [row["place"] for row in rows]}, attrs)


def bake(args: argparse.Namespace, out: Output) -> None:
    """The folder, whose path comes last; how far its logits are from those under hooks before."""
    import interp
    from interp import steering
    from interp.models import export, require_free, save

    if (args.coefficient is None) != args.ablate:
        raise ValueError("give --coefficient or --ablate, one of them.")
    folder = args.out or args.direction.parent / "baked"
    if repeated(args, folder.parent, out):
        return
    hub = _is_hub(args)
    if hub and folder.exists():
        raise ValueError(f"{folder} exists already. Choose another folder, or remove it.")
    require_free(folder)
    require_folder(folder)
    model = interp.load(args.model)
    edits = _edits(model, args)
    tokens = _tokens(model)
    hooked = _logits(model, tokens, edits)
    with steering.bake(model, edits):
        path = (export if hub else save)(model, folder, source=args.model)
    error = _difference(hooked, _logits(interp.load(path), tokens, ()))
    if not error <= _TOLERANCE:  # nor where it is no number
        raise ValueError(
            f"the model in {path} differs from the steered one by {error:.2g} of the largest logit. Its "
            "loading processes the weights; steer with hooks instead."
        )
    out.say(f"largest difference from steering with hooks: {error:.2g} of the largest logit")
    alone = f", or with transformers: AutoModelForCausalLM.from_pretrained({str(path)!r})" if hub else ""
    out.say(f"load it with interp.load({str(path)!r}){alone}")
    out.tell(model=args.model, largest_difference=error)
    out.wrote("model", path)


def _is_hub(args: argparse.Namespace) -> bool:
    """Whether the model is written in the hub's format: what was asked, or what it came in."""
    from interp.models import in_hub_format

    return args.format == "hub" or (args.format is None and in_hub_format(args.model))


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


def _difference(hooked: Any, baked: Any) -> float:
    return float((hooked - baked).abs().max() / hooked.abs().max())
