"""Patching from one model into another of the same shape: where do they differ?"""

from __future__ import annotations

import copy
from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
from cases import QUIET, task
from two_sides import refused

import interp
from interp.models import anatomy

HOOKED = pytest.mark.skipif(not architectures.has_hooked_transformer(), reason="copies a HookedTransformer")


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


def tuned(model: Any) -> Any:
    """A copy with some weights moved."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for layer, name in ((0, "attn.W_O"), (1, "attn.W_V"), (1, "mlp.W_out"), (2, "mlp.W_in")):
            weight = other.get_parameter(f"blocks.{layer}.{name}")
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return other


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_the_same_model_is_plain_patching(model: Any, engine: str) -> None:
    of, options = task(first=2, n=2), {"engine": engine, **QUIET}
    plain = interp.patch(model, of, "z", **options)
    found = interp.patch(model, of, "z", source=model, **options)
    np.testing.assert_array_equal(found["value"], plain["value"])
    assert float(abs(plain["value"]).max()) > 1e-3
    assert found.attrs["source_model"] == plain.attrs["model"]
    assert len(found.attrs["source_fingerprint"]) == 64
    assert "source_model" not in plain.attrs
    if engine == "fast":
        senders = ["L0H1", "MLP1"]
        paths = [
            interp.path_patch(model, of, senders, "L2H1.q", source=s, **QUIET)["value"] for s in (None, model)
        ]
        np.testing.assert_array_equal(*paths)


@HOOKED
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("alone", [True, False])
def test_where_two_models_differ(model: Any, direction: str, alone: bool) -> None:
    """Against hooks: the other model's activation put in by hand; the same prompts, and others."""
    other, of = tuned(model), task(first=2, n=2)
    of = of.without_corrupt() if alone else of
    own, theirs = (of.corrupt, of.clean) if direction == "denoise" else (of.clean, of.corrupt)
    rows = torch.arange(2)

    def metric(logits: torch.Tensor) -> np.ndarray:
        last = logits[rows, of.positions]
        return (last[rows, of.answer] - last[rows, of.wrong]).numpy()

    with torch.no_grad():
        cache, base = other.run_with_cache(theirs)[1], metric(model(own))
        for site, name in (
            ("resid_pre", "hook_resid_pre"),
            ("z", "attn.hook_z"),
            ("mlp_out", "hook_mlp_out"),
        ):
            for engine in ("fast", "reference"):
                found = interp.patch(
                    model, of, site, by="layer", source=other, direction=direction, engine=engine, **QUIET
                )
                for layer in range(3):
                    hook = f"blocks.{layer}.{name}"
                    after = model.run_with_hooks(own, fwd_hooks=[(hook, lambda x, hook: cache[hook.name])])
                    right = (metric(after) - base) * (1 if direction == "denoise" else -1)
                    np.testing.assert_allclose(found["value"].sel(layer=layer), right, atol=1e-11)
                source = metric(other(theirs))
                mine = "corrupt" if direction == "denoise" else "clean"
                np.testing.assert_allclose(found[mine], base, atol=1e-11)
                np.testing.assert_allclose(
                    found["clean" if mine == "corrupt" else "corrupt"], source, atol=1e-11
                )
        assert np.abs(source - base).min() > 1e-3


@HOOKED
def test_a_path_carries_what_the_other_model_writes(model: Any) -> None:
    """All heads of a layer send what its attention does, by the other model's W_O; so do all neurons."""
    other, of = tuned(model), task(first=2, n=2).without_corrupt()
    options: dict[str, Any] = {"source": other, **QUIET}
    names = ["L2H1.q", "MLP1", "logits"]
    for freeze in ("heads", "all", ()):
        heads = {"heads": [f"L0H{head}" for head in range(4)], "whole": ["L0.attn_out"]}
        found = interp.path_patch(model, of, heads, names, freeze=freeze, **options)
        np.testing.assert_allclose(found["value"][:, 0], found["value"][:, 1], atol=1e-11)
        assert float(abs(found["value"]).min()) > 1e-6
        slow = interp.path_patch(
            model,
            of,
            ["L0.attn_out"],
            ["L2H1.q", "MLP1", "logits"],
            freeze=freeze,
            engine="reference",
            **options,
        )
        np.testing.assert_allclose(found["value"][:, 1], slow["value"][:, 0], atol=1e-11)
    neurons = {"neurons": ["L1.post"], "whole": ["MLP1"]}
    found = interp.path_patch(model, of, neurons, ["L2H1.q", "logits"], **options)
    np.testing.assert_allclose(found["value"][:, 0], found["value"][:, 1], atol=1e-11)
    assert float(abs(found["value"]).min()) > 1e-6


@HOOKED
def test_an_adapter_merged_or_not(model: Any) -> None:
    """Low-rank changes of an MLP: in its weights, or beside them under a hook of torch, slow and right."""
    generator = torch.Generator().manual_seed(3)
    down, up = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((40, 2), (2, 24)))
    merged, beside, of = copy.deepcopy(model), copy.deepcopy(model), task(first=2, n=2).without_corrupt()
    with torch.no_grad():
        merged.blocks[1].mlp.W_out += 0.1 * down @ up
    post: dict[str, torch.Tensor] = {}
    beside.blocks[1].mlp.hook_post.register_forward_hook(lambda module, args, out: post.update(x=out) or None)
    beside.blocks[1].mlp.register_forward_hook(lambda module, args, out: out + 0.1 * post["x"] @ down @ up)
    fast = interp.patch(model, of, "resid_post", source=merged, **QUIET)
    with pytest.warns(UserWarning, match="using the reference engine"):
        slow = interp.patch(model, of, "resid_post", source=beside, **QUIET)
    assert (fast.attrs["engine"], slow.attrs["engine"]) == ("fast", "reference")
    np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-11)
    assert (fast["value"].sel(layer=0) == 0).all()  # below the adapter they are the same
    assert float(abs(fast["value"].sel(layer=1)).max()) > 1e-3


def test_what_does_not_fit(model: Any) -> None:
    of = task(n=2)
    ioi = interp.load("tiny-ioi")
    refused(model, [
        (lambda: interp.patch(model, of, "z", source=ioi, **QUIET), r"source= has \w+ \d+, the model \d+"),
        (lambda: interp.patch(model, of, "z", source=3, **QUIET), "expected a TransformerLens model"),
        (lambda: interp.patch(model, of, "z", source=model, ablation="mean"), "puts in no activation"),
        (lambda: interp.plan("patch", model, of, "z", source=model, ablation="zero"), "puts in no"),
    ])  # fmt: skip
    assert interp.plan("patch", model, of.without_corrupt(), "resid_pre", source=model).no_ops == 0
    assert not of.without_corrupt().has_corrupt


@HOOKED
def test_other_sites_and_other_words(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    of, other = task(n=2), copy.deepcopy(model)
    bare = architectures.build({"attn_only": True, "d_mlp": None, "act_fn": None})
    with pytest.raises(ValueError, match="source= has d_mlp"):
        interp.patch(model, of, "z", source=bare, **QUIET)

    class Words:
        def __init__(self, first: str) -> None:
            self.first = first

        def get_vocab(self) -> dict[str, int]:
            return {self.first: 0, "b": 1}

    monkeypatch.setattr(model, "tokenizer", Words("a"))
    monkeypatch.setattr(other, "tokenizer", Words("c"))
    with pytest.raises(ValueError, match="another tokenizer"):
        interp.patch(model, of, "z", source=other, **QUIET)
    assert anatomy(model).sites() == anatomy(other).sites()
