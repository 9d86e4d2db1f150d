"""A folder in the hub's own format, as `save_pretrained` of transformers writes it.

1. transformers reads the model; missing or misshapen weights are errors, not random numbers.
2. Where HookedTransformer exists and TransformerLens has a conversion for the architecture, the weights
   are converted. TransformerLens's conversions ignore some fields (a head size of its own, biases in a
   Llama, unusual rotary scaling, windows), so the logits of the two are compared (`_same`).
3. If there is no conversion, or the models differ, the result is a TransformerBridge in compatibility
   mode, which runs the transformers model itself; the logger `interp.models` says so. Its logits are compared
   in the same way, and a bridge that gives others is refused.

What the model is, its config and weights say; the folder's name is a label.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from interp.models import _release
from interp.models._folder import damaged, read_tokenizer, require_whole_model, written_dtype
from interp.models._placement import Placement, quantised
from interp.models._release import offline
from interp.models._same import Expected

log = logging.getLogger("interp.models")
_LACKS = (
    RuntimeError,
    AttributeError,
    LookupError,
    TypeError,
)  # what a part that is not there raises in a pass
_NOT_HELD = (*_LACKS, ValueError, AssertionError)

_BIASES = {
    "b_Q": "self_attn.q_proj", "b_K": "self_attn.k_proj", "b_V": "self_attn.v_proj",
    "b_O": "self_attn.o_proj", "b_out": "mlp.down_proj",
}  # fmt: skip


def load_folder(
    folder: Path,
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype | None,
    flags: dict[str, Any],
    placement: Placement,
) -> Any:
    """The model of the folder, its weights as they are unless a processing flag is set."""
    _release.require_flags(flags, _release.FOLDER_FLAGS, f"loading {folder}")
    require_whole_model(folder, config)
    as_read = bool(placement or config.get("quantization_config"))  # where they lie, in their numbers
    with _release.quiet(), offline(), torch.no_grad():
        hf_model = read(folder, config, dtype, placement)
        hf_model = hf_model.eval() if as_read else hf_model.to(device).eval()
        tokenizer, expected = read_tokenizer(folder), Expected.of(hf_model)
        if _release.has_hooked_transformer() and not as_read:
            model = _converted(folder, config, hf_model, tokenizer, device, flags, expected)
            if model is not None:
                del hf_model
                return _own_weights(model)
        return _proved(folder, label(folder), hf_model, tokenizer, flags, expected)


def load_placed(
    name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any], placement: Placement
) -> Any:
    """A model of the hub by its name, on the devices and in the numbers asked for."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _release.require_flags(
        flags, _release.FOLDER_FLAGS, f"loading {name!r} with {', '.join(placement.given)}"
    )
    options = {"dtype": dtype or torch.float32, "trust_remote_code": False, **placement.options}
    options |= {} if "device_map" in options else {"device_map": {"": str(device)}}
    with torch.no_grad():
        read: Any = _as_transformers_does(name, lambda: AutoModelForCausalLM.from_pretrained(name, **options))
        tokenizer = AutoTokenizer.from_pretrained(name)
        return _proved(name, name, read.eval(), tokenizer, flags, Expected.of(read))


def _proved(
    source: str | Path, name: str, hf_model: Any, tokenizer: Any, flags: dict[str, Any], expected: Expected
) -> Any:
    """The bridge of a transformers model. ValueError where it is another model."""
    _require_plain(hf_model, flags)
    model = _bridged(source, name, hf_model, tokenizer, flags)
    architectures = getattr(hf_model.config, "architectures", None) or "it"
    try:
        difference = expected.difference(model)
    except _LACKS as error:
        raise ValueError(
            f"{source}: TransformerLens cannot run it ({architectures}): a part that it expects is not in "
            f"the model ({_first(error)}). Try another release of transformer-lens."
        ) from error
    if not expected.holds(difference):
        raise ValueError(
            f"{source}: TransformerLens's model of it is not the model. Its logits differ from transformers' "
            f"by {difference:.3g} of their spread; rounding explains {expected.allowed:.1g}. Try another "
            f"release of transformer-lens: this one is wrong on {architectures}."
        )
    return model


def _require_plain(hf_model: Any, flags: dict[str, Any]) -> None:
    """ValueError where weights are to be folded or centred that are no plain matrices."""
    asked = [name for name, on in _release.processing(flags).items() if on]
    if asked and (reason := quantised(hf_model)):
        raise ValueError(f"{', '.join(asked)}: the weights are quantised ({reason}) and cannot be processed.")


def _as_transformers_does(source: str | Path, read: Callable[[], Any]) -> Any:
    """What transformers reads. ValueError where it cannot, or a package for it is missing."""
    try:
        return read()
    except (ImportError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"transformers cannot read the model in {source}: {_first(error)}") from error


def _bridged(source: str | Path, name: str, hf_model: Any, tokenizer: Any, flags: dict[str, Any]) -> Any:
    try:
        return _release.bridge(name, hf_model, tokenizer, flags).eval()
    except _NOT_HELD as error:
        architectures = getattr(hf_model.config, "architectures", None) or "no architecture"
        raise ValueError(
            f"{source}: TransformerLens cannot hold it ({architectures}): {_first(error)}"
        ) from error


def label(folder: Path) -> str:
    """What a model of the folder is called in results: the folder's name, and what `hf` stands in."""
    where = folder.resolve()
    return f"{where.parent.name}/{where.name}" if where.name == "hf" else where.name


