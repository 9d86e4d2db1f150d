"""Translators: matrices that carry a layer's stream to the last one, so that the unembedding can read it.

`TunedLens`: h + h A_l + b_l from the input of block l (resid_pre), learnt. `JacobianLens`: h J_lᵀ from the
output of block l (resid_post), the mean slope of the last stream. Neither has anything at the last layer.

On file: safetensors, no pickle. A tuned lens has the names of tuned-lens 0.2 (`{l}.weight` [out, in],
`{l}.bias`), a Jacobian lens `J.{l}` [out, in]; all else is JSON in the header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.files import read_tensors, require_tensors, write_tensors
from interp.models import Anatomy, Model
from interp.steering._direction import found_on, same_model

_KEY, _FIELDS = "lens", ("model", "weights", "n_layers", "d_model")
_PARTS = ("weight", "bias")  # of a tuned lens, by layer


@dataclass(frozen=True, eq=False)
class Translator:
    """Matrices by layer. model and weights: of which model, as a `Direction` keeps it; facts: how it was
    fit."""

    matrices: Mapping[int, Float[Tensor, "d_model d_model"]]
    n_layers: int
    model: str | None = None
    weights: tuple[float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    method: ClassVar[str]
    site: ClassVar[str]
    form: ClassVar[str]
    __repr__ = brief

    def __post_init__(self) -> None:
        shapes = {tuple(each.shape) for each in self.matrices.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2 or len(set(next(iter(shapes)))) != 1:
            raise ValueError(f"a {self.method} has matrices [d_model, d_model]; these are {sorted(shapes)}.")
        wrong = [layer for layer in self.matrices if not 0 <= layer < self.n_layers]
        if wrong:
            raise ValueError(f"a {self.method} of {self.n_layers} layers has a matrix of layer {wrong[0]}.")

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return len(next(iter(self.matrices.values())))

    def check(self, model: Model) -> Translator:
        """The lens itself; ValueError when it is of another model. No forward pass."""
        if (self.n_layers, self.d_model) != (model.cfg.n_layers, model.cfg.d_model):
            raise ValueError(
                f"the {self.method} is for {self.n_layers} layers of width {self.d_model}, "
                f"{model.cfg.model_name} has {model.cfg.n_layers} of {model.cfg.d_model}. Fit one for it."
            )
        same_model(f"the {self.method}", self.model, self.weights, model)
        return self

    def is_end(self, site: str, layer: int) -> bool:
        """Whether that is the last stream, which nothing carries."""
        return site == "resid_post" and layer == self.n_layers - 1

    def cover(self, at: Sequence[tuple[str, int]], facts: Anatomy) -> None:
        """ValueError for a layer without a matrix, and for another width."""
        if facts.d_model != self.d_model or facts.n_layers != self.n_layers:
            raise ValueError(
                f"the {self.method} is for {self.n_layers} layers of width {self.d_model}, {facts.name} has "
                f"{facts.n_layers} of {facts.d_model}. Fit one for it."
            )
        missing = [layer for site, layer in at if not self.is_end(site, layer) and layer not in self.matrices]
        if missing:
            raise ValueError(
                f"the {self.method} has no layer {missing[0]}; it has {', '.join(map(str, self.matrices))}. "
                "Choose with layer=."
            )

    def carry(self, site: str, layer: int, rows: Float[Tensor, "row d_model"]) -> Tensor:
        """Rows of a layer as rows of the last stream."""
        raise NotImplementedError

    def _header(self) -> dict[str, Any]:
        shape = {"n_layers": self.n_layers, "d_model": self.d_model}
        return {"model": self.model, "weights": list(self.weights), **shape, "facts": dict(self.facts)}


@dataclass(frozen=True, eq=False)
class TunedLens(Translator):
    """h + h A_l + b_l, of the input of block l. matrices: A_l [in, out]; biases: b_l."""

    biases: Mapping[int, Float[Tensor, "d_model"]] = field(default_factory=dict)

    method: ClassVar[str] = "tuned lens"
    site: ClassVar[str] = "resid_pre"
    form: ClassVar[str] = "interp-tuned-lens-1"
    __repr__ = brief

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {layer: tuple(b.shape) for layer, b in self.biases.items()}
        if sizes != dict.fromkeys(self.matrices, (self.d_model,)):
            raise ValueError(f"a tuned lens has a bias [{self.d_model}] for each matrix; these are {sizes}.")

    def carry(self, site: str, layer: int, rows: Tensor) -> Tensor:
        if self.is_end(site, layer):
            return rows
        A, b = self.matrices[layer].to(rows), self.biases[layer].to(rows)
        return rows + rows @ A + b

    @verb
    def save(self, path: str | Path) -> Path:
        """Write the lens as safetensors under tuned-lens' names; an existing file is replaced."""
        tensors = {f"{layer}.weight": A.T for layer, A in self.matrices.items()}
        tensors |= {f"{layer}.bias": b for layer, b in self.biases.items()}
        return write_tensors(Path(path), tensors, form=self.form, key=_KEY, header=self._header())

    @classmethod
    @verb
    def load(cls, path: str | Path, model: Model | None = None) -> TunedLens:
        """Read a file of `save`; with `model`, ValueError unless the lens is of it."""
        tensors, header = _read(cls, path)
        layers = _layers(tensors, r"(\d+)\.(?:weight|bias)")
        require_tensors(tensors, [f"{layer}.{part}" for layer in layers for part in _PARTS], str(path))
        lens = cls(
            {layer: tensors[f"{layer}.weight"].T for layer in layers}, header["n_layers"], header["model"],
            tuple(header["weights"]), header.get("facts", {}),
            {layer: tensors[f"{layer}.bias"] for layer in layers},
        )  # fmt: skip
        return lens if model is None else _fitting(lens, model)


