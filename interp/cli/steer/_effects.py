"""`interp steer sweep` and `generate`: what a direction does and breaks, beside both controls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import xarray as xr

from interp.cli._inputs import bars, load
from interp.cli._output import Output, require_folder
from interp.cli._summary import repeated
from interp.cli.steer._prompts import (
    direction_of,
    neutral_text,
    one_place,
    prompts_of,
    require_draws,
    when_of,
)

_SHOWN = 3  # prompts that are printed; the page has all
_CONTROLS = {"random direction": "effect_random", "shuffled labels": "effect_shuffled"}


def sweep(args: argparse.Namespace, out: Output) -> None:
    """The result, its picture and a page; the best setting before, their paths last."""
    from interp import plot, steering
    from interp.report._run import save_result

    folder = args.out or args.direction.parent
    require_folder(folder)
    metrics = _metrics(args)
    if not args.kl_limit >= 0:
        raise ValueError(f"--kl-limit is {args.kl_limit}; it must be a number of nats, 0 or more.")
    if repeated(args, folder, out):
        return
    model = load(args)
    direction = direction_of(model, args)
    prompts, about = prompts_of(model, args)
    options: dict[str, Any] = {"when": when_of(args), "seed": args.seed, "neutral": neutral_text(args)}
    options |= {"metric": metrics, "progress": bars(args)}
    result = steering.sweep(model, direction, prompts, args.coefficients, **options)
    known = bool(args.task or args.metric)
    best, words = _best(result, args.kl_limit) if known else (None, _within(result, args.kl_limit))
    out.say(about, words)
    out.tell(model=args.model, best=best, n_prompts=result.sizes["prompt"])
    out.wrote("result", save_result(result, folder / "sweep.nc"))
    out.wrote("picture", plot.save_html(plot.steering(result), folder / "sweep.html"))
    page = _page(result, best, f"{words} {about.capitalize()}.", folder / "sweep-report.html")
    out.wrote("report", page)


def _metrics(args: argparse.Namespace) -> list[Any]:
    """The metrics asked for, and always the KL."""
    from interp.cli._inputs import make_metrics
    from interp.steering.measures import Entropy
    from interp.tasks import KL, LogitDiff

    asked = make_metrics(args.metric) or [LogitDiff() if args.task else Entropy()]
    return asked if any(metric.name == "kl" for metric in asked) else [*asked, KL()]


def _best(result: xr.Dataset, kl_limit: float) -> tuple[dict[str, Any] | None, str]:
    """The best setting within the limit, and a sentence on it."""
    from interp import steering

    names = result["metric"].values if "metric" in result.dims else ()
    metric = next((name for name in names if name != "kl"), None)
    if metric is None or result.sizes["prompt"] < 2:
        return None, "The best setting needs a metric beside the KL, and two prompts or more."
    best = steering.measures.select(result, str(metric), kl_limit=kl_limit)
    controls = [f"{name} {best[key]:+.3g}" for name, key in _CONTROLS.items() if key in best]
    words = (
        f"Best within a KL of {kl_limit:g} nats: layer {best['layer']}, coefficient "
        f"{best['coefficient']:g}, {metric} {best['effect']:+.3g} at KL {best['kl']:.3g} on the half of "
        f"the prompts that did not choose it ({', '.join(controls)}). "
        f"At this layer {_verdict(result, best['layer'], str(metric), kl_limit)}."
    )
    return {**best, "metric": str(metric), "kl_limit": kl_limit}, words


def _verdict(result: xr.Dataset, layer: float, metric: str, kl_limit: float) -> str:
    """Which coefficients to use at a layer, in words."""
    from interp import steering

    band = steering.measures.band(result, metric, {"kl": kl_limit})
    return str(band["verdict"].sel(layer=layer).item())


def _within(result: xr.Dataset, kl_limit: float) -> str:
    """Which coefficients leave the KL within the limit, where no answers say what to aim at."""
    small = result["raw"].sel(metric="kl").mean("prompt").sortby("coefficient") <= kl_limit
    layers = []
    for layer in small["layer"].values:
        inside = small["coefficient"].values[small.sel(layer=layer).values]
        layers.append(f"layer {layer}: {', '.join(f'{each:g}' for each in inside) or 'none'}")
    return (
        "These prompts have no answers, so nothing says which setting is best (--task and --metric do). "
        f"Coefficients with a mean KL of {kl_limit:g} nats or less, {'; '.join(layers)}. Read what is "
        "written with interp steer generate or chat."
    )


def _page(result: xr.Dataset, best: dict[str, Any] | None, words: str, path: Path) -> Path:
    """The map over layers, the lines of the best one, the table."""
    from interp import plot, report

    items: list[Any] = [words, plot.steering(result)]
    if best is not None and result.sizes["layer"] > 1:
        items.append(plot.steering(result.sel(layer=[best["layer"]])))
    items.append(result)
    return report.write(items, path, title=f"Steering {result.attrs['model']}")


def generate(args: argparse.Namespace, out: Output) -> None:
    """The first texts are printed, all are on the page; the paths last."""
    from interp import report
    from interp.report._run import save_result
    from interp.steering._side_by_side import side_by_side

    if (args.coefficient is None) == (args.kl is None):
        raise ValueError("give --coefficient or --kl, one of them.")
    require_draws(args)
    folder = args.out or args.direction.parent
    require_folder(folder)
    if repeated(args, folder, out):
        return
    model = load(args)
    direction = one_place(direction_of(model, args))
    prompts, about = prompts_of(model, args)
    drawn: dict[str, Any] = {"temperature": args.temperature, "top_k": args.top_k, "seed": args.seed}
    result = side_by_side(
        model, prompts, direction, args.coefficient, target_kl=args.kl, when=when_of(args),
        max_new_tokens=args.tokens, **drawn,
    )  # fmt: skip
    out.say(f"{about}; {direction.method} at {direction.place}", _printed(result))
    out.tell(model=args.model, place=str(direction.place), runs=_runs(result))
    out.wrote("result", save_result(result, folder / "generations.nc"))
    title = f"Generations of {args.model}, steered"
    page = report.write([f"{about.capitalize()}.", result], folder / "generations.html", title=title)
    out.wrote("report", page)


def _runs(result: xr.Dataset) -> list[dict[str, Any]]:
    """Coefficient and texts of every run, for scripts."""
    return [
        {
            "run": str(run),
            "coefficient": float(result["coefficient"].sel(run=run)),
            "texts": [str(text) for text in result["text"].sel(run=run).values],
        }
        for run in result["run"].values
    ]


def _printed(result: xr.Dataset) -> str:
    """The first prompts with their texts, then one line a run."""
    lines = []
    for i in range(min(_SHOWN, result.sizes["prompt"])):
        prompt = result.isel(prompt=i)
        lines += ["", str(prompt["prompt_text"].item())]
        lines += [f"  {run:<9} {text}" for run, text in zip(prompt["run"].values, prompt["text"].values)]
    lines += ["", f"{'run':<11}{'coefficient':>12}{'KL':>9}{'loss':>9}{'repeated':>10}"]
    means = result[["kl", "loss", "repetition"]].mean("prompt")
    for run in result["run"].values:
        kl, loss, repeated = (float(means[name].sel(run=run)) for name in ("kl", "loss", "repetition"))
        step = float(result["coefficient"].sel(run=run))
        lines.append(f"{run:<11}{step:>12.4g}{kl:>9.3f}{loss:>9.3f}{repeated:>10.3f}")
    return "\n".join(lines)
