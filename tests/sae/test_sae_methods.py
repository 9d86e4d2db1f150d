"""Methods on features: planted truths, their controls, and no-ops to the bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import toys
import transformers
import xarray as xr
from tokenizers import decoders

import interp
from interp import sae, steering
from interp.sae import methods
from interp.sae.methods import _itda, _posterior, _regimes, _spare
from interp.steering.methods import measure
from interp.tasks import KL, vocabulary

EYE = torch.eye(64)
BOTH = torch.cat((EYE, -EYE))


def axes(place: str, d: int = 64) -> sae.Dictionary:
    both = torch.cat((torch.eye(d), -torch.eye(d)))
    return sae.Dictionary(both.T, torch.zeros(2 * d), both, torch.zeros(d), place=place)


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=12, seed=0)


@pytest.fixture(scope="module")
def world() -> Any:
    return interp.load("tiny-world")


def planted_features(n: int = 60, wide: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Features 3 and 7 are higher on the first class, 11 on the second; all others are noise."""
    up, down = drawn(2, n, wide).relu()
    up[:, [3, 7]] += 4
    down[:, 11] += 4
    return up, down


def test_planted_features_hold_the_information() -> None:
    up, down = planted_features()
    chosen, information = methods.mi_latents(up, down, 0.6)
    assert sorted(chosen.tolist()[:3]) == [3, 7, 11]
    mixed = torch.cat((up, down))[torch.randperm(120, generator=torch.Generator().manual_seed(1))]
    control = methods.mi_latents(mixed[:60], mixed[60:])[1]
    assert control[[3, 7, 11]].max() < 0.2 * information[[3, 7, 11]].min()
    assert information[[3, 7, 11]].min() > 5 * information[[0, 1, 2]].max()
    assert methods.mi_latents(up, down, 0.0)[0].tolist() == []
    assert len(methods.mi_latents(up, down, 1.0)[0]) == 80


def test_spare_moves_features_to_the_mean_of_their_side(model: Any, task: interp.Task) -> None:
    f = torch.tensor([[1.0, 5.0, 0.5, 9.0]])
    step = _spare.delta(f, (0,), (1,), torch.tensor([3.0] * 4), torch.tensor([2.0] * 4))
    assert step.tolist() == [[2.0, -2.0, 0.0, 0.0]]  # up to the mean; down by it, not below 0
    assert _spare.delta(f, (3,), (2,), torch.full((4,), 3.0), torch.full((4,), 2.0)).tolist() == [
        [0, 0, -0.5, 0]
    ]
    found = methods.spare(
        model,
        axes("L2.resid_pre"),
        task.clean[task.answers[:, 0] == task.answers[0, 0]],
        task.clean[task.answers[:, 0] != task.answers[0, 0]],
        share=0.2,
        bins=2,
        draws=5,
    )
    assert len(found.shuffled) == 5
    h = drawn(2, 3, 64)
    nothing = sae.methods.LatentEdit(found.dictionary, found.information, (), (), found.means, found.shuffled)
    for edit in (nothing.edit(), found.edit(strength=0.0)):
        assert torch.equal(edit[0].edit(h), h)
    assert not torch.equal(found.edit()[0].edit(h), h)
    with pytest.raises(ValueError, match="towards is 'up'"):
        found.edit("up")
    with pytest.raises(ValueError, match="share is 2"):
        methods.mi_latents(h[0], h[1], 2.0)


def test_spare_changes_what_the_model_relies_on(model: Any, task: interp.Task) -> None:
    """Towards prompts whose answer is the other name, the answer becomes the other; a rotated dictionary and
    shuffled labels do less."""
    answer = task.answers[:, 0]
    wanted = answer == answer[0]
    other = task.wrongs[:, 0] == answer[0]
    half = task[other.nonzero()[:, 0].tolist()] if bool(other.any()) else task
    found = methods.spare(
        model, axes("L2.resid_post"), task.clean[wanted], task.clean[~wanted], share=0.5, bins=2, draws=2
    )
    plain, moved = (measure(model, half, *edit).mean() for edit in ((), found.edit(when="last")))
    assert float(plain - moved) > 1.0


