"""What heads attend to: patterns as a labelled array, and scores of known roles on repeated random tokens.

With p[q, k] the attention from query q to key k on [BOS, x, x], x random tokens without repeats, |x| = R:

| score            | mean over q of   | q                                      | a uniform head gives |
|------------------|------------------|----------------------------------------|----------------------|
| `previous_token` | p[q, q − 1]      | every position but the first two       | mean of 1 / (q + 1)  |
| `duplicate_token`| p[q, q − R]      | the second copy                        | the same             |
| `induction`      | p[q, q − R + 1]  | the second copy but its first position | the same             |
| `anti_induction` | p[q, q − R − 1]  | the second copy                        | the same             |

A score lies between 0 and 1 and is a signature, never a cause: whether the model needs the head is for
`interp.patch` to say. A head that looks a fixed distance back has a high score at one R only, so several are
drawn. Elhage et al. 2021; Olsson et al. 2209.11895.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.engine.trust import prove_sites
from interp.experiment import check_model
from interp.models import Anatomy, Model, anatomy, logits
from interp.places import hook_name

SCORES = ("previous_token", "duplicate_token", "induction", "anti_induction")
_ROWS = 8  # prompts at once


@verb
def attention(
    model: Model,
    tokens: Int[Tensor, "prompt pos"] | Int[Tensor, "pos"] | str,
    *,
    layer: int | Sequence[int] | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Attention patterns of every head: `value` [prompt, layer, head, dst, src], each row summing to 1.

    tokens: a prompt as text, or token ids of equal length. layer: one, several, or all.
    Cost: one forward a prompt. Raises ValueError for a layer that is not there, ids outside the vocabulary,
    and a model whose pattern hooks are not in its path.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> patterns = interp.heads.attention(model, "When Mary and John went to the store", layer=0)
        >>> patterns["value"].dims, bool((patterns["value"].sum("src") - 1).max() < 1e-5)
        (('prompt', 'layer', 'head', 'dst', 'src'), True)
    """
    facts = anatomy(model)
    check_model(model, facts)
    rows = model.to_tokens(tokens) if isinstance(tokens, str) else torch.as_tensor(tokens)
    rows = rows[None] if rows.ndim == 1 else rows
    _check_tokens(rows, facts)
    layers = _layers(layer, facts)
    patterns = np.concatenate([each.cpu().numpy() for each in _batches(model, rows, layers, batch_size)])
    positions = np.arange(rows.shape[1])
    coords: dict[str, Any] = {
        "prompt": np.arange(len(rows)),
        "layer": layers,
        "head": np.arange(facts.n_heads),
        "dst": positions,
        "src": positions,
        "head_name": _head_names(layers, facts),
    }
    if model.tokenizer is not None:
        words = np.array([[model.tokenizer.decode([i]) for i in row] for row in rows.tolist()], dtype=object)
        coords |= {"dst_token": (("prompt", "dst"), words), "src_token": (("prompt", "src"), words)}
    attrs = results.provenance(
        method="attention", site="pattern", model=facts.name, n_prompts=len(rows),
        convention="value = attention from position dst to position src",
    )  # fmt: skip
    dims = ("prompt", "layer", "head", "dst", "src")
    return results.dataset({"value": (dims, patterns)}, coords, attrs)


