"""A real language model: SmolLM2-135M-Instruct, its 4-bit weights dequantised to float32.

Figures are those of that file (its hash is checked); none depends on the last digits of a logit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp import positions, steering
from interp.models._fetch import folder_of_wheel, missing
from interp.steering import Direction

NAME = "smollm2-135m"
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(folder_of_wheel(NAME) is None, reason=missing(NAME)),
]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load(NAME)


def test_it_is_the_model(model: Any) -> None:
    """Logits of a chat as transformers gives them; no BOS before plain text."""
    from transformers import AutoModelForCausalLM

    folder = folder_of_wheel(NAME)
    assert folder is not None
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.n_key_value_heads) == (30, 9, 3)
    assert model.cfg.model_name == NAME
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
        assert float((model(ids) - theirs).abs().max()) <= 1e-4
    assert model.to_tokens("Hello").tolist() == [[19556]]


@pytest.mark.parametrize(("family", "right"), [("ioi", 28), ("docstring", 28), ("capitals", 25)])
def test_what_it_can_do(model: Any, family: str, right: int) -> None:
    make = interp.tasks.facts if family == "capitals" else getattr(interp.tasks, family)
    options = {"relation": "capital"} if family == "capitals" else {}
    task = make(model, n=32, seed=0, **options)
    with torch.no_grad():
        logits = model(task.clean) if isinstance(task.clean, torch.Tensor) else None
    assert logits is not None
    report = task.check(model)
    assert round(report.accuracy * len(task)) >= right * len(task) // 32


def test_fast_is_reference(model: Any) -> None:
    """Eight random cells of each site."""
    task = interp.tasks.ioi(model, n=2, seed=0, template=0)
    generator = torch.Generator().manual_seed(0)
    n_pos = task.clean.shape[1]
    cells = []
    for _ in range(8):
        layer, head, pos = (int(torch.randint(0, n, (1,), generator=generator)) for n in (30, 9, n_pos))
        cells += [f"L{layer}H{head}", f"L{layer}.mlp_out@{pos}", f"L{layer}.resid_pre@{pos}"]
    values = {
        engine: interp.patch(model, task, cells=cells, engine=engine, **QUIET)["value"]
        for engine in ("fast", "reference")
    }
    assert float(abs(values["fast"] - values["reference"]).max()) <= 1e-4
    assert float(abs(values["fast"]).max()) > 0.1


def test_the_heads_of_indirect_objects(model: Any) -> None:
    effects = interp.patch(model, interp.tasks.ioi(model, n=8, seed=1, template=0), "z", **QUIET)["value"]
    mean = effects.mean("prompt")
    heads = sorted((float(mean[layer, head]), f"L{layer}H{head}") for layer in range(30) for head in range(9))
    assert {"L23H3", "L20H0"} <= {name for _, name in heads[-4:]}
    assert {"L29H0", "L24H4"} <= {name for _, name in heads[:4]}


def test_the_page_of_indirect_objects(model: Any) -> None:
    """Some figures of docs/smollm2-ioi.md from a small run."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "smollm2_ioi.json"
    done = json.loads(path.read_text(encoding="utf-8"))
    settings = done["settings"]
    verification = interp.tasks.ioi(model, n=settings["n"], seed=settings["seed"]).split(
        0.5, settings["seed"]
    )[1]
    names = ["L17H4", "L20H0", "L23H3", "L24H4"]
    both = [
        interp.patch(model, verification[:8], cells=names, direction=direction, **QUIET)["value"].mean(
            "prompt"
        )
        for direction in ("denoise", "noise")
    ]
    expected = [done["heads"]["first_eight"][name] for name in names]
    for effects in both:
        assert effects.values.tolist() == pytest.approx(expected, abs=2e-3)
    assert min(expected[:3]) > 1 > -1 > expected[3]


def test_it_answers_a_chat(model: Any) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    answers = [
        interp.steering.generate(model, ids, max_new_tokens=10, use_cache=cache)[0, ids.shape[1] :]
        for cache in (True, False)
    ]
    assert torch.equal(*answers)
    assert model.tokenizer.decode(answers[0]).startswith("The capital of France is Paris.")


def test_the_first_token_is_a_sink(model: Any) -> None:
    """What an edit does there depends on its kind: an addition nothing, another length everything."""
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    h = interp.activations(model, ids, "L15.resid_pre", "all")
    size = h[1:].norm(dim=1).median()
    assert h[0].norm() > 100 * size
    d = Direction.from_tensor(torch.randn(576, generator=torch.Generator().manual_seed(0)), "L15.resid_pre")
    push = steering.add(d.unit(), float(size) / 2, when=positions.at(0))
    factor, nothing = torch.full((576,), float(size / h[0].norm())), torch.zeros(576)
    shorter = steering.edits.affine("L15.resid_pre", factor, nothing, when=positions.at(0))
    with torch.no_grad():
        plain = model(ids)[0, -1].log_softmax(-1)
        kl = []
        for made in (push, shorter):
            with steering.steer(model, *made):
                kl.append(float((plain.exp() * (plain - model(ids)[0, -1].log_softmax(-1))).sum()))
    assert kl[0] < 0.01
    assert kl[1] > 1


def test_a_mean_over_positions_is_of_the_first_token(model: Any) -> None:
    """Plain texts without a BOS: most of the difference of means is one dimension of the sink."""
    up = ["Dear Sir, we regret to inform you", "We kindly request your presence", "Please find it enclosed"]
    down = ["Hey dude, what's up with that", "Gonna grab some food, wanna come", "Yo, that's so cool man"]
    with pytest.warns(UserWarning, match="a mean over positions is mostly of it"):
        whole = steering.mean_difference(model, up, down, layer=15, pos="mean")
    rest = steering.mean_difference(model, up, down, layer=15, pos=positions.window(1, None))
    share = [float(d.vector[507] ** 2 / d.vector.norm() ** 2) for d in (whole, rest)]
    assert share[0] > 0.3 > 0.1 > share[1]
