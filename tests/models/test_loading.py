"""`interp.load`: what every source has in common, and the errors of its arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_folders import CLASS, SIZES, TOKENS, needs_hooked

import interp
from training import network


def test_import_loads_neither_torch_nor_transformer_lens() -> None:
    code = (
        "import sys, interp.models; cards = interp.models.available();"
        "heavy = {'torch', 'transformer_lens', 'transformers'};"
        "print([card.name for card in cards], sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")
    assert "tiny-ioi" in out


def test_class_mode_and_device(own: Path) -> None:
    model = interp.load(own)
    assert type(model).__name__ == CLASS
    assert not any(module.training for module in model.modules())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert model.cfg.model_name == "own"


def test_a_load_leaves_the_random_generators_and_the_output_alone(
    own: Path, capfd: pytest.CaptureFixture
) -> None:
    state = torch.get_rng_state()
    interp.load(str(own))
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float64", "torch.bfloat16", torch.float16])
def test_dtype(own: Path, dtype: str | torch.dtype) -> None:
    wanted = getattr(torch, str(dtype).removeprefix("torch."))
    model = interp.load(own, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    assert model(TOKENS).dtype == wanted


def test_float64_is_the_same_function(own: Path) -> None:
    torch.testing.assert_close(
        interp.load(own, dtype="float64")(TOKENS).float(), interp.load(own)(TOKENS), atol=1e-4, rtol=0
    )


@needs_hooked
def test_processing_changes_the_weights_and_not_the_function(own: Path) -> None:
    plain = interp.load(own)
    flags = {
        "fold_ln": True,
        "center_unembed": True,
        "center_writing_weights": True,
        "fold_value_biases": True,
    }
    processed = interp.load(own, **flags)
    assert processed.cfg.normalization_type == "LNPre"
    assert processed.W_U.mean(-1).abs().max() < 1e-6 < plain.W_U.mean(-1).abs().max()
    assert plain.b_V.abs().max() > 0.1 > processed.b_V.abs().max()
    torch.testing.assert_close(
        processed(TOKENS).log_softmax(-1), plain(TOKENS).log_softmax(-1), atol=1e-5, rtol=0
    )


def test_processing_keeps_the_function_on_every_release(own: Path) -> None:
    plain, processed = interp.load(own), interp.load(own, fold_ln=True, center_unembed=True)
    theirs, ours = processed(TOKENS), plain(TOKENS)
    assert (theirs - ours).abs().max() > 1e-3  # the constant of each position
    torch.testing.assert_close(theirs.log_softmax(-1), ours.log_softmax(-1), atol=1e-5, rtol=0)


def test_default_prepend_bos(own: Path) -> None:
    text = "one two"
    assert interp.load(own).to_tokens(text).tolist() == [[1, 4, 5]]
    assert interp.load(own, default_prepend_bos=False).to_tokens(text).tolist() == [[4, 5]]


def test_a_bad_flag(own: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no flag 'fold_layernorm'; it takes fold_ln, center_writing_weights"
    ):
        interp.load(own, fold_layernorm=True)


@pytest.mark.parametrize("dtype", ["int64", "float31", torch.int32])
def test_a_bad_dtype(own: Path, dtype: str | torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"dtype is .*; use 'float32', 'float64'"):
        interp.load(own, dtype=dtype)


def test_a_bad_device(own: Path) -> None:
    with pytest.raises(ValueError, match=r"device 'cuda:7' cannot be used here: .* Use 'cpu'"):
        interp.load(own, device="cuda:7")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        interp.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is no folder"):
        interp.load("./nowhere")


def test_a_folder_without_config(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"has no config.json; it has weights.bin"):
        interp.load(tmp_path)


def test_the_model_computes_what_the_file_says(own: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(own / "model.safetensors")
    torch.testing.assert_close(interp.load(own)(TOKENS), network.logits(state, TOKENS), atol=1e-5, rtol=0)
    assert interp.load(own).cfg.n_ctx == SIZES.n_ctx
