"""May a model's weights be run by our own forward pass? The one place where that is decided.

1. Our logits are compared with the model's own, on the longest and the shortest prompt of the call, at every
   position, relative to the spread of the logits there and in the dtype at hand; the activations of the sites
   that the call uses as well.
2. The verdict is remembered for as long as nothing changes that could change it (the types of the modules,
   their `forward`, activations, switches and hooks; dtype and versions of the parameters:
   `models.computation_fingerprint`) and no longer prompt comes.
3. Where the model itself is run instead, under hooks, its hook points are proved: each site has the shape
   that the anatomy says, and a changed value reaches the logits.

In half precision our logits may be as far from those of our own pass in float32 as rounding takes them, and
the model's a few times that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._verbs import warn
from interp.engine import block as B
from interp.engine.forward import through_blocks, unembed, whole_runs
from interp.engine.reference import finite_hooks
from interp.engine.runs import Runs
from interp.models import Model, computation_fingerprint, is_bridge, logits, unsupported, weights
from interp.models.hook_points import unreached
from interp.models.parts import Weights
from interp.places import hook_name

ENGINES = ("auto", "fast", "reference")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the spread of the logits
_SAMPLE = 1024  # columns of the vocabulary that the spread is measured on


def weights_of(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"] | None = None,
    *,
    sites: Sequence[str] = (),
    reach: int = 0,
) -> Weights | str:
    """The model's weights where our forward pass by them is the model's own; else why not, in words.

    tokens: the prompts of the call, padded on the right. lengths: their tokens, all of them by default.
    sites: whose activations are read or changed. reach: tokens that a run will have in the end, if it grows.

    Cost: at the first call two forwards of the model at most and as many of ours; after that, nothing.
    """
    reason = unsupported(model) or _mode(model)
    if reason is not None:
        return reason
    try:
        parts = weights(model)
    except _LAYOUT as error:
        return f"its parts are not laid out as expected ({type(error).__name__}: {error})"
    with torch.no_grad():
        reason = _verdict(model, parts, list(_ends(tokens, lengths, reach)), frozenset(sites))
    return parts if reason is None else reason


def require_weights(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"] | None = None,
    *,
    sites: Sequence[str] = (),
    what: str,
) -> Weights:
    """`weights_of` for what cannot do without them: a ValueError that says what and why."""
    parts = weights_of(model, tokens, lengths, sites=sites)
    if isinstance(parts, str):
        raise ValueError(f"{what} cannot be run on {model.cfg.model_name}: {parts}.")
    return parts


_LAYOUT = (AttributeError, RuntimeError, TypeError, IndexError, KeyError)


def choose(
    model: Model,
    runs: Runs,
    sites: Sequence[str],
    passes: int,
    engine: str,
    source: Model | None = None,
) -> str:
    """ "fast" or "reference". With `engine="auto"` a fall-back warns why; with "fast" it raises ValueError.

    sites: those read or changed. passes: the forward passes of the reference engine, of every prompt. source:
    another model, that the source run is of; both must be trusted. The hook points that the reference engine
    uses are proved. Cost: that of `weights_of` or `prove_sites`, for each model.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}.")
    reason = None
    models = [model] if source is None else [model, source]
    if engine != "reference":
        verdicts = [weights_of(each, runs.base, runs.lengths, sites=sites) for each in models]
        reason = next((verdict for verdict in verdicts if isinstance(verdict, str)), None)
        if reason is None:
            return "fast"
        if engine == "fast":
            raise ValueError(f"the fast engine cannot run this model: {reason}. Use engine='reference'.")
    for each in models:
        prove_sites(each, runs.base, sites, runs.lengths)
    if reason is not None:
        warn(f"using the reference engine, {passes:,} forward passes of {len(runs):,} prompts: {reason}.")
    return "reference"


def prove_sites(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    sites: Sequence[str],
    lengths: Int[Tensor, "prompt"] | None = None,
) -> None:
    """ValueError unless each site has the shape that the anatomy says and a change there reaches the logits.

    Cost: that of `hook_points.unreached`, once for each site while the model stays as it is.
    """
    memory, prompt = _memory(model), next(_ends(tokens, lengths, 0))
    for site in dict.fromkeys(sites):
        if site not in memory.proved:
            if reason := unreached(model, site, prompt):
                raise ValueError(
                    f"site {site!r} cannot be changed here: {reason}. Use another site, or load the model "
                    "with eager attention."
                )
            memory.proved.add(site)


