"""What writes a feature: the features of an earlier dictionary, on the direct path to its pre-activation.

1. One pass in which the scales of norms, the patterns of attention and what MLPs write are constants: so
   what a later dictionary reads is linear in the earlier site, through the stream and through heads (J).
2. The share of feature s at a position is φ_s d_s · J e, with e the encoder column of the target: by the
   slope of the pre-activation at the site.
3. Shares of features and of the error, of b_dec, and of all that the site does not hold (biases, MLPs on the
   way) add up to the pre-activation: an identity, of the direct path only.

Direct edges between features: Dunefsky et al. 2406.11944; Marks et al. 2403.19647.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.attribution.rules import frozen_norm, ruled_weights
from interp.engine.forward import forward
from interp.engine.trust import require_weights
from interp.experiment import check_task, prepare
from interp.methods import Rules
from interp.models import Model, anatomy
from interp.models.parts import Weights
from interp.places import STREAM_SITES
from interp.positions import AnyPositions, require_one, weights
from interp.prompts import read
from interp.sae._dictionary import Dictionary
from interp.sae._site import Site, name_of, read_norm, read_sites, require, shares_of_live, site_name
from interp.tasks import LogitDiff, Task

_ORDER = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")  # within a block
_ROWS = 16
End = tuple[str, int]


@verb
def to_feature(
    model: Model,
    task: Task,
    dictionary: Dictionary,
    target: Dictionary,
    feature: int,
    *,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Share of every feature of a dictionary in the pre-activation of a later one's feature, clean run.

    dictionary: at a site of the stream (resid_*, attn_out, mlp_out). target: at a later one of the stream, at
    z, or a transcoder of any MLP after it, without a normalisation; feature: its number. pos: where that is
    read, one position a prompt.

    Returns a Dataset: `value` [prompt, pos, feature] in units of the target's pre-activation, the error among
    the features (`index` -1), 0 where a feature is off; `constant` [prompt], of b_dec; `rest` [prompt], of
    what the site does not hold; `raw` [prompt], the pre-activation, which is the sum of all of these. Norms'
    scales, patterns and what MLPs write are frozen in this run.

    Cost: a forward and a backward as far as the target. Raises ValueError, before a pass, for a target that
    does not come after the dictionary or has no linear pre-activation, and models whose weights our own pass
    cannot run.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> low = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> shares = sae.to_feature(model, interp.tasks.ioi(model, n=4), low, low.at("L2.resid_pre"), 7)
        >>> total = shares["value"].sum(["pos", "feature"]) + shares["constant"] + shares["rest"]
        >>> shares["value"].dims, bool(abs(total - shares["raw"]).max() < 1e-4)
        (('prompt', 'pos', 'feature'), True)
    """
    facts = anatomy(model)
    for each in (dictionary, target):
        require(each, model)
    check_task(task, facts, model)
    _require_path(model, dictionary, target, feature)
    prompts = read(model, task)
    require_one(pos, prompts)
    ends = [*read_sites(dictionary, model), *read_sites(target, model)]
    own = require_weights(
        model, task.clean, task.lengths, sites=sorted({site for site, _ in ends}), what="feature attribution"
    )
    frozen = ruled_weights(own, _FROZEN, facts.act_fn)
    marks = weights(pos, prompts)
    parts = [
        _Path(model, frozen, dictionary, target, feature).shares(task[rows.tolist()], marks[rows])
        for rows in torch.arange(len(task)).split(batch_size or _ROWS)
    ]
    value, constant, rest, raw = (torch.cat(each).double().cpu().numpy() for each in zip(*parts))
    return _dataset(model, task, dictionary, name_of(target, feature), value, (constant, rest, raw))


_FROZEN = Rules(identity=False, half=False)  # norms and patterns


