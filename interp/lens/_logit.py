"""`logit`: what every layer would say, and when it comes to say what the model says.

1. One pass; the activations of a site at every layer and token.
2. Each through the final norm and the unembedding (`_readout`), or first through a translator: a tuned lens
   or a Jacobian lens, which carry a layer's stream to the last one.
3. Log probabilities and ranks of chosen tokens, the likeliest tokens, entropy, and KL(end ‖ layer).

Beside the log probability of a target stands what the mean stream of the layer gives it (`mean_stream`):
early layers say how frequent a token is, whatever the prompt.

nostalgebraist 2020 (logit lens), Belrose et al. 2303.08112 (tuned lens, KL to the end); rank trajectories:
VISTA 2502.03628.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.attribution._direct import FrozenNorm
from interp.lens import _readout as R
from interp.lens._translators import Translator
from interp.models import Anatomy, Model, anatomy, attentions, attn_out_norm
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions, require_one, weights
from interp.prompts import Prompts, read

_STATES = ("resid_pre", "resid_mid", "resid_post")
_WRITES = ("attn_out", "mlp_out", "z")


@verb
def logit(
    model: Model,
    prompts: Any,
    targets: Any = None,
    *,
    through: Translator | None = None,
    site: str = "resid_pre",
    layer: Layers = None,
    pos: AnyPositions = "all",
    top: int = 5,
    as_: str | None = None,
    mask: Tensor | None = None,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """What each layer would say at each token: the logit lens, or with `through` a tuned or Jacobian lens.

    prompts: texts, ids, messages or a Task (whose answers are then the targets). targets: tokens to follow,
    as strings of one token or ids, for all prompts, or ids [prompt, target]; by default what the model itself
    says at each position. through: of `lens.tuned` or `lens.jacobian`; it is read at its own site. site: a
    stream site ("resid_pre" of all layers comes with what the last layer writes, at layer n_layers), or what
    is written: "attn_out", "mlp_out", "z" (a row a head). as_: "state", or "direction" for what is written;
    see `_readout`. pos: "all", or one position a prompt. top: likeliest tokens that are kept.

    Returns a Dataset with dims prompt, layer, (head,) pos and target or rank, NaN (−1, "") behind a prompt's
    end: `value` [.., target], the log probability in nats (of a direction: centred logits); `rank` (0: none
    is likelier); `top_id`, `top_token`, `top_value` [.., place]; `entropy` and `kl` = KL(the model's own
    logits ‖ layer), both in nats, of states; `first` [prompt, pos, target], the first layer from which on
    the target stays on top (−1: not even at the end); `mean_stream`, `value` as the layer's mean stream
    gives it; `target_id`, `token`. Cost: one forward of each prompt, and an unembedding of each row. Raises
    ValueError before the pass for what the model does not have, and where the model's logits are not what
    its final norm and unembedding give. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> found = interp.lens.logit(model, interp.tasks.ioi(model, n=4, seed=0))
        >>> found["value"].dims, float(found["kl"].isel(layer=-1).max()) < 1e-6
        (('prompt', 'layer', 'pos', 'target'), True)
    """
    facts = anatomy(model)
    request = _requested(facts, through, site, layer, as_)
    R.check_top(top, model)
    data = read(model, prompts, mask)
    marks = weights(pos, data)
    if pos != "all":
        require_one(pos, data, "give one, or 'all'")
    given = _targets(model, data, prompts, targets)
    readout = R.readout_of(model)
    rows = _rows(model, data, request, pos, batch_size, engine)
    table = _Table(len(request.names), int(marks.gt(0).sum()), given, top)
    with torch.no_grad():
        _fill(table, readout, request, rows, marks)
    return _dataset(model, data, request, table, marks, pos)


@dataclass(frozen=True, eq=False)
class _Request:
    """Where is read, and how."""

    site: str
    layers: tuple[int, ...]  # as they are shown
    places: tuple[Place, ...]
    end: Place
    heads: int  # 0 where the site has none
    kind: str
    through: Translator | None

    @property
    def names(self) -> list[str]:
        """One a column: a place, or a head of one."""
        if not self.heads:
            return [str(place) for place in self.places]
        return [f"L{place.layer}H{head}" for place in self.places for head in range(self.heads)]


def _requested(
    facts: Anatomy, through: Translator | None, site: str, layer: Layers, as_: str | None
) -> _Request:
    if through is not None:
        if site not in ("resid_pre", through.site):
            raise ValueError(
                f"site is {site!r}, and the {through.method} reads {through.site!r}. Leave site= out."
            )
        site = through.site
    if site not in (*_STATES, *_WRITES):
        raise ValueError(f"site is {site!r}; a lens reads {', '.join((*_STATES, *_WRITES))}.")
    usual = "state" if site in _STATES else "direction"
    kind = usual if as_ is None else as_
    R.check_kind(kind)
    if through is not None and kind != "state":
        raise ValueError(f"as_ is {kind!r}, and a {through.method} carries states. Leave as_= out.")
    chosen = places(facts, layer, site)
    layers = tuple(int(each.layer or 0) for each in chosen)
    end = Place("resid_post", facts.n_layers - 1)
    if site == "resid_pre" and layer is None:
        chosen, layers = (*chosen, end), (*layers, facts.n_layers)
    if through is not None:
        through.cover([(each.site, int(each.layer or 0)) for each in chosen], facts)
    return _Request(site, layers, chosen, end, facts.n_heads if site == "z" else 0, kind, through)


def _targets(model: Model, data: Prompts, prompts: Any, targets: Any) -> Int[Tensor, "prompt target"] | None:
    """Ids of every prompt's targets; None for what the model says."""
    if targets is None and hasattr(prompts, "answers"):
        targets = prompts.answers.clamp(min=-1)
        targets = targets[:, (targets >= 0).all(0)]
        targets = None if not targets.shape[1] else targets
    return R.followed(model, targets, len(data))