def test_selective_features_are_of_the_language_alone(world: Any) -> None:
    target, random = torch.zeros(10, 4).bool(), torch.zeros(10, 4).bool()
    target[:, :2], random[:, 1], target[:5, 2] = True, True, True  # own, general, half of the time, never
    assert methods.selective_latents(target, random).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="tau is 0"):
        methods.selective_latents(target, random, tau=0.0)
    with pytest.raises(ValueError, match="with the same features"):
        methods.selective_latents(target, random[:, :2])


def test_a_languages_direction_costs_its_own_text_alone(world: Any) -> None:
    """Beside a random direction, which costs neither."""
    pairs, d = interp.tasks.languages(world, 48, seed=5), sae.load("tiny-world")
    invented = (pairs.clean == world.to_single_token("lo")).any(1)
    texts = {
        name: pairs[side.nonzero()[:, 0].tolist()] for name, side in (("lo", invented), ("en", ~invented))
    }
    found = {name: methods.langfir(world, d, text, tau_random=0.6) for name, text in texts.items()}
    edits = {
        name: steering.ablate(each.direction) for name, each in found.items() if each.direction is not None
    }
    edits["random"] = steering.ablate(steering.Direction.from_tensor(drawn(128), "L2.resid_pre"))
    cost = methods.ce_changes(world, texts, edits)["value"].values
    assert min(cost[0, 0], cost[1, 1]) > 0.3
    assert max(abs(cost[0, 1]), abs(cost[1, 0]), *abs(cost[2])) < 0.1


def test_the_cost_of_an_edit_by_text(model: Any, task: interp.Task) -> None:
    d = steering.mean_difference(model, task.clean[:6], task.clean[6:], layer=1)
    table = methods.ce_changes(
        model, {"a": task[:4], "b": task[4:8]}, {"none": steering.add(d, 0.0), "out": steering.ablate(d)}
    )
    assert abs(table["value"].sel(edit="none")).max() == 0
    row, length = task.clean[:1], int(task.lengths[0])
    hook = ("blocks.1.hook_resid_pre", lambda h, hook: h - (h @ d.unit().vector)[..., None] * d.unit().vector)
    losses = []
    for hooks in ([], [hook]):
        with torch.no_grad():
            out = model.run_with_hooks(row[:, :length], fwd_hooks=hooks)[0].log_softmax(-1)
        losses.append(float(-out[torch.arange(1, length - 1), row[0, 2:length]].mean()))
    one = methods.ce_changes(model, {"a": row[:, :length]}, {"out": steering.ablate(d)})
    assert float(one["value"].item()) == pytest.approx(losses[1] - losses[0], abs=1e-4)
    assert float(one["clean"].item()) == pytest.approx(losses[0], abs=1e-4)
    with pytest.raises(ValueError, match="give one of each or more"):
        methods.ce_changes(model, {}, {})


def test_separability_of_equal_and_disjoint_concepts() -> None:
    a = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    assert methods.js_separability([a, a]).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(methods.js_separability([a, a + 2]), [1.0, 1.0], rtol=1e-12)
    thirds = methods.js_separability([a, a, a + 2])  # the mean over pairs
    np.testing.assert_allclose(thirds, [2 / 3, 2 / 3], atol=1e-12)
    # by hand: 1 and 0 against one half each
    wanted = (0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25 * 1) ** 0.5
    coarse = methods.js_separability([torch.zeros(4, 1), torch.tensor([[0.0], [0], [1], [1]])], bins=2)
    assert float(coarse) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="give two or more"):
        methods.js_separability([a])