@dataclass(frozen=True, eq=False)
class JacobianLens(Translator):
    """h J_lᵀ, of the output of block l. matrices: J_l [out, in]."""

    method: ClassVar[str] = "Jacobian lens"
    site: ClassVar[str] = "resid_post"
    form: ClassVar[str] = "interp-jacobian-lens-1"
    __repr__ = brief

    def carry(self, site: str, layer: int, rows: Tensor) -> Tensor:
        return rows if self.is_end(site, layer) else rows @ self.matrices[layer].T.to(rows)

    def vectors(self, model: Model, layer: int) -> Float[Tensor, "vocab d_model"]:
        """Directions at a layer's output that raise a token's logit on the average: W_Uᵀ J, gain included."""
        from interp.lens._readout import readout_of, wide

        readout = readout_of(self.check(model) and model)
        gained = (
            readout.W_U.T
            if readout.norm is None or readout.norm.gain is None
            else (readout.W_U * readout.norm.gain[:, None]).T
        )
        if readout.norm is not None and readout.norm.centred:
            gained = gained - gained.mean(-1, keepdim=True)
        return (
            wide(gained)
            if layer == self.n_layers - 1
            else wide(gained) @ self.matrices[layer].to(wide(gained))
        )

    @verb
    def save(self, path: str | Path) -> Path:
        """Write the lens as safetensors; an existing file is replaced."""
        tensors = {f"J.{layer}": J for layer, J in self.matrices.items()}
        return write_tensors(Path(path), tensors, form=self.form, key=_KEY, header=self._header())

    @classmethod
    @verb
    def load(cls, path: str | Path, model: Model | None = None) -> JacobianLens:
        """Read a file of `save` or of `lens.convert`; with `model`, ValueError unless the lens is of it."""
        tensors, header = _read(cls, path)
        layers = _layers(tensors, r"J\.(\d+)")
        require_tensors(tensors, [f"J.{layer}" for layer in layers], str(path))
        lens = cls(
            {layer: tensors[f"J.{layer}"] for layer in layers}, header["n_layers"], header["model"],
            tuple(header["weights"]), header.get("facts", {}),
        )  # fmt: skip
        return lens if model is None else _fitting(lens, model)


