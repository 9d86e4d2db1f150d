"""Folders of SAELens: `cfg.json` and `sae_weights.safetensors`, of version 6 and before; read and written.

What a file leaves to its reader is settled here, once: decoder norms are folded where the dictionary rescales
by them (same features, same reconstruction), a scale of the input is folded or the file refused, files of
training become the dictionaries that they are used as.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.files import require_tensors, whole
from interp.places import Place, hint, hook_name
from interp.results import versions
from interp.sae._activations import Gate, Pursuit
from interp.sae._dictionary import Dictionary
from interp.sae._places import placed
from interp.sae._reading import read_json, read_safetensors

CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_CODER = ("W_enc", "b_enc", "W_dec", "b_dec")
_TENSORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("standard", "topk", "abstopk", "transcoder"), _CODER),
    **dict.fromkeys(("jumprelu", "jumprelu_transcoder"), (*_CODER, "threshold")),
    "skip_transcoder": (*_CODER, "W_skip"),
    "jumprelu_skip_transcoder": (*_CODER, "threshold", "W_skip"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"),
    "matching_pursuit": ("W_dec", "b_dec"),
    **dict.fromkeys(("batchtopk", "matryoshka_batchtopk"), (*_CODER, "topk_threshold")),
}
_ACTIVATION = {
    "standard": "relu", "transcoder": "relu", "skip_transcoder": "relu", "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
_SCALED = {
    "expected_average_only_in": "activation_scaler.json, key scaling_factor",
    "covariance_whitening": "",
}


def read(folder: Path, scale: float | None = None) -> Dictionary:
    """The dictionary of a folder. scale: c of expected_average_only_in, which the files do not hold."""
    cfg = modern(read_json(folder / CFG))
    return of_tensors(cfg, read_safetensors(folder / WEIGHTS), str(folder / WEIGHTS), scale)


def of_tensors(
    cfg: dict[str, Any], tensors: dict[str, Tensor], where: str, scale: float | None = None
) -> Dictionary:
    """The dictionary of a config in the words of version 6, and its tensors. Raises ValueError."""
    kind = cfg["architecture"]
    if kind == "temporal":
        raise ValueError(
            f"{where}: a temporal dictionary reads other positions than its own; not known here."
        )
    if kind not in _TENSORS:
        raise ValueError(f"{where}: architecture {kind!r} is not known{hint(kind, _TENSORS)}")
    tensors = dict(tensors)
    factors = tensors.pop("scaling_factor", None)
    wanted = _TENSORS[kind]
    require_tensors(tensors, wanted, where)
    if kind == "matching_pursuit":
        tensors |= {"W_enc": tensors["W_dec"].T.contiguous()}
        if not cfg["apply_b_dec_to_input"]:
            tensors["b_dec"] = torch.zeros_like(tensors["b_dec"])
    if kind in ("matching_pursuit", "gated"):
        tensors["b_enc"] = tensors["W_dec"].new_zeros(len(tensors["W_dec"]))
    _check_sizes(cfg, tensors, where)
    tensors = _fold_factors(tensors, factors, cfg, where)
    if "topk_threshold" in tensors:
        number = tensors.pop("topk_threshold")
        tensors["threshold"] = number.to(tensors["b_enc"]).expand(len(tensors["b_enc"])).clone()
    tensors = _fold_norms(tensors, bool(cfg.get("rescale_acts_by_decoder_norm")), kind)
    tensors = _fold_scale(tensors, cfg["normalize_activations"], scale, where)
    gate = Gate(*(tensors.pop(name) for name in ("r_mag", "b_mag", "b_gate"))) if kind == "gated" else None
    return Dictionary(
        **tensors, gate=gate, **_settings(cfg, kind, where), **_whereabouts(cfg, kind),
        model=_meta(cfg, "model_name"), fingerprint=_fingerprint(cfg), metadata=cfg,
    )  # fmt: skip


def _settings(cfg: dict[str, Any], kind: str, where: str) -> dict[str, Any]:
    norm, transcoder = cfg["normalize_activations"], "transcoder" in kind
    if transcoder and cfg["apply_b_dec_to_input"]:
        raise ValueError(
            f"{where}: a transcoder with apply_b_dec_to_input takes one site's bias off another."
        )
    k = cfg.get("k") if kind in ("topk", "abstopk") else None
    if k is not None and (isinstance(k, bool) or k != int(k)):
        raise ValueError(f"{where}: k is {k!r}; of {kind} it is a whole number.")
    out = {"activation": _ACTIVATION.get(kind, kind), "k": None if k is None else int(k)}
    out |= {"centre": bool(cfg["apply_b_dec_to_input"]) and not transcoder}
    out |= {"norm": norm if norm in ("layer_norm", "constant_norm_rescale") else "none"}
    if kind == "matching_pursuit":
        limits = (cfg.get("residual_threshold", 1e-2), cfg.get("max_iterations"))
        out["pursuit"] = Pursuit(*limits, cfg.get("stop_on_duplicate_support", True))
    return out


def _whereabouts(cfg: dict[str, Any], kind: str) -> dict[str, Any]:
    hook, out = _meta(cfg, "hook_name"), _meta(cfg, "hook_name_out")
    head = _meta(cfg, "hook_head_index")
    flags = _meta(cfg, "model_from_pretrained_kwargs") or {}
    basis = "folded" if flags.get("center_writing_weights") or flags.get("fold_ln") else "raw"
    if "transcoder" in kind:
        reads = placed(out or hook, hook)
        return {**reads, "reads": reads.get("reads") or "mlp_in", "basis": basis}
    return {**placed(hook, None, head), "basis": basis}


def _meta(cfg: Mapping[str, Any], name: str) -> Any:
    return cfg["metadata"].get(name)


def _fingerprint(cfg: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Of the model, where we wrote the file."""
    ours = _meta(cfg, "interp")
    values = ours.get("fingerprint") if isinstance(ours, dict) else None
    return tuple(map(float, values)) if isinstance(values, list) else None


