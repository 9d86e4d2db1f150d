"""What heads copy and tell apart, by small matrices, against the large ones."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch

import interp
from interp import heads


@pytest.fixture(scope="module")
def model():
    return architectures.build({})


def test_copying_by_the_small_matrix_is_that_by_the_vocabulary(model):
    found = heads.copying(model, embedding="raw", tokens=range(architectures.VOCAB))
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            OV = model.blocks[layer].attn.W_V[head] @ model.blocks[layer].attn.W_O[head]
            circuit = (model.W_E @ OV @ model.W_U).detach().double()
            eigenvalues = torch.linalg.eigvals(circuit)
            expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
            assert abs(float(found["value"][layer, head]) - expected) < 1e-6
            own = float((circuit.argmax(1) == torch.arange(len(circuit))).double().mean())
            assert float(found["share"].sel(top=1)[layer, head]) == pytest.approx(own)
    assert float(abs(found["value"]).max()) > 0.1


def test_the_effective_embedding_is_what_heads_read(model):
    """By hooks: each token alone, through the norms, head by head."""
    found = heads.copying(model, tokens=range(architectures.VOCAB))
    tokens = torch.arange(architectures.VOCAB)[:, None]
    _, cache = model.run_with_cache(tokens)
    for layer, stream in ((0, "blocks.0.hook_resid_pre"), (2, "blocks.0.hook_resid_post")):
        block = model.blocks[layer]
        reads = block.ln1(cache[stream])[:, 0].detach()
        centred = model.ln_final.w[:, None] * model.W_U
        W_U = (centred - centred.mean(0)).detach()
        for head in range(model.cfg.n_heads):
            circuit = reads @ block.attn.W_V[head].detach() @ block.attn.W_O[head].detach() @ W_U
            eigenvalues = torch.linalg.eigvals(circuit)
            expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
            assert abs(float(found["value"][layer, head]) - expected) < 1e-6


def test_the_hand_built_copier_copies_all_words_and_idle_heads_none():
    found = heads.copying(interp.load("induction"))
    assert float(found["value"].sel(layer=1, head=0)) == pytest.approx(1)
    assert float(found["share"].sel(top=1, layer=1, head=0)) == 1
    assert np.isnan(float(found["value"].sel(layer=1, head=1)))  # it writes where nothing reads


def test_special_tokens_embed_to_nothing_and_are_left_out():
    found = heads.copying(interp.load("induction"))
    assert found.attrs["n_tokens"] == 16


def test_spectra_are_those_of_the_whole_matrices(model):
    found = heads.spectra(model)
    attn = model.blocks[1].attn
    whole = {"OV": (attn.W_V[2] @ attn.W_O[2]).detach(), "QK": (attn.W_Q[2] @ attn.W_K[2].T).detach()}
    for name, matrix in whole.items():
        one = found.sel(matrix=name, layer=1, head=2)
        np.testing.assert_allclose(one["value"], torch.linalg.svdvals(matrix)[:6], atol=1e-9)
        theirs = torch.linalg.eigvals(matrix)
        theirs = theirs[theirs.abs().argsort(descending=True)][:6]
        np.testing.assert_allclose(
            sorted(np.hypot(one["real"], one["imag"])), sorted(theirs.abs().numpy()), atol=1e-9
        )
        assert float(one["real"].sum()) == pytest.approx(float(matrix.trace()), abs=1e-9)


def test_with_rotary_embeddings_qk_turns_with_the_distance():
    model = architectures.build(architectures.ROTARY)
    near, far = (heads.spectra(model, distance=d).sel(matrix="QK")["value"] for d in (0, 3))
    attn = model.blocks[0].attn
    W_Q = attn.W_Q[1].detach()[None, :, None]  # as queries of d_model rows, all at position 3
    turned = torch.stack(
        [attn.apply_rotary(W_Q[:, i : i + 1].expand(1, 4, 1, -1))[0, 3, 0] for i in range(24)]
    )
    expected = torch.linalg.svdvals(turned @ attn.W_K[1].detach().T)[:6]
    np.testing.assert_allclose(far.sel(layer=0, head=1), expected, atol=1e-6)
    assert float(abs(near - far).max()) > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads.copying(m, embedding="rw"), "did you mean 'raw'"),
        (lambda m: heads.copying(m, tokens=[10**6]), "do not fit"),
        (lambda m: heads.copying(m, tokens=[]), "do not fit"),
        (lambda m: heads.spectra(m, distance=-1), "distance is -1"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(interp.load("tiny-ioi"))
