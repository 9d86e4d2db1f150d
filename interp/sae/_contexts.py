"""What a feature is of: features of prompts as a table, and the contexts in which one is largest.

1. Read the dictionary's site (for a transcoder what it reads, through the norm) and encode every token.
2. A context is a prompt: its value is the feature's largest over the prompt's tokens, and the window shows
   the tokens around that one. So the top contexts are of different prompts, and none is shown twice.

Bricken et al. 2023 ("Towards monosemanticity"), and every feature browser since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.places import Place
from interp.positions import AnyPositions
from interp.prompts import Prompts, read
from interp.sae._dictionary import Dictionary
from interp.sae._site import name_of, read_norm, read_sites, require, site_name
from interp.tasks import vocabulary

_ROWS = 512  # encoded at once


@verb
def encode(
    model: Model,
    dictionary: Dictionary,
    data: Any,
    *,
    pos: AnyPositions = "last",
    mask: Tensor | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "row feature"]:
    """Features of prompts: [prompt, feature] at one position, a row for every token with pos="all".

    data: prompts (`prompts.read`), or a task. Where `pos` is several tokens of a prompt, their mean
    activation is encoded. For a transcoder, of what it reads. In units of the dictionary, float32 or better.

    Cost: a forward of each prompt as far as the site. Raises ValueError for a dictionary that does not fit
    the model, and as `interp.activations`.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> tuple(sae.encode(model, d, interp.tasks.ioi(model, n=4)).shape)
        (4, 128)
    """
    head = require(dictionary, model, one_head=True).head
    end = Place(*read_sites(dictionary, model)[0], head=head)
    with torch.no_grad():
        rows = activations(model, data, end, pos, mask=mask, batch_size=batch_size).flatten(1)
        norm = read_norm(dictionary, model)
        rows = rows if norm is None else norm(rows)
        return torch.cat([dictionary.encode(part) for part in rows.split(_ROWS)])


@verb
def contexts(
    model: Model,
    dictionary: Dictionary,
    data: Any,
    features: Sequence[int],
    *,
    top: int = 5,
    window: int = 6,
    skip: int = 1,
    mask: Tensor | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    """The `top` prompts in which each feature is largest, with the tokens around the largest value.

    features: their numbers. window: tokens shown on either side. skip: tokens left out at the start of each
    prompt (the beginning token).

    Returns a Dataset: `value` [feature, rank], the largest activation in that prompt, in units of the
    dictionary; `prompt_number` and `pos` [feature, rank], where; `activation` and `token` [feature, rank,
    offset], around it, NaN and "" outside of the prompt; `rate` [feature], the share of all tokens on which
    it is on. NaN values (prompt_number -1) where fewer prompts turn the feature on. Drawn by
    `interp.plot.contexts`.

    Cost: a forward of each prompt as far as the site. Raises ValueError for features that the dictionary does
    not have, and prompts of `skip` tokens or fewer.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> found = sae.contexts(model, d, interp.tasks.ioi(model, n=8), [3, 5], top=2, window=2)
        >>> found["value"].dims, found["token"].shape
        (('feature', 'rank'), (2, 2, 5))
    """
    require(dictionary, model, one_head=True)
    require_features(dictionary, features)
    prompts = read(model, data, mask)
    if window < 0 or skip < 0 or int(prompts.lengths.min()) <= skip:
        raise ValueError(
            f"window is {window} and skip {skip}, and the shortest prompt has {int(prompts.lengths.min())} "
            "tokens; both are 0 or more, and a token must be left."
        )
    every = encode(model, dictionary, prompts, pos="all", batch_size=batch_size)[:, list(features)]
    lengths = prompts.lengths.tolist()
    table = torch.full((len(prompts), max(lengths), len(features)), float("nan"))
    for row, part in enumerate(every.cpu().split(lengths)):
        table[row, : len(part)] = part  # [prompt, pos, feature]
    table[:, :skip] = float("nan")
    variables = _windows(model, prompts, table.double().numpy(), top, window)
    on = [part[skip:] != 0 for part in every.split(lengths)]
    variables["rate"] = (("feature",), torch.cat(on).double().mean(0).cpu().numpy())
    attrs = results.provenance(
        method="sae.contexts", model=anatomy(model).name, site=site_name(dictionary), n_prompts=len(prompts),
        convention="the largest activation of a feature in each prompt", dictionary=repr(dictionary),
        skip=skip, n_features=dictionary.n_features,
    )  # fmt: skip
    attrs |= {"metric": "activation", "unit": "units of the dictionary", "better": "higher"}
    coords = {
        "feature": np.array([name_of(dictionary, each) for each in features], dtype=object),
        "index": ("feature", np.array(features)), "rank": np.arange(variables["value"][1].shape[1]),
        "offset": np.arange(-window, window + 1),
    }  # fmt: skip
    return results.dataset(variables, coords, attrs)


def require_features(dictionary: Dictionary, features: Sequence[int]) -> None:
    """ValueError for no features, or for numbers that the dictionary does not have."""
    outside = [each for each in features if not 0 <= each < dictionary.n_features]
    if outside or not len(features) or len(set(features)) < len(features):
        raise ValueError(
            f"features is {list(features)}; give some of 0 to {dictionary.n_features - 1}, each once."
        )


def _windows(
    model: Model, prompts: Prompts, table: np.ndarray, top: int, window: int
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Ranked prompts of every feature, and what stands around their largest tokens."""
    filled = np.where(np.isnan(table), -np.inf, table)
    best, where = filled.max(1), filled.argmax(1)  # [prompt, feature]
    ranked = np.argsort(-best, axis=0, kind="stable")[:top]  # [rank, feature]
    n_features, n_ranks = table.shape[2], len(ranked)
    value, prompt, pos = (np.full((n_features, n_ranks), fill) for fill in (np.nan, -1, -1))
    activation = np.full((n_features, n_ranks, 2 * window + 1), np.nan)
    token = np.full(activation.shape, "", dtype=object)
    labels: dict[int, list[str]] = {}
    for rank, feature in np.ndindex(n_ranks, n_features):
        row = int(ranked[rank, feature])
        if not best[row, feature] > 0:
            continue
        at, length = int(where[row, feature]), int(prompts.lengths[row])
        words = labels.setdefault(row, _words(model, prompts, row))
        value[feature, rank], prompt[feature, rank], pos[feature, rank] = best[row, feature], row, at
        for offset in range(max(-window, -at), min(window + 1, length - at)):
            activation[feature, rank, window + offset] = table[row, at + offset, feature]
            token[feature, rank, window + offset] = words[at + offset]
    dims = ("feature", "rank")
    return {
        "value": (dims, value), "prompt_number": (dims, prompt), "pos": (dims, pos),
        "activation": ((*dims, "offset"), activation), "token": ((*dims, "offset"), token),
    }  # fmt: skip


def _words(model: Model, prompts: Prompts, row: int) -> list[str]:
    if not vocabulary.has_tokenizer(model):
        return [str(each) for each in prompts.tokens[row, : int(prompts.lengths[row])].tolist()]
    return list(vocabulary.strings(model, prompts.tokens[row : row + 1], prompts.lengths[row : row + 1])[0])
