"""The logit lens against the model's own modules, on every kind of readout, and what is refused."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
import two_sides

import interp
from interp import lens

CONFIGS = {
    "ln": {},
    "rms": {"normalization_type": "RMS"},
    "none": {"normalization_type": None},
    "soft-cap": {"output_logits_soft_cap": 3.0},
    "final-rms": {"final_rms": True},
    "sandwich": {"normalization_type": "RMS", "use_normalization_before_and_after": True},
}
BRIDGES = ("gpt2", "llama", "neox")


def models() -> list[str]:
    return [*(CONFIGS if architectures.has_hooked_transformer() else ()), *BRIDGES]


def build(name: str) -> Any:
    return architectures.build(CONFIGS[name]) if name in CONFIGS else small.bridge(name)


def by_modules(model: Any, stream: torch.Tensor) -> torch.Tensor:
    """Log probabilities of stream [prompt, pos, d_model] by the model's own last modules."""
    return model.unembed(model.ln_final(stream) if hasattr(model, "ln_final") else stream)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return architectures.tokens(2)[0]


@pytest.mark.parametrize("name", models())
def test_every_layer_is_what_the_models_own_modules_say(name: str, tokens: torch.Tensor) -> None:
    model = build(name)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    rows = tokens.tolist()  # of ids a tensor of this tokenizer's padding would be a gap
    found = lens.logit(model, rows, list(range(architectures.VOCAB)), top=architectures.VOCAB)
    last, near = logits.log_softmax(-1), {"atol": 1e-9 if name in CONFIGS else 1e-5}
    # (norms of transformers compute in float32)
    np.testing.assert_allclose(found["value"].values[:, -1], last, **near)  # the last row is the model's
    for layer in range(3):
        out = by_modules(model, cache[f"blocks.{layer}.hook_resid_pre"])
        cap = CONFIGS.get(name, {}).get("output_logits_soft_cap")
        out = (cap * torch.tanh(out / cap) if cap else out).detach().log_softmax(-1)
        here = found.isel(layer=layer)
        np.testing.assert_allclose(here["value"].values, out, **near)
        np.testing.assert_allclose(here["entropy"], -(out.exp() * out).sum(-1), **near)
        np.testing.assert_allclose(here["kl"], (last.exp() * (last - out)).sum(-1), **near)
        best = np.take_along_axis(out.numpy(), here["top_id"].values, -1)
        np.testing.assert_allclose(best, out.sort(-1, descending=True).values, **near)
        order = here["value"].values.argsort(-1)[..., ::-1]
        np.testing.assert_array_equal(here["rank"].values.astype(int), order.argsort(-1))
    assert float(found["kl"].isel(layer=0).mean()) > 1e-2


def test_the_model_itself_under_hooks_gives_the_same(tokens: torch.Tensor) -> None:
    model = small.model()
    fast, slow = (
        lens.logit(model, tokens.tolist(), [3, 4], engine=engine) for engine in ("fast", "reference")
    )
    np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-9)
    np.testing.assert_allclose(fast["kl"], slow["kl"], atol=1e-9)


def test_lengths_differ_and_nothing_is_said_behind_a_prompts_end(tokens: torch.Tensor) -> None:
    model, rows = small.model(), [tokens[0].tolist(), tokens[1, :4].tolist()]
    both, alone = lens.logit(model, rows, [3]), lens.logit(model, [rows[1]], [3])
    np.testing.assert_allclose(both["value"].values[1, :, :4], alone["value"].values[0], atol=1e-9)
    assert np.isnan(both["value"].values[1, :, 4:]).all()
    assert (both["top_id"].values[1, :, 4:] == -1).all()
    last = lens.logit(model, rows, [3], pos="last")
    np.testing.assert_allclose(last["value"].values[1, :, 0], both["value"].values[1, :, 3], atol=1e-9)


def test_the_first_layer_is_where_the_target_comes_to_stay() -> None:
    from interp.lens._logit import first_layer

    rank = np.array([[[0], [2], [0], [0]], [[0], [0], [0], [1]], [[0], [0], [0], [0]]])
    assert first_layer(rank, np.array([0, 1, 2, 3]))[:, 0].tolist() == [2, -1, 0]


