"""`interp steer generate`: continuations side by side, unsteered, steered, and by both controls."""

from __future__ import annotations

import argparse
from typing import Any

import xarray as xr

from interp.cli.steer_inputs import direction_of, one_place, prompts_of, when_of

_SHOWN = 3  # prompts that are printed; the page has all


def run(args: argparse.Namespace) -> None:
    """The first texts are printed, all are on the page; the paths last."""
    import interp
    from interp import report
    from interp.cli.files import save
    from interp.steering.side_by_side import side_by_side
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
