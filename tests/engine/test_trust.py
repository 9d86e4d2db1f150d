"""The trust check: the model's weights only where they give its logits, and saying so where they do not."""

from __future__ import annotations

import dataclasses

import architectures
import pytest
import torch
from sides import PLAIN, all_cells, make_runs

from interp.engine import trust
from interp.models import weights


@pytest.fixture
def model():
    return architectures.build(dict(architectures.grid())[PLAIN])


def pick(model, engine="auto", site="z"):
    cells = all_cells(model, site, ("layer", "head"))
    with torch.inference_mode():
        return trust.choose(model, make_runs(), cells, engine)


def wrong_scale(model):
    """Weights as they would be read from a model whose attention scale was misunderstood."""
    good = weights(model)
    blocks = tuple(dataclasses.replace(b, attn=dataclasses.replace(b.attn, scale=1.7)) for b in good.blocks)
    return dataclasses.replace(good, blocks=blocks)


def test_fast_is_chosen_and_checked_once(model, monkeypatch):
    calls = []
    check = trust._difference
    monkeypatch.setattr(trust, "_difference", lambda *a: (calls.append(1), check(*a))[1])
    assert [pick(model) for _ in range(3)] == ["fast"] * 3
    assert len(calls) == 1
    assert pick(model, site="q") == "fast"
    assert len(calls) == 2


def test_misread_weights_fall_back(model, monkeypatch):
    monkeypatch.setattr(trust, "weights", wrong_scale)
    with pytest.warns(UserWarning, match=r"using the reference engine, 12 forward passes .* its logits"):
        assert pick(model) == "reference"
    with pytest.raises(ValueError, match=r"fast engine cannot run this model: its weights do not give"):
        pick(model, "fast")


def test_missing_parts_fall_back(model, monkeypatch):
    def broken(model):
        raise AttributeError("no such part")

    monkeypatch.setattr(trust, "weights", broken)
    with pytest.warns(UserWarning, match=r"not laid out as expected .*no such part"):
        assert pick(model) == "reference"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_dir": "bidirectional"}, "attention is not causal"),
        ({"use_logn_attn": True}, "log n"),
        ({"act_fn": "solu_ln"}, "activation 'solu_ln'"),
        ({"positional_embedding_type": "shortformer"}, "position embedding 'shortformer'"),
    ],
)
def test_architectures_left_to_the_reference(change, reason):
    model = architectures.build(change)
    with pytest.warns(UserWarning, match=reason):
        assert pick(model) == "reference"


def test_reference_needs_no_check(model, monkeypatch):
    monkeypatch.setattr(trust, "_difference", None)
    assert pick(model, "reference") == "reference"


def test_verdicts_do_not_keep_a_model_alive():
    import gc
    import weakref

    model = architectures.build({})
    pick(model)
    watch = weakref.ref(model)
    del model
    gc.collect()
    assert watch() is None
