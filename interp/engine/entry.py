"""Where a patch first changes the residual stream, and by how much.

A patch of one site changes the stream at one point: before a block, in its middle (after attention), or
after it. From there on the counterfactual is an ordinary run, so it *enters* there, and what comes before
need not be run at all. The change at the entry has a closed form from the captured base and source runs:

    resid_*, attn_out, mlp_out      source − base
    z                               Δz_h W_O[h]
    q, k, v                         attention of the patched head once more, then as z
    pattern                         Δpattern · v, then as z
    post                            Δneuron · W_out[neuron]

Points are numbered: 2·layer before the block, 2·layer + 1 in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.engine import block as B
from interp.engine.cells import ALL, SPAN, Cells, covers
from interp.engine.runs import Capture
from interp.models import Anatomy
from interp.models.parts import MLP, Block
from interp.places import STREAM_SITES

_AFTER_ATTENTION = ("q", "k", "v", "pattern", "z", "attn_out", "resid_mid")


def closed_form(facts: Anatomy, cells: Cells) -> bool:
    """Whether every cell can enter by the formulas above; otherwise they are overwritten on the way.

    Not so for several patches in a cell, nor where heads read one another's queries or keys through a norm.
    """
    return cells.single and not (facts.whole_qk_norm and {"q", "k"} & set(cells.sites))


def point(facts: Anatomy, site: str, layer: int) -> int:
    """The point of the stream that a patch at a site changes first."""
    if site == "resid_pre":
        return 2 * layer
    has_middle = not facts.attn_only and not facts.parallel
    return 2 * layer + (1 if has_middle and site in _AFTER_ATTENTION else 2)


def touched(saved: Capture, site: str, layer: int) -> np.ndarray:
    """Where base and source differ at all: bool, [prompt, pos(, head | neuron)] or [prompt, head, dst, src].

    Each axis but prompt and position has one more slot at its end, the "any" of the axis, so that the
    index -1 (all) reads it.
    """
    differ = saved.source[site, layer] != saved.base[site, layer]
    if site in STREAM_SITES:
        return differ.any(-1).cpu().numpy()
    if site == "pattern":
        differ = torch.cat((differ, differ.any(1, keepdim=True)), 1)  # [prompt, head + 1, dst, src]
        differ = torch.cat((differ, differ.any(3, keepdim=True)), 3)  # [prompt, head + 1, dst, src + 1]
        return differ.cpu().numpy()
    if site != "post":
        differ = differ.any(-1)  # [prompt, pos, head]
    return torch.cat((differ, differ.any(2, keepdim=True)), 2).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of the runs that enter at one point, each with its run's patch: all int64 [row]."""

    prompt: Tensor
    pos: Tensor
    patch: dict[str, Tensor]  # the patch's indices by column, -1 is all

    def on(self, device: torch.device) -> Rows:
        """The same on a device: a patch may change the stream where another layer's lies."""
        patch = {name: column.to(device) for name, column in self.patch.items()}
        return Rows(self.prompt.to(device), self.pos.to(device), patch)


def change(block: Block, saved: Capture, site: str, layer: int, rows: Rows) -> tuple[Tensor, Tensor]:
    """The rows that change, [changed], and by how much, [changed, d_model]."""
    if site in STREAM_SITES:
        changed = _at(saved, rows, rows.patch["pos"])
        return changed, saved.difference(site, layer)[rows.prompt[changed], rows.pos[changed]]
    if site == "post" and block.mlp is not None:
        changed = _at(saved, rows, rows.patch["pos"])
        return changed, _neurons(block.mlp, saved, layer, rows, changed)
    return _heads(block, saved, site, layer, rows)


def _at(saved: Capture, rows: Rows, wanted: Tensor) -> Tensor:
    """Rows at the position or span that their patch names (or any, for -1)."""
    return covers(saved.spans, wanted, rows.prompt, rows.pos).nonzero()[:, 0]


def _neurons(mlp: MLP, saved: Capture, layer: int, rows: Rows, changed: Tensor) -> Tensor:
    delta = saved.difference("post", layer)  # [prompt, pos, neuron]
    prompt, pos, neuron = rows.prompt[changed], rows.pos[changed], rows.patch["neuron"][changed]
    W = mlp.W_out
    raw = torch.empty(len(changed), W.shape[1], dtype=W.dtype, device=W.device)
    every = neuron < 0
    one = ~every
    raw[one] = delta[prompt[one], pos[one], neuron[one]][:, None] * W[neuron[one]]
    if every.any():
        raw[every] = delta[prompt[every], pos[every]] @ W
    if mlp.out_norm is None:
        return raw
    before = saved.base["post", layer][prompt, pos] @ W
    before = before if mlp.b_out is None else before + mlp.b_out
    return mlp.out_norm(before + raw) - mlp.out_norm(before)