def test_attenuation_by_how_sure_a_value_is(model: Any, task: interp.Task) -> None:
    low, high = torch.linspace(0, 1, 50)[:, None], torch.linspace(5, 6, 50)[:, None]
    d = axes("L2.resid_pre")
    own, other = (_posterior._histograms([a, b], 12) for a, b in ((high, low), (low, high)))
    (histograms, start, width), _ = own, other
    posterior = torch.where(histograms.sum(0) > 0, histograms[0] / histograms.sum(0).clamp(min=1e-30), 0.0)
    found = methods.Attenuation(d, (0,), posterior, start, width, torch.zeros(128))
    f = torch.zeros(4, 128)
    f[:, 0] = torch.tensor([0.5, 5.5, 40.0, -3.0])
    assert found.probability(f)[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    h = torch.zeros(4, 1, 64)
    h[:, 0, 0] = f[:, 0].clone()
    out = found.edit()[0].edit(h)[:, 0, 0]
    assert out.tolist() == [0.5, 0.0, 40.0, -3.0]  # untouched where P is 0, gone where it is 1


def test_attenuation_costs_others_less_than_masking(world: Any) -> None:
    d = sae.load("tiny-world")
    task = interp.tasks.sentiment(world, n=64, seed=0)
    good = world.to_single_token("wonderful")
    up = (task.answers == good).any(1)
    assert 8 < int(up.sum()) < 56
    found = methods.attenuate(world, d, task.clean[up], task.clean[~up], top=20, pos="last")
    masked = steering.edits.set_features(d, list(found.features), 0.0)
    other = task[(~up).nonzero()[:, 0].tolist()]
    f = sae.encode(world, d, task.clean[up])[:, list(found.features)].double()
    share = float((f * found.probability(sae.encode(world, d, task.clean[up]))).sum() / f.sum())
    index = torch.tensor(found.features)  # as much is removed on the concept, whatever the value
    equally = lambda z: z.index_copy(-1, index, z[..., index] * (1 - share))  # noqa: E731
    edits = [found.edit(when="last"), steering.edits.features(d, equally, when="last"), masked]
    cost = [float(measure(world, other, edit, metric=KL()).mean()) for edit in edits]
    assert 0.1 < share < 0.9
    assert cost[0] < 0.9 * cost[1] < cost[2]


def test_rules_are_chained_to_a_fixed_point() -> None:
    names = ["a", "b", "c", "d", "e"]
    rules = ["a & b -> c", "c -> d", "d & e -> a"]
    facts = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 1, 1]]).bool()
    closed = methods.chain(facts, names, rules)
    assert closed.int().tolist() == [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    for order in (rules[::-1], rules[1:] + rules[:1]):
        assert torch.equal(methods.chain(facts, names, order), closed)
    assert torch.equal(methods.chain(closed, names, rules), closed)
    assert torch.equal(methods.chain(facts, names, []), facts)
    with pytest.raises(ValueError, match=r"'f' is no concept"):
        methods.chain(facts, names, ["f -> a"])
    with pytest.raises(ValueError, match="is no rule"):
        methods.chain(facts, names, ["a, b"])


def test_conclusions_are_steered_where_they_hold_and_nowhere_else(model: Any, task: interp.Task) -> None:
    d = axes("L2.resid_pre")
    names = model.to_string(task.answers[:2, 0])
    sides = {f"is {i}": task.clean[task.answers[:, 0] == task.answers[i, 0]] for i in (0, 1)}
    assert len(names)
    assert task.answers[0, 0] != task.answers[1, 0]
    found = methods.detectors(model, d, sides)
    assert found.f1.tolist() == [1.0, 1.0]
    assert found.facts(model, sides["is 0"]).tolist() == [[True, False]] * len(sides["is 0"])
    facts = torch.tensor([[True, False], [False, False]])
    made = found.steer(facts, "is 0", 3.0)
    with torch.no_grad(), steering.steer(model, *made, prompt_length=task.lengths[:2]):
        out = model(task.clean[:2])
    plain = model(task.clean[:2])
    assert torch.equal(out[1], plain[1])
    assert not torch.allclose(out[0], plain[0], atol=1e-2)
    with pytest.raises(ValueError, match="is no concept"):
        found.steer(facts, "is 2")


def stream(n: int = 400, d: int = 16, atoms: int = 24, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    base = torch.nn.functional.normalize(torch.randn(atoms, d, generator=g, dtype=torch.float64), dim=1)
    weights = torch.rand(n, atoms, generator=g, dtype=torch.float64)
    weights = weights * (torch.rand(n, atoms, generator=g) < 0.12)
    return weights @ base + 0.02 * torch.randn(n, d, generator=g, dtype=torch.float64) + 0.3 * base[0]


def test_itda_needs_more_atoms_for_less_error_and_knows_a_rotation() -> None:
    rows = stream()
    chosen = [methods.itda_fit(rows, 4, threshold) for threshold in (0.05, 0.2, 0.5)]
    sizes = [len(each) for each in chosen]
    assert sizes[0] > sizes[1] > sizes[2] > 2
    unit = torch.nn.functional.normalize(rows, dim=1)
    left = [_itda._left(unit, unit[chosen[1]], k) for k in (1, 2, 3, 4)]
    assert all(bool((a - b > -1e-12).all()) for a, b in itertools.pairwise(left))  # no step makes it worse
    turn = torch.linalg.qr(drawn(16, 16).double()).Q
    assert torch.equal(methods.itda_fit(rows @ turn, 4, 0.2), chosen[1])
    other = set(methods.itda_fit(stream(seed=9), 4, 0.2).tolist())
    own = set(chosen[1].tolist())
    assert len(own & other) / len(own | other) < 0.6
    assert methods.itda_fit(rows, 4, 0.2, limit=5).tolist() == chosen[1][:5].tolist()
    with pytest.raises(ValueError, match="threshold 2"):
        methods.itda_fit(rows, 4, 2.0)


def test_itda_is_a_dictionary_that_keeps_its_names(model: Any, task: interp.Task, tmp_path: Any) -> None:
    d = methods.itda(model, "L1.resid_pre", task, k=6, threshold=0.2)
    rows = interp.activations(model, task, "L1.resid_pre", "all")
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), task.lengths.cumsum(0)[:-1]))
    for (prompt, token), atom in list(zip(methods.itda_atoms(d), d.W_dec))[:5]:
        row = rows[int(starts[prompt]) + token]
        torch.testing.assert_close(atom, row / row.norm())
        torch.testing.assert_close(d(row), row, atol=1e-4, rtol=1e-4)  # an atom explains itself
    again = sae.load(d.save(tmp_path / "itda"))
    torch.testing.assert_close(again.encode(rows), d.encode(rows), atol=1e-5, rtol=1e-5)
    assert methods.itda_atoms(again) == methods.itda_atoms(d)
    assert methods.itda_jaccard(d, again) == 1
    assert sae.check(model, d, task) < 0.2
    curve = methods.itda_curve(model, "L1.resid_pre", task[:8], task[8:], [0.1, 0.4], k=6)
    assert float(curve["value"][0]) < float(curve["value"][1])
    with pytest.raises(ValueError, match="make it by itda"):
        methods.itda_atoms(axes("L1.resid_pre"))


