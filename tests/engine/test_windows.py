"""A window that was overlooked shows only past its width: every verb checks the prompts that it is given."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import architectures
import pytest
import torch
from test_trust import patched, task

import interp
from interp import steering
from interp.engine import trust
from interp.models import weights

SHORT, LONG = torch.tensor([[4, 9, 15]]), torch.tensor([[4, 9, 15, 7, 21, 3, 12, 8, 17]])


def without_window(model: Any) -> Any:
    good = weights(model)
    blocks = tuple(dataclasses.replace(b, attn=dataclasses.replace(b.attn, window=None)) for b in good.blocks)
    return dataclasses.replace(good, blocks=blocks)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A window of 3 tokens in two layers, which the weights as they are read do not have."""
    model = architectures.build(dict(architectures.grid())["local"])
    monkeypatch.setattr(trust, "weights", without_window)
    monkeypatch.setattr("interp.models.weights", without_window)
    return model


@pytest.mark.parametrize("lengths", [[9, 9], [3, 9, 9]])
def test_longer_prompts_are_checked_again(lengths: list[int], model: Any) -> None:
    assert patched(model, task(model, 3)).attrs["engine"] == "fast"
    given = task(model, lengths=lengths)
    after = patched(model, given)
    assert after.attrs["engine"] == "reference"
    assert abs(after["value"] - patched(model, given, engine="reference")["value"]).max() == 0
    assert isinstance(trust.weights_of(model, given.clean[:1, :3], reach=9), str)
    assert not isinstance(trust.weights_of(model, given.clean[:1, :3]), str)


def reads(model: Any, rows: torch.Tensor, engine: str) -> torch.Tensor:
    return interp.activations(model, rows, "L2.resid_post", engine=engine)


def writes(model: Any, rows: torch.Tensor, engine: str) -> torch.Tensor:
    """Text that passes the window, from a prompt that does not."""
    return steering.generate(model, rows[:, :3], max_new_tokens=12, stop=(), engine=engine)


def steers(model: Any, rows: torch.Tensor, engine: str) -> torch.Tensor:
    d = steering.Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    swept = steering.sweep(model, d, rows, [1.0], with_controls=False, progress=False, engine=engine)
    return torch.as_tensor(swept["raw"].values)


@pytest.mark.parametrize("verb", [reads, writes, steers])
def test_other_verbs_check_longer_prompts_again(verb: Any, model: Any) -> None:
    reads(model, SHORT, "fast")  # a verdict on short prompts is there
    with pytest.warns(UserWarning, match="its weights do not give its logits"):
        found = verb(model, LONG, "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = verb(model, LONG, "reference")
    torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


def test_decoding_stays_inside_the_window() -> None:
    """The fast decoder, cached and not, against the model itself, token by token, past its window of 3."""
    model = architectures.build(dict(architectures.grid())["local"])
    tokens = LONG
    for _ in range(4):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    for use_cache in (True, False):
        made = steering.generate(
            model, LONG, engine="fast", use_cache=use_cache, max_new_tokens=4, stop=(), pad=0
        )
        assert torch.equal(made, tokens)
