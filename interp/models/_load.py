"""`load`: one entry for every place that a model can come from.

1. the name of a model of the package, never the network: a trained one (`tiny-ioi`) is a folder in our own
   format, a hand-built one (`reverse`) is made from the weights in `interp/models/handmade`;
2. a folder in our own format: config.json with the fields of a HookedTransformerConfig,
   model.safetensors with the state dict of a HookedTransformer, and a tokenizer if there is one;
3. a folder in the hub's own format (`save_pretrained` of transformers writes it);
4. a GGUF file, or `smollm2-135m` after `interp models get smollm2-135m`: converted once into such a folder;
5. any name that TransformerLens knows (`gpt2`, `pythia-70m`), from the hub or its cache.

A folder is loaded with its weights as they are: nothing is folded or centred unless a flag asks for it.
A name has TransformerLens's own defaults, which fold and centre. Whatever transformers reads from the same
files is compared with it (`_same`). The model comes as TransformerLens makes it, in eval mode: a
HookedTransformer where the installed release has that class, otherwise (release 4, and architectures that
HookedTransformer has no conversion for) a TransformerBridge in compatibility mode.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

import torch

from interp._arguments import shown
from interp._verbs import verb
from interp.models import _fetch, _hub, _own, _release, handmade
from interp.models._anatomy import Model
from interp.models._bundled import available, folder_of
from interp.models._folder import is_own, read_config, read_tokenizer, require_whole_model
from interp.models._placement import Placement
from interp.models._recipe import note
from interp.models._release import offline_if_unreachable
from interp.models._same import Expected

log = logging.getLogger("interp.models")


class ModelNotReachable(OSError, ValueError):
    """The model is not on this machine and could not be fetched."""


@verb
def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    n_devices: int | None = None,
    quantization_config: Any = None,
    **flags: Any,
) -> Model:
    """A TransformerLens model in eval mode, by name (ours or TransformerLens's), folder or GGUF file.

    `flags` are TransformerLens's own: `fold_ln`, `center_writing_weights`, `center_unembed`,
    `fold_value_biases`, `refactor_factored_attn_matrices`, `default_prepend_bos`; with a TransformerLens
    name also all others of its loader. `dtype=None` is what the config says, else float32.

    device_map, n_devices, quantization_config: for large models that transformers reads, as it takes them:
    layers on several devices, by name or evenly, and weights in fewer bits (a folder that is quantised
    already needs none). The model is then a TransformerBridge, nothing is folded, and what reads weights as
    matrices refuses quantised ones, which the reference engine runs. The fast engine follows the devices.

    Raises ValueError for a bad argument or file, ModelNotReachable when a download fails.

    Example:
        >>> model = interp.load("tiny-ioi", dtype="float64")
        >>> model.cfg.n_layers, model.training
        (3, False)
    """
    where, kind = _device(device), _dtype(dtype)
    placement = Placement(device_map, n_devices, quantization_config)
    if str(where) != "cpu" and "device_map" in placement.options:
        raise ValueError(
            "device= is one device, and device_map= or n_devices= say where layers lie. Give one of them."
        )
    by_hand = str(name) in handmade.NAMES
    folder = None if by_hand else source_folder(name)
    named = by_hand or folder is None or folder_of(str(name)) or str(name) in _fetch.WHEELS
    described = str(name) if named else str(Path(name).expanduser().resolve())
    with torch.random.fork_rng(devices=[]):  # models are made with random weights before they are filled
        if by_hand:
            placement.require_transformers(f"{name!r}, made by hand,")
            model = handmade.build(str(name), where, kind, flags)
        elif folder is None:
            model = _load_name(str(name), where, kind, flags, placement)
        else:
            model = _load_folder(name, folder, where, kind, flags, placement)
    return note(model.eval(), described, where, kind, flags | placement.given)


def _load_folder(
    name: str | Path,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    flags: dict[str, Any],
    placement: Placement,
) -> Any:
    """The model of a folder in our own format or the hub's, or of the one that a GGUF file became."""
    config = read_config(folder)
    if config.get("is_encoder_decoder"):
        classes = ", ".join(config.get("architectures") or ["a model"])
        raise ValueError(
            f"{folder} holds {classes}, an encoder-decoder; only models of one stack of blocks will do."
        )
    if _is_gguf(name):
        flags = {"default_prepend_bos": _adds_bos(folder), **flags}
    if is_own(folder, config):
        placement.require_transformers(f"{name}, in our own format,")
        return _own.load_folder(folder, config, device, dtype, flags)
    return _hub.load_folder(folder, config, device, dtype, flags, placement)


def source_folder(name: str | Path) -> Path | None:
    """The folder that a name means: a bundled model's, a converted file's, or itself; else None."""
    return folder_of(str(name)) or _converted(name) or _folder(name)


def in_hub_format(name: str | Path) -> bool:
    """Whether a name means a folder in the hub's format, or a file that was converted into one."""
    folder = source_folder(name)
    return folder is not None and not is_own(folder, read_config(folder))


def _is_gguf(name: str | Path) -> bool:
    return str(name) in _fetch.WHEELS or Path(name).suffix.lower() == ".gguf"


def _converted(name: str | Path) -> Path | None:
    """The folder that a GGUF file was converted into; None for what is not one."""
    if str(name) in _fetch.WHEELS:
        folder = _fetch.folder_of_wheel(str(name))
        if folder is None:
            raise ModelNotReachable(_fetch.missing(str(name)))
        return folder
    return _fetch.converted(Path(name).expanduser()) if _is_gguf(name) else None


def _adds_bos(folder: Path) -> bool:
    """Whether the tokenizer puts BOS before a plain text; else TransformerLens should not."""
    tokenizer = read_tokenizer(folder)
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and tokenizer("a").input_ids[:1] == [bos]


def _folder(name: str | Path) -> Path | None:
    """The folder that the name means; None when it is the name of a model."""
    text = str(name)
    if len(text) > 1000 or "\0" in text:
        raise ValueError(f"name is {shown(text)}, which can be neither a model's name nor a path.")
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    is_path = isinstance(name, Path) or path.is_absolute() or text.startswith((".", "~")) or path.is_dir()
    if not is_path:
        return None
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}. Give the folder that holds the model's config.json.")
    require_whole_model(path)
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


