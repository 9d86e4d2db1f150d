"""Optimal ablation: where the best constant is known, against zero and mean, in patches and in circuits."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import torch

import interp
from interp import circuits
from interp.ablation import Optimal
from interp.tasks import Custom, Task


def linear() -> tuple[Any, Task]:
    """One layer of attention whose heads write into different logits, which are the stream itself."""
    shape = {"n_layers": 1, "d_vocab": architectures.BASE["d_model"], "n_heads": 2, "d_head": 8}
    model = architectures.build({"attn_only": True, "normalization_type": None, **shape})
    with torch.no_grad():
        model.unembed.W_U.copy_(torch.eye(len(model.W_U)))
        model.blocks[0].attn.W_O.copy_(torch.eye(len(model.W_U))[: 2 * 8].view(2, 8, -1))
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(1, 16, (6, 5), generator=generator)
    apart = Custom(_apart, name="distance", unit="logits²", better="lower", reads_columns="vocabulary")
    return model, Task.from_tokens(clean=clean, answer=[3] * 6, wrong=[5] * 6, metric=apart)


def _apart(reading: Any) -> torch.Tensor:
    return (reading.logits - reading.clean).square().sum(-1)


def test_where_the_loss_is_a_square_the_constant_is_a_mean_at_the_answer() -> None:
    """Least squares: the mean of each head's z where the answer is read, neither zero nor the mean of all."""
    model, task = linear()
    found = interp.optimal_ablation(model, task, steps=300, metric=task.metric, progress=False)
    with torch.no_grad():
        z = model.run_with_cache(task.clean)[1]["blocks.0.attn.hook_z"]  # [prompt, pos, head, d_head]
    wanted = z[:, -1].mean(0)
    torch.testing.assert_close(found.values["z", 0], wanted, atol=2e-3, rtol=0)
    assert (wanted - z.mean((0, 1))).abs().max() > 0.05
    least = (z[:, -1] - wanted).square().sum(-1).mean(0)
    torch.testing.assert_close(found.losses["z", 0][0], least, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.losses["z", 0][2], z[:, -1].square().sum(-1).mean(0))


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> Task:
    return interp.tasks.ioi(model, n=6, seed=0)


@pytest.fixture(scope="module")
def optimal(model: Any, task: Task) -> Optimal:
    return interp.optimal_ablation(model, task, ("z", "mlp_out"), steps=12, progress=False)


@pytest.mark.parametrize("site", ["z", "mlp_out"])
def test_no_cell_loses_more_than_under_zero_or_the_mean(
    site: str, model: Any, task: Task, optimal: Optimal
) -> None:
    """Measured by `patch`, which knows nothing of the training: raw KL of the patched runs."""
    by = ("layer", "head") if site == "z" else "layer"
    options = {"metric": "kl", "progress": False}
    with torch.no_grad():
        cache = model.run_with_cache(task.clean)[1]
    real = torch.arange(task.clean.shape[1]) < task.lengths[:, None]
    points = [f"blocks.{layer}." + ("attn.hook_z" if site == "z" else "hook_mlp_out") for layer in range(3)]
    means = Optimal({(site, layer): cache[point][real].mean(0) for layer, point in enumerate(points)})
    kl = [
        interp.patch(model, task, site, by, ablation=each, **options)["value"].mean("prompt").values
        for each in (optimal, means, "zero")
    ]  # the KL of the clean run is 0, so that the effect is the KL of the patched one
    told = torch.stack([optimal.losses[site, layer] for layer in range(3)]).squeeze(-1).numpy()
    told = np.moveaxis(told, 1, 0)  # [3, layer, (head)]
    np.testing.assert_allclose(kl, told, atol=1e-4)
    assert (told[0] <= told[1] + 1e-9).all()
    assert (told[0] <= told[2] + 1e-9).all()
    assert told[0].mean() < 0.8 * min(told[1].mean(), told[2].mean())


def test_the_engines_agree(model: Any, task: Task, optimal: Optimal) -> None:
    fast, slow = (
        interp.patch(model, task, "z", ablation=optimal, engine=engine, progress=False)["value"]
        for engine in ("fast", "reference")
    )
    np.testing.assert_allclose(fast, slow, atol=1e-4)
    assert abs(slow).max() > 0.1
    estimate = interp.attribute(model, task, "z", ablation=optimal, progress=False)
    assert "optimal(z, mlp_out" in estimate.attrs["ablation"]


def test_circuits_cut_with_it(model: Any, task: Task) -> None:
    """What a cut edge carries is the constant of its writer, as constants [writer, d_model] carry it."""
    found = interp.optimal_ablation(model, task, "circuit", steps=3, progress=False)
    graph = circuits.Graph.of(model)
    writes = [found.values["resid_pre", 0]]
    for layer in range(3):
        z = found.values["z", layer]
        writes += list(torch.einsum("hd,hdm->hm", z, model.W_O[layer].to(z)))
        writes += [found.values["mlp_out", layer]]
    constants = torch.stack(writes).to(model.W_E)
    assert len(constants) == len(graph.writers)
    mask = circuits.top(circuits.score_edges(model, task, progress=False), 60)
    ours, theirs = (
        circuits.run(model, task, mask, ablation=ablation, progress=False)["value"]
        for ablation in (found, constants)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert abs(ours).max() > 0.1
    scores = circuits.score_edges(model, task, ablation=found, progress=False)["value"]
    again = circuits.score_edges(model, task, ablation=constants, progress=False)["value"]
    np.testing.assert_allclose(scores, again, atol=1e-4)


def test_memory_changes_nothing(model: Any, task: Task) -> None:
    whole, small = (
        interp.optimal_ablation(model, task[:2], steps=2, batch_size=size, progress=False)
        for size in (None, 6)
    )
    for place, value in whole.values.items():
        torch.testing.assert_close(small.values[place], value, atol=1e-5, rtol=0)


def test_what_cannot_be_is_a_sentence(model: Any, task: Task, optimal: Optimal) -> None:
    learn = interp.optimal_ablation
    for arguments, options, words in [
        (("pattern",), {}, "site 'pattern' has no optimal constant; use z"),
        (((),), {}, "sites is empty"),
        (("z",), {"steps": 0}, "steps is 0"),
        (("z",), {"learning_rate": -1}, "learning_rate is -1"),
        (("z",), {"metric": "rank"}, "metric 'rank' has no gradient"),
        (
            ("z",),
            {"metric": ["kl", "logit_diff"]},
            "constants are learned for one loss, and got kl, logit_diff",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            learn(model, task, *arguments, progress=False, **options)
    with pytest.raises(
        ValueError, match="the optimal constants are of z, mlp_out, and this patch needs those"
    ):
        interp.patch(model, task, "resid_pre", ablation=optimal, progress=False)
    with pytest.raises(ValueError, match="a circuit needs those of resid_pre in layer 0"):
        circuits.score_edges(model, task, ablation=optimal, progress=False)
    with pytest.raises(ValueError, match="no denoising direction"):
        interp.patch(model, task, "z", ablation=optimal, direction="denoise", progress=False)
    with pytest.raises(ValueError, match="a path carries"):
        interp.path_patch(model, task, "heads", ["L2H0.q"], ablation=optimal, progress=False)
