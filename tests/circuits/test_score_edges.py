"""Edge scores: against autograd on split inputs, against exact effects, and the laws that they obey."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import architectures
import masks as M
import naive
import numpy as np
import pytest
import small
import split
import torch

import interp
from interp.circuits import Graph, score_edges
from interp.circuits._run.job import prepare, start
from interp.circuits._score import estimates
from interp.circuits._score.passes import Sizes
from interp.circuits._search.soft import Batches
from interp.methods import IG, Atp, Exact, FlowRoutes, GradPath, Method, Relp, Secant
from interp.tasks import Custom, LogProb, Task
from interp.tasks.handmade import some_inputs

NAMES = [
    name
    for number, (name, _) in enumerate(architectures.grid())
    if (number % 17 == 5 or number >= 120) and name not in M.POST_NORM
]
FEW = [
    "LN-gelu_new-plain-serial-gqa-rotary",
    "RMSPre-silu-gated-parallel-gqa-learned",
    "none-relu-gated-serial-mha-rotary",
    "attn-only",
]
ESTIMATES = [
    Atp(),
    IG(steps=2),
    IG(steps=1, variant="activations"),
    IG(variant="clean-corrupted"),
    GradPath(steps=2),
    Relp(),
    Secant(),
]


def model_of(name: str) -> Any:
    return architectures.build(dict(architectures.grid())[name])


def real(result: Any) -> np.ndarray:
    """The scores of the edges that there are: [prompt, edge]."""
    values = result["value"].values
    return values[:, ~np.isnan(values[0])]


@pytest.mark.parametrize("name", NAMES)
def test_eap_is_autograd_on_split_inputs(name: str) -> None:
    """Without copies of the stream, and under grouped-query attention summed over the heads of a group."""
    model, task = model_of(name), M.task()
    found, wanted = score_edges(model, task)["value"].values, split.scores(model, task)
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    assert (abs(wanted[:, Graph.of(model).allowed.numpy()]) > 1e-6).mean() > 0.5


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("name", FEW)
def test_ablations_are_autograd_on_split_inputs(name: str, ablation: str) -> None:
    model, task = model_of(name), M.uneven()
    found, wanted = (
        score_edges(model, task, ablation=ablation)["value"].values,
        split.scores(model, task, ablation),
    )
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    assert np.nanmax(abs(wanted)) > 1e-2


def test_constants_are_what_cut_edges_carry() -> None:
    """Zeros are zero ablation."""
    model, task = model_of(FEW[0]), M.task()
    graph = Graph.of(model)
    zeros = torch.zeros(len(graph.writers), model.cfg.d_model, dtype=torch.float64)
    found, wanted = score_edges(model, task, ablation=zeros), score_edges(model, task, ablation="zero")
    np.testing.assert_allclose(found["value"], wanted["value"], atol=1e-12)
    zeros[1, 0] = 1.0
    other = abs(score_edges(model, task, ablation=zeros)["value"] - wanted["value"]).max(("prompt", "reader"))
    assert [writer for writer, gap in zip(graph.writers, other.values) if gap > 1e-3] == ["a0.h0"]


@pytest.mark.parametrize("method", [Exact(), *ESTIMATES])
def test_in_a_linear_model_every_method_gives_the_exact_effects(method: Method) -> None:
    model = interp.load("linear", dtype="float64")
    task = some_inputs(model, "linear", 6)
    found = score_edges(model, task, method=method)["value"].values
    wanted = score_edges(model, task, method="exact")["value"].values
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    assert (abs(wanted[~np.isnan(wanted)]) > 1e-3).sum() > 10


@pytest.mark.parametrize("name", FEW[:2])
@pytest.mark.parametrize("method", [one for one in ESTIMATES if not isinstance(one, (Relp, GradPath))])
def test_small_corruptions_leave_a_second_order_error(name: str, method: Method) -> None:
    """Halving the distance of both embeddings quarters the error. (relp is no slope of the model, and a step
    of eap-gp is as long as ever.)"""
    model, clean = model_of(name), architectures.tokens(1, 1, 5)[0]
    spare = next(token for token in range(1, architectures.VOCAB) if token not in clean)
    corrupt = clean.clone()
    corrupt[0, 1] = spare
    task = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3], wrong=[4])
    table, errors = model.W_E.detach().clone(), []
    for step in (1e-2, 5e-3):
        with torch.no_grad():
            model.embed.W_E[spare] = torch.lerp(table[clean[0, 1]], table[spare], step)
        exact = real(score_edges(model, task, method="exact"))
        errors.append(abs(real(score_edges(model, task, method=method)) - exact).max())
        assert abs(exact).max() > 1e-3
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("family", small.FAMILIES)
def test_bridges_and_hooked_transformers_agree(family: str) -> None:
    """A bridge has no split mode; the slopes in a soft mask are the same scores."""
    model, task = small.bridge(family), M.task()
    found = score_edges(model, task)["value"].values
    np.testing.assert_allclose(found, mask_slopes(model, task), atol=1e-5)
    assert np.nanmax(abs(found)) > 1e-2


def mask_slopes(model: Any, task: Task) -> np.ndarray:
    """d metric / d m at m = 1 of every edge, prompt by prompt."""
    job = start(prepare(model, task))
    soft, clean = Batches(job, len(task), 0).draw(0, None)
    mask = torch.ones(len(task), *job.graph.allowed.shape, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(soft.score(soft.logits(mask), clean).sum(), mask)[0]
    return slope.where(job.graph.allowed, math.nan).numpy()


@pytest.mark.parametrize("method", [IG(steps=16, rule="gauss"), Secant()])
def test_the_edges_out_of_the_input_add_up_to_the_metric_gap(method: Method) -> None:
    model, task = model_of(FEW[0]), M.task()
    found = score_edges(model, task, method=method)
    total = found["value"].sel(writer="input").sum("reader").values
    assert total == pytest.approx((found["clean"] - found["corrupt"]).values, abs=3e-3)
    assert abs(total).min() > 0.05


def test_activations_add_up_to_the_effect_of_replacing_a_part() -> None:
    """All edges out of the heads of a layer, or out of an MLP."""
    model, task = model_of(FEW[0]), M.task()
    found = score_edges(model, task, method=IG(6, "gauss", "activations"))
    found = found["value"].sum("reader")
    for writers, site in (([f"a1.h{head}" for head in range(4)], "attn_out"), (["m1"], "mlp_out")):
        patched = interp.patch(model, task, site, by="layer", direction="noise", progress=False)
        wanted = patched["value"].sel(layer=1).values
        assert found.sel(writer=writers).sum("writer").values == pytest.approx(wanted, abs=1e-4)
        assert abs(wanted).max() > 0.05


@pytest.mark.parametrize("stride", [1.0, None])
def test_a_grad_path_is_one_of_autograd(stride: float | None) -> None:
    """One prompt at a time, with plain hooks: the points, and the slopes on split inputs at each."""
    model, task, steps = model_of(FEW[0]), M.uneven(), 3
    starts = [grad_path(model, task[[prompt]], steps, stride) for prompt in range(len(task))]
    found = score_edges(model, task, method=GradPath(steps, stride))
    wanted = split.scores(model, task, starts=starts)
    np.testing.assert_allclose(found["value"].values, wanted, atol=1e-9)
    assert np.nanmax(abs(wanted - score_edges(model, task, method=IG(steps, "left"))["value"].values)) > 1e-2
    assert (found.attrs["forwards"], found.attrs["path_backwards"]) == (2 + 2 * steps, steps)


def grad_path(model: Any, task: Task, steps: int, stride: float | None) -> list[torch.Tensor]:
    """The points on the way from the clean input down to the corrupt run's logits."""
    name, at = "blocks.0.hook_resid_pre", task.positions[0]

    def run(tokens: torch.Tensor, start: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        kept = []
        keep = lambda x, hook: kept.append(x) if start is None else start  # noqa: E731
        return model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])[0, at], (kept or [start])[0]

    with torch.no_grad():
        (_, point), (target, far) = run(task.clean, None), run(task.corrupt, None)
    length = float((far - point).norm()) / steps if stride is None else stride
    out = []
    for _ in range(steps):
        leaf = point.clone().requires_grad_(True)
        ((run(task.clean, leaf)[0] - target) ** 2).sum().backward()
        point = point - length * leaf.grad / leaf.grad.norm()
        out.append(point.clone().requires_grad_(True))
    model.zero_grad()
    return out


