"""Placeholders, concepts that are put in and noticed, reports and control: planted truth and no-ops."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
import two_sides

import interp
from interp import positions, probes, steering
from interp.steering import Direction, edits, methods

D = 24


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return architectures.tokens(4)[0].clamp(min=3)  # none is padding to a tokenizer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def streams(model: Any, ids: torch.Tensor, *made: Any) -> list[torch.Tensor]:
    """The stream before each layer, under interventions."""
    kept: list[torch.Tensor] = []
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    with torch.no_grad(), steering.steer(model, *made):
        model.run_with_hooks(
            ids, fwd_hooks=[(name, lambda t, hook: kept.append(t.clone())) for name in names]
        )
    return kept


@pytest.mark.parametrize("matched", [True, False])
def test_placeholders_hold_the_vectors_and_nothing_else_moves(matched: bool, model: Any, ids: Any) -> None:
    vectors = drawn(2, D)
    place = Direction.from_tensor(vectors, "L1.resid_pre", layout="positions")
    made = edits.substitute(place, positions.at(1, 3), 1.5, norm_matched=matched)
    plain, new = streams(model, ids), streams(model, ids, made)
    torch.testing.assert_close(new[0], plain[0], rtol=0, atol=0)
    rest = [0, 2, *range(4, ids.shape[1])]
    torch.testing.assert_close(new[1][:, rest], plain[1][:, rest], rtol=0, atol=0)
    for k, at in enumerate((1, 3)):
        length = plain[1][:, at].norm(dim=-1) if matched else vectors[k].norm().expand(len(ids))
        unit = vectors[k] / vectors[k].norm()
        torch.testing.assert_close(new[1][:, at], 1.5 * length[:, None] * unit, rtol=1e-6, atol=1e-9)
    assert float((new[2] - plain[2]).abs().max()) > 1e-3


def test_its_own_activation_changes_nothing_and_rows_have_their_own(model: Any, ids: Any) -> None:
    own = interp.activations(model, ids, "L1.resid_pre", pos=2).double()
    rows = [Direction.from_tensor(row, "L1.resid_pre") for row in own]
    plain = streams(model, ids)
    same = streams(model, ids, edits.substitute(rows, positions.at(2)))
    torch.testing.assert_close(same[-1], plain[-1], rtol=1e-6, atol=1e-6)
    turned = streams(model, ids, edits.substitute(rows[::-1], positions.at(2)))
    torch.testing.assert_close(
        turned[1][0, 2] / turned[1][0, 2].norm(), own[-1] / own[-1].norm(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_what_is_generated_is_never_replaced(engine: str, use_cache: bool, model: Any, ids: Any) -> None:
    """Also where a generated token is the placeholder: only the prompt's are counted."""
    prompt = ids[:1]
    place = Direction.from_tensor(drawn(D), "L1.resid_pre")
    by_place = steering.generate(
        model, prompt, edits.substitute(place, positions.at(2), 8.0), max_new_tokens=4, stop=(),
        engine=engine, use_cache=use_cache,
    )  # fmt: skip
    mark = positions.tokens(int(prompt[0, 2])) & positions.window(2, 3) | positions.generated
    everywhere = steering.generate(
        model, prompt, edits.substitute(place, mark & ~positions.at(-1), 8.0), max_new_tokens=4, stop=(),
        engine=engine, use_cache=use_cache,
    )  # fmt: skip
    assert torch.equal(by_place, everywhere)
    plain = steering.generate(model, prompt, max_new_tokens=4, stop=(), engine=engine)
    assert not torch.equal(by_place, plain)


def test_placeholders_that_are_not_as_many_are_named(model: Any, ids: Any) -> None:
    two = Direction.from_tensor(drawn(2, D), "L1.resid_pre", layout="positions")
    with (
        pytest.raises(ValueError, match="prompt 0 has 1 placeholders"),
        steering.steer(model, edits.substitute(two, positions.at(2))),
    ):
        model(ids)
    with pytest.raises(ValueError, match="a placeholder holds a vector of the stream"):
        edits.substitute(Direction.from_tensor(drawn(6), "L1H0"), 2)
    with pytest.raises(ValueError, match="the directions differ"):
        edits.substitute([Direction.from_tensor(drawn(D), f"L{k}.resid_pre") for k in (0, 1)], 2)


