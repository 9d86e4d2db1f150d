"""Heatmaps of effects: layer × head, layer × position; a panel a site, one colour scale centred on 0."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _words as words
from interp.plot._cells import PANELS, Cells, cells_of, require_dataset, require_dims
from interp.plot._panels import Panel, draw
from interp.plot._theme import token_labels

_SITES = {
    "resid_pre": "residual stream", "resid_mid": "residual stream", "resid_post": "residual stream",
    "attn_out": "attention", "mlp_out": "MLP",
}  # fmt: skip


@verb
def heads(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = 0.95,
    metric: str | None = None,
    title: str | None = None,
    *,
    zmax: float | None = None,
    theme: str = "auto",
) -> go.Figure:
    """The effect of every head, averaged over prompts: layer × head, a panel a site (q, k, v, pattern, z).

    What `interp.heads` gives is drawn alike, a panel a score, a part of the scores, or a norm of back-up.

    result: dims prompt, (site, score, part or norm,) layer, head; or means or intervals of one from
        `interp.stats`. Of paths (`interp.path_patch`) a panel a receiver.
    normalise: divide by the mean of clean - corrupt (ratio of means).
    interval: a level, or a Dataset of `stats.bootstrap`, shown on hover; None: none. One prompt has none.
    metric: which one, where the result has several.
    zmax: the end of the colour scale. Default: the largest |effect|, but where one cell in a hundred (or one
        alone) is more than three times all others, the largest of the others; the subtitle names what is
        beyond.
    theme: "light", "dark", or "auto": as the reader's system says on pages, light elsewhere.

    Raises ValueError for what is no result, and for other dims.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=4), "z", progress=False)
        >>> interp.plot.heads(result, normalise=True).layout.title.text
        '<b>Effect of each head (z)</b>'
    """
    require_dataset(result, "heads")
    title = title or words.heading(result, words.each_head(result))
    require_dims(result, "heads", ("layer", "head"))
    cells = cells_of(result, normalise, interval, metric)
    return draw(_parted(cells, "head"), title, cells.subtitle, zmax, theme)


@verb
def positions(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = 0.95,
    metric: str | None = None,
    head: int | None = None,
    title: str | None = None,
    *,
    zmax: float | None = None,
    theme: str = "auto",
) -> go.Figure:
    """The effect of every layer at every position, averaged over prompts: layer × position, over tokens.

    result: dims prompt, (site,) layer, pos; or span in the place of pos, which lines up prompts of different
    templates and lengths by name; or with a head dim, of which `head` picks one index.
    The other arguments and the errors are those of `plot.heads`.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, template=1)
        >>> result = interp.patch(model, task, "resid_pre", progress=False)
        >>> len(interp.plot.positions(result).data)
        1
    """
    require_dataset(result, "positions")
    shown = result if head is None else _one_head(result, head)
    dim = "span" if isinstance(shown, xr.Dataset) and "span" in shown.dims else "pos"
    require_dims(shown, "positions", ("layer", dim))
    if isinstance(interval, xr.Dataset) and "head" in interval.dims:
        interval = _one_head(interval, head)
    cells = cells_of(shown, normalise, interval, metric)
    noun = words.noun(result.attrs)
    site = str(result.attrs.get("site", "")) if "site" not in cells.value.dims and noun == "effect" else ""
    place = "position" if dim == "pos" else "span"
    text = f"{noun} by {place}{f' ({site})' if site else ''}" + ("" if head is None else f", head {head}")
    heading = title or words.heading(result, text)
    return draw(_parted(cells, dim, token_labels(shown, dim)), heading, cells.subtitle, zmax, theme)


def _parted(cells: Cells, x: str, labels: list[str] | None = None) -> list[Panel]:
    """One panel, or one a site (receiver, score, ...) where there is such a dim."""
    by = next((dim for dim in PANELS if dim in cells.value.dims), None)
    if by is None:
        return [Panel("", cells, x, labels)]
    names = [str(name) for name in cells.value[by].values]
    return [Panel(_named(by, name), cells.isel(**{by: i}), x, labels) for i, name in enumerate(names)]


def _named(by: str, name: str) -> str:
    """The title of a panel: a site also in words."""
    if by == "score":
        return name.replace("_", " ")
    return f"{_SITES[name]} ({name})" if by == "site" and name in _SITES else name


def _one_head(result: xr.Dataset, head: int | None) -> xr.Dataset:
    if "head" not in result.dims:
        raise ValueError(
            f"head={head} was given, but the result has no head dim: it has {dict(result.sizes)}."
        )
    known = result["head"].values
    if head not in known:
        raise ValueError(f"head is {head}; the result has heads {known.min()} to {known.max()}.")
    return result.sel(head=head)
