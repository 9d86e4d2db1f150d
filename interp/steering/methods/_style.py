"""Style vectors: one direction for each of k styles (Konen et al., 2402.01618).

1. Activations of labelled texts at the places: a(x).
2. v_s = mean of a over the texts of style s − mean of a over the texts of all other styles.
3. The same with the labels dealt anew, every style its share of every style's texts, gives the control.

With n_s of N texts in style s and μ the mean of all, v_s = N/(N − n_s) · (μ_s − μ); so the v_s weighted by
n_s (N − n_s) add up to 0, and two styles have opposite vectors. `steering.class_means` weighs the other
styles, not their texts, equally; the two agree where all styles have as many texts.

Sign: adding v_s goes from the other styles to s. Units: those of the activations. The paper adds λ · v_s at
several layers at once: `steering.add(vectors["formal"], 0.5)` acts at every layer of the direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.positions import AnyPositions
from interp.prompts import read
from interp.steering._classes import without_rounding
from interp.steering._direction import Direction, found_on
from interp.steering.estimators import dealt


@verb
def style_vectors(
    model: Model,
    texts: Any,
    styles: Sequence[str],
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[str, Direction]:
    """For each style, in the order in which they first stand, its direction: [d] at each layer.

    texts: strings, or token ids [prompt, pos]; styles: one label a text. pos: "last", "mean", ... (see
    `read_positions`), not "all". Each direction carries that of shuffled labels.

    Cost: one forward pass of each text as far as the last layer. Raises ValueError, before any pass, for
    labels of another number than the texts, one style only, pos="all", a place that the model does not have.
    Paper: 2402.01618.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> vectors = methods.style_vectors(model, task.clean, ["a", "b"] * 4, layer=1)
        >>> sorted(vectors)
        ['a', 'b']
    """
    wanted, data = vector_places(anatomy(model), layer, site), read(model, texts, what="texts")
    _check(len(data), styles)
    if pos == "all":
        raise ValueError("pos is 'all', which gives rows without a label; use 'mean' or one position.")
    rows = activations(model, data, wanted, pos, batch_size=batch_size)
    drawn_styles = dealt(styles, torch.Generator().manual_seed(seed))
    true = {w: style_differences(rows[w].flatten(1), styles) for w in wanted}
    labels = [] if drawn_styles is None else [drawn_styles]
    drawn = {w: style_differences(rows[w].flatten(1), each) for each in labels for w in wanted}
    label = hashlib.sha256(f"{data.data_hash()}{list(styles)}".encode()).hexdigest()
    norms = {w: rows[w].flatten(1).double().norm(dim=1).median().item() for w in wanted}
    typed = {style: {w: true[w][style].to(rows[w].dtype) for w in wanted} for style in dict.fromkeys(styles)}
    return {
        style: Direction(
            vectors=without_rounding(vectors, norms, f"style_vectors: {style}"),
            shuffled={w: found[style].to(rows[w].dtype) for w, found in drawn.items()},
            **found_on(model),
            method=f"style_vectors: {style}",
            positions=pos if isinstance(pos, str) else repr(pos),
            norms=norms,
            data=label,
            seed=seed,
        )
        for style, vectors in typed.items()
    }


@verb
def style_differences(rows: Float[Tensor, "text d"], styles: Sequence[str]) -> dict[str, Float[Tensor, "d"]]:
    """Mean of the rows of each style − mean of all other rows, in float64. Pure; no forward pass.

    Raises ValueError for labels of another number than the rows, and for fewer than two styles.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> from interp.steering import methods
        >>> tuple(methods.style_differences(up, ["a", "b"] * 10)["a"].shape)
        (8,)
    """
    _check(len(rows), styles)
    wide, found = rows.double(), {}
    for style in dict.fromkeys(styles):
        own = torch.tensor([each == style for each in styles], device=rows.device)
        found[style] = wide[own].mean(0) - wide[~own].mean(0)
    return found


def _check(n: int, styles: Sequence[str]) -> None:
    if isinstance(styles, str) or len(styles) != n:
        got = repr(styles) if isinstance(styles, str) else len(styles)
        raise ValueError(f"there are {n} texts and {got} styles. Give one label for each text.")
    if len(set(styles)) < 2:
        raise ValueError(f"all texts have the style {styles[0]!r}; a style vector needs two styles or more.")
