"""Lenses, dictionaries and probes on bridges of every kind: the numbers of plain hooks, or a sentence."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
import two_sides
import zoo

import interp
from interp import lens, probes, sae, steering

pytestmark = pytest.mark.filterwarnings("ignore:using the reference engine")
QUIET: Any = {"progress": False}
HOOK = "blocks.1.hook_resid_pre"
END = "blocks.2.hook_resid_post"
TOKENS = torch.tensor([[5, 6, 7, 8, 9], [9, 4, 3, 8, 11], [3, 10, 7, 6, 12]])
ROWS = TOKENS.tolist()
SIDES = [[*start, last] for start in ([5, 6, 7, 8], [9, 4, 3, 8]) for last in range(3, 11)]


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A bridge whose model has two logits; its `cfg` says that there are as many as tokens."""
    inner = small.transformers_model("gpt2")
    inner.lm_head = torch.nn.Linear(24, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        inner.lm_head.weight.copy_(torch.randn(2, 24, generator=torch.Generator().manual_seed(3)))
    inner.config.tie_word_embeddings = False
    return small.bridged(inner, "classifier")


def dictionary() -> sae.Dictionary:
    g = torch.Generator().manual_seed(0)
    r = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    return sae.Dictionary(r(24, 30) / 5, 0.1 * r(30), r(30, 24) / 5, 0.1 * r(24), place="L1.resid_pre")


def plain(model: Any, hook: str = HOOK, put: Any = None, at: str = HOOK) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes to a hook point, with `put` at another one; and the logits."""
    kept: list[torch.Tensor] = []
    hooks = [] if put is None else [(at, lambda tensor, hook: put(tensor))]
    hooks.append((hook, lambda tensor, hook: kept.append(tensor.detach())))
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        out = model(TOKENS)
    return kept[0], out


def near(model: Any) -> dict[str, float]:
    """Norms of transformers' own compute in float32."""
    return {"atol": 2e-5, "rtol": 1e-5}


def require_features_as_hooks(model: Any, answers: list[int], wrongs: list[int]) -> None:
    """Features of prompts, and a feature patched, by plain hooks."""
    d, (x, out) = dictionary(), plain(model)
    found = sae.encode(model, d, ROWS, pos="all")
    np.testing.assert_allclose(found, d.encode(x).flatten(0, 1), **near(model))
    task = interp.Task.from_tokens(
        clean=ROWS, corrupt=[[*r[:-1], 4] for r in ROWS], answer=answers, wrong=wrongs
    )
    swept = interp.patch(model, task, features=d, ablation="zero", direction="noise", **QUIET)
    best = int(abs(swept["value"]).mean("prompt").values[:-1].argmax())
    feature = int(swept["index"][best])
    put = lambda h: h - d.encode(h)[..., feature, None] * d.W_dec[feature]  # noqa: E731
    row = torch.arange(3)
    moved = (out - plain(model, put=put)[1])[:, -1]
    hand = moved[row, task.answers[:, 0]] - moved[row, task.wrongs[:, 0]]
    np.testing.assert_allclose(swept["value"][:, best], hand, **near(model))
    assert float(abs(hand).max()) > 1e-3


def require_probes_as_hooks(model: Any) -> probes.Probes:
    """Scores of a probe that puts tokens together."""
    made = probes.fit(model, SIDES[:8], SIDES[8:], layer=1, agg="mean", draws=1, **QUIET)[1]
    (weights,) = made.weights.values()
    x = plain(model)[0]
    hand = x.mean(1) @ weights.v[0, :, 0].to(x) + weights.b[0]
    np.testing.assert_allclose(made.score(model, ROWS)["logit"][0], hand, **near(model))
    assert float(hand.std()) > 1e-3
    return made


@pytest.mark.parametrize("family", ["llama", "neox", "granite"])
def test_a_bridge_is_read_as_by_plain_hooks(family: str) -> None:
    model = small.bridge(family)
    require_features_as_hooks(model, [3, 4, 5], [4, 5, 6])
    made = require_probes_as_hooks(model)
    x, out = plain(model)
    by_prefix = [float(made.score(model, [ROWS[0][:n]])["logit"][0, 0]) for n in range(1, 6)]
    np.testing.assert_allclose(probes.stream(model, ROWS, made)["value"][0, 0], by_prefix, **near(model))
    found = lens.logit(model, ROWS, list(range(architectures.VOCAB)))
    scale = 2.0 if family == "granite" else 1.0  # its logits are divided by it, behind the unembedding
    said = (model.unembed(model.ln_final(x)).detach() / scale).log_softmax(-1)
    np.testing.assert_allclose(found["value"][:, 1], said, **near(model))
    np.testing.assert_allclose(found["value"][:, -1], out.log_softmax(-1), **near(model))


def loaded(name: str) -> Any:
    return interp.load(zoo.folder(name), dtype=zoo.dtype_of(name))


@pytest.mark.parametrize("name", ["Gemma 2", "OLMo 2", "EXAONE 4", "MPT, clipped"])
def test_a_transcoder_reads_what_the_mlp_reads(name: str) -> None:
    """Norms before and after, after alone, and of a layout that our own pass cannot run: or a sentence."""
    model = loaded(name)
    width = interp.models.anatomy(model).d_model
    g = torch.Generator().manual_seed(0)
    r = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    d = sae.Dictionary(r(width, 9), r(9), r(9, width), r(width), place="L1.mlp_out", reads="mlp_in")
    tokens, kept = zoo.prompts()[0], []
    handle = model.blocks[1].mlp.register_forward_pre_hook(
        lambda module, args, named: kept.append(next(iter((*args, *named.values()))).detach()),
        with_kwargs=True,
    )
    try:
        with torch.no_grad():
            model(tokens)
    finally:
        handle.remove()
    try:
        found = sae.encode(model, d, tokens.tolist(), pos="all")
    except ValueError as refused:
        assert name == "EXAONE 4"  # of release 3.9
        assert "what the MLP of layer 1" in str(refused)  # noqa: PT017
        return
    np.testing.assert_allclose(found, d.encode(kept[0]).flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_seen_or_read_out_is_told() -> None:
    model = loaded("OPT, norms after")  # its stream is wider than what the unembedding reads
    width = interp.models.anatomy(model).d_model
    d = sae.Dictionary(torch.eye(width), torch.zeros(width), torch.eye(width), torch.zeros(width))
    rows = zoo.prompts()[0].tolist()
    task = interp.Task.from_tokens(clean=rows, corrupt=rows[::-1], answer=[5, 6, 7], wrong=[8, 9, 10])
    with two_sides.no_pass(model), pytest.raises(ValueError, match="dimensions before the unembedding"):
        sae.to_logits(model, task, d.at("L1.resid_pre"))
    with pytest.raises(ValueError, match="cannot be seen: the model does not run with hooks there"):
        sae.encode(model, d.at("L1.mlp_out", reads="mlp_in"), rows)


@pytest.mark.parametrize("family", ["llama", "neox", "granite"])
def test_a_jacobian_lens_of_a_bridge_is_the_response_to_a_small_change(family: str) -> None:
    model = small.bridge(family)
    fitted = lens.jacobian(model, ROWS[:1], skip=1, layer=[1], **QUIET)
    delta = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def end(step: float) -> torch.Tensor:
        def put(h: torch.Tensor) -> torch.Tensor:
            out = h.clone()
            out[:, 1:4] += step * delta / 3
            return out

        return plain(model, END, put, "blocks.1.hook_resid_post")[0][0, 1:4].sum(0)

    measured = (end(0.02) - end(-0.02)) / 0.04
    assert float((fitted.matrices[1] @ delta - measured).abs().max()) < 2e-3 * float(measured.abs().max())
    assert float((measured - delta).abs().max()) > 1e-2


def test_a_classifier_on_a_bridge_has_its_own_number_of_logits(classifier: Any) -> None:
    out = plain(classifier)[1]
    assert interp.models.anatomy(classifier).d_vocab_out == out.shape[-1] == 2
    found = lens.logit(classifier, ROWS, [0, 1], top=2)
    np.testing.assert_allclose(found["value"][:, -1], out.log_softmax(-1), atol=1e-9)
    verdict = probes.Question(1, 0)(classifier, ROWS)
    np.testing.assert_allclose(verdict, out[:, -1, 1] - out[:, -1, 0], atol=1e-9)
    require_features_as_hooks(classifier, [0, 1, 0], [1, 0, 1])
    require_probes_as_hooks(classifier)
    d = steering.mean_difference(classifier, ROWS[:1], ROWS[1:], layer=1)
    outside = interp.Task.from_tokens(clean=ROWS, corrupt=ROWS, answer=[3, 4, 5], wrong=[4, 5, 6])
    calls = {
        "targets: 3 is no token": lambda: lens.logit(classifier, ROWS, [3], top=2),
        "top is 5; give 1 to 2": lambda: lens.logit(classifier, ROWS),
        "answer id 6 is outside": lambda: interp.patch(classifier, outside, features=dictionary()),
        "of no next token": lambda: sae.methods.ce_changes(
            classifier, {"a": ROWS}, {"d": steering.ablate(d)}
        ),
    }
    with two_sides.no_pass(classifier):
        for said, call in calls.items():
            with pytest.raises(ValueError, match=said):
                call()


def test_figures_of_what_comes_next_are_not_made_up(classifier: Any) -> None:
    """Of a classifier, and where attention sees what is to be foretold."""
    for model in (classifier, small.bridge("bert")):
        with pytest.warns(UserWarning, match="Figures of cross-entropy are NaN"):
            found = sae.report(model, dictionary(), ROWS)
        numbers = found["estimate"].to_series()
        for name in ("ce_rise", "recovered_zero", "recovered_mean"):
            assert np.isnan(numbers[name])
        assert bool(found["ce"].isnull().all())
        assert numbers["kl"] > 1e-3
        x = plain(model)[0][:, 1:].flatten(0, 1)
        left = (x - dictionary()(x)).square().sum() / (x - x.mean(0)).square().sum()
        assert numbers["fvu"] == pytest.approx(float(left))


def test_attention_both_ways_has_features_and_probes_and_no_stream() -> None:
    model = small.bridge("bert")
    require_features_as_hooks(model, [3, 4, 5], [4, 5, 6])
    made = require_probes_as_hooks(model)
    calls = {
        "no stream has the scores of the text so far": lambda: probes.stream(model, ROWS, made),
        "changes with those that come after it": lambda: probes.watch(model, ROWS, made, max_new_tokens=1),
    }
    with two_sides.no_pass(model):
        for said, call in calls.items():
            with pytest.raises(ValueError, match=said):
                call()
    with pytest.raises(ValueError, match="do not give its logits"):  # a layer stands before the unembedding
        lens.logit(model, ROWS, [3])
