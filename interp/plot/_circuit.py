"""A circuit as a picture: nodes by layer from the input below to the logits above, edges as lines.

Where the nodes stand:
1. A row holds the heads of a layer, another its MLP; rows without a node are left out.
2. Within a row nodes go in the order of the mean place of their neighbours (barycentres, Sugiyama et al.
   1981), a few sweeps up and down.
3. MLPs stand in a column of their own, to the right of all heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._frame import frame
from interp.plot._theme import escape, number

_PARTS = {
    "q": ("query", look.QUERY),
    "k": ("key", look.KEY),
    "v": ("value", look.VALUE),
    "": ("MLP, logits", look.PLAIN),
    "*": ("edges, together", look.PLAIN),
}
_SIGNS = {1: ("helps", look.POSITIVE), -1: ("hurts", look.NEGATIVE)}
_WIDTHS = (1.0, 1.8, 2.8, 4.2)
_ROW, _LOWEST = 74, 44  # pixels: a row, and a row at least
_UNITS = 10.0  # across a figure at least, so that lines meet their boxes also where it is wide
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


@verb
def circuit(
    circuit: Drawable,
    title: str | None = None,
    *,
    colour: str = "part",
    most: int = 200,
    theme: str = "auto",
) -> go.Figure:
    """The edges of a circuit, with their scores under the pointer.

    circuit: a Circuit. colour: "part" tells queries, keys and values apart (an edge with a negative score is
    dotted); "sign" tells edges that help from edges that hurt. Width goes with |score|. With more edges than
    `most`, the heads of a layer are drawn as one node, and edges between the same nodes as one.

    Raises ValueError for what is no circuit, and for one without edges.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> figure = interp.plot.circuit(interp.circuits.prune(interp.circuits.top(scores, 20)))
        >>> figure.layout.title.text
        '<b>Circuit eap top 20</b>'
    """
    _check(circuit, colour)
    every = _edges(circuit)
    together = len(every) > most
    drawn = _collapsed(every) if together else every
    at = places(drawn)
    fig = go.Figure([*_lines(drawn, at, colour), _hover(drawn, at), _nodes(drawn, at)])
    notes = [_about(circuit), f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges"]
    notes += ["heads of a layer together, since there are many"] if together else []
    scored = any(np.isfinite(edge.score) for edge in every)
    notes += ["width: |score|"] if scored else ["width: number of edges"] if together else []
    notes += ["dotted: negative"] if colour == "part" and any(edge.score < 0 for edge in drawn) else []
    return _dress(fig, drawn, at, title or f"Circuit {circuit.name}", " · ".join(filter(None, notes)), theme)


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


def _edges(circuit: Drawable) -> list[Edge]:
    scores = None if circuit.scores is None else np.array(circuit.scores.tolist(), dtype=float)
    if scores is not None and scores.ndim == 3:
        scores = np.nanmean(np.where(np.isnan(scores).all(0), 0.0, scores), 0)
    edges = []
    for name in circuit.edges():
        writer, reader = circuit.graph.edge(name)
        source, target = name.split("->")
        score = float("nan") if scores is None else float(scores[writer, reader])
        part = target[-2] if target.endswith(">") else ""
        text = f"{label(source)} → {label(target.partition('<')[0])}{'.' + part if part else ''}"
        text += f"<br>score {number(score)}" if np.isfinite(score) else ""
        edges.append(Edge(source, target.partition("<")[0], part, score, text))
    return edges


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
    aside = {"q": -0.13, "k": 0.0, "v": 0.13}.get(edge.part, 0.0)
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


def _boxes(fig: go.Figure, at: dict[str, tuple[float, float]]) -> None:
    """A box for each node, over the lines that pass it."""
    for node, (x, y) in at.items():
        fig.add_annotation(
            x=x, y=y, text=escape(label(node)), showarrow=False, bgcolor=look.SURFACE,
            bordercolor=look.MUTED, borderwidth=1, borderpad=3, font={"size": 11},
        )  # fmt: skip


def _dress(
    fig: go.Figure, edges: list[Edge], at: dict[str, tuple[float, float]], title: str, notes: str, theme: str
) -> go.Figure:
    x = np.concatenate([_way(edge, at)[0] for edge in edges] + [[place[0] for place in at.values()]])
    rows = max(y for _, y in at.values()) + 1
    _boxes(fig, at)
    fig.update_layout(
        legend={"orientation": "h", "y": 0, "yanchor": "top", "x": 0.5, "xanchor": "center"},
    )
    middle, half = (x.min() + x.max()) / 2, max(_UNITS, x.max() - x.min() + 1.2) / 2
    fig.update_xaxes(visible=False, range=[middle - half, middle + half])
    fig.update_yaxes(visible=False, range=[-0.5, rows - 0.5])
    margins = {"left": 30, "right": 30, "below": 50}
    return frame(fig, title, notes, theme=theme, height=20 + max(_LOWEST, _ROW - rows) * rows, **margins)


_SWEEPS = 8
_ASIDE = 1.3  # of the MLPs from the outermost head


@dataclass(frozen=True)
class Edge:
    """One line of the picture."""

    source: str
    target: str
    part: str  # "q", "k", "v", or "" for MLPs and logits
    score: float  # NaN: none
    text: str  # shown under the pointer


def row(node: str) -> tuple[int, int]:
    """Layer, and 0 for attention, 1 for the MLP."""
    if node == "input":
        return (-1, 0)
    if node == "logits":
        return (10**9, 0)
    match = re.fullmatch(r"([am])(\d+)(?:\.h\d+|\.all)?", node)
    if match is None:
        raise ValueError(f"{node!r} is not a node's name, such as input, a9.h6, m5 or logits.")
    return (int(match[2]), int(match[1] == "m"))


def label(node: str) -> str:
    """The name of a node in the style of the package: L9H6, MLP5."""
    if match := re.fullmatch(r"a(\d+)\.h(\d+)", node):
        return f"L{match[1]}H{match[2]}"
    if match := re.fullmatch(r"a(\d+)\.all", node):
        return f"L{match[1]} heads"
    return re.sub(r"^m(\d+)", r"MLP\1", node)


def places(edges: Iterable[Edge]) -> dict[str, tuple[float, float]]:
    """x and y of every node that an edge touches; y counts rows, x is centred on 0."""
    pairs = [(edge.source, edge.target) for edge in edges]
    rows = _rows(sorted({node for pair in pairs for node in pair}))
    near: dict[str, list[str]] = {}
    for source, target in pairs:
        near.setdefault(source, []).append(target)
        near.setdefault(target, []).append(source)
    at = {node: _x(i, len(nodes)) for nodes in rows for i, node in enumerate(nodes)}
    for sweep in range(_SWEEPS):
        for nodes in rows[:: -1 if sweep % 2 else 1]:
            nodes.sort(key=lambda node: (float(np.mean([at[other] for other in near[node]])), node))
            at |= {node: _x(i, len(nodes)) for i, node in enumerate(nodes)}
    right = max(x for node, x in at.items() if not node.startswith("m")) + _ASIDE
    at |= {node: right for node in at if node.startswith("m")}
    return {node: (at[node], float(y)) for y, nodes in enumerate(rows) for node in nodes}


def curved(start: tuple[float, float], end: tuple[float, float], bend: float) -> tuple[list, list]:
    """A line from node to node that leaves upwards, bent aside so that it passes by what lies between."""
    t = np.linspace(0, 1, 17)
    (x0, y0), (x1, y1) = start, end
    rise = y1 - y0
    points = np.array([[x0, y0], [x0 + bend, y0 + 0.45 * rise], [x1 + bend, y1 - 0.45 * rise], [x1, y1]])
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x, y = points.T @ weights
    return x.tolist(), y.tolist()


def _rows(nodes: list[str]) -> list[list[str]]:
    rows: dict[tuple[int, int], list[str]] = {}
    for node in nodes:
        rows.setdefault(row(node), []).append(node)
    return [sorted(rows[key], key=_head) for key in sorted(rows)]


def _head(node: str) -> int:
    return int(node.rpartition(".h")[2]) if ".h" in node else 0


def _x(index: int, count: int) -> float:
    return index - (count - 1) / 2
