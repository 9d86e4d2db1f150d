"""Overlap of spans, strengthened subspaces, nuclear norms: identities, random ones, and a planted split."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

import interp
from interp import subspaces

D = 32


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(axes: torch.Tensor, n: int = 200, seed: int = 0) -> torch.Tensor:
    """Rows that vary along some axes far more than elsewhere."""
    return 10 * drawn(n, len(axes), seed=seed) @ axes + 0.1 * drawn(n, axes.shape[1], seed=seed + 1)


def test_the_same_span_is_1_an_orthogonal_one_0_a_random_one_k_over_d() -> None:
    axes = torch.linalg.qr(drawn(D, 8))[0].T
    a, same, apart = spread(axes[:4]), spread(axes[:4], seed=5), spread(axes[4:], seed=9)
    found = subspaces.overlap(a, same, [4], draws=4)
    assert float(found["value"][0]) > 0.999
    assert float(found["angle"][0].max()) < 3
    assert float(subspaces.overlap(a, apart, [4], draws=4)["value"][0]) < 1e-2
    noise = subspaces.overlap(
        a, spread(torch.linalg.qr(drawn(D, 4, seed=3))[0].T, seed=7), [1, 2, 4], draws=400
    )
    error = noise["random"].std("draw") / 400**0.5
    np.testing.assert_array_less(abs(noise["random"].mean("draw") - noise["chance"]), 4 * error)
    assert float(found["within"].min()) > 0.99


def test_it_is_that_of_principal_angles() -> None:
    a, b = drawn(60, D), drawn(50, D, seed=2)
    found = subspaces.overlap(a, b, [3, 6], draws=1)
    for row, k in enumerate((3, 6)):
        U, V = (np.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)[2][:k].T for x in (a, b))
        angles = scipy.linalg.subspace_angles(U, V)
        np.testing.assert_allclose(
            np.sort(found["angle"].values[row, :k]), np.sort(np.rad2deg(angles)), atol=1e-6
        )
        assert float(found["value"][row]) == pytest.approx((np.cos(angles) ** 2).mean())


def test_a_strengthened_subspace_acts_and_a_random_one_less() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=8, seed=0)
    rows = interp.activations(model, task, "L2.resid_pre")
    axis = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][0]
    part, gap = (
        subspaces.Subspace(axis, "L2.resid_pre"),
        interp.steering.Direction.from_tensor(axis, "L2.resid_pre"),
    )
    options = {"strengths": [-1.0, 0.0, 1.0], "draws": 3, "progress": False}
    found = subspaces.amplification(model, {"all": task, "few": task[:4]}, part, **options)
    assert float(abs(found["value"].sel(strength=0.0)).max()) < 1e-5
    plain = interp.steering.methods.measure(model, task)
    with torch.no_grad(), interp.steering.steer(model, interp.steering.ablate(gap)):
        logits = model(task.clean)[torch.arange(8), task.last_position]
    rows = torch.arange(8)
    margin = logits[rows, task.answers[:, 0]] - logits[rows, task.wrongs[:, 0]]
    assert float(found["value"].sel(task="all", strength=-1.0)) == pytest.approx(
        float((margin - plain).mean()), abs=1e-4
    )
    assert found["random"].dims == ("draw", "task", "strength")


def test_nuclear_norms_of_known_matrices() -> None:
    turn = torch.linalg.qr(drawn(12, 12))[0]
    for exact in (True, False):
        assert float(subspaces.nuclear_norm(3 * torch.eye(12)[:5], exact=exact)) == pytest.approx(1)
    assert float(subspaces.nuclear_norm(turn[:5], exact=True)) == pytest.approx(1)
    assert float(subspaces.nuclear_norm(turn[:1].expand(9, -1), exact=True)) == pytest.approx(1 / 3)


def test_over_all_columns_it_is_a_bound() -> None:
    rows = drawn(6, 20, 8)
    exact = subspaces.nuclear_norm(rows, exact=True)
    bound = subspaces.nuclear_norm(rows, top=8)
    assert bool((bound >= exact).all())
    assert bool((bound > exact + 1e-3).any())
    assert bool((exact >= 1 / 20**0.5 - 1e-12).all())  # Frobenius norm
    by_hand = [np.linalg.norm(x / np.linalg.norm(x, axis=1, keepdims=True), "nuc") / 20 for x in rows.numpy()]
    np.testing.assert_allclose(exact, by_hand)
    torch.testing.assert_close(subspaces.nuclear_norm(5 * rows), subspaces.nuclear_norm(rows))
    assert bool((subspaces.nuclear_norm(rows, top=3) < bound).all())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: subspaces.overlap(drawn(9, 4), drawn(9, 5)), "widths 4 and 5"),
        (lambda: subspaces.overlap(drawn(9, 8), drawn(9, 8), [4]), r"ks is \[4\]; give 1 to 3"),
        (lambda: subspaces.overlap(drawn(9, 8) / 0, drawn(9, 8), [1]), "not finite"),
        (lambda: subspaces.nuclear_norm(torch.zeros(3, 4)), "rows that are not 0"),
        (lambda: subspaces.nuclear_norm(torch.ones(3, 4), top=5), "top is 5"),
    ],
)
def test_mistakes_are_said(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_the_sign_of_a_metric_by_name_is_its_own() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4, seed=0)
    part = subspaces.Subspace(subspaces.orthonormal(model.W_E[:2].T), "L1.resid_pre")
    ask = lambda metric: subspaces.amplification(  # noqa: E731
        model, {"ioi": task}, part, [1.0], metric=metric, draws=1, progress=False
    )
    by_name, by_value = ask("kl"), ask(interp.tasks.KL())
    assert by_name["value"].item() == by_value["value"].item() < -1e-4  # further from the model: no help
    assert (by_name.attrs["metric"], by_name.attrs["unit"], by_name.attrs["better"]) == (
        "kl",
        "nats",
        "lower",
    )
    with pytest.raises(ValueError, match="each once"):
        subspaces.amplification(model, {"ioi": task}, part, [1.0, 1.0], progress=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_directions_of_rounding_are_refused(dtype: torch.dtype) -> None:
    rows = (drawn(60, 2) @ drawn(2, D, seed=1) + 3).to(dtype)
    assert float(subspaces.overlap(rows, rows, [2], draws=2)["value"][0]) == pytest.approx(1)
    with pytest.raises(ValueError, match="span 2 dimensions"):
        subspaces.overlap(rows, drawn(60, D), [3], draws=2)
    with pytest.raises(ValueError, match="span 0 dimensions"):
        subspaces.overlap(torch.ones(40, D, dtype=dtype), drawn(60, D), [1], draws=2)


def test_a_half_that_spans_less_says_nothing() -> None:
    rows = torch.zeros(40, D)
    rows[0, 0] = rows[1, 1] = rows[2, 2] = 1.0
    found = subspaces.overlap(rows, drawn(40, D), [3], draws=4, centred=False)
    assert bool(found["within"][::2].isnull().all())
    assert bool(found["within"][1::2].notnull().all())
    assert 0 < float(found["value"][0]) < 1


def test_no_rows_have_no_norm() -> None:
    with pytest.raises(ValueError, match="rows has shape"):
        subspaces.nuclear_norm(torch.zeros(0, 4))
