"""A folder in our own format: HookedTransformerConfig fields and a HookedTransformer state dict.

`load_folder` reads one and `save` writes one. A HookedTransformer is written whole. A TransformerBridge has
other names for its weights: of one that came from a folder in our own format, the folder's weights are
written again with those that may have been changed (what writes to the stream) as they are now.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp._verbs import verb
from interp.files import staged, whole, write_text
from interp.models import _own_as_bridge, _release
from interp.models._anatomy import Model
from interp.models._bundled import folder_of
from interp.models._folder import (
    FILE,
    TOKENIZER_FILES,
    check_weights,
    is_own,
    read_config,
    read_tokenizer,
    read_weights,
    written_dtype,
)
from interp.models._release import offline
from interp.models.hook_points import is_bridge

BUFFERS = ("attn.mask", "attn.IGNORE", "attn.rotary_sin", "attn.rotary_cos", "attn.alibi")
REQUIRED = ("n_layers", "d_model", "d_head", "n_ctx", "d_vocab")
DROPPED = ("device", "seed", "init_weights", "init_mode", "dtype", "tokenizer_name", "n_params")
_NULLS = ("normalization_type", "act_fn")  # None says something
DERIVED = (*DROPPED, "initializer_range", "tokenizer_prepends_bos", "model_name")  # made again by loading


def load_folder(
    folder: Path,
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype | None,
    flags: dict[str, Any],
) -> Any:
    """The model of the folder, its weights as they are unless a processing flag is set."""
    _release.require_flags(flags, _release.FOLDER_FLAGS, f"loading {folder}")
    check_fields(folder, config)
    state = {name: value for name, value in read_weights(folder).items() if not name.endswith(BUFFERS)}
    if flags.get("center_unembed") and (config.get("output_logits_soft_cap") or -1.0) > 0:
        raise ValueError(f"{folder} caps its logits, so center_unembed would make it another model.")
    kind = dtype or written_dtype(folder, config)
    fields = clean(config, folder.resolve().name)
    if "default_prepend_bos" in flags:
        fields["default_prepend_bos"] = flags["default_prepend_bos"]
    with _release.quiet(), offline():
        tokenizer = read_tokenizer(folder)
        if not _release.has_hooked_transformer():
            return _own_as_bridge.build(folder, fields, state, tokenizer, device, kind, flags)
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
    asked = _release.processing(flags)
    if any(asked.values()):
        model.load_and_process_state_dict(state, **asked)
    else:
        model.load_state_dict(state, strict=False)  # strict but for the buffers, by check_weights
    return model


def check_fields(folder: Path, config: dict[str, Any]) -> None:
    """Every field is one of HookedTransformerConfig's, and the sizes are there."""
    path, known = folder / "config.json", _known_fields()
    for name in sorted(set(config) - known):
        near = difflib.get_close_matches(name, known, n=2)
        offer = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"{path}: {name!r} is not a field of HookedTransformerConfig{offer}")
    missing = [name for name in REQUIRED if name not in config]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(map(repr, missing))}; add the model's sizes.")


