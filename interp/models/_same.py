"""A loaded model is the model: its logits are compared with those of transformers before it is handed out.

1. `Expected` runs the transformers model, before anything wraps it, on one prompt that passes every window
   of its config. Where a window is longer than `LONGEST` tokens the windows are also made small for a second
   run, in transformers and then in the model that is compared, whose own window must be the config's.
2. `difference` is the largest difference of logits, each position's mean taken off (flags may centre them),
   relative to their spread: the interquartile range over the vocabulary of transformers' own.
3. A HookedTransformer's rotary angles are also compared at the end of its context, which the prompt does not
   reach: longrope has others there, and a conversion that rounds the base drifts.
4. Allowed is `TOLERANCE`; in half precision what rounding the embeddings once does to transformers' own
   logits, times `ROUNDINGS` and the root of the number of layers, each of which rounds again.

A twin of small windows shares the weights; nothing is changed for longer than the run.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models._architecture import Model, transformers_config
from interp.models._computation import dtypes_explained, logits
from interp.models.hook_points import is_bridge

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
ROUNDINGS = 2.0
LONGEST, SHORT, SMALL = 512, 64, 8  # tokens: at most, without windows, and a window made small
_FLOAT32 = 1e-6  # of an angle: transformers' tables are float32 in any model
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")


@dataclass(frozen=True)
class Expected:
    """What transformers gives: logits at some positions of a prompt, by the size of the windows."""

    tokens: Int[Tensor, "1 pos"]
    theirs: dict[int | None, Float[Tensor, "spot vocab"]]  # None: the windows are as in the config
    window: int | None
    allowed: float
    rotary: Any = None  # transformers' module of rotary angles
    generation_config: Any = None  # transformers' settings, with the tokens that end a text

    @classmethod
    @torch.no_grad()
    def of(cls, hf_model: Any) -> Expected:
        """Run the transformers model. Cost: two or three forwards of at most `LONGEST` tokens."""
        config = hf_model.config.get_text_config()
        window = _window(config)
        tokens = _prompt(config, window).to(hf_model.device)
        with dtypes_explained(hf_model, type(hf_model).__name__):
            theirs: dict[int | None, Tensor] = {None: _centred(hf_model(tokens, use_cache=False).logits)}
        if window is not None and window >= tokens.shape[1]:
            with _small_in_config(config):
                theirs[SMALL] = _centred(hf_model(tokens, use_cache=False).logits)
        allowed = TOLERANCE.get(hf_model.dtype) or _rounding(hf_model, tokens, theirs[None])
        rotary = getattr(hf_model.base_model, "rotary_emb", None)
        return cls(tokens, theirs, window, allowed, rotary, getattr(hf_model, "generation_config", None))

    @torch.no_grad()
    def difference(self, model: Model) -> float:
        """The largest difference relative to the spread; infinite where a window is not the config's, or
        rotary angles at the end of the context are not transformers'."""
        if not is_bridge(model):
            if SMALL in self.theirs and not _has_window(model, self.window):
                return float("inf")
            if self.rotary is not None and not _turns_alike(model, self.rotary):
                return float("inf")
        differences = []
        for size, theirs in self.theirs.items():
            with contextlib.nullcontext() if size is None else _small(model):
                ours = _centred(logits(model, self.tokens))
            differences.append(_relative(ours, theirs))
        return float(torch.tensor(differences).max())  # NaN where any is

    def holds(self, difference: float) -> bool:
        """Whether a difference is no more than rounding; never for NaN."""
        return difference <= self.allowed


def _window(config: Any) -> int | None:
    """The longest window of any layer, or the length at which its rotary angles change."""
    sizes = [getattr(config, name, None) for name in WINDOWS]
    if getattr(config, "use_sliding_window", True) is False:
        sizes[0] = None
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = [each for each in (rope, *rope.values()) if isinstance(each, dict)]
    sizes += [each.get("original_max_position_embeddings") for each in scaled]
    known = [int(size) for size in sizes if isinstance(size, int | float) and size]
    return max(known, default=None)


