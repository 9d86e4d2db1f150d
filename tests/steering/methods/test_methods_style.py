"""Style vectors: one direction for each of k styles."""

from __future__ import annotations

import pytest
import torch
import two_sides as sides

import interp
from interp import steering, tasks
from interp.steering import methods
from interp.steering.estimators import dealt
from interp.tasks import LogProb

STYLES = ["a"] * 40 + ["b"] * 60 + ["c"] * 20 + ["d"] * 30


def test_planted_class_means_are_recovered_up_to_the_common_mean(draw):
    means = dict(zip("abcd", draw(4, 48)))
    common = 5 * draw(48)
    rows = torch.stack([means[style] for style in STYLES]) + common
    exact = methods.style_differences(rows, STYLES)
    overall = rows.mean(0)
    for style, vector in exact.items():
        n = STYLES.count(style)
        expected = len(STYLES) / (len(STYLES) - n) * (means[style] + common - overall)
        torch.testing.assert_close(vector, expected)
    noisy = methods.style_differences(rows + draw(len(rows), 48), STYLES)
    for style, vector in noisy.items():
        assert torch.nn.functional.cosine_similarity(vector, exact[style], dim=0) > 0.95


def test_weighted_they_add_up_to_nothing_and_two_are_opposite(draw):
    rows = draw(len(STYLES), 12)
    found = methods.style_differences(rows, STYLES)
    total = sum(STYLES.count(s) * (len(STYLES) - STYLES.count(s)) * v for s, v in found.items())
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-9)
    assert sum(found.values()).norm() > 1e-2  # unweighted they do not, with classes of different size
    two = methods.style_differences(rows, ["x" if s == "a" else "y" for s in STYLES])
    torch.testing.assert_close(two["x"], -two["y"])
    torch.testing.assert_close(two["x"], found["a"])


def test_with_as_many_texts_each_they_are_the_class_means(toy, ids):
    texts = torch.cat((ids, ids.flip(1)[:2]))
    found = methods.style_vectors(toy, texts, list("abcabc"), layer=[0, 2], pos="mean")
    classes = {name: texts[i::3] for i, name in enumerate("abc")}
    expected = steering.extract.class_means(toy, classes, layer=[0, 2], pos="mean")
    assert list(found) == list("abc")
    for style, direction in found.items():
        for where, vector in direction.vectors.items():
            torch.testing.assert_close(vector, expected[style].vectors[where])
    uneven = methods.style_vectors(toy, texts, list("aaabbc"), layer=2)
    rows = steering.activations(toy, texts, "L2.resid_pre")
    torch.testing.assert_close(uneven["b"].vector, rows[3:5].mean(0) - rows[[0, 1, 2, 5]].mean(0))
    again = methods.style_vectors(toy, texts, list("aaabbc"), layer=2, seed=1)
    assert torch.equal(again["b"].vector, uneven["b"].vector)
    assert not torch.equal(again["b"].shuffled[again["b"].place], uneven["b"].shuffled[uneven["b"].place])


def test_the_labels_of_the_control_go_with_no_style():
    """Each style is dealt its share of the texts of each: the planted axis is not in the control."""
    drawn = dealt(STYLES, torch.Generator().manual_seed(0))
    assert sorted(drawn) == sorted(STYLES)
    for old in "abcd":
        for new in "abcd":
            got = sum(a == old and b == new for a, b in zip(STYLES, drawn))
            assert abs(got - STYLES.count(old) * STYLES.count(new) / len(STYLES)) <= 2


STYLE_NAMES = ("formal", "casual", "review")


@pytest.fixture(scope="module")
def table():
    """Change of the log probability of each style's words in texts of another, by vector and control."""
    world = interp.load("tiny-world")

    def texts(n, seed, held_out):
        letters = tasks.register(world, n=n, seed=seed, held_out=held_out)
        reviews = tasks.sentiment(world, n=n // 4, seed=seed, held_out=held_out)
        return sides.sides(world, letters, "purchase")[0], sides.sides(world, letters, "buy")[0], reviews

    def rows(task):
        return [row[:n] for row, n in zip(task.clean.tolist(), task.lengths.tolist())]

    train, (formal, casual, _) = texts(96, 0, False), texts(64, 1, True)
    labels = [name for name, task in zip(STYLE_NAMES, train) for _ in range(len(task))]
    found = methods.style_vectors(world, [row for task in train for row in rows(task)], labels, layer=3)
    words = [train[0].answers[0], train[1].answers[0], torch.cat((train[2].answers[0], train[2].wrongs[0]))]
    out = {name: torch.zeros(3, 3) for name in ("value", "random", "shuffled")}
    for i, style in enumerate(STYLE_NAMES):
        for j, context in enumerate((casual, formal, formal)):
            answer = words[j].expand(len(context), -1)
            result = steering.sweep(
                world, found[style], rows(context), [1.0], metric=LogProb(), answer=answer
            )
            for name in out:
                out[name][i, j] = float(result[name].mean())
    return out


def test_of_three_styles_each_vector_raises_its_own_words_alone(table):
    """Measured, in nats: formal 5.3 −0.6 −2.0, casual −1.3 4.8 −2.1, review −2.7 −3.5 9.3."""
    own = torch.eye(3, dtype=torch.bool)
    assert table["value"][own].min() > 3
    assert table["value"][~own].max() < 0
    for name in ("random", "shuffled"):
        assert table["value"][own].mean() > table[name][own].mean() + 3


def test_bad_input_before_any_pass(model, ids):
    sides.refused(
        model,
        [
            (lambda: methods.style_vectors(model, ids, ["a", "b"]), "4 texts and 2 styles"),
            (lambda: methods.style_vectors(model, ids, "abcd"), "styles is 'abcd'"),
            (lambda: methods.style_vectors(model, ids, ["a"] * 4), "all texts have the style 'a'"),
            (lambda: methods.style_vectors(model, ids, list("aabb"), pos="all"), "rows without a label"),
            (lambda: methods.style_vectors(model, ids, list("aabb"), layer=5), "layer 5 is out of range"),
            (lambda: methods.style_vectors(model, [], []), "texts: got no prompts"),
        ],
    )
    with pytest.raises(ValueError, match="3 texts and 2 styles"):
        methods.style_differences(torch.zeros(3, 2), ["a", "b"])