def clean(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields that describe the model, without those about one machine or about initialisation.

    `seed` in particular would seed torch's, numpy's and Python's global generators.
    """
    kept = {key: value for key, value in config.items() if key not in DROPPED}
    return {"model_name": name} | kept


def _known_fields() -> set[str]:
    """HookedTransformerConfig's fields; where it is gone, those of the classes that took its place."""
    import transformer_lens.config as classes

    if hasattr(classes, "HookedTransformerConfig"):
        return {field.name for field in dataclasses.fields(classes.HookedTransformerConfig)}
    fields = {field.name for field in dataclasses.fields(classes.TransformerLensConfig)}
    return fields | set(inspect.signature(classes.TransformerBridgeConfig.__init__).parameters)


@verb
def save(model: Model, folder: str | Path, source: str | Path | None = None) -> Path:
    """Write the model's weights as they are now, and return the folder.

    source: what the model was loaded from, a bundled name or a folder; needed for a TransformerBridge, and
    for its tokenizer's files as they are. Raises ValueError, before anything is written, for a folder that
    holds a model, and for a bridge that did not come from a folder in our own format.

    Example:
        >>> import interp, tempfile
        >>> model = interp.load("tiny-ioi")
        >>> folder = interp.models.save(model, tempfile.mkdtemp() + "/mine", source="tiny-ioi")
        >>> interp.load(folder).cfg.n_layers
        3
    """
    folder = Path(folder)
    require_free(folder)
    origin = _origin(source)
    if is_bridge(model):
        state, config = of_bridge(model, origin)
    else:
        state, config = of_hooked(model)
    config["model_name"] = f"{model.cfg.model_name}-{folder.name}"
    listed = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    from safetensors.torch import save_file

    with staged(folder) as new:
        write_tokenizer_of(model, new, origin)
        with whole(new / FILE) as unfinished:  # with the rights of any new file
            save_file(listed, unfinished)
        write_text(new / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def require_free(folder: Path) -> None:
    """ValueError where the folder holds a model already."""
    taken = [name for name in ("config.json", FILE) if (folder / name).exists()]
    if taken:
        raise ValueError(f"{folder} has a {taken[0]} already. Choose another folder, or remove it.")


def _origin(source: str | Path | None) -> Path | None:
    """The folder that the model came from, or None where there was none."""
    if source is None:
        return None
    folder = folder_of(str(source)) or Path(source).expanduser()
    return folder if (folder / "config.json").is_file() else None


def of_hooked(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and the fields of a HookedTransformer, as our own format has them."""
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(BUFFERS)}
    fields = (field for field in dataclasses.fields(model.cfg) if field.name not in DERIVED)
    kept = [field for field in fields if _is_set(model.cfg, field)]
    config: dict[str, Any] = {field.name: getattr(model.cfg, field.name) for field in kept}
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    return state, config


def of_bridge(model: Model, origin: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same of a bridge that came from a folder in our own format."""
    if model.cfg.architecture == "TransformerLensNative":
        return _of_native(model)
    config = None if origin is None else read_config(origin)
    if origin is None or config is None or not is_own(origin, config):
        raise ValueError(
            f"{model.cfg.model_name!r} is a TransformerBridge of a model in the hub's format, whose weights "
            "cannot be written here. Load it with transformer-lens 3.9, or steer it with hooks."
        )
    state = {name: value for name, value in read_weights(origin).items() if not name.endswith(BUFFERS)}
    live = dict(_writers(model))
    changed = {name: live[name].reshape(value.shape) for name, value in state.items() if name in live}
    return state | changed, dict(config)


def _of_native(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from interp.models import _own_as_native  # which imports TransformerLens

    if not _own_as_native.holds(model):
        raise ValueError(
            f"{model.cfg.model_name!r} is TransformerLens's own model, not made by interp.load: its weights "
            "cannot be written here. Save its state_dict, or steer it with hooks."
        )
    state, fields = _own_as_native.written(model)
    fields["dtype"] = str(model.W_E.dtype).removeprefix("torch.")
    return state, {name: value for name, value in fields.items() if value is not None or name in _NULLS}


def _writers(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Every weight that writes to the stream, by its name in a HookedTransformer."""
    yield "embed.W_E", model.W_E
    if model.cfg.positional_embedding_type == "standard":
        table = getattr(model.pos_embed, "W_pos", None)
        yield "pos_embed.W_pos", model.pos_embed.weight if table is None else table
    for layer, block in enumerate(model.blocks):
        for part, names in (("attn", ("W_O", "b_O")), ("mlp", ("W_out", "b_out"))):
            for name in names:
                value = getattr(getattr(block, part, None), name, None)
                if value is not None:
                    yield f"blocks.{layer}.{part}.{name}", value


def _is_set(cfg: Any, field: dataclasses.Field) -> bool:
    """Whether the field says something that JSON can hold: a size, or what is not the default."""
    value = getattr(cfg, field.name)
    default = None if field.default is dataclasses.MISSING else field.default
    return _is_plain(value) and (field.name in REQUIRED or bool(value != default))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return value is None or isinstance(value, (str, int, float, bool))


def write_tokenizer_of(model: Model, folder: Path, origin: Path | None) -> None:
    """The tokenizer's files of the folder that the model came from, else the model's own tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (*TOKENIZER_FILES, "special_tokens_map.json", "merges.txt", "added_tokens.json")
    names += ("chat_template.jinja",)
    for place in () if origin is None else (origin, origin / "hf"):
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            for name in (name for name in names if (place / name).is_file()):
                shutil.copyfile(place / name, folder / name)
            return
    if getattr(model, "tokenizer", None) is not None:
        model.tokenizer.save_pretrained(str(folder))
