"""What a model writes with and without steering: one row a prompt, one column a run."""

from __future__ import annotations

import html

import numpy as np
import xarray as xr

from interp.report.tables import table

_NAMES = {
    "base": "unsteered",
    "steered": "steered",
    "random": "random direction",
    "shuffled": "shuffled labels",
}
_NOTE = (
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
        f"on {found.sizes['prompt']} prompts. {_NOTE}"
    )
    return table(header, rows, caption)


def _texts(found: xr.Dataset) -> str:
    head = "".join(f"<th scope='col'>{html.escape(_name(run))}</th>" for run in found["run"].values)
    body = "".join(_row(found.isel(prompt=i)) for i in range(found.sizes["prompt"]))
    return (
        "<div class='wide'><table class='texts'><thead><tr><th scope='col'>prompt</th>"
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(one: xr.Dataset) -> str:
    texts = [str(one["prompt_text"].item()), *map(str, one["text"].values)]
    return "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in texts) + "</tr>"


def _name(run: object) -> str:
    return _NAMES.get(str(run), str(run))


def _mean(values: xr.DataArray) -> str:
    return f"{float(np.mean(values.values)):.3f}"
