"""`load`: one entry for every place that a model can come from.

1. the name of a model of the package, never the network: a trained one (`tiny-ioi`) is a folder in our own
   format, a hand-built one (`reverse`) is made from the weights in `interp/models/handmade`;
2. a folder in our own format: config.json with the fields of a HookedTransformerConfig,
   model.safetensors with the state dict of a HookedTransformer, and a tokenizer if there is one;
3. a folder in the hub's own format (`save_pretrained` of transformers writes it);
4. any name that TransformerLens knows (`gpt2`, `pythia-70m`), from the hub or its cache.

A folder is loaded with its weights as they are: nothing is folded or centred unless a flag asks for it.
A name has TransformerLens's own defaults, which fold and centre. The model comes as TransformerLens makes
it, in eval mode: a HookedTransformer where the installed release has that class, otherwise (release 4,
and architectures that HookedTransformer has no conversion for) a TransformerBridge in compatibility mode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from interp.models import bundled, handmade, hub, named, own
from interp.models.configuration import is_own, read_config
from interp.models.handmade.build import build as build_handmade
from interp.models.named import ModelNotReachable as ModelNotReachable

Model = Any  # HookedTransformer | TransformerBridge: neither class exists in every release


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **flags: Any,
) -> Model:
    """A TransformerLens model in eval mode, by the package's name, folder, or TransformerLens name.

    `flags` are TransformerLens's own: `fold_ln`, `center_writing_weights`, `center_unembed`,
    `fold_value_biases`, `refactor_factored_attn_matrices`, `default_prepend_bos`; with a TransformerLens
    name also all others of its loader. `dtype=None` is what the config says, else float32.

    Raises ValueError for a bad argument or file, ModelNotReachable when a download fails.
    """
    where, kind = _device(device), _dtype(dtype)
    by_hand = str(name) in handmade.NAMES
    folder = None if by_hand else bundled.folder_of(str(name)) or _folder(name)
    with torch.random.fork_rng(devices=[]):  # models are made with random weights before they are filled
        if by_hand:
            return build_handmade(str(name), where, kind, flags).eval()
        if folder is None:
            return named.load_name(str(name), where, kind, flags).eval()
        config = read_config(folder)
        module = own if is_own(folder, config) else hub
        return module.load_folder(folder, config, where, kind, flags).eval()


def _folder(name: str | Path) -> Path | None:
    """The folder that the name means; None when it is the name of a model."""
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    text = str(name)
    is_path = isinstance(name, Path) or path.is_absolute() or text.startswith((".", "~")) or path.is_dir()
    if not is_path:
        return None
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}. Give the folder that holds the model's config.json.")
    found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"{path} has no config.json; it has {found}. A model's folder has config.json and model.safetensors."
    )


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason} Use 'cpu'.") from None
    return where


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; use 'float32', 'float64', 'bfloat16' or 'float16'.")
    return found