def test_where_the_path_is_straight_it_is_that_of_integrated_gradients() -> None:
    """Logits that are the input itself: down the gradient is straight on to the other prompt."""
    shape = {"n_layers": 1, "d_vocab": architectures.BASE["d_model"]}
    model = architectures.build({"attn_only": True, "normalization_type": None, **shape})
    with torch.no_grad():
        model.unembed.W_U.copy_(torch.eye(len(model.W_U)))
        model.blocks[0].attn.W_O.zero_()
    prompts = {"clean": [[1, 2, 3]], "corrupt": [[1, 2, 5]], "answer": [3], "wrong": [5]}
    task = Task.from_tokens(**prompts, metric=LogProb())
    path = score_edges(model, task, method=GradPath(4, None))["value"].values
    straight = score_edges(model, task, method=IG(4, "left"), direction="denoise")["value"].values
    np.testing.assert_allclose(path, straight, atol=1e-12)
    assert np.nanmax(abs(path)) > 1e-2
    other = score_edges(model, task, method=IG(4, "left"))["value"].values
    assert np.nanmax(abs(path - other)) > 1e-3


def test_left_sums_omit_the_corrupt_end_and_the_midpoint_does_not() -> None:
    """One step to the left is the slope at the clean end; the sum over the input misses the gap."""
    model, task = model_of(FEW[0]), M.task()
    eap, left = score_edges(model, task), score_edges(model, task, method=IG(1, "left"))
    np.testing.assert_allclose(left["value"], eap["value"], atol=1e-12)
    gap = (eap["clean"] - eap["corrupt"]).values
    misses = [
        abs(score_edges(model, task, method=IG(4, rule))["value"].sel(writer="input").sum("reader") - gap)
        for rule in ("left", "midpoint")
    ]
    assert float(misses[0].max()) > 5 * float(misses[1].max())