def test_a_concept_is_its_word_minus_the_other_words(model: Any) -> None:
    world = interp.load("tiny-world")
    found = methods.concept_vectors(
        world, ["great"], ["bad", "dull"], template="The film was {}", layer=[1, 2]
    )
    for place in found["great"].places:
        rows = [
            interp.activations(world, f"The film was {w}", str(place))[0] for w in ("great", "bad", "dull")
        ]
        torch.testing.assert_close(
            found["great"].vectors[place], rows[0] - (rows[1] + rows[2]) / 2, atol=1e-5, rtol=1e-5
        )
    assert float(found["great"].vectors[place].norm()) > 0.1


def reader(model: Any, yes: int, no: int) -> torch.Tensor:
    """The direction of the last stream that raises yes over no, where a norm before the logits is frozen."""
    gap = (model.W_U[:, yes] - model.W_U[:, no]).detach().double()
    return gap / gap.norm()


def test_a_planted_concept_is_noticed_and_a_random_one_less(model: Any, ids: Any) -> None:
    """Vectors along what raises "yes": margins rise with it, 0 is the model, noise does less."""
    yes, no = 5, 9
    at = "L2.resid_post"
    gap = reader(model, yes, no)
    plain = probes.Question(yes, no)(model, ids)

    def ask(model: Any, rows: Any, *made: Any) -> torch.Tensor:
        return probes.Question(yes, no)(model, rows, *made) - float(plain.max()) - 0.5

    concepts = {f"c{i}": Direction.from_tensor(gap + 0.1 * drawn(D, seed=i), at) for i in range(12)}
    strengths = [0.0, 2.0, 8.0, 30.0]
    found = methods.introspection(model, ids, concepts, ask, strengths=strengths, progress=False)
    assert found["value"].values[0].tolist()[0] == 0 == float(found["false_alarms"])
    assert (
        float(found["value"].sel(strength=30.0)[0]) == 1 > float(found["random"].sel(strength=30.0)[0]) + 0.3
    )
    same = found["margin"].sel(strength=0.0, layer=2) - found["margin_clean"]
    assert float(abs(same).max()) < 1e-9
    rates = found["margin"].mean(("prompt", "concept")).values[0]
    assert (np.diff(rates) > 0).all()
    assert float(found["low"].sel(strength=30.0)[0]) == pytest.approx(0.025 ** (1 / 12))  # all of 12


def test_ablating_the_direction_takes_the_noticing_away(model: Any, ids: Any) -> None:
    yes, no, at = 5, 9, "L2.resid_post"
    gap = reader(model, yes, no)
    ask = probes.Question(yes, no)
    concepts = {
        f"c{i}": Direction.from_tensor(gap + 0.05 * drawn(D, seed=i), "L2.resid_pre") for i in range(6)
    }
    options = {"strengths": [20.0], "progress": False}
    free = methods.introspection(model, ids, concepts, ask, **options)
    without = methods.introspection(
        model, ids, concepts, ask, steering.ablate(Direction.from_tensor(gap, at)), **options
    )
    other = methods.introspection(
        model, ids, concepts, ask, steering.ablate(Direction.from_tensor(drawn(D, seed=50), at)), **options
    )
    drop = float((free["margin"] - without["margin"]).mean())
    assert drop > 3 * abs(float((free["margin"] - other["margin"]).mean()))