def _require_path(model: Model, source: Dictionary, target: Dictionary, feature: int) -> None:
    """ValueError where the pre-activation is no linear function of the source's site on a direct path."""
    written, reads = read_sites(source, model)[1], read_sites(target, model)[0]
    if written[0] not in STREAM_SITES:
        raise ValueError(
            f"{site_name(source)} is not in the stream; a feature there writes through W_O or W_out. Give "
            "a dictionary of resid_pre, resid_mid, resid_post, attn_out or mlp_out."
        )
    if reads[0] in ("mlp_out", "post") or reads[0] not in _ORDER:
        raise ValueError(f"{site_name(target)} is read behind an MLP, and no direct path goes through one.")
    if (written[1], _ORDER.index(written[0])) > (reads[1], _ORDER.index(reads[0])):
        raise ValueError(
            f"{site_name(target)} is read before {site_name(source)} is written, and hears nothing of it. "
            "Give a later target."
        )
    if target.norm != "none" or target.activation == "matching_pursuit":
        raise ValueError(
            f"the target normalises ({target.norm}) or chooses by pursuit ({target.activation}): its "
            "features have no linear pre-activation."
        )
    if not 0 <= feature < target.n_features:
        raise ValueError(f"feature is {feature}; the target has features 0 to {target.n_features - 1}.")


@dataclass(frozen=True, eq=False)
class _Path:
    """From a dictionary's site to a feature of another, in a model with frozen norms, patterns and MLPs."""

    model: Model
    frozen: Weights
    source: Dictionary
    target: Dictionary
    feature: int

    def shares(self, task: Task, marks: Float[Tensor, "prompt pos"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of features and the error [prompt, pos, feature + 1]; of b_dec, of the rest, and all [prompt]."""
        site = Site(prepare(self.model, task, ablation="zero", metric=LogitDiff()), self.source)
        with torch.inference_mode(False), torch.enable_grad():
            kept = self._pass(task)
            x = kept[site.ends[1]]
            raw = (self._pre_activations(kept) * marks.to(x)).sum(1)
            (g,) = torch.autograd.grad(raw.sum(), x)
        with torch.no_grad():
            parts = site.parts({end: tensor.detach() for end, tensor in kept.items()})
            along = g.to(parts.phi) @ self.source.W_dec.to(parts.phi).T  # [prompt, pos, feature]
            error = (parts.error * g.to(parts.error)).sum(-1, keepdim=True)
            constant = (g.to(parts.phi) @ self.source.constant.to(parts.phi)).sum(1)
            rest = raw.detach() - (g * x).sum((1, 2))
        return torch.cat((parts.phi * along, error), -1), constant, rest, raw.detach()

    def _pass(self, task: Task) -> dict[End, Tensor]:
        """What comes to the ends of both; the source's site is a leaf, what MLPs write are constants."""
        kept: dict[End, Tensor] = {}
        written, reads = read_sites(self.source, self.model), read_sites(self.target, self.model)[0]
        ends = dict.fromkeys((*written, reads))

        def tap(end: End, tensor: Tensor) -> Tensor:
            if end == written[1]:
                tensor = tensor.detach().requires_grad_()
            elif end[0] == "mlp_out":
                tensor = tensor.detach()
            if end in ends:
                kept[end] = tensor
            return tensor

        mlps = [("mlp_out", layer) for layer in range(reads[1] + 1)]
        taps = {end: partial(tap, end) for end in dict.fromkeys((*mlps, *ends))}
        forward(self.frozen, self.frozen.embed(task.clean), 0, taps, stop=reads[1] + 1)
        return kept

    def _pre_activations(self, kept: dict[End, Tensor]) -> Float[Tensor, "prompt pos"]:
        x = kept[read_sites(self.target, self.model)[0]].flatten(2)
        norm = read_norm(self.target, self.model)
        x = x if norm is None else frozen_norm(norm)(x)
        return self.target.pre_activations(x)[..., self.feature]


def _dataset(
    model: Model,
    task: Task,
    d: Dictionary,
    name: str,
    value: np.ndarray,
    sums: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> xr.Dataset:
    variables, coords = shares_of_live(d, ("prompt", "pos"), value)
    attrs = results.provenance(
        method="sae.to_feature", model=anatomy(model).name, site=site_name(d), task=task.name, target=name,
        task_fingerprint=task.fingerprint(), n_prompts=len(task), seed=-1 if task.seed is None else task.seed,
        convention="share of the target's pre-activation; norms, patterns and MLPs frozen in the clean run",
        dictionary=repr(d),
    )  # fmt: skip
    attrs |= {"metric": "pre-activation", "unit": "units of the dictionary", "better": "higher"}
    labels = results.position_labels(task)
    coords |= {"pos": np.arange(len(labels)), "token": ("pos", labels)}
    variables |= {n: (("prompt",), v) for n, v in zip(("constant", "rest", "raw"), sums)}
    return results.dataset(variables, coords, attrs, task)
