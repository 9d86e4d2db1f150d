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

import interp
from interp.attribution import attribute, gradients
from interp.methods import Relp, Rules
from interp.models import anatomy
from interp.places import hook_name
from interp.tasks import Task, families

TOKENS, OTHERS = architectures.tokens()
OWN = {
    "gemma-like": {"normalization_type": "RMS", "use_normalization_before_and_after": True, "gated_mlp": True}
}
OWN["gemma-like"] |= {"act_fn": "gelu_new", "n_key_value_heads": 2, "output_logits_soft_cap": 3.0}
CONFIGS: dict[str, dict[str, Any]] = {name: config for name, config in grid() if name != "clip"} | OWN
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "v", "post")


def sites_of(model: Any) -> list[str]:
    return [site for site in SITES if site in anatomy(model).sites()]


@pytest.mark.parametrize("name", CONFIGS)
def test_relp_is_exact_patching_in_the_surrogate(name: str) -> None:
    """Something added at every site of a layer: the metric's change is the sum of the estimates."""
    model = build(CONFIGS[name])
    surrogate = Frozen(model, TOKENS)
    with torch.no_grad():
        plain = model(TOKENS)
    torch.testing.assert_close(surrogate({}), plain, rtol=0, atol=1e-11)
    sites = sites_of(model)
    names = [hook_name(site, 1) for site in sites]
    value, values, slopes = gradients(model, TOKENS, names, metric, rules=Rules())
    assert torch.equal(value, metric(plain))  # the rules change no value
    generator = torch.Generator().manual_seed(3)
    for size in (1e-3, 1e3):
        deltas = {
            point: size * torch.randn(values[point].shape, generator=generator, dtype=torch.float64)
            for point in names
        }
        estimates = {point: (delta * slopes[point]).flatten(1).sum(1) for point, delta in deltas.items()}
        added = {(site, 1): partial(torch.add, deltas[point]) for site, point in zip(sites, names)}
        gap = float((metric(surrogate(added)) - value - sum(estimates.values())).abs().max())
        assert gap < 1e-10 * (1 + max(float(e.abs().max()) for e in estimates.values())), size
        assert min(float(e.abs().max()) for e in estimates.values()) > 1e-5 * size


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


def test_what_the_ah_rule_leaves_out() -> None:
    """tiny-ioi: the head that finds the repeated name acts through later queries. RelP's score of it is its
    effect with all patterns held; with ah off it is near the whole effect."""
    model = interp.load("tiny-ioi")
    task = families()["ioi"].build(model, n=12, seed=0)
    clean, corrupt = activations(model, task.clean), activations(model, task.corrupt)
    rows, found = torch.arange(len(task)), {}
    for ah in (True, False):
        scores = attribute(model, task, "z", method=Relp(ah=ah), progress=False)["value"]
        found[ah] = torch.from_numpy(scores.mean("prompt").values).flatten()

    @torch.no_grad()
    def effects(held: list[str]) -> torch.Tensor:
        pins = [(name, lambda x, hook: corrupt[hook.name]) for name in held]
        out = []
        for layer in range(3):
            for head in range(4):
                swap = (hook_name("z", layer), partial(put_head, clean, head))
                with model.hooks(fwd_hooks=[swap, *pins]):
                    last = model(task.corrupt)[rows, task.positions]
                out.append((last[rows, task.answers[:, 0]] - last[rows, task.wrongs[:, 0]]).mean())
        base = model(task.corrupt)[rows, task.positions]
        return torch.stack(out) - (base[rows, task.answers[:, 0]] - base[rows, task.wrongs[:, 0]]).mean()

    whole, direct = effects([]), effects([hook_name("pattern", layer) for layer in range(3)])
    assert float(whole[0]) > 5 * float(found[True][0]) > 1
    assert float(torch.corrcoef(torch.stack((found[True], direct)))[0, 1]) > 0.99
    assert float(torch.corrcoef(torch.stack((found[False], whole)))[0, 1]) > 0.99
    assert float(torch.corrcoef(torch.stack((found[True], whole)))[0, 1]) < 0.7


def put_head(source: dict[str, torch.Tensor], head: int, x: torch.Tensor, hook: Any) -> torch.Tensor:
    x = x.clone()
    x[:, :, head] = source[hook.name][:, :, head]
    return x
