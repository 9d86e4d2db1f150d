"""Edited models as folders that transformers loads alone: the same logits, nothing written where refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_folders import CLASS, WORDS, needs_hooked, save_llama, save_random, transformers_logits

import interp
from interp import steering
from interp.models import anatomy, export, logits
from interp.steering import methods

IDS = torch.tensor([[1, 4, 7, 5, 6, 9], [1, 8, 8, 4, 5, 3], [2, 6, 4, 4, 7, 5], [3, 9, 1, 6, 5, 8]])


def save_neox(folder: Path) -> Path:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}
    config = GPTNeoXConfig(**sizes, num_attention_heads=4, max_position_embeddings=32, rotary_pct=0.5)
    save_random(GPTNeoXForCausalLM, config, folder)
    return folder


@pytest.fixture(scope="module")
def folders(gpt2_folder: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    tied = save_llama(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)
    neox = save_neox(tmp_path_factory.mktemp("neox"))
    return {"gpt2": gpt2_folder, "llama": llama_folder, "llama-tied": tied, "neox": neox}


def ids_of(model) -> torch.Tensor:
    return IDS % model.cfg.d_vocab


def run(model) -> torch.Tensor:
    with torch.no_grad():
        return logits(model, ids_of(model)).float()


def direction(model) -> steering.Direction:
    return steering.Direction.from_tensor(torch.linspace(-1, 2, model.cfg.d_model), "L1.resid_post")


def edited(model, kind: str):
    """The context of an edit."""
    d, ids = direction(model), ids_of(model)
    if kind == "bake":
        return steering.bake(
            model, steering.ablate(d.spread([interp.places.parse(p) for p in ("L0.attn_out", "L1.mlp_out")]))
        )
    if kind == "steer2edit":
        return methods.steer2edit(model, d, ids[:2], ids[2:], rho=0.2, alpha=0.5).apply(model)
    if kind == "redirect":
        return methods.redirect(model, 1, ids[:1], 3 * d.vector, ids[1:]).apply(model)
    return methods.link(model, 1, ids[:1], 3 * d.vector, ids[1:]).apply(model)


@pytest.mark.parametrize("kind", ["bake", "steer2edit", "redirect", "link"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-tied", "neox"])
def test_transformers_alone_gives_the_edited_models_logits(family, kind, folders, tmp_path) -> None:
    model = interp.load(folders[family])
    base = run(model)
    with edited(model, kind):
        ours, folder = run(model), export(model, tmp_path / "new")
    theirs = transformers_logits(folder, ids_of(model))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert (theirs - base).abs().max() > 1e-2
    torch.testing.assert_close(run(model), base, rtol=0, atol=0)
    again = interp.load(folder)
    torch.testing.assert_close(run(again), ours, rtol=0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-tied", "neox"])
def test_without_an_edit_the_weights_are_those_of_the_source(family, folders, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    model = interp.load(folders[family])
    folder = export(model, tmp_path / "new")
    old, new = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (folders[family], folder))
    assert old.keys() == new.keys()
    assert all(torch.equal(value, new[name]) for name, value in old.items())


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-tied"])
def test_baked_biases_and_embeddings_get_a_place(family, folders, tmp_path) -> None:
    """Additions need biases, which a Llama has not; ablation everywhere unties a tied embedding."""
    model = interp.load(folders[family])
    d = direction(model)
    everywhere = steering.ablate(d.spread(steering.writers(anatomy(model))))
    for name, edit in {"add": steering.add(d, 2.0), "everywhere": everywhere}.items():
        with torch.no_grad(), steering.steer(model, edit):
            hooked = logits(model, ids_of(model)).float()
        with steering.bake(model, edit):
            folder = export(model, tmp_path / name)
        torch.testing.assert_close(transformers_logits(folder, ids_of(model)), hooked, rtol=0, atol=1e-5)
        assert (hooked - run(model)).abs().max() > 1e-2
        again = interp.load(folder)
        assert type(again) is type(model)  # with its biases, which TransformerLens's conversion leaves out
        torch.testing.assert_close(run(again), hooked, rtol=0, atol=1e-5)
        changed = steering.audit(model, again)
        assert float(changed["norm"].sel(matrix="L1.W_in" if family == "gpt2" else "L1.W_gate")) == 0


def test_biases_behind_and_before_a_gated_mlp(tmp_path) -> None:
    """A Llama with biases of outputs is known by its weights; one with biases before the gate is not."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, mlp_bias=True, attention_bias=True)
    theirs = LlamaForCausalLM(config).eval()
    ids = torch.randint(3, 50, (3, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.endswith(("o_proj.bias", "q_proj.bias", "v_proj.bias", "down_proj.bias")):
                value.normal_(generator=torch.Generator().manual_seed(3))
        theirs.save_pretrained(tmp_path / "behind")
        wanted = theirs(ids).logits
        theirs.model.layers[1].mlp.gate_proj.bias.fill_(0.5)
    theirs.save_pretrained(tmp_path / "before")
    model = interp.load(tmp_path / "behind")
    with torch.no_grad():
        torch.testing.assert_close(logits(model, ids), wanted, rtol=0, atol=1e-5)
    block = interp.models.weights(model).blocks[1]
    torch.testing.assert_close(block.mlp.b_out, theirs.model.layers[1].mlp.down_proj.bias)
    by_weights, by_hooks = (
        interp.activations(model, ids, "L1.resid_post", "all", engine=engine)
        for engine in ("fast", "reference")
    )
    torch.testing.assert_close(by_weights, by_hooks)
    with pytest.raises(ValueError, match="biases before its activation"):
        interp.models.weights(interp.load(tmp_path / "before"))


@pytest.mark.parametrize("name", ["tiny-ioi", "tiny-world"])
def test_models_of_our_own_format(name, tmp_path) -> None:
    from transformers import AutoTokenizer

    model = interp.load(name)
    d = steering.Direction.from_tensor(torch.linspace(-1, 1, model.cfg.d_model), "L1.resid_post")
    with steering.bake(model, steering.ablate(d.spread([interp.places.parse("L1.mlp_out")]))):
        ours, folder = run(model), export(model, tmp_path / "new")
    torch.testing.assert_close(
        transformers_logits(folder, IDS), ours, rtol=0, atol=1e-5 * float(ours.abs().max())
    )
    assert (ours - run(model)).abs().max() > 1e-2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("Mary gave").input_ids == model.to_tokens("Mary gave")[0].tolist()


def test_what_cannot_be_exported_is_a_sentence_and_writes_nothing(folders, tmp_path) -> None:
    model = interp.load(folders["llama"])
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        export(model, tmp_path / "taken")
    with pytest.raises(ValueError, match="is no folder of a model"):
        export(model, tmp_path / "new", source="gpt2")
    with pytest.raises(ValueError, match=r"is \[16, 16\] here|is \[40, 16\] here|not known here|gives other"):
        export(model, tmp_path / "new", source=folders["neox"])
    names = ("W_Q", "q_proj", "q.original")
    read = next(value for name, value in model.named_parameters() if any(part in name for part in names))
    with torch.no_grad():
        read.mul_(1.5)
    with pytest.raises(ValueError, match="What reads the stream was changed too, or was folded"):
        export(model, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@needs_hooked
def test_weights_of_two_layers_and_quantised_ones_are_refused(folders, tmp_path) -> None:
    model = interp.load(folders["llama"])
    assert type(model).__name__ == CLASS
    model.blocks[1].mlp.W_out = model.blocks[0].mlp.W_out
    for act in (
        lambda: export(model, tmp_path / "new"),
        lambda: steering.bake(
            model, steering.ablate(direction(model).spread([interp.places.parse("L1.mlp_out")]))
        ),
    ):
        with pytest.raises(ValueError, match="share"):
            act()
    model = interp.load(folders["llama"])
    del model.blocks[1].attn.W_O
    model.blocks[1].attn.register_parameter(
        "W_O", torch.nn.Parameter(torch.zeros(4, 4, 16, dtype=torch.int8), requires_grad=False)
    )
    with pytest.raises(ValueError, match="quantised"):
        export(model, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_model_that_norms_what_its_layers_write_is_refused(tmp_path) -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = Olmo2Config(**sizes, num_attention_heads=4, max_position_embeddings=32, pad_token_id=None)
    save_random(Olmo2ForCausalLM, config, tmp_path / "olmo")
    with pytest.raises(ValueError, match="norms what its layers write"):
        export(interp.load(tmp_path / "olmo"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