def modern(cfg: dict[str, Any]) -> dict[str, Any]:
    """A config of any version in the words of version 6; what it does not use stays in `metadata`."""
    if isinstance(cfg.get("metadata"), dict) and "architecture" in cfg:
        out = {"apply_b_dec_to_input": True, "normalize_activations": "none", **cfg}
        out["reshape_activations"] = cfg.get("reshape_activations", "none")
        return out
    old = dict(cfg)
    for before, after in (("hook_point", "hook_name"), ("hook_point_head_index", "hook_head_index")):
        if before in old:
            old.setdefault(after, old.pop(before))
    kind = old.get("architecture", "standard")
    function = old.get("activation_fn_str") or old.get("activation_fn") or "relu"
    if function == "topk" and kind == "standard":
        kind, old["k"] = "topk", (old.get("activation_fn_kwargs") or {}).get("k", old.get("k"))
    norm = old.get("normalize_activations")
    norm = {True: "expected_average_only_in", False: "none", None: "none"}.get(norm, norm)
    at_z = "hook_z" if "hook_z" in str(old.get("hook_name")) else "none"
    return {
        "architecture": kind, "d_in": old.get("d_in"), "d_sae": old.get("d_sae"), "k": old.get("k"),
        "dtype": old.get("dtype"), "apply_b_dec_to_input": old.get("apply_b_dec_to_input", True),
        "normalize_activations": norm, "reshape_activations": old.get("reshape_activations", at_z),
        "finetuning_scaling_factor": old.get("finetuning_scaling_factor"), "d_out": old.get("d_out"),
        "rescale_acts_by_decoder_norm": old.get("rescale_acts_by_decoder_norm", False), "metadata": old,
    }  # fmt: skip


def _check_sizes(cfg: dict[str, Any], tensors: dict[str, Tensor], where: str) -> None:
    for key, (name, axis) in {"d_in": ("W_enc", 0), "d_sae": ("W_enc", 1), "d_out": ("W_dec", 1)}.items():
        wanted, tensor = cfg.get(key), tensors[name]
        if wanted is not None and (tensor.ndim != 2 or tensor.shape[axis] != wanted):
            raise ValueError(
                f"{where}: {name} is {list(tensor.shape)}, and {CFG} says {key} {wanted} (axis {axis})."
            )


def _fold_factors(
    tensors: dict[str, Tensor], factors: Tensor | None, cfg: dict[str, Any], where: str
) -> dict[str, Tensor]:
    """`finetuning_scaling_factor`, by which features are multiplied before they are decoded."""
    asked = cfg.get("finetuning_scaling_factor")
    if factors is None:
        if asked:
            raise ValueError(
                f"{where}: {CFG} asks for finetuning_scaling_factor; there is no scaling_factor."
            )
        return tensors
    if asked is False and bool((factors != 1).any()):
        raise ValueError(
            f"{where} has a scaling_factor that is not 1, and {CFG} says finetuning_scaling_factor is off."
        )
    if bool((factors == 1).all()):
        return tensors
    return tensors | {"W_dec": tensors["W_dec"] * factors[:, None]}


def _fold_norms(tensors: dict[str, Tensor], rescaled: bool, kind: str) -> dict[str, Tensor]:
    """Features times the norms of their decoder rows, rows divided by them: what rescaling computes."""
    if not rescaled or kind not in ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk"):
        return tensors
    norms = tensors["W_dec"].norm(dim=1)
    if bool((norms == 0).any()):
        raise ValueError("a decoder row is 0, and the dictionary rescales by the norms of its rows.")
    return tensors | {
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / norms[:, None],
    }


