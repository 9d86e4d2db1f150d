"""Steered runs that start from the clean stream at the steered layer, not from the tokens.

1. Run the clean prompts once; keep the stream before the layers where an intervention comes first.
2. A steered run starts there. Runs of many coefficients stand side by side in the batch.
3. Only the logits that the metrics read are computed.

The values are those of a whole forward pass under hooks. A model that the engine cannot run, or whose clean
logits it does not reproduce, is run whole under hooks instead (`Whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.readout import Readout, Reads, widened
from interp.models.anatomy import Model, logits
from interp.models.parts import Weights
from interp.models.weights import unsupported, weights
from interp.steering.frame import Clock
from interp.steering.intervention import Intervention
from interp.steering.steer import steer

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class Whole:
    """Steered runs by the model itself, under hooks."""

    def __init__(self, model: Model, reads: Reads) -> None:
        self.model, self.reads = model, reads

    @cached_property
    def clean(self) -> Tensor:
        """Logits of the clean prompts, as `run` gives them."""
        return self.run(torch.arange(len(self.reads.runs), device=self.reads.runs.base.device), ())

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, vocab] or [row, pos, vocab], of the given prompts."""
        runs = self.reads.runs
        with torch.no_grad(), steer(self.model, *interventions, prompt_length=runs.lengths[prompt]):
            out = logits(self.model, runs.base[prompt])
        out = (
            out
            if self.reads.everywhere
            else out[torch.arange(len(out), device=out.device), runs.positions[prompt]]
        )
        if self.reads.columns is not None:
            out = out[..., self.reads.columns]
        return widened(out)


class Suffix:
    """Steered runs from the steered layer on, by the model's weights."""

    def __init__(self, model: Model, reads: Reads, layers: set[int]) -> None:
        self.weights, self.reads = weights(model), reads
        self.readout = Readout(self.weights, reads)
        self.pre: dict[int, Tensor] = {}

        def keep(site: str, layer: int, x: Tensor) -> Tensor:
            if site == "resid_pre" and layer in layers:
                self.pre[layer] = x
            return x

        with torch.no_grad():
            start = self.weights.embed(reads.runs.base)
            self.clean = self.readout.whole_runs(forward(self.weights, start, 0, keep))

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, column] or [row, pos, column], of the given prompts."""
        runs = self.reads.runs
        first = min((each.place.layer or 0 for each in interventions), default=0)
        start = self.pre[first][prompt] if interventions else self.weights.embed(runs.base[prompt])
        clock = Clock(runs.lengths[prompt])
        clock.start(runs.base[prompt])
        clock.tick(0, None, (start.shape[0], start.shape[1]), start.device)

        def tap(site: str, layer: int, x: Tensor) -> Tensor:
            for each in interventions:
                if (each.place.site, each.place.layer) == (site, layer):
                    x = each.apply(x, clock)
            return x

        with torch.no_grad():
            final = forward(self.weights, start, first, tap)
            if self.reads.everywhere:
                return self.readout.logits(final.flatten(0, 1)).unflatten(0, final.shape[:2])
            return self.readout.logits(
                final[torch.arange(len(final), device=final.device), runs.positions[prompt]]
            )


def forward(
    weights: Weights,
    x: Float[Tensor, "row pos d_model"],
    start: int,
    tap: Callable[[str, int, Tensor], Tensor],
) -> Float[Tensor, "row pos d_model"]:
    """The stream after the last block, from the stream before block `start`.

    tap(site, layer, activations [row, pos, ...]) sees every activation and says what to go on with.
    """
    n, n_pos, _ = x.shape
    pos = torch.arange(n_pos, device=x.device)
    rows = torch.arange(n * n_pos, device=x.device).view(n, n_pos)
    runs = torch.arange(n, device=x.device)
    groups = [B.Group(0, n_pos, runs, rows, rows, pos, runs)]
    pos = pos.repeat(n)

    def flat_tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        if site == "pattern":
            return tensor
        return tap(site, layer, tensor.unflatten(0, (n, n_pos))).flatten(0, 1)

    x = x.flatten(0, 1)
    for layer, block in enumerate(weights.blocks[start:], start):
        x = flat_tap("resid_pre", layer, x)
        h = B.normed(block.attn_norm, x)
        z, _, _ = B.attention(block.attn, layer, (h, pos), (h, pos), groups, None, flat_tap)
        attn_out = flat_tap("attn_out", layer, B.attn_write(block, z))
        if block.mlp is None:
            x = x + attn_out
        elif block.parallel:
            x = x + attn_out + B.mlp(block.mlp, layer, x, flat_tap)
        else:
            x = flat_tap("resid_mid", layer, x + attn_out)
            x = x + B.mlp(block.mlp, layer, x, flat_tap)
        x = flat_tap("resid_post", layer, x)
    return x.unflatten(0, (n, n_pos))


def runner(model: Model, reads: Reads, layers: set[int], sites: set[str]) -> Suffix | Whole:
    """`Suffix` where it gives the model's own logits on the clean prompts, else `Whole`."""
    if unsupported(model) is not None or "pattern" in sites:
        return Whole(model, reads)
    fast = Suffix(model, reads, layers)
    some = torch.arange(min(2, len(reads.runs)), device=reads.runs.base.device)
    whole = Whole(model, reads)
    truth, ours = whole.run(some, ()), fast.clean[some]
    allowed = _TOLERANCE.get(model.W_E.dtype, 3e-2) * (1 + truth.abs().max())
    return fast if bool((truth - ours).abs().max() <= allowed) else whole
