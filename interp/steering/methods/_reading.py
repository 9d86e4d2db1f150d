"""Representation engineering: control vectors, and what their coefficient does to the output distribution.

Sources: representation engineering (Zou et al., 2310.01405); the three vectors and the curves as in Højer et
al. (2504.19483), who take them from examples that a model solved and failed.

    reading   v = mean h(positive)                        no contrast: also holds what all prompts share
    contrast  v = mean over pairs h(positive) − h(negative)
    pca       v = first singular vector of the differences of pairs, not centred

Steering adds α · v. `effect_curves` follows KL(p₀ ‖ p_α) and the entropy of p_α over α, and the accuracy
where answers are given: a vector whose accuracy rises while the KL stays small changes what it should.

Sign: v goes towards positive. Units: reading and contrast have the length of the means; pca has the gap
between the class means along it. KL and entropy are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp._activations import activations
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._direction import Direction
from interp.steering._sweep import Entropy, sweep
from interp.steering.estimators import mean_difference
from interp.steering.extract import extract, pca
from interp.tasks.metrics import KL, Metric, Rank

KINDS = ("reading", "contrast", "pca")


def control_vector(
    model: Model,
    positive: Any,
    negative: Any = None,
    *,
    kind: str = "contrast",
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int = 32,
) -> Direction:
    """A control vector [d] at each layer, of one of the three kinds above.

    positive, negative: as many prompts each, row i paired with row i; "reading" takes no negative ones.
    "contrast" and "pca" carry the direction of exchanged pairs, the control.

    Cost: one forward pass of each prompt as far as the last layer. Raises ValueError, before any pass, for
    another kind, negative prompts missing or not wanted, lists of different length, pos="all" for "reading",
    a place that the model does not have. Papers: 2310.01405, 2504.19483.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(KINDS)}.")
    if (kind == "reading") != (negative is None):
        wants = "takes positive prompts alone" if kind == "reading" else "needs negative prompts too"
        raise ValueError(f"kind {kind!r} {wants}.")
    options: dict[str, Any] = {"layer": layer, "site": site, "pos": pos, "batch_size": batch_size}
    if kind == "reading":
        return _reading(model, positive, **options)
    if kind == "pca":
        return pca(model, positive, negative, seed=seed, **options)
    return extract(
        model, positive, negative, mean_difference, paired=True, method="contrast", seed=seed, **options
    )


def effect_curves(
    model: Model,
    direction: Direction,
    prompts: Any,
    coefficients: Sequence[float | int],
    *,
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    when: AnyPositions = everywhere,
    with_controls: bool = True,
    seed: int = 0,
) -> xr.Dataset:
    """`kl`, `entropy` and, where answers are known, `right` (layer, coefficient, prompt), of the next token.

    kl: KL(unsteered ‖ steered); entropy: of the steered distribution; right: 1 where an answer is the
    likeliest token, so that its mean is the accuracy. prompts: a Task (its answers are used), or prompts with
    `answer` token ids. The same names with the suffix _random and _shuffled are the controls', of equal norm.
    The curve of the paper is the mean over prompts. Coefficient 0 has a KL of 0.

    Cost: as `steering.sweep`: for each coefficient and control a pass of each prompt from the layer on.
    Raises ValueError, before any pass, for no coefficients, one that is not finite, a direction of another
    model. Paper: 2504.19483.
    """
    known = answer is not None or hasattr(prompts, "answers")
    metrics: list[Metric] = [KL(), Entropy()] + ([Rank()] if known else [])
    found = sweep(
        model, direction, prompts, [float(step) for step in coefficients], metrics, answer=answer, when=when,
        with_controls=with_controls, seed=seed,
    )  # fmt: skip
    out = xr.Dataset(attrs={**found.attrs, "method": "effect_curves", "unit": "nats; right: share"})
    for name in ("value", "random", "shuffled"):
        if name in found:
            suffix, part = "" if name == "value" else f"_{name}", found[name]
            for metric in ("kl", "entropy"):
                out[metric + suffix] = part.sel(metric=metric, drop=True)
            if known:
                rank = part.sel(metric="rank", drop=True)
                out["right" + suffix] = (rank == 0).astype(float).where(rank.notnull())
    return out


def _reading(
    model: Model, positive: Any, layer: Layers, site: str, pos: AnyPositions, batch_size: int
) -> Direction:
    if pos == "all":
        raise ValueError("pos is 'all'; a reading vector has one row a prompt. Use 'last' or 'mean'.")
    wanted, data = places(anatomy(model), layer, site), read(model, positive, what="positive")
    rows = activations(model, data, wanted, pos, batch_size=batch_size)
    return Direction(
        vectors={w: rows[w].flatten(1).double().mean(0).to(rows[w].dtype) for w in wanted},
        model=anatomy(model).name,
        method="reading",
        positions=pos if isinstance(pos, str) else repr(pos),
        norms={w: rows[w].flatten(1).double().norm(dim=1).median().item() for w in wanted},
        data=data.data_hash(),
    )