def _heads(block: Block, saved: Capture, site: str, layer: int, rows: Rows) -> tuple[Tensor, Tensor]:
    """Changes through z: by the heads that each patch touches, so that W_O is read head by head."""
    place = rows.patch["dst"] if site == "pattern" else rows.patch["pos"]
    # A changed key or value reaches every later query; everything else stays at its own position.
    every = torch.arange(len(rows.pos), device=rows.pos.device)
    changed = every if site in ("k", "v") else _at(saved, rows, place)
    head = rows.patch["head"][changed]
    attn = block.attn
    n_heads = attn.W_O.shape[0]
    share = n_heads // attn.W_K.shape[0] if site in ("k", "v") else 1
    out = torch.empty(len(changed), attn.W_O.shape[-1], dtype=attn.W_O.dtype, device=attn.W_O.device)
    for number in head.unique().tolist():
        span = slice(0, n_heads) if number < 0 else slice(number * share, (number + 1) * share)
        mine = (head == number).nonzero()[:, 0]
        part = changed[mine]
        delta = _delta_z(block, saved, site, layer, rows, part, span)  # [part, heads of span, d_head]
        out[mine] = delta.flatten(1) @ attn.W_O[span].flatten(0, 1)
    if block.attn_out_norm is None:
        return changed, out
    before = saved.base["z", layer][rows.prompt[changed], rows.pos[changed]].flatten(1) @ attn.W_O.flatten(
        0, 1
    )
    before = before if attn.b_O is None else before + attn.b_O
    return changed, block.attn_out_norm(before + out) - block.attn_out_norm(before)


def _delta_z(
    block: Block, saved: Capture, site: str, layer: int, rows: Rows, part: Tensor, span: slice
) -> Tensor:
    """The change of z at the given rows for the heads of a span: [row, head, d_head]."""
    prompt, pos = rows.prompt[part], rows.pos[part]
    where = rows.patch["src" if site == "pattern" else "pos"][part]
    W_O = block.attn.W_O
    out = W_O.new_empty(len(part), span.stop - span.start, W_O.shape[1])
    # q and z act at their own position only, so patching one position reads the same table as patching all.
    groups = [-1] if site in ("q", "z") else where.unique().tolist()
    for one in groups:
        mine = slice(None) if site in ("q", "z") else (where == one).nonzero()[:, 0]
        out[mine] = _z_table(block, saved, site, layer, one)[prompt[mine], pos[mine], span]
    return out


def _z_table(block: Block, saved: Capture, site: str, layer: int, where: int) -> Tensor:
    """The change of every head's z when the site is patched at `where` (-1: everywhere; below: a span).

    [prompt, pos, head, d_head]; each head's column holds what patching that head (or its key-value head)
    alone does, since heads do not read one another.
    """
    if site == "z":
        return saved.difference("z", layer)
    past = saved.past[layer]
    if site == "pattern":
        delta = saved.difference("pattern", layer)
        return B.mix(_only(saved, delta, where, 3), past.v)
    attn = block.attn
    if site == "v":
        new = B.value(attn, saved.source["v", layer]) - B.value(attn, saved.base["v", layer])
        return B.mix(saved.base["pattern", layer], _only(saved, new, where, 1))
    patched = {name: saved.base[name, layer] for name in ("q", "k")}
    new = saved.source[site, layer]
    if where != ALL:
        new = torch.where(_chosen(saved, new, where, 1), new, patched[site])
    patched[site] = new
    pos = torch.arange(new.shape[1], device=new.device)
    q = B.finish_runs(attn, patched["q"], attn.q_norm)
    k = B.finish_runs(attn, patched["k"], attn.k_norm)
    return B.attend(attn, q, k, past.v, pos)[1] - saved.base["z", layer]


def _only(saved: Capture, x: Tensor, where: int, dim: int) -> Tensor:
    """x [prompt, ...], zero along a dim but at the position or in the span `where`; x itself for -1."""
    return x if where == ALL else torch.where(_chosen(saved, x, where, dim), x, 0.0)


def _chosen(saved: Capture, x: Tensor, where: int, dim: int) -> Tensor:
    """Whether an index of a dim of x is at a position or in a span: [prompt or 1, ..., index, ...]."""
    if saved.spans is not None and where <= SPAN:
        marks = saved.spans[:, SPAN - where].to(x.device)
    else:
        marks = (torch.arange(x.shape[dim], device=x.device) == where)[None]
    shape = [1] * x.ndim
    shape[0], shape[dim] = marks.shape
    return marks.view(shape)
