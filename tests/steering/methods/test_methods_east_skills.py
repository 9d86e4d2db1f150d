"""EAST, model-native skills, and what is in a vector: planted factors, controls, no-ops."""

from __future__ import annotations

import pytest
import small
import torch

from interp import Task, sae, steering
from interp.steering import Direction, methods


def cosine(a, b):
    return float(torch.cosine_similarity(a.double(), b.double(), dim=0))


def test_the_centred_mean_finds_what_goes_with_entropy_and_the_plain_one_does_not(draw):
    w, start = draw(64), 5 * draw(64)
    entropy = torch.rand(200, generator=torch.Generator().manual_seed(1)).double()
    x = start + entropy[:, None] * w + 0.3 * draw(200, 64)
    u = methods.covariance_direction(x, entropy)
    plain = (entropy / entropy.sum()) @ x
    assert cosine(u, w) > 0.85
    assert abs(cosine(plain, w)) < 0.5
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    dealt = methods.covariance_direction(x, entropy[order])
    assert abs(float(dealt @ w)) < 0.4 * float(u @ w), "entropy dealt at random goes with nothing"
    torch.testing.assert_close(u * entropy.mean(), ((entropy - entropy.mean())[:, None] * x).mean(0))


def entropy_of(model, ids, *made):
    from interp.models import logits

    with torch.no_grad(), steering.steer(model, *made):
        log = logits(model, ids)[:, -1].log_softmax(-1)
    return -(log.exp() * log).sum(-1).mean().item()


def test_adding_it_raises_the_models_entropy_and_subtracting_lowers_it(model):
    ids = torch.randint(3, 30, (48, 6), generator=torch.Generator().manual_seed(2))
    d = methods.east(model, ids, layer=2)
    scale = d.norms[d.place] / float(d.vector.norm())
    curve = [entropy_of(model, ids, steering.add(d, c * scale)) for c in (-0.4, -0.2, 0.0, 0.2, 0.4)]
    assert curve == sorted(curve)
    control = steering.controls([d])
    assert {"random", "shuffled"} == set(control)
    assert not torch.allclose(d.vector, d.shuffled[d.place])


def test_entropies_of_ones_own_and_among_some_decisions(model, ids):
    given = torch.tensor([0.1, 0.9, 0.2, 0.8])
    x = steering.activations(model, ids, "L1.resid_pre")
    d = methods.east(model, ids, entropy=given, layer=1)
    torch.testing.assert_close(d.vector, methods.covariance_direction(x, given))
    assert not torch.allclose(
        methods.east(model, ids, among=[4, 5], layer=1).vector, methods.east(model, ids, layer=1).vector
    )
    for options, match in (
        ({"entropy": torch.ones(4)}, "nothing varies"),
        ({"entropy": torch.tensor([1.0, -1, 0, 0])}, "finite number of 0 or more"),
        ({"among": [4]}, "two token ids"),
    ):
        with pytest.raises(ValueError, match=match):
            methods.east(model, ids, layer=1, **options)


def test_logits_that_are_not_finite_are_no_entropy(ids):
    model = small.own()
    with torch.no_grad():
        model.W_E[int(ids[1, -1])] = float("nan")
    with pytest.raises(ValueError, match="the logits after prompt 1 are not finite"):
        methods.east(model, ids, layer=1)


def test_the_basis_spans_planted_factors_and_the_ranking_finds_the_one_that_acts(model):
    """Embeddings of three kinds of token are moved along three axes; one of them is what the answer reads."""
    generator = torch.Generator().manual_seed(5)
    d_model, n = model.cfg.d_model, 30
    axes = torch.linalg.qr(torch.randn(d_model, 3, generator=generator, dtype=torch.float64)).Q.T
    amounts = torch.randn(n, 3, generator=generator, dtype=torch.float64) * torch.tensor([9.0, 6.0, 4.0])
    rows = amounts @ axes + 0.02 * torch.randn(n, d_model, generator=generator, dtype=torch.float64)
    ids = torch.randint(3, 30, (n, 5), generator=generator)
    task = Task.from_tokens(clean=ids.tolist(), corrupt=ids.flip(1).tolist(), answer=[4] * n, wrong=[9] * n)

    def plant(tensor, hook):
        return torch.zeros_like(tensor) + rows[: len(tensor), None]

    hooks = [("blocks.1.hook_resid_pre", plant)]
    with model.hooks(fwd_hooks=hooks), pytest.warns(UserWarning, match="hooks are attached"):
        skills = methods.native_skills(model, task, 3, layer=1)
    found = torch.stack([each.vector / each.vector.norm() for each in skills.directions]).double()
    angles = torch.linalg.svdvals(found @ axes.T).clamp(max=1).acos().rad2deg()
    assert float(angles.max()) < 5
    assert float(skills.explained.sum()) > 0.99
    spread = amounts @ axes
    for i, each in enumerate(skills.directions):
        sd = (spread @ (found[i])).std()
        assert float(each.vector.norm()) == pytest.approx(float(sd), rel=0.01)
    result = methods.rank_skills(model, skills, task, progress=False)
    slopes = result["value"].mean("prompt").values
    up, down = (
        methods.measure(model, task, steering.add(skills.directions[0], c)).mean().item() for c in (1.0, -1.0)
    )
    assert slopes[0] == pytest.approx((up - down) / 2)
    assert int(result["rank"].values[abs(slopes).argmax()]) == 0
    assert result["random"].shape == result["value"].shape


