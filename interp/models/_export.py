"""`export`: an edited model as a folder that transformers loads alone.

1. transformers reads the model that this one was loaded from; of a model in our own format it is made.
2. What writes to the stream (embeddings, W_O, W_out and their biases) is put there as it is now.
3. Its logits must be those of the model at hand. Only then is the folder written, under a temporary name.
4. transformers reads that folder, to the same bits; then it gets its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp._verbs import verb
from interp.files import staged
from interp.models import _hub, _load, _own, _own_as_bridge, _release
from interp.models._anatomy import Model, anatomy
from interp.models._folder import is_own, read_config, require_whole_model
from interp.models._placement import quantised
from interp.models._recipe import loaded_as
from interp.models._release import offline
from interp.models._same import Expected
from interp.models._weights import layer_with_same_weight
from interp.models.hook_points import is_bridge

_WITHIN = 1e-4  # of the spread of the logits, in float32 or better; rounding of half precision: `Expected`
_OUTPUTS = {  # how transformers calls the last matrix of attention and of the MLP
    "attn": ("o_proj", "out_proj", "c_proj", "dense"),
    "mlp": ("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h"),
}
_PARTS = (("attn", "W_O", "b_O"), ("mlp", "W_out", "b_out"))


@verb
def export(model: Model, folder: str | Path, *, source: str | Path | None = None) -> Path:
    """Write a model whose weights were edited as a folder that transformers loads without this package.

        with edits.apply(model):  # or steering.bake(model, ...)
            interp.models.export(model, "out/edited")
        AutoModelForCausalLM.from_pretrained("out/edited")

    Edits of what writes to the stream (W_O, W_out, their biases, the embedding) are carried over; an
    embedding that is tied to the unembedding is untied where it was edited. source: the folder or name that
    the model was loaded from; None: what `interp.load` was given. Returns the folder, which is written whole
    or not at all, with the tokenizer's files.

    Raises ValueError, before anything is written, for a folder that exists; weights that two layers share or
    that are quantised; a model that norms what its layers write; a bias that the architecture has no place
    for; and where the logits of the exported model differ from this one's by more than 1e-4 of their spread
    (float32): what reads the stream was folded or changed. Cost: the model once more in memory, and two to
    four forwards of a short row.

    Example:
        >>> import tempfile
        >>> model = interp.load("tiny-ioi")
        >>> d = interp.steering.Direction.from_tensor(model.W_U[:, 5], "L2.resid_post")
        >>> edits = interp.steering.add(d, 2.0)
        >>> with tempfile.TemporaryDirectory() as parent, interp.steering.bake(model, edits):
        ...     folder = interp.models.export(model, parent + "/edited")
        ...     (folder / "config.json").is_file()
        True
    """
    folder = Path(folder).expanduser()
    _check(model, folder)
    origin = _origin(model, source)
    with _release.quiet(), offline(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        hf_model = _transformers_model(model, origin).eval()
        expected = Expected.of(hf_model)
        gap, wide = expected.difference(model), hf_model.dtype in (torch.float32, torch.float64)
        if not gap <= (_WITHIN if wide else expected.allowed):
            raise ValueError(
                f"{anatomy(model).name}: with these weights the model of transformers gives other logits (by "
                f"{gap:.2g} of their spread), so nothing was written. What reads the stream was changed too, "
                "or was folded when the model was loaded (fold_ln, center_unembed, ...): load the folder "
                "without such flags, make the edit there, and export that."
            )
        _write(hf_model, model, origin, folder)
    return folder


def _check(model: Model, folder: Path) -> None:
    """What can be said before transformers reads anything."""
    if folder.exists():
        raise ValueError(f"{folder} exists already. Choose another folder, or remove it.")
    if anatomy(model).post_norm:
        raise ValueError(
            f"{anatomy(model).name} norms what its layers write, so no edit can be folded into their output "
            "matrices. Steer it with hooks."
        )
    if packed := quantised(model):
        raise ValueError(
            f"the weights of {anatomy(model).name} are quantised ({packed}). Load the model in float32 or "
            "bfloat16, make the edit there, and export that."
        )
    for layer, block in enumerate(model.blocks):
        for part, name, _ in _PARTS:
            other = layer_with_same_weight(model, layer, part)
            if other is not None:
                raise ValueError(
                    f"layers {layer} and {other} share {name}: an edit of one is an edit of both. Steer with "
                    "hooks."
                )
            weight = getattr(getattr(block, part, None), name, None)
            if isinstance(weight, Tensor) and not weight.is_floating_point():
                raise ValueError(
                    f"{name} of layer {layer} is quantised ({weight.dtype}). Load the model in float32 or "
                    "bfloat16, make the edit there, and export that."
                )


def _origin(model: Model, source: str | Path | None) -> Path | None:
    """The folder that the model came from; None where it came from none."""
    name = loaded_as(model) if source is None else source
    if name is None:
        return None
    found = _load.source_folder(name)
    if found is None and source is not None:
        raise ValueError(f"source is {str(source)!r}, which is no folder of a model. Give what you loaded.")
    return found


def _transformers_model(model: Model, origin: Path | None) -> Any:
    """The model of transformers with what writes to the stream as it is now."""
    config = None if origin is None else read_config(origin)
    if origin is None or config is None or is_own(origin, config):
        return _made(model, origin)
    require_whole_model(origin, config)
    hf_model = _with_room(_hub.read(origin, config, next(model.parameters()).dtype), model)
    for layer, part, name, bias in _outputs_of(model):
        output = _output(hf_model, layer, part)
        value, matrix = getattr(getattr(model.blocks[layer], part), name), output.weight
        matrix = matrix if type(output).__name__ == "Conv1D" else matrix.T
        matrix.copy_(_fitting(value.flatten(0, -2), matrix, f"{name} of layer {layer}"))
        shift = getattr(getattr(model.blocks[layer], part), bias, None)
        if output.bias is not None and shift is not None:
            output.bias.copy_(shift)
    for table, value in _tables(hf_model, model):
        if not _is_multiple(table, value):
            table.copy_(_fitting(value, table, "the embedding"))
    return hf_model


def _made(model: Model, origin: Path | None) -> Any:
    """The transformers model of one in our own format, or of a HookedTransformer that came from no folder."""
    name = anatomy(model).name
    if is_bridge(model) and origin is None:
        raise ValueError(
            f"{name} is a TransformerBridge that came from no folder. Give source=, the folder that it was "
            "loaded from."
        )
    state, config = _own.of_bridge(model, origin) if is_bridge(model) else _own.of_hooked(model)
    state = {key: value.detach().cpu() for key, value in state.items()}
    hf_model = _own_as_bridge.as_transformers(name, _own.clean(config, name), state)
    for kind in ("bos", "eos", "pad"):
        setattr(hf_model.config, f"{kind}_token_id", getattr(model.tokenizer, f"{kind}_token_id", None))
    return hf_model.to(next(model.parameters()).device)


def _with_room(hf_model: Any, model: Model) -> Any:
    """The same function with biases where the edits need some, and an unembedding of its own if they do."""
    config, options = hf_model.config, {}
    for layer, part, _, bias in _outputs_of(model):
        value = getattr(getattr(model.blocks[layer], part), bias, None)
        missing = value is not None and bool(value.any()) and _output(hf_model, layer, part).bias is None
        if missing:
            options["attention_bias" if part == "attn" else "mlp_bias"] = True
    table = hf_model.get_input_embeddings().weight
    if getattr(config, "tie_word_embeddings", False) and not _is_multiple(table, model.W_E):
        options["tie_word_embeddings"] = False
    if not options:
        return hf_model
    no_place = [name for name in options if not hasattr(config, name)]
    if no_place:
        raise ValueError(
            f"the edit needs a bias, and {type(hf_model).__name__} has no place for one ({no_place[0]}). "
            "Use an "
            "edit of matrices (steering.ablate at every writer, methods.steer2edit), or steer with hooks."
        )
    for name, value in options.items():
        setattr(config, name, value)
    wider = type(hf_model)(config).to(table.dtype)
    report = wider.load_state_dict(hf_model.state_dict(), strict=False)
    for name in report.missing_keys:
        wider.get_parameter(name).zero_()  # biases: the state dict of a tied model has the unembedding too
    return wider


def _outputs_of(model: Model) -> Iterator[tuple[int, str, str, str]]:
    """Layer, part, and the names of its output matrix and bias, where the layer has one of its own."""
    for layer, block in enumerate(model.blocks):
        for part, name, bias in _PARTS:
            if isinstance(getattr(getattr(block, part, None), name, None), Tensor):
                yield layer, part, name, bias


def _output(hf_model: Any, layer: int, part: str) -> Any:
    """The module that writes a layer's attention or MLP to the stream."""
    n = hf_model.config.get_text_config().num_hidden_layers
    lists = (each for each in hf_model.modules() if isinstance(each, nn.ModuleList) and len(each) == n)
    blocks = next(lists, None)
    listed = [] if blocks is None else list(blocks[layer].named_modules())
    matches = [
        module
        for path, module in listed
        if ("att" in path) == (part == "attn")
        and path.rpartition(".")[2] in _OUTPUTS[part]
        and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    ]
    if len(matches) != 1:
        raise ValueError(
            f"{type(hf_model).__name__}: which weight of layer {layer} its {part} writes with is not known "
            "here, "
            "so it cannot be exported. Steer it with hooks."
        )
    return matches[0]


