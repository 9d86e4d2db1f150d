"""What a feature writes into the logits, and what writes a feature through attention, by head and source.

1. Freeze the scale of the final norm: a feature's share of the logit difference is φ_i d_i · w, with w the
logit
   difference through that norm. Features, error, b_dec and all that comes after the site add up to the whole.
2. Freeze the patterns: the pre-activation of a feature that reads attention's output is a sum over heads and
   source positions, pattern[h, q, s] (v[s, h] · e[h]), and constants (direct feature attribution,
   2406.17759).

Both are identities, and see the direct path only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.attribution._direct import require_difference, require_width, shares_of
from interp.engine import block as B
from interp.engine.forward import forward
from interp.engine.trust import require_weights
from interp.experiment import check_model, check_task, prepare
from interp.models import Model, anatomy, logits
from interp.models.parts import Weights
from interp.places import STREAM_SITES, Place, hook_name
from interp.sae._dictionary import Dictionary
from interp.sae._site import Site, name_of, require, shares_of_live, site_name
from interp.tasks import LogitDiff, Task


@verb
def to_logits(
    model: Model, task: Task, dictionary: Dictionary, *, batch_size: int | None = None
) -> xr.Dataset:
    """Share of every feature in the logit difference of the clean run, on the direct path from its site.

    dictionary: at a site of the stream (resid_*, attn_out, mlp_out).

    Returns a Dataset: `value` [prompt, feature] in logits, positive where the feature favours the answer,
    the error among the features (`index` -1); `constant` [prompt], of b_dec; `rest` [prompt], of everything
    that the site does not hold; `raw` [prompt], the logit difference, which is the sum of all of these.

    Cost: two forwards a prompt. Raises ValueError as `interp.attribution.direct`, and for other sites.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_post")
        >>> shares = sae.to_logits(model, interp.tasks.ioi(model, n=4), d)
        >>> total = shares["value"].sum("feature") + shares["constant"] + shares["rest"]
        >>> bool(abs(total - shares["raw"]).max() < 1e-3)
        True
    """
    facts, where = anatomy(model), require(dictionary, model)
    check_model(model, facts)
    check_task(task, facts, model)
    require_difference(task)
    require_width(model, facts)
    if where.site not in STREAM_SITES:
        raise ValueError(
            f"{site_name(dictionary)} is not in the stream; a feature there writes through W_O or W_out."
        )
    parts = [
        _shares(model, task[rows.tolist()], dictionary)
        for rows in torch.arange(len(task)).split(batch_size or 32)
    ]
    value, constant, rest, raw = (torch.cat(each).cpu().numpy() for each in zip(*parts))
    variables, coords = shares_of_live(dictionary, ("prompt",), value)
    attrs = results.provenance(
        method="sae.to_logits", metric=(LogitDiff(),), model=facts.name, site=site_name(dictionary),
        task=task.name, task_fingerprint=task.fingerprint(),
        n_prompts=len(task), seed=-1 if task.seed is None else task.seed,
        convention="share of the logit difference through the final norm frozen at its value in this run; "
        "positive: the feature favours the answer", dictionary=repr(dictionary),
    )  # fmt: skip
    variables |= {n: (("prompt",), v) for n, v in (("constant", constant), ("rest", rest), ("raw", raw))}
    return results.dataset(variables, coords, attrs, task)


def _shares(model: Model, task: Task, d: Dictionary) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of features and the error, of b_dec, of what comes after, and the whole, float64."""
    with torch.no_grad():
        shares = shares_of(model, anatomy(model), task, "clean", heads=False)
        site = Site(prepare(model, task, ablation="zero", metric=LogitDiff()), d)
        kept: dict[tuple[str, int], Tensor] = {}
        hooks = [(hook_name(*end), partial(_keep, kept, end)) for end in dict.fromkeys(site.ends)]
        with model.hooks(fwd_hooks=hooks):
            logits(model, task.clean)
        rows = torch.arange(len(task), device=task.positions.device)
        here = {end: tensor[rows, task.positions][:, None] for end, tensor in kept.items()}
        parts = site.parts(here)
        read = lambda write: shares.of_write(write.to(shares.toward))  # noqa: E731
        along = torch.stack([read(row.expand(len(task), -1)) for row in d.W_dec], 1)  # [prompt, feature]
        features = parts.phi[:, 0].to(along) * along
        error, constant = read(parts.error[:, 0]), read(d.constant.expand(len(task), -1))
        whole = read(here[site.ends[1]][:, 0])
    value = torch.cat((features, error[:, None]), 1).double()
    return value, constant.double(), (shares.total - whole).double(), shares.total.double()


