"""Scores of known roles on repeated random tokens, how positional a head is, and what it copies.

With p[q, k] the attention from query q to key k on [BOS, x, x], x tokens without repeats, |x| = R:

| score            | mean over q of   | q                                      | a uniform head gives |
|------------------|------------------|----------------------------------------|----------------------|
| `previous_token` | p[q, q − 1]      | every position but the first two       | mean of 1 / (q + 1)  |
| `duplicate_token`| p[q, q − R]      | the second copy                        | the same             |
| `induction`      | p[q, q − R + 1]  | the second copy but its first position | the same             |
| `anti_induction` | p[q, q − R − 1]  | the second copy                        | the same             |

Key 0 (BOS, or the first token) is left out as a key: attention rests there for no reason of the prompt's. The
rest is not renormalised. A score lies between 0 and 1 and is a signature, never a cause: whether the model
needs the heads is for `load_bearing` and `interp.patch` to say. A head that looks a fixed distance back has a
high score at one R only, so several are drawn.

Positional share, on independent random tokens: 1 − Σ (p − p̄)² / Σ (p − u)², p̄ the mean over prompts at equal
(q, k), u uniform attention: 1 where only the positions decide, 0 where only the tokens do. The first sum is
taken times n / (n − 1), since p̄ comes from the same n prompts. (Repeats would not do: at a fixed R an
induction head looks positional.)

Elhage et al. 2021; Olsson et al. 2209.11895.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor
from tqdm import tqdm

from interp import results, stats
from interp._verbs import verb
from interp.experiment import check_model
from interp.heads import _patterns
from interp.heads._copying import check_embedding, copying_scores
from interp.heads._patterns import head_names, uniform
from interp.models import Anatomy, Model, anatomy, unsupported
from interp.prompts import read
from interp.tasks import vocabulary

SCORES = ("previous_token", "duplicate_token", "induction", "anti_induction")
_IDLE = 1e-9  # of Σ u²: attention this near to uniform is uniform, and has no share


@verb
def scores(
    model: Model,
    prompts: Any = None,
    *,
    lengths: Sequence[int] | None = None,
    n: int = 8,
    among: Sequence[int] | None = None,
    prepend_bos: bool | None = None,
    embedding: str = "effective",
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """What every head looks like: `value` [prompt, score, layer, head], the table above.

    prompts: texts or token ids (see `interp.prompts`) whose first R tokens are repeated instead of random
        ones: a second opinion, since the tokens of a text may come twice.
    lengths: R, the tokens that are repeated; by default two that fit the context.
    n: random prompts of each length.
    among: token ids to draw from; by default all that are not special.
    prepend_bos: as the tokenizer does it by default.
    embedding: what the copying of a head is asked of, "effective" or "raw" (see `copying`).

    Returns a Dataset: `value` with its interval over prompts (`low`, `high` [score, layer, head]), `uniform`
    [score, layer], what a head that attends alike to all gives; `positional` [layer, head] with
    `positional_low` and `positional_high` (jackknife over prompts), NaN for a head that is uniform; `copying`
    [layer, head], from weights alone, NaN where they cannot be read. Numbers have no unit.

    Cost: one forward for every prompt, and n × (number of lengths) more for the positional share. Raises
    ValueError for lengths that do not fit the context or the tokens, and for special tokens.

    Example:
        >>> model = interp.load("induction")
        >>> found = interp.heads.scores(model, lengths=[6, 9], prepend_bos=False, progress=False)
        >>> round(float(found["value"].sel(score="previous_token", layer=0, head=0).mean()), 3)
        1.0
    """
    facts = anatomy(model)
    check_model(model, facts)
    check_embedding(embedding)
    if n < 1:
        raise ValueError(f"n is {n}; give a whole number of prompts of each length, at least 1.")
    pool, bos = token_pool(model, among), first_tokens(model, prepend_bos)
    texts = None if prompts is None else _texts(model, prompts, bos)
    sizes = repeat_lengths(lengths, facts, len(pool) if texts is None else min(map(len, texts)), len(bos))
    generator = np.random.default_rng(seed)
    drawn = {size: _firsts(generator, pool, texts, n, size) for size in sizes}
    free = independent(generator, pool, bos, len(sizes) * n, len(bos) + 2 * max(sizes))
    total = sum(map(len, drawn.values())) + len(free)
    with tqdm(total=total, disable=not progress, desc="scores", unit="run") as bar:
        values = [_measured(model, facts, bos, drawn[size], batch_size, bar) for size in sizes]
        positional = _positional(model, facts, free, batch_size, level, bar)
    which = np.repeat(sizes, [len(rows) for rows in drawn.values()])
    attrs = results.provenance(
        method="head scores", site="pattern", model=facts.name, n_prompts=len(which), seed=seed,
        unit="share of attention",
        convention="value = mean attention on the positions that the role attends to",
        data="random repeats" if texts is None else "texts, repeated",
        repeat_lengths=", ".join(map(str, sizes)), prepend_bos=int(bool(len(bos))), embedding=embedding,
    )  # fmt: skip
    coords = _coords(facts, which)
    variables = {
        "value": (("prompt", "score", "layer", "head"), np.concatenate(values)),
        "uniform": (("score", "layer"), np.mean([_uniform(facts, size, len(bos)) for size in sizes], 0)),
        **{name: (("layer", "head"), column) for name, column in positional.items()},
        "copying": (("layer", "head"), _copying(model, facts, embedding, seed, attrs)),
    }
    return _with_interval(results.dataset(variables, coords, attrs), level)


def _coords(facts: Anatomy, which: np.ndarray) -> dict[str, Any]:
    return {
        "prompt": np.arange(len(which)),
        "repeat": ("prompt", which),
        "score": list(SCORES),
        "layer": np.arange(facts.n_layers),
        "head": np.arange(facts.n_heads),
        "head_name": head_names(range(facts.n_layers), facts),
    }


def _with_interval(result: xr.Dataset, level: float) -> xr.Dataset:
    """The result with the interval of its mean over prompts; NaN for a single prompt."""
    if result.sizes["prompt"] < 2:
        ends = {name: result["value"].isel(prompt=0, drop=True) * np.nan for name in ("low", "high")}
        return result.assign(ends).assign_attrs(level=level)
    interval = stats.bootstrap(result[["value"]], level=level)
    return result.assign(low=interval["low"], high=interval["high"]).assign_attrs(
        level=level, resampled="prompt", n_resampled=result.sizes["prompt"]
    )


def _copying(model: Model, facts: Anatomy, embedding: str, seed: int, attrs: dict[str, Any]) -> np.ndarray:
    if reason := unsupported(model):
        attrs["copying"] = f"not measured: {reason}"
        return np.full((facts.n_layers, facts.n_heads), np.nan)
    return copying_scores(model, embedding, None, seed)["value"]


def _firsts(
    generator: np.random.Generator, pool: np.ndarray, texts: list[np.ndarray] | None, n: int, size: int
) -> Int[np.ndarray, "prompt token"]:
    """What is repeated: random tokens without repeats, or the beginnings of texts."""
    if texts is not None:
        return np.stack([text[:size] for text in texts])
    return np.stack([generator.permutation(pool)[:size] for _ in range(n)])


def independent(
    generator: np.random.Generator, pool: np.ndarray, bos: np.ndarray, n: int, width: int
) -> Int[np.ndarray, "prompt pos"]:
    """Random tokens, each drawn anew."""
    drawn = generator.choice(pool, size=(n, width - len(bos)))
    return np.concatenate((np.tile(bos, (n, 1)).astype(np.int64), drawn), 1)


def _measured(
    model: Model, facts: Anatomy, bos: np.ndarray, drawn: np.ndarray, batch_size: int | None, bar: tqdm
) -> Float[np.ndarray, "prompt score layer head"]:
    """The scores of prompts that repeat what was drawn."""
    rows = repeated(bos, drawn)
    pairs, values = role_positions(drawn.shape[1], len(bos)), []
    for patterns in _patterns.batches(model, rows, range(facts.n_layers), batch_size):
        values.append(np.stack([_mass(patterns, *pairs[name]) for name in SCORES], 1))
        bar.update(len(patterns))
    return np.concatenate(values)


def repeated(bos: np.ndarray, drawn: np.ndarray) -> Int[Tensor, "prompt pos"]:
    """[BOS, x, x] for every x."""
    start = np.tile(bos, (len(drawn), 1)).astype(np.int64)
    return torch.as_tensor(np.concatenate((start, drawn, drawn), 1))


def _mass(
    patterns: Float[Tensor, "prompt layer head dst src"], queries: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Mean attention over pairs of positions: [prompt, layer, head]."""
    return patterns[..., torch.as_tensor(queries), torch.as_tensor(keys)].mean(-1).cpu().numpy()


