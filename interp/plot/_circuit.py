"""A circuit as a picture: nodes as boxes by layer, the input below and the logits above, edges as lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import stats
from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._cells import several_units
from interp.plot._frame import frame
from interp.plot._layout import At, Edge, label, places, routes, row
from interp.plot._theme import escape, number

_PARTS = {
    "q": ("query", look.QUERY),
    "k": ("key", look.KEY),
    "v": ("value", look.VALUE),
    "": ("MLP, logits", look.PLAIN),
    "*": ("edges, together", look.PLAIN),
}
_SIGNS = {1: ("helps", look.POSITIVE), -1: ("hurts", look.NEGATIVE), 0: ("edges", look.PLAIN)}
_WIDTHS = (1.2, 2.2, 3.4, 5.0)
_ROW, _LOWEST = 74, 46  # pixels: a row, and a row at least
_LEFT, _RIGHT = 76, 30  # pixels
_UNITS = 7.0  # across a figure at least
_LETTER, _BOX, _TALL = (
    6.4,
    12,
    11,
)  # pixels: of a letter, of a box beside its letters, half the height of a box


@runtime_checkable
class Drawable(Protocol):
    """What the picture needs of `interp.circuits.Circuit`."""

    @property
    def graph(self) -> Any: ...

    @property
    def scores(self) -> Any: ...

    @property
    def name(self) -> str: ...

    @property
    def n_edges(self) -> int: ...

    def edges(self) -> list[str]: ...


@verb
def circuit(
    circuit: Drawable,
    title: str | None = None,
    *,
    scores: xr.Dataset | None = None,
    colour: str = "sign",
    most: int = 200,
    level: float = 0.95,
    theme: str = "auto",
) -> go.Figure:
    """The edges of a circuit: blue ones help, red and dashed ones hurt, the wider the more.

    circuit: a Circuit. scores: of `circuits.score_edges`, for intervals over prompts of this level under the
    pointer. colour: "sign", or "part", which tells queries, keys and values apart. With more edges than
    `most`, the heads of a layer are drawn as one node, and edges between the same nodes as one.

    Raises ValueError for what is no circuit, for one without edges, and for scores that lack an edge.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> chosen = interp.circuits.prune(interp.circuits.top(scores, 20))
        >>> interp.plot.circuit(chosen, scores=scores).layout.title.text
        '<b>Circuit eap top 20</b>'
    """
    _check(circuit, colour)
    every = edges_of(circuit, scores, level)
    together = len(every) > most
    drawn = _collapsed(every) if together else every
    at = places(drawn)
    notes = [_about(circuit), f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges"]
    notes += ["heads of a layer together, since there are many"] if together else []
    scored = any(np.isfinite(edge.score) for edge in every)
    notes += ["width: |score|"] if scored else ["width: number of edges"] if together else []
    notes += ["dashed: hurts"] if any(edge.score < 0 for edge in drawn) else []
    heading = title or f"Circuit {circuit.name}"
    return _draw(drawn, at, colour, heading, " · ".join(filter(None, notes)), theme)


def _check(circuit: Any, colour: str) -> None:
    if not isinstance(circuit, Drawable):
        scores = hasattr(circuit, "attrs") and "writer" in getattr(circuit, "dims", ())
        advice = (
            "These are scores of edges: choose some first, as in circuits.top(scores, 30)."
            if scores
            else "Give the Circuit that circuits.top, circuits.acdc or Circuit.load returns."
        )
        raise ValueError(f"plot.circuit draws a Circuit, not a {type(circuit).__name__}. {advice}")
    if colour not in ("part", "sign"):
        raise ValueError(f"colour is {colour!r}; it must be 'part' or 'sign'.")
    if circuit.n_edges == 0:
        raise ValueError(f"{circuit.name!r} has no edge to draw.")


def _about(circuit: Drawable) -> str:
    """How the circuit was found, of which model, on what: what its provenance holds of it."""
    facts = getattr(circuit, "provenance", {})
    about = xr.Dataset(attrs={key: value for key, value in facts.items() if value is not None})
    ablation = str(facts.get("ablation", "")).partition("(")[0]
    parts = [f"found by {facts['method']}"] if "method" in facts else []
    parts += [words.subject(about), str(facts.get("direction", "")), words.prompts(about)]
    parts += [str(facts.get("metric", "")), f"{ablation} ablation" if ablation else ""]
    return " · ".join(part for part in parts if part)


def edges_of(circuit: Drawable, scores: xr.Dataset | None = None, level: float = 0.95) -> list[Edge]:
    """The edges with their scores, and what is said under the pointer."""
    names = circuit.edges()
    means, intervals = _own_scores(circuit, names), [""] * len(names)
    if scores is not None:
        measured, intervals = _measured(scores, names, level)
        means = measured if np.isnan(means).all() else means
    edges = []
    for name, score, interval in zip(names, means, intervals):
        source, target = name.split("->")
        part = target[-2] if target.endswith(">") else ""
        text = f"{label(source)} → {label(target.partition('<')[0])}{'.' + part if part else ''}"
        text += f"<br>score {number(float(score))}" if np.isfinite(score) else ""
        edges.append(Edge(source, target.partition("<")[0], part, float(score), text + interval))
    return edges


def _own_scores(circuit: Drawable, names: Sequence[str]) -> np.ndarray:
    """The scores that the circuit holds, the mean over positions; NaN: none."""
    if circuit.scores is None:
        return np.full(len(names), np.nan)
    scores = np.array(circuit.scores.tolist(), dtype=float)
    if scores.ndim == 3:
        scores = np.nanmean(np.where(np.isnan(scores).all(0), 0.0, scores), 0)
    return np.array([scores[circuit.graph.edge(name)] for name in names])


def _measured(scores: xr.Dataset, names: Sequence[str], level: float) -> tuple[np.ndarray, list[str]]:
    """The mean score of each edge over prompts, and its interval in words."""
    if not {"writer", "reader"} <= set(scores.dims) or "value" not in scores:
        raise ValueError("scores must be the Dataset of circuits.score_edges, with writer and reader.")
    chosen = words.one_metric(scores, None)[0]
    ends = [xr.DataArray(list(side), dims="edge") for side in zip(*(name.split("->") for name in names))]
    for side, dim in zip(ends, ("writer", "reader")):
        absent = sorted(set(side.values) - set(chosen[dim].values))
        if absent:
            raise ValueError(f"the scores have no {dim} {absent[0]!r}: they are of another graph.")
    kept = chosen.drop_vars([name for name in chosen.data_vars if name not in ("value", "clean", "corrupt")])
    some = kept.sel(writer=ends[0], reader=ends[1])
    if not several_units(some):
        means = some["value"].mean("prompt") if "prompt" in some.dims else some["value"]
        return means.values, [""] * len(names)
    found = stats.bootstrap(some, level=level)
    texts = [
        f"<br>{100 * level:.4g} % interval {number(float(low))} to {number(float(high))}"
        for low, high in zip(found["low"].values, found["high"].values)
    ]
    return found["estimate"].values, texts


def _collapsed(edges: list[Edge]) -> list[Edge]:
    """Heads of a layer as one node; the score is the sum of |score|, and the count where there is none."""
    groups: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        groups.setdefault((_layer_of(edge.source), _layer_of(edge.target)), []).append(edge)
    bundles = []
    for (source, target), members in groups.items():
        sizes = [abs(edge.score) for edge in members if np.isfinite(edge.score)]
        size = float(sum(sizes)) if sizes else float(len(members))
        text = f"{label(source)} → {label(target)}<br>{len(members)} edges"
        text += f"<br>sum of |score| {number(size)}" if sizes else ""
        bundles.append(Edge(source, target, "*", size, text))
    return bundles


def _layer_of(node: str) -> str:
    return f"a{row(node)[0]}.all" if ".h" in node else node


def _draw(drawn: list[Edge], at: At, colour: str, title: str, notes: str, theme: str) -> go.Figure:
    """Lines below, boxes above, on a page of the usual width."""
    rows = int(max(y for _, y in at.values())) + 1
    pixels = max(_LOWEST, _ROW - rows)
    sides = [x for x, _ in at.values()]
    middle, half = (min(sides) + max(sides)) / 2, max(_UNITS, max(sides) - min(sides) + 3.0) / 2
    unit = (look.WIDTH - _LEFT - _RIGHT) / (2 * half)
    widths = {node: (_LETTER * len(label(node)) + _BOX) / 2 / unit for node in at}
    ways = routes(drawn, at, widths, (_TALL + 1) / pixels)
    fig = go.Figure([*_lines(drawn, ways, colour), _hover(drawn, ways), _nodes(drawn, at)])
    _boxes(fig, at)
    outermost = max(float(np.abs(way[:, 0] - middle).max()) for way in ways) + 0.2
    half = max(half, outermost)
    fig.update_layout(legend={"orientation": "h", "y": 0, "yanchor": "top", "x": 0.5, "xanchor": "center"})
    fig.update_xaxes(visible=False, range=[middle - half, middle + half])
    fig.update_yaxes(**_levels(at), range=[-0.5, rows - 0.5])
    margins = {"left": _LEFT, "right": _RIGHT, "below": 50}
    return frame(fig, title, notes, theme=theme, height=pixels * rows, **margins)


def _levels(at: At) -> dict:
    """The layer beside its first row."""
    first: dict[str, float] = {}
    for node, (_, y) in at.items():
        layer = row(node)[0]
        name = "" if node in ("input", "logits") else f"layer {layer}"
        first[name] = min(y, first.get(name, y))
    named = {name: y for name, y in first.items() if name}
    return {
        "tickmode": "array", "tickvals": list(named.values()), "ticktext": list(named), "showline": False,
        "ticks": "", "tickfont": {"color": look.MUTED},
    }  # fmt: skip


def _lines(edges: list[Edge], ways: list[np.ndarray], colour: str) -> Iterable[go.Scatter]:
    """One trace for each colour, sign and width, the thinnest first."""
    width = _width(edges)
    groups: dict[tuple[float, str, bool], list[np.ndarray]] = {}
    for edge, way in zip(edges, ways):
        groups.setdefault((width(edge), _key(edge, colour), edge.score < 0), []).append(way)
    legend: set[str] = set()
    for (thick, key, negative), members in sorted(groups.items()):
        name, shade = _PARTS[key] if colour == "part" else _SIGNS[int(key)]
        gap = np.full((1, 2), np.nan)
        x, y = np.concatenate([part for way in members for part in (way, gap)]).astype(np.float32).T
        yield go.Scatter(
            x=x, y=y, mode="lines", name=name, legendgroup=name, showlegend=name not in legend,
            line={"color": shade, "width": thick, "dash": "6px,4px" if negative else "solid"},
            opacity=0.75, hoverinfo="skip",
        )  # fmt: skip
        legend.add(name)


def _key(edge: Edge, colour: str) -> str:
    if colour == "part":
        return edge.part
    return "0" if edge.part == "*" or not np.isfinite(edge.score) else "-1" if edge.score < 0 else "1"


def _width(edges: list[Edge]) -> Any:
    """The width of an edge: one of four, by |score| as a share of the largest."""
    most = max((abs(edge.score) for edge in edges if np.isfinite(edge.score)), default=0.0)

    def width(edge: Edge) -> float:
        share = abs(edge.score) / most if most > 0 and np.isfinite(edge.score) else 0.3
        return _WIDTHS[min(3, int(4 * share**0.5))]

    return width


def _hover(edges: list[Edge], ways: list[np.ndarray]) -> go.Scatter:
    """What the pointer finds: three unseen points on every edge."""
    points = [way[[len(way) // 5, len(way) // 2, -len(way) // 5]] for way in ways]
    x, y = np.concatenate(points).astype(np.float32).T
    texts = [edge.text for edge in edges for _ in range(3)]
    marker = {"size": 9, "opacity": 0}
    return go.Scatter(
        x=x, y=y, mode="markers", marker=marker, hovertext=texts, hoverinfo="text", showlegend=False
    )


def _nodes(edges: list[Edge], at: At) -> go.Scatter:
    """What the pointer finds on a node; its box is an annotation."""
    into = {node: sum(edge.target == node for edge in edges) for node in at}
    out = {node: sum(edge.source == node for edge in edges) for node in at}
    return go.Scatter(
        x=[x for x, _ in at.values()],
        y=[y for _, y in at.values()],
        mode="markers",
        marker={"symbol": "square", "size": 26, "opacity": 0},
        hovertext=[f"{escape(label(node))}<br>{into[node]} edges in, {out[node]} out" for node in at],
        hoverinfo="text",
        showlegend=False,
    )


def _boxes(fig: go.Figure, at: At) -> None:
    """A box for each node, over the lines that pass it."""
    for node, (x, y) in at.items():
        fig.add_annotation(
            x=x, y=y, text=escape(label(node)), showarrow=False, bgcolor=look.SURFACE,
            bordercolor=look.MUTED, borderwidth=1, borderpad=3, font={"size": 11},
        )  # fmt: skip
