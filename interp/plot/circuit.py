"""A circuit as a picture: nodes by layer from the input below to the logits above, edges as lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import plotly.graph_objects as go

from interp.plot import theme
from interp.plot.circuit_layout import Edge, curved, label, places, row
from interp.plot.labels import escape, number

_PARTS = {
    "q": ("query", "#7b3294"),
    "k": ("key", "#d9820b"),
    "v": ("value", "#1b7f4d"),
    "": ("MLP, logits", "#44607c"),
    "*": ("edges, together", "#44607c"),
}
_SIGNS = {1: ("helps", theme.POSITIVE), -1: ("hurts", theme.NEGATIVE)}
_WIDTHS = (1.0, 1.8, 2.8, 4.2)
_NODE, _ROW, _LOWEST, _LEAST = 78, 74, 44, 640  # pixels
_BEND = 0.32


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


def circuit(
    circuit: Drawable, title: str | None = None, *, colour: str = "part", most: int = 200
) -> go.Figure:
    """The edges of a circuit, with their scores under the pointer.

    colour: "part" tells queries, keys and values apart (an edge with a negative score is dotted); "sign"
    tells edges that help from edges that hurt. Width goes with |score|. With more edges than `most`, the
    heads of a layer are drawn as one node, and edges between the same nodes as one.

    Raises ValueError for a circuit without edges.
    """
    if colour not in ("part", "sign"):
        raise ValueError(f"colour is {colour!r}; it must be 'part' or 'sign'.")
    if circuit.n_edges == 0:
        raise ValueError(f"{circuit.name!r} has no edge to draw.")
    every = _edges(circuit)
    together = len(every) > most
    drawn = _collapsed(every) if together else every
    at = places(drawn)
    fig = go.Figure([*_lines(drawn, at, colour), _hover(drawn, at), _nodes(drawn, at)])
    notes = [f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges"]
    notes += ["heads of a layer together, since there are many"] if together else []
    scored = any(np.isfinite(edge.score) for edge in every)
    notes += ["width: |score|"] if scored else ["width: number of edges"] if together else []
    notes += ["dotted: negative"] if colour == "part" and any(edge.score < 0 for edge in drawn) else []
    _dress(fig, drawn, at, title or f"Circuit {circuit.name}", " · ".join(notes))
    return fig


def _edges(circuit: Drawable) -> list[Edge]:
    scores = None if circuit.scores is None else np.array(circuit.scores.tolist(), dtype=float)
    if scores is not None and scores.ndim == 3:
        scores = np.nanmean(np.where(np.isnan(scores).all(0), 0.0, scores), 0)
    found = []
    for name in circuit.edges():
        writer, reader = circuit.graph.edge(name)
        source, target = name.split("->")
        score = float("nan") if scores is None else float(scores[writer, reader])
        part = target[-2] if target.endswith(">") else ""
        text = f"{label(source)} → {label(target.partition('<')[0])}{'.' + part if part else ''}"
        text += f"<br>score {number(score)}" if np.isfinite(score) else ""
        found.append(Edge(source, target.partition("<")[0], part, score, text))
    return found


def _collapsed(edges: list[Edge]) -> list[Edge]:
    """Heads of a layer as one node; the score is the sum of |score|, and the count where there is none."""
    groups: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        groups.setdefault((_layer_of(edge.source), _layer_of(edge.target)), []).append(edge)
    found = []
    for (source, target), members in groups.items():
        sizes = [abs(edge.score) for edge in members if np.isfinite(edge.score)]
        size = float(sum(sizes)) if sizes else float(len(members))
        text = f"{label(source)} → {label(target)}<br>{len(members)} edges"
        text += f"<br>sum of |score| {number(size)}" if sizes else ""
        found.append(Edge(source, target, "*", size, text))
    return found


def _layer_of(node: str) -> str:
    return f"a{row(node)[0]}.all" if ".h" in node else node


def _lines(edges: list[Edge], at: dict[str, tuple[float, float]], colour: str) -> Iterable[go.Scatter]:
    """One trace for each colour, sign and width."""
    width = _width(edges)
    groups: dict[tuple[str, bool, float], list[Edge]] = {}
    for edge in edges:
        groups.setdefault((_key(edge, colour), edge.score < 0, width(edge)), []).append(edge)
    legend: set[str] = set()
    for (key, negative, thick), members in sorted(groups.items()):
        name, shade = _PARTS[key] if colour == "part" else _SIGNS[int(key)]
        x, y = [], []
        for edge in members:
            xs, ys = _way(edge, at)
            x += [*xs, None]
            y += [*ys, None]
        dash = "dot" if negative and colour == "part" else "solid"
        yield go.Scatter(
            x=x, y=y, mode="lines", name=name, legendgroup=name, showlegend=name not in legend,
            line={"color": shade, "width": thick, "dash": dash}, opacity=0.7, hoverinfo="skip",
        )  # fmt: skip
        legend.add(name)


def _key(edge: Edge, colour: str) -> str:
    return edge.part if colour == "part" else ("-1" if edge.score < 0 else "1")


def _width(edges: list[Edge]) -> Any:
    """The width of an edge: one of four, by |score| as a share of the largest."""
    most = max((abs(edge.score) for edge in edges if np.isfinite(edge.score)), default=0.0)

    def width(edge: Edge) -> float:
        share = abs(edge.score) / most if most > 0 and np.isfinite(edge.score) else 0.3
        return _WIDTHS[min(3, int(4 * share**0.5))]

    return width


def _way(edge: Edge, at: dict[str, tuple[float, float]]) -> tuple[list, list]:
    """Bent where it passes rows; the three inputs of a head side by side."""
    start, end = at[edge.source], at[edge.target]
    aside = {"q": -0.16, "k": 0.0, "v": 0.16}.get(edge.part, 0.0)
    far = max(0.0, end[1] - start[1] - 1)
    middle = max(x for x, _ in at.values()) / 2
    side = 1.0 if (start[0] + end[0]) / 2 >= middle else -1.0
    return curved(start, (end[0] + aside, end[1] - 0.13), side * _BEND * far**0.7 + aside)


def _hover(edges: list[Edge], at: dict[str, tuple[float, float]]) -> go.Scatter:
    """What the pointer finds: three unseen points on every edge."""
    x, y, texts = [], [], []
    for edge in edges:
        xs, ys = _way(edge, at)
        for i in (4, 8, 12):
            x.append(xs[i])
            y.append(ys[i])
            texts.append(edge.text)
    marker = {"size": 9, "opacity": 0}
    return go.Scatter(
        x=x, y=y, mode="markers", marker=marker, hovertext=texts, hoverinfo="text", showlegend=False
    )


def _nodes(edges: list[Edge], at: dict[str, tuple[float, float]]) -> go.Scatter:
    into = {node: sum(edge.target == node for edge in edges) for node in at}
    out = {node: sum(edge.source == node for edge in edges) for node in at}
    return go.Scatter(
        x=[x for x, _ in at.values()],
        y=[y for _, y in at.values()],
        mode="markers+text",
        text=[escape(label(node)) for node in at],
        textfont={"size": 11, "color": theme.INK},
        marker={"symbol": "square", "size": 26, "color": "white", "opacity": 0.85, "line": {"width": 0}},
        hovertext=[f"{escape(label(node))}<br>{into[node]} edges in, {out[node]} out" for node in at],
        hoverinfo="text",
        showlegend=False,
    )


def _dress(
    fig: go.Figure, edges: list[Edge], at: dict[str, tuple[float, float]], title: str, notes: str
) -> None:
    x = np.concatenate([_way(edge, at)[0] for edge in edges] + [[place[0] for place in at.values()]])
    rows = max(y for _, y in at.values()) + 1
    width = int(max(_LEAST, 60 + _NODE * (x.max() - x.min() + 1.2)))
    heading, above = theme.titles(title, notes, width)
    fig.update_layout(
        template=theme.template(),
        title=heading,
        width=width,
        height=int(above + 70 + max(_LOWEST, _ROW - rows) * rows),
        margin={"l": 30, "r": 30, "t": above, "b": 50},
        legend={"orientation": "h", "y": 0, "yanchor": "top", "x": 0.5, "xanchor": "center"},
    )
    fig.update_xaxes(visible=False, range=[x.min() - 0.6, x.max() + 0.6])
    fig.update_yaxes(visible=False, range=[-0.5, rows - 0.5])
