"""Dictionaries out of files, whose kind is told by what is in them and never by what they are called.

| in the folder | kind |
|---|---|
| `sae_weights.safetensors` | SAELens |
| `sae.safetensors` | sparsify |
| `params.npz` | Gemma Scope |
| `params.safetensors` with `w_enc` | Gemma Scope 2 |
| `config.yaml` with `model_kind`, `layer_*.safetensors`, `W_enc_*.safetensors` | circuit-tracer |

Files of pickles (`ae.pt`, `*.ckpt`) are not opened: opening one runs what its maker put in.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from interp._verbs import verb
from interp.files import data_dir
from interp.places import Place
from interp.sae import _cross_layer, _formats, _saelens
from interp.sae._cross_layer import CrossLayer
from interp.sae._dictionary import Dictionary
from interp.sae._reading import read_safetensors
from interp.sae._recipe import note

_PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl"}
_LAYER_FILE = re.compile(r"layer_(\d+)\.safetensors")


@verb
def load(
    path: Any,
    place: str | Place | None = None,
    *,
    layer: int | None = None,
    scale: float | None = None,
) -> Dictionary:
    """A dictionary out of a folder or a file of SAELens, sparsify, Gemma Scope or circuit-tracer.

    path: the folder, or its file of weights; "tiny-world" or "smollm2-135m", whose dictionaries are bundled
    (docs/features.md); or a SAELens object (`encode`, `decode`, `cfg`). place: where it sits,
    "L12.resid_pre", where the file does not say, or says otherwise. layer: which of a set. scale: of files
    whose inputs were scaled by a number that is not in them (expected_average_only_in).

    Tensors are those of the file to the bit, but for what such files leave to their reader (rescaling by
    decoder norms, a scale), which is folded into them. No forward pass; no pickle. Raises ValueError for
    what is none of the known kinds, for missing and extra tensors and sizes that do not fit, and for
    numbers that are not finite.

    Example:
        >>> import tempfile, torch
        >>> from interp import sae
        >>> d = sae.Dictionary(torch.randn(64, 128), torch.zeros(128), torch.randn(128, 64), torch.zeros(64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = sae.load(d.at("L1.resid_pre").save(folder))
        >>> again, bool((again.W_enc == d.W_enc).all())
        (Dictionary(L1.resid_pre, 128 features of 64, relu), True)
    """
    is_file = isinstance(path, (str, Path))
    dictionary = _one(_bundled(path), layer, scale) if is_file else _of_object(path)
    dictionary = dictionary if place is None else dictionary.at(place)
    return note(dictionary, path, place, layer, scale) if is_file else dictionary


@verb
def load_set(path: str | Path) -> tuple[Dictionary, ...] | CrossLayer:
    """All dictionaries of a folder: of its sub-folders, in the order of their layers, or a circuit-tracer
    set.

    A cross-layer transcoder is one `CrossLayer`. Raises ValueError as `load`, and for a folder with none.

    Example:
        >>> import tempfile, torch
        >>> from interp import sae
        >>> d = sae.Dictionary(torch.randn(64, 128), torch.zeros(128), torch.randn(128, 64), torch.zeros(64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for layer in (10, 2):
        ...         _ = d.at(f"L{layer}.resid_pre").save(f"{folder}/layers.{layer}")
        ...     [str(each.place) for each in sae.load_set(folder)]
        ['L2.resid_pre', 'L10.resid_pre']
    """
    folder = Path(path)
    kind = sniff(folder)
    if kind == "cross-layer":
        return _cross_layer.tracer(folder, _formats.tracer_config(folder))
    if kind == "circuit-tracer":
        cfg = _formats.tracer_config(folder)
        return tuple(_formats.tracer_layer(each, cfg) for each in _listed(folder, cfg))
    if kind is not None:
        return (_one(folder, None, None),)
    inside = (
        [each for each in sorted(folder.iterdir(), key=_natural) if each.is_dir()] if folder.is_dir() else []
    )
    known = [each for each in inside if sniff(each) is not None]
    if not known:
        raise _unknown(folder)
    if all(sniff(each) == "Gemma Scope 2" for each in known):
        files = [each / "params.safetensors" for each in known]
        if all(read_safetensors(each)["w_dec"].ndim == 3 for each in files):
            return _cross_layer.gemma_scope_2(files)
    return tuple(_one(each, None, None) for each in known)


def sniff(folder: Path) -> str | None:
    """What kind a folder is of; None for none that is known. ValueError for pickles."""
    if not folder.is_dir():
        return None
    names = {each.name for each in folder.iterdir()}
    if "sae_weights.safetensors" in names:
        return "SAELens"
    if "sae.safetensors" in names:
        return "sparsify"
    if "params.npz" in names:
        return "Gemma Scope"
    if "params.safetensors" in names:
        return "Gemma Scope 2"
    if any(re.fullmatch(r"W_enc_\d+\.safetensors", name) for name in names):
        return "cross-layer"
    if any(_LAYER_FILE.fullmatch(name) for name in names):
        return "circuit-tracer"
    if "config.yaml" in names and "model_kind" in (cfg := _formats.tracer_config(folder)):
        return "cross-layer" if cfg["model_kind"] == "cross_layer_transcoder" else "circuit-tracer"
    if pickled := sorted(name for name in names if Path(name).suffix in _PICKLES):
        raise _pickle(folder / pickled[0])
    return None


def _bundled(path: str | Path) -> Path:
    """The path, or the folder of the bundled dictionary of a model's name where there is no such file."""
    inside = data_dir() / "dictionaries" / str(path)
    return inside if not Path(path).exists() and "/" not in str(path) and inside.is_dir() else Path(path)


def _one(path: Path, layer: int | None, scale: float | None) -> Dictionary:
    """The dictionary of a folder, or of its file of weights."""
    if path.is_file():
        if path.suffix in _PICKLES:
            raise _pickle(path)
        if path.suffix == ".safetensors" and _LAYER_FILE.fullmatch(path.name):
            return _formats.tracer_layer(path, _formats.tracer_config(path.parent))
        if path.name not in (
            "sae_weights.safetensors",
            "sae.safetensors",
            "params.npz",
            "params.safetensors",
        ):
            raise _unknown(path)
        path = path.parent
    kind = sniff(path)
    if scale is not None and kind != "SAELens":
        raise ValueError(
            f"scale= is of SAELens's expected_average_only_in, and {path} is {kind or 'no folder'}."
        )
    if kind == "SAELens":
        return _saelens.read(path, scale)
    if kind == "sparsify":
        return _formats.sparsify(path)
    if kind == "Gemma Scope":
        return _formats.gemma_scope(path / "params.npz")
    if kind == "Gemma Scope 2":
        return _formats.gemma_scope_2(path / "params.safetensors")
    if kind is not None:
        return _of_set(path, kind, layer)
    raise _unknown(path)


def _of_set(path: Path, kind: str, layer: int | None) -> Dictionary:
    if kind == "cross-layer":
        raise ValueError(
            f"{path} is a cross-layer transcoder, whose layers belong together; use sae.load_set."
        )
    cfg = _formats.tracer_config(path)
    files = _listed(path, cfg)
    if layer is None or not 0 <= layer < len(files):
        raise ValueError(
            f"{path} has {len(files)} layers; give layer= (0 to {len(files) - 1}), or use sae.load_set."
        )
    return _formats.tracer_layer(files[layer], cfg)


def _listed(folder: Path, cfg: dict[str, Any]) -> list[Path]:
    """The files of a set, in the order of layers."""
    named = cfg.get("transcoders")
    if isinstance(named, list):
        files = [folder / str(each) for each in named]
        if outside := next((e for e in files if folder.resolve() not in e.resolve().parents), None):
            raise ValueError(f"{folder / 'config.yaml'} names {outside}, which lies outside of the folder.")
        return files
    return sorted((each for each in folder.iterdir() if _LAYER_FILE.fullmatch(each.name)), key=_natural)


def _of_object(theirs: Any) -> Dictionary:
    if isinstance(theirs, Dictionary):
        return theirs
    lacking = [name for name in ("encode", "decode", "cfg", "state_dict") if not hasattr(theirs, name)]
    if lacking:
        raise ValueError(
            f"path is a {type(theirs).__name__}; give a folder or file, or a SAELens object (it has no "
            f"{', '.join(lacking)})."
        )
    return _saelens.of_object(theirs)


def _natural(path: Path) -> list[Any]:
    """Numbers in names count as numbers: layers.2 comes before layers.10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name)]


def _pickle(path: Path) -> ValueError:
    return ValueError(
        f"{path} is a pickle, and opening one runs what its maker put in; it is not opened. Convert it in an "
        "environment of its own: SAELens reads dictionary_learning's ae.pt, and its save_model(folder) "
        "writes what "
        "sae.load reads."
    )


def _unknown(path: Path) -> ValueError:
    if not path.exists():
        return ValueError(f"there is no file or folder {path}.")
    listed = sorted(each.name for each in path.iterdir())[:8] if path.is_dir() else [path.name]
    return ValueError(
        f"{path} holds no dictionary of a kind that is known ({', '.join(listed) or 'it is empty'}). "
        "Known are "
        "folders with sae_weights.safetensors (SAELens), sae.safetensors (sparsify), params.npz or "
        "params.safetensors (Gemma Scope), layer_*.safetensors or W_enc_*.safetensors (circuit-tracer)."
    )
