"""Gates: by how much an intervention acts on each row or token, from 0 (not at all) to 1.

Where a gate is 0 the activations are those of the unsteered model to the bit. A gate reads the activations
that the intervention is about to edit, or those of an earlier place. A held gate decides once, on the prompt,
and keeps its decision while tokens are generated (conditional steering, CAST, 2409.05907).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.places import Place, parse
from interp.positions import Frame
from interp.steering._clock import Clock
from interp.steering._direction import Direction

__all__ = ["Gate", "controller", "cosine_gate", "probe_gate", "rows"]

HELD = (None, "last", "mean", "any")


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True, eq=False)
class Gate:
    """`weigh` maps activations [row, pos, ..., d] to weights [row], [row, pos] or [row, pos, 1].

    place: where it reads; None means where the intervention is. held: None decides anew at every position;
    "last" reads the last prompt token, "mean" the mean activation of the prompt, "any" takes the largest
    weight of the prompt's tokens; each of these is held for the whole row.
    """

    weigh: Callable[[Tensor], Tensor]
    place: Place | None = None
    held: str | None = None
    name: str = "gate"
    __repr__ = brief

    def __post_init__(self) -> None:
        if self.held not in HELD:
            raise ValueError(f"held is {self.held!r}; use None, 'last', 'mean' or 'any'.")

    def weights(self, h: Tensor, clock: Clock) -> Tensor:
        """Weights [row, pos or 1] of the running pass, bool or float."""
        if self.held is None:
            return shaped(self.weigh(h), h, self.name)
        if id(self) not in clock.memory:
            clock.memory[id(self)] = self._decide(h, clock.now(h.device))
        return clock.memory[id(self)].to(h.device)

    def _decide(self, h: Tensor, frame: Frame) -> Tensor:
        prompt = (frame.positions >= 0) & (frame.positions < frame.lengths)  # [row, pos]
        if frame.offset > 0 or bool((prompt.sum(1) != frame.lengths[:, 0]).any()):
            raise ValueError(
                f"{self.name} is decided on the prompt, and this pass does not hold all of it. Run the "
                "prefill inside steer, in one pass."
            )
        if self.held == "any":
            found = shaped(self.weigh(h), h, self.name).expand(prompt.shape)
            if found.dtype == torch.bool:
                return (found & prompt).any(1, keepdim=True)
            return found.masked_fill(~prompt, 0).amax(1, keepdim=True)
        share = prompt if self.held == "mean" else frame.positions == frame.lengths - 1
        weight = (share / share.sum(1, keepdim=True)).to(h)
        one = torch.einsum("rp,rp...->r...", weight, h)[:, None]  # [row, 1, ..., d]
        return shaped(self.weigh(one), one, self.name)


def shaped(weights: Tensor, h: Tensor, name: str) -> Tensor:
    """Weights as [row, pos or 1]; ValueError for any other shape."""
    rows, pos = h.shape[:2]
    if isinstance(weights, Tensor):
        if weights.shape == (rows, pos, 1):
            return weights[..., 0]
        if weights.shape in ((rows, pos), (rows, 1)):
            return weights
        if weights.shape == (rows,):
            return weights[:, None]
    got = tuple(weights.shape) if isinstance(weights, Tensor) else f"a {type(weights).__name__}"
    raise ValueError(
        f"{name} returned {got} for activations {tuple(h.shape)}; return weights [row], [row, pos] or "
        "[row, pos, 1]."
    )


@verb
def cosine_gate(
    direction: Direction, threshold: float | int, *, below: bool = False, held: str | None = None
) -> Gate:
    """On where the cosine of the activations with the direction is above (or below) the threshold.

    It reads at the direction's place. held="mean" is the condition of CAST (2409.05907).

    Example:
        >>> import torch
        >>> from interp import steering
        >>> d = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> steering.gates.cosine_gate(d, 0.2, held="mean").held
        'mean'
    """
    unit = direction.unit().vector

    def weigh(h: Tensor) -> Tensor:
        cosine = (h @ unit.to(h)) / h.norm(dim=-1).clamp(min=1e-12)
        return cosine < threshold if below else cosine > threshold

    return Gate(weigh, direction.place, held, f"cosine_gate({direction.place}, {threshold})")


@verb
def probe_gate(
    weight: Float[Tensor, "d"],
    bias: float | int | Float[Tensor, ""],
    threshold: float | int = 0.5,
    *,
    place: str | Place | None = None,
    held: str | None = None,
) -> Gate:
    """On where sigmoid(h · weight + bias) is above the threshold.

    Example:
        >>> import torch
        >>> from interp import steering
        >>> steering.gates.probe_gate(torch.ones(64), 0.0, 0.5).name
        'probe_gate(0.5)'
    """

    if not bool(weight.any()):
        raise ValueError("weight is all 0: the probe says the same of every activation. Fit it anew.")

    def weigh(h: Tensor) -> Tensor:
        return torch.sigmoid(h @ weight.to(h) + torch.as_tensor(bias).to(h)) > threshold

    where = parse(place) if isinstance(place, str) else place
    return Gate(weigh, where, held, f"probe_gate({threshold})")


@verb
def controller(
    network: Callable[[Tensor], Tensor],
    *,
    place: str | Place | None = None,
    held: str | None = None,
) -> Gate:
    """Weights from a function or torch module: [row, pos, d] -> [row, pos] or [row, pos, 1].

    Example:
        >>> from interp import steering
        >>> steering.gates.controller(lambda h: h.mean(-1).sigmoid()).name
        'controller'
    """
    where = parse(place) if isinstance(place, str) else place
    return Gate(network, where, held, "controller")


@verb
def rows(on: Tensor) -> Gate:
    """On in the given rows: bool, or weights from 0 to 1, [row].

    Example:
        >>> import torch
        >>> from interp import steering
        >>> steering.gates.rows(torch.tensor([True, False])).name
        'rows'
    """

    def weigh(h: Tensor) -> Tensor:
        if len(on) != len(h):
            raise ValueError(f"rows(...) has {len(on)} entries, the batch {len(h)} rows. Give one a row.")
        return on.to(h.device)

    return Gate(weigh, None, None, "rows")
