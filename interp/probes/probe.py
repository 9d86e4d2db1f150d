"""Trained probes: they score new prompts, and their normals are directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from interp.models.anatomy import Model, anatomy
from interp.names import Place
from interp.probes.aggregate import Weights, scores
from interp.probes.reading import readings
from interp.steering.direction import Direction
from interp.steering.read_positions import Positions


@dataclass(frozen=True, eq=False)
class Probes:
    """One probe a place. `pos` and `agg` say what each reads, `platt` makes its probabilities.

    weights: on the raw activations. platt: slope and intercept, fitted on held-out prompts.
    """

    weights: Mapping[Place, Weights]
    agg: str
    pos: Positions
    model: str
    platt: Mapping[Place, tuple[float, float]] = field(default_factory=dict)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where there is a probe."""
        return tuple(self.weights)

    def at(self, *places: Place) -> Probes:
        """The probes at some of the places."""
        missing = [where for where in places if where not in self.weights]
        if missing or not places:
            known = ", ".join(map(str, self.places))
            raise ValueError(f"there is no probe at {', '.join(map(str, missing))}; there are {known}.")
        kept = {where: self.weights[where] for where in places}
        return replace(self, weights=kept, platt={where: self.platt[where] for where in places})

    def score(self, model: Model, prompts: Any, *, batch_size: int = 32) -> xr.Dataset:
        """`logit` and `probability` (place, prompt) of the positive class, the latter calibrated.

        prompts: strings, token ids or a Task. Cost: one forward pass as far as the last place. Raises
        ValueError for another model. The model is left as found.
        """
        name = anatomy(model).name
        if name != self.model:
            raise ValueError(f"the probes were trained on {self.model!r}, this is {name!r}. Train them here.")
        wanted = tuple(dict.fromkeys(replace(where, head=None) for where in self.places))
        read = readings(model, prompts, wanted, self.pos, batch_size=batch_size)
        logits, probabilities = [], []
        for where, weights in self.weights.items():
            seen = read[where]
            logit = scores(self.agg, seen.tokens.double(), seen.real, weights)[0]
            slope, intercept = self.platt.get(where, (1.0, 0.0))
            logits.append(logit.cpu().numpy())
            probabilities.append(torch.sigmoid(slope * logit + intercept).cpu().numpy())
        names = np.array([str(where) for where in self.places], dtype=object)
        dims = ("place", "prompt")
        return xr.Dataset(
            {"logit": (dims, np.stack(logits)), "probability": (dims, np.stack(probabilities))},
            coords={"place": names, "prompt": np.arange(len(logits[0]))},
            attrs={"method": "probe scores", "model": self.model, "agg": self.agg},
        )

    def direction(self) -> Direction:
        """The normals of linear probes (agg "mean") as a direction, towards the positive class."""
        if self.agg != "mean":
            raise ValueError(f"a probe of agg={self.agg!r} is not linear and has no normal. Use agg='mean'.")
        vectors = {where: weights.v[0, :, 0] for where, weights in self.weights.items()}
        return Direction(vectors, model=self.model, method="probe", positions=str(self.pos))
