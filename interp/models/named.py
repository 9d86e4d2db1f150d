"""A model by the name that TransformerLens knows it by, from the hub or from the hub's cache."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from interp.models import bundled, release
from interp.models.offline import offline_if_unreachable


class ModelNotReachable(OSError, ValueError):
    """The model is not on this machine and could not be fetched."""


def load_name(name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]) -> Any:
    """`gpt2`, `pythia-70m`, ...: with TransformerLens's own defaults, and its own flags.

    A name that TransformerLens does not know is refused without asking the network, unless it is
    `owner/model`: a TransformerBridge can be made of most models of the hub.
    """
    official = official_names().get(name.lower())
    if official is None and name.count("/") != 1:
        raise ValueError(_unknown(name))
    with release.quiet(), offline_if_unreachable():
        try:
            if official is not None and release.has_hooked_transformer():
                return _hooked(name, device, dtype, flags)
            return _bridge(official or name, device, dtype, flags)
        except _unreachable() as error:
            raise ModelNotReachable(_no_model(name, official, error)) from error


def official_names() -> dict[str, str]:
    """Every name and alias that TransformerLens knows, in small letters, with the hub's name."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    pairs = [(alias, official) for official, aliases in MODEL_ALIASES.items() for alias in aliases]
    return {alias.lower(): official for alias, official in [*pairs, *((n, n) for n in OFFICIAL_MODEL_NAMES)]}


def _hooked(name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]) -> Any:
    from transformer_lens import HookedTransformer

    options: dict[str, Any] = {"device": str(device), "dtype": dtype or torch.float32, **flags}
    return HookedTransformer.from_pretrained(name, **options)


def _bridge(name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]) -> Any:
    release.require_flags(flags, release.boot_flags(), f"loading {name!r}")
    ours = {key: value for key, value in flags.items() if key not in release.FOLDER_FLAGS}
    bridge = release.boot(name, device=str(device), dtype=dtype or torch.float32, **ours)
    asked = {key: flags.get(key, key != "refactor_factored_attn_matrices") for key in release.PROCESSING}
    return release.to_compatibility(bridge, flags, asked)


def _unreachable() -> tuple[type[Exception], ...]:
    """What is raised when a download fails: OSError and its kinds, and the HTTP client's own errors."""
    try:
        from httpx import HTTPError
    except ImportError:
        return (OSError,)
    return (OSError, HTTPError)


def _unknown(name: str) -> str:
    return (
        f"{name!r} is neither a bundled model ({_bundled_names()}), nor a folder with a config.json, "
        f"nor a name that TransformerLens knows.{_nearest(name)} For another model of the hub, download it "
        "to a folder and give that folder."
    )


def _no_model(name: str, official: str | None, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    alias = "" if official in (name, None) else f" ({official} on the hub)"
    unknown = "" if official else f" TransformerLens has no model of that name.{_nearest(name)}"
    return (
        f"{name!r}{alias} is not on this machine and could not be fetched: {reason}.{unknown} "
        f"On a connected machine run `hf download {official or name} --local-dir FOLDER`, copy "
        "FOLDER here and load it with interp.load('FOLDER'); or copy that machine's hub cache and point "
        f"HF_HOME at it. Works offline: {_bundled_names()}."
    )


def _nearest(name: str) -> str:
    names = [*(card.name for card in bundled.available()), *official_names()]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    return f" The nearest names are {', '.join(map(repr, near))}." if near else ""


def _bundled_names() -> str:
    return ", ".join(card.name for card in bundled.available())
