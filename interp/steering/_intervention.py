"""
Intervention: an edit at a place, when and how strongly it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp._brief import brief
from interp.models import Anatomy, Model, anatomy, is_bridge
from interp.models.places import place, width
from interp.places import AXES, SITES, Place, hook_name, parse
from interp.positions import AnyPositions, everywhere
from interp.positions import parse as parse_positions
from interp.steering._clock import Clock
from interp.steering._direction import same_model
from interp.steering._edit_types import Edit
from interp.steering.gates import Gate, shaped

Act = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Intervention:
    """An edit of the activations at a site.

    site: a place, or its name: "L3.resid_pre", "L3H2" (one head's z), "L3.post". edit: an `Edit`, or a
    function h -> h' of [row, pos, d] that changes nothing in place. when: see
    `interp.positions`. gate: a `Gate`, or a function of h to weights. heads: some heads of a site that has
    them, the edit acting on each. model: the name of the model that it is for, None for any; weights: as in
    `Direction`.
    """

    site: Place | str
    edit: Edit | Callable[[Tensor], Tensor]
    when: AnyPositions = everywhere
    gate: Gate | Callable[[Tensor], Tensor] | None = None
    heads: tuple[int, ...] | None = None
    model: str | None = None
    weights: tuple[float, ...] = ()
    __repr__ = brief

    def __post_init__(self) -> None:
        if isinstance(self.site, str):
            object.__setattr__(self, "site", parse(self.site))
        if self.place.head is not None and self.heads is None:
            object.__setattr__(self, "heads", (self.place.head,))
        object.__setattr__(self, "when", parse_positions(self.when))
        if self.gate is not None and not isinstance(self.gate, Gate):
            object.__setattr__(self, "gate", Gate(self.gate))

    @property
    def place(self) -> Place:
        """Where it acts."""
        return parse(self.site) if isinstance(self.site, str) else self.site

    @property
    def hook(self) -> str:
        """Name of the hook point at which it acts."""
        point = getattr(self.edit, "point", None)
        if point is not None:
            return f"blocks.{self.place.layer}.attn.hook_{point}"
        return hook_name(self.place.site, self.place.layer)

    @property
    def needs_frame(self) -> bool:
        """Whether it must know where the rows of the pass stand."""
        by_position = isinstance(self.edit, Edit) and type(self.edit).at is not Edit.at
        return not self.when.always or self.gate is not None or by_position

    def check(self, model: Model) -> Intervention:
        """The intervention itself; ValueError where the model cannot take it. No forward pass."""
        facts = anatomy(model)
        same_model(f"the direction at {self.place}", self.model, self.weights, model)
        checked = replace(self, site=place(self.place, facts))
        if checked.hook not in model.hook_dict:
            raise ValueError(f"this model has no hook point {checked.hook}.")
        checked._check_heads(facts)
        checked._check_edit(facts)
        checked._check_dictionary(model)
        checked._check_gate(model, facts)
        return checked

    def _check_heads(self, facts: Anatomy) -> None:
        if self.heads is None:
            return
        if "head" not in AXES[self.place.site]:
            raise ValueError(f"{str(self.place)!r} has no heads; heads= is for z, q, k, v and pattern.")
        n = facts.heads(self.place.site)
        wrong = [head for head in self.heads if not 0 <= head < n]
        if wrong or not self.heads:
            raise ValueError(f"heads {list(self.heads)} at {self.place}: the site has heads 0 to {n - 1}.")

    def _check_edit(self, facts: Anatomy) -> None:
        scores = getattr(self.edit, "point", None) is not None
        if (self.place.site == "pattern") != scores:
            what = (
                "edits of attention scores act at 'pattern'"
                if scores
                else "vectors have no place at 'pattern'"
            )
            raise ValueError(f"{type(self.edit).__name__} at {str(self.place)!r}: {what}.")
        wanted, given = width(self.place, facts), getattr(self.edit, "width", None)
        if given is not None and given != wanted:
            raise ValueError(
                f"{type(self.edit).__name__} has width {given}, {str(self.place)!r} has {wanted}. Use a "
                "direction that was found at this site."
            )
        units = getattr(self.edit, "units", None)
        if units is not None and not all(0 <= unit < wanted for unit in units):
            raise ValueError(
                f"units {list(units)} at {str(self.place)!r}: the site has units 0 to {wanted - 1}."
            )

    def _check_dictionary(self, model: Model) -> None:
        """An edit of features needs a dictionary of this model and place."""
        if (dictionary := getattr(self.edit, "dictionary", None)) is not None:
            from interp.sae._site import require

            require(dictionary.at(self.place), model, one_head=True)

    def _check_gate(self, model: Model, facts: Anatomy) -> None:
        if not isinstance(self.gate, Gate):
            return
        if self.gate.name == "rows":
            return
        source = self.place if self.gate.place is None else place(self.gate.place, facts)
        if source != self.place and _rank(source) >= _rank(self.place):
            raise ValueError(
                f"the gate reads at {source}, which comes after the intervention at {self.place}. Let it "
                "read at an earlier place."
            )
        heads = self.heads if source == self.place and self.heads is not None else None
        middle = () if heads is None or len(heads) == 1 else (len(heads),)
        probe = torch.zeros((2, 3, *middle, width(source, facts)), dtype=torch.float32, device=facts.device)
        probe = probe.double() if facts.dtype == torch.float64 else probe
        with torch.no_grad():
            shaped(self.gate.weigh(probe), probe, self.gate.name)

    def hooks(self, model: Model, clock: Clock) -> list[tuple[str, Callable[..., Tensor]]]:
        """Forward hooks that make the edit, and those of its gate before it."""
        *reads, (_, edit) = self.taps(clock)
        before = [(hook_name(where.site, where.layer), as_hook(act)) for where, act in reads]
        if self.place.site == "resid_mid" and is_bridge(model):
            return [*before, *self._through_attention(clock)]
        return [*before, (self.hook, as_hook(edit))]

    def taps(self, clock: Clock) -> list[tuple[Place, Act]]:
        """What it does to the activations at which places: its gate reads, if that is elsewhere; the edit."""
        act = self._plain if self._is_plain else partial(self.apply, clock=clock)
        reads = [(where, partial(_read, gate, clock)) for gate, where in self._reads_elsewhere()]
        return [*reads, (self.place, act)]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its gate reads, if that is elsewhere, and where it acts."""
        return (*(where for _, where in self._reads_elsewhere()), self.place)

    def _reads_elsewhere(self) -> list[tuple[Gate, Place]]:
        """Its gate and where that reads, unless it reads what is edited."""
        gate = self.gate
        if isinstance(gate, Gate) and gate.place is not None and gate.place != self.place:
            return [(gate, gate.place)]
        return []

    @property
    def first_layer(self) -> int:
        """The lowest layer at which it reads or acts."""
        return min(where.layer or 0 for where in self.places)

    def _through_attention(self, clock: Clock) -> list[tuple[str, Callable[..., Tensor]]]:
        """On a bridge hook_resid_mid feeds the MLP alone; what attention writes is resid_mid − resid_pre."""
        seen: dict[str, Tensor] = {}

        def keep(tensor: Tensor, hook: Any) -> Tensor:
            seen["pre"] = tensor
            return tensor

        def write(tensor: Tensor, hook: Any) -> Tensor:
            middle = seen["pre"] + tensor
            return tensor + (self.apply(middle, clock) - middle)

        layer = self.place.layer
        return [(hook_name("resid_pre", layer), keep), (hook_name("attn_out", layer), write)]

    @property
    def _is_plain(self) -> bool:
        """Whether it edits the whole tensor, always."""
        scores = (
            getattr(self.edit, "point", None) is not None or getattr(self.edit, "n_rows", None) is not None
        )
        return not (self.needs_frame or scores or self.heads is not None or self.place.neuron is not None)

    def _plain(self, tensor: Tensor) -> Tensor:
        """`apply` without what such an edit does not need: it may run at every layer for every token."""
        return self.edit(wide(tensor)).to(tensor.dtype)

    def apply(self, tensor: Tensor, clock: Clock) -> Tensor:
        """The edited activations of a pass; a new tensor."""
        edit = self.edit
        n_rows = getattr(edit, "n_rows", None)
        if n_rows is not None and n_rows != tensor.shape[0]:
            raise ValueError(
                f"{type(edit).__name__} has vectors for {n_rows} rows, the batch has {tensor.shape[0]}."
            )
        whole = getattr(edit, "point", None) is not None
        h = tensor if whole else self._part(tensor)
        start = wide(h)
        if isinstance(edit, Edit):
            new = edit.at(start, clock.now(start.device)) if self.needs_frame else edit(start)
        else:
            new = edit(start)
        new = self._selected(new, start, clock, whole).to(h.dtype)
        return self._put(tensor, new) if not whole or self.heads is not None else new

    def _selected(self, new: Tensor, old: Tensor, clock: Clock, scores: bool) -> Tensor:
        """The new activations where `when` and the gate say so, else the old ones."""
        weight = None
        if isinstance(self.gate, Gate):
            elsewhere = clock.memory.get(-id(self.gate))
            weight = elsewhere if elsewhere is not None else self.gate.weights(old, clock)  # [row, pos or 1]
            weight = weight.to(old.device)
        on = None if self.when.always else self.when(clock.now(new.device))  # [row, pos]
        if weight is not None:
            if weight.dtype != torch.bool:
                share = _spread(weight.to(old), old, scores)
                new = torch.where(share == 1, new, old + share * (new - old))
            on = (weight != 0) if on is None else on & (weight != 0)
        return new if on is None else torch.where(_spread(on, old, scores), new, old)

    def _part(self, tensor: Tensor) -> Tensor:
        if self.heads is not None:
            return tensor[:, :, self.heads[0]] if len(self.heads) == 1 else tensor[:, :, list(self.heads)]
        return tensor if self.place.neuron is None else tensor[..., self.place.neuron, None]

    def _put(self, tensor: Tensor, new: Tensor) -> Tensor:
        if self.heads is None and self.place.neuron is None:
            return new
        out = tensor.clone()
        if self.place.site == "pattern":
            out[:, list(self.heads or ())] = new[:, list(self.heads or ())]
        elif self.heads is not None:
            out[:, :, list(self.heads)] = new.unsqueeze(2) if len(self.heads) == 1 else new
        else:
            out[..., self.place.neuron] = new[..., 0]
        return out


def as_hook(act: Act) -> Callable[..., Tensor]:
    """A function of activations as a TransformerLens hook."""
    return lambda tensor, hook: act(tensor)


def _read(gate: Gate, clock: Clock, tensor: Tensor) -> Tensor:
    """The gate decides on activations that are not those it opens for."""
    h = tensor if gate.place is None or gate.place.head is None else tensor[:, :, gate.place.head]
    clock.memory[-id(gate)] = gate.weights(wide(h), clock)
    return tensor


def wide(tensor: Tensor) -> Tensor:
    """Float32 or better: edits are computed in it, whatever the model's dtype."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def flat(interventions: Iterable[Any]) -> list[Intervention]:
    """Interventions out of nested tuples and lists. ValueError for anything else."""
    found: list[Intervention] = []
    for each in interventions:
        if isinstance(each, Intervention):
            found.append(each)
        elif isinstance(each, (tuple, list)):
            found += flat(each)
        else:
            raise ValueError(
                f"expected an intervention, got {type(each).__name__}. Make one with steering.add(direction, "
                "4.0), steering.ablate(direction), or Intervention(site, edit)."
            )
    return found


def _spread(values: Tensor, like: Tensor, scores: bool) -> Tensor:
    """[row, pos or 1] to the shape of activations [row, pos, ..., d], or of scores [row, head, dst, src]."""
    if scores:
        return values[:, None, :, None]
    return values.reshape(*values.shape, *(1,) * (like.ndim - 2))


def _rank(where: Place) -> tuple[int, int]:
    order = (
        "resid_pre",
        "q",
        "k",
        "v",
        "pattern",
        "z",
        "attn_out",
        "resid_mid",
        "post",
        "mlp_out",
        "resid_post",
    )
    return where.layer or 0, order.index(where.site) if where.site in SITES else -1
