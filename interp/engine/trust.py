"""May a model's weights be run by our own forward pass? The one place where that is decided.

1. Our logits are compared with the model's own, on the longest and the shortest prompt of the call, at every
   position, relative to the spread of the logits there and in the dtype at hand; the activations of the sites
   that the call uses as well.
2. The verdict is remembered for as long as nothing changes that could change it (the types of the modules,
   their `forward`, activations, switches, configs and hooks; dtype and versions of the parameters:
   `models.computation_fingerprint`; a sample of their values) and no longer or shorter prompt comes. Where
   code of the user's is in the model, every call checks.
3. Where the model itself is run instead, under hooks, its hook points are proved: each site has the shape
   that the anatomy says, and a changed value reaches the logits.

A verb that can do without the weights says so when it does (`own_weights`), one that cannot refuses
(`require_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._verbs import warn
from interp.engine.compare import LAYOUT, departure, difference, keeper
from interp.engine.runs import Runs
from interp.models import (
    Model,
    computation_fingerprint,
    final_norm,
    lasting,
    logits,
    part_in_training,
    require_eval,
    unsupported,
    weights,
)
from interp.models.hook_points import unreached
from interp.models.parts import Norm, Weights, beside, gathered, tensors
from interp.places import hint, hook_name

ENGINES = ("auto", "fast", "reference")
_READOUT = {torch.float64: 1e-5, torch.float32: 1e-3}  # norms of transformers compute in float32


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
    except LAYOUT as error:
        return f"its parts are not laid out as expected ({type(error).__name__}: {error})"
    with torch.no_grad():
        reason = _verdict(model, parts, list(_ends(tokens, lengths, reach)), frozenset(sites))
    return parts if reason is None else reason


def own_weights(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"] | None = None,
    *,
    sites: Sequence[str] = (),
    reach: int = 0,
    engine: str,
    instead: str,
    unable: str | None = None,
    follow: bool = False,
) -> Weights | None:
    """`weights_of` for a verb that the model itself can serve as well, under hooks: None where it has to.

    engine: "auto" warns of a fall-back, `instead` says what it costs; "fast" raises ValueError; "reference"
    is the model itself. unable: why our pass cannot be used, whatever the weights give. follow: whether the
    call's passes go from device to device with a model's layers; else they stay on the first, to which layers
    are copied when a pass comes to them. Either way ValueError for a model in train mode, whose values would
    be random.
    """
    check_engine(engine)
    require_eval(model)
    if engine == "reference":
        return None
    parts = unable or weights_of(model, tokens, lengths, sites=sites, reach=reach)
    if isinstance(parts, Weights):
        return parts if follow else gathered(parts)
    if engine == "fast":
        raise ValueError(f"the fast engine cannot run this model: {parts}. Use engine='reference'.")
    warn(f"using the reference engine, {instead}: {parts}.")
    return None


def slope_weights(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"] | None = None,
    *,
    sites: Sequence[str] = (),
    engine: str,
) -> Weights | None:
    """`weights_of` for passes with slopes; None where they go through the model itself.

    They are as many there and take about twice the time, so that nothing is warned of: the result says which
    engine ran. engine: as in `own_weights`.
    """
    if engine == "auto":
        require_eval(model)
        parts = weights_of(model, tokens, lengths, sites=sites)
        return parts if isinstance(parts, Weights) else None
    return own_weights(model, tokens, lengths, sites=sites, engine=engine, instead="", follow=True)


def check_engine(engine: str) -> None:
    """Raise ValueError for what is no engine."""
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}{hint(str(engine), ENGINES)}")


def require_weights(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"] | None = None,
    *,
    sites: Sequence[str] = (),
    what: str,
) -> Weights:
    """`weights_of` for what cannot do without them: a ValueError that says what and why.

    All on one device: layers that lie elsewhere are copied when a pass comes to them.
    """
    parts = weights_of(model, tokens, lengths, sites=sites)
    if isinstance(parts, str):
        raise ValueError(f"{what} cannot be run on {model.cfg.model_name}: {parts}.")
    return gathered(parts)


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
    models = [model] if source is None else [model, source]
    other = (
        None
        if source is None or engine == "reference"
        else weights_of(source, runs.base, runs.lengths, sites=sites)
    )
    instead = f"{passes:,} forward passes of {len(runs):,} prompts"
    unable = other if isinstance(other, str) else None
    parts = own_weights(
        model, runs.base, runs.lengths, sites=sites, engine=engine, instead=instead, unable=unable,
        follow=True,
    )  # fmt: skip
    if parts is not None:
        return "fast"
    for each in models:
        prove_sites(each, runs.base, sites, runs.lengths)
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


def require_readout(
    model: Model, stream: Float[Tensor, "row d_model"], whole: Float[Tensor, "row vocab"]
) -> None:
    """ValueError unless the final norm and the unembedding, as they are read, give the model's own logits.

    stream: what the last block gives, whole: the model's logits there, a soft cap included.
    """
    norm, b_U = final_norm(model), getattr(model, "b_U", None)
    device = model.W_U.device
    stream, whole = stream.to(device), whole.to(device)
    norm, b_U = beside(norm, device), beside(b_U, device)
    own = (stream if norm is None else norm(stream)) @ model.W_U
    own = own if b_U is None else own + b_U
    cap = float(getattr(model.cfg, "output_logits_soft_cap", None) or -1.0)
    gap = departure(cap * torch.tanh(own / cap) if cap > 0 else own, whole)
    if not gap <= _READOUT.get(whole.dtype, 0.2):
        raise ValueError(
            f"the final norm and unembedding of {model.cfg.model_name}, as they are read here, do not give "
            f"its logits (they differ by {gap:.2g} of their spread), so nothing can be read through them. "
            "Use interp.attribute or interp.patch."
        )


def prove_readout(model: Model) -> None:
    """`require_readout` on a short row: a forward, once while the model stays as it is."""
    memory, kept = _memory(model), {}
    if "readout" in memory.proved:
        return
    place = ("resid_post", model.cfg.n_layers - 1)
    with torch.no_grad(), model.hooks(fwd_hooks=[(hook_name(*place), keeper(kept, place))]):
        whole = logits(model, short_row(model))[0]
        require_readout(model, kept[place][0], whole)
    memory.proved.add("readout")


def prove_mlp_input(model: Model, layer: int, place: tuple[str, int], norm: Norm | None) -> None:
    """ValueError unless the MLP of a layer reads the norm (None: nothing) of what comes to a place.

    On a short row: a forward, once while the model stays as it is.
    """
    memory, kept, name = _memory(model), {}, f"mlp {layer} {place}"
    if name in memory.proved:
        return

    def read(module: torch.nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        kept["mlp", layer] = next(iter((*args, *named.values()))).detach()

    handle = model.blocks[layer].mlp.register_forward_pre_hook(read, with_kwargs=True)
    try:
        with torch.no_grad(), model.hooks(fwd_hooks=[(hook_name(*place), keeper(kept, place))]):
            logits(model, short_row(model))
    except (*LAYOUT, ValueError) as error:
        raise ValueError(
            f"what the MLP of layer {layer} of {model.cfg.model_name} reads cannot be seen: the model does "
            f"not run with hooks there ({type(error).__name__}: {error})."
        ) from None
    finally:
        handle.remove()
    if ("mlp", layer) not in kept:  # its parts are run one by one
        require_weights(model, short_row(model), what="what an MLP reads")
    else:
        x, seen = kept[place][0], kept["mlp", layer][0]
        with torch.no_grad():
            gap = departure(x if norm is None else norm(x), seen.view_as(x))
        if not gap <= _READOUT.get(x.dtype, 0.2):
            raise ValueError(
                f"what the MLP of layer {layer} of {model.cfg.model_name} reads is not known here: it "
                f"differs from the norm of {place[0]} by {gap:.2g} of its spread."
            )
    memory.proved.add(name)


def short_row(model: Model) -> Int[Tensor, "1 pos"]:
    """Tokens to look at a model on where a call brings none: a few ids from all over the vocabulary."""
    n, size = min(8, model.cfg.n_ctx), model.W_E.shape[0]
    return (torch.arange(1, n + 1, device=model.W_E.device) * size // (n + 1))[None]


def _mode(model: Model) -> str | None:
    """What about the model's present state no forward pass of ours follows."""
    kind = model.W_E.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return "autocast is on, in which the model computes in several dtypes"
    return part_in_training(model)


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

    state: int | None  # `models.computation_fingerprint`
    values: bytes = b""  # `_values` at the last verdict
    passed: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # by site, "" for logits: lengths from, to
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)  # by site: at which length, and why
    proved: set[str] = field(default_factory=set)  # sites whose hook points are in the path

    def covers(self, site: str, shortest: int, longest: int) -> bool:
        """Whether prompts of these lengths lie between those that passed."""
        low, high = self.passed.get(site, (1, 0))
        return low <= shortest and longest <= high

    def take(self, site: str, shortest: int, longest: int) -> None:
        """Prompts of these lengths have passed."""
        low, high = self.passed.get(site, (shortest, longest))
        self.passed[site] = min(low, shortest), max(high, longest)


