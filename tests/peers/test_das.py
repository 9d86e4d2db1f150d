"""The same exchange, loss and gradient as TransformerLens 4.3's `fit_das`, from one basis and batch."""

from __future__ import annotations

import pytest
import small
import torch

import interp
from interp import subspaces
from interp.subspaces import Subspace, orthonormal
from interp.subspaces._stage import Stage
from interp.tasks import Task, Variable

interchange = pytest.importorskip("transformer_lens.tools.analysis.interchange")
HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture(scope="module")
def ready():
    model = small.new_bridge("gpt2")
    model.requires_grad_(False)
    ids = torch.randint(1, 30, (12, 6), generator=torch.Generator().manual_seed(3))
    answer, values = torch.arange(12) % 4 + 3, torch.arange(12) % 2
    other = (answer - 2) % 4 + 3
    outcomes = torch.stack((answer, other), 1)
    outcomes[values == 1] = outcomes[values == 1].flip(1)
    task = Task.from_tokens(clean=ids, answer=answer, wrong=other)
    task = task.with_variables(x=Variable(values, outcomes))
    return model, task, subspaces.pairs(task, "x", n=24)["train"]


def matrix() -> torch.Tensor:
    return torch.randn(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def their_logits(model, task, pairs, basis) -> torch.Tensor:
    task_logits = lambda tokens: model(tokens)[:, -1][:, pairs.choices]  # noqa: E731
    at = torch.full((len(pairs),), 4)
    source = interchange.collect_activations(model, HOOK, task.clean[pairs.source], task_logits, positions=at)
    step = interchange.SubspaceInterchange(basis)
    return interchange.run_with_intervention(
        model, HOOK, step, task.clean[pairs.own], source, task_logits, positions=at
    )


def test_one_step_has_their_loss_and_gradient(ready):
    model, task, pairs = ready
    stage = Stage.of(model, task, "L1.resid_pre", 4)
    found = []
    for loss_of in (
        lambda B: torch.nn.functional.cross_entropy(their_logits(model, task, pairs, B), pairs.target),
        lambda B: stage.loss(pairs, Subspace(B, "L1.resid_pre").exchange),
    ):
        free = matrix().requires_grad_(True)
        loss = loss_of(orthonormal(free))
        found.append((loss.detach(), *torch.autograd.grad(loss, free)))
    assert float((found[0][0] - found[1][0]).abs()) <= 1e-6
    assert float((found[0][1] - found[1][1]).abs().max()) <= 1e-6
    assert float(found[0][1].abs().max()) > 1e-4


def test_accuracies_are_of_the_same_answers(ready):
    model, task, pairs = ready
    basis = orthonormal(matrix())
    seen = subspaces.accuracy(model, pairs, Subspace(basis, "L1.resid_pre"), 4)["raw"].sel(
        exchange="subspace"
    )
    expected = their_logits(model, task, pairs, basis).argmax(1) == pairs.target
    assert torch.equal(torch.tensor(seen.values).bool(), expected)
    whole = interp.subspaces.accuracy(
        model, pairs, Subspace(torch.eye(24, dtype=torch.float64), "L1.resid_pre"), 4
    )
    assert (whole["raw"].sel(exchange="subspace") == whole["raw"].sel(exchange="whole")).all()
