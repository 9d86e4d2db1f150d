"""One pass of the base and source runs together, keeping what the counterfactuals need.

Of the base run: the stream before every block and in its middle, keys and values. Of both: the activations
of the patched sites. Nothing is unembedded but the positions that the metrics read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from interp.engine import block as B
from interp.engine.runs import Runs
from interp.models.parts import Block, Weights

_ALSO = {"q": ("k", "v", "z"), "k": ("q", "v", "z"), "v": ("pattern", "z"), "pattern": ("z",)}


@dataclass(eq=False)
class Capture:
    """`base` and `source` map (site, layer) to [prompt, ...]; streams are those of the base run."""

    pre: list[Tensor] = field(default_factory=list)  # by layer, and after the last: [prompt, pos, d_model]
    mid: list[Tensor] = field(default_factory=list)
    past: list[B.Past] = field(default_factory=list)
    base: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    source: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    # The stream after the last block of base, then source: [2 prompt, pos, d_model].
    final: Tensor = field(default_factory=lambda: torch.empty(0))

    def difference(self, site: str, layer: int) -> Tensor:
        return self.source[site, layer] - self.base[site, layer]


def needed(sites: tuple[str, ...]) -> set[str]:
    """The sites to keep in order to patch `sites`."""
    return set(sites).union(*(_ALSO.get(site, ()) for site in sites))


def capture(weights: Weights, runs: Runs, sites: tuple[str, ...]) -> Capture:
    """Run base and source. Cost: 2 forwards of the blocks per prompt.

    Raises ValueError at the first value that is not finite.
    """
    n, n_pos = runs.base.shape
    base_noise, source_noise = runs.noises()
    embedded = [weights.embed(runs.base, base_noise), weights.embed(runs.source, source_noise)]
    x = torch.cat(embedded).flatten(0, 1)  # [2 n_prompt pos, d_model]
    pos = torch.arange(n_pos, device=x.device).repeat(2 * n)
    group = _whole(2 * n, n_pos, x.device)
    saved = Capture()
    tap = _saver(saved, runs, needed(sites))
    for layer, block in enumerate(weights.blocks):
        _finite(x, layer, n, n_pos)
        x = tap("resid_pre", layer, x)
        saved.pre.append(_both(x, n)[0])
        h = B.normed(block.attn_norm, x)
        z, k, v = B.attention(block.attn, layer, (h, pos), (h, pos), [group], None, tap)
        saved.past.append(B.Past(_both(k, n)[0], _both(v, n)[0]))
        x = _rest_of_block(block, layer, x, z, saved, tap, n)
        x = tap("resid_post", layer, x)
    _finite(x, len(weights.blocks), n, n_pos)
    saved.pre.append(_both(x, n)[0])
    saved.final = x.view(2 * n, n_pos, -1)
    return saved


def _rest_of_block(
    block: Block, layer: int, x: Tensor, z: Tensor, saved: Capture, tap: B.Tap, n: int
) -> Tensor:
    attn_out = tap("attn_out", layer, B.attn_write(block, z))
    if block.mlp is None:
        return x + attn_out
    if block.parallel:
        return x + attn_out + B.mlp(block.mlp, layer, x, tap)
    x = tap("resid_mid", layer, x + attn_out)
    saved.mid.append(_both(x, n)[0])
    return x + B.mlp(block.mlp, layer, x, tap)


def _both(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Rows [2 n pos, ...] as base and source [n, pos, ...]."""
    x = x.unflatten(0, (2 * n, -1))
    return x[:n], x[n:]


def _whole(n: int, n_pos: int, device: torch.device) -> B.Group:
    rows = torch.arange(n * n_pos, device=device).view(n, n_pos)
    runs = torch.arange(n, device=device)
    return B.Group(0, n_pos, runs, rows, rows, torch.arange(n_pos, device=device), runs)


def _saver(saved: Capture, runs: Runs, sites: set[str]) -> B.Tap:
    n = len(runs)

    def tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        if site in sites:
            base, source = (tensor[:n], tensor[n:]) if group else _both(tensor, n)
            saved.base[site, layer] = base
            saved.source[site, layer] = source if runs.fill is None else runs.fill(site, layer, source)
        return tensor

    return tap


def _finite(x: Tensor, layer: int, n: int, n_pos: int) -> None:
    if torch.isfinite(x).all():
        return
    row = int((~torch.isfinite(x)).any(-1).nonzero()[0])
    run, pos = divmod(row, n_pos)
    which = "base" if run < n else "source"
    place = "L0.resid_pre" if layer == 0 else f"L{layer - 1}.resid_post"
    raise ValueError(
        f"the model computes values that are not finite: first in {place}, {which} run of prompt {run % n}, "
        f"position {pos}. Check the weights, or load the model in float32."
    )
