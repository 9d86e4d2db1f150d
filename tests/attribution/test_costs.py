"""Passes through the model, counted: estimates cost a few, whatever the number of sites and cells."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import small
from cases import QUIET, task

from interp.ablation import Gaussian
from interp.attribution import attribute, direct, gradients
from interp.attribution._by_hooks import Recording
from interp.attribution._passes import prompt_bytes
from interp.engine.forward import forward
from interp.methods import GIM, IG, Atp, AtpStar, AttnLRP, Relp, Secant
from interp.models import anatomy, logits
from interp.tasks import LogitDiff, LogProb

EVERY = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "v", "post", "pattern"]


@contextmanager
def counted(monkeypatch):
    """Forwards and backwards (whole sets of slopes) of estimates; the trust check of the model is not one."""
    count = {"forward": 0, "backward": 0}

    def counting(of, what):
        def call(*args, **options):
            count[what] += 1
            return of(*args, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Recording, "slopes", counting(Recording.slopes, "backward"))
        patched.setattr("interp.attribution._by_weights.forward", counting(forward, "forward"))
        for module in ("_by_hooks", "_direct"):
            patched.setattr(f"interp.attribution.{module}.logits", counting(logits, "forward"))
        yield count


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("sites", [["z"], EVERY])
@pytest.mark.parametrize(
    ("method", "forwards", "backwards"),
    [
        (Atp(), 2, 1),
        (Relp(), 2, 1),
        (AttnLRP(), 2, 1),
        (GIM(), 2, 1),
        (Secant(), 2, 1),
        (IG(steps=5), 7, 5),
        (IG(steps=2, rule="gauss"), 4, 2),
        (IG(variant="clean-corrupted"), 4, 2),
        (AtpStar(grad_drop=False), 2, 1),
        (AtpStar(), 2, 3),
    ],
)
def test_passes(model, monkeypatch, sites, engine, method, forwards, backwards):
    for metrics in ([LogitDiff()], [LogitDiff(), LogProb()]):
        with counted(monkeypatch) as count:
            found = attribute(
                model, task(), sites, "layer", method=method, metric=metrics, engine=engine, **QUIET
            )
        assert count == {"forward": forwards, "backward": backwards * len(metrics)}
        assert found.attrs["forwards"] == forwards
        assert found.attrs["backwards"] == backwards * len(metrics)
        assert (abs(found["value"]).max() > 1e-3).all()


def test_blocks_of_prompts_multiply_the_passes(model, monkeypatch):
    for batch_size, blocks in ((None, 1), (6, 1), (4, 2), (1, 6)):
        with counted(monkeypatch) as count:
            attribute(model, task(), EVERY, "layer", batch_size=batch_size, **QUIET)
        assert count == {"forward": 2 * blocks, "backward": blocks}


def test_memory_bounds_the_prompts_in_flight(model, monkeypatch):
    """A budget for two prompts makes blocks of two; one for none holds a block at a time: two
    forwards without a graph, the first of which is counted here."""
    each = prompt_bytes(anatomy(model), 8, 9, ("z",), 1, 1)
    for budget, forwards in ((2 * each, 6), (each - 1, 6), (6 * each, 2)):
        with counted(monkeypatch) as count:
            attribute(model, task(), "z", memory=budget, **QUIET)
        assert count["forward"] == forwards


def test_draws_stay_together(model, monkeypatch):
    with counted(monkeypatch) as count:
        found = attribute(model, task(), "z", ablation=Gaussian(draws=3), batch_size=6, **QUIET)
    assert count == {"forward": 6, "backward": 3}
    assert found.attrs["draws"] == 3
    assert (found["draw_variance"] > 0).all()


def test_direct_and_gradients(model, monkeypatch):
    with counted(monkeypatch) as count:
        direct(model, task(), batch_size=4)
        assert count == {"forward": 2, "backward": 0}
        gradients(model, task().clean, ["blocks.1.hook_resid_post"], lambda out: out[:, -1, 3])
        assert count == {"forward": 3, "backward": 1}


def test_progress_counts_passes(model, capsys):
    attribute(model, task(), "z", method=IG(steps=3), batch_size=3, progress=True)
    assert "16/16" in capsys.readouterr().err  # two blocks of 2 + 3 forwards and 3 backwards
    attribute(model, task(), "z", **QUIET)
    assert capsys.readouterr().err == ""
