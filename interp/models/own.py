"""A folder in our own format: HookedTransformerConfig fields and a HookedTransformer state dict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.models import own_as_bridge, release
from interp.models.configuration import check_fields, clean, written_dtype
from interp.models.offline import offline
from interp.models.tokenizer_files import read_tokenizer
from interp.models.weightfile import FILE, check_weights, read_weights

BUFFERS = ("attn.mask", "attn.IGNORE", "attn.rotary_sin", "attn.rotary_cos", "attn.alibi")


def load_folder(
    folder: Path,
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype | None,
    flags: dict[str, Any],
) -> Any:
    """The model of the folder, its weights as they are unless a processing flag is set."""
    release.require_flags(flags, release.FOLDER_FLAGS, f"loading {folder}")
    check_fields(folder, config)
    state = {name: value for name, value in read_weights(folder).items() if not name.endswith(BUFFERS)}
    kind = dtype or written_dtype(folder, config)
    fields = clean(config, folder.resolve().name)
    if "default_prepend_bos" in flags:
        fields["default_prepend_bos"] = flags["default_prepend_bos"]
    with release.quiet(), offline():
        tokenizer = read_tokenizer(folder)
        if not release.has_hooked_transformer():
            return own_as_bridge.build(folder, fields, state, tokenizer, device, kind, flags)
        return _hooked(folder, fields, state, tokenizer, device, kind, flags)


def _hooked(
    folder: Path,
    fields: dict[str, Any],
    state: dict[str, Tensor],
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    flags: dict[str, Any],
) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    try:
        cfg = HookedTransformerConfig(**fields, device=str(device), dtype=dtype, init_weights=False)
        model = HookedTransformer(cfg, tokenizer=tokenizer)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} does not describe a model that TransformerLens can build: {error}"
        ) from error
    wanted = {name: value.shape for name, value in model.named_parameters()}
    check_weights(folder / FILE, state, wanted)
    asked = release.processing(flags)
    if any(asked.values()):
        model.load_and_process_state_dict(state, **asked)
    else:
        model.load_state_dict(state, strict=False)  # strict but for the buffers, by check_weights
    return model
