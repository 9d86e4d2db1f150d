"""Trained probes: they score new prompts, and their normals are directions.

On file: safetensors, with everything but the weights as JSON in the header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp._activations import activations, engine_for
from interp._brief import brief
from interp.files import read_tensors, require_tensors, write_tensors
from interp.models import Model, anatomy
from interp.models.places import width
from interp.places import AXES, Place, parse
from interp.positions import AnyPositions
from interp.probes.aggregate import Weights, scores
from interp.prompts import Prompts, read, written
from interp.results import versions
from interp.steering._direction import same_weights

if TYPE_CHECKING:
    from interp.steering import Direction

FORMAT = "interp-probes-1"
FIELDS = ("agg", "model", "pos", "places", "platt")
BATCH = 32  # prompts at once
_PARTS = ("v", "q", "b")


@dataclass(frozen=True, eq=False)
class Probes:
    """One probe a place. `pos` and `agg` say what each reads, `platt` makes its probabilities.

    weights: on the raw activations. platt: slope and intercept, fitted on held-out prompts. identity: values
    of the unembedding of the model that they were trained on, which tell two of one name apart.

    Raises ValueError for weights that do not fit together.
    """

    weights: Mapping[Place, Weights]
    agg: str
    pos: AnyPositions
    model: str
    platt: Mapping[Place, tuple[float, float]] = field(default_factory=dict)
    identity: tuple[float, ...] = ()
    __repr__ = brief

    def __post_init__(self) -> None:
        for where, parts in self.weights.items():
            shapes = {name: tuple(getattr(parts, name).shape) for name in _PARTS}
            v, q, b = shapes.values()
            if len(v) != 3 or q != v or b != v[:1]:
                raise ValueError(f"the probe at {where} has {shapes}; v and q are [fit, d, head], b [fit].")

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

    def score(
        self,
        model: Model,
        prompts: Any,
        *,
        mask: Tensor | None = None,
        batch_size: int | None = None,
        engine: str = "auto",
    ) -> xr.Dataset:
        """`logit` and `probability` (place, prompt) of the positive class, the latter calibrated.

        prompts: strings, token ids (with `mask` 1 where a token is real) or a Task. engine: as in
        `interp.activations`. Cost: one forward pass as far as the last place. Raises ValueError for another
        model. The model is left as found.
        """
        self.check(model)
        wanted = tuple(dict.fromkeys(replace(where, head=None) for where in self.places))
        data = read(model, prompts, mask)
        chosen = engine_for(model, [data], wanted, engine)
        found = readings(model, data, wanted, self.pos, batch_size=batch_size or BATCH, engine=chosen)
        logits, probabilities = [], []
        for where, weights in self.weights.items():
            seen = found[where]
            logit = scores(self.agg, seen.tokens.double(), seen.real, weights)[0]
            slope, intercept = self.platt.get(where, (1.0, 0.0))
            logits.append(logit.cpu().numpy())
            probabilities.append(torch.sigmoid(slope * logit + intercept).cpu().numpy())
        names = np.array([str(where) for where in self.places], dtype=object)
        dims = ("place", "prompt")
        return xr.Dataset(
            {"logit": (dims, np.stack(logits)), "probability": (dims, np.stack(probabilities))},
            coords={"place": names, "prompt": np.arange(len(logits[0]))},
            attrs={"method": "probe scores", "model": self.model, "agg": self.agg, "engine": chosen},
        )

    def check(self, model: Model) -> Probes:
        """The probes themselves; ValueError when they are of another model. No forward pass."""
        name = anatomy(model).name
        if name != self.model:
            raise ValueError(f"the probes were trained on {self.model!r}, this is {name!r}. Train them here.")
        if self.identity and not same_weights(self.identity, model):
            raise ValueError(
                f"the probes were trained on another model that is called {name!r} as well. Train them here; "
                "if both share their activations, use dataclasses.replace(probes, identity=())."
            )
        for where, parts in self.weights.items():
            if (read_ := parts.v.shape[1]) != (here := width(where, anatomy(model))):
                raise ValueError(f"the probe at {where} reads {read_} numbers, and {name} has {here} there.")
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
            return torch.from_numpy(self.score(model, written(model, tokens))["probability"].values[0])

        return probability

    def save(self, path: str | Path) -> Path:
        """Write the weights as safetensors, all else as JSON in its header; an existing file is replaced.

        ValueError for probes that read at a `pos` that is a function.
        """
        if not isinstance(self.pos, (str, int, tuple, list)):
            raise ValueError(
                f"the probes read at {self.pos!r}, which no file can hold. "
                "Fit them at a name, an index or a span."
            )
        tensors = {
            f"{where}/{part}": getattr(weights, part)
            for where, weights in self.weights.items()
            for part in _PARTS
        }
        header: dict[str, Any] = {
            "agg": self.agg,
            "model": self.model,
            "pos": self.pos,
            "identity": list(self.identity),
            "versions": versions(),
        }
        header["places"] = [str(where) for where in self.places]
        header["platt"] = {str(where): list(pair) for where, pair in self.platt.items()}
        return write_tensors(Path(path), tensors, form=FORMAT, key="probes", header=header)

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> Probes:
        """Read a file of `save`; ValueError for another file, and with `model` for probes of another."""
        tensors, header = read_tensors(
            Path(path), form=FORMAT, key="probes", writer="Probes.save", fields=FIELDS
        )
        names = [f"{where}/{part}" for where in header["places"] for part in _PARTS]
        require_tensors(tensors, names, str(path))
        pos = header["pos"]
        probes = cls(
            weights={
                parse(n): Weights(*(tensors[f"{n}/{part}"] for part in _PARTS)) for n in header["places"]
            },
            agg=header["agg"],
            pos=tuple(pos) if isinstance(pos, list) else pos,
            model=header["model"],
            platt={parse(name): (pair[0], pair[1]) for name, pair in header["platt"].items()},
            identity=tuple(header.get("identity", ())),
        )
        return probes if model is None else probes.check(model)

    def direction(self) -> Direction:
        """The normals of linear probes (agg "mean") as a direction, towards the positive class."""
        from interp.steering import Direction

        if self.agg != "mean":
            raise ValueError(f"a probe of agg={self.agg!r} is not linear and has no normal. Use agg='mean'.")
        vectors = {where: weights.v[0, :, 0] for where, weights in self.weights.items()}
        return Direction(vectors, model=self.model, method="probe", positions=str(self.pos))


@dataclass(frozen=True, eq=False)
class Reading:
    """Activations of some prompts at a place, padded on the right."""

    tokens: Float[Tensor, "prompt pos d"]
    real: Bool[Tensor, "prompt pos"]

    def __getitem__(self, rows: Tensor) -> Reading:
        return Reading(self.tokens[rows], self.real[rows])

    def __len__(self) -> int:
        return len(self.tokens)


def by_head(site: str) -> bool:
    """Whether the site has heads."""
    return "head" in AXES[site]


def readings(
    model: Model,
    prompts: Prompts,
    places: tuple[Place, ...],
    pos: AnyPositions,
    *,
    batch_size: int = BATCH,
    engine: str = "auto",
) -> dict[Place, Reading]:
    """One reading for every place; for sites with heads, one for every head. pos="all": every token."""
    rows = activations(model, prompts, places, pos, batch_size=batch_size, engine=engine)
    real = prompts.real if pos == "all" else torch.ones_like(prompts.real[:, :1])
    found = {}
    for where in places:
        whole = _padded(rows[where], real)  # [prompt, pos, (head,) d]
        if not by_head(where.site) or where.head is not None:
            found[where] = Reading(whole, real)
            continue
        for head in range(whole.shape[2]):
            found[replace(where, head=head)] = Reading(whole[:, :, head], real)
    return found


def joined(one: Reading, other: Reading) -> Reading:
    """The prompts of both, one after the other."""
    width = max(one.tokens.shape[1], other.tokens.shape[1])
    wide = [_widened(part, width) for part in (one, other)]
    return Reading(torch.cat([w.tokens for w in wide]), torch.cat([w.real for w in wide]))


def _padded(rows: Tensor, real: Tensor) -> Tensor:
    if rows.shape[0] == real.shape[0] and real.shape[1] == 1:
        return rows[:, None]
    whole = torch.zeros((*real.shape, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    whole[real] = rows
    return whole


def _widened(part: Reading, width: int) -> Reading:
    more = width - part.tokens.shape[1]
    tokens = torch.nn.functional.pad(part.tokens, (0, 0, 0, more))
    return Reading(tokens, torch.nn.functional.pad(part.real, (0, more)))
