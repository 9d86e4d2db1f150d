"""What the methods refuse at their doors, and what their controls and stores must not get wrong."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import torch

import interp
from interp import steering
from interp.places import parse
from interp.steering import Direction, methods
from interp.tasks import KL, LogitDiff


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=8, seed=0)


@pytest.fixture(scope="module")
def direction(model: Any, task: interp.Task) -> Direction:
    return steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)


def test_one_row_a_prompt_is_asked_for(model: Any, task: interp.Task, direction: Direction) -> None:
    """With "all" there is a row for every token, so that rows would be taken for other prompts'."""
    texts = ["Mary had a book", "Tom had a book", "Anna had a bag"]
    one = steering.mean_difference(model, texts[:1], texts[1:], layer=1)
    calls = [
        lambda: methods.concept_vectors(model, ["Mary"], ["Tom"], template="{} had a", layer=1, pos="all"),
        lambda: methods.report(model, texts, one, (" book", " bag"), shots=[2], pos="all"),
        lambda: methods.control_effect(model, texts, texts[::-1], one, pos="all"),
        lambda: methods.example_effects(model, task, texts, layer=1, pos="all"),
        lambda: methods.gact(model, task.clean, task.corrupt, layer=1, pos="all"),
        lambda: methods.east(model, task.clean, layer=1, pos="all"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="one row a prompt"):
            call()


def test_places_with_heads_have_no_one_vector(model: Any, task: interp.Task) -> None:
    for call in (methods.east, methods.native_skills):
        with pytest.raises(ValueError, match="has heads"):
            call(model, task.clean, layer=1, site="z")
    up, down = task.clean[:2], task.clean[2:4]
    pairs = (
        methods.cast_condition, methods.steering_plane,
        steering.mean_difference, steering.pca, steering.extract.kmeans,
    )  # fmt: skip
    for call in pairs:  # a vector of all heads, which no edit and no sweep took
        more = (2,) if call is steering.extract.kmeans else (down,)
        with pytest.raises(ValueError, match="has heads, and not one vector"):
            call(model, up, *more, layer=[1, 2] if call is methods.steering_plane else 1, site="z")
    assert steering.mean_difference(model, up, down, layer=1, site="z", head=2).vector.shape == (16,)


def test_classes_of_units_have_as_many() -> None:
    with pytest.raises(ValueError, match="the classes have 3, 4 units"):
        methods.class_scores({"a": torch.ones(2, 3), "b": torch.ones(2, 4)})


def test_a_single_target_prompt_is_enough_for_lineas(model: Any, task: interp.Task) -> None:
    act = methods.lineas(model, task.clean[:4], task.clean[4:5], "L1.resid_post", steps=3)
    assert act.losses[-1] < act.losses[0]


def test_maps_are_not_taken_to_another_model(model: Any, task: interp.Task) -> None:
    other = interp.load("tiny-ioi")
    with torch.no_grad():
        other.W_U.mul_(2).add_(0.5)
    classes = {name: task.clean[i : i + 2] for i, name in enumerate("abc")}
    made = [
        methods.gaussian_ot(model, task.clean[:4], task.clean[4:], "L1.resid_post").steer(),
        methods.manifold(model, classes, layer=1).steer(1.0),
        methods.linear_act(model, task.clean[:4], task.clean[4:], "L1.resid_post").steer(),
        methods.lineas(model, task.clean[:4], task.clean[4:], "L1.resid_post", steps=1).steer(),
        methods.steering_plane(model, task.clean[:4], task.clean[4:]).rotate(0.5, at=[parse("L1.resid_pre")]),
        methods.head_shifts(model, task.clean[:4], task.clean[4:]).shift(2, 1.0),
        methods.austeer(model, task.clean[:4], task.clean[4:], "L1.mlp_out", 5).scale(1.0),
        methods.expert_units(model, task.clean[:4], task.clean[4:]).damp(),
        methods.gact(model, task.clean, task.corrupt, 2, layer=1).steer()[1:],
        methods.k_steering(model, {"a": task.clean[:4], "b": task.clean[4:]}, layer=1, steps=1).steer("a"),
    ]
    for interventions in made:
        assert interventions[0].check(model)
        with pytest.raises(ValueError, match="found on another model that is called 'tiny-ioi' as well"):
            interventions[0].check(other)
    guard = methods.latent_guard(model, task.clean[:4], task.clean[4:], instruction_end=-1, layer=1)
    with pytest.raises(ValueError, match="the guard was found on another model"):
        guard.score(other, task.clean)


def test_a_null_of_nothing_is_refused(direction: Direction) -> None:
    """Activations that are all the same have no covariance: every p would be the least there is."""
    with pytest.raises(ValueError, match="do not vary"):
        direction.decompose(torch.eye(64), 2, activations=torch.ones(5, 64), n_draws=5)


def test_a_text_returns_after_it_was_away() -> None:
    find = methods.returns(back=[1], away=[1, 2])
    assert find(torch.tensor([[1, 5, 5], [2, 5, 1], [1, 1, 5]])).tolist() == [-1, 2, 1]


def test_a_detector_gives_whole_places(model: Any, task: interp.Task, direction: Direction) -> None:
    for value in (float("nan"), 0.5):
        with pytest.raises(ValueError, match="the detector gave"):
            methods.resistance(
                model, task, steering.add(direction), lambda t, v=value: torch.full((len(t),), v),
                max_new_tokens=1, progress=False,
            )  # fmt: skip


def test_one_example_has_no_shuffled_labels(model: Any, direction: Direction) -> None:
    texts = [f"{name} had a book" for name in ("Mary", "Tom", "Anna", "Paul")]
    for options in ({"shots": [1]}, {"shots": [2], "queries": 0}):
        with pytest.raises(ValueError, match=r"shots is|queries is"):
            methods.report(model, texts, direction, (" Mary", " John"), **options)


def test_two_concepts_of_one_name_are_refused(model: Any) -> None:
    made = methods.concept_vectors(model, ["Mary", "Tom"], ["Anna"], template="{} had a", layer=1)
    ask = interp.probes.Question(" Mary", " John")
    with pytest.raises(ValueError, match="same token"):
        methods.introspection(model, "Tom had", made, ask, names={"Mary": 5, "Tom": 5}, progress=False)


def test_other_braces_of_a_template_stay(model: Any) -> None:
    """They are text, of which this vocabulary has no word."""
    with pytest.raises(ValueError, match="vocabulary"):
        methods.concept_vectors(model, ["Mary"], ["Tom"], template="{} had a {book}", layer=1)


def test_a_prompted_row_has_its_own_kl(model: Any, task: interp.Task) -> None:
    """The KL of a row that is asked another way is to the task as it is, not to itself."""
    asked = methods.prefixed(model, task, " Mary", 1)
    table = methods.compare(
        model, task, {"prompt": asked}, 0.1, metric=[LogitDiff(), KL()], progress=False
    ).sel(run="prompt")
    assert float(table["kl"]) > 1e-3
    assert float(-table["value"].sel(metric="kl").mean()) == pytest.approx(float(table["kl"]), rel=1e-6)


def test_rows_of_one_name_are_refused(model: Any, task: interp.Task, direction: Direction) -> None:
    with pytest.raises(ValueError, match="two rows"):
        methods.compare(model, task, {"d": direction, "d, random": direction}, 0.1, progress=False)


def test_a_store_knows_the_weights_and_the_metric(task: interp.Task, tmp_path: Any) -> None:
    model = interp.load("tiny-ioi")
    options = {"layer": [1], "progress": False, "store": tmp_path / "cut.zarr"}
    methods.attention_knockout(model, task, [("end", "s2")], **options)
    with torch.no_grad():
        model.blocks[1].mlp.W_out.mul_(0.5)
    with pytest.raises(ValueError, match="model_fingerprint"):
        methods.attention_knockout(model, task, [("end", "s2")], **options)


def test_the_audit_says_what_it_cannot_take(model: Any) -> None:
    broken = interp.load("tiny-ioi")
    with torch.no_grad():
        broken.blocks[1].mlp.W_out[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"L1\.W_out"):
        steering.audit(model, broken)
    with pytest.raises(ValueError, match="is 0"):
        steering.audit(model, model, Direction({steering.Direction.from_tensor(
            torch.ones(64), "L1.resid_pre").place: torch.zeros(64)}))  # fmt: skip


def test_a_basis_is_no_patch(model: Any, task: interp.Task) -> None:
    basis = Direction.from_tensor(torch.eye(64)[:2], "L1.resid_pre")
    with pytest.raises(ValueError, match="layout"):
        methods.guiding_giants(model, basis, task.clean[:4], task.clean[4:], "L0.resid_pre", steps=1)
    with pytest.raises(ValueError, match="layout"):
        methods.control_effect(model, task.clean[:4], task.clean[4:], basis)


def test_refining_asks_for_whole_clusters(model: Any, task: interp.Task) -> None:
    made = methods.gact(model, task.clean, task.corrupt, 2, layer=1)
    with pytest.raises(ValueError, match="clusters"):
        made.refine(model, task.clean, torch.zeros(8))


def test_t_is_a_number(model: Any, task: interp.Task) -> None:
    classes = {name: task.clean[i : i + 2] for i, name in enumerate("abc")}
    for periodic in (False, True):
        curve = methods.manifold(model, classes, 2, periodic=periodic, layer=1)
        with pytest.raises(ValueError, match="nan"):
            curve.steer(float("nan"))


def test_conditions_are_checked_before_a_pass(model: Any, task: interp.Task) -> None:
    wide = Direction.from_tensor(torch.ones(7), "L1.resid_pre")
    passes = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda t, hook: passes.append(1))]):
        with pytest.raises(ValueError, match="width"):
            methods.under_shift(model, wide, {"as it is": task}, progress=False)
        with pytest.raises(ValueError, match="width"):
            methods.compare(model, task, {"d": wide}, 0.1, progress=False)
    assert not passes


