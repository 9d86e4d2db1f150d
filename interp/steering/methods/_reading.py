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

from typing import Any

import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers
from interp.positions import AnyPositions, everywhere
from interp.prompts import Mask, read
from interp.steering import estimators
from interp.steering._direction import Direction, found_on
from interp.steering._runs import Entropy
from interp.steering._sweep import sweep
from interp.steering.extract import Extraction, between_classes
from interp.tasks.metrics import KL, Metric, Rank

KINDS = ("reading", "contrast", "pca")


@verb
def control_vector(
    model: Model,
    positive: Any,
    negative: Any = None,
    *,
    kind: str = "contrast",
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Direction:
    """A control vector [d] at each layer, of one of the three kinds above.

    positive, negative: as many prompts each, row i paired with row i; "reading" takes no negative ones.
    "contrast" and "pca" carry the direction of exchanged pairs, the control.

    Cost: one forward pass of each prompt as far as the last layer. Raises ValueError, before any pass, for
    another kind, negative prompts missing or not wanted, lists of different length, pos="all" for "reading",
    a place that the model does not have. Papers: 2310.01405, 2504.19483.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> methods.control_vector(model, up, down, kind="pca", layer=1).method
        'pca'
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(KINDS)}.")
    if (kind == "reading") != (negative is None):
        wants = "takes positive prompts alone" if kind == "reading" else "needs negative prompts too"
        raise ValueError(f"kind {kind!r} {wants}.")
    how = Extraction(layer, site, None, pos, True, mask, seed, batch_size)
    if kind == "reading":
        return _reading(model, positive, how)
    estimator = estimators.pca if kind == "pca" else estimators.mean_difference
    return between_classes(model, positive, negative, estimator, kind, how)


@verb
def effect_curves(
    model: Model,
    direction: Direction,
    prompts: Any,
    coefficients: Any,
    *,
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    when: AnyPositions = everywhere,
    mask: Tensor | None = None,
    with_controls: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`kl`, `entropy` and, where answers are known, `right` (prompt, layer, coefficient), of the next token.

    kl: KL(unsteered ‖ steered); entropy: of the steered distribution; right: 1 where an answer is the
    likeliest token, so that its mean is the accuracy. prompts: a Task (its answers are used), or prompts with
    `answer` token ids. The same names with the suffix _random and _shuffled are the controls', of equal norm.
    The curve of the paper is the mean over prompts. Coefficient 0 has a KL of 0.

    Cost: as `steering.sweep`: for each coefficient and control a pass of each prompt from the layer on.
    Raises ValueError, before any pass, for no coefficients, one that is not finite, a direction of another
    model. Paper: 2504.19483.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> d = methods.control_vector(model, up, down, layer=1)
        >>> curves = methods.effect_curves(model, d, task, [0.0, 1.0], progress=False)
        >>> curves["kl"].dims
        ('prompt', 'layer', 'coefficient')
    """
    known = answer is not None or hasattr(prompts, "answers")
    metric: list[Metric] = [KL(), Entropy()] + ([Rank()] if known else [])
    swept = sweep(
        model, direction, prompts, coefficients, metric=metric, answer=answer, when=when, mask=mask,
        with_controls=with_controls, seed=seed, progress=progress,
    )  # fmt: skip
    out = xr.Dataset(
        attrs={**swept.attrs, "method": "effect_curves", "convention": "raw metrics, no effects"}
    )
    for name in ("value", "random", "shuffled"):
        if name in swept:
            suffix = "" if name == "value" else f"_{name}"
            # Of the controls a sweep keeps effects: clean - raw, where lower is better.
            raw = swept["raw"] if name == "value" else swept["clean"] - swept[name]
            raw = raw.transpose(*swept[name].dims)
            for each in ("kl", "entropy"):
                out[each + suffix] = raw.sel(metric=each, drop=True)
            if known:
                rank = raw.sel(metric="rank", drop=True)
                out["right" + suffix] = (rank < 0.5).astype(float).where(rank.notnull())
    results.check(out)
    return out


def _reading(model: Model, positive: Any, how: Extraction) -> Direction:
    if how.pos == "all":
        raise ValueError("pos is 'all'; a reading vector has one row a prompt. Use 'last' or 'mean'.")
    mask = how.mask if how.mask is None or isinstance(how.mask, Tensor) else how.mask[0]
    data = read(model, positive, mask, what="positive")
    rows = {where: each.flatten(1).double() for where, each in how.rows(model, data)[0].items()}
    return Direction(
        vectors={where: each.mean(0).to(anatomy(model).dtype) for where, each in rows.items()},
        method="reading",
        positions=how.pos if isinstance(how.pos, str) else repr(how.pos),
        norms={where: each.norm(dim=1).median().item() for where, each in rows.items()},
        data=data.data_hash(),
        **found_on(model),
    )
