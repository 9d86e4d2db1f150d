"""The bundled dictionary of SmolLM2's middle layer, on the model.

The bounds were set before the dictionary was made: it leaves less than ITDA's .546, which was not bundled.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import interp
from interp import sae
from interp.models._fetch import folder_of_wheel, missing

NAME, HOOK = "smollm2-135m", "blocks.14.hook_resid_post"
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(folder_of_wheel(NAME) is None, reason=missing(NAME)),
]
TEXT = (
    "The old bridge had stood over the river for two hundred years before the flood came. Nobody in the town "
    "remembered a winter like it. Water ran down the streets and into the cellars, and the children watched "
    "from the windows of the school as the market stalls floated away. In the morning the mayor called a "
    "meeting, and everybody agreed that a new bridge had to be built, higher than the first."
)


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load(NAME)


@pytest.fixture(scope="module")
def d() -> sae.Dictionary:
    return sae.load(NAME)


def test_it_explains_a_text_that_it_never_saw(model: Any, d: sae.Dictionary) -> None:
    found = sae.report(model, d, [TEXT], skip=4)["estimate"]
    figure = {str(name): float(value) for name, value in found.to_series().items()}
    assert 8 < figure["l0"] < 128
    assert figure["fvu"] < 0.546
    assert figure["recovered_mean"] > 0.8
    assert figure["ce_rise"] < 1.5


def test_patching_a_feature_is_a_plain_hook(model: Any, d: sae.Dictionary) -> None:
    """Noise: the feature that differs most at the last token, in the clean run."""
    task = interp.Task.from_prompts(
        model,
        clean=["The capital of France is"],
        corrupt=["The capital of Italy is"],
        answer=[" Paris"],
        wrong=[" Rome"],
    )
    x, other = (
        model.run_with_cache(tokens, names_filter=HOOK)[1][HOOK] for tokens in (task.clean, task.corrupt)
    )
    step = d.contributions(other) - d.contributions(x)  # [1, pos, feature]
    feature = int(step[0, -1].abs().argmax())
    added = step[:, -1, feature, None] * d.W_dec[feature].float()

    def add(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat((tensor[:, :-1], tensor[:, -1:] + added), 1)

    def measured(logits: torch.Tensor) -> float:
        last = logits[0, -1]
        return float(last[task.answers[0, 0]] - last[task.wrongs[0, 0]])

    with torch.no_grad():
        hand = measured(model(task.clean)) - measured(
            model.run_with_hooks(task.clean, fwd_hooks=[(HOOK, add)])
        )
    cell = f"L14.resid_post.F{feature}@{task.clean.shape[1] - 1}"
    swept = interp.patch(model, task, features=d, cells=[cell], direction="noise", progress=False)
    assert abs(hand) > 1e-3
    assert float(swept["value"][0, 0]) == pytest.approx(hand, abs=2e-4)
