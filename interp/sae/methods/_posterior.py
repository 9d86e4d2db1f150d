"""How apart a feature holds concepts, and suppression by how sure a value is of one (APP).

1. Histograms of a feature's values on each concept, on common bins of equal width between the smallest and
   the largest value of all.
2. Separability of two concepts: the Jensen-Shannon distance of their histograms, the root of the divergence
   in base 2, from 0 (the same) to 1 (no value in common); with more concepts the mean over pairs.
3. P(c | f), the posterior of concept c at value f: its histogram against that of the others, both with the
   same prior. Bins that no value fell into say nothing and count as 0.
4. Attenuation: f ← f (1 − P(c | f)). A value that only c has goes to 0, one that c never has stays; masking
   sets all to 0.

Fereidouni et al. 2508.15094, derived from its abstract: bins and equal priors are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.models import Model
from interp.positions import AnyPositions, everywhere
from interp.prompts import Mask, read_classes
from interp.sae._contexts import encode, require_features
from interp.sae._dictionary import Dictionary
from interp.steering.edits import AnyGate, Made
from interp.steering.edits import features as edit_features


@verb
def js_separability(concepts: Sequence[Float[Tensor, "n unit"]], bins: int = 20) -> Float[Tensor, "unit"]:
    """Jensen-Shannon distance of the units' histograms, mean over pairs of concepts: 0 the same, 1 disjoint.

    concepts: activations of each, [n, unit], of features or neurons. Biased upwards by few rows: compare with
    shuffled labels. Pure. Raises ValueError for fewer than two concepts, and for no rows.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> same, low = torch.rand(50, 1), torch.zeros(50, 1)
        >>> methods.js_separability([same, same]).tolist(), methods.js_separability([low, low + 1]).tolist()
        ([0.0], [1.0])
    """
    histograms = _histograms(concepts, bins)[0]  # [concept, unit, bin]
    pairs = [_distance(a, b) for a, b in combinations(histograms, 2)]
    return torch.stack(pairs).mean(0)


def _distance(a: Tensor, b: Tensor) -> Float[Tensor, "unit"]:
    middle = (a + b) / 2
    halves = [torch.xlogy(each, each / middle.clamp(min=1e-300)).sum(-1) for each in (a, b)]
    divergence = (halves[0] + halves[1]) / (2 * torch.log(torch.tensor(2.0, dtype=torch.float64)))
    return divergence.clamp(0, 1).sqrt()


def _histograms(
    concepts: Sequence[Tensor], bins: int
) -> tuple[Float[Tensor, "concept unit bin"], Tensor, Tensor]:
    """Shares of the values in each bin; the lowest value and the width of a bin, [unit]."""
    if len(concepts) < 2 or not all(len(each) for each in concepts):
        raise ValueError(
            f"concepts has {[len(each) for each in concepts]} rows; give two or more, with rows."
        )
    if len({each.shape[1] for each in concepts}) > 1:
        raise ValueError(f"concepts have {[each.shape[1] for each in concepts]} units; give the same to all.")
    both = torch.cat(list(concepts)).double()
    low, high = both.amin(0), both.amax(0)
    width = torch.where(high > low, (high - low) / bins, torch.ones_like(low))
    counts = []
    for rows in concepts:
        index = _bin(rows.double(), low, width, bins).T  # [unit, row]
        share = torch.full_like(index, 1 / len(rows), dtype=torch.float64)
        counts.append(share.new_zeros(len(index), bins).scatter_add_(1, index, share))
    return torch.stack(counts), low, width


def _bin(values: Tensor, low: Tensor, width: Tensor, bins: int) -> Tensor:
    """Number of the bin of every value, -1 and `bins` outside of all that was seen."""
    number = ((values - low) / width).floor()
    number = torch.where(number == bins, bins - 1, number)  # the largest value itself
    return number.clamp(-1, bins).long()


@dataclass(frozen=True, eq=False)
class Attenuation:
    """Posteriors of a concept by the value of each chosen feature, and the edits that use them.

    posterior: [feature, bin], P(concept | value in the bin). low, width: of the bins, [feature].
    """

    dictionary: Dictionary
    features: tuple[int, ...]
    posterior: Float[Tensor, "chosen bin"]
    low: Float[Tensor, "chosen"]
    width: Float[Tensor, "chosen"]
    separability: Float[Tensor, "feature"]
    __repr__ = brief

    def probability(self, f: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any chosen"]:
        """P(concept | value) of the chosen features; 0 for values outside of all that was seen."""
        values = f[..., list(self.features)].double()
        bins = self.posterior.shape[1]
        number = _bin(values, self.low.to(values.device), self.width.to(values.device), bins)
        table = torch.nn.functional.pad(self.posterior.to(values.device), (1, 1))  # -1 and `bins` are 0
        flat = number.flatten(0, -2) + 1 if number.ndim > 1 else number[None] + 1
        return table.gather(1, flat.T).T.reshape(values.shape)

    def edit(self, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """f ← f (1 − P) on the chosen features."""
        index = list(self.features)

        def change(f: Tensor) -> Tensor:
            out = f.clone()
            out[..., index] = f[..., index] * (1 - self.probability(f)).to(f)
            return out

        return edit_features(self.dictionary, change, when=when, gate=gate)


@verb
def attenuate(
    model: Model,
    dictionary: Dictionary,
    concept: Any,
    others: Any,
    *,
    features: Sequence[int] | None = None,
    top: int = 10,
    bins: int = 20,
    pos: AnyPositions = "last",
    mask: Mask = None,
    batch_size: int | None = None,
) -> Attenuation:
    """Graded suppression of a concept: features times 1 − P(concept | value) (see the steps above).

    concept, others: prompts with it and without. features: which; None: the `top` of those that are higher on
    the concept, by separability.

    Returns an `Attenuation`; `edit()` makes the intervention, and `steering.edits.set_features(dictionary,
    found.features, 0.0)` is full masking of the same features. Cost: a forward of each prompt as far as the
    site. Raises ValueError for features that the dictionary does not have, and where none is higher on
    the concept. Fereidouni et al. 2508.15094
    (derived).

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_pre")
        >>> task = interp.tasks.ioi(model, n=16)
        >>> found = sae.methods.attenuate(model, d, task.clean[:8], task.clean[8:], top=3)
        >>> len(found.features), len(found.edit())
        (3, 1)
    """
    if features is not None:
        require_features(dictionary, features)
    sides = read_classes(model, concept, others, mask)
    rows = [encode(model, dictionary, side, pos=pos, batch_size=batch_size) for side in sides]
    histograms, low, width = _histograms(rows, bins)
    apart = _distance(histograms[0], histograms[1])
    if features is None:
        higher = rows[0].double().mean(0) > rows[1].double().mean(0)
        if not bool(higher.any()):
            raise ValueError(
                "no feature is higher on the concept than on the others, so none can be suppressed."
            )
        features = (apart * higher).topk(min(top, int(higher.sum()))).indices.tolist()
    index = list(features)
    own, other = histograms[:, index]
    posterior = torch.where(own + other > 0, own / (own + other).clamp(min=1e-300), 0.0)
    return Attenuation(dictionary, tuple(index), posterior, low[index], width[index], apart)
