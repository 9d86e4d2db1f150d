"""Extraction: activations, estimators that find what was planted, directions from prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import small
import torch

from interp import positions, steering
from interp.models import anatomy
from interp.steering import estimators, selectors
from interp.steering.estimators import cluster_centres


def cosine(a, b):
    return torch.cosine_similarity(a, b, dim=-1).item()


def planted(n, d, sigma, seed, gap=1.0, shape=None):
    """Two classes around ±gap/2 along a random unit direction; noise of SD sigma, or of a given shape."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    u = normal(d)
    u = u / u.norm()
    noise = [sigma * normal(n, d) if shape is None else normal(n, d) @ shape for _ in range(2)]
    return u, noise[0] + gap * u / 2, noise[1] - gap * u / 2


# ---- activations


@pytest.mark.parametrize(
    "name", ["L1.resid_pre", "L2.resid_mid", "L1H2", "L2.z", "L0.post", "L2.resid_post", "L1H1.k"]
)
def test_activations_are_those_of_the_cache(toy, ids, within, name, monkeypatch):
    """By the weights to rounding (a Llama of transformers norms in float32), under hooks to the bit."""
    got = steering.activations(toy, ids, name, "last")
    monkeypatch.setattr("interp.engine.trust.unsupported", lambda model: "a test says so")
    with pytest.warns(UserWarning, match="a test says so"):
        hooked = steering.activations(toy, ids, name, "last")
    with torch.no_grad():
        _, cache = toy.run_with_cache(ids)
    from interp.places import parse

    where = parse(name)
    kept = cache[where.format("tl").split("[")[0]][:, -1]
    kept = kept if where.head is None else kept[:, where.head]
    assert torch.equal(hooked, kept)
    rounding = within if "llama" in toy.cfg.model_name else 1e-12
    torch.testing.assert_close(got, kept, rtol=rounding, atol=rounding)
    assert kept.norm() > 0.1


def test_padding_changes_no_activation(toy, ids, within):
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :3] = mask[1, -2:] = False
    for pos in ("last", "mean", -2, (0, 2), slice(1, None)):
        rows = steering.activations(toy, ids, "L2.resid_pre", pos, mask=mask, batch_size=3)
        for row in range(4):
            alone = steering.activations(toy, ids[row, mask[row]], "L2.resid_pre", pos)
            torch.testing.assert_close(rows[row], alone[0], rtol=0, atol=within)
    every = steering.activations(toy, ids, "L2.resid_pre", "all", mask=mask, batch_size=3)
    alone = [steering.activations(toy, ids[row, mask[row]], "L2.resid_pre", "all") for row in range(4)]
    torch.testing.assert_close(every, torch.cat(alone), rtol=0, atol=within)


def test_positions_and_means(model, ids):
    every = steering.activations(model, ids, "L1.resid_pre", "all").view(4, 6, -1)
    read = lambda pos, **options: steering.activations(model, ids, "L1.resid_pre", pos, **options)  # noqa: E731
    assert torch.equal(read(2), every[:, 2])
    torch.testing.assert_close(read((1, 4)), every[:, 1:4].mean(1))
    assert torch.equal(read(lambda tokens, lengths: lengths - 3), every[:, 3])
    marks = torch.zeros(4, 6, dtype=torch.bool)
    marks[:, [1, 5]] = True
    torch.testing.assert_close(read(lambda tokens, lengths: marks), every[:, [1, 5]].mean(1))
    torch.testing.assert_close(read("last", agg="mean", batch_size=3), every[:, -1].mean(0))
    torch.testing.assert_close(read("all", agg="mean", batch_size=3), every.mean((0, 1)))
    where = positions.before([int(ids[0, 3]), int(ids[0, 4])])
    assert torch.equal(steering.activations(model, ids[:1], "L1.resid_pre", where)[0], every[0, 2])