def _rows(
    model: Model, data: Prompts, request: _Request, pos: AnyPositions, size: int | None, engine: str
) -> dict[Place, Tensor]:
    """Activations [token, ...] at every place, and at the end."""
    wanted = list(dict.fromkeys((*request.places, request.end)))
    if request.heads and any(attn_out_norm(model, block) is not None for block in model.blocks):
        wanted += [Place("attn_out", place.layer) for place in request.places]
    kept = activations(model, data, wanted, pos, batch_size=size, engine=engine)
    if not request.heads:
        return kept
    return {**kept, **{place: _writes(model, place, kept[place]) for place in request.places}}


def _writes(model: Model, place: Place, z: Float[Tensor, "token head d_head"]) -> Tensor:
    """What each head writes, a norm after attention frozen in its own run: [token, head, d_model]."""
    layer = int(place.layer or 0)
    attn, norm = attentions(model)[layer], attn_out_norm(model, model.blocks[layer])
    W_O = R.wide(attn.W_O.detach()).to(z)
    out = torch.einsum("thd,hdm->thm", z, W_O)
    if norm is None:
        return out
    whole = out.sum(1) if attn.b_O is None else out.sum(1) + attn.b_O.detach().to(out)
    return FrozenNorm(norm, whole)(out).detach()


@dataclass(eq=False)
class _Table:
    """The numbers of every column and token, as they are filled in."""

    n: int
    tokens: int
    given: Tensor | None
    top: int
    ids: np.ndarray = field(init=False)  # [token, target]
    columns: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        k = 1 if self.given is None else self.given.shape[1]
        self.ids = np.full((self.tokens, k), -1, dtype=np.int64)
        shapes = {"value": k, "rank": k, "mean_stream": k, "top_value": self.top, "top_id": self.top}
        self.columns = {name: np.full((self.n, self.tokens, w), np.nan) for name, w in shapes.items()}
        self.columns |= {name: np.full((self.n, self.tokens), np.nan) for name in ("entropy", "kl")}

    def take(self, column: int, rows: slice, numbers: dict[str, Tensor]) -> None:
        for name, values in numbers.items():
            self.columns[name][column, rows] = values.double().cpu().numpy()


def _fill(
    table: _Table, readout: R.Readout, request: _Request, rows: dict[Place, Tensor], marks: Tensor
) -> None:
    prompt = marks.gt(0).nonzero()[:, 0]  # of every token
    end = rows[request.end]
    columns = _columns(request, rows)
    means = [R.read(readout, column.mean(0, keepdim=True), request.kind) for column in columns]
    for part in R.chunks(len(end)):
        last = readout.logits(end[part]).log_softmax(-1)
        given = table.given
        ids = last.argmax(-1, keepdim=True) if given is None else given.to(last.device)[prompt[part]]
        table.ids[part] = ids.cpu().numpy()
        for number, column in enumerate(columns):
            out = R.read(readout, column[part], request.kind)
            best = out.topk(table.top)
            numbers = {
                "value": out.gather(1, ids), "rank": R.ranks(out, ids), "top_value": best.values,
                "top_id": best.indices, "mean_stream": means[number].expand(len(ids), -1).gather(1, ids),
            }  # fmt: skip
            if request.kind == "state":
                numbers |= {"entropy": R.entropy(out), "kl": R.divergence(last, out)}
            table.take(number, part, numbers)


