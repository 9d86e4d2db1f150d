"""Write a model as a folder in our own format, which `interp.load` reads again.

config.json has the fields of a HookedTransformerConfig, model.safetensors the state dict of a
HookedTransformer, beside the tokenizer's files. A HookedTransformer is written whole. A TransformerBridge has
other names for its weights: of one that came from a folder in our own format, the folder's weights are
written again with those that may have been changed (what writes to the stream) as they are now.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.files import whole, write_text
from interp.models import bundled
from interp.models.anatomy import Model
from interp.models.configuration import DROPPED, REQUIRED, is_own, read_config
from interp.models.hooks import is_bridge
from interp.models.own import BUFFERS
from interp.models.tokenizer_files import FILES
from interp.models.weightfile import FILE, read_weights

_DERIVED = (*DROPPED, "initializer_range", "tokenizer_prepends_bos", "model_name")  # made again by loading


def save(model: Model, folder: Path, source: str | Path | None = None) -> Path:
    """Write the model's weights as they are now, and return the folder.

    source: what the model was loaded from, a bundled name or a folder; needed for a TransformerBridge, and
    for its tokenizer's files as they are. Raises ValueError, before anything is written, for a folder that
    holds a model, and for a bridge that did not come from a folder in our own format.
    """
    require_free(folder)
    origin = _origin(source)
    if is_bridge(model):
        state, config = _of_bridge(model, origin)
    else:
        state, config = _of_hooked(model)
    config["model_name"] = f"{model.cfg.model_name}-{folder.name}"
    _write_tokenizer(model, folder, origin)
    from safetensors.torch import save_file

    with whole(folder / FILE) as unfinished:
        save_file(
            {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}, unfinished
        )
    write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
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
    folder = bundled.folder_of(str(source)) or Path(source).expanduser()
    return folder if (folder / "config.json").is_file() else None


def _of_hooked(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(BUFFERS)}
    kept = [field for field in fields(model.cfg) if field.name not in _DERIVED and _is_set(model.cfg, field)]
    config: dict[str, Any] = {field.name: getattr(model.cfg, field.name) for field in kept}
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    return state, config


def _of_bridge(model: Model, origin: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
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


def _is_set(cfg: Any, field: Field) -> bool:
    """Whether the field says something that JSON can hold: a size, or what is not the default."""
    value = getattr(cfg, field.name)
    default = None if field.default is MISSING else field.default
    return _is_plain(value) and (field.name in REQUIRED or bool(value != default))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return value is None or isinstance(value, (str, int, float, bool))


def _write_tokenizer(model: Model, folder: Path, origin: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = (*FILES, "special_tokens_map.json", "merges.txt", "added_tokens.json")
    for place in () if origin is None else (origin, origin / "hf"):
        if any((place / name).is_file() for name in FILES):
            for name in (name for name in names if (place / name).is_file()):
                shutil.copyfile(place / name, folder / name)
            return
    if getattr(model, "tokenizer", None) is not None:
        model.tokenizer.save_pretrained(str(folder))
