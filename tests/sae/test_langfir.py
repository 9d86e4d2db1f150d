"""LangFIR: the features of a language, against planted ones and plain hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import interp
from interp import sae
from interp.prompts import read
from interp.sae import methods
from interp.sae.methods._langfir import random_tokens
from interp.tasks import vocabulary

WORD = " store"


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


def planted(model: Any) -> sae.Dictionary:
    """At layer 0, where nothing is mixed in: features of one word's embedding, of everything, of nothing."""
    own = model.W_E[model.to_single_token(WORD)].detach()
    away = own - model.W_E.mean(0).detach()
    others = (model.W_E.detach() @ away).sort().values
    reach = model.W_pos.detach() @ away if hasattr(model, "W_pos") else torch.zeros(1)
    bound = (others[-1] + reach.min() + others[-2] + reach.max()) / 2  # between the word and any other
    assert others[-1] + reach.min() > others[-2] + reach.max(), "no other word reaches it at any position"
    W_enc = torch.stack((away, 0 * away, 0 * away), 1)
    W_dec = torch.nn.functional.normalize(torch.stack((away, own.flip(0), own.roll(1))), dim=1)
    return sae.Dictionary(
        W_enc, torch.stack((-bound, bound.new_tensor(1.0), bound.new_tensor(-1.0))), W_dec,
        torch.zeros_like(own), place="L0.resid_pre",
    )  # fmt: skip


def test_a_feature_of_the_text_alone_is_its_language(model: Any) -> None:
    d = planted(model)
    texts = [f"When Mary and John went to the{WORD}", f"Then Anna went to the{WORD} and had a book"]
    found = methods.langfir(model, d, texts, tau_random=0.4)
    assert found.features == (0,)
    assert found.rate.tolist() == [1, 1, 0]
    assert found.random_rate[1:].tolist() == [1, 0]
    means = []
    for text in texts:  # by plain hooks, each text alone, without the token that all texts begin with
        _, cache = model.run_with_cache(text)
        x = cache["blocks.0.hook_resid_pre"][0, 1:]
        means.append((x @ d.W_enc[:, 0] + d.b_enc[0]).relu().double().mean())
    wanted = torch.stack(means).mean() * d.W_dec[0].double()
    vector = found.direction.vector.double()
    torch.testing.assert_close(vector, wanted, rtol=1e-5, atol=1e-7)
    assert methods.langfir(model, d, texts, tau=1.0, tau_random=0.0, skip=8).direction is None


def test_random_tokens_are_as_long_and_have_no_special_ones(model: Any) -> None:
    prompts = read(model, ["When Mary and John went", "Then Anna had a book at the store and Paul"])
    drawn = random_tokens(model, prompts, 2, seed=0)
    assert drawn.lengths.tolist() == prompts.lengths.tolist()
    assert torch.equal(drawn.tokens[:, :2], prompts.tokens[:, :2])
    assert torch.equal(drawn.tokens[~drawn.real], prompts.tokens[~prompts.real])
    later = drawn.tokens[:, 2:][drawn.real[:, 2:]]
    special = {vocabulary.bos(model), vocabulary.pad(model), *vocabulary.ends(model)}
    assert not special & set(later.tolist())
    assert not torch.equal(later, random_tokens(model, prompts, 2, seed=1).tokens[:, 2:][drawn.real[:, 2:]])


def test_what_has_no_direction_is_refused(model: Any) -> None:
    d = planted(model)
    with pytest.raises(ValueError, match="one must be left"):
        methods.langfir(model, d, ["When Mary"], skip=9)