def test_what_would_do_nothing_is_refused_before_a_pass(model: Any, task: interp.Task) -> None:
    zero = Direction({interp.places.parse("L1.resid_pre"): torch.zeros(64)})
    up, down = task.clean[:4], task.clean[4:]
    calls = (
        lambda: methods.under_shift(model, zero, {"as it is": task}, progress=False),
        lambda: methods.compare(model, task, {"d": zero}, 0.1, progress=False),
        lambda: methods.guiding_giants(model, zero, up, down, "L0.resid_pre", steps=1),
        lambda: methods.control_effect(model, up, down, zero),
        lambda: methods.gaussian_ot(model, up[:1], down, "L1.resid_pre"),
        *(
            lambda norm=norm: steering.optimise(model, up, down[:, :1], layer=1, max_norm=norm)
            for norm in (0, -1.0)
        ),
    )
    passes = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda t, hook: passes.append(1))]):
        for call in calls:
            with pytest.raises(ValueError, match=r"is 0|two or more|max_norm"):
                call()
    assert not passes


def test_a_sink_of_one_prompt_is_that_of_it_among_others(model: Any, task: interp.Task) -> None:
    whole = methods.sink_effect(model, task, 0)
    for one in (methods.sink_effect(model, task[:1], 0), methods.sink_effect(model, task, 0, batch_size=7)):
        same = whole["received"].sel(run=["plain", "removed"])[: len(one["prompt"])]  # one control is random
        torch.testing.assert_close(
            torch.tensor(one["received"].sel(run=["plain", "removed"]).values), torch.tensor(same.values)
        )