def colours() -> tuple[Any, interp.Task]:
    sketch = toys.chain()
    order = [0, 1, 2, 3, 1, 3, 2, 0, 3, 0, 0, 2, 1, 1, 3, 2]
    own = [toys.ids(toys.WORDS, sketch)[i] for i in order]
    other = [toys.ids(toys.WORDS, sketch)[(i + 1) % 4] for i in order]
    end = toys.ids(("=",), sketch)[0]
    task = interp.Task.from_tokens(
        clean=[[i, end] for i in own], corrupt=[[i, end] for i in other], answer=own, wrong=other
    )
    return toys.model(sketch), task


def test_planted_attributes_are_approximated_controlled_and_named() -> None:
    """L0H0 writes the colour at the end: the stream there is a mean and one vector a colour."""
    model, task = colours()
    rows = interp.activations(model, task, "L1.resid_pre")
    each = torch.stack([rows[task.answers[:, 0] == i].mean(0) for i in task.answers[:, 0].unique()])
    base = each.amin(0)
    U = each - base  # one direction a colour
    d = sae.Dictionary(
        U.T,
        torch.zeros(4).double(),
        U / U.square().sum(1, keepdim=True),
        base,
        place="L1.resid_pre",
        centre=True,
    )
    labels = {"colour": (task.answers[:, 0].tolist(), task.wrongs[:, 0].tolist())}
    found = methods.principled(model, task, d, labels, k=4)["value"]
    np.testing.assert_allclose(found.sel(dictionary="supervised"), 1, atol=1e-3)
    np.testing.assert_allclose(found.sel(dictionary="dictionary"), 1, atol=1e-3)
    assert float(found.sel(dictionary="shuffled", score="approximation")) < 0.5
    assert float(found.sel(dictionary="shuffled", score="control")) < 0.5
    assert float(found.sel(dictionary="rotated", score="approximation")) < 0.5
    assert float(found.sel(dictionary="rotated", score="control")) < 0.5
    few = methods.principled(model, task, d, labels, k=1)["value"]
    assert float(few.sel(dictionary="dictionary", score="control")) < 0.95
    with pytest.raises(ValueError, match=r"give .16 clean, 16 corrupt"):
        methods.principled(model, task, d, {"colour": ([1], [2])})


