"""Who sends, who receives, what is frozen, and where: the arguments of `path_patch`, checked before any pass.

Time is counted in sublayers: attention of layer l reads at 2l and its heads write at 2l + 1, its MLP reads at
2l + 1 (at 2l where it runs in parallel with attention) and writes at 2l + 2; the logits read at the end. A
sender reaches a receiver that reads no earlier than the sender writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from interp import places, positions, stats
from interp.grid import check_site
from interp.models import Anatomy
from interp.places import Place, hint
from interp.tasks import Task

Named = str | Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]]
SENDING = ("z", "attn_out", "mlp_out", "post", "resid_pre", "resid_mid", "resid_post")
PARTS = ("q", "k", "v")
GROUPS = ("heads", "mlps", "all")
_MLP = re.compile(r"L([0-9]+)\.mlp(@.*)?")


@dataclass(frozen=True)
class Cell:
    """Places that are patched together (a sender), or whose inputs are taken together (a receiver)."""

    name: str
    places: tuple[Place, ...]


@dataclass(frozen=True, eq=False)
class Frozen:
    """The components whose outputs stay those of the own run."""

    name: str
    heads: Bool[np.ndarray, "layer head"]
    mlps: Bool[np.ndarray, "layer"]


@dataclass(frozen=True, eq=False)
class Ends:
    """Both ends of the paths; `marks` say at which positions of every prompt they act."""

    senders: tuple[Cell, ...]
    dims: tuple[str, ...]  # of the senders in the result
    shape: tuple[int, ...]
    coords: Mapping[str, Any]
    receivers: tuple[Cell, ...]
    several: bool  # whether the result has a dim of receivers
    frozen: Frozen
    sender_marks: Bool[Tensor, "prompt pos"]
    receiver_marks: Bool[Tensor, "prompt pos"]
    reachable: Bool[np.ndarray, "sender receiver"]
    norm: str
    combine: str

    def marks(self, place: Place, prompts: Tensor | slice, *, sending: bool) -> Bool[Tensor, "prompt pos"]:
        """Where a place acts in some prompts."""
        marks = (self.sender_marks if sending else self.receiver_marks)[prompts]
        if place.pos is None:
            return marks
        return marks & (torch.arange(marks.shape[1], device=marks.device) == place.pos)

    def sites(self, facts: Anatomy) -> tuple[str, ...]:
        """The sites whose activations are needed of both runs."""
        wanted = {"z", "mlp_out", *(place.site for cell in self.senders for place in cell.places)}
        return tuple(site for site in places.SITES if site in wanted and facts.lacks(site) is None)


def make(
    facts: Anatomy,
    task: Task,
    senders: Named,
    receivers: Named | xr.Dataset,
    *,
    top: int,
    freeze: str | Sequence[str],
    norm: str,
    combine: str,
    sender_positions: Any,
    receiver_positions: Any,
) -> Ends:
    """The arguments of `path_patch` as ends. ValueError for whatever does not fit."""
    for word, value, options in (
        ("norm", norm, ("exact", "frozen")),
        ("combine", combine, ("replace", "add")),
    ):
        if value not in options:
            raise ValueError(
                f"{word} {value!r} is not one of {', '.join(options)}{hint(str(value), options)}"
            )
    n_pos = task.clean.shape[1]
    sending, dims, shape, coords = _senders(facts, n_pos, senders)
    if isinstance(receivers, xr.Dataset):
        receivers = top_of(facts, receivers, top)
    receiving = _receivers(facts, n_pos, receivers)
    frozen = _frozen(facts, freeze, sending)
    reachable = np.array([[_reaches(facts, s, r) for r in receiving] for s in sending])
    _check_reach(sending, receiving, reachable, isinstance(senders, str) and senders in GROUPS)
    return Ends(
        sending, dims, shape, coords, receiving, not isinstance(receivers, str), frozen,
        where(sender_positions, task, "sender_positions"),
        where(receiver_positions, task, "receiver_positions"),
        reachable, norm, combine,
    )  # fmt: skip


def written(facts: Anatomy, place: Place) -> int:
    """When a place has written, in sublayers."""
    after = {"resid_pre": 0, "z": 1, "attn_out": 1, "resid_mid": 1}.get(place.site, 2)
    return 0 if place.layer is None else 2 * place.layer + after


def read_at(facts: Anatomy, place: Place) -> int:
    """When a receiver reads, in sublayers."""
    if place.layer is None:
        return 2 * facts.n_layers
    return 2 * place.layer + int(place.site == "mlp_out" and not facts.parallel)


def _reaches(facts: Anatomy, sender: Cell, receiver: Cell) -> bool:
    first = min(written(facts, place) for place in sender.places)
    return any(first <= read_at(facts, place) for place in receiver.places)


def _check_reach(
    senders: Sequence[Cell], receivers: Sequence[Cell], reachable: np.ndarray, grid: bool
) -> None:
    """A cell of a grid may be out of reach, and is NaN; what was asked for by name must not be."""
    for number in np.flatnonzero(~reachable.any(0))[:1]:
        names = senders[0].name if len(senders) == 1 else f"any of the {len(senders)} senders"
        raise ValueError(
            f"receiver {receivers[number].name!r} reads before {names} writes, so no path leads there. "
            "Give a sender of a layer below, or a later receiver."
        )
    for number in [] if grid else np.flatnonzero(~reachable.any(1))[:1]:
        raise ValueError(
            f"sender {senders[number].name!r} writes after every receiver has read "
            f"({', '.join(cell.name for cell in receivers)}), so no path leads from it. Leave it out, or "
            "give a later receiver."
        )


def _senders(
    facts: Anatomy, n_pos: int, given: Named
) -> tuple[tuple[Cell, ...], tuple[str, ...], tuple[int, ...], dict[str, Any]]:
    """Cells, and the dims, sizes and coordinates that they have in a result."""
    layers, heads = np.arange(facts.n_layers), np.arange(facts.n_heads)
    if given == "heads":
        check_site(facts, "z")
        cells = [_cell(Place("z", int(layer), head=int(head))) for layer in layers for head in heads]
        names = np.array([cell.name for cell in cells], dtype=object).reshape(len(layers), len(heads))
        coords = {"layer": layers, "head": heads, "head_name": (("layer", "head"), names)}
        return tuple(cells), ("layer", "head"), names.shape, coords
    if given == "mlps":
        check_site(facts, "mlp_out")
        cells = [_cell(Place("mlp_out", int(layer))) for layer in layers]
        return tuple(cells), ("layer",), (len(layers),), {"layer": layers}
    if given == "all":
        cells = [Cell("embed", (Place("resid_pre", 0),))]
        for layer in layers:
            cells += [_cell(Place("z", int(layer), head=int(head))) for head in heads]
            cells += [] if facts.attn_only else [_cell(Place("mlp_out", int(layer)))]
        check_site(facts, "z")
    else:
        cells = _named(given, lambda text: (_sender(facts, n_pos, text),), "sender", "L9H6, MLP3 or embed")
    names = np.array([cell.name for cell in cells], dtype=object)
    return tuple(cells), ("sender",), (len(cells),), {"sender": names}


def _cell(place: Place) -> Cell:
    return Cell(str(place), (place,))


def _named(given: Any, parse: Callable[[str], tuple[Place, ...]], what: str, example: str) -> list[Cell]:
    """Cells of one place each, of a list of places, or of a mapping of names to places."""
    if isinstance(given, Mapping):
        entries = [(str(name), [of] if isinstance(of, str) else list(of)) for name, of in given.items()]
    else:
        listed = [given] if isinstance(given, str) else list(given)
        entries = [(e, [e]) if isinstance(e, str) else (" + ".join(e), list(e)) for e in listed]
    if not entries or not all(parts for _, parts in entries):
        raise ValueError(f"{what}s= names nothing. Give at least one, for example {example}.")
    names = [name for name, _ in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{what} {twice[0]!r} is given twice.")
    return [
        Cell(name, tuple(dict.fromkeys(place for part in parts for place in parse(part))))
        for name, parts in entries
    ]


def _sender(facts: Anatomy, n_pos: int, text: str) -> Place:
    place = _parse(facts, n_pos, text)
    place = Place("resid_pre", 0, pos=place.pos) if place.site == "embed" else place
    if place.site not in SENDING:
        raise ValueError(
            f"{text!r} does not write to the stream, so it is no sender. Senders are heads (L9H6), MLPs "
            "(MLP3), neurons (L3N17), the stream itself (L3.resid_pre@5) and embed."
        )
    return place


def _parse(facts: Anatomy, n_pos: int, text: str) -> Place:
    """A place of this model by any of its names, `L3.mlp` too, with positions counted from 0."""
    match = _MLP.fullmatch(text)
    parsed = places.parse(f"MLP{match[1]}{match[2] or ''}" if match else text)
    if parsed.site in PARTS and facts.n_key_value_heads < facts.n_heads:
        _check_key_value_head(facts, parsed)
    sizes = ("n_layers", "n_heads", "n_key_value_heads", "d_mlp")
    parsed.check(n_pos=n_pos, **{size: getattr(facts, size) for size in sizes})
    if parsed.site not in places.ENDS:
        check_site(facts, parsed.site)
    return parsed if parsed.pos is None else replace(parsed, pos=parsed.pos % n_pos)


def _check_key_value_head(facts: Anatomy, place: Place) -> None:
    """Keys and values are shared: refuse to name one by a query head."""
    if place.site == "q" or place.head is None or not facts.n_key_value_heads <= place.head < facts.n_heads:
        return
    share = facts.n_heads // facts.n_key_value_heads
    group = place.head // share
    heads = ", ".join(str(head) for head in range(group * share, (group + 1) * share))
    own = str(replace(place, head=group))
    raise ValueError(
        f"{str(place)!r}: heads {heads} of layer {place.layer} read key-value head {group}. Ask for {own!r}, "
        "by key-value head, which moves all of them."
    )


def _receivers(facts: Anatomy, n_pos: int, given: Named) -> tuple[Cell, ...]:
    if given == "all":
        every = [Place("q", layer) for layer in range(facts.n_layers)]
        every = [part for place in every for part in _inputs(facts, replace(place, site="z"))]
        every += [] if facts.attn_only else [Place("mlp_out", layer) for layer in range(facts.n_layers)]
        return (Cell("all", (*every, Place("logits"))),)
    parse = lambda text: _receiver(facts, n_pos, text)  # noqa: E731
    return tuple(_named(given, parse, "receiver", "L9H6.q, MLP3 or logits"))


def _receiver(facts: Anatomy, n_pos: int, text: str) -> tuple[Place, ...]:
    place = _parse(facts, n_pos, text)
    if place.site not in (*PARTS, "z", "mlp_out", "logits"):
        raise ValueError(
            f"{text!r} is not an input, so it is no receiver. Receivers are L9H6.q, L9H6.k, L9H6.v, a whole "
            "head (L9H6: all three), an MLP (MLP3: its input) and logits."
        )
    found = (place,) if place.site in ("mlp_out", "logits") else tuple(_inputs(facts, place))
    if facts.whole_qk_norm and {"q", "k"} & {each.site for each in found}:
        raise ValueError(
            f"{facts.name} norms the queries and keys of all heads together, so those of one head depend on "
            "the others' and cannot be received alone. Use receivers such as L9H6.v, MLP3 or logits."
        )
    return found


def _inputs(facts: Anatomy, place: Place) -> list[Place]:
    """The inputs of a head (or of all heads of a layer): query, and the key and value that it reads."""
    share = facts.n_heads // facts.n_key_value_heads
    found = []
    for part in PARTS if place.site == "z" else (place.site,):
        heads = range(facts.heads(part)) if place.head is None else [place.head]
        if place.site == "z" and place.head is not None and part != "q":
            heads = [place.head // share]
        found += [Place(part, place.layer, head=head, pos=place.pos) for head in heads]
    return found


def _frozen(facts: Anatomy, freeze: str | Sequence[str], senders: Sequence[Cell]) -> Frozen:
    heads = np.zeros((facts.n_layers, facts.n_heads), bool)
    mlps = np.zeros(facts.n_layers, bool)
    listed = [freeze] if isinstance(freeze, str) else list(freeze)
    sending = {place: cell.name for cell in senders for place in cell.places}
    for text in listed:
        if text in GROUPS:
            heads |= text != "mlps"
            mlps |= text != "heads"
            continue
        place = _parse(facts, facts.n_ctx, text)
        if place.site not in ("z", "mlp_out") or place.pos is not None:
            raise ValueError(
                f"freeze={freeze!r}: {text!r} cannot be frozen. Give 'heads', 'all', 'mlps', (), or a list "
                "of heads (L9H6), whole layers of them (L9.z) and MLPs (MLP3), at all positions."
            )
        if place in sending:
            raise ValueError(
                f"{sending[place]!r} is a sender and is frozen as well. A frozen part keeps what it wrote in "
                "its own run, so leave it out of one of the two."
            )
        if place.site == "z":
            heads[place.layer, slice(None) if place.head is None else place.head] = True
        else:
            mlps[place.layer] = True
    return Frozen(", ".join(listed) or "nothing", heads, mlps)


def where(given: Any, task: Task, what: str) -> Bool[Tensor, "prompt pos"]:
    """The marks of some positions; a prompt without a named one has none. ValueError for others outside."""
    try:
        return positions.marked(positions.at(*given) if isinstance(given, list) else given, task)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def top_of(facts: Anatomy, result: xr.Dataset, top: int) -> list[str]:
    """The inputs of the cells of the largest |mean effect|: of a head its query, key and value, each apart.

    Raises ValueError for cells that are no heads, MLPs or lists of them, and for positions.
    """
    if top < 1:
        raise ValueError(f"top is {top}; ask for at least 1 cell.")
    value = stats.mean(result)["value"]
    value = value.isel(metric=0) if "metric" in value.dims else value
    value = abs(value).max("receiver") if "receiver" in value.dims else value  # of paths: to any receiver
    names = [_cell_name(result, value, index) for index in np.ndindex(*value.shape)]
    size = np.nan_to_num(np.abs(value.values.astype(float)).ravel(), nan=-1.0)
    found: list[str] = []
    for number in np.argsort(-size, kind="stable")[:top]:
        place = _parse(facts, facts.n_ctx, names[number])
        if place.site in ("mlp_out", *PARTS):
            found.append(str(place))
        elif place.site == "z" and place.head is not None:
            found += [str(part) for part in _inputs(facts, place)]
    if not found:
        raise ValueError(
            f"receivers: none of the {top} largest cells of the result ({', '.join(names[:3])}, ...) is a "
            "head or an MLP. Name the receivers."
        )
    return list(dict.fromkeys(found))


def inputs_of(facts: Anatomy, name: str) -> list[Place]:
    """The inputs of a head or an MLP by name, each apart."""
    place = _parse(facts, facts.n_ctx, name)
    return [place] if place.site == "mlp_out" else _inputs(facts, place) if place.site == "z" else []


def _cell_name(result: xr.Dataset, value: xr.DataArray, index: tuple[int, ...]) -> str:
    """The name of one cell of a result by (site,) layer and head, or by a list of names."""
    at = {str(dim): value[dim].values[i] for dim, i in zip(value.dims, index)}
    for dim in ("cell", "sender", "component"):
        if dim in at:
            return str(at[dim])
    if not {"layer"} <= set(at) <= {"site", "layer", "head"}:
        raise ValueError(
            f"receivers: a result over {', '.join(at)} does not say which inputs are meant. Give one over "
            "layer and head, or over layers of mlp_out, or name the receivers."
        )
    site = str(at.get("site", result.attrs.get("site", "z")))
    head = int(at["head"]) if "head" in at else None
    return str(Place(site, int(at["layer"]), head=head))
