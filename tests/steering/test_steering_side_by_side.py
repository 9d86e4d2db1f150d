"""Continuations side by side: each run is what generate gives, at the coefficient that it says."""

from __future__ import annotations

import numpy as np
import pytest

from interp import steering
from interp.models import logits
from interp.steering import controls, side_by_side
from interp.tasks import vocabulary


def text(model, ids: list[int]) -> str:
    if vocabulary.has_tokenizer(model):
        return vocabulary.decode(model, ids).strip()
    return " ".join(map(str, ids))


def test_every_run_is_its_own_generation(toy, ids) -> None:
    d = steering.mean_difference(toy, ids[:2], ids[2:], layer=1)
    found = side_by_side(toy, ids, d, 3.0, max_new_tokens=5, seed=2, stop=())
    assert found["run"].values.tolist() == ["base", "steered", "random", "shuffled"]
    others = {name: parts[0] for name, parts in controls([d], 2).items()}
    edits = {"base": (), "steered": steering.add(d, 3.0)}
    edits |= {name: steering.add(part, 3.0) for name, part in others.items()}
    for run, edit in edits.items():
        whole = steering.generate(toy, ids, edit, max_new_tokens=5, stop=())[:, 6:]
        assert found["text"].sel(run=run).values.tolist() == [text(toy, row) for row in whole.tolist()]
        np.testing.assert_allclose(found["repetition"].sel(run=run), steering.measures.repetition(whole))
    assert found["coefficient"].values.tolist() == [0.0, 3.0, 3.0, 3.0]
    assert float(abs(found["kl"].sel(run="base")).max()) < 1e-6 < float(found["kl"].sel(run="steered").mean())


def test_the_loss_is_that_of_the_unsteered_model(model, ids) -> None:
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    found = side_by_side(model, ids, d, 3.0, max_new_tokens=4)
    whole = steering.generate(model, ids, steering.add(d, 3.0), max_new_tokens=4)
    log = logits(model, whole).log_softmax(-1)[:, 5:-1]
    expected = -log.gather(2, whole[:, 6:, None])[..., 0].mean(1)
    np.testing.assert_allclose(found["loss"].sel(run="steered"), expected.detach(), rtol=1e-6)


def test_at_a_target_kl_every_run_has_its_own_coefficient(model, ids) -> None:
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    found = side_by_side(model, ids, d, target_kl=0.1, max_new_tokens=3)
    np.testing.assert_allclose(found["kl"].mean("prompt")[1:], 0.1, rtol=0.01)
    assert len(set(found["coefficient"].values.tolist())) == 4


def test_texts_end_at_a_stop_token_and_rows_may_differ_in_length(model, ids) -> None:
    ragged = [ids[0, :3].tolist(), ids[1].tolist(), ids[2, :5].tolist()]
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    plain = side_by_side(model, ragged, d, 1.0, max_new_tokens=6)
    whole = [steering.generate(model, [row], max_new_tokens=6)[0, len(row) :].tolist() for row in ragged]
    assert plain["text"].sel(run="base").values.tolist() == [text(model, row) for row in whole]
    stop = whole[0][2]
    cut = side_by_side(model, ragged, d, 1.0, max_new_tokens=6, stop=(stop,))
    ends = [row.index(stop) if stop in row else 6 for row in whole]
    assert min(ends) < 6
    expected = [text(model, row[: max(1, end)]) for row, end in zip(whole, ends)]
    assert cut["text"].sel(run="base").values.tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "coefficient= or target_kl="),
        ({"coefficient": 1.0, "target_kl": 0.1}, "one of them"),
        ({"coefficient": float("nan")}, "coefficient is nan"),
        ({"target_kl": -1.0}, "above 0"),
    ],
)
def test_mistakes_are_refused(model, ids, options, message: str) -> None:
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    with pytest.raises(ValueError, match=message):
        side_by_side(model, ids, d, **options)


def test_a_direction_with_several_places_is_refused_and_a_bare_one_has_no_shuffled_run(
    model, ids, draw
) -> None:
    several = steering.mean_difference(model, ids[:2], ids[2:], layer=[1, 2])
    with pytest.raises(ValueError, match=r"L1\.resid_pre, L2\.resid_pre"):
        side_by_side(model, ids, several, 1.0, max_new_tokens=2)
    bare = steering.Direction.from_tensor(draw(24), "L1.resid_pre")
    assert side_by_side(model, ids, bare, 1.0, max_new_tokens=2)["run"].values.tolist()[2:] == ["random"]