def test_names_are_told_apart(model: Any, ids: Any) -> None:
    """Vectors that each raise their own token."""
    tokens = {"a": 4, "b": 8, "c": 13}
    mean = model.W_U.detach().double().mean(1)
    concepts = {
        name: Direction.from_tensor(model.W_U[:, i].detach().double() - mean, "L2.resid_post")
        for name, i in tokens.items()
    }
    found = methods.introspection(
        model, ids, concepts, probes.Question(5, 9), strengths=[40.0], names=tokens, progress=False
    )
    assert float(found["identified"][0, 0]) == 1
    assert float(found["identified_random"][0, 0]) < 1


def test_labels_are_quantiles() -> None:
    values = drawn(31)
    labels = methods.quantile_labels(values, 3)
    edges = np.quantile(values.numpy(), [1 / 3, 2 / 3])
    inside = ~np.isclose(values.numpy()[:, None], edges).any(1)
    np.testing.assert_array_equal(labels.numpy()[inside], np.searchsorted(edges, values.numpy()[inside]))
    assert sorted(torch.bincount(labels).tolist()) == [10, 10, 11]


def test_a_model_that_copies_labels_reports_them_and_shuffled_ones_not() -> None:
    """The hand-built induction model: a sentence that was shown before has the label that it had there."""
    model = interp.load("induction")
    words = ["Mary", "John", "Tom", "Anna"]
    direction = interp.steering.mean_difference(model, words[:2], words[2:], layer=0)
    options = {"mark": "", "end": " ", "queries": 48, "pos": "last"}
    found = methods.report(
        model, [*words, *words, *words], direction, (" book", " ring"), shots=[9], **options
    )
    assert float(found["value"][0]) > 0.8
    assert float(found["shuffled"][0]) < 0.7


def test_the_effect_is_cohens_d_and_random_directions_have_none() -> None:
    world = interp.load("tiny-world")
    nouns = ("film", "song", "cast", "story", "music", "book")
    up, down = ([f"Review: The {noun} was {word}." for noun in nouns] for word in ("great", "bad"))
    axis = steering.mean_difference(world, up[:3], down[:3], layer=2)
    found = methods.control_effect(world, up[3:], down[3:], axis, draws=200)
    unit = axis.unit().vector.double()
    one, other = (interp.activations(world, side[3:], "L2.resid_pre").double() @ unit for side in (up, down))
    d = (one.mean() - other.mean()) / (((one.var() + other.var()) / 2) ** 0.5)
    assert float(found["value"][0]) == pytest.approx(float(d), rel=1e-4)
    assert float(found["value"][0]) > 2
    assert float(found["p_value"][0]) < 0.2
    same = methods.control_effect(world, up, up, axis, draws=10)
    assert float(same["value"][0]) == 0 == float(abs(same["random"]).max())


def test_mistakes_are_said_before_a_pass() -> None:
    world = interp.load("tiny-world")
    one = Direction.from_tensor(torch.ones(world.cfg.d_model), "L1.resid_pre")
    other = Direction.from_tensor(torch.ones(world.cfg.d_model), "L2.resid_pre")
    ask = probes.Question("sorry", "sure")
    two, both, texts = {"a": one, "b": one}, {"a": one, "b": other}, ["The film", "The song"]
    cases = [
        (lambda: methods.concept_vectors(world, ["great"], ["bad"], template="The film"), "template is"),
        (lambda: methods.concept_vectors(world, ["great", "great"], ["bad"]), "give each once"),
        (lambda: methods.introspection(world, "The film", {"a": one}, ask), "there are 1 concepts"),
        (lambda: methods.introspection(world, "The film", both, ask), "different places"),
        (lambda: methods.introspection(world, "The film", two, ask, names={"a": "film"}), "no token for 'b'"),
        (lambda: methods.report(world, texts, one, ("sorry", "sorry")), "labels is"),
        (lambda: methods.report(world, texts, one, ("sorry", "sure"), shots=[2]), "shots is"),
        (lambda: methods.control_effect(world, ["The film"], ["The song"], one), "1 and 1 prompts"),
        (lambda: methods.quantile_labels(torch.ones(3), 4), "3 values for 4 levels"),
    ]  # fmt: skip
    two_sides.refused(world, cases)
