"""Direction: vectors at places of a model, and how they were found.

A vector keeps its length: `add(d, 4.0)` adds 4 times the vector. `d.unit()` has length 1. `norms` holds the
median norm of the activations that the vector was found in, so that a coefficient can be said in units of
it. Directions add and scale like vectors; where only one has a place, its vector is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._arguments import number
from interp._brief import brief_direction
from interp._verbs import verb
from interp.engine.trust import prove_readout
from interp.models import Model, anatomy, final_norm
from interp.models.places import place, width
from interp.places import Place, parse
from interp.tasks import vocabulary

LAYOUTS = ("vector", "basis", "positions")
Vectors = Mapping[Place, Tensor]


@dataclass(frozen=True, eq=False)
class Direction:
    """Vectors by place: [d] (layout "vector"), [k, d] ("basis", a subspace), [pos, d] ("positions").

    model: the model's name, None for any; weights: a sample of its unembedding, since two models may have one
    name. method, positions, data, seed: how it was found and from what.
    norms: median norm of the activations at the place. means: mean projections of the positive and the
    negative class on the unit vector. shuffled: the same method after the labels were shuffled, a control.
    """

    vectors: Vectors
    layout: str = "vector"
    model: str | None = None
    method: str = "given"
    positions: str = ""
    norms: Mapping[Place, float] = field(default_factory=dict)
    means: Mapping[Place, tuple[float, float]] = field(default_factory=dict)
    shuffled: Vectors = field(default_factory=dict)
    data: str = ""
    seed: int | None = None
    weights: tuple[float, ...] = ()
    __repr__ = brief_direction

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}; use one of {', '.join(LAYOUTS)}.")
        if not self.vectors:
            raise ValueError("the direction has no vectors. Give a vector for at least one place.")
        bad = [str(where) for where, norm in self.norms.items() if not 0 <= norm < float("inf")]
        if bad:
            raise ValueError(f"the norm at {bad[0]} is not a finite number of 0 or more; extract it again.")
        for name in ("vectors", "shuffled"):
            with torch.inference_mode(False):
                copies = {where: _checked(where, v, self.layout) for where, v in getattr(self, name).items()}
            object.__setattr__(self, name, copies)

    @classmethod
    @verb
    def from_tensor(
        cls,
        vector: Float[Tensor, "*rows d"],
        site: str = "resid_pre",
        layer: int | None = None,
        head: int | None = None,
        *,
        layout: str | None = None,
        model: str | None = None,
    ) -> Direction:
        """A direction from a tensor of yours: [d], or [k, d] for a subspace (or layout="positions").

        `site` may also name the place whole, as in "L3.resid_pre" or "L3H2". Raises ValueError for a vector
        that is not finite, of another shape, or all 0.
        """
        where = Place(site, layer, head=head) if layer is not None else parse(site)
        if not isinstance(vector, Tensor) or not bool((vector != 0).any()):
            what = "is all 0" if isinstance(vector, Tensor) else f"is a {type(vector).__name__}, no tensor"
            raise ValueError(f"the vector at {str(where)!r} {what}: it has no direction.")
        return cls({where: vector}, layout=layout or ("vector" if vector.ndim == 1 else "basis"), model=model)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the direction has vectors."""
        return tuple(self.vectors)

    @property
    def place(self) -> Place:
        """The only place; ValueError where there are several."""
        if len(self.vectors) > 1:
            names = ", ".join(map(str, self.places))
            raise ValueError(
                f"the direction has {len(self.vectors)} places ({names}). Choose one with .at(...)."
            )
        return self.places[0]

    @property
    def vector(self) -> Tensor:
        """The vector of the only place."""
        return self.vectors[self.place]

    @property
    def layer(self) -> int | None:
        """The layer of the only place."""
        return self.place.layer

    @property
    def site(self) -> str:
        """The site of the only place."""
        return self.place.site

    def at(self, *places: str | Place) -> Direction:
        """The same direction at some of its places only. ValueError for a place that it does not have."""
        wanted = [where if isinstance(where, Place) else parse(where) for where in places]
        missing = [where for where in wanted if where not in self.vectors]
        if missing or not wanted:
            names = ", ".join(map(str, self.places))
            raise ValueError(
                f"the direction has no vector at {', '.join(map(str, missing))}; it has {names}."
            )
        return self._only(lambda where: where in wanted)

    def split(self) -> tuple[Direction, ...]:
        """One direction for each place."""
        return tuple(self.at(where) for where in self.places)

    def spread(self, places: list[Place] | tuple[Place, ...]) -> Direction:
        """The vector of the only place, put at other places of the same width."""
        return replace(self, vectors=dict.fromkeys(places, self.vector), norms={}, means={}, shuffled={})

    def unit(self) -> Direction:
        """Every vector (row of a basis or of positions) at length 1. ValueError, with the place, for a 0."""
        vectors = {where: _unit(vector, where) for where, vector in self.vectors.items()}
        shuffled = {
            where: _unit(vector, where) for where, vector in self.shuffled.items() if bool(vector.any())
        }
        return replace(self, vectors=vectors, shuffled=shuffled)

    def __add__(self, other: Direction) -> Direction:
        if self.layout != other.layout:
            raise ValueError(f"cannot add a direction of layout {other.layout!r} to one of {self.layout!r}.")
        if None not in (self.model, other.model) and self.model != other.model:
            raise ValueError(f"the directions are of two models, {self.model!r} and {other.model!r}.")
        if self.model is not None and other.model is not None and self.weights and other.weights:
            apart = (torch.tensor(self.weights) - torch.tensor(other.weights)).abs().max()
            if float(apart) > 0.02 * max(map(abs, self.weights)):
                raise ValueError(f"the directions are of two models that are both called {self.model!r}.")
        return replace(
            self,
            vectors=_sum(self.vectors, other.vectors),
            shuffled=_sum(self.shuffled, other.shuffled) if self.shuffled and other.shuffled else {},
            norms={**other.norms, **self.norms},
            means={},
            model=self.model or other.model,
            weights=self.weights or other.weights,
            method=f"{self.method} + {other.method}",
        )

    def __neg__(self) -> Direction:
        return self * -1.0

    def __sub__(self, other: Direction) -> Direction:
        return self + -other

    def __mul__(self, factor: float | int) -> Direction:
        factor = number("a direction's factor", factor)
        sign = -1.0 if factor < 0 else 1.0
        means = {where: (sign * up, sign * down) for where, (up, down) in self.means.items()}
        return replace(self._mapped(lambda v: v * factor), means=means)

    __rmul__ = __mul__

    def __truediv__(self, factor: float | int) -> Direction:
        factor = number("a direction's divisor", factor)
        if factor == 0:
            raise ValueError("a direction cannot be divided by 0.")
        return self * (1.0 / factor)

    def project(self, activations: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """Length of the activations along the unit vector of the only place, in the activations' units."""
        vector = self._single_vector()
        if activations.shape[-1] != len(vector):
            raise ValueError(
                f"the activations have width {activations.shape[-1]}, the direction {len(vector)}. "
                f"Take activations at {self.place}."
            )
        return activations @ _unit(vector, self.place).to(activations)

    def cosine(self, other: Direction) -> Float[Tensor, "place"]:
        """Cosines with another direction at the places that both have, in the order of this one's."""
        shared = [where for where in self.places if where in other.vectors]
        if not shared:
            here, there = (", ".join(map(str, each.places)) for each in (self, other))
            raise ValueError(f"the directions share no place: one has {here}, the other {there}.")
        pairs = [(_unit(self.vectors[w].double(), w), _unit(other.vectors[w].double(), w)) for w in shared]
        return torch.stack([(a * b).sum() for a, b in pairs])

    @verb
    def lens(self, model: Model) -> Float[Tensor, "vocab"]:
        """Logits that the unit vector writes: through the final norm's gain and the unembedding.

        The norm's scale, which depends on the prompt, is left out: values compare tokens with one another.
        """

        self.check(model)
        return _lens(model, _unit(self._single_vector(), self.place))

    @verb
    def top_tokens(self, model: Model, k: int = 10) -> list[tuple[str, float]]:
        """The k tokens that the direction raises most, with their logits (see `lens`).

        `(-direction).top_tokens(model)` gives those that it lowers most.
        """
        values, ids = self.lens(model).topk(k)
        names = [vocabulary.decode(model, [token]) for token in ids.tolist()]
        return list(zip(names, values.tolist()))

    @verb
    def decompose(
        self,
        dictionary: Any,
        k: int = 8,
        *,
        method: str = "pursuit",
        ridge: float | int = 1e-3,
        activations: Float[Tensor, "row d"] | None = None,
        n_draws: int = 100,
        seed: int = 0,
    ) -> Any:
        """What is in the vector: a Dataset of `coefficient`, `explained`, `null`, `p`, `residual`.

        dictionary: an `interp.sae.Dictionary`, directions by name, or a tensor [atom, d]. method: "pursuit"
        chooses k atoms one by one; "ridge" fits all and gives the k largest. `null` (draw, rank): random
        vectors of this length, with the covariance of `activations` where given. See `_decompose`. No pass.
        """
        from interp.steering._decompose import decompose

        return decompose(self, dictionary, k, method, float(ridge), activations, n_draws, seed)

    def require_any(self) -> Direction:
        """The direction itself; ValueError where it is 0 at all of its places: nothing would happen."""
        if not any(float(vector.double().norm()) > 0 for vector in self.vectors.values()):
            raise ValueError(
                f"the direction is 0 at {', '.join(map(str, self.places))}: it has no direction, and nothing "
                "would change. Extract it at other layers or positions, or from prompts that differ there."
            )
        return self

    def check(self, model: Model) -> Direction:
        """The direction itself; ValueError when it is of another model, site or width. No forward pass."""
        facts = anatomy(model)
        same_model("the direction", self.model, self.weights, model)
        for where, vector in self.vectors.items():
            place(where, facts)
            if vector.shape[-1] != width(where, facts):
                raise ValueError(
                    f"the direction has width {vector.shape[-1]} at {str(where)!r}, the model has "
                    f"{width(where, facts)} there. Use a direction of this model and site."
                )
        return self

    @verb
    def save(self, path: str | Path) -> Path:
        """Write the vectors as safetensors, all else as JSON in its header. See `_files`."""

        from interp.steering._files import save

        return save(self, Path(path))

    @classmethod
    @verb
    def load(cls, path: str | Path, model: Model | None = None) -> Direction:
        """Read a file of `save`; with `model`, ValueError unless the direction fits it."""

        from interp.steering._files import load

        found = load(Path(path))
        return found if model is None else found.check(model)

    @verb
    def to_gguf(self, path: str | Path) -> Path:
        """Write a control vector for llama.cpp. See `_files`."""
        from interp.steering._files import write_gguf

        return write_gguf(self, Path(path))

    def _single_vector(self) -> Tensor:
        if self.layout != "vector":
            raise ValueError(f"this needs one vector, and the direction has layout {self.layout!r}.")
        return self.vector

    def _mapped(self, fn: Callable[[Tensor], Tensor]) -> Direction:
        vectors, shuffled = ({w: fn(v) for w, v in part.items()} for part in (self.vectors, self.shuffled))
        return replace(self, vectors=vectors, shuffled=shuffled)

    def _only(self, wanted: Callable[[Place], bool]) -> Direction:
        parts: dict[str, Any] = {
            name: {w: v for w, v in getattr(self, name).items() if wanted(w)}
            for name in ("vectors", "norms", "means", "shuffled")
        }
        return replace(self, **parts)


def _checked(where: Place, vector: Tensor, layout: str) -> Tensor:
    rows = 1 if layout == "vector" else 2
    if vector.ndim != rows or not vector.numel():
        raise ValueError(
            f"the vector at {str(where)!r} has shape {tuple(vector.shape)}; layout {layout!r} needs "
            f"{'[d]' if rows == 1 else '[rows, d]'}."
        )
    if not vector.is_floating_point():
        raise ValueError(f"the vector at {str(where)!r} holds {vector.dtype}; give floating-point numbers.")
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"the vector at {str(where)!r} is not finite.")
    wide = vector.detach().clone()
    return wide if wide.dtype in (torch.float32, torch.float64) else wide.float()  # norms of halves overflow