def _mode(model: Model) -> str | None:
    """What about the model's present state no forward pass of ours follows."""
    if torch.is_autocast_enabled(model.W_E.device.type):
        return "autocast is on, in which the model computes in several dtypes"
    inside = next((name for name, module in model.named_modules() if module.training), None)
    return None if inside is None else f"{inside or 'the model'} is in train mode"


def _ends(tokens: Tensor, lengths: Tensor | None, reach: int) -> Iterator[Tensor]:
    """The longest prompt, repeated up to `reach`, and the shortest if it is another: each [1, pos]."""
    n, n_pos = tokens.shape
    sizes = [n_pos] * n if lengths is None else lengths.tolist()
    longest, shortest = sizes.index(max(sizes)), sizes.index(min(sizes))
    prompt = tokens[longest : longest + 1, : sizes[longest]]
    times = -(-reach // max(sizes[longest], 1))
    yield prompt if reach <= sizes[longest] else prompt.repeat(1, times)[:, :reach]
    if sizes[shortest] != sizes[longest]:
        yield tokens[shortest : shortest + 1, : sizes[shortest]]


@dataclass(eq=False)
class _Memory:
    """What is known of a model in one state."""

    state: int  # `models.computation_fingerprint`
    passed: dict[str, int] = field(default_factory=dict)  # by site, "" for logits: the longest prompt
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)  # by site: at which length, and why
    proved: set[str] = field(default_factory=set)  # sites whose hook points are in the path


_known: WeakKeyDictionary[Model, _Memory] = WeakKeyDictionary()


def _memory(model: Model) -> _Memory:
    """What is remembered of the model as it is now."""
    state = computation_fingerprint(model)
    if model not in _known or _known[model].state != state:
        _known[model] = _Memory(state)
    return _known[model]


def _verdict(model: Model, parts: Weights, prompts: list[Tensor], sites: frozenset[str]) -> str | None:
    memory, longest = _memory(model), prompts[0].shape[1]
    for site in ("", *sorted(sites)):
        length, reason = memory.failed.get(site, (longest + 1, ""))
        if length <= longest:
            return reason
    if all(memory.passed.get(site, 0) >= longest for site in ("", *sites)):
        return None
    for prompt in prompts:
        difference = _difference(model, parts, prompt, tuple(sites))
        if difference is not None:
            memory.failed[difference[0]] = (longest, difference[1])
            return difference[1]
    memory.passed |= {site: max(longest, memory.passed.get(site, 0)) for site in ("", *sites)}
    return None


def _difference(
    model: Model, parts: Weights, prompt: Tensor, sites: tuple[str, ...]
) -> tuple[str, str] | None:
    """The first site ("" for the logits) at which our pass is not the model's, and how; None if it is."""
    theirs: dict[tuple[str, int], Tensor] = {}
    places = [(site, layer) for site in sites for layer in range(len(parts.blocks))]
    hooks = [(hook_name(*place), _keeper(theirs, place)) for place in places]
    hooks = [*finite_hooks(len(parts.blocks)), *(hook for hook in hooks if hook[0] in model.hook_dict)]
    with model.hooks(fwd_hooks=hooks):
        whole = logits(model, prompt)[0]
    try:
        ours: dict[tuple[str, int], Tensor] = {}
        own = _own_logits(parts, prompt, ours, places)
        margin = _margin(model, parts, prompt, own)
    except _LAYOUT as error:
        return "", f"its parts are not laid out as expected ({type(error).__name__}: {error})"
    if not torch.isfinite(whole).all():
        return "", "its logits are not finite"
    if own.shape != whole.shape:
        return "", f"its weights give {own.shape[-1]} logits, the model {whole.shape[-1]}"
    if not (gap := departure(own, whole)) <= margin:
        return "", f"its weights do not give its logits (they differ by {gap:.2g} of the logits' spread)"
    for place in places:
        site_reason = _site_differs(place, ours.get(place), theirs.get(place), margin)
        if site_reason is not None:
            return place[0], site_reason
    return None


def _keeper(kept: dict[tuple[str, int], Tensor], place: tuple[str, int]) -> Callable[..., Tensor]:
    def keep(tensor: Tensor, hook: Any = None) -> Tensor:
        kept[place] = tensor.detach()
        return tensor

    return keep


