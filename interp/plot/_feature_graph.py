"""A circuit over features as a picture: positions from left to right, sites from below, errors among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot._frame import frame
from interp.plot._theme import escape, number

_EMBED, _LOGITS = "embed", "logits"
_CROWD = 3  # nodes of one site and position that have room for their numbers
_ROW, _WIDTHS = 92, (0.8, 1.6, 2.8, 4.4)
_SIGNS = {True: ("helps", look.POSITIVE, "solid"), False: ("hurts", look.NEGATIVE, "6px,4px")}
Place = tuple[float, float]


@verb
def feature_graph(
    graph: Any, title: str | None = None, *, most: int = 80, named: int = 20, theme: str = "auto"
) -> go.Figure:
    """Nodes by position and site, and the `most` edges of largest |weight|; blue helps, red and dashed hurts.

    graph: a `FeatureGraph` of `sae.circuit`. Circles are features, squares the dictionaries' errors, the
    larger the larger the score. named: how many features carry their number; the rest say it under the
    pointer. Raises ValueError for what is no such graph, and one without edges.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> found = sae.circuit(model, interp.tasks.ioi(model, n=2), [d], nodes=5, progress=False)
        >>> interp.plot.feature_graph(found).layout.title.text
        '<b>Circuit over features</b>'
    """
    if not all(hasattr(graph, name) for name in ("nodes", "edges", "sites", "tokens")):
        raise ValueError(
            f"plot.feature_graph draws the FeatureGraph of sae.circuit, not a {type(graph).__name__}."
        )
    if not graph.edges or most < 1:
        raise ValueError(f"the graph has {len(graph.edges)} edges and most is {most}; there is none to draw.")
    edges = sorted(graph.edges, key=lambda edge: -abs(edge[2]))[:most]
    used = {end for a, b, _ in edges for end in (a, b)}
    rows = [_EMBED, *graph.sites, _LOGITS]
    at = _places(graph, used, rows)
    fig = go.Figure([*_lines(edges, at), *_marks(graph, used, at)])
    for node in _named(graph, used, named):
        x, y = at[node]
        fig.add_annotation(
            x=x,
            y=y,
            text=_label(graph.nodes[node]),
            showarrow=False,
            yshift=-15,
            font={"size": 9, "color": look.MUTED},
        )
    tokens, (first, last) = list(graph.tokens) or [""], _ends(graph, used)
    shown = range(first, min(last + 1, len(tokens)))
    labels = [escape(look.visible(tokens[pos])[:12]) for pos in shown]
    fig.update_xaxes(
        tickmode="array", tickvals=list(shown), ticktext=labels,
        tickangle=-45, range=[first - 0.6, last + 0.6], showgrid=False, zeroline=False,
    )  # fmt: skip
    fig.update_yaxes(
        tickmode="array", tickvals=list(range(len(rows))), ticktext=rows, range=[-0.6, len(rows) - 0.5],
        showgrid=False, zeroline=False,
    )  # fmt: skip
    fig.update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right"})
    notes = [f"{len(edges)} of {len(graph.edges)} edges", "size and width: |effect|", "squares: errors"]
    facts = graph.provenance or {}
    notes = [str(facts[name]) for name in ("model", "task") if name in facts] + notes
    return frame(
        fig, title or "Circuit over features", " · ".join(notes), theme=theme, height=_ROW * len(rows),
        left=34 + 7 * max(map(len, rows)), right=20, below=80, above=24,
    )  # fmt: skip


def _places(graph: Any, used: set[int], rows: list[str]) -> dict[int, Place]:
    """Where each node lies: nodes of one site and position side by side; without positions over the width."""
    groups: dict[tuple[str, int], list[int]] = {}
    for number_ in sorted(used):
        node = graph.nodes[number_]
        groups.setdefault((node.site, node.pos), []).append(number_)
    (first, last), places = _ends(graph, used), {}
    for (site, pos), members in groups.items():
        middle, span = ((first + last) / 2, max(last - first, 1)) if pos < 0 else (float(pos), 0.8)
        middle = float(last) if site == _LOGITS else middle
        step = min(span / len(members), 0.45 if pos >= 0 else span)
        for i, member in enumerate(members):
            places[member] = middle + step * (i - (len(members) - 1) / 2), float(rows.index(site))
    return places


def _ends(graph: Any, used: set[int]) -> tuple[int, int]:
    """The positions that are drawn: from the first node's to the last one's, or to where the metric reads."""
    at = [pos for pos in (graph.nodes[n].pos for n in used) if pos >= 0]
    if not at:
        return 0, max(len(graph.tokens) - 1, 1)
    return min(at), max(*at, graph.end, min(at) + 1)


def _lines(edges: Sequence[tuple[int, int, float]], at: dict[int, Place]) -> list[go.Scatter]:
    """One trace for each sign and width."""
    most = max(abs(weight) for *_, weight in edges)
    groups: dict[tuple[float, bool], list[tuple[int, int]]] = {}
    for a, b, weight in edges:
        thick = _WIDTHS[min(3, int(4 * (abs(weight) / most) ** 0.5))]
        groups.setdefault((thick, weight > 0), []).append((a, b))
    traces, shown = [], set()
    for (thick, helps), members in sorted(groups.items()):
        name, colour, dash = _SIGNS[helps]
        x = [each for a, b in members for each in (at[a][0], at[b][0], None)]
        y = [each for a, b in members for each in (at[a][1], at[b][1], None)]
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                opacity=0.6,
                line={"color": colour, "width": thick, "dash": dash},
                hoverinfo="skip",
            )
        )
        shown.add(name)
    return traces


def _marks(graph: Any, used: set[int], at: dict[int, Place]) -> list[go.Scatter]:
    """The nodes, by their sign."""
    most = max((abs(node.score) for node in graph.nodes), default=0.0) or 1.0
    traces = []
    for helps in (True, False):
        members = [n for n in sorted(used) if (graph.nodes[n].score >= 0) == helps]
        nodes = [graph.nodes[n] for n in members]
        traces.append(
            go.Scatter(
                x=[at[n][0] for n in members],
                y=[at[n][1] for n in members],
                mode="markers",
                showlegend=False,
                marker={
                    "symbol": ["circle" if n.is_feature else "square" for n in nodes],
                    "color": _SIGNS[helps][1],
                    "size": [7 + 12 * np.sqrt(abs(n.score) / most) for n in nodes],
                    "line": {"color": look.SURFACE, "width": 1},
                },
                hovertext=[f"{escape(n.name)}<br>effect {number(n.score)}" for n in nodes],
                hoverinfo="text",
            )
        )
    return traces


def _named(graph: Any, used: set[int], named: int) -> list[int]:
    spots = [(graph.nodes[n].site, graph.nodes[n].pos) for n in used]
    features = [n for n in used if graph.nodes[n].is_feature]
    features = [n for n in features if spots.count((graph.nodes[n].site, graph.nodes[n].pos)) <= _CROWD]
    return sorted(features, key=lambda n: -abs(graph.nodes[n].score))[:named]


def _label(node: Any) -> str:
    return f"F{node.feature}"
