"""The same numbers as TransformerLens 4.3's `tools.analysis`: logit lens, readouts, Jacobian lens."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import torch

from interp import lens

analysis = pytest.importorskip("transformer_lens.tools.analysis")
if not hasattr(analysis, "logit_lens"):
    pytest.skip("this release has no lenses", allow_module_level=True)

IDS = list(range(architectures.VOCAB))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: Any) -> Any:
    """A bridge with raw weights (no compatibility mode), float32, to a random GPT-2."""
    import transformers
    from small import save_tokenizer
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=3, n_embd=24, n_head=4, n_inner=40, n_positions=32, vocab_size=architectures.VOCAB,
        bos_token_id=0, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    inner = transformers.GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("gpt2")
    inner.save_pretrained(folder)
    return TransformerBridge.boot_transformers(
        str(folder), hf_model=inner, tokenizer=save_tokenizer(str(folder)), dtype=torch.float32, device="cpu"
    ).eval()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(1, architectures.VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))


def test_the_logit_lens(raw: Any, tokens: torch.Tensor) -> None:
    theirs = analysis.logit_lens(raw, tokens, positions=None, targets=IDS, return_type="log_probs")
    ours = lens.logit(raw, tokens, IDS, engine="reference")
    for name, other in (
        ("value", theirs.readout.values),
        ("rank", theirs.readout.target_ranks),
        ("entropy", theirs.readout.entropy),
    ):
        np.testing.assert_allclose(ours[name].values.swapaxes(0, 1), other.detach(), atol=1e-5)
    assert float(ours["value"].std()) > 0.1


def test_any_vector(raw: Any) -> None:
    vectors = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    theirs = analysis.logit_readout(raw, vectors, top_k=7, return_type="log_probs")
    ours = lens.read(raw, vectors, as_="state", top=7)
    np.testing.assert_allclose(ours["value"], theirs.values.detach(), atol=1e-5)
    np.testing.assert_array_equal(ours["top_id"], theirs.top_ids)


def test_the_jacobian_lens(raw: Any, tokens: torch.Tensor, tmp_path: Any) -> None:
    texts = ["".join(raw.tokenizer.decode([i]) + " " for i in row) for row in tokens[:, :8].tolist()]
    theirs = analysis.JacobianLens.fit(
        raw, texts, skip_first_positions=2, dim_batch=8, corpus="none", show_progress=False
    )
    ids = [raw.to_tokens(text)[0].tolist() for text in texts]
    ours = lens.jacobian(raw, ids, skip=2, engine="reference", progress=False)
    for layer, J in theirs.jacobians.items():
        np.testing.assert_allclose(ours.matrices[layer], J, atol=1e-5)
    theirs.save(str(tmp_path / "lens.pt"), dtype=torch.float32)
    lens.convert(tmp_path / "lens.pt", tmp_path / "lens.safetensors")
    read = lens.JacobianLens.load(tmp_path / "lens.safetensors")
    again = analysis.JacobianLens.load(str(tmp_path / "lens.pt"))
    assert all(torch.equal(read.matrices[layer], J) for layer, J in again.jacobians.items())
    said = again.readout(raw, raw.to_tokens(texts[0]), return_full_logits=True)
    own = lens.logit(raw, ids[:1], IDS, through=read, engine="reference")
    for layer, logits in said.lens_logits.items():
        np.testing.assert_allclose(own["value"].values[0, layer], logits.log_softmax(-1), atol=1e-5)
