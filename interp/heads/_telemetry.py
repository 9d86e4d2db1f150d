"""What a forward pass looks like from inside: sinks, massive activations, attention logits, norms.

1. Attention that key j receives at a layer and head: a_j = the mean of p[q, j] over the later queries q that
   see it. Queries below 4 and the last two keys are left out: they are means of too little.
2. Sink score = mean of a_j over heads, minus what uniform attention gives (over all later queries of a causal
   model of T tokens: (H_T − H_m) / (T − m), m the first query, H harmonic numbers). A layer has a sink at j
   where that is above 0.1; the lifetime of j is its longest run of such layers.
3. A secondary sink is one that is not key 0 and not there from the first layer. Beside it stand the cosine of
   what the MLP writes at j with the stream at key 0 (is it made into the same thing?) and the norms.
4. Massive activations: |a| > 100 and |a| ≥ 1000 × the median |a| of the stream after that layer, on that
   prompt. The highest value and its ratio are given for every layer: the verdict alone hides near misses.
5. The largest attention logit that some query has on a key it sees; norms of stream, writes, queries, keys.

Sinks: Xiao et al. 2309.17453; secondary sinks with lifetimes: 2512.22213. Massive activations: Sun et al.
2402.17762. Logits and norms as telemetry: Wortsman et al. 2309.14322.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.experiment import check_model
from interp.heads._patterns import head_names, uniform
from interp.models import Anatomy, Model, anatomy, logits
from interp.places import hook_name
from interp.prompts import Prompts, read
from interp.tasks import vocabulary

FIRST_QUERY, LAST_KEYS = 4, 2
HEAD_SINK, LAYER_SINK = 0.3, 0.1  # of a head's attention; of a layer's mean above uniform
MASSIVE, MASSIVE_RATIO = 100.0, 1000.0
_ROWS = 16  # prompts at once
_BY_HEAD = {"received": ("layer", "head", "pos"), "q_norm": ("layer", "head", "pos")}
_BY_LAYER = ("top", "top_ratio", "top_pos", "top_dim", "massive")
_BY_POSITION = ("sink_heads", "stream_norm", "attn_norm", "mlp_norm", "mlp_cosine")
DIMS: dict[str, tuple[str, ...]] = {
    **_BY_HEAD,
    "k_norm": ("layer", "kv_head", "pos"),
    "max_logit": ("layer", "head"),
    **dict.fromkeys(_BY_LAYER, ("layer",)),
    **dict.fromkeys(_BY_POSITION, ("layer", "pos")),
}


@verb
def telemetry(
    model: Model, prompts: Any, *, mask: Tensor | None = None, batch_size: int | None = None
) -> xr.Dataset:
    """Sinks, massive activations, attention logits and norms, of one forward pass.

    prompts: texts, token ids, messages or a task (see `interp.prompts`); of several lengths if need be.

    Returns a Dataset with dims prompt, layer, and head or pos, NaN where a prompt has no such position:
    `value` [prompt, layer, pos], the sink score above `uniform`; `received` by head; `sink_heads`, the share
    of heads that give a key more than 0.3; by key `lifetime` (layers, 0 for none) and `first_layer` (−1),
    `secondary` (1 or 0); `mlp_cosine`; `stream_norm`, `attn_norm`, `mlp_norm` (after the layer, of writes),
    `q_norm`, `k_norm` (before rotation); `max_logit` [prompt, layer, head], the largest |attention logit|;
    by layer `top`, `top_ratio`, `top_pos`, `top_dim` (the largest |activation| of the stream, over the
    median, and where) and `massive`, how many are. What a model does not show is NaN, and named by the
    attribute `missing`. Shares, layers, logits and lengths of vectors as they are: no unit is normalised.

    Cost: one forward a prompt. Raises ValueError for prompts that cannot be read.

    Example:
        >>> found = interp.heads.telemetry(interp.load("tiny-ioi"), "When Mary and John went to the store")
        >>> found["value"].dims, int(found["massive"].sum())
        (('prompt', 'layer', 'pos'), 0)
    """
    facts = anatomy(model)
    check_model(model, facts)
    data = read(model, prompts, mask)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number of at least 1, or None.")
    sheet = _Sheet(facts, data)
    with torch.inference_mode():
        for rows, batch in data.batches(batch_size or _ROWS, padded=facts.causal):
            one = _Pass(facts, batch)
            with model.hooks(fwd_hooks=one.hooks(model)):
                logits(model, batch.tokens)
            sheet.take(rows.cpu().numpy(), one)
    return sheet.dataset(_labels(model, data))


@dataclass(eq=False)
class _Pass:
    """What is read of one batch; every hook keeps a few numbers and lets its tensor go."""

    facts: Anatomy
    prompts: Prompts
    kept: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _mlp: dict[int, Tensor] = field(default_factory=dict)

    def hooks(self, model: Model) -> list[tuple[str, Callable[..., Tensor]]]:
        reads = {
            "pattern": self._pattern, "q": self._norms("q_norm"), "k": self._norms("k_norm"),
            "attn_out": self._norms("attn_norm"), "mlp_out": self._mlp_out, "resid_post": self._stream,
        }  # fmt: skip
        reads = {site: act for site, act in reads.items() if self.facts.lacks(site) is None}
        points = {
            hook_name(site, n): (act, n) for site, act in reads.items() for n in range(self.facts.n_layers)
        }
        points |= {f"blocks.{n}.attn.hook_attn_scores": (self._scores, n) for n in range(self.facts.n_layers)}
        home = self.prompts.tokens.device
        return [(name, _reader(*read, home)) for name, read in points.items() if name in model.hook_dict]

    def seen(self, layer: int) -> Bool[Tensor, "prompt dst src"]:
        """Which keys each query of a real token sees."""
        n_pos = self.prompts.tokens.shape[1]
        seen = torch.as_tensor(uniform(self.facts, layer, n_pos) > 0, device=self.prompts.tokens.device)
        real = self.prompts.real
        return seen & real[:, :, None] & real[:, None]

    def received(self, layer: int, pattern: Float[Tensor, "prompt head dst src"]) -> Tensor:
        """Mean attention on each key over later queries that see it: [prompt, head, src]."""
        seen, n_pos = self.seen(layer), pattern.shape[-1]
        at = torch.arange(n_pos, device=pattern.device)
        later = at[:, None] > at if self.facts.causal else at[:, None] != at
        counted = (seen & later & (at >= FIRST_QUERY)[:, None])[:, None].to(pattern.dtype)
        out = (pattern * counted).sum(-2) / counted.sum(-2)
        enough = at < self.prompts.lengths[:, None] - LAST_KEYS
        return torch.where(enough[:, None], out, torch.nan)

    def _pattern(self, layer: int, tensor: Tensor) -> None:
        received = self.received(layer, _wide(tensor))
        flat = torch.as_tensor(uniform(self.facts, layer, tensor.shape[-1]), device=tensor.device)
        self.kept["received", layer] = received
        self.kept["uniform", layer] = self.received(layer, flat[None, None].to(received))[:, 0]
        share = (received > HEAD_SINK).double().mean(1)
        self.kept["sink_heads", layer] = torch.where(received[:, 0].isnan(), torch.nan, share)

    def _scores(self, layer: int, tensor: Tensor) -> None:
        hidden = ~self.seen(layer)[:, None]
        self.kept["max_logit", layer] = _wide(tensor).abs().masked_fill(hidden, 0.0).amax((-1, -2))

    def _norms(self, name: str) -> Callable[[int, Tensor], None]:
        def keep(layer: int, tensor: Tensor) -> None:
            norms = _wide(tensor).norm(dim=-1)  # [prompt, pos] or [prompt, pos, head]
            real = self.prompts.real
            real = real if norms.ndim == 2 else real[..., None]
            norms = torch.where(real, norms, torch.nan)
            self.kept[name, layer] = norms if norms.ndim == 2 else norms.transpose(1, 2)

        return keep

    def _mlp_out(self, layer: int, tensor: Tensor) -> None:
        self._norms("mlp_norm")(layer, tensor)
        self._mlp[layer] = tensor

    def _stream(self, layer: int, tensor: Tensor) -> None:
        self._norms("stream_norm")(layer, tensor)
        stream = _wide(tensor)
        if (write := self._mlp.pop(layer, None)) is not None:
            cosine = torch.cosine_similarity(_wide(write), stream[:, :1], dim=-1)
            self.kept["mlp_cosine", layer] = torch.where(self.prompts.real, cosine, torch.nan)
        size = torch.where(self.prompts.real[..., None], stream.abs(), torch.nan).flatten(1)
        median = size.nanmedian(1).values
        top, at = size.nan_to_num(-1.0).max(1)
        huge = (size > MASSIVE) & (size >= MASSIVE_RATIO * median[:, None])
        columns = (top, top / median, at // stream.shape[-1], at % stream.shape[-1], huge.sum(1))
        self.kept |= {(name, layer): column for name, column in zip(_BY_LAYER, columns)}


def _reader(act: Callable[[int, Tensor], None], layer: int, home: torch.device) -> Callable[..., Tensor]:
    def keep(tensor: Tensor, hook: Any = None) -> Tensor:
        act(layer, tensor.to(home))
        return tensor

    return keep


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _Sheet:
    """The arrays of all prompts, NaN until they are filled."""

    def __init__(self, facts: Anatomy, data: Prompts) -> None:
        self.facts, (self.n, self.n_pos) = facts, data.tokens.shape
        self.sizes = {"layer": facts.n_layers, "head": facts.n_heads, "pos": self.n_pos}
        self.sizes["kv_head"] = facts.n_key_value_heads
        self.dims = DIMS | {"uniform": ("layer", "pos")}
        self.arrays = {
            name: np.full((self.n, *(self.sizes[dim] for dim in dims)), np.nan)
            for name, dims in self.dims.items()
        }

    def take(self, rows: np.ndarray, one: _Pass) -> None:
        for (name, layer), tensor in one.kept.items():
            part = self.arrays[name][:, layer]
            values = tensor.double().cpu().numpy()
            if part.shape[1:-1] != values.shape[1:-1]:
                continue  # another shape than the anatomy says: not what the name means
            if self.dims[name][-1] == "pos":
                part[rows, ..., : values.shape[-1]] = values
            else:
                part[rows] = values

    def dataset(self, labels: dict[str, Any]) -> xr.Dataset:
        value = self.arrays["received"].mean(2) - self.arrays["uniform"]  # [prompt, layer, pos]
        lifetime, first = lifetimes(value > LAYER_SINK)
        secondary = (lifetime > 0) & (first > 0) & (np.arange(self.n_pos) > 0)
        variables = {name: (("prompt", *self.dims[name]), array) for name, array in self.arrays.items()}
        variables["value"] = (("prompt", "layer", "pos"), value)
        for name, column in (("lifetime", lifetime), ("first_layer", first), ("secondary", secondary)):
            variables[name] = (("prompt", "pos"), column.astype(np.int64))
        missing = [name for name, array in self.arrays.items() if np.isnan(array).all()]
        attrs = results.provenance(
            method="telemetry", site="pattern", model=self.facts.name, n_prompts=self.n,
            unit="share of attention",
            convention="value = mean attention that a key receives, above that of uniform attention",
            missing=", ".join(missing) or "nothing",
        )  # fmt: skip
        coords: dict[str, Any] = {"prompt": np.arange(self.n)}
        coords |= {dim: np.arange(size) for dim, size in self.sizes.items()}
        coords["head_name"] = head_names(range(self.facts.n_layers), self.facts)
        return results.dataset(variables, coords | labels, attrs)


def lifetimes(sink: Bool[np.ndarray, "prompt layer pos"]) -> tuple[np.ndarray, np.ndarray]:
    """The longest run of layers with a sink at each key, and its first layer, −1 for none: [prompt, pos]."""
    longest = np.zeros((sink.shape[0], sink.shape[2]), dtype=np.int64)
    first, run = longest - 1, np.zeros_like(longest)
    for layer in range(sink.shape[1]):
        run = np.where(sink[:, layer], run + 1, 0)
        better = run > longest
        longest = np.where(better, run, longest)
        first = np.where(better, layer + 1 - run, first)
    return longest, first


def _labels(model: Model, data: Prompts) -> dict[str, Any]:
    if model.tokenizer is None:
        return {}
    rows = [row[:length] for row, length in zip(data.tokens.tolist(), data.lengths.tolist())]
    words = [[vocabulary.decode(model, [i]) for i in row] for row in rows]
    return {"token": ("pos", results.shared_labels(words, data.tokens.shape[1]))}
