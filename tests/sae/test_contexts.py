"""Features of prompts as a table, and the contexts in which one is largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import small
import torch

import interp
from interp import sae


def dictionary(d: int, place: str, **more: Any) -> sae.Dictionary:
    both = torch.cat((torch.eye(d), -torch.eye(d)))
    return sae.Dictionary(both.T, torch.zeros(2 * d), both, torch.zeros(d), place=place, **more)


def test_encoding_is_the_cached_site_encoded() -> None:
    model = small.model()
    task = interp.Task.from_tokens(
        clean=[[5, 6, 7, 8], [9, 4, 3, 2]], corrupt=[[5, 6, 7, 9], [8, 4, 3, 2]], answer=[3, 4], wrong=[4, 5]
    )
    cache = model.run_with_cache(task.clean)[1]
    for place, hook in (("L1.resid_pre", "blocks.1.hook_resid_pre"), ("L1.z", "blocks.1.attn.hook_z")):
        x = cache[hook].flatten(2)
        d = dictionary(x.shape[-1], place)
        torch.testing.assert_close(sae.encode(model, d, task), d.encode(x[:, -1]).detach())
        every = sae.encode(model, d, task, pos="all")
        torch.testing.assert_close(every, d.encode(x).flatten(0, 1).detach())


def test_contexts_are_the_largest_values_with_what_stands_around() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=8, seed=0)
    d = dictionary(64, "L1.resid_pre")
    found = sae.contexts(model, d, task, [3, 70], top=3, window=2)
    x = model.run_with_cache(task.clean)[1]["blocks.1.hook_resid_pre"].detach()
    pad = torch.arange(x.shape[1])[None] >= task.lengths[:, None]
    f = d.encode(x).masked_fill(pad[..., None], 0.0)
    f[:, 0] = 0
    for row, feature in enumerate((3, 70)):
        best = f[..., feature].amax(1).sort(descending=True).values[:3]
        np.testing.assert_allclose(found["value"][row], best, rtol=1e-4)
        for rank in range(3):
            prompt, at = int(found["prompt_number"][row, rank]), int(found["pos"][row, rank])
            assert float(found["value"][row, rank]) == pytest.approx(float(f[prompt, at, feature]), rel=1e-4)
            assert str(found["token"][row, rank].sel(offset=0).item()) == task.labels[prompt][at]
            np.testing.assert_allclose(
                found["activation"][row, rank].sel(offset=0), f[prompt, at, feature], rtol=1e-4
            )
    real = ~pad
    real[:, 0] = False
    np.testing.assert_allclose(found["rate"], (f[real][:, [3, 70]] != 0).double().mean(0))


def test_features_that_never_fire_have_no_contexts() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=2, seed=0)
    d = dictionary(64, "L1.resid_pre").but(b_enc=torch.full((128,), -1e4))
    found = sae.contexts(model, d, task, [3], top=2)
    assert bool(found["value"].isnull().all())
    assert set(found["prompt_number"].values.ravel()) == {-1}
    for arguments, said in (
        ({"features": []}, "give some of 0 to 127"),
        ({"features": [500]}, "give some of 0 to 127"),
        ({"features": [3], "skip": 90}, "a token must be left"),
    ):
        with pytest.raises(ValueError, match=said):
            sae.contexts(model, d, task, **arguments)