_known: WeakKeyDictionary[Model, _Memory] = WeakKeyDictionary()


def _memory(model: Model) -> _Memory:
    """What is remembered of the model as it is now."""
    state = computation_fingerprint(model)
    if model not in _known or state is None or _known[model].state != state:
        _known[model] = _Memory(state)
    return _known[model]


def _verdict(model: Model, parts: Weights, prompts: list[Tensor], sites: frozenset[str]) -> str | None:
    memory, shortest, longest = _memory(model), prompts[-1].shape[1], prompts[0].shape[1]
    if (values := _values(model, parts)) != memory.values:
        memory.values, memory.passed, memory.failed = values, {}, {}
    wanted = ("", *sorted(sites))
    for site in wanted:
        length, reason = memory.failed.get(site, (longest + 1, ""))
        if length <= longest:
            return reason
    if all(memory.covers(site, shortest, longest) for site in wanted):
        return None
    for prompt in prompts:
        found = difference(model, parts, prompt, tuple(sites))
        if found is not None:
            memory.failed[found[0]] = (longest, found[1])
            return found[1]
    for site in wanted:
        memory.take(site, shortest, longest)
    return None


def _values(model: Model, parts: Weights) -> bytes:
    """Sums of what is in the model's tensors: an edit through `.data` leaves no trace in a tensor's version.

    Of tensors that our pass reads a sample stands for all: both passes see the edit. Those that it does not
    read are summed whole: what was 0 when the logits were compared (an adapter, a bias) may count later.
    """
    read = {tensor.untyped_storage().data_ptr() for tensor in tensors(parts)}
    every = {id(each): each.detach() for each in lasting(model)}.values()
    sums = [
        total
        for each in every
        if each.numel()
        for total in _sums(_sample(each) if each.untyped_storage().data_ptr() in read else each)
    ]
    devices = dict.fromkeys(each.device for each in sums)
    stacked = (torch.stack([each for each in sums if each.device == device]) for device in devices)
    return b"".join(each.cpu().numpy().tobytes() for each in stacked)


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: -(-len(flat) // 64)]


def _sums(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Two sums that an edit of the values changes, in float64."""
    if tensor.dtype == torch.bool:
        return tensor.sum().double(), tensor[..., ::2].sum().double()
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.sum().double(), wide.square().sum().double()
