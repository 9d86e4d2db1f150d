"""Linear-AcT: each unit mapped by the affine map that is nearest to optimal transport (2410.23054).

1. Activations of the source prompts (what is) and the target prompts (what is wanted), [n, unit] and [m,
   unit].
2. In one dimension the optimal coupling joins equal quantiles: the sorted samples of each unit, each class
   sorted on its own. With n != m, the coupling of two step functions of quantiles, which is exact.
3. Least squares of target on source under that coupling: scale = sum(a b) / sum(a a) with a, b centred, and
   shift = mean(b) - scale mean(a). The scale is never negative. A unit that is constant on the source has
   scale 1: it is only shifted.

Strength s gives h + s (scale h + shift - h): 0 is the model itself, 1 the map. With equal spreads the map is
the mean difference (CAA). LinEAS (2503.10679) learns maps of this form end to end; this is its closed-form
baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import place
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import Prompts, read
from interp.steering._direction import found_on
from interp.steering._steer import steer
from interp.steering.edits import AnyGate, Made, Number, affine


@dataclass(frozen=True, eq=False)
class LinearAct:
    """Affine maps by place: `scale` and `shift`, each [unit]. losses: before each step, of learned maps."""

    scale: Mapping[Place, Float[Tensor, "unit"]]
    shift: Mapping[Place, Float[Tensor, "unit"]]
    losses: tuple[float, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the model they were found on
    __repr__ = brief

    @property
    def places(self) -> tuple[Place, ...]:
        """Where there is a map, in the order of the model."""
        return tuple(self.scale)

    def steer(self, strength: Number = 1.0, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """The maps as interventions. strength 0 does nothing, 1 maps the source onto the target."""
        made = [
            affine(where, self.scale[where], self.shift[where], strength, when=when, gate=gate)
            for where in self.places
        ]
        return tuple(replace(each, **self.found) for one in made for each in one)


@verb
def linear_act(
    model: Model,
    source: Any,
    target: Any,
    sites: str | Place | Sequence[str] | Sequence[Place],
    *,
    pos: AnyPositions = "mean",
    incremental: bool = True,
    batch_size: int | None = None,
) -> LinearAct:
    """Maps that take the activations of `source` to those of `target` (prompts each; they need no pairs).

    sites: places with units, such as "L1.resid_post", "L2.post" or a head "L0H3". incremental: fit the map of
    each place with the maps of the earlier ones in force, as they will be; otherwise every map is fitted on
    the model as it is. pos: what is read of each prompt; "all" takes every token.

    Raises ValueError, before any pass, for a place that the model does not have or that is named twice, whole
    heads ("L1.z"), an empty class, positions outside a prompt. Cost: a forward pass of each target prompt; of
    each source prompt one, or one for each place if incremental. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> act = methods.linear_act(model, down, up, "L1.resid_post")
        >>> len(act.steer(0.5))
        1
    """
    wanted = _ordered(model, [sites] if isinstance(sites, (str, Place)) else list(sites))
    start, end = read(model, source, what="source"), read(model, target, what="target")
    goal = activations(model, end, wanted, pos, batch_size=batch_size)
    plain = {} if incremental else activations(model, start, wanted, pos, batch_size=batch_size)
    scale: dict[Place, Tensor] = {}
    shift: dict[Place, Tensor] = {}
    for where in wanted:
        now = plain.get(where)
        if now is None:
            now = _under(model, LinearAct(scale, shift), start, where, pos, batch_size)
        scale[where], shift[where] = (each.to(now) for each in transport_map(now, goal[where]))
    return LinearAct(scale, shift, found=found_on(model))


@verb
def transport_map(
    source: Float[Tensor, "n unit"], target: Float[Tensor, "m unit"]
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """Scale and shift of each unit, in float64. Pure. ValueError for an empty class or unequal widths.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> from interp.steering import methods
        >>> scale, shift = methods.transport_map(down, up)
        >>> tuple(scale.shape)
        (8,)
    """
    if not len(source) or not len(target):
        raise ValueError(f"the source has {len(source)} rows, the target {len(target)}; give one or more.")
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"the source has {source.shape[1]} units, the target {target.shape[1]}; take both at one place."
        )
    i, j, share = coupling(len(source), len(target))
    share = share.to(source.device)[:, None]
    a = source.double().sort(0).values[i.to(source.device)]  # each unit sorted over samples
    b = target.double().sort(0).values[j.to(source.device)]
    mean_a, mean_b = (share * a).sum(0), (share * b).sum(0)
    a, b = a - mean_a, b - mean_b
    spread = (share * a * a).sum(0)
    tiny = 1e-24 * (1 + mean_a * mean_a)
    scale = torch.where(spread > tiny, (share * a * b).sum(0) / spread.clamp(min=1e-300), 1.0)
    return scale, mean_b - scale * mean_a


def coupling(n: int, m: int) -> tuple[Int[Tensor, "step"], Int[Tensor, "step"], Float[Tensor, "step"]]:
    """Ranks of source and target that optimal transport joins, and how much mass: n + m - 1 steps at most."""
    ends = torch.cat((torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n)).unique()  # of n m
    starts = torch.cat((torch.zeros(1, dtype=ends.dtype), ends[:-1]))
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def _under(
    model: Model, fitted: Any, start: Prompts, where: Place, pos: AnyPositions, batch_size: int | None
) -> Tensor:
    with steer(model, *fitted.steer()):
        return activations(model, start, where, pos, batch_size=batch_size, engine="reference")


def _ordered(model: Model, sites: list[Any]) -> list[Place]:
    """The places in the order in which a pass goes through them."""
    facts = anatomy(model)
    found = [place(each, facts) for each in sites]
    if not found:
        raise ValueError("sites is empty. Name at least one place, as in 'L1.resid_post'.")
    if len(set(found)) < len(found):
        raise ValueError(f"a place is named twice in {', '.join(map(str, found))}.")
    order = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "post", "mlp_out", "resid_post")
    for where in found:
        if where.site not in order or (where.site in ("q", "k", "v", "z") and where.head is None):
            raise ValueError(f"{str(where)!r} has no vector of units; name a head (L1H2), post or a stream.")
    return sorted(found, key=lambda where: (where.layer or 0, order.index(where.site), where.head or 0))
