"""Position and content in attention scores: four parts that add up to them.

1. Run independent random tokens. At each layer and head the query at position i is q̄[i] + δq, its mean over
   prompts and the rest; the key at j is k̄[j] + δk, both as the scores use them (normed and rotated).
2. q · k is then q̄ · k̄ + q̄ · δk + δq · k̄ + δq · δk, exactly, in every layer of every architecture whose scores
   are that product; ALiBi's slopes are of positions alone and belong to the first part.
3. Softmax sees only how scores differ over the keys of a query. So each part, and the whole, is taken less
   its mean over the keys that the query sees; the share of a part is Σ part · whole / Σ whole². The four add
   to 1, and one that works against the whole is negative.

With learned positions and no layers below, q̄ and k̄ are what the position embedding gives (and the mean
token). They hold a part 1 / n of the content of n prompts.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.engine import block as B
from interp.engine.forward import forward
from interp.engine.trust import require_weights
from interp.experiment import check_model
from interp.heads._patterns import head_names, uniform
from interp.heads._scores import first_tokens, independent, repeat_lengths, token_pool
from interp.models import Model, anatomy
from interp.models.parts import Attention, Weights

PARTS = ("position, position", "position, content", "content, position", "content, content")  # query, key


@verb
def parts(model: Model, n: int = 16, *, prepend_bos: bool | None = None, seed: int = 0) -> xr.Dataset:
    """How much of each head's attention scores comes from positions, and how much from content.

    n: prompts of independent random tokens. prepend_bos: as the tokenizer does it by default.

    Returns a Dataset: `value` [prompt, part, layer, head], parts named by query and key ("content, position":
    what the token at the query asks of places), in shares of how scores differ over keys; the four add to 1
    in the mean over prompts.
    NaN for a head whose scores are all alike. Cost: one forward a prompt. Raises ValueError for models that
    our forward pass by weights does not run, and whose scores are capped; for fewer than two prompts.

    Example:
        >>> found = interp.heads.parts(interp.load("tiny-ioi"), n=4)
        >>> bool(abs(found["value"].mean("prompt").sum("part") - 1).max() < 1e-4)
        True
    """
    facts = anatomy(model)
    check_model(model, facts)
    if not isinstance(n, int) or n < 2:
        raise ValueError(f"n is {n!r}; a mean over prompts needs at least two.")
    pool, bos = token_pool(model, None), first_tokens(model, prepend_bos)
    width = len(bos) + 2 * max(repeat_lengths(None, facts, len(pool), len(bos)))
    rows = torch.as_tensor(independent(np.random.default_rng(seed), pool, bos, n, width)).to(facts.device)
    weights = require_weights(model, rows, sites=("q", "k"), what="the parts of attention scores")
    if any(block.attn.soft_cap > 0 for block in weights.blocks):
        raise ValueError(f"{facts.name} caps its attention scores, which then are no sum of parts.")
    with torch.inference_mode():
        shares = [
            _shares(
                block.attn, *vectors, torch.as_tensor(uniform(facts, layer, width) > 0, device=facts.device)
            )
            for layer, (block, vectors) in enumerate(zip(weights.blocks, _vectors(weights, rows)))
        ]
    attrs = results.provenance(
        method="score parts", site="pattern", model=facts.name, n_prompts=n, seed=seed,
        unit="share of scores",
        convention="value = share of how attention scores differ over keys, by query and key",
        data="independent random tokens",
    )  # fmt: skip
    coords = {"prompt": np.arange(n), "part": list(PARTS), "layer": np.arange(facts.n_layers)}
    coords |= {"head": np.arange(facts.n_heads), "head_name": head_names(range(facts.n_layers), facts)}
    dims = ("prompt", "part", "layer", "head")
    return results.dataset({"value": (dims, np.stack(shares, 2))}, coords, attrs)


def _vectors(weights: Weights, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys of every layer as the scores use them: [prompt, pos, head, d_head], float64."""
    kept: dict[tuple[str, int], Tensor] = {}

    def keeper(site: str, layer: int, tensor: Tensor) -> Tensor:
        kept[site, layer] = tensor
        return tensor

    layers = range(len(weights.blocks))
    taps = {
        (site, layer): (lambda x, site=site, layer=layer: keeper(site, layer, x))
        for site in ("q", "k")
        for layer in layers
    }
    forward(weights, weights.embed(rows), 0, taps)
    out = []
    for layer, block in enumerate(weights.blocks):
        attn = block.attn
        q = B.finish_runs(attn, kept["q", layer], attn.q_norm)
        k = B.finish_runs(attn, kept["k", layer], attn.k_norm)
        share = q.shape[2] // k.shape[2]
        out.append((q.double(), k.double().repeat_interleave(share, 2)))
    return out


def _shares(
    attn: Attention,
    q: Float[Tensor, "prompt pos head d_head"],
    k: Float[Tensor, "prompt pos head d_head"],
    seen: Bool[Tensor, "dst src"],
) -> Float[np.ndarray, "prompt part head"]:
    """The parts' shares of a layer; their mean over prompts is Σ part · whole / Σ whole²."""
    queries = (q.mean(0, keepdim=True).expand_as(q), q - q.mean(0, keepdim=True))
    keys = (k.mean(0, keepdim=True).expand_as(k), k - k.mean(0, keepdim=True))
    split = [torch.einsum("nqhd,nkhd->nhqk", a, b) / attn.scale for a in queries for b in keys]
    if attn.alibi is not None:
        pos = torch.arange(q.shape[1], device=q.device)
        gap = (pos[:, None] - pos).clamp(min=0)
        split[0] = split[0] - (attn.alibi[:, None, None] * gap).double()
    centred = [_over_keys(part, seen) for part in split]
    whole = torch.stack(centred).sum(0)  # [prompt, head, dst, src]
    total = whole.pow(2).sum((-1, -2)).mean(0)  # [head]
    with_whole = torch.stack([(part * whole).sum((-1, -2)) for part in centred], 1)
    return torch.where(total > 1e-12, with_whole / total, torch.nan).cpu().numpy()


def _over_keys(part: Float[Tensor, "prompt head dst src"], seen: Tensor) -> Tensor:
    """A part less its mean over the keys that each query sees; 0 at the others."""
    counted = seen.to(part)
    return (part - (part * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True)) * counted