def _own_logits(
    parts: Weights, prompt: Tensor, kept: dict[tuple[str, int], Tensor], places: list[tuple[str, int]]
) -> Float[Tensor, "pos vocab"]:
    """Logits by the weights, and the activations at some places [pos, ...] (patterns [1, head, dst, src])."""

    def tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        if (site, layer) in places:
            kept[site, layer] = tensor.clone()
        return tensor

    x = parts.embed(prompt)
    final = through_blocks(parts, x.flatten(0, 1), whole_runs((1, x.shape[1]), x.device), tap)
    return unembed(parts, final)


def _site_differs(
    place: tuple[str, int], ours: Tensor | None, theirs: Tensor | None, margin: float
) -> str | None:
    name = f"L{place[1]}.{place[0]}"
    if ours is None or theirs is None:
        return f"the forward pass does not go by {name}"
    ours = ours if place[0] == "pattern" else ours[None]
    if ours.shape != theirs.shape:
        return f"{name} has shape {list(theirs.shape)}, expected {list(ours.shape)}"
    gap = (ours.double() - theirs.double()).abs().max()
    scale = theirs.double().abs().max()
    if not gap <= 10 * max(margin, 1e-12) * scale:
        return (
            f"{name} of its weights is not that of its hook point (they differ by {float(gap / scale):.2g})"
        )
    return None


def departure(own: Float[Tensor, "pos vocab"], whole: Float[Tensor, "pos vocab"]) -> float:
    """How far logits are from others, as a share of the spread of those; rounding of large ones left out."""
    gap = (own.double() - whole.double()).abs() - margin_of_rounding(own, whole)
    return float((gap.clamp(min=0) / spread(whole)[:, None].clamp(min=torch.finfo(torch.float64).tiny)).max())


def spread(logits: Float[Tensor, "pos vocab"]) -> Float[Tensor, "pos"]:
    """Distance of the quartiles of the logits over the vocabulary, at each position; float64."""
    columns = logits[:, :: max(1, logits.shape[1] // _SAMPLE)].double().sort(-1).values
    n = columns.shape[1]
    quartiles = columns[:, (3 * (n - 1)) // 4] - columns[:, (n - 1) // 4]
    return torch.where(quartiles > 0, quartiles, columns[:, -1] - columns[:, 0])


def margin_of_rounding(own: Tensor, whole: Tensor) -> float:
    """What rounding of the largest logit may come to, where that is far above the spread."""
    dtype = own.dtype if torch.finfo(own.dtype).eps > torch.finfo(whole.dtype).eps else whole.dtype
    return 32 * torch.finfo(dtype).eps * float(whole.double().abs().max()) if dtype.itemsize >= 4 else 0.0


def _margin(model: Model, parts: Weights, prompt: Tensor, own: Tensor) -> float:
    """Shares of the spread by which logits may differ, in the dtype at hand."""
    computed = getattr(model.cfg, "dtype", own.dtype)
    dtype = min((own.dtype, computed), key=lambda each: each.itemsize)
    if dtype.itemsize < 4:
        exact = _exact_logits(parts, prompt)
        return max(5 * departure(own, exact), 8 * torch.finfo(dtype).eps)
    # Norms and softmax of transformers inside a bridge compute in float32, whatever the dtype.
    return 1e-4 if dtype == torch.float64 and is_bridge(model) else TOLERANCE[dtype]


def _exact_logits(parts: Weights, prompt: Tensor) -> Float[Tensor, "pos vocab"]:
    """Logits by the weights in float32, block by block, so that one block has a copy at a time."""
    ends = _wide(replace(parts, blocks=()))
    x = ends.embed(prompt).flatten(0, 1)
    attend = whole_runs((1, len(x)), x.device)
    for block in parts.blocks:
        alone = replace(ends, blocks=(_wide(block),))
        x = through_blocks(alone, x, attend, lambda site, layer, tensor, group=None: tensor)
    return unembed(ends, x)


def _wide(part: Any) -> Any:
    """A dataclass of weights with its tensors in float32."""
    if isinstance(part, Tensor):
        return part.float() if part.is_floating_point() else part
    if not is_dataclass(part) or isinstance(part, type):
        return part
    return replace(part, **{each.name: _wide(getattr(part, each.name)) for each in fields(part)})