@verb
def scores(
    model: Model,
    *,
    lengths: Sequence[int] | None = None,
    n: int = 8,
    among: Sequence[int] | None = None,
    prepend_bos: bool | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The scores above of every head: `value` [prompt, score, layer, head], and `uniform` [score].

    lengths: R, the tokens that are repeated; by default two that fit the context. n: prompts of each length.
    among: token ids to draw from; by default all that are not special. prepend_bos: as the tokenizer does it
    by default.

    Cost: one forward a prompt. Raises ValueError for lengths that do not fit the context or the tokens.

    Example:
        >>> model = interp.load("induction")
        >>> found = interp.heads.scores(model, lengths=[6, 9], prepend_bos=False, progress=False)
        >>> round(float(found["value"].sel(score="previous_token", layer=0, head=0).mean()), 3)
        1.0
    """
    facts = anatomy(model)
    check_model(model, facts)
    pool = _pool(model, facts, among)
    bos = _bos(model, prepend_bos)
    sizes = _lengths(lengths, facts, len(pool), len(bos))
    generator = np.random.default_rng(seed)
    values, uniform, which = [], [], []
    with tqdm(total=n * len(sizes), disable=not progress, desc="scores", unit="run") as bar:
        for size in sizes:
            drawn = np.stack([generator.permutation(pool)[:size] for _ in range(n)])
            rows = np.concatenate((np.tile(bos, (n, 1)).astype(np.int64), drawn, drawn), 1)
            pairs = _pairs(size, len(bos))
            for patterns in _batches(model, torch.as_tensor(rows), range(facts.n_layers), batch_size):
                values.append(np.stack([_mass(patterns, *pairs[name]) for name in SCORES], 1))
                bar.update(len(patterns))
            uniform.append([np.mean(1 / (pairs[name][0] + 1)) for name in SCORES])
            which += [size] * n
    attrs = results.provenance(
        method="head scores", site="pattern", model=facts.name, n_prompts=len(which), seed=seed,
        convention="value = mean attention on the positions that the role attends to", data="random repeats",
        repeat_lengths=", ".join(map(str, sizes)), prepend_bos=int(bool(len(bos))),
    )  # fmt: skip
    coords = {
        "prompt": np.arange(len(which)),
        "repeat": ("prompt", np.array(which)),
        "score": list(SCORES),
        "layer": np.arange(facts.n_layers),
        "head": np.arange(facts.n_heads),
        "head_name": _head_names(range(facts.n_layers), facts),
    }
    variables = {
        "value": (("prompt", "score", "layer", "head"), np.concatenate(values)),
        "uniform": (("score",), np.mean(uniform, 0)),
    }
    return results.dataset(variables, coords, attrs)


def _batches(
    model: Model, rows: Int[Tensor, "prompt pos"], layers: Sequence[int], batch_size: int | None
) -> Iterator[Float[Tensor, "prompt layer head dst src"]]:
    """Batches of patterns [prompt, layer, head, dst, src]."""
    rows = rows.to(anatomy(model).device)
    prove_sites(model, rows[:1], ("pattern",))
    with torch.inference_mode():
        for batch in rows.split(batch_size or _ROWS):
            kept: dict[int, Tensor] = {}
            hooks = [(hook_name("pattern", layer), partial(_keep, kept, layer)) for layer in layers]
            with model.hooks(fwd_hooks=hooks):
                logits(model, batch)
            yield torch.stack([kept[layer] for layer in layers], 1).double()


def _keep(kept: dict[int, Tensor], layer: int, tensor: Tensor, hook: Any) -> Tensor:
    kept[layer] = tensor.detach()
    return tensor


def _mass(
    patterns: Float[Tensor, "prompt layer head dst src"], queries: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Mean attention over pairs of positions: [prompt, layer, head]."""
    return patterns[..., torch.as_tensor(queries), torch.as_tensor(keys)].mean(-1).cpu().numpy()


def _pairs(size: int, start: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By score, the queries and the keys that its role attends to. `start`: where the first copy begins."""
    every, second = np.arange(2, start + 2 * size), np.arange(start + size, start + 2 * size)
    before = second[second - size - 1 >= 0]
    return {
        "previous_token": (every, every - 1),
        "duplicate_token": (second, second - size),
        "induction": (second[1:], second[1:] - size + 1),
        "anti_induction": (before, before - size - 1),
    }


def _pool(model: Model, facts: Anatomy, among: Sequence[int] | None) -> np.ndarray:
    """The token ids to draw from."""
    special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
    if among is None:
        return np.array([i for i in range(facts.d_vocab) if i not in special])
    pool = np.unique(np.asarray(among, dtype=np.int64))
    wrong = [int(i) for i in pool if i in special or not 0 <= i < facts.d_vocab]
    if wrong:
        raise ValueError(
            f"token {wrong[0]} is special or outside the vocabulary of {facts.d_vocab}: its attention says "
            "nothing about repeats. Give ids of ordinary tokens."
        )
    return pool


def _bos(model: Model, prepend_bos: bool | None) -> np.ndarray:
    wanted = getattr(model.cfg, "default_prepend_bos", True) if prepend_bos is None else prepend_bos
    bos = None if model.tokenizer is None else model.tokenizer.bos_token_id
    return np.array([bos], dtype=np.int64) if wanted and bos is not None else np.empty(0, np.int64)


def _lengths(lengths: Sequence[int] | None, facts: Anatomy, n_tokens: int, n_bos: int) -> list[int]:
    longest = min((facts.n_ctx - n_bos) // 2, n_tokens)
    if lengths is None:
        top = min(longest, 60)
        return sorted({max(2, top // 2), top} if top < 40 else {20, 41})
    for size in lengths:
        if not 2 <= size <= longest:
            raise ValueError(
                f"a repeat of {size} tokens does not fit: the context is {facts.n_ctx} and there are "
                f"{n_tokens} tokens to draw from, so 2 to {longest} fits."
            )
    return list(lengths)


def _layers(layer: int | Sequence[int] | None, facts: Anatomy) -> list[int]:
    layers = (
        list(range(facts.n_layers)) if layer is None else [layer] if isinstance(layer, int) else list(layer)
    )
    outside = [each for each in layers if not 0 <= each < facts.n_layers]
    if outside or not layers:
        raise ValueError(
            f"layer {outside or layers} is not there: the model has layers 0 to {facts.n_layers - 1}."
        )
    return layers


def _check_tokens(rows: Tensor, facts: Anatomy) -> None:
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(
            f"tokens have shape {list(rows.shape)}; give [pos] or [prompt, pos] with a token at least."
        )
    if not 0 <= int(rows.min()) <= int(rows.max()) < facts.d_vocab:
        raise ValueError(
            f"token ids {int(rows.min())} to {int(rows.max())}: the vocabulary has 0 to {facts.d_vocab - 1}."
        )
    if rows.shape[1] > facts.n_ctx:
        raise ValueError(f"prompts have {rows.shape[1]} tokens, the model's context is {facts.n_ctx}.")


def _head_names(layers: Sequence[int], facts: Anatomy) -> tuple[tuple[str, str], np.ndarray]:
    names = [[f"L{layer}H{head}" for head in range(facts.n_heads)] for layer in layers]
    return ("layer", "head"), np.array(names, dtype=object)
