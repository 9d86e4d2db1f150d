"""Files of sparsify, Gemma Scope (1 and 2) and circuit-tracer's sets of transcoders; read only.

| file | W_enc is stored | threshold | skip |
|---|---|---|---|
| sparsify | encoder.weight [feature, d] | | W_skip [out, in] |
| Gemma Scope | W_enc [d, feature] | by feature | |
| Gemma Scope 2 | w_enc [d, feature] | by feature | affine_skip_connection [in, out] |
| circuit-tracer | W_enc [feature, d] | activation_function.threshold, or none: relu | W_skip [out, in] |

Gemma Scope has no config: layer and site are in the folders' names (`layer_20/width_16k/average_l0_71`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.files import require_tensors
from interp.places import Place
from interp.sae._dictionary import Dictionary
from interp.sae._places import placed, site_of
from interp.sae._reading import read_json, read_npz, read_safetensors, read_yaml

_SCOPE = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_SCOPE_SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "z", "transcoders": "mlp_out"}


def sparsify(folder: Path) -> Dictionary:
    """`cfg.json` and `sae.safetensors`. The folder's name is the module whose output was read."""
    cfg, where = read_json(folder / "cfg.json"), folder / "sae.safetensors"
    tensors = read_safetensors(where)
    if "decoder.weight" in tensors:  # versions before 1
        tensors["W_dec"] = tensors.pop("decoder.weight").T.contiguous()
    skip = bool(cfg.get("skip_connection"))
    names = ("encoder.weight", "encoder.bias", "W_dec", "b_dec", *(("W_skip",) if skip else ()))
    require_tensors(tensors, names, str(where))
    encoder, d_in = tensors["encoder.weight"], cfg.get("d_in")
    n = cfg.get("num_latents") or (d_in or 0) * (cfg.get("expansion_factor") or 0)
    if d_in is not None and list(encoder.shape) != [n, d_in]:
        raise ValueError(
            f"{where}: encoder.weight is {list(encoder.shape)}, and cfg.json says [{n}, {d_in}]."
        )
    if cfg.get("signed"):
        raise ValueError(f"{where}: signed features of old versions of sparsify are not known here.")
    transcode = bool(cfg.get("transcode"))
    spot = placed(folder.name)
    if transcode:
        at = spot.get("place")
        inside = isinstance(at, Place) and at.site == "mlp_out"
        spot = {**spot, "reads": "mlp_in" if inside or not spot else "resid_pre"}
    return Dictionary(
        encoder.T, tensors["encoder.bias"], tensors["W_dec"], tensors["b_dec"], cfg.get("activation", "topk"),
        k=cfg.get("k"), W_skip=tensors.get("W_skip"), centre=not transcode, metadata=cfg, **spot,
    )  # fmt: skip


def gemma_scope(path: Path) -> Dictionary:
    """`params.npz`, float32, jumprelu."""
    tensors = read_npz(path)
    require_tensors(tensors, _SCOPE, str(path))
    names = [part for folder in path.resolve().parts[:-1] for part in (folder.lower(),)]
    words = {word for name in names for word in re.split("[-_]", name)}
    kind = next((each for each in _SCOPE_SITES if each in words), None)
    spot: dict[str, Any] = {}
    if "embedding" in names:
        root = tensors["W_enc"].shape[0] ** 0.5  # the stream holds the embedding times √d
        tensors = tensors | {"W_enc": tensors["W_enc"] / root, "W_dec": tensors["W_dec"] * root}
        tensors["b_dec"] = tensors["b_dec"] * root
        spot = {"place": Place("resid_pre", 0)}
    elif kind and (layer := next((m[1] for n in names if (m := re.fullmatch(r"layer_(\d+)", n))), None)):
        spot = {"place": Place(_SCOPE_SITES[kind], int(layer))}
    if kind == "transcoders":
        spot["reads"] = "mlp_normed"
    return Dictionary(**tensors, activation="jumprelu", metadata={"folder": str(path.parent)}, **spot)


def gemma_scope_2(path: Path) -> Dictionary:
    """`params.safetensors`, with `config.json` beside it or without."""
    tensors = read_safetensors(path)
    cfg = read_json(path.parent / "config.json") if (path.parent / "config.json").is_file() else {}
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
    skip = "affine_skip_connection" in tensors
    require_tensors(tensors, (*names, *(("affine_skip_connection",) if skip else ())), str(path))
    if tensors["w_dec"].ndim == 3:
        raise ValueError(
            f"{path} writes {tensors['w_dec'].shape[1]} layers; read its folder with sae.load_set."
        )
    read, written = cfg.get("hf_hook_point_in"), cfg.get("hf_hook_point_out")
    spot = placed(written or read, read)
    if written and read and site_of(read) != site_of(written) and not spot.get("reads"):
        spot["reads"] = "mlp_in"
    return Dictionary(
        tensors["w_enc"], tensors["b_enc"], tensors["w_dec"], tensors["b_dec"], "jumprelu",
        threshold=tensors["threshold"], model=cfg.get("model_name"), metadata=cfg, **spot,
        W_skip=tensors["affine_skip_connection"].T.contiguous() if skip else None,
    )  # fmt: skip


def tracer_layer(path: Path, cfg: dict[str, Any] | None = None) -> Dictionary:
    """One `layer_{i}.safetensors` of a set of circuit-tracer's."""
    tensors, cfg = read_safetensors(path), cfg or {}
    threshold = tensors.pop("activation_function.threshold", None)
    skip = tensors.pop("W_skip", None)
    require_tensors(tensors, ("W_enc", "W_dec", "b_enc", "b_dec"), str(path))
    number = re.search(r"(\d+)\.safetensors$", path.name)
    layer = int(number[1]) if number else 0
    read, written = (str(cfg.get(f"feature_{end}_hook") or "") for end in ("input", "output"))
    spot = placed(f"blocks.{layer}.{written}" if written else f"blocks.{layer}.hook_mlp_out", None)
    source = site_of(f"blocks.{layer}.{read}") if read else None
    reads = source[0] if source is not None else "mlp_in"
    return Dictionary(
        _turned(tensors["W_enc"], tensors["W_dec"], path),
        tensors["b_enc"], tensors["W_dec"], tensors["b_dec"],
        **jumping(threshold), W_skip=skip, model=cfg.get("model_name"), metadata=cfg,
        **{**spot, "reads": reads},
    )  # fmt: skip


def tracer_config(folder: Path) -> dict[str, Any]:
    """`config.yaml` of a set; nothing where there is none."""
    path = folder / "config.yaml"
    return read_yaml(path) if path.is_file() else {}


def jumping(threshold: Tensor | None) -> dict[str, Any]:
    """The activation of circuit-tracer's thresholds: h · 1[h > θ], which is JumpReLU where θ is not
    negative."""
    if threshold is None:
        return {"activation": "relu"}
    threshold = threshold.reshape(-1)
    return {"activation": "jump" if bool((threshold < 0).any()) else "jumprelu", "threshold": threshold}


def _turned(W_enc: Tensor, W_dec: Tensor, path: Path) -> Tensor:
    """[feature, d] as [d, feature]."""
    if W_enc.ndim != 2 or W_enc.shape[0] != W_dec.shape[0]:
        raise ValueError(
            f"{path}: W_enc is {list(W_enc.shape)} and W_dec {list(W_dec.shape)}; in this layout both "
            "begin with "
            "the number of features."
        )
    return W_enc.T