def _keep(kept: dict[tuple[str, int], Tensor], end: tuple[str, int], tensor: Tensor, hook: Any) -> Tensor:
    kept[end] = tensor.detach()
    return tensor


@verb
def through_attention(
    model: Model,
    task: Task,
    dictionary: Dictionary,
    features: Sequence[int],
    *,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Direct feature attribution: which heads bring a feature of attention's output, and from where.

    dictionary: at `z` (heads side by side) or `attn_out`, without a normalisation. features: their numbers.

    Returns a Dataset: `value` [prompt, feature, pos, head, src], what a head moves from position src into the
    feature's pre-activation at pos, with the clean run's patterns; `constant` [prompt, feature, pos], of
    biases; `raw` [prompt, feature, pos], the pre-activation, which is the sum (2406.17759). NaN on padding.

    Cost: a forward a prompt. Raises ValueError for other sites and normalisations, and models whose weights
    our own pass cannot run.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> W = torch.randn(64, 96)
        >>> d = sae.Dictionary(W, torch.zeros(96), W.T, torch.zeros(64), place="L1.z")
        >>> found = sae.through_attention(model, interp.tasks.ioi(model, n=2), d, [0, 5])
        >>> gap = found["value"].sum(["head", "src"]) + found["constant"] - found["raw"]
        >>> found["value"].dims, bool(abs(gap).max() < 1e-4)
        (('prompt', 'feature', 'pos', 'head', 'src'), True)
    """
    facts, where = anatomy(model), require(dictionary, model)
    check_task(task, facts, model)
    _require_sum_over_heads(dictionary, where, features)
    weights = require_weights(
        model, task.clean, task.lengths, sites=(where.site,), what="feature attribution"
    )
    index = torch.tensor(list(features), device=facts.device)
    value, constant, raw = _by_head(weights, task, dictionary, where, index, batch_size or 16)
    pad = np.arange(task.clean.shape[1])[None] >= task.lengths.cpu().numpy()[:, None]  # [prompt, pos]
    value[np.broadcast_to(pad[:, None, :, None, None], value.shape)] = np.nan
    for each in (constant, raw):
        each[np.broadcast_to(pad[:, None], each.shape)] = np.nan
    attrs = results.provenance(
        method="sae.through_attention", model=facts.name, site=site_name(dictionary),
        task=task.name, task_fingerprint=task.fingerprint(),
        n_prompts=len(task), seed=-1 if task.seed is None else task.seed,
        convention="share of the feature's pre-activation, patterns frozen in the clean run",
        dictionary=repr(dictionary),
    )  # fmt: skip
    attrs |= {"metric": "pre-activation", "unit": "units of the dictionary", "better": "higher"}
    labels = results.position_labels(task)
    coords = {
        "feature": np.array([name_of(dictionary, each) for each in features], dtype=object),
        "index": ("feature", np.array(features)),
        "pos": np.arange(len(labels)), "token": ("pos", labels), "src": np.arange(len(labels)),
        "src_token": ("src", labels), "head": np.arange(value.shape[3]),
    }  # fmt: skip
    dims = ("prompt", "feature", "pos")
    variables = {"value": ((*dims, "head", "src"), value), "constant": (dims, constant), "raw": (dims, raw)}
    return results.dataset(variables, coords, attrs, task)


def _require_sum_over_heads(dictionary: Dictionary, where: Place, features: Sequence[int]) -> None:
    """ValueError where a pre-activation is no linear sum over heads, or there is none."""
    if where.site not in ("z", "attn_out") or dictionary.norm != "none":
        raise ValueError(
            f"{site_name(dictionary)} with norm {dictionary.norm!r} is no linear sum over heads; give a "
            "dictionary at "
            "z or attn_out, without a normalisation."
        )
    outside = [each for each in features if not 0 <= each < dictionary.n_features]
    if outside or not features or dictionary.activation in ("gated", "matching_pursuit"):
        raise ValueError(
            f"features is {list(features)} of a {dictionary.activation} dictionary; give some of 0 to "
            f"{dictionary.n_features - 1} of one that has pre-activations."
        )


def _by_head(
    weights: Weights, task: Task, d: Dictionary, where: Place, index: Tensor, size: int
) -> list[np.ndarray]:
    """Shares, constants and pre-activations of all prompts, `size` at a time."""
    site, layer = where.site, where.layer or 0
    pieces = []
    with torch.no_grad():
        for rows in torch.arange(len(task)).split(size):
            kept: dict[str, Tensor] = {}
            sites = ("pattern", "v", site)
            taps = {(each, layer): partial(_tapped, kept, each) for each in sites}
            forward(weights, weights.embed(task.clean[rows.to(task.clean.device)]), 0, taps)
            pieces.append(_through(weights.blocks[layer], d, site, kept, index))
    return [torch.cat(each).cpu().numpy() for each in zip(*pieces)]


def _tapped(kept: dict[str, Tensor], site: str, tensor: Tensor) -> Tensor:
    kept[site] = tensor
    return tensor


def _through(
    block: Any, d: Dictionary, site: str, kept: dict[str, Tensor], index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Shares [prompt, feature, pos, head, src], constants and pre-activations [prompt, feature, pos],
    float64."""
    attn, W = block.attn, d.W_enc.double()[:, index]  # [d, feature]
    n_heads, width = attn.W_O.shape[:2]
    constant = d.b_enc.double()[index] - (d.b_dec.double() @ W if d.centre else 0.0)
    x = kept[site].double().flatten(2)  # [prompt, pos, d]
    raw = (x @ W + constant).transpose(1, 2)
    scale = torch.ones_like(raw[:, :1])
    if site == "attn_out":
        W, constant, scale = _before_norm(block, W, constant, kept)
        W = attn.W_O.double().flatten(0, 1) @ W
    e = W.view(n_heads, width, -1)
    v = B.value(attn, kept["v"]).double().repeat_interleave(n_heads // kept["v"].shape[2], 2)
    moved = torch.einsum("nshd,hdf->nfhs", v, e)
    value = torch.einsum("nhqs,nfhs->nfqhs", kept["pattern"].double(), moved) / scale[..., None, None]
    fixed = constant.expand(len(raw), raw.shape[2], -1).transpose(1, 2) if constant.ndim == 1 else constant
    return value, fixed, raw


def _before_norm(
    block: Any, W: Tensor, constant: Tensor, kept: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The reader of attention's output as a reader of Σ z W_O, through a norm frozen in this run."""
    attn, norm = block.attn, block.attn_out_norm
    bias = W.new_zeros(attn.W_O.shape[-1]) if attn.b_O is None else attn.b_O.double()
    if norm is None:
        return W, constant + bias @ W, W.new_ones(1, 1, 1)
    z = torch.einsum("nhqs,nshd->nqhd", kept["pattern"].double(), _values(attn, kept))
    out = z.flatten(2) @ attn.W_O.double().flatten(0, 1) + bias
    out = out - out.mean(-1, keepdim=True) if norm.centred else out
    scale = (out.square().mean(-1) + norm.eps).sqrt()[:, None]  # [prompt, 1, pos]
    after = W if norm.gain is None else W * norm.gain.double()[:, None]
    constant = constant if norm.bias is None else constant + norm.bias.double() @ W
    after = after - after.mean(0) if norm.centred else after
    return after, constant[None, :, None] + (bias @ after)[None, :, None] / scale, scale


def _values(attn: Any, kept: dict[str, Tensor]) -> Tensor:
    v = B.value(attn, kept["v"]).double()
    return v.repeat_interleave(attn.W_O.shape[0] // v.shape[2], 2)
