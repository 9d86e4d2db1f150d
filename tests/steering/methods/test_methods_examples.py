"""Examples in the context: similarity against effect, by a plain loop; a planted relation and shuffles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.steering import methods
from interp.steering.methods._examples import correlation


def test_a_planted_relation_is_found_and_not_in_shuffles() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(12, 20, 2))
    effect = 2 * similarity[..., 0] + rng.normal(size=(12, 20)) + 5 * rng.normal(size=(12, 1))
    value = correlation(similarity, effect)
    assert value[0] > 0.8
    assert abs(value[1]) < 0.2
    shuffled = np.array([correlation(similarity, rng.permuted(effect, axis=1)) for _ in range(100)])
    assert abs(shuffled.mean()) < 0.05 < value[0] - np.quantile(shuffled[:, 0], 0.99)
    np.testing.assert_array_equal(correlation(similarity, np.ones((12, 20))), 0)


def test_effects_and_cosines_are_those_of_a_loop() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4, seed=0)
    texts = ["Mary had a book", "Tom went to the store", "Anna gave a book to Paul", "John had a bag"]
    found = methods.example_effects(model, task, texts, layer=[2], draws=50)

    def margin(logits: torch.Tensor, i: int) -> torch.Tensor:
        return logits[task.answers[i, 0]] - logits[task.wrongs[i, 0]]

    with torch.no_grad():
        for i in range(4):
            query = task.clean[i, : int(task.lengths[i])]
            alone = margin(model(query[None])[0, -1], i)
            tail = query[1:] if int(query[0]) == model.tokenizer.bos_token_id else query
            for j, text in enumerate(texts):
                both = torch.cat((model.to_tokens(text)[0], tail))
                expected = margin(model(both[None])[0, -1], i) - alone
                assert float(found["effect"][i, j]) == pytest.approx(float(expected), abs=1e-3)
    one = interp.activations(model, task, "L2.resid_pre")[0]
    other = interp.activations(model, texts, "L2.resid_pre")[1]
    expected = torch.cosine_similarity(one, other, dim=0)
    assert float(found["similarity"][0, 1, 0]) == pytest.approx(float(expected), abs=1e-5)
    assert float(abs(found["effect"]).max()) > 0.1


def test_two_examples_are_too_few() -> None:
    model = interp.load("tiny-ioi")
    with pytest.raises(ValueError, match="there are 2 examples"):
        methods.example_effects(model, interp.tasks.ioi(model, n=2), ["Mary had a book", "Tom had a bag"])
