"""From a sketch to a HookedTransformer with its tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from interp.models import release
from interp.models.handmade import catalogue
from interp.models.handmade.sketch import Sketch
from interp.models.offline import offline
from interp.models.tokenizer_files import read_tokenizer

FLAGS = ("default_prepend_bos",)


def build(name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]) -> Any:
    """A hand-built model by name, made afresh; float32 unless another dtype is asked for."""
    release.require_flags(flags, FLAGS, f"the hand-built model {name!r}")
    if not release.has_hooked_transformer():
        raise ValueError(
            f"{name!r} is a hand-built model without norms, which only HookedTransformer can hold, and this "
            "release of TransformerLens has none; install transformer-lens 3.9."
        )
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    from interp.models.train import tokenizer

    written = catalogue.sketch(name)
    with release.quiet(), offline(), tempfile.TemporaryDirectory() as folder:
        fields = config(name, written) | flags
        cfg = HookedTransformerConfig(**fields, device=str(device), dtype=dtype or torch.float32)
        # through files: TransformerLens reads a tokenizer again from where it came
        tokenizer.save(list(written.words), Path(folder), written.n_ctx)
        model: Any = HookedTransformer(cfg, tokenizer=read_tokenizer(Path(folder)))
    model.tokenizer.name_or_path = name  # not the temporary folder
    _fill(model, written)
    return model


def config(name: str, written: Sketch) -> dict[str, Any]:
    """The fields of the HookedTransformerConfig."""
    return {
        "model_name": name,
        "n_layers": written.n_layers,
        "n_heads": written.n_heads,
        "d_model": len(written.features),
        "d_head": written.d_head,
        "d_mlp": written.d_mlp,
        "n_ctx": written.n_ctx,
        "d_vocab": len(written.words),
        "act_fn": None if written.attn_only else "relu",
        "attn_only": written.attn_only,
        "normalization_type": None,
        "use_attn_scale": False,
        "init_weights": False,
    }


def _fill(model: Any, written: Sketch) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_()
            for index, value in written.entries.get(name, {}).items():
                parameter[index] = value
