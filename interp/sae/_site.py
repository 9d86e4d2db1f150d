"""A dictionary at its place in a model: whether it fits, what it reads there, and what patching a feature
changes.

With base and source activations x, x' of the site: feature i at a position changes it by (φ'_i − φ_i) d_i,
the error by ε' − ε. Under zero ablation φ' and ε' are 0, under mean ablation their means over prompts,
position by position. The error is "live": it stays what the base run has, unless it is itself patched. The
skip of a transcoder is no feature and stands in the error, so that features and error are the whole site.

Marks et al. 2403.19647 (features and errors as nodes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp._verbs import warn
from interp.ablation import Mean, Zero, averaged
from interp.engine.compare import LAYOUT
from interp.engine.trust import prove_mlp_input
from interp.experiment import Experiment
from interp.models import Anatomy, Model, anatomy, logits, unsupported, weights
from interp.models.parts import Norm
from interp.places import STREAM_SITES, Place, hook_name
from interp.sae._dictionary import Dictionary
from interp.sae._places import MLP_READS
from interp.steering._direction import same_weights

ERROR = -1  # the number of the error among features
_NAME = re.compile(r"(?P<place>.+?)\.(?:F(?P<feature>\d+)|(?P<error>error))(?:@(?P<at>.+))?")
_ROWS = 512  # encoded at once


def name_of(dictionary: Dictionary, feature: int) -> str:
    """`L12.resid_pre.F431`, or `L12.resid_pre.error`."""
    return f"{site_name(dictionary)}.{'error' if feature == ERROR else f'F{feature}'}"


def shares_of_live(
    dictionary: Dictionary, dims: tuple[str, ...], value: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variable `value` of the features that are not 0 everywhere, and of the error; their coordinates.

    value: by feature last, the error after all of them.
    """
    n = dictionary.n_features
    live = np.flatnonzero((value != 0).any(tuple(range(value.ndim - 1))))
    live = np.append(live[live < n], n)
    numbers = [int(each) if each < n else ERROR for each in live]
    names = np.array([name_of(dictionary, each) for each in numbers], dtype=object)
    coords = {"feature": names, "index": ("feature", np.array(numbers))}
    return {"value": ((*dims, "feature"), value[..., live])}, coords


def site_name(dictionary: Dictionary) -> str:
    where = require_place(dictionary)
    return (
        f"L{where.layer}.{where.site}" if where.head is None else f"L{where.layer}H{where.head}.{where.site}"
    )


def require_place(dictionary: Dictionary) -> Place:
    """Where it sits. ValueError where that is not known."""
    if dictionary.place is None or dictionary.place.layer is None:
        raise ValueError(
            "the dictionary does not say where it sits. Give its place: dictionary.at('L12.resid_pre'), or "
            "sae.load(path, 'L12.resid_pre')."
        )
    return dictionary.place


def parse_name(text: str, dictionary: Dictionary) -> tuple[int, str | None]:
    """Number of the feature (-1: the error) and what stands after @. ValueError for a name of another
    place."""
    match = _NAME.fullmatch(text)
    here = name_of(dictionary, 0)
    if match is None:
        raise ValueError(
            f"{text!r} names no feature. Forms: {here}, {here}@5, {name_of(dictionary, ERROR)}@5."
        )
    if match["place"] != site_name(dictionary):
        raise ValueError(f"{text!r} lies at {match['place']}, and the dictionary at {site_name(dictionary)}.")
    if match["error"]:
        return ERROR, match["at"]
    feature = int(match["feature"])
    if feature >= dictionary.n_features:
        raise ValueError(f"{text!r}: the dictionary has features 0 to {dictionary.n_features - 1}.")
    return feature, match["at"]