def test_a_mean_that_is_mostly_of_the_first_token_is_told_of(ids):
    """The first token as a sink: a thousand times as long as the others, as in models without a BOS."""
    model = small.own()
    with torch.no_grad():
        model.W_pos[0] += 1000 * model.W_pos[1].norm() / model.W_pos[1].shape[0] ** 0.5
    with pytest.warns(UserWarning, match=r"first token's activations at L1\.resid_pre .*window\(1"):
        mean = steering.mean_difference(model, ids[:2], ids[2:], layer=1, pos="mean")
    rest = steering.mean_difference(model, ids[:2], ids[2:], layer=1, pos=positions.window(1, None))
    assert mean.norms[mean.place] > 20 * rest.norms[rest.place]
    for pos in ("last", "all", positions.window(1, None), 0):  # none is a mean over it, so none warns
        steering.activations(model, ids, "L1.resid_pre", pos)
    steering.activations(model, ids, "L1.post", "mean")


def test_a_pass_stops_at_the_last_place_and_its_tensors_enter_a_graph(model, ids):
    seen = []
    model.add_hook("blocks.2.hook_resid_pre", lambda tensor, hook: seen.append(1))
    try:
        with torch.inference_mode():
            places = ["L0.resid_pre", "L1.resid_pre"]
            rows = steering.activations(model, ids, places, engine="reference")
    finally:
        model.reset_hooks()
    assert not seen
    weight = torch.zeros(24, dtype=torch.float64, requires_grad=True)
    (rows[next(iter(rows))] @ weight).sum().backward()
    assert weight.grad.abs().sum() > 0


# ---- estimators


def test_the_mean_difference_finds_a_planted_direction_as_theory_says():
    """Cosine 1/√(1 + 2dσ²/(n‖Δ‖²)): the noise of a difference of means is 2σ²/n in each of d dimensions."""
    d, sigma = 64, 0.25
    for n in (8, 32, 128):
        theory = 1 / math.sqrt(1 + 2 * d * sigma**2 / n)
        found = []
        for seed in range(20):
            u, up, down = planted(n, d, sigma, seed)
            found.append(cosine(estimators.mean_difference(up, down), u))
        assert np.mean(found) == pytest.approx(theory, abs=0.02)
    assert min(found) > 0.95


def test_lda_and_logistic_classify_better_when_the_noise_has_a_shape():
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    shape = shape @ torch.diag(torch.logspace(-1.5, 0.5, 16, dtype=torch.float64))
    u, up, down = planted(300, 16, 0.0, 1, gap=1.0, shape=shape)
    fresh = planted(300, 16, 0.0, 1, gap=1.0, shape=shape)
    generator.manual_seed(2)
    noise = torch.randn(2, 500, 16, generator=generator, dtype=torch.float64) @ shape
    test = noise[0] + u / 2, noise[1] - u / 2

    def accuracy(fit):
        w = fit(up, down)
        middle = (up.mean(0) + down.mean(0)) / 2
        return (
            ((test[0] - middle) @ w > 0).double().mean() + ((test[1] - middle) @ w < 0).double().mean()
        ).item() / 2

    plain = accuracy(estimators.mean_difference)
    assert accuracy(lambda p, n: estimators.lda(p, n, 1e-4)) > plain + 0.05
    assert accuracy(lambda p, n: estimators.logistic(p, n, 1e-5)) > plain + 0.05
    assert torch.equal(fresh[1], up)


def test_pca_of_paired_differences_must_not_be_centred():
    """All pairs differ by the direction; around their mean there is only noise."""
    u, _, _ = planted(1, 32, 0.0, 3)
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(64, 32, generator=generator, dtype=torch.float64) * 3
    up = base + u + 0.2 * torch.randn(64, 32, generator=generator, dtype=torch.float64)
    assert cosine(estimators.pca(up, base), u) > 0.95
    assert cosine(estimators.pca(base, up), -u) > 0.95
    difference = up - base
    centred = torch.linalg.svd(difference - difference.mean(0), full_matrices=False)[2][0]
    assert abs(cosine(centred, u)) < 0.6


