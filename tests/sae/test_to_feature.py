"""What writes a feature: sums that add up, and the frozen path by the formula of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import small
import torch
import two_sides

import interp
from interp import sae
from interp.models import weights

FAMILIES = ("gpt2", "llama", "neox")


def task() -> interp.Task:
    return interp.Task.from_tokens(
        clean=[[5, 6, 7, 8], [9, 4, 3, 2]], corrupt=[[5, 6, 7, 9], [8, 4, 3, 2]], answer=[3, 4], wrong=[4, 5]
    )


def drawn(place: str, seed: int = 0, d: int = 24, **more: Any) -> sae.Dictionary:
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    return sae.Dictionary(r(d, 40) / 5, 0.1 * r(40), r(40, 24) / 5, 0.1 * r(24), place=place, **more)


def hooked(model: Any, name: str) -> torch.Tensor:
    """What comes to a hook point in the clean run."""
    kept: list[torch.Tensor] = []
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, lambda tensor, hook: kept.append(tensor.detach()))]):
        model(task().clean)
    return kept[0]


def carried(model: Any, x: torch.Tensor, pattern: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """A step of the stream before block 1 as it comes to block 2, everything frozen: itself, and by heads."""
    block = weights(model).blocks[1]
    norm, attn = block.attn_norm, block.attn
    centre = lambda t: t - t.mean(-1, keepdim=True) if norm.centred else t  # noqa: E731
    scale = (centre(x).square().mean(-1, keepdim=True) + norm.eps).sqrt()
    h = centre(step) / scale * (1 if norm.gain is None else norm.gain)
    every = attn.W_O.shape[0]
    W_V = attn.W_V.repeat_interleave(every // attn.W_V.shape[0], 0)
    return step + torch.einsum("nhqs,nsd,hde,hem->nqm", pattern, h, W_V, attn.W_O)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_share_is_what_the_feature_brings_by_the_stream_and_by_heads(family: str) -> None:
    model = small.bridge(family)
    x, pattern = (hooked(model, f"blocks.1.{name}") for name in ("hook_resid_pre", "attn.hook_pattern"))
    low, high = drawn("L1.resid_pre"), drawn("L2.resid_pre", 1, centre=True)
    found = sae.to_feature(model, task(), low, high, 7)
    parts = [low.contributions(x)[..., i, None] * low.W_dec[i] for i in found["index"].values[:-1]]
    parts += [low.error(x), low.b_dec.expand_as(x)]
    e = high.W_enc[:, 7]
    for i, part in enumerate(parts):
        for pos in range(4) if i < len(parts) - 1 else ():
            alone = torch.zeros_like(part)
            alone[:, pos] = part[:, pos]
            hand = carried(model, x, pattern, alone)[:, -1] @ e
            np.testing.assert_allclose(found["value"][:, pos, i], hand.detach(), atol=1e-5)
    np.testing.assert_allclose(
        found["constant"], (carried(model, x, pattern, parts[-1])[:, -1] @ e).detach(), atol=1e-5
    )
    total = found["value"].sum(["pos", "feature"]) + found["constant"] + found["rest"]
    np.testing.assert_allclose(total, found["raw"], atol=1e-5)
    assert float(abs(found["value"][:, :-1]).max()) > 1e-2  # of heads: from earlier positions


@pytest.mark.parametrize("family", [*FAMILIES, "olmo2"])
def test_all_that_comes_to_a_feature_is_its_pre_activation(family: str) -> None:
    """At other sites, and of a transcoder: raw is the hooked site encoded."""
    model = small.bridge(family)
    cases: list[tuple[sae.Dictionary, sae.Dictionary, str]] = [
        (drawn("L0.attn_out"), drawn("L1.resid_post", 1), "blocks.1.hook_resid_post"),
        (drawn("L0.mlp_out"), drawn("L1.attn_out", 1), "blocks.1.hook_attn_out"),
        (drawn("L0.resid_pre"), drawn("L2.z", 1), "blocks.2.attn.hook_z"),
        (drawn("L1.mlp_out", reads="mlp_normed"), drawn("L1.resid_post", 1), "blocks.1.hook_resid_post"),
    ]
    for low, high, hook in cases:
        found = sae.to_feature(model, task(), low, high, 3)
        hand = high.pre_activations(hooked(model, hook).flatten(2))[:, -1, 3]
        np.testing.assert_allclose(found["raw"], hand, atol=1e-5)
        total = found["value"].sum(["pos", "feature"]) + found["constant"] + found["rest"]
        np.testing.assert_allclose(total, found["raw"], atol=1e-5)
        assert float(abs(found["value"]).max()) > 1e-3


def test_at_one_site_a_share_is_activation_times_virtual_weight() -> None:
    model = small.bridge("gpt2")
    low, high = drawn("L1.resid_pre"), drawn("L1.resid_pre", 1)
    found = sae.to_feature(model, task(), low, high, 7, pos=2)
    x = model.run_with_cache(task().clean)[1]["blocks.1.hook_resid_pre"].detach()[:, 2]
    index = found["index"].values[:-1]
    hand = low.contributions(x)[:, index] * (low.W_dec[index] @ high.W_enc[:, 7])
    np.testing.assert_allclose(found["value"][:, 2, :-1], hand, atol=1e-9)
    np.testing.assert_allclose(found["rest"], high.b_enc[7].expand(2), atol=1e-9)
    assert float(abs(found["value"][:, [0, 1, 3]]).max()) == 0


def test_a_transcoder_hears_a_feature_through_its_norm() -> None:
    model = small.bridge("llama")
    low = drawn("L1.resid_pre")
    found = sae.to_feature(model, task(), low, drawn("L1.mlp_out", 1, reads="mlp_in"), 3)
    norm = weights(model).blocks[1].mlp.norm
    hand = drawn("L1.mlp_out", 1, reads="mlp_in").pre_activations(
        norm(hooked(model, "blocks.1.hook_resid_mid"))
    )[:, -1, 3]
    np.testing.assert_allclose(found["raw"], hand.detach(), atol=1e-5)
    assert float(abs(found["value"].sel(pos=3)).max()) > 1e-3


def test_where_there_is_no_direct_path_is_said_before_a_pass() -> None:
    model = small.bridge("gpt2")
    low, high = drawn("L1.resid_pre"), drawn("L2.resid_pre", 1)
    cases = {
        "is read before L2.resid_pre is written": (high, low, 3, {}),
        "is read behind an MLP": (low, drawn("L2.mlp_out", 1), 3, {}),
        "is not in the stream": (drawn("L1.z"), high, 3, {}),
        "normalises": (low, drawn("L2.resid_pre", 1, norm="layer_norm"), 3, {}),
        "features 0 to 39": (low, high, 40, {}),
        "pos is 'all', several positions": (low, high, 3, {"pos": "all"}),
    }
    with two_sides.no_pass(model):
        for said, (one, other, feature, options) in cases.items():
            with pytest.raises(ValueError, match=said):
                sae.to_feature(model, task(), one, other, feature, **options)
