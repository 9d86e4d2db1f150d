"""Roles by named positions: attention from the end, copying by Wang et al., on models built by hand."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch
import toys

import interp
from interp import heads

WHERE = {"io": 0, "s1": 1, "s2": 1, "end": -1}


def test_a_mover_and_a_negative_mover():
    sketch = toys._blank(toys.WORDS, ("tok", "out"), n_layers=1, n_heads=3)
    for head, gain in ((0, 1.0), (1, -0.5)):
        looks = [("end", "pos 0", toys.SHARP)]
        sketch.head(0, head, looks=looks, moves=toys.moves("tok", "out", gain))
    model, task = toys.model(sketch), toys.task(sketch, toys.WORDS)
    found = heads.roles(model, task, **WHERE)
    value = found["value"].mean("prompt")
    np.testing.assert_allclose(value.sel(score="name_mover", layer=0), [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(value.sel(score="inhibition", layer=0), [0, 0, 0.5], atol=1e-6)
    assert found["copies"].mean("prompt").values[0, 0] == 1
    assert found["suppresses"].mean("prompt").values[0, 1] == 1
    np.testing.assert_allclose(found["direct"].mean("prompt").values[0], [10, -5, 0], atol=1e-6)
    assert found.attrs["chance"] == 5 / model.cfg.d_vocab


def test_attention_and_copying_are_those_of_hooks():
    model = small.model()
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])
    where = {"io": lambda ids, lengths: torch.tensor([1, 3]), "s1": 2, "s2": (4, 6), "end": -1}
    found = heads.roles(model, task, **where)
    _, cache = model.run_with_cache(clean)
    pattern = cache["blocks.1.attn.hook_pattern"].detach()[:, :, -1]  # [prompt, head, src]
    np.testing.assert_allclose(
        found["value"].sel(score="inhibition", layer=1), pattern[..., 4:6].sum(-1), atol=1e-6
    )
    mover = pattern[[0, 1], :, [1, 3]] - pattern[..., 2]
    np.testing.assert_allclose(found["value"].sel(score="name_mover", layer=1), mover, atol=1e-6)
    block = model.blocks[2]
    x = block.ln1(cache["blocks.0.hook_resid_post"])[[0, 1], [1, 3]]
    for head in range(4):
        write = (x @ block.attn.W_V[head] + block.attn.b_V[head]) @ block.attn.W_O[head]
        for name, sign in (("copies", 1), ("suppresses", -1)):
            logits = model.unembed(model.ln_final((sign * write)[None]))[0]
            own = logits[[0, 1], clean[[0, 1], [1, 3]]]
            expected = (logits > own[:, None]).sum(1) < 5
            assert found[name].sel(layer=2, head=head).values.tolist() == expected.double().tolist()
    assert 0 < float(found["copies"].mean()) < 1


def test_prompts_of_a_part_may_be_shorter_than_the_whole():
    """The tokens of a part of a task stay as wide as the longest prompt of all."""
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=24, seed=0)
    short = (task.lengths < task.lengths.max()).nonzero().flatten()[:4]
    part, alone = heads.roles(model, task[short]), heads.roles(model, task)
    np.testing.assert_allclose(part["value"], alone["value"][short.numpy()], atol=1e-5)


def test_a_task_without_a_logit_difference_has_no_direct_effects():
    model = interp.load("tiny-ioi")
    task = heads.repeats(model, n=3, length=6)
    found = heads.roles(model, task, **WHERE)
    assert np.isnan(found["direct"]).all()
    assert "no wrong answers" in found.attrs["direct"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"end": (0, 2)}, "end must be one position"),
        ({"s1": 500}, "position 500 is outside"),
    ],
)
def test_bad_input_is_one_sentence(where, message):
    model = interp.load("tiny-ioi")
    with pytest.raises(ValueError, match=message):
        heads.roles(model, interp.tasks.ioi(model, n=4), **(WHERE | where))