def test_weights_of_prompts_are_repetitions():
    _, up, down = planted(5, 8, 1.0, 5)
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])
    repeated = up[[0, 1, 1, 3, 4]]
    got = estimators.weighted_mean(up, down, weight, None)
    torch.testing.assert_close(got, estimators.mean_difference(repeated, down))
    equal = estimators.weighted_mean(up, down)
    torch.testing.assert_close(equal, estimators.mean_difference(up, down))


def test_clusters_find_planted_centres():
    generator = torch.Generator().manual_seed(6)
    centres = torch.randn(3, 16, generator=generator, dtype=torch.float64) * 3
    label = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    rows = centres[label] + 0.3 * torch.randn(100, 16, generator=generator, dtype=torch.float64)
    found, cluster = cluster_centres(rows, 3)
    assert torch.equal(cluster, label)
    assert (found - centres).norm(dim=1).max() < 0.5


def test_the_null_cosine_is_not_that_of_random_directions():
    """Activations vary along few directions: shuffled labels give cosines far above 1/√d."""
    generator = torch.Generator().manual_seed(7)
    wide = torch.diag(torch.tensor([8.0, 8.0] + [0.3] * 62, dtype=torch.float64))
    up, down = (torch.randn(40, 64, generator=generator, dtype=torch.float64) @ wide for _ in range(2))
    null = steering.extract.null_cosines(up, down, n_draws=100)
    assert null.shape == (100,)
    assert null.std() > 3 / math.sqrt(64)
    _, up, down = planted(40, 64, 0.3, 8, gap=2.0)
    assert steering.extract.null_cosines(up, down).abs().max() < 1 - 1e-3
    assert torch.equal(
        steering.extract.null_cosines(up, down, seed=3), steering.extract.null_cosines(up, down, seed=3)
    )