@pytest.mark.parametrize("method", ESTIMATES)
def test_prompts_do_not_touch_one_another(method: Method) -> None:
    """In a batch, alone, one at a time: scores do not grow with the batch."""
    model, task = model_of(FEW[0]), M.task(3)
    whole = real(score_edges(model, task, method=method))
    singly = real(score_edges(model, task, method=method, batch_size=1))
    alone = real(score_edges(model, task[[1]], method=method))
    np.testing.assert_allclose(singly, whole, atol=1e-10)
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-10)
    assert abs(whole).max() > 1e-2


def test_padding_is_nothing() -> None:
    model, task = model_of(FEW[1]), M.uneven()
    n = int(task.lengths[1])
    short = Task.from_tokens(clean=task.clean[1:2, :n], corrupt=task.corrupt[1:2, :n], answer=[4], wrong=[8])
    for method in ("eap", "flow-routes", "eap-ig"):
        whole, alone = score_edges(model, task, method=method), score_edges(model, short, method=method)
        np.testing.assert_allclose(real(alone)[0], real(whole)[1], atol=1e-10)


def test_little_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Position by position, prompt by prompt."""
    model, task = model_of(FEW[0]), M.task(3)
    whole = real(score_edges(model, task))
    little = Sizes(prompts=2, positions=1, by_block=False, each=0, least=0)
    monkeypatch.setattr(estimates, "sizes", lambda *args: little)
    np.testing.assert_allclose(real(score_edges(model, task)), whole, atol=1e-12)
    assert abs(whole).max() > 1e-2


@pytest.mark.parametrize("method", [*ESTIMATES, FlowRoutes()])
def test_positions_add_up(method: Method) -> None:
    clean, corrupt = architectures.tokens(first=1)
    model, task = (
        model_of(FEW[1]),
        Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6]),
    )
    by_pos = score_edges(model, task, method=method, positions=True)["value"]
    assert by_pos.dims == ("prompt", "pos", "writer", "reader")
    whole = score_edges(model, task, method=method)["value"]
    np.testing.assert_allclose(by_pos.sum("pos", min_count=1), whole, atol=1e-10)
    if method != FlowRoutes():
        assert float(abs(by_pos.sel(pos=0)).max()) == 0  # before the first difference
    assert (abs(by_pos) > 1e-4).sum("pos").max() > 1


def test_denoise_is_noise_with_the_prompts_exchanged() -> None:
    """The same two runs, seen from the other side, for the same metric."""
    model, task = model_of(FEW[0]), M.task()
    swapped = Task.from_tokens(
        clean=task.corrupt, corrupt=task.clean, answer=task.answer, wrong=task.wrong, positions=task.positions
    )
    denoise, noise = score_edges(model, task, direction="denoise"), score_edges(model, swapped)
    np.testing.assert_allclose(denoise["value"], -noise["value"], atol=1e-12)
    np.testing.assert_allclose(denoise["clean"], noise["corrupt"], atol=1e-12)
    assert np.nanmax(abs(noise["value"])) > 1e-2


def test_positive_helps_whatever_is_better() -> None:
    """Loss is better when lower: minus the log probability has the effects of the log probability."""
    model, task = model_of(FEW[0]), M.task()
    worse = Custom(lambda reading: -LogProb()(reading), name="nll", unit="nats", better="lower")
    found, wanted = (score_edges(model, task, metric=metric)["value"] for metric in (worse, LogProb()))
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert np.nanmax(abs(wanted)) > 1e-2


def test_the_cut_effect_has_the_sign_of_the_naive_forward() -> None:
    """The edge with the largest exact score: cutting it lowers the logit difference by its score."""
    model, task = model_of(FEW[3]), M.task(1)
    graph, found = Graph.of(model), score_edges(model, task, method="exact")["value"].values[0]
    best = np.unravel_index(np.nanargmax(found), found.shape)
    edge = graph.name(*map(int, best))
    replaced = naive.replacements(model, task, "resample")
    ends = [naive.answer_logits(model, task, cut, replaced)[0] for cut in ((), (edge,))]
    difference = [float(logits[task.answer[0]] - logits[task.wrong[0]]) for logits in ends]
    assert found[best] == pytest.approx(difference[0] - difference[1], abs=1e-10)
    assert found[best] > 0.1


def test_a_result_says_what_it_is() -> None:
    model, task = model_of(FEW[0]), M.task()
    found = score_edges(model, task, method=IG(3, "gauss"))
    wanted = {"method": "eap-ig", "variant": "inputs", "steps": 3, "rule": "gauss", "direction": "noise"}
    wanted |= {"ablation": "resample", "metric": "logit_diff", "forwards": 5, "backwards": 3}
    assert {key: found.attrs[key] for key in wanted} == wanted
    assert "estimate" in found.attrs["convention"]
    assert int(found["value"].notnull().sum()) == len(task) * Graph.of(model).n_edges


def test_the_model_is_left_as_found() -> None:
    model, task = model_of(FEW[0]), M.task()
    before = torch.random.get_rng_state()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    for method in ESTIMATES:
        score_edges(model, task, method=method)
    assert torch.equal(before, torch.random.get_rng_state())
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_frozen_weights_and_inference_mode_are_no_obstacle() -> None:
    model, task = model_of(FEW[0]), M.task()
    wanted = real(score_edges(model, task))
    model.requires_grad_(False)
    with torch.inference_mode():
        np.testing.assert_allclose(real(score_edges(model, task)), wanted, atol=1e-12)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "relp"])
def test_scores_by_span_are_sums_over_its_positions(method: str) -> None:
    """Of prompts of one length by position; of any length, a span that is the whole prompt is all of it."""
    model, rng = small.model(), np.random.default_rng(0)
    spans = {"verb": [1, None, 3, 4], "rest": [[2, 3, 5]] * 4, "whole": [slice(None)] * 4}

    def task(sizes: tuple[int, ...]) -> Task:
        rows = [[rng.integers(1, 30, size).tolist() for size in sizes] for _ in range(2)]
        return Task.from_tokens(
            clean=rows[0], corrupt=rows[1], answer=[3, 4, 5, 6], wrong=[7, 8, 9, 10], spans=spans
        )

    even = task((8,) * 4)
    by_span, by_pos = (
        score_edges(model, even, method=method, positions=which, progress=False)["value"]
        for which in ("span", True)
    )
    total = by_pos.sel(pos=[2, 3, 5]).sum("pos", skipna=False)
    np.testing.assert_allclose(by_span.sel(span="rest"), total, atol=1e-12)
    assert abs(by_span.sel(span="rest")).max() > 1e-3
    assert np.isnan(by_span[1].sel(span="verb")).all()
    assert by_span["present"].values.tolist() == [3, 4, 4]
    ragged = task((8, 7, 9, 6))
    scores = score_edges(model, ragged, method=method, positions="span", progress=False)
    whole = score_edges(model, ragged, method=method, progress=False)["value"]
    np.testing.assert_allclose(scores["value"].sel(span="whole"), whole, atol=1e-12)
    assert interp.circuits.top(scores.sel(span="rest"), 5).n_edges == 5


def test_spans_that_cannot_be_scored_are_sentences() -> None:
    model = small.model()
    plain = Task.from_tokens(clean=[[1, 2, 3]], corrupt=[[1, 4, 3]], answer=[5], wrong=[6])
    named = replace(plain, spans={"verb": torch.tensor([[False, True, False]])})
    for task, options, message in (
        (plain, {}, "positions='span' needs named positions, and the task has none"),
        (named, {"method": "flow-routes"}, "flow-routes are shares of an input at a position"),
        (named, {"method": "exact"}, "method 'exact' cuts an edge at all positions at once"),
        (named, {"positions": "spam"}, "positions is 'spam'; use True, False or 'span'; did you mean 'span'"),
    ):
        with pytest.raises(ValueError, match=message):
            score_edges(model, task, **{"positions": "span", "progress": False, **options})
