"""Steered runs that start from the clean stream at the steered layer, not from the tokens.

1. Run the clean prompts once; keep the stream before the layers where an intervention comes first.
2. A steered run starts there. Runs of many coefficients stand side by side in the batch.
3. Only the logits that the metrics read are computed.

The values are those of a whole forward pass under hooks. A model that the engine cannot run, or whose clean
logits it does not reproduce, is run whole under hooks instead (`Whole`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import torch
from jaxtyping import Int
from torch import Tensor

from interp.engine.forward import forward
from interp.engine.readout import Readout, Reads, widened
from interp.models import Model, logits
from interp.models.parts import Weights
from interp.steering.frame import Clock
from interp.steering.intervention import Intervention, own_weights, taps
from interp.steering.steer import steer


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

    def __init__(self, weights: Weights, reads: Reads, layers: set[int]) -> None:
        self.weights, self.reads = weights, reads
        self.readout = Readout(self.weights, reads)
        self.pre: dict[int, Tensor] = {}

        def keep(x: Tensor, layer: int) -> Tensor:
            self.pre[layer] = x
            return x

        kept = {("resid_pre", layer): partial(keep, layer=layer) for layer in layers}
        with torch.no_grad():
            start = self.weights.embed(reads.runs.base)
            self.clean = self.readout.whole_runs(forward(self.weights, start, 0, kept))

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, column] or [row, pos, column], of the given prompts."""
        runs = self.reads.runs
        first = min((each.first_layer for each in interventions), default=0)
        start = self.pre[first][prompt] if interventions else self.weights.embed(runs.base[prompt])
        clock = Clock(runs.lengths[prompt])
        clock.start(runs.base[prompt])
        clock.tick(0, None, (start.shape[0], start.shape[1]), start.device)
        with torch.no_grad():
            final = forward(self.weights, start, first, taps(interventions, clock))
            if self.reads.everywhere:
                return self.readout.logits(final.flatten(0, 1)).unflatten(0, final.shape[:2])
            return self.readout.logits(
                final[torch.arange(len(final), device=final.device), runs.positions[prompt]]
            )


def runner(model: Model, reads: Reads, made: Sequence[Sequence[Intervention]]) -> Suffix | Whole:
    """`Suffix` where the model's weights give its logits, else `Whole`.

    made: the interventions of each run that is to come, for the layers at which they start.
    """
    runs = reads.runs
    weights = own_weights(model, [each for run in made for each in run], runs.base, runs.lengths)
    if isinstance(weights, str):
        return Whole(model, reads)
    return Suffix(weights, reads, {min(each.first_layer for each in run) for run in made if run})
