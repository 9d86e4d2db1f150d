"""Neurons that two models share: is what carries an ability in one what carries it in the other?

1. In both models of one shape, a score for every neuron [layer, neuron] (any: activation, effect,
   attribution).
2. By layer, the k highest of each; shared = how many are the same, as a share of k. Two rankings that have
   nothing to do with each other share k / d on average; the hypergeometric tail is p.
3. The shared ones are a set of `Neurons`, to be amplified (`scale(1.5)`) beside a random control
   (`random()`).

SNRF (from its abstract); its fusion of weights is not here.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.steering.methods._neurons import Neurons


@verb
def shared_neurons(
    first: Float[Tensor, "layer neuron"], second: Float[Tensor, "layer neuron"], k: int
) -> tuple[xr.Dataset, Neurons]:
    """The overlap of the k highest neurons of each layer in two models, and the neurons that both have.

    Returns a Dataset by layer: `value`, the share of k that is the same (1 for one model twice), `jaccard`,
    `p`, the probability of as many by chance, with `attrs["chance"]` = k / neurons; and the shared `Neurons`,
    those of the highest summed rank first. Raises ValueError for scores of two shapes or that are not finite,
    and for k outside 1 to the neurons of a layer. Cost: none.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> scores = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
        >>> found, neurons = methods.shared_neurons(scores, scores, 5)
        >>> found["value"].values.tolist(), len(neurons), found.attrs["chance"]
        ([1.0, 1.0], 10, 0.1)
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"the scores are {list(first.shape)} and {list(second.shape)}; give [layer, neuron] of two "
            "models of one "
            "shape."
        )
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise ValueError("some scores are not finite. Give a finite score for every neuron.")
    n_layers, width = first.shape
    if not 1 <= k <= width:
        raise ValueError(f"k is {k}; a layer has {width} neurons: give 1 to {width}.")
    ranks = [each.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) for each in (first, second)]
    both = (ranks[0] < k) & (ranks[1] < k)  # [layer, neuron]
    counts = both.sum(-1).tolist()
    order = sorted(both.nonzero().tolist(), key=lambda at: int(ranks[0][tuple(at)] + ranks[1][tuple(at)]))
    neurons = Neurons(
        tuple((layer, index) for layer, index in order), tuple(range(n_layers)), width, "shared neurons"
    )
    variables = {
        "value": (("layer",), np.array(counts) / k),
        "jaccard": (("layer",), np.array([n / (2 * k - n) for n in counts])),
        "p": (("layer",), np.array([_tail(n, k, width) for n in counts])),
    }
    attrs = results.provenance(
        method="shared_neurons",
        site="post",
        convention="value = shared of the k highest / k",
        chance=k / width,
        k=k,
    )
    return results.dataset(variables, {"layer": np.arange(n_layers)}, attrs), neurons


def _tail(n: int, k: int, width: int) -> float:
    """Probability that two draws of k out of `width` share n or more."""
    ways = sum(math.comb(k, shared) * math.comb(width - k, k - shared) for shared in range(n, k + 1))
    return ways / math.comb(width, k)
