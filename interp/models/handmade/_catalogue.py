"""The hand-built models by name, and from a sketch to a model with its tokenizer.

Only building one needs torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from interp.models.handmade import gates, induction, letters, reverse
from interp.models.handmade.sketch import Sketch

if TYPE_CHECKING:
    import torch

FLAGS = ("default_prepend_bos",)
ABLATIONS = ("resample", "zero", "mean")


class Entry(NamedTuple):
    """What a model's file says of it."""

    description: str
    sketch: Callable[[], Sketch]
    truth: Mapping[str, tuple[str, ...]]


MODELS = {
    "reverse": Entry(reverse.DESCRIPTION, reverse.sketch, reverse.TRUTH),
    "xproportion": Entry(letters.X_DESCRIPTION, letters.xproportion, letters.X_TRUTH),
    "induction": Entry(induction.DESCRIPTION, induction.sketch, induction.TRUTH),
    "and-gate": Entry(gates.AND_DESCRIPTION, gates.and_gate, gates.TRUTH),
    "or-gate": Entry(gates.OR_DESCRIPTION, gates.or_gate, gates.TRUTH),
    "linear": Entry(letters.LINEAR_DESCRIPTION, letters.linear, letters.LINEAR_TRUTH),
}
NAMES = tuple(MODELS)


def sketch(name: str) -> Sketch:
    """The model, written out. Raises ValueError for a name that is not one of `NAMES`."""
    return _entry(name).sketch()


def truth(name: str, ablation: str) -> tuple[str, ...]:
    """The circuit of a model: the edges whose single ablation changes its output, in the names of EAP-IG.

    Ablating the edge u→v takes what u writes out of what v alone reads, at all positions, and puts there
    * `resample`: what u writes in the corrupt prompt, an unrelated one of as many tokens;
    * `mean`: its mean over the task's corrupt prompts, position by position, padding left out;
    * `zero`: nothing.
    Queries, keys and values are read apart. `input` is token and position embedding together. The output is
    every logit at the answer position. An edge is in the circuit if its ablation changes the output for some
    prompt of the model's whole domain (`interp.tasks.handmade.every_input`); the others change it for none.
    With all others ablated at once, every logit is still what it was.

    Raises ValueError for an unknown name or ablation.
    """
    found = _entry(name).truth
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation is {ablation!r}; it must be one of {', '.join(map(repr, ABLATIONS))}.")
    return found[ablation]


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise ValueError(f"{name!r} is not a hand-built model; these are: {', '.join(NAMES)}.")
    return MODELS[name]


def build(name: str, device: torch.device, dtype: torch.dtype | None, flags: dict[str, Any]) -> Any:
    """A hand-built model by name, made afresh; float32 unless another dtype is asked for."""
    from interp.models import _release
    from interp.models._folder import read_tokenizer, write_tokenizer

    _release.require_flags(flags, FLAGS, f"the hand-built model {name!r}")
    import torch

    written, kind = sketch(name), dtype or torch.float32
    with _release.quiet(), _release.offline(), tempfile.TemporaryDirectory() as folder:
        # through files: TransformerLens reads a tokenizer again from where it came
        write_tokenizer(list(written.words), Path(folder), written.n_ctx)
        tokenizer = read_tokenizer(Path(folder))
        make = _hooked if _release.has_hooked_transformer() else _bridged
        model = make(_config(name, written) | flags, _state(written, kind), tokenizer, device, kind)
    model.tokenizer.name_or_path = name  # not the temporary folder
    return model


def _hooked(
    fields: dict[str, Any], state: dict[str, Any], tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(**fields, device=str(device), dtype=dtype, init_weights=False)
    model = HookedTransformer(cfg, tokenizer=tokenizer)
    model.load_state_dict(state, strict=False)  # all but the buffers
    return model


def _bridged(
    fields: dict[str, Any], state: dict[str, Any], tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> Any:
    from interp.models import _own_as_native

    return _own_as_native.build(fields, state, tokenizer, device, dtype, {})


def _config(name: str, written: Sketch) -> dict[str, Any]:
    """The fields of a HookedTransformerConfig."""
    return {
        "model_name": name,
        "n_layers": written.n_layers,
        "n_heads": written.n_heads,
        "d_model": len(written.features),
        "d_head": written.d_head,
        "d_mlp": written.d_mlp,
        "n_ctx": written.n_ctx,
        "d_vocab": len(written.words),
        "act_fn": None if written.attn_only else "relu",
        "attn_only": written.attn_only,
        "normalization_type": None,
        "use_attn_scale": False,
    }


def _state(written: Sketch, dtype: torch.dtype) -> dict[str, Any]:
    """Every parameter of a HookedTransformer."""
    import torch

    state = {name: torch.zeros(shape, dtype=dtype) for name, shape in written.shapes.items()}
    for name, entries in written.entries.items():
        for index, value in entries.items():
            state[name][index] = value
    return state


def _shape(made: Sketch) -> dict[str, int | bool]:
    return {"n_layers": made.n_layers, "n_heads": made.n_heads, "attn_only": made.attn_only}


SHAPES = {name: _shape(entry.sketch()) for name, entry in MODELS.items()}
