"""Dictionaries as SAELens 6.54 and sparsify 1.3 write them, with what they compute: the files of
tests/sae/written.

Run in an environment of its own (neither is a dependency): `pip install "sae-lens==6.54.*" eai-sparsify`,
then `python tests/peers/write_dictionaries.py tests/sae/written`. Tensors are random, since the zeros that
such classes begin with (biases, skips, thresholds) would hide every mistake.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D, F, D_OUT, HEADS = 8, 20, 6, 2
X = torch.randn(7, D, generator=torch.Generator().manual_seed(0)) * 2 + 0.5

SAELENS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard_uncentred": ("standard", {"apply_b_dec_to_input": False}),
    "standard_layer_norm": ("standard", {"normalize_activations": "layer_norm"}),
    "standard_constant_norm": ("standard", {"normalize_activations": "constant_norm_rescale"}),
    "standard_z": ("standard", {"reshape_activations": "hook_z"}),
    "gated": ("gated", {}),
    "jumprelu": ("jumprelu", {}),
    "topk": ("topk", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "topk_rescaled": ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("abstopk", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "abstopk_rescaled": ("abstopk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "matching_pursuit": ("matching_pursuit", {"residual_threshold": 0.3, "max_iterations": 5}),
    "transcoder": ("transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
    "skip_transcoder": ("skip_transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
    "jumprelu_transcoder": ("jumprelu_transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
    "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", {"d_out": D_OUT, "apply_b_dec_to_input": False}),
}
SPARSIFY: dict[str, dict[str, Any]] = {
    "layers.1": {"activation": "topk", "k": 4},
    "layers.2": {"activation": "groupmax", "k": 4},
    "layers.2.mlp": {"activation": "topk", "k": 4, "transcode": True, "skip_connection": True},
    "layers.3": {"activation": "topk", "k": 4, "skip_connection": True, "normalize_decoder": False},
    "layers.10.mlp": {"activation": "groupmax", "k": 4, "transcode": True},
}


def random_(module: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values.abs() if "threshold" in name else 0.5 * values)


def saelens(out: Path) -> dict[str, torch.Tensor]:
    """A folder for every architecture; x, features and reconstruction of each."""
    from sae_lens import registry

    outputs = {}
    for seed, (name, (kind, options)) in enumerate(SAELENS.items()):
        cls, cfg_cls = registry.get_sae_class(kind)
        z = options.get("reshape_activations") == "hook_z"
        hook = "blocks.1.attn.hook_z" if z else "blocks.1.hook_resid_pre"
        meta = {"model_name": "toy", "hook_name": hook}
        if "transcoder" in kind:
            meta |= {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
        cfg = cfg_cls.from_dict({"architecture": kind, "d_in": D, "d_sae": F, "metadata": meta, **options})
        coder = cls(cfg)
        random_(coder, seed)
        x = X.view(len(X), HEADS, -1) if z else X
        with torch.no_grad():
            f = coder.encode(x)
            outputs |= {f"{name}.f": f, f"{name}.out": coder.decode(f)}
            if "skip" in kind:
                outputs[f"{name}.out"] = coder(x)
        coder.save_model(out / name)
    return outputs


def sparsify(out: Path) -> dict[str, torch.Tensor]:
    """Folders named as sparsify names them, after modules."""
    import sparsify as theirs

    outputs = {}
    for seed, (name, options) in enumerate(SPARSIFY.items(), 100):
        cfg = theirs.SparseCoderConfig(num_latents=F, **options)
        coder = theirs.SparseCoder(D, cfg, dtype=torch.float32)
        random_(coder, seed)
        with torch.no_grad():
            encoded = coder.encode(X)
            f = torch.zeros(len(X), F).scatter(1, encoded.top_indices, encoded.top_acts)
            done = coder(X)
        outputs |= {f"{name}.f": f, f"{name}.out": done.sae_out}
        coder.save_to_disk(out / name)
    return outputs


def main(folder: str) -> None:
    out = Path(folder)
    outputs = {"x": X, **saelens(out / "saelens"), **sparsify(out / "sparsify")}
    save_file({name: each.contiguous() for name, each in outputs.items()}, out / "outputs.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