def _prompt(config: Any, window: int | None) -> Int[Tensor, "1 pos"]:
    length = SHORT if window is None else min(LONGEST, max(SHORT, window + SMALL))
    room = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or length
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (1, min(length, int(room))), generator=generator)


def _centred(found: Float[Tensor, "1 pos vocab"]) -> Float[Tensor, "spot vocab"]:
    """Less each position's mean, at `SHORT` positions at most: the first, the last and between."""
    n_pos = found.shape[1]
    spots = torch.linspace(0, n_pos - 1, min(n_pos, SHORT), device=found.device).long()
    kept = found[0, spots].double()
    return kept - kept.mean(-1, keepdim=True)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """NaN stays NaN."""
    low, high = (torch.quantile(theirs, share, -1) for share in (0.25, 0.75))
    spread = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((ours - theirs).abs().amax(-1) / spread).max())


def _rounding(hf_model: Any, tokens: Tensor, theirs: Tensor) -> float:
    """What it does to the logits when every embedding is rounded once more, up or down."""
    embedded = hf_model.get_input_embeddings()(tokens)
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(0, 2, embedded.shape, generator=generator).to(embedded) * 2 - 1
    rounded = embedded * (1 + sign * torch.finfo(hf_model.dtype).eps)
    other = _centred(hf_model(inputs_embeds=rounded, use_cache=False).logits)
    layers = hf_model.config.get_text_config().num_hidden_layers
    return max(1e-2, ROUNDINGS * layers**0.5 * _relative(other, theirs))


@contextlib.contextmanager
def _small_in_config(config: Any) -> Iterator[None]:
    """The windows of a config made small: masks are made from it at every pass."""
    before = {name: getattr(config, name) for name in WINDOWS if getattr(config, name, None)}
    for name in before:
        setattr(config, name, SMALL)
    try:
        yield
    finally:
        for name, size in before.items():
            setattr(config, name, size)


@contextlib.contextmanager
def _small(model: Model) -> Iterator[None]:
    """The windows of a TransformerLens model made small: a bridge's are those of the model that it runs."""
    with _small_in_config(transformers_config(model) if is_bridge(model) else model.cfg):
        yield


def _has_window(model: Model, window: int | None) -> bool:
    local = [block.attn.attn_type == "local" for block in model.blocks]
    return not any(local) or model.cfg.window_size == window


def _turns_alike(model: Model, rotary: torch.nn.Module) -> bool:
    """Whether every layer's last rotary angles are those of transformers' module, but for rounding."""
    kinds = getattr(rotary.config, "layer_types", None)
    by_layer = kinds and "layer_type" in inspect.signature(rotary.forward).parameters
    theirs: dict[str | None, Tensor] = {}
    for layer, block in enumerate(model.blocks):
        sin, cos = block.attn.rotary_sin, block.attn.rotary_cos  # [n_ctx, rotary_dim], each angle twice
        half = slice(0, None, 2) if model.cfg.rotary_adjacent_pairs else slice(sin.shape[1] // 2)
        ours = _on_circle(cos[-1, half], sin[-1, half])
        kind = kinds[layer] if kinds and by_layer else None
        if kind not in theirs:
            pos, options = torch.arange(len(sin), device=sin.device)[None], {"layer_type": kind}
            tables = rotary(cos[None, :1], pos, **options if by_layer else {})
            theirs[kind] = _on_circle(*(table[0, -1, : ours.shape[1]] for table in tables))
        allowed = _FLOAT32 * len(sin) + 4 * torch.finfo(sin.dtype).eps
        if ours.shape != theirs[kind].shape or not (ours - theirs[kind]).abs().max() <= allowed:
            return False
    return True


def _on_circle(cos: Tensor, sin: Tensor) -> Float[Tensor, "2 angle"]:
    """A point for each angle, whatever both tables are scaled by."""
    both = torch.stack((cos, sin)).double()
    return both / both.norm(dim=0)
