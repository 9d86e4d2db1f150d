"""`interp steer sweep` and `generate`: what a direction does and breaks, beside both controls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import xarray as xr

from interp.cli.steer._prompts import direction_of, neutral_text, one_place, prompts_of, when_of


def sweep(args: argparse.Namespace) -> None:
    """The result, its picture and a page; the best setting before, their paths last."""
    import interp
    from interp import plot, steering
    from interp.cli._files import save

    model = interp.load(args.model, device=args.device)
    direction = direction_of(model, args)
    options: dict[str, Any] = {"metrics": _metrics(args), "when": when_of(args), "seed": args.seed}
    prompts, told = prompts_of(model, args)
    options |= {"neutral": neutral_text(args), "progress": True}
    result = steering.sweep(model, direction, prompts, args.coefficients, **options)
    if args.task:
        result.attrs["task"] = args.task
    print(told)
    best, words = _best(result, args.kl_limit)
    print(words)
    folder = args.out or args.direction.parent
    print(save(result, folder / "sweep.nc"))
    figure = plot.steering(result)
    print(plot.save_html(figure, folder / "sweep.html"))
    print(_page(result, best, f"{words} {told.capitalize()}.", folder / "sweep-report.html"))


def _metrics(args: argparse.Namespace) -> list[Any]:
    """The metrics asked for, and always the KL."""
    from interp.cli._inputs import make_metrics
    from interp.steering.measures import Entropy
    from interp.tasks import KL, LogitDiff

    asked = make_metrics(args.metric) or [LogitDiff() if args.task else Entropy()]
    return asked if any(metric.name == "kl" for metric in asked) else [*asked, KL()]


def _best(result: xr.Dataset, kl_limit: float) -> tuple[int | None, str]:
    """The layer of the best setting within the limit, and a sentence on it."""
    from interp import steering

    metric = (
        next((name for name in result["metric"].values if name != "kl"), None) if _several(result) else None
    )
    if metric is None or result.sizes["prompt"] < 2:
        return None, "The best setting needs a metric beside the KL, and two prompts or more."
    found = steering.measures.select(result, str(metric), kl_limit=kl_limit)
    controls = [f"{name} {found[key]:+.3g}" for name, key in _CONTROLS.items() if key in found]
    words = (
        f"Best within a KL of {kl_limit:g} nats: layer {found['layer']}, coefficient "
        f"{found['coefficient']:g}, {metric} {found['effect']:+.3g} at KL {found['kl']:.3g} on the half of "
        f"the prompts that did not choose it ({', '.join(controls)})."
    )
    return int(found["layer"]), words


_CONTROLS = {"random direction": "effect_random", "shuffled labels": "effect_shuffled"}


def _several(result: xr.Dataset) -> bool:
    return "metric" in result.dims


def _page(result: xr.Dataset, best: int | None, words: str, path: Path) -> Path:
    """The map over layers, the lines of the best one, the table."""
    from interp import plot, report

    items: list[Any] = [words, plot.steering(result)]
    if best is not None and result.sizes["layer"] > 1:
        items.append(plot.steering(result.sel(layer=[best])))
    items.append(result)
    return report.write(items, path, title=f"Steering {result.attrs['model']}")


_SHOWN = 3  # prompts that are printed; the page has all


def generate(args: argparse.Namespace) -> None:
    """The first texts are printed, all are on the page; the paths last."""
    import interp
    from interp import report
    from interp.cli._files import save
    from interp.steering._side_by_side import side_by_side
    from interp.tasks import vocabulary

    if (args.coefficient is None) == (args.kl is None):
        raise ValueError("give --coefficient or --kl, one of them.")
    model = interp.load(args.model, device=args.device)
    direction = one_place(direction_of(model, args))
    prompts, told = prompts_of(model, args)
    end = getattr(vocabulary.tokenizer_of(model), "eos_token_id", None)
    drawn: dict[str, Any] = {"temperature": args.temperature, "top_k": args.top_k, "seed": args.seed}
    found = side_by_side(
        model, prompts, direction, args.coefficient, target_kl=args.kl, when=when_of(args),
        max_new_tokens=args.tokens, stop=() if end is None else (end,), **drawn,
    )  # fmt: skip
    print(f"{told}; {direction.method} at {direction.place}")
    print(_printed(found))
    folder = args.out or args.direction.parent
    print(save(found, folder / "generations.nc"))
    title = f"Generations of {args.model}, steered"
    print(report.write([f"{told.capitalize()}.", found], folder / "generations.html", title=title))


def _printed(found: xr.Dataset) -> str:
    """The first prompts with their texts, then one line a run."""
    lines = []
    for i in range(min(_SHOWN, found.sizes["prompt"])):
        one = found.isel(prompt=i)
        lines += ["", str(one["prompt_text"].item())]
        lines += [f"  {run:<9} {text}" for run, text in zip(one["run"].values, one["text"].values)]
    lines += ["", f"{'run':<11}{'coefficient':>12}{'KL':>9}{'loss':>9}{'repeated':>10}"]
    means = found[["kl", "loss", "repetition"]].mean("prompt")
    for run in found["run"].values:
        kl, loss, repeated = (float(means[name].sel(run=run)) for name in ("kl", "loss", "repetition"))
        step = float(found["coefficient"].sel(run=run))
        lines.append(f"{run:<11}{step:>12.4g}{kl:>9.3f}{loss:>9.3f}{repeated:>10.3f}")
    return "\n".join(lines)