def areas(dense: torch.Tensor, sparse: torch.Tensor, case: Any, draws: int = 6) -> np.ndarray:
    tables = [(dense[side], sparse[side]) for side in (0, 1)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    return np.mean([_regimes._drawn(tables, None, case, (1,), g) for g in generators], axis=0)


def test_probes_win_where_their_kind_of_truth_is_planted() -> None:
    n, wide = 120, 40
    noise = drawn(2, n, wide).double()
    one, many = noise.clone(), noise.clone()
    one[0, :, 5] += 3  # a single feature
    many[0] += 0.6  # a little of everything
    few = ("scarcity 8", "scarcity", 8, 0.5, 0.0)
    sparse_truth, dense_truth = areas(noise, one, few), areas(many, noise, few)
    assert sparse_truth[4] > 0.9 > sparse_truth[:4].max()  # k = 1 against all baselines
    assert dense_truth[0] > 0.85 > dense_truth[4]
    more = ("scarcity 24", "scarcity", 24, 0.5, 0.0)
    chosen, idle = areas(noise, one, more), areas(many, noise, more)
    assert chosen[-1] > chosen[-2] + 0.2
    assert abs(idle[-1] - idle[-2]) < 0.1
    noisy = [areas(many, noise, (f"noise {s}", "noise", 40, 0.5, s))[0] for s in (0.0, 0.2, 0.4)]
    assert noisy[0] > noisy[1] > noisy[2] > 0.5


def test_regimes_are_checked_before_a_pass(model: Any, task: interp.Task) -> None:
    d, sides = axes("L1.resid_pre"), (task.clean[:6], task.clean[6:])
    for regimes, said in (
        ({"drought": [4]}, "'drought' is no regime"),
        ({"shift": [0]}, "needs shifted="),
        ({"noise": [0.6]}, "is no level of 'noise'"),
        ({}, "regimes is empty"),
        ({"noise": [0.1]}, r"training takes up to \[16, 16\]"),
    ):
        with pytest.raises(ValueError, match=said):
            methods.probe_regimes(model, d, *sides, regimes=regimes)


def test_variance_is_shared_as_it_was_planted() -> None:
    context, word, both = drawn(6, 1), drawn(1, 5, seed=1), drawn(6, 5, seed=2)
    for parts, wanted in (((context,), (1, 0)), ((word,), (0, 1))):
        found = methods.variance_shares(sum(parts) + torch.zeros(6, 5))
        np.testing.assert_allclose([float(each) for each in found], wanted, atol=1e-9)
    mixed = (context - context.mean()) + (word - word.mean())
    total = mixed.double().var(unbiased=False)
    found = methods.variance_shares(mixed)
    assert float(found[0]) == pytest.approx(float(context.double().var(unbiased=False) / total), rel=1e-5)
    assert sum(float(each) for each in methods.variance_shares(both)) < 1
    assert bool(methods.variance_shares(torch.ones(3, 2))[0].isnan())


def test_a_feature_of_a_word_and_its_near_misses(model: Any) -> None:
    """A planted feature: the embedding of one word, read at layer 0, where nothing has been mixed in."""
    ids = [model.to_single_token(f" {w}") for w in ("Mary", "Martin")]
    both = model.W_E[ids].detach()
    W = torch.nn.functional.normalize(both - model.W_E.mean(0).detach(), dim=1)
    d = sae.Dictionary(W.T, torch.zeros(2), W, torch.zeros(64), place="L0.resid_pre")
    kinds = {"Mary": [" Mary"], "near": [" Martin"], "other": [" store", " park"]}
    found = methods.stress(model, d, [0, 1], ["When{}", "After John and{} went"], kinds)
    assert found["value"].sel(kind="near").values.tolist() == [1, 0]
    assert bool(found["value"].sel(kind="Mary").isnull().all())
    with pytest.raises(ValueError, match="has no place for a word"):
        methods.stress(model, d, [0], ["When"], kinds)
    with pytest.raises(ValueError, match="give two kinds or more"):
        methods.stress(model, d, [0], ["When{}"], {"Mary": [" Mary"]})


@pytest.mark.parametrize("space", ["Ġ", "▁"])
def test_near_misses_are_words_whatever_marks_a_space(model: Any, space: str, monkeypatch: Any) -> None:
    """Bytes (GPT-2) and pieces (Llama) write the space before a word, and é, in ways of their own."""
    tokens = ["<s>", *(f"{space}{each}" for each in ("coffee", "coffin", "coffé", "dog")), "coffee", "toffee"]
    if space == "Ġ":
        tokens[3], decoder = "ĠcoffÃ©", decoders.ByteLevel()
    else:
        decoder = decoders.Metaspace()
    ids = {each: i for i, each in enumerate(tokens)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, "<s>"))
    backend.decoder = decoder
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    monkeypatch.setattr(vocabulary, "tokenizer_of", lambda _: made)
    for word in ("coffee", " coffee"):
        assert methods.near_misses(model, word, 9) == ["toffee", "coffé", "coffin"]
        assert methods.near_misses(model, word, 1) == ["toffee"]
    with pytest.raises(ValueError, match="word is empty"):
        methods.near_misses(model, " ")


