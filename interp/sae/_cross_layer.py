"""Cross-layer transcoders: features of one layer write to that layer and to every later one.

x̂_k = Σ_{l ≤ k} f_l W_dec_l[:, k − l] + b_dec_k. Circuit-tracer's files hold for every layer `W_enc_{l}`
[feature, d] and `W_dec_{l}` [feature, L − l, d]; those of Gemma Scope 2 one file a layer with `w_dec`
[feature, L, d], whose slots below the own layer are not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp.files import require_tensors
from interp.sae._dictionary import Dictionary
from interp.sae._formats import jumping
from interp.sae._places import placed, site_of
from interp.sae._reading import read_json, read_safetensors


@dataclass(frozen=True, eq=False)
class CrossLayer:
    """A transcoder of all layers at once.

    readers: the encoder of every layer; as dictionaries they reconstruct their own layer from their own
    features alone. writes: by layer, what its features write from there on [feature, later layer, d].
    """

    readers: tuple[Dictionary, ...]
    writes: tuple[Float[Tensor, "feature _ d"], ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    __repr__ = brief

    def __post_init__(self) -> None:
        n = len(self.readers)
        for layer, (reader, writes) in enumerate(zip(self.readers, self.writes)):
            wanted = (reader.n_features, n - layer, reader.d_out)
            if tuple(writes.shape) != wanted:
                raise ValueError(
                    f"W_dec of layer {layer} is {list(writes.shape)}, and {list(wanted)} is needed."
                )

    def encode(self, x: Sequence[Float[Tensor, "*any d"]]) -> list[Tensor]:
        """Features of every layer, from what every layer reads."""
        return [reader.encode(each) for reader, each in zip(self.readers, x)]

    def decode(self, f: Sequence[Float[Tensor, "*any feature"]]) -> list[Tensor]:
        """x̂ of every layer: the sum over all layers up to it."""
        out = []
        for k, reader in enumerate(self.readers):
            parts = [f[layer] @ self.writes[layer][:, k - layer].to(f[layer]) for layer in range(k + 1)]
            out.append(torch.stack(parts).sum(0) + reader.b_dec.to(parts[0]))
        return out


def tracer(folder: Path, cfg: dict[str, Any]) -> CrossLayer:
    """A folder of `W_enc_{l}.safetensors` and `W_dec_{l}.safetensors`."""
    names = [re.fullmatch(r"W_enc_(\d+)\.safetensors", each.name) for each in folder.iterdir()]
    numbers = sorted(int(name[1]) for name in names if name)
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{folder} has layers {numbers}; a cross-layer transcoder has all, from 0 on.")
    if str(cfg.get("skip_connection") or "").lower() == "true":
        raise ValueError(f"{folder}: a skip of a cross-layer transcoder is not saved in its files.")
    written = str(cfg.get("feature_output_hook") or "hook_mlp_out")
    read = str(cfg.get("feature_input_hook") or "mlp.hook_in")
    readers, writes = [], []
    for i in numbers:
        path = folder / f"W_enc_{i}.safetensors"
        tensors = read_safetensors(path)
        threshold = tensors.pop(f"threshold_{i}", None)
        require_tensors(tensors, (f"W_enc_{i}", f"b_enc_{i}", f"b_dec_{i}"), str(path))
        decoder = read_safetensors(folder / f"W_dec_{i}.safetensors")
        require_tensors(decoder, (f"W_dec_{i}",), str(folder / f"W_dec_{i}.safetensors"))
        W_dec, source = decoder[f"W_dec_{i}"], site_of(f"blocks.{i}.{read}")
        readers.append(
            Dictionary(
                tensors[f"W_enc_{i}"].T, tensors[f"b_enc_{i}"], W_dec[:, 0], tensors[f"b_dec_{i}"],
                **jumping(threshold), model=cfg.get("model_name"),
                **{**placed(f"blocks.{i}.{written}"), "reads": "mlp_in" if source is None else source[0]},
            )
        )  # fmt: skip
        writes.append(W_dec)
    return CrossLayer(tuple(readers), tuple(writes), cfg)


def gemma_scope_2(files: Sequence[Path]) -> CrossLayer:
    """One `params.safetensors` a layer, in the order of layers."""
    readers, writes = [], []
    for layer, path in enumerate(files):
        tensors = read_safetensors(path)
        beside = path.parent / "config.json"
        cfg = read_json(beside) if beside.is_file() else {}
        require_tensors(tensors, ("w_enc", "w_dec", "b_enc", "b_dec", "threshold"), str(path))
        later = tensors["w_dec"][:, layer:]
        spot = placed(cfg.get("hf_hook_point_out"), cfg.get("hf_hook_point_in"))
        readers.append(
            Dictionary(
                tensors["w_enc"], tensors["b_enc"], later[:, 0], tensors["b_dec"], "jumprelu",
                threshold=tensors["threshold"], model=cfg.get("model_name"), metadata=cfg,
                **{**spot, "reads": spot.get("reads") or "mlp_in"},
            )
        )  # fmt: skip
        writes.append(later)
    return CrossLayer(tuple(readers), tuple(writes))
