"""A sweep on a task that the model cannot do says so, with the accuracy; it costs no forward pass more."""

from __future__ import annotations

import warnings

import architectures
import numpy as np
import pytest
import small
import torch
from cases import QUIET

import interp
from interp.ablation import Gaussian
from interp.models import logits
from interp.tasks import KL, Custom, LogitDiff, Loss, Rank, Task, UnsolvedTask

ENGINES = ["fast", "reference"]
METRICS = [LogitDiff(), KL(), Loss(), Rank(), Custom(lambda r: r.logits[:, 0, 0], reads_positions="all")]


@pytest.fixture(scope="module")
def model():
    return small.model()


def task(model, right: int, n: int = 8) -> Task:
    """n pairs of which the model solves the first `right`: answers are its own first or last two choices."""
    clean, corrupt = architectures.tokens(3, n_prompts=n)
    positions = torch.tensor([7, 8] * (n // 2))
    with torch.inference_mode():
        order = logits(model, clean)[torch.arange(n), positions].argsort(-1, descending=True)
    best, worst = order[:, :2].clone(), order[:, -2:].clone()
    solved = (torch.arange(n) < right).unsqueeze(-1)
    answer, wrong = torch.where(solved, best, worst), torch.where(solved, worst, best)
    return Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, positions=positions)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_warns_with_the_accuracy_whatever_the_metric(model, metric, engine, direction):
    with pytest.warns(
        UnsolvedTask, match=r"right in 37\.5% of the clean prompts, below the floor of 50%"
    ) as seen:
        found = interp.patch(
            model, task(model, 3), "z", metric=metric, engine=engine, direction=direction, **QUIET
        )
    assert found["clean_right"].dims == ("prompt",)
    assert found["clean_right"].values.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert len(seen) == 1


def test_agrees_with_the_check_of_the_task(model):
    """On answers by chance."""
    clean, corrupt = architectures.tokens(3, n_prompts=12)
    made = Task.from_tokens(
        clean=clean, corrupt=corrupt, answer=[[3 + i, 5 + i] for i in range(12)], wrong=[[0, 2]] * 12
    )
    found = interp.patch(model, made, "resid_pre", by="layer", **QUIET)
    report = made.check(model, floor=0.0)
    assert found["clean_right"].values.astype(bool).tolist() == report.clean_right.tolist()
    assert 0 < report.accuracy < 1


@pytest.mark.parametrize("right", [4, 8])
def test_is_silent_from_the_floor_on(model, right):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = interp.patch(model, task(model, right), ["attn_out", "mlp_out"], **QUIET)
    assert float(found["clean_right"].sum()) == right


def test_a_filter_silences_it(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnsolvedTask)
        assert interp.patch(model, task(model, 0), "z", **QUIET)["clean_right"].max() == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_on_embeddings_leaves_the_clean_runs(model, engine):
    """Several draws for every prompt: the accuracy is that of the prompts."""
    with pytest.warns(UnsolvedTask, match=r"right in 25% of"):
        found = interp.patch(
            model, task(model, 2), "z", ablation=Gaussian(draws=3), batch_size=5, engine=engine, **QUIET
        )
    assert found["clean_right"].values.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_no_run_more(model, monkeypatch):
    """The self-check and the capture are all that runs, whether the task is solved or not."""
    from interp.engine import wavefront

    rows = []
    capture = wavefront.capture
    monkeypatch.setattr(wavefront, "capture", lambda *args: (rows.append(len(args[1])), capture(*args))[1])
    interp.patch(model, task(model, 8), "z", engine="fast", **QUIET)
    rows.clear()
    with pytest.warns(UnsolvedTask):
        interp.patch(model, task(model, 0), "z", engine="fast", **QUIET)
    assert rows == [8]


def test_a_stored_run_warns_again_when_it_is_read(model, tmp_path, monkeypatch):
    """A finished store runs nothing, and still holds which prompts were right."""
    made = task(model, 1)
    for _ in range(2):
        with pytest.warns(UnsolvedTask, match=r"right in 12\.5% of"):
            found = interp.patch(model, made, "z", store=tmp_path / "run.zarr", batch_size=4, **QUIET)
        monkeypatch.setattr("interp.patching._units.Prepared", None)
    plain = found["clean_right"].values
    np.testing.assert_array_equal(plain, [1, 0, 0, 0, 0, 0, 0, 0])