def test_fragility_is_what_was_planted(model: Any, task: interp.Task) -> None:
    d = steering.mean_difference(model, task.clean[:6], task.clean[6:], layer=[1, 2])
    sweep = steering.sweep(model, d, task, [0.0, 2.0], with_controls=False, progress=False)
    values = sweep["value"].isel(metric=0)
    by_prompt = xr.zeros_like(values) + xr.DataArray(np.arange(12.0), dims="prompt")
    found = methods.fragility(sweep.drop_vars("value").assign(value=by_prompt))
    np.testing.assert_allclose(found["value"], [0, 0, 1, 0], atol=1e-12)
    by_layer = xr.zeros_like(values) + xr.DataArray([-1.0, 1.0], dims="layer")
    found = methods.fragility(sweep.drop_vars("value").assign(value=by_layer))
    np.testing.assert_allclose(found["value"], [1, 0, 0, 0], atol=1e-12)
    assert found["success"].values.tolist() == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="give a sweep by prompt"):
        methods.fragility(sweep.assign(value=by_layer.isel(layer=0)))


def regimes(model: Any, up: Any, down: Any, **options: Any) -> xr.Dataset:
    options = {"regimes": {"scarcity": [5]}, "draws": 2, "progress": False, **options}
    return methods.probe_regimes(model, axes("L2.resid_pre"), up, down, **options)


