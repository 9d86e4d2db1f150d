"""Several results side by side on one colour scale: methods, models, tasks, directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _words as words
from interp.plot._cells import PANELS, Cells, cells_of, require_dataset
from interp.plot._frame import SEPARATOR
from interp.plot._panels import Panel, draw
from interp.plot._theme import token_labels

_ACROSS = ("head", "pos", "span")


@verb
def compare(
    results: Mapping[str, xr.Dataset] | Sequence[xr.Dataset],
    normalise: bool = False,
    interval: float | None = 0.95,
    metric: str | None = None,
    title: str | None = None,
    *,
    zmax: float | None = None,
    theme: str = "auto",
) -> go.Figure:
    """A heatmap for each result, layer × head or layer × position, on one colour scale.

    results: by name, or a list; a panel without a name is called by what differs (method, model and task,
    direction). What they share stands in the subtitle. The models may differ in size. Results of other units
    have no common scale: compare their shares with normalise=True. The other arguments are those of
    `plot.heads`.

    Raises ValueError for results of different units or dims, and for fewer than two.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> exact = interp.patch(model, task, "z", progress=False)
        >>> estimate = interp.attribute(model, task, "z", method="relp", progress=False)
        >>> [note.text for note in interp.plot.compare([exact, estimate]).layout.annotations]
        ['<b>exact patching</b>', '<b>RelP estimate</b>']
    """
    listed = list(results.values()) if isinstance(results, Mapping) else list(results)
    if len(listed) < 2:
        raise ValueError(
            f"plot.compare needs two results or more, not {len(listed)}. Use plot.heads for one."
        )
    across = _across(listed)
    cells = [cells_of(result, normalise, interval, metric) for result in listed]
    _require_one_unit(cells)
    shared, apart = _told(listed, cells)
    names = list(results) if isinstance(results, Mapping) else apart
    labels = [None if across == "head" else token_labels(result, across) for result in listed]
    panels = [Panel(name, part, across, ticks) for name, part, ticks in zip(names, cells, labels)]
    place = "head" if across == "head" else "position" if across == "pos" else "span"
    heading = title or f"{words.noun(listed[0].attrs).capitalize()} of each {place}, compared"
    return draw(panels, heading, SEPARATOR.join(filter(None, [*shared, _levels(cells)])), zmax, theme)


def _across(results: Sequence[xr.Dataset]) -> str:
    """The dim beside the layers, the same in all."""
    found = []
    for result in results:
        require_dataset(result, "compare")
        value = result["value" if "value" in result else "estimate"]
        dims = {str(dim) for dim in value.dims} - {"prompt", "metric", "layer"}
        if panels := sorted(dims.intersection(PANELS)):
            raise ValueError(
                f"a result has several entries of {panels[0]!r}. Choose one: result.sel({panels[0]}=...)."
            )
        if "layer" not in value.dims or len(dims) != 1 or not dims.issubset(_ACROSS):
            raise ValueError(
                f"plot.compare draws layer × head or layer × position; a result has the dims {sorted(dims)} "
                "beside layers. Select first, as in result.isel(pos=0)."
            )
        found += dims
    if len(set(found)) > 1:
        raise ValueError(
            f"the results have different dims: {', '.join(sorted(set(found)))}. Compare like with like."
        )
    return found[0]


def _require_one_unit(cells: Sequence[Cells]) -> None:
    units = list(dict.fromkeys(part.unit for part in cells))
    if len(units) > 1:
        raise ValueError(
            f"the results have different units, {' and '.join(units)}, and no common scale. Use "
            "normalise=True to compare shares of clean − corrupt."
        )


def _told(results: Sequence[xr.Dataset], cells: Sequence[Cells]) -> tuple[list[str], list[str]]:
    """What the results share, and for each what it does not; its number where nothing differs."""
    facts = [
        [
            words.method(result),
            words.subject(result),
            words.direction(result.attrs),
            str(result.attrs.get("site", "")),
            words.prompts(result),
            part.unit,
        ]
        for result, part in zip(results, cells)
    ]
    alike = [len(set(column)) == 1 for column in zip(*facts)]
    shared = [fact for fact, same in zip(facts[0], alike) if same and fact]
    apart = [
        SEPARATOR.join(fact for fact, same in zip(row, alike) if not same and fact) or f"result {i}"
        for i, row in enumerate(facts, 1)
    ]
    return shared, apart


def _levels(cells: Sequence[Cells]) -> str:
    """The level of the intervals in the hovers, where all have one."""
    levels = {part.level for part in cells}
    level = next(iter(levels)) if len(levels) == 1 else None
    return "" if level is None else f"{100 * level:.4g} % intervals in the hovers"
