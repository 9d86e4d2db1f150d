"""Steering as tables: the best setting of each layer of a sweep, and generations side by side."""

from __future__ import annotations

import html

import numpy as np
import xarray as xr

from interp.plot._steering import Quantity, quantities
from interp.plot._theme import number
from interp.report._effects import table

KL_LIMIT = 0.5  # nats
_SWEEP_NOTE = (
    "The settings were chosen on these prompts, so their effects look a little larger than they are; "
    "steering.select chooses on some prompts and reports others. Wrong way: share of prompts whose metric "
    "falls as the coefficient grows."
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


def generations_tables(found: xr.Dataset) -> str:
    """The means of every run, then the texts side by side."""
    return "\n".join(["<section class='result'>", _numbers(found), _texts(found), "</section>"])


def _numbers(found: xr.Dataset) -> str:
    rows = [
        [
            _name(run),
            f"{float(found['coefficient'].sel(run=run)):.4g}".replace("-", "−"),
            *(_mean(found[name].sel(run=run)) for name in ("kl", "loss", "repetition")),
        ]
        for run in found["run"].values
    ]
    header = ["", "coefficient", "KL (nats)", "loss (nats a token)", "repeated"]
    caption = (
        f"{found.attrs['direction_method']} at {found.attrs['site']}, {found.attrs['when']}, "
        f"on {found.sizes['prompt']} prompts. {_GENERATIONS_NOTE}"
    )
    return table(header, rows, caption)


def _texts(found: xr.Dataset) -> str:
    head = "".join(f"<th scope='col'>{html.escape(_name(run))}</th>" for run in found["run"].values)
    body = "".join(_text_row(found.isel(prompt=i)) for i in range(found.sizes["prompt"]))
    return (
        "<div class='wide'><table class='texts'><thead><tr><th scope='col'>prompt</th>"
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text_row(one: xr.Dataset) -> str:
    texts = [str(one["prompt_text"].item()), *map(str, one["text"].values)]
    return "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in texts) + "</tr>"


def _name(run: object) -> str:
    return _NAMES.get(str(run), str(run))


def _mean(values: xr.DataArray) -> str:
    return f"{float(np.mean(values.values)):.3f}"
