"""Which TransformerLens is installed, its loading flags, its notices kept quiet, and the hub's offline mode.

Without a connection the hub's client tries again for most of a minute at every file. So one connection is
tried first; if it fails the load goes on in offline mode, which reads the cache and fails at once.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

PROCESSING = (
    "fold_ln",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)
FOLDER_FLAGS = (*PROCESSING, "default_prepend_bos")


def has_hooked_transformer() -> bool:
    """Whether the installed release still has HookedTransformer (removed in 4.0)."""
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without HookedTransformer's deprecation notice, its closing print, and bars for reading local files."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message=r"HookedTransformer(\.from_pretrained)? is deprecated")
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if bars:
                transformers_logging.enable_progress_bar()


def require_flags(flags: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    """Every flag is one that this way of loading has."""
    unknown = sorted(set(flags) - set(known))
    if unknown:
        raise ValueError(
            f"{what} takes no flag {', '.join(map(repr, unknown))}; it takes {', '.join(known)}."
        )


def processing(flags: dict[str, Any]) -> dict[str, bool]:
    """The processing flags for a folder: what is not asked for is not done."""
    return {name: bool(flags.get(name, False)) for name in PROCESSING}


def boot(name: str, **options: Any) -> Any:
    """A TransformerBridge without compatibility mode."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(name, **options)


def bridge(name: str, hf_model: Any, tokenizer: Any, flags: dict[str, Any]) -> Any:
    """A TransformerBridge in compatibility mode around a transformers model of ours; no network.

    TransformerLens is told a name that is nobody's: one of its aliases would make it another model.
    """
    spread = getattr(hf_model, "hf_device_map", None)
    where = {"device": None if spread else str(hf_model.device), "dtype": hf_model.dtype}
    made = boot("folder", hf_model=hf_model, tokenizer=tokenizer or _empty_tokenizer(), **where)
    made.cfg.model_name = name
    if tokenizer is None:
        made.tokenizer = None
    return to_compatibility(made, flags, processing(flags))


def _empty_tokenizer() -> Any:
    """Given to a bridge that is to have no tokenizer, which would look for one on the hub."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"": 0}, unk_token="")))


def boot_flags() -> tuple[str, ...]:
    """The arguments of a TransformerBridge's loader that a caller may give."""
    from transformer_lens.model_bridge import TransformerBridge

    ours = ("model_name", "device", "dtype", "hf_model")
    parameters = inspect.signature(TransformerBridge.boot_transformers).parameters
    return (*FOLDER_FLAGS, *(name for name in parameters if name not in ours))


def to_compatibility(bridge: Any, flags: dict[str, Any], asked: dict[str, bool]) -> Any:
    """The bridge in compatibility mode, processed as asked."""
    if any(asked.values()):
        bridge.enable_compatibility_mode(disable_warnings=True, **asked)
    else:
        bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    if "default_prepend_bos" in flags:
        bridge.cfg.default_prepend_bos = flags["default_prepend_bos"]
    return bridge


def cache_holds(cache: Any, n_pos: int) -> bool:
    """Whether every layer of a bridge's key-value cache holds `n_pos` positions.

    Releases of transformers hand the cache to attention under different names, and one that TransformerLens
    does not look for stays empty without a word; so this is proved after the prompt, on every decoding.
    """
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(int(layer.get_seq_length()) == n_pos for layer in layers)


SECONDS = 5.0


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No request leaves the machine: as with HF_HUB_OFFLINE=1, whatever the environment says."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Offline mode when the hub cannot be reached, else as the environment says."""
    with contextlib.nullcontext() if reachable() else offline():
        yield


def reachable() -> bool:
    """Whether the hub's host takes a connection; assumed behind a proxy, where only the client can tell."""
    from huggingface_hub import constants

    address = urllib.parse.urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    if urllib.request.getproxies():
        return True
    try:
        socket.create_connection((address.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
