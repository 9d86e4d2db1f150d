"""Held-out accuracy is chance where nothing can be known: repeated prompts, groups; unequal classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.probes import fit, splits
from interp.prompts import Prompts


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


def prompts(rows: list[list[int]]) -> Prompts:
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return Prompts(tokens, torch.tensor([len(row) for row in rows]))


def random_halves(seed: int, repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
    """24 prompts of random tokens with random labels, each `repeats` times."""
    rows = torch.randint(4, 120, (24, 6), generator=torch.Generator().manual_seed(seed))
    return rows[:12].repeat(repeats, 1), rows[12:].repeat(repeats, 1)


def test_a_prompt_that_comes_three_times_is_on_one_side(model: Any) -> None:
    accuracy, p = [], []
    for seed in range(6):
        up, down = random_halves(seed, 3)
        result, _ = fit(model, up, down, layer=2, draws=20, seed=seed, progress=False)
        accuracy.append(float(result["accuracy"][0]))
        p.append(float(result["p_value"][0]))
    assert 0.2 < np.mean(accuracy) < 0.75
    assert np.mean(p) > 0.2


def test_groups_stay_together_and_their_names_tell_nothing(model: Any) -> None:
    """Arbitrary halves of twelve names: by rows all right, by names chance."""
    known = list(interp.tasks.wordlists.single_tokens(model, interp.tasks.wordlists.load("ioi")["names"]))
    texts = [f"When {{}} and {other} went to the store" for other in known[12:17]]
    seed_accuracy = []
    for seed in range(4):
        names = [known[i] for i in torch.randperm(12, generator=torch.Generator().manual_seed(seed))]
        sides = [[text.format(n) for n in half for text in texts] for half in (names[:6], names[6:])]
        groups = tuple([n for n in half for _ in texts] for half in (names[:6], names[6:]))
        options = {"layer": 0, "draws": 20, "seed": seed, "pos": 2, "progress": False}
        loose, _ = fit(model, *sides, **options)
        tight, _ = fit(model, *sides, groups=groups, **options)
        assert float(loose["accuracy"][0]) == 1.0
        seed_accuracy.append(float(tight["accuracy"][0]))
        assert float(tight["p_value"][0]) > 0.05
    assert np.mean(seed_accuracy) < 0.85


def test_units_are_equal_prompts_groups_and_what_links_them() -> None:
    up, down = prompts([[1, 2], [1, 2, 0], [3]]), prompts([[4], [1, 2]])
    assert splits.units(up, down).tolist() == [0, 1, 2, 3, 0]
    assert splits.units(up, down, (["a", "b", "c"], ["b", "d"])).tolist() == [0, 1, 2, 1, 0]
    assert splits.units(up, down, (["a", "b", "c"], ["b", "b"])).tolist() == [0, 0, 1, 0, 0]
    with pytest.raises(ValueError, match=r"groups has \[2, 2\] labels for \[3, 2\] prompts"):
        splits.units(up, down, (["a", "b"], ["c", "d"]))


def test_whole_units_are_held_out_of_both_classes() -> None:
    unit = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 5])
    for seed in range(20):
        test = splits.hold_out(unit, (7, 5), 0.4, torch.Generator().manual_seed(seed))
        assert all(len(set(test[unit == u].tolist())) == 1 for u in range(6))
        assert 2 <= int(test[:7].sum()) <= 5
        assert 2 <= int(test[7:].sum()) <= 3
    with pytest.raises(ValueError, match=r"are 2 units .* which do not split"):
        splits.hold_out(torch.tensor([0, 0, 0, 1, 1, 1]), (3, 3), 0.4, torch.Generator())


def test_labels_are_shuffled_by_units() -> None:
    label = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 1, 0])
    unit = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4])
    generator, drawn = torch.Generator().manual_seed(0), set()
    for _ in range(50):
        out = splits.shuffled(label, unit, generator)
        assert out[0] == out[1]
        assert out[2] == out[3]
        assert out[4] == out[5]
        assert out[6] + out[7] == 1
        drawn.add(tuple(out.tolist()))
    assert len(drawn) > 4


def test_a_held_out_prompt_that_was_trained_on_is_left_out(model: Any) -> None:
    up, down = random_halves(0, 1)
    options = {"layer": 0, "draws": 1, "progress": False}
    fresh = (up[8:], torch.cat([down[9:], down[:1]]))
    result, _ = fit(model, up[:8], down[:8], held_out=fresh, **options)
    assert result.attrs["n_held_out"] == 7
    with pytest.raises(ValueError, match="4 of 4 prompts of held_out negative are training prompts too"):
        fit(model, up[:8], down[:8], held_out=(up[8:], down[:4]), **options)


def test_a_rare_class_is_read_as_well_as_it_can_be(model: Any) -> None:
    """4 against 60 prompts that differ in one token: both classes right, not the large one alone."""
    rows = torch.randint(4, 120, (120, 5), generator=torch.Generator().manual_seed(3))
    up, down = rows[:8].clone(), rows[8:].clone()
    up[:, -1], down[:, -1] = 7, torch.randint(8, 16, (112,), generator=torch.Generator().manual_seed(4))
    result, _ = fit(model, up, down, layer=0, l2=0.3, draws=2, progress=False)
    assert float(result["accuracy"][0]) > 0.9


def test_all_layers_are_the_streams_before_each_and_after_the_last(model: Any) -> None:
    up, down = random_halves(1, 1)
    result, made = fit(model, up, down, draws=1, progress=False)
    assert result["layer"].values.tolist() == list(range(model.cfg.n_layers + 1))
    assert str(made.places[-1]) == f"L{model.cfg.n_layers - 1}.resid_post"
    assert {"method", "site", "model", "seed", "versions", "n_prompts"} <= set(result.attrs)
    with pytest.raises(ValueError, match="l2 is nan; give a number"):
        fit(model, up, down, draws=1, l2=float("nan"), progress=False)


def test_heads_are_not_chosen_by_prompts_that_they_were_fitted_on(model: Any) -> None:
    """Each prompt three times, random labels: the best of a few heads is no better than chance allows."""
    from interp.steering import methods

    best = []
    for seed in range(4):
        up, down = random_halves(seed, 3)
        shifts = methods.head_shifts(model, up, down, seed=seed)
        best.append(float(shifts.accuracy.mean()))
    assert np.mean(best) < 0.7
    pairs = methods.head_shifts(model, up, down, paired=True, groups=(range(36), range(36)))
    assert pairs.accuracy.isfinite().all()