def _columns(request: _Request, rows: dict[Place, Tensor]) -> list[Float[Tensor, "token d_model"]]:
    columns = []
    for place in request.places:
        whole = rows[place]
        columns += list(whole.unbind(1)) if request.heads else [whole]
    if request.through is None:
        return columns
    at = [(place.site, int(place.layer or 0)) for place in request.places]
    return [request.through.carry(*where, column) for where, column in zip(at, columns)]


def _dataset(
    model: Model, data: Prompts, request: _Request, table: _Table, marks: Tensor, pos: AnyPositions
) -> xr.Dataset:
    at = marks.gt(0).cpu().numpy() if pos == "all" else np.ones((len(data), 1), dtype=bool)
    lead = ("layer", "head") if request.heads else ("layer",)
    sizes = (len(request.layers), request.heads) if request.heads else (len(request.layers),)

    def spread(values: np.ndarray, fill: float | int = np.nan) -> np.ndarray:
        """[column, token, ...] -> [prompt, layer, (head,) pos, ...]."""
        out = np.full((len(values), *at.shape, *values.shape[2:]), fill, dtype=values.dtype)
        out[:, at] = values
        return np.moveaxis(out, 1, 0).reshape(len(data), *sizes, at.shape[1], *values.shape[2:])

    dims = ("prompt", *lead, "pos")
    variables: dict[str, Any] = {
        name: ((*dims, "target"), spread(table.columns[name])) for name in ("value", "rank", "mean_stream")
    }
    ids = spread(np.nan_to_num(table.columns["top_id"], nan=-1).astype(np.int64), -1)
    variables |= {"top_id": ((*dims, "place"), ids), "top_token": ((*dims, "place"), R.names(model, ids))}
    variables["top_value"] = ((*dims, "place"), spread(table.columns["top_value"]))
    if request.kind == "state":
        variables |= {name: (dims, spread(table.columns[name])) for name in ("entropy", "kl")}
    target = spread(table.ids[None].repeat(len(request.names), 0), -1)
    target = target.reshape(len(data), -1, *target.shape[-2:])[:, 0]  # [prompt, pos, target]
    variables["target_id"] = (("prompt", "pos", "target"), target)
    variables["target_token"] = (("prompt", "pos", "target"), R.names(model, target))
    if not request.heads:
        first = first_layer(spread(table.columns["rank"]), np.array(request.layers))
        variables["first"] = (("prompt", "pos", "target"), first)
    coords = {"prompt": np.arange(len(data)), "layer": list(request.layers)}
    coords |= {"head": np.arange(request.heads)} if request.heads else {}
    tokens = _tokens(model, data, marks, at)
    coords |= {"token": (("prompt", "pos"), tokens), "pos": np.arange(at.shape[1])}
    return results.dataset(variables, coords, _attrs(model, data, request, table, pos))


def first_layer(rank: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """The first layer from which on a rank [prompt, layer, ...] is 0 to the end; −1 where it is not there."""
    stays = np.flip(np.cumprod(np.flip(rank == 0, 1), 1), 1).astype(bool)
    return np.where(stays.any(1), layers[stays.argmax(1)], -1)


def _tokens(model: Model, data: Prompts, marks: Tensor, at: np.ndarray) -> np.ndarray:
    """The token that is read at each position."""
    out = np.full(at.shape, -1, dtype=np.int64)
    out[at] = data.tokens[marks.gt(0).to(data.tokens.device)].cpu().numpy()
    return R.names(model, out)


def _attrs(
    model: Model, data: Prompts, request: _Request, table: _Table, pos: AnyPositions
) -> dict[str, Any]:
    through, facts = request.through, anatomy(model)
    own = table.given is None
    said = "log probability" if request.kind == "state" else "centred logit"
    return results.provenance(
        method="logit lens" if through is None else through.method,
        site=request.site,
        model=facts.name,
        n_prompts=len(data),
        unit="nats" if request.kind == "state" else "logits",
        convention=f"value = {said} of the target as the layer would say it",
        read_as=request.kind,
        reads=f"{pos}" if isinstance(pos, (str, int)) else "chosen positions",
        targets="what the model says" if own else "given",
        data=data.data_hash(),
    )
