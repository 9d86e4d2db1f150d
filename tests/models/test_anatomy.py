"""Facts and weights of a model, on whichever TransformerLens is installed."""

from __future__ import annotations

import architectures
import pytest
import small
import torch

import interp
from interp.models import anatomy, has_hooks, logits, model_fingerprint, unsupported, weights


def test_facts():
    facts = anatomy(small.model())
    assert (facts.n_layers, facts.n_heads, facts.d_model, facts.d_mlp, facts.d_vocab) == (3, 4, 24, 40, 30)
    assert facts.causal
    assert facts.dtype == torch.float64
    assert "resid_mid" in facts.sites()


@pytest.mark.parametrize("family", small.FAMILIES)
def test_facts_of_bridges(family):
    facts = anatomy(small.bridge(family))
    assert facts.n_key_value_heads == (2 if family == "llama" else 4)
    assert facts.parallel == (family == "neox")
    assert ("resid_mid" in facts.sites()) != facts.parallel
    assert facts.size("k", "head", 9) == facts.n_key_value_heads
    assert facts.size("post", "neuron", 9) == 40
    assert facts.size("z", "pos", 9) == 9


def test_weights_are_references():
    """A sweep must not copy the model."""
    model = small.model()
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = weights(model)
    for tensor in (found.W_E, found.blocks[0].mlp.W_out, found.blocks[2].attn.W_O):
        assert tensor.untyped_storage().data_ptr() in held
    assert unsupported(model) is None


def test_hooks_are_seen():
    model = small.model()
    assert not has_hooks(model)
    model.add_hook("blocks.0.hook_resid_pre", lambda tensor, hook: tensor)
    assert has_hooks(model)
    model.reset_hooks()
    assert not has_hooks(model)


def test_right_padding_is_never_masked():
    """Logits of real positions do not depend on what follows them."""
    model = small.model()
    short = torch.tensor([[4, 9, 7, 12]])
    padded = torch.cat((short, torch.zeros(1, 3, dtype=torch.long)), 1)
    with torch.inference_mode():
        torch.testing.assert_close(logits(model, padded)[:, :4], logits(model, short), atol=1e-12, rtol=0)


def test_fingerprint_tells_models_apart():
    model = small.model()
    before = model_fingerprint(model)
    assert before == model_fingerprint(model)
    parameter = next(model.parameters())
    parameter.data.reshape(-1)[0] += 1
    after = model_fingerprint(model)
    parameter.data.reshape(-1)[0] -= 1
    assert after != before


def test_a_model_of_no_layers_is_a_sentence():
    """As in the study of embedding and unembedding alone."""
    model = architectures.build({"n_layers": 0})
    task = interp.Task.from_tokens(clean=[[1, 2]], corrupt=[[3, 2]], answer=[5], wrong=[6])
    for call in (
        lambda: interp.patch(model, task, "resid_pre", progress=False),
        lambda: interp.circuits.score_edges(model, task, progress=False),
        lambda: interp.steering.generate(model, task.clean, max_new_tokens=1),
    ):
        with pytest.raises(ValueError, match=r"of no layers: there is nothing in it to change"):
            call()


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="expected a TransformerLens model"):
        anatomy(torch.nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("name", "expected"), [("post-norm", True), ("sandwich-norm", True), ("final-rms", False)]
)
def test_a_norm_between_a_write_and_the_stream(name: str, expected: bool) -> None:
    model = architectures.build(dict(architectures.extras())[name])
    assert anatomy(model).post_norm is expected


def test_blocks_taken_out_without_the_cfg():
    model = architectures.build({})
    del model.blocks[-1]
    with pytest.raises(ValueError, match=r"of 2 blocks, and its cfg says 3 layers. .*set model.cfg.n_layers"):
        anatomy(model)
    model.cfg.n_layers = 2
    assert anatomy(model).n_layers == 2