def _fold_scale(tensors: dict[str, Tensor], norm: str, scale: float | None, where: str) -> dict[str, Tensor]:
    """A scale of the input that the weights do not hold: z = c x."""
    if norm not in _SCALED:
        if scale is not None:
            raise ValueError(
                f"{where}: scale= is of expected_average_only_in; normalize_activations is {norm!r}."
            )
        return tensors
    if norm == "covariance_whitening":
        raise ValueError(
            f"{where}: inputs were whitened, by a matrix that is not in the file. Fold it first."
        )
    if scale is None:
        raise ValueError(
            f"{where}: inputs were scaled to a norm of √d (expected_average_only_in) by a number that is "
            "not in "
            "the file, without which features are wrong. Give scale= (√d over the mean norm of the site; a "
            "folder of checkpoints has it in activation_scaler.json, key scaling_factor), or fold it "
            "with SAELens before saving."
        )
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it is √d over a mean norm, above 0.")
    folded = {"W_enc": tensors["W_enc"] * scale}
    folded |= {name: tensors[name] / scale for name in ("W_dec", "b_dec")}
    return tensors | folded


def of_object(theirs: Any) -> Dictionary:
    """A SAELens object, by duck type: `cfg`, `state_dict`, `encode`, `decode`."""
    cfg = theirs.cfg
    listed = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(vars(cfg))
    if callable(getattr(type(cfg), "architecture", None)):
        listed["architecture"] = type(cfg).architecture()
    tensors = {name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}
    return of_tensors(modern(listed), tensors, type(theirs).__name__)


def write(dictionary: Dictionary, folder: str | Path) -> Path:
    """A folder that `read` and SAELens read. Raises ValueError for what the format has no place for."""
    d, out = dictionary, Path(folder)
    kind = _kind(d)
    tensors = {name: getattr(d, name) for name in _CODER if name in _TENSORS[kind]}
    tensors |= {name: getattr(d, name) for name in ("threshold", "W_skip") if name in _TENSORS[kind]}
    tensors |= {} if d.gate is None else vars(d.gate)
    out.mkdir(parents=True, exist_ok=True)
    from safetensors.torch import save_file

    listed = {name: tensor.contiguous().cpu().clone() for name, tensor in tensors.items()}
    with whole(out / WEIGHTS) as unfinished:
        save_file(listed, unfinished)
    with whole(out / CFG) as unfinished:
        unfinished.write_text(json.dumps(_cfg(d, kind), indent=1), encoding="utf-8")
    return out


def _kind(d: Dictionary) -> str:
    if d.activation in ("groupmax", "jump") or (d.W_skip is not None and not d.is_transcoder):
        what = "a skip of an autoencoder" if d.W_skip is not None else f"activation {d.activation!r}"
        raise ValueError(f"SAELens's format has no place for {what}.")
    if not d.is_transcoder:
        return "standard" if d.activation == "relu" else d.activation
    skip = "" if d.W_skip is None else "skip_"
    kinds = {"relu": f"{skip}transcoder", "jumprelu": f"jumprelu_{skip}transcoder"}
    if d.activation not in kinds:
        raise ValueError(f"SAELens's format has no place for a transcoder with activation {d.activation!r}.")
    return kinds[d.activation]


def _cfg(d: Dictionary, kind: str) -> dict[str, Any]:
    theirs = d.metadata.get("metadata")
    meta = dict(theirs) if isinstance(theirs, dict) else {}
    meta |= {"model_name": d.model, "interp": {"fingerprint": d.fingerprint, **versions()}}
    if d.place is not None and d.place.layer is not None:
        written = hook_name(d.place.site, d.place.layer)
        meta |= {"hook_name": written, "hook_head_index": d.place.head}
        if d.is_transcoder:
            meta |= {"hook_name": _read_hook(d.reads or "", d.place), "hook_name_out": written}
    flags = dict(meta.get("model_from_pretrained_kwargs") or {})
    meta["model_from_pretrained_kwargs"] = flags | (
        {"center_writing_weights": True} if d.basis == "folded" else {}
    )
    dtype = str(d.W_dec.dtype).removeprefix("torch.")
    cfg: dict[str, Any] = {"architecture": kind, "d_in": d.d, "d_sae": d.n_features, "dtype": dtype}
    cfg |= {"device": "cpu", "apply_b_dec_to_input": d.centre, "normalize_activations": d.norm}
    at_z = d.place is not None and d.place.site == "z" and d.place.head is None
    cfg |= {"reshape_activations": "hook_z" if at_z else "none", "metadata": meta}
    cfg |= {"d_out": d.d_out} if d.is_transcoder else {}
    cfg |= {"k": d.k, "rescale_acts_by_decoder_norm": False} if d.k is not None else {}
    if d.pursuit is not None:
        cfg |= {"residual_threshold": d.pursuit.residual, "max_iterations": d.pursuit.iterations}
        cfg |= {"stop_on_duplicate_support": d.pursuit.once}
    return cfg


def _read_hook(reads: str, place: Place) -> str:
    names = {"mlp_in": "mlp.hook_in", "mlp_normed": "ln2.hook_normalized"}
    layer = place.layer or 0
    return f"blocks.{layer}.{names[reads]}" if reads in names else hook_name(reads, layer)
