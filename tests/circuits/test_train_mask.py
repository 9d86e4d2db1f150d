"""Trained masks: the soft forward is `run` at 0 and 1, known circuits are found, the seed decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import architectures
import masks as M
import pytest
import torch
from test_score_edges import FEW, model_of

import interp
from interp import circuits
from interp.circuits import Circuit
from interp.circuits._run.job import prepare, start
from interp.circuits._search.soft import Batches
from interp.models.handmade import truth
from interp.stores import StateStore
from interp.tasks import KL
from interp.tasks.handmade import some_inputs

QUICK: dict[str, Any] = {"steps": 12, "prompts": 2, "progress": False}


@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
@pytest.mark.parametrize("name", FEW)
def test_the_soft_forward_is_run_at_0_and_1(name: str, ablation: str) -> None:
    """A different random circuit for every prompt, prompts of different lengths."""
    model, task = model_of(name), M.uneven()
    job = start(prepare(model, task, ablation=ablation))
    soft, clean = Batches(job, len(task), 0).draw(0, None)
    masks = M.drawn(job.graph, len(task))
    with torch.no_grad():
        found = soft.score(soft.logits(masks.double()), clean)
    wanted = M.raw(model, task, masks, ablation).diagonal()
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
    assert wanted.std() > 1e-2


def test_a_mask_of_writers_is_the_same_for_all_readers() -> None:
    model, task = model_of(FEW[1]), M.task()
    job = start(prepare(model, task, ablation="resample"))
    soft, clean = Batches(job, len(task), 0).draw(0, None)
    writers = torch.rand(len(task), len(job.graph.writers), 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, wanted = (
            soft.score(soft.logits(mask.double()), clean)
            for mask in (writers, writers.expand(-1, -1, len(job.graph.readers)))
        )
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("gate", ["hard-concrete", "uniform"])
def test_the_edges_of_a_hand_built_model_are_found(gate: str) -> None:
    model = interp.load("and-gate")
    task = some_inputs(model, "and-gate", 32)
    edges = set(truth("and-gate", "resample"))
    n_edges = circuits.Graph.of(model).n_edges
    found = circuits.train_mask(
        model, task, 1 - len(edges) / n_edges, gate=gate, steps=150, prompts=16, progress=False
    )
    assert set(found.edges()) == edges
    assert min(found.losses[-20:]) < 0.1


def test_it_finds_a_better_circuit_than_chance_and_than_scores() -> None:
    """On a random model, at a fifth of the edges, by KL from the clean run."""
    model = architectures.build(M.TINY)
    task = M.task(4)
    found = circuits.train_mask(model, task, 0.7, steps=120, prompts=4, progress=False)
    others = M.drawn(found.graph, 1, least=0.3)
    by_scores = circuits.top(circuits.score_edges(model, task), found.n_edges)
    kl = M.raw(model, task, torch.stack([found.mask, others[0], by_scores.mask]), metric=KL()).mean(1)
    assert found.n_edges == round(0.3 * found.graph.n_edges)
    assert kl[0] < 0.7 * kl[1]
    assert kl[0] < kl[2]


def test_nodes_bring_all_edges_between_them() -> None:
    model, task = model_of(FEW[0]), M.task()
    found = circuits.train_mask(model, task, 0.5, granularity="nodes", **QUICK)
    graph, nodes = found.graph, found.nodes()
    assert len(nodes) == 2 + round(0.5 * (len(graph.writers) - 1))
    readers = [reader for reader in graph.readers if graph.owners[graph.readers.index(reader)].any()]
    wanted = graph.between(nodes[:-1], nodes)
    assert torch.equal(found.mask, wanted)
    assert found.scores is not None
    assert found.scores[found.mask].min() >= found.scores[graph.allowed & ~found.mask].max()
    assert len(readers) == len(graph.readers)


def test_constants_are_learned_and_go_with_the_circuit() -> None:
    model, task = model_of(FEW[3]), M.task(4)
    found = circuits.train_mask(model, task, 0.5, gate="uniform", ablation="learned", **QUICK)
    job = start(prepare(model, task, ablation="mean"))
    means = Batches(job, 3, 0).mean_writes()
    assert found.constants is not None
    assert found.constants.shape == means.shape
    assert 1e-4 < float((found.constants - means).abs().max()) < 0.2
    assert found.provenance["ablation"] == "learned"
    M.raw(model, task, found, found.constants)


def test_mean_writes_leave_out_the_padding() -> None:
    model, task = model_of(FEW[3]), M.uneven()
    job = start(prepare(model, task, ablation="resample"))
    found = Batches(job, 3, 0).mean_writes()
    rows = [
        interp.circuits._run.ablation.replacements(model, task[[i]], "resample")[:, 0, : int(task.lengths[i])]
        for i in range(len(task))
    ]
    torch.testing.assert_close(found, torch.cat(rows, 1).mean(1), atol=1e-10, rtol=0)


def test_every_prompt_has_its_turn() -> None:
    job = start(prepare(model_of(FEW[3]), M.task(5), metric=KL()))
    batches = Batches(job, 2, 0)
    seen = [prompt for step in range(5) for prompt in batches._prompts(step).tolist()]
    assert sorted(seen[:4] + seen[4:]) == sorted([*range(5), *range(5)])


def theta(circuit: Circuit) -> torch.Tensor:
    """Scores, 0 where there is no edge."""
    assert circuit.scores is not None
    return circuit.scores.nan_to_num()


def test_the_seed_decides_the_circuit() -> None:
    model, task = model_of(FEW[0]), M.task(4)
    one, two, other = (circuits.train_mask(model, task, 0.5, seed=seed, **QUICK) for seed in (0, 0, 1))
    assert torch.equal(theta(one), theta(two))
    assert not torch.equal(theta(one), theta(other))


def test_a_killed_run_resumes_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a save; a finished file trains no more; another run's file is refused and left alone."""
    model, task, store = model_of(FEW[0]), M.task(4), tmp_path / "mask.safetensors"
    options = {**QUICK, "steps": 30, "ablation": "learned"}
    whole = circuits.train_mask(model, task, 0.5, **options)
    save = StateStore.save

    def save_and_die(state: Any, tensors: Any) -> None:
        save(state, tensors)
        raise KeyboardInterrupt

    monkeypatch.setattr(StateStore, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        circuits.train_mask(model, task, 0.5, store=store, **options)
    monkeypatch.undo()
    resumed = circuits.train_mask(model, task, 0.5, store=store, **options)
    assert torch.equal(theta(resumed), theta(whole))
    assert resumed.constants is not None
    assert whole.constants is not None
    assert torch.equal(resumed.constants, whole.constants)
    assert resumed.losses == whole.losses
    content = store.read_bytes()
    with pytest.raises(ValueError, match=r"holds another run .*seed: '0' there, '1' here"):
        circuits.train_mask(model, task, 0.5, store=store, seed=1, **options)
    assert store.read_bytes() == content
    store.write_bytes(content[:100])
    with pytest.raises(ValueError, match="is not a store"):
        circuits.train_mask(model, task, 0.5, store=store, **options)


def test_the_model_and_the_random_state_are_left_as_found() -> None:
    model, task = model_of(FEW[0]), M.task()
    before, weights = torch.random.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    circuits.train_mask(model, task, 0.5, **QUICK)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(weights, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