def test_equal_prompts_are_not_in_training_and_test(model: Any) -> None:
    """Whatever copies a prompt has, the draws are those of the prompts that differ."""
    rows = interp.tasks.ioi(model, n=40, seed=5).clean
    rows = rows.unique(dim=0)[:20]
    alone = regimes(model, rows[:10], rows[10:])
    copies = regimes(model, rows[:10].repeat(3, 1), rows[10:].repeat(3, 1))
    np.testing.assert_array_equal(alone["draws"], copies["draws"])
    with pytest.raises(ValueError, match="prompts that differ"):
        regimes(model, rows[:2].repeat(9, 1), rows[10:])
    with pytest.raises(ValueError, match="1 prompts are in both classes"):
        regimes(model, rows[:10], rows[9:])


def test_a_regime_has_the_prompts_that_it_says() -> None:
    for n, share, expected in ((5, 0.5, [2, 3]), (32, 0.1, [3, 29]), (8, 0.01, [2, 6]), (8, 0.99, [6, 2])):
        assert _regimes._counts(n, share) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ks": [0]}, "ks is"),
        ({"ks": [1, 1]}, "ks is"),
        ({"ks": []}, "ks is"),
        ({"n_train": -5}, "n_train is -5"),
    ],
)
def test_probes_that_cannot_be_are_refused(options: Any, words: str, model: Any, task: interp.Task) -> None:
    with pytest.raises(ValueError, match=words):
        regimes(model, task.clean[:6], task.clean[6:], **options)


def test_a_curve_draws_by_its_seed_and_is_judged_on_other_prompts(model: Any) -> None:
    data, fresh = (interp.tasks.ioi(model, n=n, seed=seed).clean for n, seed in ((4, 0), (4, 7)))
    ask = lambda seed: methods.itda_curve(model, "L1.resid_pre", data, fresh, [0.3], seed=seed)  # noqa: E731
    one, other = ask(1), ask(2)
    assert float(one["value"][0]) == float(other["value"][0])
    assert float(one["random"][0]) != float(other["random"][0])
    assert one.attrs["seed"] == 1
    with pytest.raises(ValueError, match="1 prompts are in data and in held_out"):
        methods.itda_curve(model, "L1.resid_pre", data, data[:1], [0.3])
    with pytest.raises(ValueError, match="thresholds is empty"):
        methods.itda_curve(model, "L1.resid_pre", data, fresh, [])


def test_errors_come_before_any_pass(model: Any, task: interp.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pass was made")

    monkeypatch.setattr(model, "forward", never)
    monkeypatch.setattr(_itda, "activations", never)
    edit = {"out": steering.ablate(steering.Direction.from_tensor(drawn(64), "L1.resid_pre"))}
    sides, labels = {"a": task.clean[:6], "b": task.clean[6:]}, {"x": ([0, 1] * 6, [1, 0] * 6)}
    for wrong, words in (
        (lambda: methods.itda(model, "L1.resid_pre", task, threshold=2.0), "threshold 2.0"),
        (lambda: methods.itda_curve(model, "L1.resid_pre", task[:4], task[4:], [0.1, 2.0]), "threshold 2.0"),
        (lambda: methods.ce_changes(model, {"a": task}, edit, skip=-1), "skip is -1"),
        (lambda: methods.ce_changes(model, {"a": task}, {"out": None}), "expected an intervention"),
        (lambda: sae.contexts(model, axes("L1.resid_pre"), task, [3, 3]), "each once"),
        (lambda: regimes(model, task.clean[:6], task.clean[6:], pos="all"), "each prompt is a row"),
        (lambda: methods.detectors(model, axes("L1.resid_pre"), sides, pos="all"), "each prompt is a row"),
        (
            lambda: methods.principled(model, task, axes("L1.resid_pre"), labels, pos=(1, 3)),
            r"pos is \(1, 3\), several positions",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


def test_a_concept_that_raises_nothing_is_told(model: Any, task: interp.Task) -> None:
    with pytest.raises(ValueError, match="no feature is higher"):
        methods.attenuate(model, axes("L1.resid_pre"), task.clean[:4], task.clean[:4])