def read(
    folder: Path,
    config: dict[str, Any],
    dtype: torch.dtype | None,
    placement: Placement | None = None,
) -> Any:
    """The transformers model, with every weight from the file."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    wanted = dtype or written_dtype(folder, config)
    as_read = bool(placement or config.get("quantization_config"))
    placed = {} if placement is None else placement.options
    options = {"dtype": wanted, **placed} if as_read else {}
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        model, report = found
    except SafetensorError as error:
        files = sorted(folder.glob("*.safetensors"))
        raise ValueError(damaged(files[0] if files else folder, error)) from None
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ValueError(f"transformers cannot read the model in {folder}: {_first(error)}") from error
    _require_fit(folder, model, report)
    return model if as_read else _in_dtype(model, wanted)


def _in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """The model in a dtype; in half precision rotary frequencies stay float32, as transformers keeps them."""
    tables = [(module, dict(module._buffers)) for module in model.modules()]
    model.to(dtype)
    for module, buffers in tables if dtype.itemsize < 4 else ():
        module._buffers |= {name: each for name, each in buffers.items() if "inv_freq" in name}
    return model


_MASKS = ("attn.bias", "attention.bias", "masked_bias")  # causal masks, which older files hold


def _require_fit(folder: Path, model: Any, report: Any) -> None:
    """Every weight of the model is in the file, and every weight of the file is in the model."""
    for what, names in (("lacks", report["missing_keys"]), ("misfits", report["mismatched_keys"])):
        if names:
            first = sorted(map(str, names))[0]
            raise ValueError(
                f"the weights in {folder}: config.json asks for {first!r}, which the file {what} "
                f"({len(names)} of these). Save the model again with save_pretrained."
            )
    unexpected = sorted(map(str, report["unexpected_keys"]))
    unused = [
        name for name in unexpected if name.endswith((".weight", ".bias")) and not name.endswith(_MASKS)
    ]
    if unused:
        raise ValueError(
            f"the weights in {folder}: config.json has no place for {unused[0]!r} ({len(unused)} of these), "
            f"so {type(model).__name__} would be another model. Save it again with save_pretrained."
        )


def _converted(
    folder: Path,
    config: dict[str, Any],
    hf_model: Any,
    tokenizer: Any,
    device: torch.device,
    flags: dict[str, Any],
    expected: Expected,
) -> Any | None:
    """A HookedTransformer of the same function, or None."""
    try:
        model = _convert(folder, config, hf_model, tokenizer, device, flags)
    except _NOT_HELD as error:
        log.warning("%s: no HookedTransformer (%s); it is a TransformerBridge.", folder, _first(error))
        return None
    difference = expected.difference(model)
    if not expected.holds(difference):
        log.warning(
            "%s: the logits of TransformerLens's HookedTransformer of it differ by %.3g of their spread; "
            "it is a TransformerBridge.",
            folder,
            difference,
        )
        return None
    model.generation_config = expected.generation_config
    return model


def _convert(
    folder: Path,
    config: dict[str, Any],
    hf_model: Any,
    tokenizer: Any,
    device: torch.device,
    flags: dict[str, Any],
) -> Any:
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    with tempfile.TemporaryDirectory() as neutral:  # TransformerLens guesses from words in a path ("llama")
        (Path(neutral) / "config.json").write_text(json.dumps(config | _renamed(config)), encoding="utf-8")
        cfg = loading.get_pretrained_model_config(neutral, device=str(device), dtype=hf_model.dtype)
        cfg.model_name, cfg.tokenizer_name = label(folder), None
        cfg.d_mlp = config.get("n_inner") or cfg.d_mlp
        state = loading.get_pretrained_state_dict(neutral, cfg, hf_model, dtype=hf_model.dtype)
    _add_biases(state, hf_model)
    cfg.default_prepend_bos = flags.get("default_prepend_bos", cfg.default_prepend_bos)
    model = HookedTransformer(cfg, tokenizer=tokenizer)
    processing = _release.processing(flags)
    if any(processing.values()):
        model.load_and_process_state_dict(state, **processing)
    else:  # views of transformers' weights: a copy beside them would take the model's size twice
        model.load_state_dict(model.fill_missing_keys(state), strict=False, assign=True)
    return model.eval()


def _add_biases(state: dict[str, Any], hf_model: Any) -> None:
    """Biases of a Llama, which `export` gives one whose edit needs them; TransformerLens knows of none."""
    parameters = dict(hf_model.named_parameters())
    for name, value in list(state.items()):
        block, _, short = name.rpartition(".")
        module = _BIASES.get(short.lstrip("_"))
        layer = block.split(".")[1] if name.startswith("blocks.") else ""
        theirs = parameters.get(f"model.layers.{layer}.{module}.bias")
        if theirs is not None and not bool(value.any()) and theirs.numel() == value.numel():
            state[name] = theirs.detach().reshape(value.shape).to(value)


def _own_weights(model: Any) -> Any:
    """Every parameter contiguous in memory of its own, one after the other.

    Those of `_convert` are views of what transformers read, with another order of axes; tied embeddings are
    one tensor there and two here. Once transformers' model is gone, a copy frees what it was a view of.
    """
    seen = set()
    for parameter in model.parameters():
        storage = parameter.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != parameter.nbytes
        if shared or not parameter.is_contiguous():
            parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
        seen.add(parameter.untyped_storage().data_ptr())
    return model


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Fields that TransformerLens reads under a name that newer releases of transformers do not write."""
    missing = "n_positions" in config and "n_ctx" not in config
    return {"n_ctx": config["n_positions"]} if missing else {}


def _first(error: BaseException) -> str:
    """The first line of what an error says, without TransformerLens's list of all that it has."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.split(" Available architectures:")[0]