def test_odd_arguments_are_sentences(model: Any, task: interp.Task, direction: Direction) -> None:
    concepts = methods.concept_vectors(model, ["Mary", "Tom"], ["Anna"], template="{} had a", layer=1)
    ask = interp.probes.Question(" Mary", " John")
    clean, corrupt = task.clean, task.corrupt
    control = methods.guiding_giants(model, direction, clean[:4], clean[4:], "L0.resid_pre", steps=1)
    world, centroids = interp.load("tiny-world"), methods.gact(model, clean, corrupt, layer=1)
    options = {"steps": 1, "progress": False}
    cases = {
        "prefix has the token": lambda: methods.prefixed(model, task, [10**6]),
        "prefix is None": lambda: methods.prefixed(model, task, None),
        r"prefix is \[1.5": lambda: methods.prefixed(model, task, [1.5]),
        "pairs is None": lambda: methods.attention_knockout(model, task, None, progress=False),
        "each once": lambda: methods.introspection(model, "Tom had", concepts, ask, strengths=[1.0, 1.0]),
        r"among is \['a": lambda: methods.east(model, clean, among=["a"], layer=1),
        "among is 5": lambda: methods.east(model, clean, among=5, layer=1),
        "the controller": lambda: control.harmful(world, "The film"),
        "the probe": lambda: centroids.choose(world, "The film"),
        "score is nan": lambda: methods.noisy_root(lambda x: None, 1.0, 0.0, 2.0),
        "no interventions": lambda: methods.resistance(model, task, (), lambda new: new, progress=False),
        "bits is -1": lambda: methods.attack_scaling(model, clean[:1], [1], [1], bits=-1, **options),
        "folder is None": lambda: interp.models.export(model, None),
    }
    for match, call in cases.items():
        with pytest.raises(ValueError, match=match):
            call()
    assert methods.east(model, clean, among=[3, 4], layer=1).vector.any()


@pytest.mark.filterwarnings("ignore:using the reference engine")
def test_rows_of_several_lengths_are_refused_where_padding_would_be_attended_to() -> None:
    if not architectures.has_hooked_transformer():
        pytest.skip("this TransformerLens has no HookedTransformer")
    import transformer_lens as lens

    sizes = {"n_layers": 2, "d_model": 16, "d_head": 8, "n_heads": 2, "n_ctx": 6, "d_vocab": 20}
    cfg = lens.HookedTransformerConfig(**sizes, attn_only=True, attention_dir="bidirectional", seed=0)
    both_ways = lens.HookedTransformer(cfg).eval()
    ragged, whole = [[1, 5, 6, 7], [1, 5, 6]], [[1, 5, 6], [1, 6, 5]]
    classes = {"a": whole, "b": whole, "c": [[1, 7, 8], [1, 8, 7]]}
    curve = methods.manifold(both_ways, classes, 1, layer=1)
    calls = (
        lambda: steering.optimise(both_ways, ragged, [[4], [4]], layer=1, steps=1),
        lambda: methods.lineas(both_ways, ragged, whole, "L1.resid_pre", steps=1),
        lambda: methods.output_curve(both_ways, {**classes, "c": ragged}, [5, 6, 7]),
        lambda: methods.manifold_paths(both_ways, curve, ragged, [5, 6, 7], 0, 1),
    )
    passes = []
    with both_ways.hooks(fwd_hooks=[("hook_embed", lambda t, hook: passes.append(1))]):
        for call in calls:
            with pytest.raises(ValueError, match="goes both ways"):
                call()
    assert not passes
