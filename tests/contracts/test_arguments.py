"""Every public verb says what is wrong with an argument, before it does anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from words import verbs

import interp
from interp._arguments import kinds_of
from interp.tasks import LogitDiff

VERBS = {name: verb for name, verb in verbs() if name != "interp.load"}
NONSENSE: dict[str, Any] = {
    "object": object(),
    "class": LogitDiff,
    "complex": 1j,
    "frame": pd.DataFrame({"a": [1]}),
    "meta": torch.ones(2, 3, 4, 5, 6, 7, device="meta"),
    "nan": torch.full((2, 3, 4, 5, 6, 7), torch.nan),
}


def checked(name: str) -> list[str]:
    """The arguments of a verb whose types are known."""
    parameters = inspect.signature(VERBS[name]).parameters
    names = inspect.unwrap(VERBS[name]).__globals__
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        p for p, each in parameters.items() if each.kind in plain and kinds_of(str(each.annotation), names)
    ]


def test_nearly_all_arguments_are_checked() -> None:
    every = [len(inspect.signature(verb).parameters) for verb in VERBS.values()]
    assert sum(len(checked(name)) for name in VERBS) > 0.75 * sum(every)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_nonsense_is_refused_by_name(name: str) -> None:
    """No other argument is needed for it: the door comes first."""
    for argument in checked(name):
        for what, value in NONSENSE.items():
            with pytest.raises(ValueError, match=f"^{argument}(: expected a Trans| is )") as refused:
                VERBS[name](**{argument: value})
            assert "; give " in str(refused.value) or " got " in str(refused.value), (argument, what)


def test_model_and_task_the_other_way_round() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=2)
    with pytest.raises(
        ValueError, match=r"^model: expected .* got Task\. .* The model comes before the task"
    ):
        interp.patch(task, model, "z")


@pytest.mark.parametrize("level", ["0.95", None, True, float("nan"), [0.9], 0, 1, -0.5, 95])
def test_a_level_is_a_number_between_0_and_1(level: Any) -> None:
    with pytest.raises(ValueError, match=r"level is .*; (give a number|it must lie between 0 and 1)"):
        interp.stats.bootstrap(xr.Dataset(), level=level)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("seed", -1, "seed is -1; it must be a whole number from 0"),
        ("seed", 2**70, "seed is"),
        ("seed", 1.0, r"seed is 1\.0; give a whole number"),
        ("batch_size", 2**40, "batch_size is"),
        ("progress", "no", "progress is 'no'; give True or False"),
        ("site", 5, "site is 5; give a string, or a list, each a string"),
        ("cells", 5, "cells is 5"),
        ("cells", "L0H0", "cells is 'L0H0'; give a list"),
        ("neurons", 3, "neurons is 3; give a list, each a whole number"),
        ("neurons", [True], r"neurons is \[True\]"),
        ("direction", torch.ones(3), r"direction is a Tensor \[3\] of torch.float32; give a string"),
        ("model", "gpt2", r"got the name 'gpt2'. Load one with interp.load\('gpt2'\)"),
        ("task", ["a"], r"task is \['a'\]; give a Task"),
    ],
)
def test_the_sentence_says_the_value_and_what_to_give(argument: str, value: Any, said: str) -> None:
    verb = interp.attribution.screen if argument == "seed" else interp.patch
    with pytest.raises(ValueError, match=said):
        verb(**{argument: value})


@pytest.mark.parametrize(
    ("verb", "argument", "value"),
    [
        ("interp.patch", "neurons", [1, 1]),
        ("interp.patch", "neurons", np.array([5, 3, 5])),
        ("interp.patch", "site", ["z", "z"]),
        ("interp.steering.methods.boost_attention", "heads", (0, 0)),
        ("interp.steering.methods.cumulativity", "counts", [3, 1, 3]),
        ("interp.subspaces.scan", "places", ["L1.resid_pre"] * 2),
        ("interp.subspaces.interchange", "pos", ["end", "s2", "end"]),
        ("interp.subspaces.das", "controls", ("random", "random")),
        ("interp.heads.attention", "dst", ["end", "end"]),
        ("interp.heads.attention", "layer", [0, 0]),
        ("interp.path_patch", "freeze", ["heads", "heads"]),
        ("interp.explore", "coefficients", [1.0, 1]),
    ],
)
def test_labels_of_a_result_are_given_once(verb: str, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} has .* twice; give each once\."):
        VERBS[verb](**{argument: value})


@pytest.mark.parametrize(
    ("verb", "argument", "value"),
    [
        ("interp.heads.backup", "heads", {"L2H2"}),
        ("interp.path_patch", "receivers", {"L2H3.q"}),
        ("interp.subspaces.scan", "places", frozenset({"L1.resid_pre"})),
        ("interp.subspaces.scan", "places", 3),
        ("interp.path_patch", "senders", object()),
        ("interp.path_patch", "sender_positions", 1.5),
        ("interp.steering.methods.actadd", "coordinates", 3),
        ("interp.steering.methods.actadd", "coordinates", slice(0.5, 2)),
        ("interp.steering.methods.cross_effects", "tasks", {1: None}),
        ("interp.steering.methods.interference", "neurons", {"a": None}),
        ("interp.subspaces.accuracy", "subspace", {"a": 3}),
        ("interp.probes.fit", "groups", (1, 2)),
        ("interp.probes.fit", "l2", float("inf")),
        ("interp.subspaces.das", "l1", float("inf")),
        ("interp.subspaces.das", "lr", 0),
        ("interp.steering.methods.layer_effects", "target_kl", -0.1),
        ("interp.steering.methods.cast", "coefficient", float("inf")),
        ("interp.probes.selectors.mutual_information", "bins", 10**12),
        ("interp.path_patch", "top", 0),
    ],
)
def test_other_members_of_the_kinds(verb: str, argument: str, value: Any) -> None:
    """What has no order, what is inside of pairs and dicts, and numbers that are none of the named ones."""
    with pytest.raises(ValueError, match=rf"^{argument} is .*; (give|it must)"):
        VERBS[verb](**{argument: value})


def attention() -> xr.Dataset:
    """Of one layer of two heads."""
    dims = ("prompt", "layer", "head", "dst", "src")
    coords = {"layer": [0], "head": [0, 1], "dst": [0, 1], "src": [0, 1]}
    return xr.Dataset({"value": (dims, np.ones((1, 1, 2, 2, 2)))}, coords)


IDS = [[5, 6, 7], [7, 6, 5]], [[5, 6, 8], [8, 6, 5]]
METHOD = interp.steering.methods
SWEEP = interp.steering.measures


def swept(model: Any, prompts: Any, **options: Any) -> xr.Dataset:
    direction = interp.steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
    return interp.steering.sweep(model, direction, prompts, [1.0], progress=False, **options)


BEYOND: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown words to follow": (lambda m: interp.lens.logit(m, IDS[0], "xyz"), "'xyz' is not in the voc"),
    "unknown words for yes": (
        lambda m: interp.probes.Question(yes="xyz", no="Mary")(m, ["When Mary"]),
        "'xyz' is not in the vocabulary",
    ),
    "a share to follow": (lambda m: interp.lens.logit(m, IDS[0], 0.5), "targets is 0.5; give tokens"),
    "ids to mix beyond the vocabulary": (
        lambda m: interp.lens.mixed(m, IDS[0], torch.tensor([[5], [10**6]])),
        "targets: 1000000 is no token",
    ),
    "ids to mix of other prompts": (
        lambda m: interp.lens.mixed(m, IDS[0], torch.tensor([[5]])),
        r"targets has shape \(1, 1\)",
    ),
    "an infinite penalty": (
        lambda m: interp.lens.tuned(m, IDS[0], ridges=(1.0, float("inf"))),
        "ridges is .*; give finite penalties",
    ),
    "a plane of heads": (lambda m: METHOD.steering_plane(m, *IDS, site="z"), "'L0.z' has heads"),
    "other widths": (lambda m: METHOD.momentum(torch.ones(2, 3), torch.ones(2, 4)), "widths 3 and 4"),
    "no rows": (lambda m: interp.tasks.mib(m, [], n=-1), "n is -1; ask for"),
    "no sweep of steering": (lambda m: interp.sae.methods.fragility(xr.Dataset()), "has no value; give"),
    "no near misses": (lambda m: interp.sae.methods.near_misses(m, "Mary", -1), "n is -1"),
    "no heads to draw": (lambda m: interp.plot.attention(attention(), heads=[]), r"heads is \[\]"),
    "only NaN": (lambda m: interp.heads.top(attention().sum(("dst", "src")) * np.nan), "all are NaN"),
    "no sides": (
        lambda m: interp.subspaces.accuracy(
            m,
            interp.subspaces.pairs(interp.tasks.ioi(m, n=8), "output_position", n=4)["test"],
            interp.subspaces.Subspace(torch.eye(32)[:, :2], "L1.resid_pre"),
        ),
        "the basis has 32 rows, the activation at L1.resid_pre 64",
    ),
    "a list of no labels": (
        lambda m: interp.probes.thresholds.threshold([0.1], 0.5, groups=3),
        "groups is 3",
    ),
    "no groups": (lambda m: interp.probes.collective(m, None, [], None), "positive is None; give a list"),
    "provenance of no names": (
        lambda m: interp.circuits.Circuit.from_edges(interp.circuits.Graph(1, 2), [], provenance=3),  # type: ignore[arg-type]
        "provenance is 3; give a dict",
    ),
    "no sites": (lambda m: interp.activations(m, IDS[0], []), r"sites is \[\]"),
    "a place twice": (lambda m: interp.activations(m, IDS[0], ["L0.z", "L0.z"]), "each once"),
    "a layer twice": (
        lambda m: interp.steering.mean_difference(m, *IDS, layer=[0, -3]),
        "names a layer twice",
    ),
    "no clusters": (lambda m: interp.steering.extract.kmeans(m, IDS[0], 0, layer=1), "k is 0"),
    "no vector": (
        lambda m: interp.steering.extract.extract(m, *IDS, lambda u, d: 3, layer=1),
        "gave 3",
    ),
    "no loss": (lambda m: interp.steering.learn({"x": torch.zeros(1)}, lambda p: None), "loss gave None"),
    "no step": (
        lambda m: interp.steering.learn({"x": torch.zeros(1)}, lambda p: p["x"], lr=-1.0),
        "lr is -1",
    ),
    "no n-gram": (lambda m: SWEEP.repetition([[1, 2, 3]], n=-1), "n is -1"),
    "no sweep": (lambda m: SWEEP.summary(xr.Dataset()), "is no sweep"),
    "no value": (lambda m: interp.stats.agreement(xr.Dataset(), xr.Dataset()), "a has no variable 'value'"),
    "no prompts": (lambda m: interp.heads.repeats(m, n=0), "n is 0"),
    "no kind of embedding": (lambda m: interp.heads.scores(m, embedding="raws"), "did you mean 'raw'"),
    "no memory for it": (lambda m: interp.heads.parts(m, n=10**9), "n is 1000000000"),
    "no path": (lambda m: interp.patch(m, interp.tasks.ioi(m, n=2), "z", store=""), "store is ''"),
    "no figure": (lambda m: interp.plot.save_html({"data": []}, "x.html"), "fig is .*; give a figure"),
    "no condition": (
        lambda m: interp.steering.methods.cast(None, None),
        "condition is None; give a Condition",
    ),
    "an infinite chance": (
        lambda m: interp.patching.knockouts(
            m, [interp.tasks.ioi(m, n=4)], {"a": ["L0H0"]}, chance=float("inf")
        ),
        "chance is inf",
    ),
    "bytes for text": (lambda m: interp.heads.telemetry(m, b"When Mary"), "prompts: got b'When Mary'"),
    "truth for ids": (lambda m: interp.heads.telemetry(m, [[True, False]]), r"prompt 0 is \[True, False\]"),
    "a task and answers": (
        lambda m: swept(m, interp.tasks.ioi(m, n=2), answer=torch.tensor([5, 6])),
        "a Task has answers of its own",
    ),
    "an answer of no vocabulary": (
        lambda m: swept(m, IDS[0], answer=torch.tensor([5, 10**6])),
        "answer is .*; give token ids from 0 to",
    ),
    "no answer at all": (
        lambda m: swept(m, IDS[0], answer=torch.tensor([5, -1])),
        "answer is .*one or more a prompt",
    ),
    "a task of another model": (
        lambda m: METHOD.measure(interp.load("induction"), interp.tasks.ioi(m, n=2)),
        "token id|tokens, the model's context",
    ),
    "no tasks": (lambda m: METHOD.interference(m, {}, {}), "tasks is empty"),
    "an engine of no name": (
        lambda m: interp.subspaces.scan(
            m, interp.tasks.ioi(m, n=8), "output_position", ["L1.resid_pre"], engine="fats"
        ),
        "engine 'fats' is not one of auto, fast, reference; did you mean 'fast'",
    ),
    "no positions": (
        lambda m: interp.subspaces.scan(m, interp.tasks.ioi(m, n=8), "output_position", ["L1.resid_pre"], []),
        "pos is empty",
    ),
    "an ablation of no name": (lambda m: interp.explore([], ablation="zeros"), "ablation 'zeros'|'zero'"),
    "a metric of no name": (lambda m: interp.explore([], metric="logits"), "metric 'logits' is not one of"),
    "a score of a list": (
        lambda m: interp.heads.load_bearing(m, None, ["L0H0"], score="x"),
        "score is 'x', of a result",
    ),
    "a length twice": (lambda m: interp.heads.scores(m, lengths=[5, 5]), "with one twice"),
    "layers of other scores": (
        lambda m: METHOD.top_neurons(torch.ones(3, 4), 2, [0, 1]),
        r"layers is \[0, 1\] for 3 rows",
    ),
    "units of other rows": (
        lambda m: METHOD.fit_heads(torch.ones(4, 1, 1, 2), torch.zeros(4, 1, 1, 2), units=torch.arange(3)),
        "units has 3 entries for 4",
    ),
    "no similarities": (
        lambda m: METHOD.best_threshold(torch.zeros(0), torch.zeros(2)),
        "0 and 2 similarities",
    ),
    "neutral texts that are none": (
        lambda m: swept(m, IDS[0], neutral=3),
        "prompts: got 3",
    ),
    "a judge that is none": (lambda m: swept(m, IDS[0], judges={"a": 3}), "judges is .*each a function"),
    "no name of a model": (lambda m: interp.load("a" * 5000), "name is .*neither a model's name nor a path"),
    "nothing in a path": (lambda m: interp.load("a\0b"), "neither a model's name nor a path"),
    "a quantile of 2": (
        lambda m: interp.circuits.random_baseline(m, interp.tasks.ioi(m, n=2), 5, quantiles=[2.0]),
        "quantiles is",
    ),
}


METHODS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "task of no rows": (lambda m, t: interp.Task.from_tokens(clean=None), "clean is None; give rows"),
    "task of a text": (lambda m, t: interp.Task.from_tokens(clean=["a b"]), "texts to Task.from_prompts"),
    "task of no prompts": (lambda m, t: interp.Task.from_prompts(m, clean=None), "clean is None"),
    "file and model": (
        lambda m, t: interp.Task.from_file("x.jsonl", m),
        "path is .*; give a string, or a path",
    ),
    "no file": (lambda m, t: interp.Task.from_file(m, None), "path is None"),
    "no model to check": (lambda m, t: t.check(None), "model is None"),
    "no floor": (lambda m, t: t.check(m, floor="half"), "floor is 'half'; give a number"),
    "no batch": (lambda m, t: t.keep_solved(m, batch_size=0), "batch_size is 0"),
    "no model for words": (lambda m, t: interp.tasks.ioi(None), "model is None; give"),
    "a task for words": (lambda m, t: interp.tasks.ioi(t), "model is a Task; give"),
    "a task and a number": (lambda m, t: t + 1, "a task and 1 cannot be joined"),
    "a share that is none": (lambda m, t: t.split(float("nan")), "share is nan"),
    "a share above 1": (lambda m, t: t.split(2.0), "share is 2"),
    "no path": (lambda m, t: t.to_file(m, 5), "path is 5; give a string, or a path"),
    "no factor": (
        lambda m, t: interp.steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre") * "a",
        "factor is 'a'",
    ),
    "whole numbers for a direction": (
        lambda m, t: interp.steering.Direction.from_tensor(torch.ones(64, dtype=torch.long), "L1.resid_pre"),
        r"vector is a Tensor \[64\] of torch.int64; give a tensor",
    ),
    "a direction by 0": (
        lambda m, t: interp.steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre") / 0,
        "cannot be divided by 0",
    ),
    "bounds of words": (lambda m, t: METHOD.Bounds(rate="x"), "rate is 'x'; give a number"),
    "bounds of nothing": (lambda m, t: METHOD.Bounds(per_layer=0), "per_layer is 0"),
    "a method that is no word": (
        lambda m, t: interp.subspaces.Subspace(torch.eye(4), "L1H0", method=3),
        "method is 3; give a string",
    ),
    "an infinite share": (lambda m, t: t.split(float("inf")), "share is inf"),
    "one answer for all": (
        lambda m, t: interp.Task.from_tokens(clean=[[1]], answer=5),
        "answer is 5; give a",
    ),
    "answers in halves": (
        lambda m, t: interp.Task.from_tokens(clean=[[1]], answer=[0.5]),
        r"answer is \[0.5\]; give a whole number a prompt",
    ),
    "a dict for prompts": (
        lambda m, t: interp.Task.from_tokens(clean=[[1]], corrupt={"x": 1}, answer=[5]),
        "corrupt is .*; give rows of token ids",
    ),
    "positions by truth": (
        lambda m, t: interp.Task.from_tokens(clean=[[1]], answer=[5], wrong=[6], positions=True),
        "positions is True",
    ),
    "prompts without an order": (
        lambda m, t: interp.Task.from_prompts(m, clean={"When Mary went"}, answer=[" John"]),
        "clean is .*; give a list of strings",
    ),
    "no steps": (lambda m, t: interp.methods.IG(steps="8"), "steps is '8'; give a whole number"),
    "half a draw": (lambda m, t: interp.ablation.Gaussian(draws=1.5), "draws is 1.5"),
    "no deviation": (lambda m, t: interp.ablation.Gaussian(sigma="3"), "sigma is '3'"),
    "no factor of scaling": (lambda m, t: interp.ablation.Scaled("a"), "alpha is 'a'"),
    "no constants": (lambda m, t: interp.ablation.Constants(3), "tensor is 3; give a tensor"),
    "no mean": (lambda m, t: interp.ablation.Mean(over="prompt"), "over is 'prompt'"),
    "no function": (lambda m, t: interp.tasks.Custom(3), "fn is 3; give a function"),
    "no name": (lambda m, t: interp.tasks.Custom(len, name=5), "name is 5; give a string"),
    "no span": (lambda m, t: interp.positions.span(3), "a name is 3"),
    "no task of positions": (lambda m, t: interp.positions.marked("s2", m), "give a Task"),
    "no place": (lambda m, t: interp.places.parse(3), "a place is 3"),
    "no stop": (lambda m, t: interp.steering.generate(m, t[:1], stop=1.5, max_new_tokens=1), "stop is 1.5"),
}


@pytest.mark.parametrize("what", METHODS)
def test_methods_and_settings_say_it_too(what: str) -> None:
    call, said = METHODS[what]
    model = interp.load("tiny-ioi")
    with pytest.raises(ValueError, match=said):
        call(model, interp.tasks.ioi(model, n=2))


def test_a_wrong_name_of_a_method_or_setting_gets_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"IG\(\) has no argument 'step'; did you mean 'steps'"):
        interp.methods.IG(step=4)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match=r"Task.from_tokens.*'cleen'; did you mean 'clean'"):
        interp.Task.from_tokens(cleen=[[1]])  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("what", BEYOND)
def test_what_types_do_not_say_is_said_before_the_first_pass(what: str, monkeypatch: Any) -> None:
    call, said = BEYOND[what]
    model = interp.load("tiny-ioi")
    monkeypatch.setattr(type(model.blocks[0]), "forward", lambda *_, **__: pytest.fail("a pass was run"))
    if what == "no vector":  # which a pass alone can show
        monkeypatch.undo()
    with pytest.raises(ValueError, match=said):
        call(model)


def test_numbers_of_numpy_and_tensors_are_numbers() -> None:
    """And arrays are lists or tensors, where such are wanted."""
    up, down = np.random.default_rng(0).normal(size=(2, 6, 3))
    theirs = interp.steering.estimators.lda(up, down, ridge=np.float32(0.5))
    ours = interp.steering.estimators.lda(torch.tensor(up), torch.tensor(down), ridge=0.5)
    torch.testing.assert_close(theirs, ours)
    assert interp.steering.measures.repetition([[1, 2, 1, 2, 1]], n=torch.tensor(2)).tolist() == [0.5]
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=np.int64(4), seed=np.int32(0), template=1)
    asked = {"neurons": np.array([3, 5]), "batch_size": np.int64(4), "progress": np.bool_(False)}
    found = interp.patch(model, task[np.int64(0)], "post", **asked)
    assert found["neuron"].values.tolist() == [3, 5]
    by_hand = interp.patch(model, task[:1], "post", neurons=[3, 5], progress=False)
    np.testing.assert_allclose(found["value"], by_hand["value"], atol=1e-5)
    assert abs(by_hand["value"]).max() > 0


def test_a_sentence_is_short() -> None:
    with pytest.raises(ValueError, match="seed is") as refused:
        interp.attribution.screen(seed=["x" * 1000])
    assert len(str(refused.value)) < 200


def test_a_tuple_of_any_length_is_one() -> None:
    for positions in ((11,), (1, 2, 3), [4, 5, 6, 7]):
        assert interp.ablation.Gaussian(positions=positions).positions == tuple(positions)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positions is"):
        interp.ablation.Gaussian(positions=(1, "a"))  # type: ignore[arg-type]


def test_a_set_is_taken_where_order_means_nothing() -> None:
    graph = interp.circuits.Graph(n_layers=1, n_heads=2)
    names = ["a0.h0->logits", "a0.h1->logits"]
    listed, a_set = (interp.circuits.Circuit.from_edges(graph, each) for each in (names, set(names)))
    assert torch.equal(listed.mask, a_set.mask)
    assert int(a_set.mask.sum()) == 2


@pytest.mark.parametrize(
    "draw", ["plot.bars", "plot.heads", "plot.positions", "stats.bootstrap", "stats.test"]
)
def test_a_result_has_prompts(draw: str) -> None:
    """One of none, as a selection may leave, gave the errors of numpy."""
    dims = ("prompt", "layer", "head")
    none = xr.Dataset({"value": (dims, np.ones((0, 1, 2)))}, {"layer": [0], "head": [0, 1]})
    with pytest.raises(ValueError, match=r"^result has no prompts: its dim prompt has length 0"):
        VERBS[f"interp.{draw}"](none)


def test_a_report_says_what_is_no_result(tmp_path: Any) -> None:
    for item, said in ((xr.Dataset(), "no variable 'value'"), (attention().isel(prompt=[]), "no prompts")):
        with pytest.raises(ValueError, match=said):
            interp.report.save(tmp_path / "claim", {"a": item}, claim="a", control="b")
    with pytest.raises(ValueError, match=r"folder is .*; it must be the path of a folder"):
        interp.report.save("a\0b", {"a": attention()}, claim="a", control="b")