def _load_name(
    name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any], placement: Placement
) -> Any:
    """`gpt2`, `pythia-70m`, ...: with TransformerLens's own defaults, and its own flags.

    A name that TransformerLens does not know is refused without asking the network, unless it is
    `owner/model`: a TransformerBridge can be made of most models of the hub.
    """
    official = official_names().get(name.lower())
    if official is None and name.count("/") != 1:
        raise ValueError(_unknown(name))
    with _release.quiet(), offline_if_unreachable():
        try:
            if placement:
                return _hub.load_placed(official or name, device, dtype, flags, placement)
            return _compared(name, official, device, dtype, flags)
        except _unreachable() as error:
            raise ModelNotReachable(_no_model(name, official, error)) from error


def _compared(
    name: str, official: str | None, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]
) -> Any:
    """TransformerLens's model of a name: a HookedTransformer, or a bridge where that is not the model.

    Raises ValueError where the bridge is not the model either.
    """
    hub = official or name
    difference, expected = 0.0, None
    if official is not None and _release.has_hooked_transformer():
        model = _hooked(name, device, dtype, flags)
        expected = _expected(hub, device, dtype, flags)
        if expected is None:
            return model
        if expected.holds(difference := expected.difference(model)):
            model.generation_config = expected.generation_config
            return model
        log.warning(
            "%s: the logits of TransformerLens's HookedTransformer differ from transformers' by %.3g of "
            "their spread; it is a TransformerBridge.",
            name,
            difference,
        )
    model = _bridge(hub, device, dtype, flags)
    expected = expected or _expected(hub, device, dtype, flags)
    if expected is None or expected.holds(difference := expected.difference(model)):
        return model
    raise ValueError(
        f"{name!r}: TransformerLens's model of it is not the model. Its logits differ from transformers' by "
        f"{difference:.3g} of their spread; rounding explains {expected.allowed:.1g}. Load it in float32, or "
        "try another release of transformer-lens."
    )


def _expected(
    hub: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]
) -> Expected | None:
    """What transformers gives for the files that the hub's cache has now.

    None where it cannot read them (TransformerLens's own repositories), and for flags that ask for another
    model (a checkpoint, a context length).
    """
    from transformers import AutoModelForCausalLM

    if not set(flags) <= set(_release.FOLDER_FLAGS):
        return None
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            hub, local_files_only=True, trust_remote_code=False, dtype=dtype or torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        log.info("%s: not compared, transformers does not read it: %s", hub, error)
        return None
    return Expected.of(read.to(device).eval())


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
    _release.require_flags(flags, _release.boot_flags(), f"loading {name!r}")
    ours = {key: value for key, value in flags.items() if key not in _release.FOLDER_FLAGS}
    bridge = _release.boot(name, device=str(device), dtype=dtype or torch.float32, **ours)
    asked = {key: flags.get(key, key != "refactor_factored_attn_matrices") for key in _release.PROCESSING}
    return _release.to_compatibility(bridge, flags, asked)


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
    names = [*(card.name for card in available()), *official_names()]
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    return f" The nearest names are {', '.join(map(repr, near))}." if near else ""


def _bundled_names() -> str:
    return ", ".join(card.name for card in available())
