"""Steering and probes as tables: the best settings of a sweep, texts side by side, the best probes."""

from __future__ import annotations

import html

import numpy as np
import xarray as xr

from interp.plot._steering import Quantity, quantities
from interp.plot._theme import number
from interp.report._html import table

KL_LIMIT = 0.5  # nats
_SWEEP_NOTE = (
    "The settings were chosen on these prompts, so their effects look a little larger than they are; "
    "steering.measures.select chooses on some prompts and reports others. Wrong way: share of prompts whose "
    "metric falls as the coefficient grows."
)


def sweep_table(result: xr.Dataset, kl_limit: float = KL_LIMIT) -> str:
    """One row a layer: of the coefficients with a mean KL within the limit, the one with the best effect."""
    effect, *costs = quantities(result)
    kl = next((each.mean().values for each in costs if each.name == "KL"), None)
    mean = effect.mean().values
    allowed = np.where(kl <= kl_limit, mean, np.nan) if kl is not None else mean
    rows = [
        _row(effect, costs, layer, int(np.nanargmax(scores)))
        for layer, scores in enumerate(allowed)
        if np.isfinite(scores).any()
    ]
    header = ["layer", "coefficient", "effect", *(_run(run) for run in effect.values if run != "steered")]
    header += [*(each.axis for each in costs), "wrong way"]
    limit = f" of a mean KL of {kl_limit:g} nats or less" if kl is not None else ""
    caption = f"The coefficient{limit} with the best {effect.axis}, by layer. {_SWEEP_NOTE}"
    return f"<section class='result'>{table(header, rows, caption)}</section>"


def _row(effect: Quantity, costs: list[Quantity], layer: int, step: int) -> list[str]:
    at = {"layer": layer, "coefficient": step}
    mean = effect.mean()
    return [
        str(int(mean["layer"].values[layer])),
        f"{float(mean['coefficient'].values[step]):.4g}".replace("-", "−"),
        *(number(float(effect.mean(run).isel(at))) for run in effect.values),
        *(f"{float(cost.mean().isel(at)):.3g}" for cost in costs),
        _wrong(effect.values["steered"].isel(layer=layer)),
    ]


def _wrong(values: xr.DataArray) -> str:
    """Share of prompts with a falling effect, by the least-squares slope."""
    if values.sizes["coefficient"] < 2:
        return ""
    centred = values["coefficient"] - values["coefficient"].mean()
    slope = (centred * values).sum("coefficient")
    return f"{100 * float((slope < 0).mean()):.0f} %"


def _run(run: str) -> str:
    return {"random": "random direction", "shuffled": "shuffled labels"}.get(run, run)


_NAMES = {
    "base": "unsteered",
    "steered": "steered",
    "random": "random direction",
    "shuffled": "shuffled labels",
}
_GENERATIONS_NOTE = (
    "KL: of the next token after the prompt, from the unsteered run. Loss: of the text under the unsteered "
    "model; far above that of the unsteered text, steering has broken it. Repeated: share of pairs of tokens "
    "that have come before."
)


def generations_tables(result: xr.Dataset) -> str:
    """The means of every run, then the texts side by side."""
    return "\n".join(["<section class='result'>", _numbers(result), _texts(result), "</section>"])


def _numbers(result: xr.Dataset) -> str:
    rows = [
        [
            _name(run),
            f"{float(result['coefficient'].sel(run=run)):.4g}".replace("-", "−"),
            *(_mean(result[name].sel(run=run)) for name in ("kl", "loss", "repetition")),
        ]
        for run in result["run"].values
    ]
    header = ["", "coefficient", "KL (nats)", "loss (nats a token)", "repeated"]
    caption = (
        f"{result.attrs['direction_method']} at {result.attrs['site']}, {result.attrs['when']}, "
        f"on {result.sizes['prompt']} prompts. {_GENERATIONS_NOTE}"
    )
    return table(header, rows, caption)


def _texts(result: xr.Dataset) -> str:
    head = "".join(f"<th scope='col'>{html.escape(_name(run))}</th>" for run in result["run"].values)
    body = "".join(_text_row(result.isel(prompt=i)) for i in range(result.sizes["prompt"]))
    return (
        "<div class='wide'><table class='texts'><thead><tr><th scope='col'>prompt</th>"
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text_row(prompt: xr.Dataset) -> str:
    texts = [str(prompt["prompt_text"].item()), *map(str, prompt["text"].values)]
    return "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in texts) + "</tr>"


def _name(run: object) -> str:
    return _NAMES.get(str(run), str(run))


def _mean(values: xr.DataArray) -> str:
    return f"{float(np.mean(values.values)):.3f}"


_PROBES = 12
_PROBES_NOTE = (
    "p: share of the shuffles whose accuracy is as high, by probe; the best of many probes looks better than "
    "it is. ECE: expected calibration error of the probabilities, as trained and after Platt scaling."
)


def probe_table(result: xr.Dataset) -> str:
    """The probes with the highest held-out accuracy (ties by AUROC), at most twelve."""
    accuracy, auroc = (result[name].values.ravel() for name in ("accuracy", "auroc"))
    order = np.lexsort((-auroc, -accuracy))[:_PROBES]
    rows = [_probe_row(result, np.unravel_index(int(at), result["accuracy"].shape)) for at in order]
    attrs = result.attrs
    caption = (
        f"Probes at {attrs['site']}, {attrs['reads']}: trained on {attrs['n_train']} prompts, measured on "
        f"{attrs['n_held_out']} others; {result.sizes['draw']} shuffles of the labels. {_PROBES_NOTE}"
    )
    header = ["probe", "accuracy", "AUROC", "shuffled, mean", "p", "ECE", "after scaling"]
    return f"<section class='result'>{table(header, rows, caption)}</section>"


def _probe_row(result: xr.Dataset, index: tuple) -> list[str]:
    dims = result["accuracy"].dims
    at = {dim: int(i) for dim, i in zip(dims, index)}
    probe = result.isel(at)
    layer = int(probe["layer"])
    name = f"L{layer}H{int(probe['head'])}" if "head" in dims else f"L{layer}"
    first, control, last = ("accuracy", "auroc"), probe["control"].mean(), ("p_value", "ece_raw", "ece")
    numbers = (*(probe[key] for key in first), control, *(probe[key] for key in last))
    return [name, *(f"{float(number):.3f}" for number in numbers)]
