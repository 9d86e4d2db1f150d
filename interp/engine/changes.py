"""Given changes of one site, instead of another run's activations: what features of a dictionary are
patched by.

A unit is a change of a site at a layer, by position. Most are of rank one: a number at every position times a
vector (a feature and its direction); a few are whole (the error of a dictionary, several features as one).
All enter the stream where their site writes to it, like any other patch, and ride in the same batches: K
units on n prompts are K n runs from the site on. Where a unit changes nothing the run is the base run, to
the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine.cells import Cells, covers
from interp.engine.items import Items, live_items
from interp.engine.layout import Layout
from interp.engine.readout import Outcome
from interp.engine.reference import Reference
from interp.engine.runs import Capture
from interp.engine.wavefront import Prepared, Wavefront
from interp.models.hook_points import patch_hooks
from interp.models.parts import Block, Weights

UNIT = "neuron"  # the column of a table of cells that holds a unit's number


@dataclass(frozen=True, eq=False)
class Changes:
    """Units of one site; those of rank one come first. Heads of `z` stand side by side."""

    site: str
    layer: int
    amounts: Float[Tensor, "prompt pos unit"]
    vectors: Float[Tensor, "unit width"]
    dense: Float[Tensor, "whole prompt pos width"]

    def __len__(self) -> int:
        return len(self.vectors) + len(self.dense)

    def touched(self) -> np.ndarray:
        """Where each unit changes anything, and, in a last slot, any: bool [prompt, pos, unit + 1]."""
        whole = (self.dense != 0).any(-1).permute(1, 2, 0)
        every = torch.cat((self.amounts != 0, whole), 2)
        return torch.cat((every, every.any(2, keepdim=True)), 2).cpu().numpy()

    def at(self, prompt: Tensor, pos: Tensor, unit: Tensor) -> Float[Tensor, "row width"]:
        """The change of the site at some positions of some prompts, each by a unit."""
        n = len(self.vectors)
        one = unit < n
        if bool(one.all()):
            return self.vectors[unit].mul_(self.amounts[prompt, pos, unit][:, None])
        out = torch.empty(len(unit), self.vectors.shape[1], dtype=self.vectors.dtype, device=unit.device)
        out[one] = self.amounts[prompt[one], pos[one], unit[one]][:, None] * self.vectors[unit[one]]
        out[~one] = self.dense[unit[~one] - n, prompt[~one], pos[~one]]
        return out

    def whole(self, unit: int) -> Float[Tensor, "prompt pos width"]:
        """The change that a unit makes everywhere."""
        n = len(self.vectors)
        return self.amounts[..., unit, None] * self.vectors[unit] if unit < n else self.dense[unit - n]


class Changed(Prepared):
    """Base and source runs of some prompts; cells are units of changes."""

    changes: Changes

    def live(self, cells: Cells) -> Items:
        """The counterfactual runs that have to be computed."""
        touched = self.changes.touched()
        facts = self.budget.facts
        return live_items(facts, cells, self.reads, lambda site, layer: touched, units=True)

    def _wave(self, cells: Cells, layout: Layout) -> Wavefront:
        return _Wave(self.weights, self.saved, cells, layout, self.changes)


class _Wave(Wavefront):
    """Items that enter with a unit's change."""

    def __init__(
        self, weights: Weights, saved: Capture, cells: Cells, layout: Layout, changes: Changes
    ) -> None:
        super().__init__(weights, saved, cells, layout, closed_form=True)
        self.changes = changes

    def _add_changes(self, rows: Tensor, item: Tensor, prompt: Tensor, pos: Tensor) -> None:
        cells = self.cells
        cell = torch.as_tensor(self.layout.items.cell, device=item.device)[item]
        unit, wanted = (torch.as_tensor(cells.column(n), device=item.device)[cell] for n in (UNIT, "pos"))
        covered = covers(self.saved.spans, wanted, prompt, pos)
        if bool(covered.all()):  # no row is left out, so none is copied
            rows += self._delta(prompt, pos, unit).to(rows)
            return
        mine = covered.nonzero()[:, 0]
        rows[mine] += self._delta(prompt[mine], pos[mine], unit[mine]).to(rows)

    def _delta(self, prompt: Tensor, pos: Tensor, unit: Tensor) -> Float[Tensor, "row d_model"]:
        """What units change in the stream, made where the changes and then where the layer lies."""
        changes, block = self.changes, self.weights.blocks[self.changes.layer]
        delta = changes.at(*(each.to(changes.amounts.device) for each in (prompt, pos, unit)))
        delta, prompt, pos = (each.to(block.device) for each in (delta, prompt, pos))
        return _written(block, self.saved, changes, prompt, pos, delta)


def _written(
    block: Block, saved: Capture, changes: Changes, prompt: Tensor, pos: Tensor, delta: Tensor
) -> Float[Tensor, "row d_model"]:
    """What a change of the site is in the stream."""
    site, at = changes.site, (changes.site, changes.layer)
    if site == "z":
        W, bias, norm = block.attn.W_O.flatten(0, 1), block.attn.b_O, block.attn_out_norm
    elif site == "post" and block.mlp is not None:
        W, bias, norm = block.mlp.W_out, block.mlp.b_out, block.mlp.out_norm
    else:
        return delta
    out = delta.to(W) @ W
    if norm is None:
        return out
    before = saved.base[at][prompt, pos].flatten(1) @ W
    before = before if bias is None else before + bias
    return norm(before + out) - norm(before)


def by_hooks(
    ready: Reference, changes: Changes, cells: Cells, tick: Callable[[int], object] = lambda n: None
) -> Outcome:
    """The same by the model itself, one forward pass a cell. `ready` was made with `both`."""
    base = ready.base_activations[changes.site, changes.layer]
    spans = ready.runs.spans
    patched = np.empty((len(cells), *ready.base.shape))
    prompt, pos = (torch.arange(size, device=base.device) for size in base.shape[:2])
    prompt, pos = prompt[:, None].expand(base.shape[:2]), pos[None].expand(base.shape[:2])
    for number in range(len(cells)):
        wanted = torch.full_like(pos, int(cells.column("pos")[number]))
        where = covers(spans, wanted, prompt, pos)  # [prompt, pos]
        delta = changes.whole(int(cells.column(UNIT)[number])) * where[..., None]
        source = base + delta.reshape(base.shape).to(base)
        hooks = patch_hooks(ready.model, changes.site, changes.layer, (slice(None),), source)
        patched[number] = ready.under(hooks)
        tick(len(ready.runs))
    return Outcome(patched, ready.base, ready.source)
