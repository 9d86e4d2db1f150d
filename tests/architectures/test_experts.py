"""Router and experts as sites, against plain torch hooks and the weights of transformers' own experts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import architectures
import pytest
import torch
import torch.nn.functional as F
import verbs
import zoo
from experts import SITES, Experts
from torch import Tensor

import interp
from interp.models import anatomy, expert_points

MIXTURES = ("Mixtral", "Qwen 2 MoE", "Qwen 3 MoE", "gpt-oss")
QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(autouse=True)
def no_slopes() -> Iterator[None]:
    with torch.no_grad():
        yield


@functools.cache
def case(name: str) -> verbs.Case:
    return verbs.case(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_patches_are_those_of_plain_hooks(name: str) -> None:
    one = case(name)
    oracle = Experts(one)
    base = one.metric(one.oracle.logits(one.task.corrupt))
    for site in SITES:
        found = interp.patch(one.model, one.task, site, engine="reference", **QUIET)
        assert found["value"].dims == ("prompt", "layer", "expert")
        right = torch.stack([oracle.effects(site, layer) for layer in range(3)], 1)
        assert verbs.as_metric(found, right, base) <= 1e-5, site
        assert float(right.abs().max()) > 1e-3
    names = ["L0E1.router@3", "L1E2@8", "L0E0@3"]
    cells = interp.patch(one.model, one.task, cells=names, engine="reference", **QUIET)
    right = [oracle.patched(*place) - base for place in (("router", 0, 1, 3), ("expert_out", 1, 2, 8))]
    right.append(oracle.patched("expert_out", 0, 0, 3) - base)
    assert verbs.as_metric(cells, torch.stack(right, -1), base) <= 1e-5


@pytest.mark.parametrize("name", MIXTURES)
def test_estimates_are_those_of_plain_hooks(name: str) -> None:
    one = case(name)
    oracle = Experts(one)
    for site in SITES:
        found = interp.attribute(one.model, one.task, site, **QUIET)
        right = torch.stack([oracle.estimated(site, layer) for layer in range(3)], 1)
        assert verbs.relative(found["value"], right) <= 1e-5, site
        assert float(right.abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["Mixtral", "gpt-oss"])
def test_a_model_is_left_as_it_was(name: str) -> None:
    model, tokens = case(name).model, case(name).task.clean
    names, plain = set(model.hook_dict), model(tokens)
    before = interp.models.computation_fingerprint(model)
    with expert_points(model, ("router",)):
        assert len(set(model.hook_dict) - names) == 6
        assert torch.equal(model(tokens), plain)
    assert set(model.hook_dict) == names
    assert interp.models.computation_fingerprint(model) == before
    assert not any(
        module._forward_hooks for module in model.modules() if type(module).__name__[-7:] == "Experts"
    )


def test_every_expert_of_the_clean_run_is_its_mixture() -> None:
    """All experts at once are the mixture; ablated, nothing of it is left."""
    one = case("Mixtral")
    cells = [[f"L1E{number}" for number in range(4)], "MLP1"]
    for options in ({}, {"ablation": "zero"}, {"ablation": "mean"}):
        found = interp.patch(one.model, one.task, cells=cells, engine="reference", **options, **QUIET)
        experts, whole = found["value"].values.T
        assert verbs.relative(experts, whole) <= 1e-5
        assert abs(whole).max() > 1e-3


def test_layers_without_experts_have_no_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, config, options = zoo.FAMILIES["Qwen 2 MoE"]
    mixed = (kind, config, {**options, "mlp_only_layers": [0]})
    monkeypatch.setitem(zoo.FAMILIES, "one dense layer", mixed)
    monkeypatch.setattr(zoo, "SINGLE", (*zoo.SINGLE, "one dense layer"))
    one = verbs.case("one dense layer")
    found = interp.patch(one.model, one.task[:1], "expert_out", engine="reference", **QUIET)
    assert found["layer"].values.tolist() == [1, 2]
    assert float(abs(found["value"]).min("expert").max()) >= 0
    estimate = interp.attribute(one.model, one.task[:1], "router", **QUIET)
    assert estimate["layer"].values.tolist() == [1, 2]
    with pytest.raises(ValueError, match="layer 0 has no experts"):
        interp.patch(one.model, one.task, cells=["L0E1"], **QUIET)
    with pytest.raises(ValueError, match="only layers 1, 2 have a router"):
        interp.patch(one.model, one.task, "router", window=2, **QUIET)


def test_the_engine_is_chosen_and_plans_count() -> None:
    one = case("Mixtral")
    with pytest.warns(UserWarning, match="MixtralForCausalLM is a mixture of experts"):
        found = interp.patch(one.model, one.task[:1], "router", **QUIET)
    assert found.attrs["engine"] == "reference"
    assert interp.plan("patch", one.model, one.task, "router").cells == 12
    with pytest.raises(ValueError, match=r"expert 4 is out of range .* there are 4 experts"):
        interp.patch(one.model, one.task, cells=["L0E4"], **QUIET)


def test_models_without_experts_say_so() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=2)
    for verb in (interp.patch, interp.attribute):
        with pytest.raises(ValueError, match=r"no site 'router': \S+ has no experts"):
            verb(model, task, "router", **QUIET)
    with pytest.raises(ValueError, match="neither read nor steered"):
        interp.activations(case("Mixtral").model, [[1, 2]], "L0.router")


def test_a_mixture_of_hooked_transformers_own() -> None:
    """TransformerLens 3.9 has a mixture of its own, whose experts are modules."""
    config = {"num_experts": 4, "experts_per_token": 2, "gated_mlp": True, "act_fn": "silu"}
    model = architectures.build({**config, "normalization_type": "RMS", "dtype": torch.float32})
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[11, 12])
    assert anatomy(model).n_experts == 4
    layer, number = 1, 2
    kept: list[Tensor] = []
    mlp = model.blocks[layer].mlp

    def share(x: Tensor) -> Tensor:
        """What an expert adds [prompt, pos, d_model], by the weights."""
        probabilities = mlp.W_gate(x).softmax(-1)
        top = probabilities.topk(2, -1)
        weights = top.values / top.values.sum(-1, keepdim=True) if model.cfg.norm_topk_prob else top.values
        mine = (weights * (top.indices == number)).sum(-1, keepdim=True)
        expert = mlp.experts[number]
        return mine * expert.W_out(F.silu(expert.W_gate(x)) * expert.W_in(x))

    def measure(tokens: Tensor, act: Callable[..., Tensor]) -> Tensor:
        handle = mlp.register_forward_hook(lambda module, args, output: act(args[0], output))
        out = model(tokens)[torch.arange(2), -1]
        handle.remove()
        return out.gather(1, task.answers)[:, 0] - out.gather(1, task.wrongs)[:, 0]

    measure(clean, lambda x, output: kept.append(share(x.view(2, -1, x.shape[-1]))) or output)
    base = measure(corrupt, lambda x, output: output)
    right = measure(corrupt, lambda x, output: output + kept[0] - share(x)) - base
    found = interp.patch(model, task, "expert_out", engine="reference", **QUIET)["value"]
    mine = found.sel(layer=layer, expert=number).values
    assert abs(mine - right.numpy()).max() <= 1e-5
    assert abs(mine).max() > 1e-3