def _read(kind: type[Translator], path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    writer = f"{kind.__name__}.save"
    return read_tensors(Path(path), form=kind.form, key=_KEY, writer=writer, fields=_FIELDS)


def _layers(tensors: Mapping[str, Tensor], form: str) -> list[int]:
    """The layers that a file's names are of, or the first where none is, so that its absence is told."""
    return sorted({int(m[1]) for name in tensors if (m := re.fullmatch(form, name))}) or [0]


def _fitting(lens: Any, model: Model) -> Any:
    return lens.check(model)


@verb
def convert(path: str | Path, out: str | Path, n_layers: int | None = None) -> JacobianLens:
    """A published Jacobian lens (a pickle of tensors) as safetensors: the only function that opens a pickle.

    path: an artefact {"J", "n_prompts", "source_layers", "d_model", ...} or a checkpoint of fitting
    {"jacobian_sum", "n_done", ...}, whose sums become means; read with `weights_only=True`, so that it can
    run nothing. out: the file that is written, as `JacobianLens.save` does. n_layers: of the model; by
    default one more than the highest layer of the file, as published lenses have all layers but the last.

    Returns the lens; check that it is of a model with `JacobianLens.load(out, model)`. Raises ValueError for
    another file, for matrices that are not [d_model, d_model] or not finite, for a target layer that is not
    the last, and for an estimator that is no plain Jacobian.

    Example:
        >>> import tempfile, torch
        >>> folder = tempfile.mkdtemp()
        >>> published = {"J": {0: torch.eye(4).half()}, "n_prompts": 1, "source_layers": [0], "d_model": 4}
        >>> torch.save(published, f"{folder}/lens.pt")
        >>> sorted(interp.lens.convert(f"{folder}/lens.pt", f"{folder}/lens.safetensors").matrices)
        [0]
    """
    payload = _published(Path(path))
    sums = "J" not in payload
    matrices, count = (payload["jacobian_sum"], payload.get("n_done", 0)) if sums else (payload["J"], 1)
    if sums and (not isinstance(count, int) or count < 1):
        raise ValueError(f"{path} is a checkpoint of {count!r} prompts; a mean needs one or more.")
    found = {int(layer): J.float() / count for layer, J in sorted(matrices.items())}
    facts = _facts(payload)
    size = max(found) + 2 if n_layers is None else n_layers
    target = facts.get("target_layer", size - 1)
    if target not in (size - 1, -1):
        raise ValueError(
            f"{path} was fitted to layer {target}, and the unembedding reads layer {size - 1}. Give "
            "n_layers= of its model, or fit a lens to its last layer."
        )
    if facts.get("estimator", "jacobian_lens") != "jacobian_lens":
        raise ValueError(f"{path} holds {facts['estimator']!r}, which is no plain Jacobian lens.")
    width = payload.get("d_model", len(next(iter(found.values()))))
    for layer, J in found.items():
        if tuple(J.shape) != (width, width) or not bool(J.isfinite().all()):
            raise ValueError(
                f"{path}: J of layer {layer} has shape {tuple(J.shape)}, expected {(width, width)}, finite."
            )
    lens = JacobianLens(found, size, None, (), facts)
    lens.save(out)
    return lens


def _published(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's and pickle's errors, of many classes
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no file of tensors: {first}") from None
    matrices = payload.get("J", payload.get("jacobian_sum")) if isinstance(payload, dict) else None
    if (
        not isinstance(matrices, dict)
        or not matrices
        or not all(isinstance(J, Tensor) for J in matrices.values())
    ):
        raise ValueError(f"{path} has neither 'J' nor 'jacobian_sum' with matrices: it is no Jacobian lens.")
    return payload


def _facts(payload: dict[str, Any]) -> dict[str, Any]:
    """What else the file says, as far as JSON holds it."""
    inside = payload.get("metadata")
    flat = {**payload, **(inside if isinstance(inside, dict) else {})}
    plain = (str, int, float, bool)
    return {
        name: value
        for name, value in flat.items()
        if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(v, plain) for v in value))
    }


def of_model(lens: Translator, model: Model) -> Any:
    """The lens with the identity of the model that it was fitted on."""
    return replace(lens, **found_on(model))