def _unit(vector: Tensor, where: Place) -> Tensor:
    """The vector at length 1, computed in float64; ValueError where it is 0."""
    norm = vector.double().norm(dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError(
            f"the vector at {str(where)!r} is 0, so it has no unit vector. Leave the place out with "
            ".at(...), or extract at other layers."
        )
    return (vector.double() / norm).to(vector.dtype)


def identity(model: Model) -> tuple[float, ...]:
    """Values of the unembedding at 16 places, which tell two models of one name apart."""
    flat = model.W_U.detach().reshape(-1)
    at = torch.linspace(0, flat.numel() - 1, 16, dtype=torch.float64).long()
    return tuple(flat[at.to(flat.device)].double().tolist())


def same_weights(kept: Sequence[float], model: Model) -> bool:
    """Whether an identity that was kept is this model's, as far as half precision tells."""
    was, here = torch.tensor(kept), torch.tensor(identity(model))
    near = 0.02 * float(was.abs().max())
    return was.shape == here.shape and torch.allclose(was, here, rtol=0.05, atol=near)


def found_on(model: Model) -> dict[str, Any]:
    """What a direction keeps of the model that it was found on."""
    return {"model": anatomy(model).name, "weights": identity(model)}


def same_model(
    what: str, name: str | None, weights: Sequence[float], model: Model, free: str = "direction, model=None"
) -> None:
    """ValueError for what was found on another model; what is of any model has no name."""
    if name is None:
        return
    end = f"If they share their activations, use dataclasses.replace({free})."
    if name != anatomy(model).name:
        raise ValueError(f"{what} was found on model {name!r}, this is {anatomy(model).name!r}. {end}")
    if not weights:
        return
    if not same_weights(weights, model):
        raise ValueError(f"{what} was found on another model that is called {name!r} as well. {end}")


def _sum(one: Vectors, other: Vectors) -> dict[Place, Tensor]:
    total = dict(one)
    for where, vector in other.items():
        if where in total and total[where].shape != vector.shape:
            raise ValueError(
                f"at {where} the vectors have shapes {tuple(total[where].shape)} and {tuple(vector.shape)}."
            )
        total[where] = total[where] + vector.to(total[where]) if where in total else vector
    return total


def _lens(model: Model, vector: Float[Tensor, "d_model"]) -> Float[Tensor, "vocab"]:
    """Logits of a vector of the stream: centred where the norm centres, times its gain, unembedded.

    Linear in the vector: neither the norm's scale, its bias nor the unembedding's is applied.
    """
    prove_readout(model)
    W_U = model.W_U.detach()
    if len(vector) != W_U.shape[0]:
        raise ValueError(
            f"the lens reads vectors of the stream, width {W_U.shape[0]}; this has {len(vector)}."
        )
    x, norm = vector.to(W_U), final_norm(model)
    if norm is not None:
        x = x - x.mean() if norm.centred else x
        x = x if norm.gain is None else x * norm.gain.detach()
    out = x @ W_U
    return out if out.dtype == torch.float64 else out.float()
