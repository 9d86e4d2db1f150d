"""RelP is exact patching in the frozen-coefficient surrogate, whatever the patch: rules, hooks, scores."""

from __future__ import annotations

from functools import partial
from typing import Any

import architectures
import pytest
import torch
from architectures import build, grid
from frozen import Frozen, activations
from relevances import metric

from interp.attribution import attribute, gradients
from interp.attribution.rules import Rules, rules_for
from interp.models.anatomy import anatomy
from interp.sites import hook_name
from interp.tasks import Task

TOKENS, OTHERS = architectures.tokens()
OWN = {
    "gemma-like": {"normalization_type": "RMS", "use_normalization_before_and_after": True, "gated_mlp": True}
}
OWN["gemma-like"] |= {"act_fn": "gelu_new", "n_key_value_heads": 2, "output_logits_soft_cap": 3.0}
CONFIGS: dict[str, dict[str, Any]] = dict(grid()) | OWN
NAMES = (
    "LN-gelu_new-plain-serial-mha-learned",
    "LNPre-silu-gated-serial-mha-rotary",
    "RMSPre-relu-plain-parallel-gqa-learned",
    "RMS-silu-gated-parallel-gqa-rotary",
    "none-gelu_new-gated-serial-mha-learned",
    "attn-only",
    "sandwich-norm",
    "alibi",
    "qk-norm",
    "local",
    "soft-cap",
    "gemma-like",
)
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "v", "post")


def sites_of(model: Any) -> list[str]:
    return [site for site in SITES if site in anatomy(model).sites()]


@pytest.mark.parametrize("name", NAMES)
def test_relp_is_exact_patching_in_the_surrogate(name: str) -> None:
    model = build(CONFIGS[name])
    surrogate = Frozen(model, TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(surrogate({}), model(TOKENS), rtol=0, atol=1e-11)
    sites = sites_of(model)
    names = [hook_name(site, 1) for site in sites]
    value, values, slopes = gradients(model, TOKENS, names, metric, rules=rules_for("relp"))
    generator = torch.Generator().manual_seed(3)
    for site, point in zip(sites, names):
        for size in (1e-3, 1.0, 1e3):
            delta = size * torch.randn(values[point].shape, generator=generator, dtype=torch.float64)
            delta[:, ::2] = 0.0
            patched = metric(surrogate({(site, 1): lambda x, d=delta: x + d}))
            estimate = (delta * slopes[point]).flatten(1).sum(1)
            gap = float((patched - value - estimate).abs().max())
            assert gap < 1e-10 * (1 + float(estimate.abs().max())), (site, size)
            assert float(estimate.abs().max()) > 1e-5 * size, site


@pytest.mark.parametrize("switch", ["ln", "identity", "ah", "half"])
def test_with_a_rule_off_it_is_not(switch: str) -> None:
    model = build(CONFIGS["RMS-silu-gated-parallel-gqa-rotary"])
    surrogate, point = Frozen(model, TOKENS), hook_name("resid_pre", 1)
    value, values, slopes = gradients(model, TOKENS, [point], metric, rules=Rules(**{switch: False}))
    delta = torch.linspace(-1, 1, values[point].numel(), dtype=torch.float64).view_as(values[point])
    patched = metric(surrogate({("resid_pre", 1): lambda x: x + delta}))
    estimate = (delta * slopes[point]).flatten(1).sum(1)
    assert float((patched - value - estimate).abs().max()) > 1e-3 * float(estimate.abs().max())


@pytest.mark.parametrize(
    "name", ["LN-gelu_new-plain-serial-mha-learned", "RMS-silu-gated-parallel-gqa-rotary"]
)
def test_attribute_gives_the_surrogates_patches(name: str) -> None:
    """Every (layer, pos) cell of `attribute(method="relp")`, denoised: the clean activation into the corrupt
    run's surrogate."""
    model = build(CONFIGS[name])
    answer, wrong = torch.tensor([3, 4]), torch.tensor([5, 6])
    task = Task.from_tokens(clean=TOKENS, corrupt=OTHERS, answer=answer, wrong=wrong)
    surrogate, rows = Frozen(model, OTHERS), torch.arange(len(TOKENS))
    clean = activations(model, TOKENS)

    def difference(logits: torch.Tensor) -> torch.Tensor:
        last = logits[rows, -1]
        return last[rows, answer] - last[rows, wrong]

    base = difference(surrogate({}))
    for site in ("resid_pre", "attn_out", "mlp_out"):
        found = attribute(model, task, site, method="relp", direction="denoise", progress=False)
        for layer in range(3):
            for pos in range(TOKENS.shape[1]):
                source = clean[hook_name(site, layer)]
                exact = difference(surrogate({(site, layer): partial(put, source, pos)})) - base
                cell = torch.from_numpy(found["value"].sel(layer=layer, pos=pos).values).double()
                torch.testing.assert_close(cell, exact, rtol=1e-6, atol=1e-6)
        assert float(abs(found["value"]).max()) > 1e-2


def put(source: torch.Tensor, pos: int, x: torch.Tensor) -> torch.Tensor:
    """x with one position of the source's activation."""
    x = x.clone()
    x[:, pos] = source[:, pos]
    return x
