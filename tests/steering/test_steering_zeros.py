"""No direction: zeros are one sentence at every door, and a control is never the direction turned round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from interp import lens, steering
from interp.places import Place
from interp.steering import Direction, methods

PLACE = "L1.resid_pre"
GOOD = Direction.from_tensor(torch.linspace(-1, 1, 24), PLACE)
ZERO = 0.0 * GOOD
BASIS = Direction({GOOD.place: torch.zeros(2, 24)}, "basis")
ROWS = Direction({GOOD.place: torch.zeros(2, 24)}, "positions")
ADD: Any = {"progress": False}

DOORS: dict[str, Any] = {
    "add": lambda m, ids: steering.add(ZERO, 2.0),
    "add, in norms": lambda m, ids: steering.add(replace(ZERO, norms={GOOD.place: 3.0}), 2.0, unit="norm"),
    "add, one of two rows": lambda m, ids: steering.add([GOOD, ZERO]),
    "add, a difference of equals": lambda m, ids: steering.add(GOOD - GOOD),
    "ablate": lambda m, ids: steering.ablate(ZERO),
    "ablate, a basis": lambda m, ids: steering.ablate(BASIS),
    "clamp": lambda m, ids: steering.clamp(ZERO, 1.0),
    "rotate": lambda m, ids: steering.rotate(ZERO, GOOD, 1.0),
    "rotate, the other": lambda m, ids: steering.rotate(GOOD, ZERO, 1.0),
    "to_angle": lambda m, ids: steering.edits.to_angle(GOOD, ZERO, 1.0),
    "inject": lambda m, ids: steering.edits.inject(ROWS),
    "cosine_gate": lambda m, ids: steering.gates.cosine_gate(ZERO, 0.1),
    "probe_gate": lambda m, ids: steering.gates.probe_gate(torch.zeros(24), 1.0),
    "sweep": lambda m, ids: steering.sweep(m, ZERO, ids, [1.0], **ADD),
    "calibrate": lambda m, ids: steering.calibrate(m, ZERO, ids, 0.1),
    "side_by_side": lambda m, ids: steering.side_by_side(m, ids, ZERO, 1.0, max_new_tokens=1),
    "effect_curves": lambda m, ids: methods.effect_curves(m, ZERO, ids, [1.0], **ADD),
    "cast_condition": lambda m, ids: methods.cast_condition(m, ids[:2], ids[2:], vectors=ZERO),
    "add_after_prompt": lambda m, ids: methods.add_after_prompt(ZERO),
    "ablate_everywhere": lambda m, ids: methods.ablate_everywhere(m, ZERO),
    "steer2edit": lambda m, ids: methods.steer2edit(m, ZERO, ids[:2], ids[2:]),
    "lens.read": lambda m, ids: lens.read(m, ZERO),
    "lens.backward": lambda m, ids: lens.backward(m, ids, ZERO),
    "Direction.lens": lambda m, ids: ZERO.lens(m),
    "project": lambda m, ids: ZERO.project(torch.ones(24)),
    "cosine": lambda m, ids: GOOD.cosine(ZERO),
    "to_gguf": lambda m, ids: ZERO.to_gguf("never-written.gguf"),
}


@pytest.mark.parametrize("name", DOORS)
def test_a_direction_of_zeros_is_refused_at_every_door(name: str, model: Any, ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\bis (all )?0\b"):
        DOORS[name](model, ids)


def test_a_file_of_zeros_holds_no_direction(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"holds no direction: the direction is 0 at L1\.resid_pre"):
        Direction.load(ZERO.save(tmp_path / "zero.safetensors"))


def test_a_layer_of_zeros_beside_others_is_no_mistake(model: Any, ids: torch.Tensor) -> None:
    """All prompts end in one word, so nothing differs before the first layer."""
    both = Direction({Place("resid_pre", 0): ZERO.vector, Place("resid_pre", 2): GOOD.vector})
    swept = steering.sweep(model, both, ids, [1.0], with_controls=False, **ADD)["raw"]
    clean = steering.sweep(model, both, ids, [0.0], with_controls=False, **ADD)["raw"]
    moved = abs(swept - clean.values).max(("prompt", "coefficient", "metric"))
    assert moved[0] == 0
    assert moved[1] > 1e-3
    condition = methods.cast_condition(model, ids[:2], ids[2:], vectors=both)
    assert condition.direction.layer == 2
    with pytest.raises(ValueError, match="has no vector at L1"):
        steering.optimise(model, ids, ids[:, :1], layer=1, start=both, steps=1)


SAME: dict[str, Any] = {
    "mean_difference": lambda m, up, down: steering.mean_difference(m, up, down, layer=1),
    "lda": lambda m, up, down: steering.lda(m, up, down, layer=1),
    "logistic": lambda m, up, down: steering.logistic(m, up, down, layer=1),
    "pca": lambda m, up, down: steering.pca(m, up, down, layer=1),
    "caa": lambda m, up, down: methods.caa(m, up, down, layer=1),
    "weighted_mean": lambda m, up, down: steering.extract.weighted_mean(m, up, down, layer=1),
    "class_means": lambda m, up, down: steering.add(
        steering.extract.class_means(m, {"a": up, "b": down}, layer=1)["a"]
    ),
    "style_vectors": lambda m, up, down: steering.add(
        methods.style_vectors(m, torch.cat((up, down)), ["a"] * 4 + ["b"] * 4, layer=1)["a"]
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_classes_that_do_not_differ_give_no_direction(name: str, model: Any, ids: torch.Tensor) -> None:
    """The same prompts in another order: only rounding is left of the difference."""
    with pytest.raises(ValueError, match=r"same activations|the direction is 0"):
        SAME[name](model, ids, ids if name in ("pca", "caa") else ids[[2, 0, 3, 1]])


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))


def by_class(m: Any, rows: torch.Tensor, seed: int) -> dict[str, Direction]:
    return steering.extract.class_means(
        m, {str(i): row[None] for i, row in enumerate(rows)}, layer=1, seed=seed
    )


def by_style(m: Any, rows: torch.Tensor, seed: int) -> dict[str, Direction]:
    return methods.style_vectors(m, rows, [str(i) for i in range(len(rows))], layer=1, seed=seed)


@pytest.mark.parametrize("extractor", [by_class, by_style])
@pytest.mark.parametrize("n", [2, 3])
def test_classes_of_one_prompt_have_no_shuffled_control(
    extractor: Any, n: int, model: Any, ids: torch.Tensor
) -> None:
    """It would be the direction, its negative, or another class's."""
    for seed in range(3):
        with pytest.warns(UserWarning, match="cannot be shuffled"):
            assert not any(each.shuffled for each in extractor(model, ids[:n], seed).values())


def test_a_null_of_one_row_a_class_is_none() -> None:
    up, down = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="1 and 1 rows cannot be shuffled"):
        steering.extract.null_cosines(up[:1], down[:1], n_draws=3)
    spread = steering.extract.null_cosines(up, down, n_draws=30)
    assert spread.abs().min() < 0.9


@pytest.mark.parametrize("extractor", ["mean_difference", "pca", "lda", "logistic"])
@pytest.mark.parametrize("paired", [False, True])
def test_a_control_is_not_the_direction(extractor: str, paired: bool, model: Any) -> None:
    """Whatever the data and the seed."""
    for seed in range(3):
        up, down = torch.randint(3, 30, (2, 8, 5), generator=torch.Generator().manual_seed(seed))
        up[:, -1], down[:, -1] = 3, 7
        d = getattr(steering, extractor)(model, up, down, layer=2, seed=seed, paired=paired)
        assert abs(cosine(d.shuffled[d.place], d.vector)) < 0.9
