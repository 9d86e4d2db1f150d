"""Models whose outputs are other words than their inputs: classifiers, modular arithmetic."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch
from cases import QUIET

import interp

needs_hooked = pytest.mark.skipif(
    not architectures.has_hooked_transformer(), reason="this release has no HookedTransformer"
)


@pytest.fixture(scope="module")
def classifier():
    return architectures.build({"d_vocab_out": 2})


@pytest.fixture(scope="module")
def task():
    clean, corrupt = architectures.tokens(2, n_prompts=3)
    return interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[0, 1, 0], wrong=[1, 0, 1])


@needs_hooked
@pytest.mark.parametrize("site", ["resid_pre", "z", "q", "mlp_out"])
def test_a_classifier_is_patched_as_any_model(classifier, task, site):
    assert int(task.clean.max()) >= 2
    fast, slow = (interp.patch(classifier, task, site, engine=e, **QUIET) for e in ("fast", "reference"))
    np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-12)
    assert float(abs(slow["value"]).max()) > 1e-3
    assert interp.plan("patch", classifier, task, site).engine == "fast"


@needs_hooked
def test_every_verb_takes_a_classifier(classifier, task):
    exact = interp.patch(classifier, task, "z", **QUIET)
    estimate = interp.attribute(classifier, task, "z", **QUIET)
    assert exact["value"].shape == estimate["value"].shape
    edges = interp.circuits.score_edges(classifier, task, **QUIET)
    assert float(abs(edges["value"]).max()) > 1e-4
    both = interp.circuits.run(classifier, task, interp.circuits.top(edges, 20), **QUIET)
    assert bool(torch.isfinite(torch.as_tensor(both["raw"].values)).all())


@needs_hooked
def test_an_answer_outside_the_outputs_is_a_sentence(classifier, task):
    wrong = interp.Task.from_tokens(clean=task.clean, corrupt=task.corrupt, answer=[5, 1, 0], wrong=[1, 0, 1])
    with pytest.raises(ValueError, match="answer id 5 is outside the model's vocabulary of 2"):
        interp.patch(classifier, wrong, "z", **QUIET)


@needs_hooked
def test_a_prompt_outside_the_inputs_is_a_sentence():
    """The reverse: more outputs than inputs."""
    wide = architectures.build({"d_vocab_out": 100})
    clean = torch.full((1, 4), 90)
    task = interp.Task.from_tokens(clean=clean, corrupt=clean - 1, answer=[99], wrong=[98])
    with pytest.raises(ValueError, match="token id 90 is outside the model's vocabulary"):
        interp.patch(wide, task, "z", **QUIET)
