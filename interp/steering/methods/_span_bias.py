"""Attention intervention by spans (AAI): chosen queries look more, less or not at all at chosen keys.

Heads are chosen by how regular their attention is (derived from the authors' code):
1. An attention is strong above a quantile of all attentions of all heads on the prompt.
2. Rate of a diagonal: the share of queries whose attention so many tokens back is strong; of a vertical: the
   share of later queries whose attention to one position is. Position 0, a sink in most heads, and a token's
   attention to itself are left out.
3. A head's score is its highest rate over diagonals and verticals of at least `least` queries.
Then, in the chosen heads, the scores of the chosen queries on the chosen keys get
scale * (median of the scores that the query sees) + bias. Minus infinity takes the keys away. The softmax
comes after, so that rows still add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp import heads as heads_of
from interp import results
from interp._arguments import number
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import place
from interp.places import Place
from interp.positions import AnyPositions, parse
from interp.prompts import read
from interp.steering._edit_types import ScoreBias
from interp.steering._intervention import Intervention
from interp.steering.edits import Made, Number, finite


@verb
def pattern_heads(
    model: Model,
    prompts: Any,
    quantile: float = 0.95,
    *,
    least: int = 4,
    mask: Tensor | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Heads whose attention is regular: strong on one diagonal (so many tokens back) or one vertical (a
    token).

    quantile: an attention above this quantile of the prompt's attentions is strong. least: queries that a
    diagonal or vertical must have. Returns `value` [prompt, layer, head], the highest rate (0 to 1), with
    `diagonal` and `vertical`, the highest of each, and `back` and `key`, where these are; `heads.top(result)`
    lists the highest heads. Raises ValueError, before any pass, for a quantile that is not between 0 and 1,
    and prompts too short. Cost: one forward a prompt.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> found = interp.steering.methods.pattern_heads(model, task)
        >>> found["value"].dims, len(interp.heads.top(found, 2))
        (('prompt', 'layer', 'head'), 2)
    """
    if not 0 < number("quantile", quantile) < 1:
        raise ValueError(f"quantile is {quantile}; it must lie between 0 and 1, for example 0.95.")
    rows = read(model, prompts, mask)
    shortest = int(rows.lengths.min())
    if not 1 <= least < shortest - 1:
        raise ValueError(
            f"least is {least} and the shortest prompt has {shortest} tokens; it must be at least 1 and "
            "leave two "
            "diagonals. Give longer prompts."
        )
    seen = heads_of.attention(model, rows, batch_size=batch_size)["value"]
    parts = [
        _rates(seen.values[i, ..., :n, :n], quantile, least) for i, n in enumerate(rows.lengths.tolist())
    ]
    dims = ("prompt", "layer", "head")
    variables: dict[str, Any] = {name: (dims, np.stack([part[name] for part in parts])) for name in parts[0]}
    coords = {name: seen.coords[name].values for name in ("layer", "head")} | {"prompt": np.arange(len(rows))}
    attrs = results.provenance(
        method="pattern_heads", site="pattern", model=anatomy(model).name, n_prompts=len(rows),
        convention="value = share of queries with strong attention on the best diagonal or vertical",
        quantile=float(quantile), least=least,
    )  # fmt: skip
    return results.dataset(variables, coords, attrs)


def _rates(pattern: np.ndarray, quantile: float, least: int) -> dict[str, np.ndarray]:
    """Of one prompt's attention [layer, head, dst, src]: rates by head, and where they are."""
    n = pattern.shape[-1]
    seen = np.tril(np.ones((n, n), dtype=bool))
    strong = pattern > np.quantile(pattern[..., seen], quantile)
    back = range(1, n - least)  # queries from back + 1 on look at position 1 or later
    diagonals = np.stack([np.diagonal(strong, -o, -2, -1)[..., 1:].mean(-1) for o in back], -1)
    keys = range(1, n - least)
    verticals = np.stack([strong[..., j + 1 :, j].mean(-1) for j in keys], -1)
    best = {"diagonal": diagonals.max(-1), "vertical": verticals.max(-1)}
    where = {"back": 1 + diagonals.argmax(-1), "key": 1 + verticals.argmax(-1)}
    return {"value": np.maximum(*best.values()), **best, **where}


@verb
def bias_attention(
    model: Model,
    heads: Sequence[str | Place] | None,
    queries: AnyPositions,
    keys: AnyPositions,
    bias: Number,
    *,
    scale: Number = 0.0,
) -> Made:
    """Scores of chosen queries on chosen keys, in chosen heads, plus scale * (median seen) + bias.

    heads: by name ("L1H2"), or None for all. queries, keys: positions (see `interp.positions`), counted from
    the first real token of each row. bias: added to the scores, in nats of attention (log M multiplies by M);
    minus infinity takes the keys away, but for a query that sees nothing else. scale: of the median of the
    scores that the query sees, beside it.

    For `steer`, `generate` and `sweep`, with and without a cache. Raises ValueError, before any pass, for
    heads that are not there, and numbers that are not. Cost: one addition to the scores of each layer.

    Example:
        >>> from interp import steering
        >>> model = interp.load("tiny-ioi")
        >>> edit = steering.methods.bias_attention(model, ["L1H0", "L1H2"], "last", (0, 3), float("-inf"))
        >>> len(edit), edit[0].heads
        (1, (0, 2))
    """
    if bias != -float("inf"):
        finite("bias", bias)
    finite("scale", scale)
    facts = anatomy(model)
    if heads is None:
        by_layer: dict[int, list[int] | None] = dict.fromkeys(range(facts.n_layers))
    else:
        by_layer = {}
        for where in (place(each, facts) for each in heads):
            if where.head is None:
                raise ValueError(f"{str(where)!r} is no head; name heads, as in 'L1H2'.")
            by_layer[where.layer or 0] = [*(by_layer.get(where.layer or 0) or ()), where.head]
    if not by_layer:
        raise ValueError("heads is empty. Name some, as in ['L1H2'], or give None for all.")
    edit, when = ScoreBias(parse(keys), bias, scale), parse(queries)
    made = (
        Intervention(
            Place("pattern", layer), edit, when, None, None if some is None else tuple(sorted(set(some)))
        )
        for layer, some in by_layer.items()
    )
    return tuple(each.check(model) for each in made)