def require(dictionary: Dictionary, model: Model, one_head: bool = False) -> Place:
    """The place of a dictionary that fits the model. ValueError, before a pass, for one that does not.

    one_head: whether it may be of a single head's z.
    """
    facts, where = anatomy(model), require_place(dictionary)
    layer = where.layer or 0
    if where.site not in (*STREAM_SITES, "z", "post"):
        raise ValueError(
            f"features lie in the stream, in z or in post, and {site_name(dictionary)} is neither."
        )
    if (why := facts.lacks(where.site)) is not None:
        raise ValueError(f"{site_name(dictionary)}: {why}. The model has: {', '.join(facts.sites())}.")
    if layer >= facts.n_layers:
        raise ValueError(
            f"{site_name(dictionary)} is out of range: the model has layers 0 to {facts.n_layers - 1}."
        )
    if where.head is not None:
        _require_head(dictionary, where, facts, one_head)
    heads = facts.n_heads if where.head is None else 1
    sizes = {"z": heads * facts.d_head, "post": facts.d_mlp}
    for end, size, site in (
        ("reads", dictionary.d, dictionary.reads or where.site),
        ("writes", dictionary.d_out, where.site),
    ):
        if size != sizes.get(site, facts.d_model):
            raise ValueError(
                f"the dictionary {end} {size} numbers, and {site} of {facts.name} has "
                f"{sizes.get(site, facts.d_model)}: it is of another model or site."
            )
    if dictionary.fingerprint and not same_weights(dictionary.fingerprint, model):
        raise ValueError(
            f"the dictionary was made on {dictionary.model}, whose weights are not those of {facts.name}."
        )
    if dictionary.reads in MLP_READS and (why := unsupported(model)):
        raise ValueError(f"the dictionary reads what an MLP reads, which is not known here: {why}.")
    _require_basis(dictionary, model, facts)
    if dictionary.reads in MLP_READS:
        prove_mlp_input(model, layer, read_sites(dictionary, model)[0], _mlp_norm(model, layer))
    return where


def _require_head(dictionary: Dictionary, where: Place, facts: Anatomy, allowed: bool) -> None:
    if where.site != "z" or dictionary.is_transcoder:
        raise ValueError(f"{site_name(dictionary)}: only a dictionary of z can be of one head.")
    if not 0 <= (where.head or 0) < facts.n_heads:
        raise ValueError(
            f"{site_name(dictionary)} is out of range: the model has heads 0 to {facts.n_heads - 1}."
        )
    if not allowed:
        raise ValueError(
            f"{site_name(dictionary)} is one head's z, which interp.patch, interp.attribute, sae.encode, "
            "sae.contexts and edits of features take, and this verb does not; use a dictionary of all heads, "
            "side by side."
        )


def _require_basis(dictionary: Dictionary, model: Model, facts: Anatomy) -> None:
    folded = str(getattr(model.cfg, "normalization_type", "")).endswith("Pre")
    centred = folded and "RMS" not in str(model.cfg.normalization_type)
    reads = dictionary.reads or (dictionary.place.site if dictionary.place else "")
    if dictionary.basis == "raw" and centred and dictionary.model and reads in STREAM_SITES:
        warn(
            f"{facts.name} was loaded with its norms folded, which takes the mean out of its stream; a "
            "dictionary of "
            "the published weights reads that mean. Load the model with fold_ln=False, "
            "center_writing_weights=False, "
            "or see sae.check."
        )
    if reads == "mlp_in" and folded:
        raise ValueError(
            f"the dictionary reads what the MLP of {facts.name} reads after its gain, and the gain is "
            "folded into the "
            "weights. Load the model with fold_ln=False."
        )


def read_sites(dictionary: Dictionary, model: Model) -> tuple[tuple[str, int], tuple[str, int]]:
    """(site, layer) of the activation that it reads (before an MLP's norm), and of that which it writes."""
    where = require_place(dictionary)
    layer, site = where.layer or 0, where.site
    read = dictionary.reads or site
    if read in MLP_READS:
        read = "resid_pre" if anatomy(model).parallel else "resid_mid"
    return (read, layer), (site, layer)


def read_norm(dictionary: Dictionary, model: Model) -> Norm | None:
    """What stands between the activation that is captured and what the dictionary reads."""
    if dictionary.reads not in MLP_READS:
        return None
    norm = _mlp_norm(model, require_place(dictionary).layer or 0)
    if norm is None or dictionary.reads == "mlp_in":
        return norm
    return Norm(norm.centred, norm.eps, None, None)


def _mlp_norm(model: Model, layer: int) -> Norm | None:
    """The norm before an MLP. ValueError for parts that are not laid out as expected."""
    try:
        mlp = weights(model).blocks[layer].mlp
    except (*LAYOUT, ValueError) as error:
        raise ValueError(
            f"the dictionary reads what an MLP reads, and the parts of {model.cfg.model_name} are not laid "
            f"out as expected ({type(error).__name__}: {error})."
        ) from None
    if mlp is None:
        raise ValueError(f"layer {layer} of {model.cfg.model_name} has no MLP.")
    return mlp.norm


