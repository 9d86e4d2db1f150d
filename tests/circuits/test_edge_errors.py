"""Requests that cannot be scored: clear errors before the first forward pass."""

from __future__ import annotations

import inspect
from typing import Any

import architectures
import masks as M
import pytest
import torch
from test_score_edges import FEW, model_of

from interp.circuits import Circuit, Graph, acdc, score_edges, score_nodes, train_mask
from interp.methods import IG, AtpStar, Relp
from interp.tasks import KL, LogitDiff, Rank

CASES: list[tuple[dict[str, Any], str]] = [
    ({"method": "eaq"}, "is not one of eap, eap-ig"),
    ({"method": AtpStar()}, "edges are scored by eap, eap-ig"),
    ({"method": "eap-ig", "ablation": "zero"}, "works between two runs"),
    ({"method": "secant", "ablation": "mean"}, "works between two runs"),
    ({"method": Relp(half=True)}, "half"),
    ({"metric": Rank()}, "has no gradient"),
    ({"metric": KL()}, "its slope is 0"),
    ({"ablation": "median"}, "is not one of resample"),
    ({"ablation": torch.zeros(3, 4)}, "the constants are"),
    ({"method": IG(variant="activations"), "ablation": torch.zeros(16, 24)}, "constants stand for"),
    ({"ablation": "zero", "direction": "denoise"}, "denois"),
    ({"direction": "sideways"}, "is not one of"),
    ({"batch_size": 0}, "at least 1"),
    ({"memory": 0}, "memory is 0"),
    ({"method": "exact", "positions": True}, "at all positions at once"),
]


def never(*args: Any, **options: Any) -> None:
    raise AssertionError("a forward pass")


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that must not be run."""
    model = model_of("LN-gelu_new-plain-serial-mha-learned")
    monkeypatch.setattr(model, "forward", never)
    return model


@pytest.mark.parametrize(("options", "message"), CASES)
def test_what_cannot_be_scored_is_refused_at_once(still: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_edges(still, M.task(), **options)


def test_positions_need_prompts_of_one_length(still: Any) -> None:
    with pytest.raises(ValueError, match=r"4 to 9 tokens"):
        score_edges(still, M.uneven(), positions=True)


@pytest.mark.parametrize("name", M.POST_NORM)
@pytest.mark.parametrize("call", [score_edges, score_nodes, train_mask])
def test_post_norm_models_have_no_edges(name: str, call: Any) -> None:
    model = architectures.build(dict(architectures.grid())[name])
    with pytest.raises(ValueError, match=" of its own"):
        call(model, M.task())


def test_shared_keys_have_one_name() -> None:
    graph = Graph.of(model_of(FEW[0]))
    with pytest.raises(ValueError, match=r"a1\.h1<k>"):
        Circuit.from_edges(graph, ["input->a1.h3<k>"])


def test_a_model_whose_heads_do_not_add_up_is_refused() -> None:
    """Something scales what attention writes, after the heads."""
    model = model_of(FEW[0])
    attn = model.blocks[1].attn
    handle = attn.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(ValueError, match="hooks are attached to the model"):
        score_edges(model, M.task())
    handle.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.2}, "from 0 to 1"),
        ({"granularity": "neurons"}, "is not one of edges, nodes"),
        ({"gate": "hard"}, "is not one of hard-concrete"),
        ({"steps": 0}, "steps is 0"),
        ({"metric": Rank()}, "has no gradient"),
        ({"ablation": "median"}, "is not one of resample"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(still: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_mask(still, M.task(), **options)
    assert inspect.signature(train_mask).parameters["ablation"].default == "resample"


@pytest.mark.parametrize("call", [acdc, train_mask])
def test_one_metric_decides(still: Any, call: Any) -> None:
    more = {"threshold": 0.1} if call is acdc else {}
    with pytest.raises(ValueError, match="decides by one metric, and got kl, logit_diff"):
        call(still, M.task(), metric=[KL(), LogitDiff()], **more)