def test_what_heads_write_adds_up_to_what_attention_writes(tokens: torch.Tensor) -> None:
    model = small.model()
    ids = list(range(architectures.VOCAB))
    heads = lens.logit(model, tokens.tolist(), ids, site="z")
    whole = lens.logit(model, tokens.tolist(), ids, site="attn_out")
    bias = torch.stack([block.attn.b_O.detach() for block in model.blocks])
    rest = torch.from_numpy(_all(lens.read(model, bias, top=architectures.VOCAB)))
    total = heads["value"].sum("head").values + rest[None, :, None].numpy()
    np.testing.assert_allclose(total, whole["value"].values, atol=1e-9)
    assert abs(heads["value"]).max() > 1e-2


def _all(read: Any) -> np.ndarray:
    """Values of every token of the vocabulary, in the order of the ids."""
    return np.take_along_axis(read["value"].values, read["top_id"].values.argsort(-1), -1)


def test_a_direction_is_read_by_gain_and_unembedding_alone() -> None:
    model = small.model()
    vector = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gain = getattr(model.ln_final, "w", getattr(model.ln_final, "weight", None)).detach()
    expected = ((vector - vector.mean()) * gain) @ model.W_U.detach()
    expected = expected - expected.mean()
    np.testing.assert_allclose(
        _all(lens.read(model, vector, top=architectures.VOCAB))[0], expected, atol=1e-9
    )
    by_direction = interp.steering.Direction.from_tensor(vector, "L1.resid_pre").lens(model) * vector.norm()
    np.testing.assert_allclose(expected, by_direction - by_direction.mean(), atol=1e-9)


def test_a_neuron_is_read_by_what_it_writes() -> None:
    model = small.model()
    found = lens.read(model, ["L1N7", "L2N0"], top=3)
    rows = torch.stack([model.blocks[1].mlp.W_out[7], model.blocks[2].mlp.W_out[0]]).detach()
    same = lens.read(model, rows, top=3)
    np.testing.assert_array_equal(found["top_id"], same["top_id"])
    assert found["row"].values.tolist() == ["L1N7", "L2N0"]


def test_the_answers_of_a_task_are_its_targets() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=6, seed=0)
    found = lens.logit(model, task, pos="last")
    np.testing.assert_array_equal(found["target_id"].values[:, 0, 0], task.answers[:, 0])
    assert float((found["rank"].isel(layer=-1) == 0).mean()) == 1  # it solves the task
    assert float(found["value"].isel(layer=-1).mean()) > float(found["mean_stream"].isel(layer=-1).mean())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, t: lens.logit(m, t.tolist(), [99]), "targets: 99 is no token"),
        (lambda m, t: lens.logit(m, t.tolist(), [3], site="q"), "site is 'q'; a lens reads"),
        (lambda m, t: lens.logit(m, t.tolist(), [3], as_="vector"), "as_ is 'vector'"),
        (lambda m, t: lens.logit(m, t.tolist(), [3], top=0), "top is 0"),
        (lambda m, t: lens.logit(m, t.tolist(), torch.zeros(5, 1).long()), r"targets has shape \(5, 1\)"),
        (lambda m, t: lens.logit(m, t.tolist(), [3], pos=(1, 3)), "several positions"),
        (lambda m, t: lens.read(m, torch.zeros(3, 7)), r"vectors has shape \(3, 7\)"),
        (lambda m, t: lens.read(m, ["L1H2"]), "'L1H2' is no neuron"),
        (lambda m, t: lens.tuned(m, t[:1].tolist()), "1 prompts have tokens"),
        (lambda m, t: lens.tuned(m, t.tolist(), ridges=[0.0]), r"ridges is \[0.0\]"),
        (lambda m, t: lens.jacobian(m, t.tolist()), "no prompt has more than skip"),
        (
            lambda m, t: lens.jacobian(m, t.tolist(), layer=2, skip=1),
            "the last layer's stream is read as it is",
        ),
    ],
)
def test_mistakes_are_said_before_a_pass(call: Any, said: str, tokens: torch.Tensor) -> None:
    model = small.model()
    with two_sides.no_pass(model), pytest.raises(ValueError, match=said):
        call(model, tokens)


def test_a_readout_that_is_not_the_models_is_refused(tokens: torch.Tensor) -> None:
    """A hook of the user's on the unembedding stands for a head that no lens knows."""
    model = small.model()
    model.add_hook(
        "unembed.hook_out" if "unembed.hook_out" in model.hook_dict else "ln_final.hook_normalized",
        lambda tensor, hook: tensor * 2 + 1,
    )
    try:
        with pytest.raises(ValueError, match="do not give its logits"):
            lens.logit(model, tokens.tolist(), [3])
    finally:
        model.reset_hooks()
