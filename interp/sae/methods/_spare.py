"""SpARE: choose what a model relies on by editing the features that tell two behaviours apart.

1. Encode the last token of prompts in which the model does one thing (positive) and the other (negative).
2. Rank features by the mutual information of their value and the behaviour, in bins of equal count; keep the
   first ones that together hold a share of all information.
3. Those that are higher on the positive side are `up`, the others `down`, each with its mean on its own side.
4. Towards the positive side: f ← f − min(f, μ_down) on `down`, f ← f + max(μ_up − f, 0) on `up`; the other
   way round towards the negative side. What the dictionary does not reconstruct stays.

Information is biased upwards, so the same is done with shuffled labels, the choice in the shuffle: `shuffled`
is what as many features hold there. Zhao et al. 2410.15999 (formulas as in its code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.models import Model
from interp.positions import AnyPositions, everywhere
from interp.probes.selectors import mutual_information
from interp.prompts import Mask, read_classes
from interp.sae._contexts import encode
from interp.sae._dictionary import Dictionary
from interp.steering.edits import AnyGate, Made, Number, features, finite

TOWARDS = ("positive", "negative")


@dataclass(frozen=True, eq=False)
class LatentEdit:
    """Features that tell two behaviours apart, and the edits that move between these.

    information: nats, of every feature. up, down: numbers of the chosen ones, the most informative first.
    means: [2, feature], of the positive and the negative side. shuffled: nats that as many features hold with
    shuffled labels, [draw].
    """

    dictionary: Dictionary
    information: Float[Tensor, "feature"]
    up: tuple[int, ...]
    down: tuple[int, ...]
    means: Float[Tensor, "2 feature"]
    shuffled: Float[Tensor, "draw"]
    __repr__ = brief

    @property
    def total(self) -> float:
        """Nats that the chosen features hold, each for itself."""
        return float(self.information[[*self.up, *self.down]].sum())

    def edit(
        self,
        towards: str = "positive",
        strength: Number = 1.0,
        *,
        when: AnyPositions = everywhere,
        gate: AnyGate = None,
    ) -> Made:
        """The intervention towards a side, for `steer`, `generate` and `sweep`. strength 0 changes nothing.

        Raises ValueError for another side, and a strength that is not finite.
        """
        if towards not in TOWARDS:
            raise ValueError(f"towards is {towards!r}; use 'positive' or 'negative'.")
        finite("strength", strength)
        side = TOWARDS.index(towards)
        raised, lowered = (self.up, self.down) if side == 0 else (self.down, self.up)

        def change(f: Tensor) -> Tensor:
            return f + strength * delta(f, raised, lowered, self.means[side], self.means[1 - side])

        return features(self.dictionary, change, when=when, gate=gate)


def delta(
    f: Float[Tensor, "*any feature"],
    raised: tuple[int, ...],
    lowered: tuple[int, ...],
    ceiling: Float[Tensor, "feature"],
    floor: Float[Tensor, "feature"],
) -> Float[Tensor, "*any feature"]:
    """max(ceiling − f, 0) on the raised features, −min(f, floor) on the lowered ones, 0 on all others."""
    out = torch.zeros_like(f)
    up, down = list(raised), list(lowered)
    out[..., up] = (ceiling.to(f)[up] - f[..., up]).relu()
    out[..., down] = -torch.minimum(f[..., down], floor.to(f)[down])
    return out


@verb
def mi_latents(
    positive: Float[Tensor, "n feature"],
    negative: Float[Tensor, "m feature"],
    share: float = 0.1,
    bins: int = 8,
) -> tuple[Int[Tensor, "k"], Float[Tensor, "feature"]]:
    """The features that hold a share of all information on the class, most first; and the nats of each.

    share: from 0 (none) to 1. Pure. Raises ValueError for a share outside, and classes of no rows.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> up, down = torch.rand(2, 40, 6, generator=torch.Generator().manual_seed(0))
        >>> up[:, 2] += 5
        >>> methods.mi_latents(up, down, 0.3)[0].tolist()
        [2]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it is a share of all information, from 0 to 1.")
    information = mutual_information(positive, negative, bins)
    order = information.argsort(descending=True, stable=True)
    held = information[order].cumsum(0) - information[order]  # before each
    return order[held < share * float(information.sum())], information


@verb
def spare(
    model: Model,
    dictionary: Dictionary,
    positive: Any,
    negative: Any,
    *,
    share: float = 0.1,
    bins: int = 8,
    pos: AnyPositions = "last",
    draws: int = 20,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> LatentEdit:
    """Features that tell two behaviours apart, and the edit between them (see the steps above).

    positive, negative: prompts of the two behaviours. share: of all information, kept. bins: of equal count.
    draws: shuffles of the labels, for the control.

    Returns a `LatentEdit`: `edit("positive")` moves prompts towards the positive behaviour. Cost: a forward
    of each prompt as far as the site. Raises ValueError for a dictionary that does not fit the model, and a
    share outside of 0 to 1. Zhao et al. 2410.15999.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_pre")
        >>> task = interp.tasks.ioi(model, n=16)
        >>> found = sae.methods.spare(model, d, task.clean[:8], task.clean[8:], bins=2)
        >>> len(found.up) + len(found.down) > 0, len(found.edit("negative"))
        (True, 1)
    """
    sides = read_classes(model, positive, negative, mask)
    up, down = (encode(model, dictionary, side, pos=pos, batch_size=batch_size) for side in sides)
    chosen, information = mi_latents(up, down, share, bins)
    means = torch.stack((up.double().mean(0), down.double().mean(0)))
    higher = means[0] > means[1]
    rows, generator = torch.cat((up, down)), torch.Generator().manual_seed(seed)
    control = []
    for _ in range(draws):
        mixed = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        nats = mutual_information(mixed[: len(up)], mixed[len(up) :], bins)
        control.append(nats.topk(len(chosen)).values.sum())
    return LatentEdit(
        dictionary,
        information,
        tuple(chosen[higher[chosen]].tolist()),
        tuple(chosen[~higher[chosen]].tolist()),
        means,
        torch.stack(control),
    )