def test_ranking_puts_the_causal_axis_before_a_larger_dead_one(draw):
    """An axis that the unembedding ignores has more variance than the one that it reads."""
    import toys

    sketch = toys.chain()
    model, task = toys.model(sketch), toys.task(sketch, toys.WORDS)
    red = torch.zeros(model.cfg.d_model, dtype=torch.float64)
    step = (model.W_U[:, task.answers[0, 0]] - model.W_U[:, task.wrongs[0, 0]]).double()
    dead = torch.linalg.svd(model.W_U.T.double(), full_matrices=True)[2][-1]  # nothing reads it
    last = model.cfg.n_layers - 1
    made = [Direction.from_tensor(v, "resid_post", last) for v in (10 * dead, step / step.norm(), red + dead)]
    skills = methods.Skills(tuple(made), torch.tensor([0.9, 0.1, 0.0]))
    result = methods.rank_skills(model, skills, task[:1], progress=False)
    assert result["rank"].values[1] == 0
    assert abs(float(result["value"].sel(axis=0).mean())) < 1e-6 < float(result["value"].sel(axis=1).mean())
    with pytest.raises(ValueError, match="coefficient is 0"):
        methods.rank_skills(model, skills, task[:1], 0.0)
    with pytest.raises(ValueError, match="k is 9"):
        methods.native_skills(model, task, 9, layer=0)


@pytest.fixture
def planted(draw):
    atoms = draw(60, 32)
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    vector = 3 * atoms[7] - 2 * atoms[21] + 1.5 * atoms[40]
    return atoms, vector, Direction.from_tensor(vector, "resid_pre", 1)


def test_pursuit_finds_planted_atoms_with_their_coefficients_and_chance_does_not(planted, draw):
    atoms, vector, d = planted
    out = d.decompose(atoms, 3, n_draws=50)
    assert set(out["atom"].values) == {7, 21, 40}
    by_atom = dict(zip(out["atom"].values.tolist(), out["coefficient"].values))
    assert by_atom == pytest.approx({7: 3.0, 21: -2.0, 40: 1.5})
    assert out["explained"].values[-1] == pytest.approx(1.0)
    assert abs(out["residual"].values).max() < 1e-9
    assert out["null"].values[:, -1].max() < 0.9
    assert out["p"].values[-1] == pytest.approx(1 / 51)
    stranger = Direction.from_tensor(draw(32), "resid_pre", 1).decompose(atoms, 3, n_draws=50)
    assert stranger["p"].values[-1] > 0.05
    parts = (out["coefficient"].values[:, None] * atoms[out["atom"].values].numpy()).sum(0)
    torch.testing.assert_close(torch.tensor(parts + out["residual"].values), vector)


def test_ridge_names_the_largest_and_the_covariance_makes_a_harder_null(planted, draw):
    atoms, _vector, d = planted
    few = {"a": 7, "b": 21, "c": 40, "other": 3}
    named = {name: Direction.from_tensor(atoms[i], "resid_pre", 1) for name, i in few.items()}
    out = d.decompose(named, 4, method="ridge", ridge=0.0, n_draws=20)
    by_name = dict(zip(out["atom_name"].values.tolist(), out["coefficient"].values))
    assert by_name == pytest.approx({"a": 3.0, "b": -2.0, "c": 1.5, "other": 0.0}, abs=1e-9)
    activations = draw(100, 4) @ atoms[:4]
    loose, fair = (d.decompose(atoms[:4], 4, activations=a, n_draws=20) for a in (None, activations))
    assert fair["null"].values[:, -1].min() > 0.999 > loose["null"].values[:, -1].max()
    eye = torch.eye(32).double()
    dictionary = sae.Dictionary(eye, torch.zeros(32).double(), eye, torch.zeros(32).double())
    axes = d.decompose(dictionary, 32, n_draws=2)
    assert axes["explained"].values[-1] == pytest.approx(1.0)
    assert (axes["explained"].diff("rank") >= -1e-12).all()


def test_bad_input_of_decompose(planted):
    atoms, _, d = planted
    for arguments, options, match in (
        ((atoms, 61), {}, "k is 61"),
        ((atoms[:, :5],), {}, "width 32"),
        ((3,), {}, "dictionary is a int"),
        ((atoms,), {"method": "lasso"}, "method is 'lasso'"),
        ((torch.zeros(9, 32),), {}, "atom 0 is 0"),
        ((atoms,), {"activations": atoms[:1]}, "two rows or more"),
    ):
        with pytest.raises(ValueError, match=match):
            d.decompose(*arguments, **options)