def _tables(hf_model: Any, model: Model) -> Iterator[tuple[Tensor, Tensor]]:
    """The embeddings of tokens and of learned positions: transformers' own, and the model's."""
    yield hf_model.get_input_embeddings().weight, model.W_E
    if model.cfg.positional_embedding_type != "standard":
        return
    table = getattr(model.pos_embed, "W_pos", None)
    table = (model.pos_embed.weight if table is None else table)[-model.cfg.n_ctx :]
    for name, parameter in hf_model.named_parameters():
        if name.endswith(("wpe.weight", "embed_positions.weight")):
            yield parameter[-model.cfg.n_ctx :], table


def _is_multiple(theirs: Tensor, ours: Tensor) -> bool:
    """Whether an embedding is as it was: transformers' own, perhaps scaled (Gemma's, when it is loaded)."""
    if theirs.shape != ours.shape:
        return False
    old, new = theirs.double(), ours.double()
    scale = (old * new).sum() / old.square().sum().clamp_min(1e-300)
    return bool((new - scale * old).norm() <= 1e-6 * new.norm())


def _fitting(value: Tensor, target: Tensor, what: str) -> Tensor:
    if value.shape != target.shape:
        raise ValueError(
            f"{what} is {list(value.shape)} here and {list(target.shape)} in the folder: source= is not what "
            "the model was loaded from. Give the folder that it was."
        )
    return value


def _write(hf_model: Any, model: Model, origin: Path | None, folder: Path) -> None:
    """The folder under a temporary name, read again by transformers, then under its own."""
    with staged(folder) as unfinished:
        hf_model.save_pretrained(str(unfinished))
        _own.write_tokenizer_of(model, unfinished, origin)
        again = _hub.read(unfinished, read_config(unfinished), None).state_dict()
        for name, value in hf_model.state_dict().items():
            if not torch.equal(again[name].to(value.device), value):
                raise ValueError(
                    f"transformers reads another {name!r} than was written, so nothing was kept."
                )