@pytest.mark.parametrize(
    "name", ["auroc", "effect_size", "sign_consistency", "log_odds", "mutual_information", "probe_accuracy"]
)
def test_unit_selectors_find_planted_neurons(name):
    generator = torch.Generator().manual_seed(9)
    up, down = (torch.randn(60, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    up[:, [3, 17]] += 2.0
    score = getattr(selectors, name)
    found = score(up, down)
    assert set(found.topk(2).indices.tolist()) == {3, 17}
    order = torch.randperm(120, generator=generator)
    shuffled = torch.cat((up, down))[order]
    null = score(shuffled[:60], shuffled[60:])
    assert null.max() < found[[3, 17]].min()


def test_selectors_on_values_known_by_hand():
    up, down = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert selectors.auroc(up, down).tolist() == [0.75, 0.5]
    assert selectors.sign_consistency(up, down).tolist() == [1.0, 0.5]
    assert selectors.effect_size(up, down).tolist() == pytest.approx([1 / math.sqrt(2), 0.0])
    apart = torch.tensor([[5.0], [6.0], [7.0], [8.0]])
    assert selectors.mutual_information(apart, -apart, bins=2).item() == pytest.approx(math.log(2))
    assert selectors.log_odds(apart, -apart).item() == pytest.approx(2 * math.log(9))
    assert selectors.probe_accuracy(apart, -apart).item() == 1.0


# ---- directions from prompts


def test_a_direction_from_prompts(toy, ids):
    up, down = ids[:2], ids[2:]
    d = steering.mean_difference(toy, up, down, layer=1)
    rows = [steering.activations(toy, each, "L1.resid_pre") for each in (up, down)]
    torch.testing.assert_close(d.vector, rows[0].mean(0) - rows[1].mean(0))
    high, low = d.means[d.place]
    assert high - low == pytest.approx(d.vector.norm().item())
    assert d.norms[d.place] == pytest.approx(torch.cat(rows).norm(dim=1).median().item())
    assert (d.layer, d.site, d.method, d.model) == (1, "resid_pre", "mean_difference", anatomy(toy).name)
    again = steering.mean_difference(toy, up, down, layer=1)
    assert torch.equal(again.shuffled[d.place], d.shuffled[d.place])
    assert again.data == d.data != steering.mean_difference(toy, down, up, layer=1).data


def test_every_method_at_several_places(model, ids):
    up, down = ids[:2], ids[2:]
    for fit in (
        steering.mean_difference,
        steering.pca,
        steering.lda,
        steering.logistic,
        steering.extract.weighted_mean,
    ):
        d = fit(model, up, down, layer=[0, -1])
        assert [str(where) for where in d.places] == ["L0.resid_pre", "L2.resid_pre"]
        for where in d.places:
            high, low = d.means[where]
            assert high - low == pytest.approx(d.vectors[where].norm().item())
    assert steering.mean_difference(model, up, down, site="z", head=2, layer=1).vector.shape == (6,)
    assert len(steering.mean_difference(model, up, down).places) == 3


def test_directions_of_classes(model, ids):
    two = steering.extract.class_means(model, {"a": ids[:2], "b": ids[2:]}, layer=1)
    plain = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    torch.testing.assert_close(two["a"].vector, plain.vector)
    torch.testing.assert_close(two["b"].vector, -plain.vector)
    three = steering.extract.class_means(model, {"a": ids[:1], "b": ids[1:2], "c": ids[2:]}, layer=1)
    total = sum(d.vector for d in three.values())
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-9)
    before = [d.shuffled[d.place] for d in three.values()]
    torch.testing.assert_close(sum(before), torch.zeros_like(total), rtol=0, atol=1e-9)
    assert min(v.norm() for v in before) > 0.1
    again = steering.extract.class_means(model, {"a": ids[:2], "b": ids[2:]}, layer=1, seed=3)
    assert torch.equal(again["a"].vector, two["a"].vector)
    halves = [(ids[[i, j]], ids[[k, m]]) for i, j, k, m in ((0, 2, 1, 3), (0, 3, 1, 2))]  # one of each class
    chance = [steering.mean_difference(model, *each, layer=1).vector for each in halves]
    drawn = again["a"].shuffled[again["a"].place]
    assert min((drawn - sign * v).abs().max() for v in chance for sign in (1, -1)) < 1e-12
    clusters, label = steering.extract.kmeans(model, ids, 2, layer=1)
    assert len(clusters) == 2
    assert label.shape == (4,)
    share = torch.bincount(label).double() / 4
    mean = sum(s * d.vector for s, d in zip(share, clusters))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)


def test_the_layer_and_head_where_a_difference_is_written_are_found():
    """A bias planted on one token's embedding is seen from layer 0 on; one head's write only in that head."""
    import architectures

    model = architectures.build({})
    tokens = torch.randint(5, 30, (40, 6), generator=torch.Generator().manual_seed(1))
    up, down = tokens.clone(), tokens.clone()
    up[:, 2], down[:, 2] = 3, 4
    with torch.no_grad():
        block = model.blocks[1].attn
        for layer, other in enumerate(model.blocks):
            if layer != 1:
                other.attn.W_V.zero_()
        block.W_V[[0, 1, 3]] = 0
    at_last = steering.mean_difference(model, up, down, layer=range(3))
    lengths = [v.norm().item() for v in at_last.vectors.values()]
    assert lengths[0] < 1e-9 > lengths[1]
    assert lengths[2] > 0.05
    written = steering.mean_difference(model, up, down, layer=1, site="z", head=2)
    assert written.vector.norm().item() > 1e-9
    for head in (0, 1, 3):
        with pytest.raises(ValueError, match=rf"the classes have the same activations at L1H{head}"):
            steering.mean_difference(model, up, down, layer=1, site="z", head=head)