def role_positions(size: int, start: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By score, the queries and the keys that its role attends to. `start`: where the first copy begins."""
    every, second = np.arange(2, start + 2 * size), np.arange(start + size, start + 2 * size)
    keys = {
        "previous_token": (every, every - 1),
        "duplicate_token": (second, second - size),
        "induction": (second[1:], second[1:] - size + 1),
        "anti_induction": (second, second - size - 1),
    }
    return {name: (q[k > 0], k[k > 0]) for name, (q, k) in keys.items()}


def _uniform(facts: Anatomy, size: int, start: int) -> Float[np.ndarray, "score layer"]:
    pairs, width = role_positions(size, start), start + 2 * size
    flat = [uniform(facts, layer, width) for layer in range(facts.n_layers)]
    return np.array([[pattern[pairs[name]].mean() for pattern in flat] for name in SCORES])


def _positional(
    model: Model, facts: Anatomy, rows: np.ndarray, batch_size: int | None, level: float, bar: tqdm
) -> dict[str, np.ndarray]:
    """The positional share of every head [layer, head], and its jackknife interval."""
    patterns = []
    for batch in _patterns.batches(model, torch.as_tensor(rows), range(facts.n_layers), batch_size):
        patterns.append(batch.float().cpu())
        bar.update(len(batch))
    stacked = torch.cat(patterns)  # [prompt, layer, head, dst, src]
    layers = [
        _shares(stacked[:, layer].double(), torch.as_tensor(uniform(facts, layer, rows.shape[1])))
        for layer in range(facts.n_layers)
    ]
    whole, left_out = (np.stack(column) for column in zip(*layers))  # [layer, head], [layer, prompt, head]
    n = len(rows)
    spread = np.sqrt((n - 1) / n * ((left_out - left_out.mean(1, keepdims=True)) ** 2).sum(1))
    width = -stdtrit(max(n - 1, 1), (1 - level) / 2) * spread if n > 2 else np.full_like(whole, np.nan)
    return {"positional": whole, "positional_low": whole - width, "positional_high": whole + width}


def _shares(
    patterns: Float[Tensor, "prompt head dst src"], flat: Float[Tensor, "dst src"]
) -> tuple[np.ndarray, np.ndarray]:
    """The share of each head [head], and that without each prompt [prompt, head].

    Σ (p − p̄)² = Σ |p|² − |Σ p|² / n, in which leaving a prompt out is a subtraction.
    """
    n, total = len(patterns), patterns.sum(0)
    square = patterns.pow(2).sum((-1, -2))  # [prompt, head]
    away = (patterns - flat).pow(2).sum((-1, -2))
    along = torch.einsum("nhqk,hqk->nh", patterns, total)
    norm = total.pow(2).sum((-1, -2))
    idle = away.sum(0) / n < _IDLE * flat.pow(2).sum()

    def share(square: Tensor, norm: Tensor, away: Tensor, m: int) -> np.ndarray:
        within = (square - norm / m) * (m / (m - 1)) if m > 1 else torch.nan * norm
        return torch.where(idle, torch.nan, 1 - within / away).cpu().numpy()

    out = share(square.sum(0) - square, norm - 2 * along + square, away.sum(0) - away, n - 1)
    return share(square.sum(0), norm, away.sum(0), n), out


def token_pool(model: Model, among: Sequence[int] | None) -> Int[np.ndarray, "token"]:
    """The token ids to draw from: all that are not special, or those given. ValueError for special ones."""
    size, special = vocabulary.size(model), _special(model)
    if among is None:
        return np.array([i for i in range(size) if i not in special])
    pool = np.unique(np.asarray(among, dtype=np.int64))
    wrong = [int(i) for i in pool if i in special or not 0 <= i < size]
    if wrong or not len(pool):
        raise ValueError(
            f"token {wrong[0] if wrong else 'none'} is special or outside the vocabulary of {size}: its "
            "attention says nothing about repeats. Give ids of ordinary tokens."
        )
    return pool


def _special(model: Model) -> set[int]:
    return set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)


def first_tokens(model: Model, prepend_bos: bool | None) -> Int[np.ndarray, "token"]:
    """What stands before the first copy: BOS, or nothing."""
    wanted = getattr(model.cfg, "default_prepend_bos", True) if prepend_bos is None else prepend_bos
    bos = None if model.tokenizer is None else model.tokenizer.bos_token_id
    return np.array([bos], dtype=np.int64) if wanted and bos is not None else np.empty(0, np.int64)


def _texts(model: Model, prompts: Any, bos: np.ndarray) -> list[np.ndarray]:
    """The tokens of each prompt, without BOS. ValueError where a special one stands among them."""
    data, special = read(model, prompts), _special(model)
    rows = []
    for number, (row, length) in enumerate(zip(data.tokens.tolist(), data.lengths.tolist())):
        ids = row[:length]
        ids = ids[1:] if len(bos) and ids[0] == bos[0] else ids
        if within := special & set(ids):
            raise ValueError(
                f"prompt {number} holds the special token {min(within)}: its attention says nothing about "
                "repeats. Give ordinary text."
            )
        rows.append(np.array(ids, dtype=np.int64))
    return rows


def repeat_lengths(lengths: Sequence[int] | None, facts: Anatomy, n_tokens: int, n_bos: int) -> list[int]:
    """The lengths to repeat: those given, or two that fit. ValueError where one does not."""
    longest = min((facts.n_ctx - n_bos) // 2, n_tokens)
    if lengths is None and longest >= 2:
        top = min(longest, 60)
        return sorted({max(2, top // 2), top} if top < 40 else {20, 41})
    if lengths is not None and len(set(lengths)) < len(lengths):
        raise ValueError(f"lengths is {list(lengths)}, with one twice; give each once.")
    for size in lengths or (2,):
        if not 2 <= size <= longest:
            raise ValueError(
                f"a repeat of {size} tokens does not fit: the context is {facts.n_ctx} and there are "
                f"{n_tokens} tokens to draw from, so 2 to {longest} fits."
            )
    return list(lengths or ())
