"""Which engine steering, extraction and probes run on: never another one without a word."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import architectures
import pytest
import small
import torch

import interp
from interp import probes, steering

NO_CACHE = "decoding runs without a cache"  # another fall-back, with transformers 5.24
REASON = "a test says so"
QUIET: dict[str, Any] = {"progress": False}
Verb = Callable[..., Any]


def ids(first: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(first)
    rows = torch.randint(3, 40, (6, 5), generator=generator)
    rows[:, 1] = first
    return rows


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def direction(model: Any) -> steering.Direction:
    return steering.mean_difference(model, ids(3), ids(4), layer=1, pos="mean")


VERBS: dict[str, Verb] = {
    "generate": lambda m, d, **o: steering.generate(m, ids(3), steering.add(d, 1.0), max_new_tokens=2, **o),
    "sweep": lambda m, d, **o: steering.sweep(m, d, ids(3), [0.0, 1.0], **QUIET, **o),
    "calibrate": lambda m, d, **o: steering.calibrate(m, d, ids(3), 0.01, **o),
    "side_by_side": lambda m, d, **o: steering.side_by_side(m, ids(3)[:2], d, 1.0, max_new_tokens=2, **o),
    "activations": lambda m, d, **o: interp.activations(m, ids(3), "L1.resid_pre", **o),
    "mean_difference": lambda m, d, **o: steering.mean_difference(
        m, ids(3), ids(4), layer=1, pos="mean", **o
    ),
    "logistic": lambda m, d, **o: steering.logistic(m, ids(3), ids(4), layer=1, pos="mean", **o),
    "probes.fit": lambda m, d, **o: probes.fit(m, ids(3), ids(4), layer=1, pos=1, draws=1, **QUIET, **o)[0],
}


def compared(found: Any) -> torch.Tensor:
    """The numbers of a result."""
    if isinstance(found, torch.Tensor):
        return found.double()
    if isinstance(found, steering.Direction):
        return found.vector.double()
    if hasattr(found, "coefficient") and not hasattr(found, "attrs"):
        return torch.tensor(found.coefficient)
    name = "value" if "value" in found else "kl" if "kl" in found else "accuracy"
    return torch.as_tensor(found[name].values)


@pytest.mark.parametrize("name", VERBS)
def test_a_fall_back_is_told_once_and_gives_the_same(
    name: str, model: Any, direction: steering.Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = VERBS[name]
    fast = run(model, direction, engine="fast")
    monkeypatch.setattr("interp.engine.trust.unsupported", lambda model: REASON)
    with pytest.warns(UserWarning, match=rf"using the reference engine, .* hooks.*: {REASON}") as caught:
        slow = run(model, direction)
    told = [each for each in caught if NO_CACHE not in str(each.message)]
    assert len(told) == 1
    assert told[0].filename == __file__
    torch.testing.assert_close(compared(slow), compared(fast), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=rf"fast engine cannot run this model: {REASON}"):
        run(model, direction, engine="fast")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NO_CACHE)
        again = run(model, direction, engine="reference")
    torch.testing.assert_close(compared(again), compared(slow), rtol=0, atol=0)
    for result, engine in ((fast, "fast"), (slow, "reference"), (again, "reference")):
        assert getattr(result, "attrs", {}).get("engine", engine) == engine
    assert hasattr(fast, "attrs") == (name in ("sweep", "side_by_side", "probes.fit"))


@pytest.mark.parametrize("name", VERBS)
def test_an_engine_that_is_none_is_refused(name: str, model: Any, direction: steering.Direction) -> None:
    with pytest.raises(ValueError, match="engine 'slow' is not one of auto, fast, reference"):
        VERBS[name](model, direction, engine="slow")


def test_how_far_off_the_weights_are_is_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from interp.engine import trust

    good = trust.weights

    def misread(model: Any) -> Any:
        parts = good(model)
        return dataclasses.replace(parts, W_U=1.5 * parts.W_U)

    monkeypatch.setattr(trust, "weights", misread)
    said = r"a pass of 6 rows .* every token: its weights do not give its logits \(they differ by [\d.]+ of"
    with pytest.warns(UserWarning, match=said):
        steering.generate(model, ids(3), max_new_tokens=1)


def test_probes_name_their_engine(model: Any) -> None:
    _, made = probes.fit(model, ids(3), ids(4), layer=1, pos=1, draws=1, **QUIET)
    assert made.score(model, ids(3)).attrs["engine"] == "fast"
    assert made.score(model, ids(3), engine="reference").attrs["engine"] == "reference"


class Discarding(torch.nn.Module):
    """A hook point whose edits go nowhere, as where transformers computes attention."""

    def __init__(self, point: torch.nn.Module) -> None:
        super().__init__()
        self.point = point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.point(x)
        return x


@pytest.mark.parametrize("site", ["attn_scores", "z"])
def test_an_edit_that_would_be_thrown_away_is_refused(site: str) -> None:
    """At such a point every edit gave the unsteered text."""
    if site == "z" and not architectures.has_hooked_transformer():
        pytest.skip("a bridge's z is an alias of its output's input, and cannot be cut off this way")
    model = interp.load("tiny-ioi")
    attn = model.blocks[1].attn
    setattr(attn, f"hook_{site}", Discarding(getattr(attn, f"hook_{site}")).eval())
    scores = steering.edits.score_bias(1, interp.positions.at(0), 50.0)
    edit = scores if site == "attn_scores" else steering.edits.scale_units("L1.z", [0], 0.0)
    with pytest.raises(ValueError, match=f"'{site}' cannot be changed here.*L?.*does not reach the logits"):
        steering.generate(model, ids(3), edit, max_new_tokens=1, engine="reference")
    with pytest.raises(ValueError, match=f"'{site}' cannot be changed here"), steering.steer(model, edit):
        pass


@pytest.mark.parametrize("family", ["gpt2"])
def test_edits_of_attention_scores_are_proved_on_bridges(family: str) -> None:
    model = small.bridge(family)
    rows = torch.randint(3, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    plain = model(rows)
    with steering.steer(model, steering.edits.score_bias(0, interp.positions.at(0), 50.0)):
        assert (model(rows) - plain).abs().max() > 1e-4
