"""The hand-built models: right on every input of their domains, and what their parts write."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
import torch
from model_folders import CLASS, needs_hooked

import interp
from interp import models
from interp.models import _release, available, handmade
from interp.places import AXES, hook_name
from interp.tasks.check import answer_logits, right
from interp.tasks.handmade import every_input, some_inputs

SIZES = {
    "reverse": 1641,
    "xproportion": 1092,
    "induction": 6960,
    "and-gate": 972,
    "or-gate": 300,
    "linear": 153,
}


@functools.lru_cache
def model_of(name: str) -> Any:
    return interp.load(name)


@functools.lru_cache
def domain(name: str) -> tuple[Any, torch.Tensor]:
    """Every input of a model, and the logits at the answer position."""
    task = every_input(model_of(name), name)
    return task, answer_logits(model_of(name), task.clean, task.positions, 2048)


def say(model: Any, text: str) -> tuple[str, float]:
    """The word after a text, and its logit."""
    logits = model(model.to_tokens(text))[0, -1]
    return model.to_string(logits.argmax()), logits.max().item()


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys, interp.models.handmade as h; from interp.models import available;"
        "print([c.name for c in available() if c.where == 'handmade'] == list(h.NAMES),"
        "h.truth('reverse', 'zero')[0], h.SHAPES['induction'], 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    shape = {"n_layers": 2, "n_heads": 2, "attn_only": True}
    assert out.strip() == f"True input->a0.h0<k> {shape} False"


@pytest.mark.parametrize("name", handmade.NAMES)
def test_a_stock_model_as_its_card_and_shape_say(name: str) -> None:
    model, cfg = model_of(name), model_of(name).cfg
    card = next(card for card in available() if card.name == name)
    assert type(model).__name__ == CLASS
    assert not any(module.training for module in model.modules())
    assert (cfg.model_name, cfg.normalization_type) == (name, None)
    assert {key: getattr(cfg, key) for key in handmade.SHAPES[name]} == handmade.SHAPES[name]
    assert card.where == "handmade"
    assert card.description
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", handmade.NAMES)
def test_every_input_is_answered_right(name: str) -> None:
    task, logits = domain(name)
    assert len(task) == SIZES[name]
    assert len({tuple(row[:n]) for row, n in zip(task.clean.tolist(), task.lengths.tolist())}) == len(task)
    assert right(logits, task.answers, task.wrongs).all()
    assert torch.equal(logits.argmax(-1), task.answer)


@pytest.mark.parametrize("name", ["reverse", "induction"])
def test_the_answer_has_ten_and_the_others_nothing(name: str) -> None:
    task, logits = domain(name)
    wanted = torch.nn.functional.one_hot(task.answer, logits.shape[1]) * 10.0
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)


def test_the_logit_of_xproportion_is_the_proportion() -> None:
    """At every position of every prompt."""
    model = model_of("xproportion")
    task = every_input(model, "xproportion")
    x, yes, no = (model.to_single_token(word) for word in ("x", "yes", "no"))
    letters = torch.arange(1, task.clean.shape[1])
    share = (task.clean[:, 1:] == x).cumsum(-1) / letters
    real = letters < task.lengths[:, None]
    logits = model(task.clean)[:, 1:]
    assert set(share[real].tolist()) >= {0.0, 0.5, 1.0}
    torch.testing.assert_close(logits[..., yes][real], share[real], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits[..., no][real], 1 - share[real], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "text", "word", "logit"),
    [
        ("reverse", "a c b b = b b", "c", 10.0),
        ("reverse", "c =", "c", 10.0),
        ("xproportion", "y x w x x", "yes", 0.6),
        ("induction", "Mary John store Mary", "John", 10.0),
        ("induction", "key ball park store Paul key ball park store", "Paul", 10.0),
        ("and-gate", "Mary red John red =", "red", 10.0),
        ("and-gate", "Mary red John blue =", "none", 5.0),
        ("and-gate", "Mary none John blue =", "none", 5.0),
        ("or-gate", "Mary red John red =", "red", 10.0),
        ("or-gate", "Mary none John blue =", "blue", 10.0),
        ("or-gate", "Mary none John none =", "none", 5.0),
        ("linear", "a c a a b", "a", 7.4),
    ],
)
def test_examples(name: str, text: str, word: str, logit: float) -> None:
    assert say(model_of(name), text) == (word, pytest.approx(logit, abs=1e-5))


def test_what_the_parts_of_reverse_write() -> None:
    """`a c b b = b b`: `=` stands at 5, the length is 4; at position 7 the letter of position 2 is due."""
    model, features = model_of("reverse"), handmade.sketch("reverse").features
    _, cache = model.run_with_cache(model.to_tokens("a c b b = b b"))

    def written(part: torch.Tensor) -> dict[str, float]:
        return {features[i]: round(float(part[0, -1, i]), 4) for i in part[0, -1].abs().gt(1e-4).nonzero()}

    assert written(cache["blocks.0.hook_attn_out"]) == {"equals at": 5.0}
    assert written(cache["blocks.0.hook_mlp_out"]) == {"len 4": 1.0}
    assert written(cache["blocks.1.hook_mlp_out"]) == {"from 2": 1.0}
    assert cache["blocks.2.attn.hook_pattern"][0, 0, -1].argmax() == 2
    assert written(cache["blocks.2.hook_attn_out"]) == {"out c": 1.0}


def test_the_heads_of_induction_look_where_they_should() -> None:
    model = model_of("induction")
    _, cache = model.run_with_cache(model.to_tokens("ring Tom park key ring Tom"))
    before = cache["blocks.0.attn.hook_pattern"][0, 0]
    assert before.argmax(-1).tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert cache["blocks.1.attn.hook_pattern"][0, 0, -1].argmax() == 3  # the word after the first `Tom`
    assert cache["blocks.1.attn.hook_pattern"][0, 0, -1].max() > 1 - 1e-6


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_answer_alike(dtype: str) -> None:
    model = interp.load("reverse", dtype=dtype)
    task = every_input(model, "reverse")
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{dtype}"}
    logits = answer_logits(model, task.clean, task.positions, 2048)
    assert torch.equal(logits.argmax(-1), task.answer)


def test_every_load_is_a_model_of_its_own() -> None:
    one = interp.load("or-gate")
    with torch.no_grad():
        one.W_U.zero_()
    state = torch.get_rng_state()
    other = interp.load("or-gate", default_prepend_bos=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert other.W_U.abs().sum() > 0
    assert other.cfg.default_prepend_bos is False


def test_the_tokenizer() -> None:
    model = model_of("or-gate")
    assert model.to_str_tokens("Mary red John none =") == ["<bos>", "Mary", "red", "John", "none", "="]
    assert model.to_tokens("purple")[0].tolist() == [
        model.tokenizer.bos_token_id,
        model.tokenizer.unk_token_id,
    ]
    assert model.tokenizer.name_or_path == "or-gate"


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"takes no flag 'fold_ln'; it takes default_prepend_bos"):
        interp.load("reverse", fold_ln=True)
    with pytest.raises(ValueError, match=r"'and_gate' is neither .* nearest names are 'and-gate'"):
        interp.load("and_gate")
    with pytest.raises(
        ValueError, match=r"ablation is 'zeros'; it must be one of 'resample', 'zero', 'mean'"
    ):
        handmade.truth("reverse", "zeros")
    with pytest.raises(ValueError, match=r"'revers' is not a hand-built model; these are: reverse, "):
        handmade.truth("revers", "zero")


@needs_hooked
@pytest.mark.parametrize("name", handmade.NAMES)
def test_the_bridged_model_is_the_hooked_one(name: str) -> None:
    """In float64, every logit and every activation; and what a hook at any site does."""
    hooked, bridged = interp.load(name, dtype="float64"), bridged_twin(name)
    tokens = some_inputs(hooked, name, n=8).clean
    sites = [site for site in AXES if models.anatomy(hooked).lacks(site) is None]
    layers = range(hooked.cfg.n_layers)
    names = [hook_name(site, layer) for layer in layers for site in sites]
    names += [f"blocks.{layer}.attn.hook_attn_scores" for layer in layers]
    same = {"rtol": 0.0, "atol": 1e-12}
    with torch.no_grad():
        (one, theirs), (other, ours) = (model.run_with_cache(tokens) for model in (hooked, bridged))
        torch.testing.assert_close(other, one, **same)
        for point in names:
            torch.testing.assert_close(ours[point], theirs[point], **same)
        for point in names:
            if point.endswith("resid_mid"):  # on a bridge it feeds the MLP alone
                continue
            edit = [(point, lambda x, hook: x * 0.5 + x.isfinite())]
            run = [model.run_with_hooks(tokens, fwd_hooks=edit) for model in (hooked, bridged)]
            torch.testing.assert_close(run[1], run[0], **same)
    shapes = {key: tuple(value.shape) for key, value in hooked.named_parameters()}
    assert shapes == handmade.sketch(name).shapes


def bridged_twin(name: str) -> Any:
    """As a release without HookedTransformer makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_release, "has_hooked_transformer", lambda: False)
        return interp.load(name, dtype="float64")
