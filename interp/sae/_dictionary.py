"""A dictionary: what an activation is made of, feature by feature.

With row vectors, d the width of the site that is read, d' of the one that is written, and F features:

    z = norm(x), less b_dec where it is centred
    f = act(z W_enc + b_enc)                                     [F]
    x̂ = unnorm(f W_dec + b_dec) + x W_skipᵀ                      [d']

The contribution of feature i is φ_i d_i, with d_i row i of W_dec and φ_i = f_i times the factor by which this
row is un-normalised. What the dictionary does not explain is its error ε = x − Σ φ_i d_i − c, where c is
b_dec, or 0 with a normalisation: so x = Σ φ_i d_i + c + ε exactly. A transcoder reads one site and writes
another: there x in the last two formulas is the written site, and the skip a part of its own.

Sparse autoencoders: Cunningham et al. 2309.08600, Bricken et al. 2023. Transcoders: Dunefsky et al.
2406.11944; with skip 2501.18823.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.places import Place, hint, parse
from interp.sae._activations import ACTIVATIONS, CHOOSING, Gate, Pursuit, activate, gated, pursue

if TYPE_CHECKING:
    from pathlib import Path

NORMS = ("none", "layer_norm", "constant_norm_rescale")
_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse dictionary at a place of a model. Made by `interp.sae.load`, or of tensors.

    W_enc: [d, feature]; b_enc: [feature]; W_dec: [feature, d']; b_dec: [d'], in the activation's own units.
    activation: relu, jumprelu, jump, topk, abstopk, groupmax, gated, matching_pursuit (`_activations`).
    threshold: [feature], of jumprelu and jump. k: how many are on, of topk, abstopk, groupmax.
    W_skip: [d', d], reads x as it is. centre: b_dec is taken from x first. norm: none, layer_norm,
    constant_norm_rescale. place: the site that it writes, "L12.resid_pre"; heads of `L3.z` side by side.
    reads: the site that it reads, where that is another (transcoders): a site, "mlp_in" (what the MLP reads,
    after norm and gain) or "mlp_normed" (before the gain). basis: "raw" (the weights as published) or
    "folded" (TransformerLens's fold_ln). fingerprint: sixteen values of the model's unembedding. metadata:
    what the file said, as it was.

    Raises ValueError for tensors that do not fit together, or are not finite.

    Example:
        >>> import torch
        >>> eye = torch.eye(64)
        >>> both = torch.cat((eye, -eye))                            # each axis, up and down: nothing is lost
        >>> d = interp.sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> x = torch.randn(5, 64)
        >>> d, bool(torch.allclose(d(x), x)), float((d.encode(x) != 0).sum(-1).float().mean())
        (Dictionary(L1.resid_pre, 128 features of 64, relu), True, 64.0)
    """

    W_enc: Float[Tensor, "d feature"]
    b_enc: Float[Tensor, "feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, "d_out"]
    activation: str = "relu"
    place: Place | None = None
    threshold: Float[Tensor, "feature"] | None = None
    k: int | None = None
    gate: Gate | None = None
    pursuit: Pursuit | None = None
    W_skip: Float[Tensor, "d_out d"] | None = None
    centre: bool = False
    norm: str = "none"
    reads: str | None = None
    basis: str = "raw"
    model: str | None = None
    fingerprint: tuple[float, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        activation: str = "relu",
        place: str | Place | None = None,
        **more: Any,
    ) -> None:
        known = {name: each.default for name, each in type(self).__dataclass_fields__.items()}
        for name in more:
            if name not in known:
                raise TypeError(f"Dictionary() has no argument {name!r}{hint(name, known)}")
        defaults = {name: None if name == "metadata" else known[name] for name in list(known)[6:]}
        given = {**defaults, **more, "metadata": dict(more.get("metadata") or {})}
        where = parse(place) if isinstance(place, str) else place
        tensors = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
        for name, value in {**tensors, "activation": activation, "place": where, **given}.items():
            object.__setattr__(self, name, value)
        _check(self)

    def __repr__(self) -> str:
        across = f"{self.d}" if self.d == self.d_out else f"{self.d} to {self.d_out}"
        kind = self.activation + ("" if self.k is None else f" {self.k}")
        return f"Dictionary({self.place or 'no place'}, {self.n_features} features of {across}, {kind})"

    @property
    def d(self) -> int:
        """Width of what is read."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what is written."""
        return self.W_dec.shape[1]

    @property
    def n_features(self) -> int:
        return self.W_dec.shape[0]

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes another site than it reads."""
        return self.reads is not None

    @property
    def constant(self) -> Float[Tensor, "d_out"]:
        """c: what of the reconstruction no feature, skip or error has."""
        return self.b_dec if self.norm == "none" else torch.zeros_like(self.b_dec)

    def encode(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*rows feature"]:
        """Features as their papers define them, in float32 or better. x of `z` may be [..., head, d_head]."""
        return self._encoded(self._rows(x))

    def pre_activations(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*rows feature"]:
        """h = z W_enc + b_enc; of a gated dictionary that of its magnitude."""
        x, own = self._at(self._rows(x))
        z = own._input(x)
        if own.gate is not None:
            return (z @ own.W_enc) * own.gate.r_mag.to(z).exp() + own.gate.b_mag.to(z)
        return z @ own.W_enc + own.b_enc

    def decode(self, f: Float[Tensor, "*any feature"], x: Tensor | None = None) -> Tensor:
        """x̂ of features. x: what was read; a normalisation or a skip needs it. Raises ValueError without."""
        if x is None and (self.norm != "none" or self.W_skip is not None):
            what = "undoes a normalisation" if self.norm != "none" else "has a skip"
            raise ValueError(f"this dictionary {what}, so decoding needs what was read: decode(f, x).")
        f, own = self._at(f)
        out = f @ own.W_dec + own.b_dec
        if x is None:
            return out
        rows = self._rows(x).to(out)
        if self.norm != "none":
            scale, mean = self._scale(rows)
            out = out * scale + mean
        return out if own.W_skip is None else out + rows @ own.W_skip.T

    def __call__(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*rows d_out"]:
        """x̂, the reconstruction (of what is written)."""
        return self.decode(self.encode(x), x)

    def contributions(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*rows feature"]:
        """φ: features in units of the site, so that Σ φ_i d_i is what they add to it."""
        rows = self._rows(x)
        f = self._encoded(rows)
        return f if self.norm == "none" else f * self._scale(rows.to(f))[0]

    def error(self, x: Float[Tensor, "*any d"], written: Tensor | None = None) -> Tensor:
        """ε = x − Σ φ_i d_i − c (less the skip). written: the site that a transcoder writes."""
        if written is None and self.is_transcoder:
            raise ValueError("a transcoder's error is of the site that it writes: error(x, written).")
        phi, own = self._at(self.contributions(x))
        target = self._rows(x if written is None else written, self.d_out).to(phi)
        out = target - phi @ own.W_dec - own.constant
        return out if own.W_skip is None else out - self._rows(x).to(phi) @ own.W_skip.T

    def difference(self, x: Float[Tensor, "*any d"], f: Float[Tensor, "*rows feature"]) -> Tensor:
        """What a difference of features adds to the site at x: Σ (φ' − φ) d, [..., d']."""
        f, own = self._at(f)
        if self.norm != "none":
            f = f * self._scale(self._rows(x).to(f))[0]
        return f @ own.W_dec

    def at(self, place: str | Place, reads: str | None = None) -> Dictionary:
        """The same dictionary at a place of a model."""
        return self.but(place=parse(place) if isinstance(place, str) else place, reads=reads or self.reads)

    def to(self, to: torch.dtype | torch.device) -> Dictionary:
        """The same with all tensors of a dtype, or on a device."""
        move = lambda each: each.to(to) if isinstance(each, Tensor) else each  # noqa: E731
        tensors = {name: move(value) for name, value in vars(self).items()}
        if self.gate is not None:
            tensors["gate"] = Gate(*(move(each) for each in vars(self.gate).values()))
        return self.but(**tensors)

    def but(self, **changed: Any) -> Dictionary:
        """The same with some fields changed."""
        return Dictionary(**{**vars(self), **changed})

    def take(self, features: Tensor | list[int]) -> Dictionary:
        """Some of the features, in the order given; ValueError where others decide which are on."""
        if self.activation in (*CHOOSING, "matching_pursuit"):
            raise ValueError(f"which features of {self.activation} are on depends on all; take them after.")
        index = torch.as_tensor(features, device=self.W_enc.device)
        gate = self.gate and Gate(*(each[index] for each in vars(self.gate).values()))
        return self.but(
            W_enc=self.W_enc[:, index], b_enc=self.b_enc[index], W_dec=self.W_dec[index], gate=gate,
            threshold=None if self.threshold is None else self.threshold[index],
        )  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write it as a SAELens folder (`cfg.json`, `sae_weights.safetensors`), which SAELens reads.

        Raises ValueError for what that format has no place for (groupmax, jump, a skip of an autoencoder).
        """
        from interp.sae._saelens import write

        return write(self, folder)

    def _encoded(self, x: Tensor) -> Tensor:
        x, own = self._at(x)
        z = own._input(x)
        if own.gate is not None:
            return gated(z, own.W_enc, own.gate)
        if own.pursuit is not None:
            return pursue(z, own.W_dec, own.pursuit)
        return activate(z @ own.W_enc + own.b_enc, self.activation, own.threshold, self.k)

    def _at(self, x: Tensor) -> tuple[Tensor, Dictionary]:
        """x and the dictionary in one dtype: the wider of both, float32 or better."""
        wide = torch.promote_types(torch.promote_types(x.dtype, self.W_dec.dtype), torch.float32)
        same = self.W_dec.dtype == wide and self.W_dec.device == x.device
        return x.to(wide), self if same else self.to(x.device).to(wide)

    def _input(self, x: Tensor) -> Tensor:
        """z: what the encoder multiplies, x normalised and centred as this dictionary does."""
        if self.norm != "none":
            scale, mean = self._scale(x)
            x = (x - mean) / (scale + _EPS) if self.norm == "layer_norm" else x / scale
        return x - self.b_dec if self.centre else x

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a row of the reconstruction is multiplied by, and what is added: [..., 1]."""
        if self.norm == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            return (x - mean).std(-1, keepdim=True), mean
        scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        return scale, torch.zeros_like(scale)

    def _rows(self, x: Tensor, width: int | None = None) -> Tensor:
        """x [..., d], heads side by side. ValueError for another width."""
        width = self.d if width is None else width
        if x.shape[-1] == width:
            return x
        if x.ndim > 1 and x.shape[-1] * x.shape[-2] == width:
            return x.flatten(-2)
        raise ValueError(f"the dictionary is of width {width}, and the activations of {x.shape[-1]}.")


def _check(d: Dictionary) -> None:
    """Raise ValueError for tensors that do not fit together, and settings that do not fit them."""
    _check_settings(d)
    if any(not isinstance(each, Tensor) or each.ndim != 2 for each in (d.W_enc, d.W_dec)):
        raise ValueError("W_enc and W_dec are matrices, [d, feature] and [feature, d'].")
    width, n = d.W_enc.shape
    n_dec, width_out = d.W_dec.shape
    wanted: dict[str, tuple[int, ...]] = {"b_enc": (n,), "W_dec": (n, width_out), "b_dec": (width_out,)}
    wanted |= {"threshold": (n,), "W_skip": (width_out, width)}
    tensors = {name: getattr(d, name) for name in wanted} | (
        {} if d.gate is None else {f"gate.{name}": each for name, each in vars(d.gate).items()}
    )
    for name, tensor in {"W_enc": d.W_enc, **tensors}.items():
        if tensor is None:
            continue
        size = wanted.get(name, tuple(d.W_enc.shape) if name == "W_enc" else (n,))
        if tuple(tensor.shape) != size:
            found = f"{list(tensor.shape)}, and W_enc [{width}, {n}] asks for {list(size)}"
            turned = " Is W_enc transposed?" if name == "W_dec" and n_dec == width else ""
            raise ValueError(f"{name} is {found}.{turned}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; a dictionary has floating-point numbers.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite; the dictionary cannot be used.")
    if not d.is_transcoder and width != width_out:
        raise ValueError(f"it reads {width} and writes {width_out} numbers, so reads= must say which site.")
    if d.activation in CHOOSING and not 1 <= (d.k or 0) <= n:
        raise ValueError(f"k is {d.k}; of {n} features 1 to {n} can be on.")
    if d.activation == "groupmax" and n % (d.k or 1):
        raise ValueError(f"{n} features do not divide into {d.k} groups of one size.")


def _check_settings(d: Dictionary) -> None:
    for name, value, options in (("activation", d.activation, ACTIVATIONS), ("norm", d.norm, NORMS)):
        if value not in options:
            raise ValueError(
                f"{name} is {value!r}{hint(str(value), options)} It is one of {', '.join(options)}."
            )
    if d.basis not in ("raw", "folded"):
        raise ValueError(f"basis is {d.basis!r}; it is 'raw' or 'folded'.")
    needs = {"threshold": ("jumprelu", "jump"), "gate": ("gated",), "pursuit": ("matching_pursuit",)}
    for name, kinds in needs.items():
        if (getattr(d, name) is not None) != (d.activation in kinds):
            verb = "needs" if d.activation in kinds else "has no"
            raise ValueError(f"activation {d.activation!r} {verb} {name}.")
    if d.is_transcoder and (d.centre or d.norm != "none"):
        raise ValueError("a transcoder writes another site than it reads: it is neither centred nor normed.")
