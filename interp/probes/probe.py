"""Trained probes: they score new prompts, and their normals are directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp.models import Model, anatomy
from interp.places import Place
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
        self.check(model)
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

    def check(self, model: Model) -> Probes:
        """The probes themselves; ValueError when they are of another model. No forward pass."""
        name = anatomy(model).name
        if name != self.model:
            raise ValueError(f"the probes were trained on {self.model!r}, this is {name!r}. Train them here.")
        return self

    def judge(self, model: Model) -> Callable[[Tensor], Tensor]:
        """A judge for `steering.sweep`: token ids [prompt, pos] to probabilities [prompt], positive class.

        The probability of the concept in what a steered model wrote, read by the model unsteered:
        `sweep(..., judges={"concept": probes.at(place).judge(model)})`. ValueError for several places.
        """
        self.check(model)
        if len(self.weights) != 1:
            names = ", ".join(map(str, self.places))
            raise ValueError(f"a judge reads at one place, these are at {names}. Choose one with .at(...).")

        def probability(tokens: Tensor) -> Tensor:
            return torch.from_numpy(self.score(model, tokens)["probability"].values[0])

        return probability

    def save(self, path: str | Path) -> Path:
        """Write the weights as safetensors, all else as JSON in its header. See `probe_file`."""
        from interp.probes.probe_file import save

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> Probes:
        """Read a file of `save`; with `model`, ValueError unless the probes are of it."""
        from interp.probes.probe_file import load

        found = cls(**load(Path(path)))
        return found if model is None else found.check(model)

    def direction(self) -> Direction:
        """The normals of linear probes (agg "mean") as a direction, towards the positive class."""
        if self.agg != "mean":
            raise ValueError(f"a probe of agg={self.agg!r} is not linear and has no normal. Use agg='mean'.")
        vectors = {where: weights.v[0, :, 0] for where, weights in self.weights.items()}
        return Direction(vectors, model=self.model, method="probe", positions=str(self.pos))