@dataclass(frozen=True, eq=False)
class Parts:
    """An activation taken apart: φ [prompt, pos, feature] and ε [prompt, pos, width]."""

    phi: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class Site:
    """A dictionary at its place in the model of an experiment."""

    experiment: Experiment
    dictionary: Dictionary

    @property
    def model(self) -> Model:
        return self.experiment.model

    @cached_property
    def ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """What is captured to be read, and what is patched."""
        return read_sites(self.dictionary, self.model)

    @property
    def captured(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site for site, _ in self.ends))

    @cached_property
    def norm(self) -> Norm | None:
        return read_norm(self.dictionary, self.model)

    @cached_property
    def rows(self) -> Float[Tensor, "feature width"]:
        """d of every feature, in the whole site: of one head's z, 0 in the others."""
        return self._whole(self.dictionary.W_dec)

    def _whole(self, part: Float[Tensor, "*any d_out"]) -> Float[Tensor, "*any width"]:
        head = require_place(self.dictionary).head
        if head is None:
            return part
        facts = self.experiment.facts
        before, after = head * facts.d_head, (facts.n_heads - 1 - head) * facts.d_head
        return torch.nn.functional.pad(part, (before, after))

    def parts(self, activations: Mapping[Any, Tensor]) -> Parts:
        """φ and ε of captured activations, by site and layer."""
        read, written = (activations[end] for end in self.ends)
        n_pos, head = read.shape[1], require_place(self.dictionary).head
        if head is not None:
            read = written = written[:, :, head]
        x = read.reshape(-1, self.dictionary.d)
        x = x if self.norm is None else self.norm(x)
        y = written.reshape(-1, self.dictionary.d_out)
        d = self.dictionary
        pieces = []
        for some, target in zip(x.split(_ROWS), y.split(_ROWS)):
            phi = d.contributions(some)
            error = target.to(phi) - phi @ d.W_dec.to(phi) - d.constant.to(phi)  # with the skip, if any
            pieces.append((phi, self._whole(error)))
        phi, error = (torch.cat(each).unflatten(0, (-1, n_pos)) for each in zip(*pieces))
        return Parts(phi, error)

    def replacement(self, source: Parts) -> Parts:
        """φ' and ε': those of the source run, zeros, or means."""
        ablation = self.experiment.contrast.ablation
        if isinstance(ablation, Zero):
            return Parts(torch.zeros_like(source.phi), torch.zeros_like(source.error))
        if isinstance(ablation, Mean):
            means = self.means
            return Parts(
                *(m.to(s).expand_as(s) for m, s in ((means.phi, source.phi), (means.error, source.error)))
            )
        return source

    @cached_property
    def means(self) -> Parts:
        """Means of φ and ε over prompts, [pos, ...], or [1, ...] where positions do not line up."""
        experiment = self.experiment
        ablation = experiment.contrast.ablation
        if not isinstance(ablation, Mean):
            raise ValueError("means are of mean ablation.")
        tokens, real, by_position = averaged(experiment.task, ablation, experiment.facts.device)
        total: list[Tensor] = []
        for rows in torch.arange(len(tokens), device=tokens.device).split(32):
            parts, some = self.parts(self._run(tokens[rows])), real[rows][..., None].double()
            sums = [(each.double() * some).sum(0) for each in (parts.phi, parts.error)]
            total = sums if not total else [a + b for a, b in zip(total, sums)]
        counts = real.sum(0).clamp(min=1)[:, None]  # [pos, 1]
        if by_position:
            return Parts(*(each / counts for each in total))
        return Parts(*(each.sum(0, keepdim=True) / counts.sum() for each in total))

    def _run(self, tokens: Tensor) -> dict[tuple[str, int], Tensor]:
        kept: dict[tuple[str, int], Tensor] = {}

        def keep(end: tuple[str, int], tensor: Tensor, hook: object) -> Tensor:
            kept[end] = tensor.detach()
            return tensor

        hooks = [(hook_name(*end), partial(keep, end)) for end in dict.fromkeys(self.ends)]
        with self.model.hooks(fwd_hooks=hooks):
            logits(self.model, tokens)
        return kept
