"""Path patching against four runs with hooks, on every kind of block; what it refuses; what it costs."""

from __future__ import annotations

import dataclasses
from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
from cases import QUIET, task
from four_runs import FourRuns, Where
from sides import GATED, PLAIN, model_of
from two_sides import refused

import interp
from interp.engine import block
from interp.tasks import KL, LogitDiff, Loss

PARALLEL = "RMS-relu-gated-parallel-gqa-rotary"
FORKED = [PLAIN, GATED, PARALLEL, "attn-only", "alibi", "qk-norm", "local", "soft-cap", "clip"]
HOOKED = pytest.mark.skipif(not architectures.has_hooked_transformer(), reason="needs HookedTransformer")
HEADS = {(layer, head) for layer in range(3) for head in range(4)}
FREEZE: dict[str, tuple[Any, set, set]] = {
    "heads": ("heads", HEADS, set()),
    "all": ("all", HEADS, {0, 1, 2}),
    "nothing": ((), set(), set()),
    "some": (["L1H0", "L1H3", "MLP1"], {(1, 0), (1, 3)}, {1}),
}


CASES = [(name, freeze) for name in (PLAIN, GATED, PARALLEL) for freeze in FREEZE]
CASES += [(name, ("heads", "nothing")[number % 2]) for number, name in enumerate(FORKED[3:])]


def metric_of(logits: torch.Tensor, of: interp.Task) -> np.ndarray:
    rows = torch.arange(len(of))
    last = logits[rows, of.positions]
    return (last[rows, of.answer] - last[rows, of.wrong]).numpy()


class Slow:
    """Effects by four runs."""

    def __init__(self, model: Any, of: interp.Task, direction: str = "denoise") -> None:
        own, other = (of.corrupt, of.clean) if direction == "denoise" else (of.clean, of.corrupt)
        self.runs, self.of, self.sign = FourRuns(model, own, other), of, 1 if direction == "denoise" else -1
        with torch.no_grad():
            self.base = metric_of(model(own), of)

    def c(self, senders: list[Where], heads: set, mlps: set, at: Any = slice(None)) -> dict[str, Any]:
        return self.runs.c(senders, heads, mlps, at)

    def effect(
        self, receivers: list[Where], c: dict[str, Any], at: Any = slice(None), combine: str = "replace"
    ) -> np.ndarray:
        """[prompt]"""
        return self.sign * (metric_of(self.runs.d(receivers, c, at, combine), self.of) - self.base)


def receivers_of(model: Any) -> dict[str, tuple[list[str], list[tuple[str, int, int | None]]]]:
    """Names of receivers for us, and the inputs of the oracle."""
    found: dict[str, Any] = {
        "q": (["L2H1.q"], [("q", 2, 1)]),
        "k": (["L2H1.k"], [("k", 2, 1)]),
        "v": (["L1H0.v"], [("v", 1, 0)]),
        "chain": (["L1H0.v", "L2H1.v"], [("v", 1, 0), ("v", 2, 1)]),
        "logits": (["logits"], [("logits", 2, None)]),
        "end": (["L2H1.q", "logits"], [("q", 2, 1), ("logits", 2, None)]),
    }
    if not model.cfg.attn_only:
        found["mlp"] = (["L1.mlp"], [("mlp", 1, None)])
        found["all kinds"] = (
            ["L1H0.k", "MLP1", "L2H1.q", "L2H0.v", "MLP2"],
            [("k", 1, 0), ("mlp", 1, None), ("q", 2, 1), ("v", 2, 0), ("mlp", 2, None)],
        )
    return found


@HOOKED
@pytest.mark.parametrize(("name", "freeze"), CASES)
def test_equals_four_runs(name: str, freeze: str) -> None:
    model, of = model_of(name), task(first=2, n=2)
    ours, heads, mlps = FREEZE[freeze]
    if model.cfg.attn_only:
        ours, mlps = [each for each in ours if "MLP" not in each] if freeze == "some" else ours, set()
    cells = receivers_of(model)
    for direction, combine, sender in (("denoise", "replace", (1, 1)), ("noise", "add", (0, 2))):
        layer, head = sender
        found = interp.path_patch(
            model, of, ["L0H2", "L1H1"], {key: names for key, (names, _) in cells.items()},
            freeze=ours, direction=direction, combine=combine, **QUIET,
        )  # fmt: skip
        assert found.attrs["engine"] == "fast"
        slow = Slow(model, of, direction)
        c = slow.c([("attn.hook_z", layer, head)], heads, mlps)
        for key, (_, inputs) in cells.items():
            value = found["value"].sel(receiver=key, sender=f"L{layer}H{head}")
            if not found["reachable"].sel(receiver=key, sender=f"L{layer}H{head}"):
                assert bool(value.isnull().all())
                continue
            right = slow.effect(inputs, c, combine=combine)
            np.testing.assert_allclose(value, right, atol=1e-11)
            assert np.abs(right).max() > 1e-6


@HOOKED
@pytest.mark.parametrize("freeze", FREEZE)
@pytest.mark.parametrize("name", [PLAIN, GATED, PARALLEL])
def test_every_kind_of_sender(name: str, freeze: str) -> None:
    """Alone and in sets, with positions at both ends."""
    model, of = model_of(name), task(first=2, n=2)
    ours, heads, mlps = FREEZE[freeze]
    senders: dict[str, tuple[list[str], list]] = {
        "embed": (["embed"], [("hook_resid_pre", 0, None)]),
        "mlp": (["MLP0"], [("hook_mlp_out", 0, None)]),
        "neuron": (["L0N7"], [("mlp.hook_post", 0, 7)]),
        "stream": (["L1.resid_pre"], [("hook_resid_pre", 1, None)]),
        "set": (["L0H1", "L0H3", "L0N5", "L1H2"], [
            ("attn.hook_z", 0, 1), ("attn.hook_z", 0, 3), ("mlp.hook_post", 0, 5), ("attn.hook_z", 1, 2),
        ]),
        "attention": (["L0.attn_out"], [("hook_attn_out", 0, None)]),
    }  # fmt: skip
    receivers = receivers_of(model)["all kinds"]
    found = interp.path_patch(
        model, of, {key: names for key, (names, _) in senders.items()}, {"all kinds": receivers[0]},
        freeze=ours, sender_positions=[2, 4, 5, 8], receiver_positions=(3, 9), **QUIET,
    )  # fmt: skip
    slow = Slow(model, of)
    for key, (_, theirs) in senders.items():
        c = slow.c(theirs, heads, mlps, torch.tensor([2, 4, 5, 8]))
        right = slow.effect(receivers[1], c, slice(3, 9))
        np.testing.assert_allclose(found["value"].sel(sender=key)[:, 0], right, atol=1e-11)
        assert np.abs(right).max() > 1e-6


@pytest.mark.parametrize("freeze", ["heads", "some"])
@pytest.mark.parametrize("name", ["post-norm", "sandwich-norm", "bridge llama", "bridge neox"])
def test_both_engines_agree(name: str, freeze: str) -> None:
    model = small.bridge(name.split()[1]) if name.startswith("bridge") else model_of(name)
    of = task(first=3, n=2)
    senders = ["L0H2", "L1H1", "MLP0", "L0.attn_out"]
    whole = interp.models.anatomy(model).whole_qk_norm  # whose queries and keys are refused
    q, k = ("L2H0.v", "L2H1.v") if whole else ("L2H1.q", "L2H1.k")
    receivers = {"q": [q], "v": ["L2H1.v"], "mlp": ["MLP2"], "all": ["L1H0.v", k, "logits"]}
    options = {"freeze": FREEZE[freeze][0], "metric": [LogitDiff(), Loss()], **QUIET}
    fast = interp.path_patch(model, of, senders, receivers, engine="fast", **options)
    reference = interp.path_patch(model, of, senders, receivers, engine="reference", **options)
    single = name == "bridge llama"  # whose norms are transformers', in float32
    np.testing.assert_allclose(fast["value"], reference["value"], atol=1e-5 if single else 1e-11)
    assert float(abs(reference["value"]).max()) > 1e-3


def test_patching_everything_is_patching_the_node() -> None:
    """I1: nothing frozen and all inputs received; I2: all frozen, and added along every edge."""
    model, of = small.model(), task(first=2, n=3)
    node = interp.patch(model, of, "z", **QUIET)["value"]
    for options in ({"freeze": ()}, {"freeze": "all", "combine": "add"}):
        path = interp.path_patch(model, of, "heads", "all", **options, **QUIET)["value"]
        np.testing.assert_allclose(path, node, atol=1e-12)
    assert float(abs(node).min()) > 1e-6


def test_a_sender_with_its_own_value_is_the_own_run() -> None:
    """I5, bit for bit: before the first token that differs nothing is run."""
    model, of = small.model(), task(first=5, n=3)
    found = interp.path_patch(model, of, "heads", ["L2H1.q", "logits"], sender_positions=(0, 5), **QUIET)
    assert (found["value"].where(found["reachable"], 0.0) == 0).all()
    assert bool(found["value"].sel(layer=2, receiver="L2H1.q").isnull().all())


def test_all_writers_below_at_once_is_patching_the_input() -> None:
    """I4: every writer below with the direct edges alone == the stream's own input in the other run."""
    model, of = small.model(), task(first=2, n=3)
    below = ["embed", *(f"L{layer}H{head}" for layer in (0, 1) for head in range(4)), "MLP0", "MLP1"]
    one = interp.path_patch(model, of, {"below": below}, ["L2H1.q", "L2H1.v"], freeze="all", **QUIET)
    q = interp.patch(model, of, cells=["L2H1.q", "L2H1.v"], **QUIET)["value"]
    np.testing.assert_allclose(one["value"][:, 0], q, atol=1e-11)
    stream = interp.path_patch(model, of, ["L2.resid_pre"], ["L2H1.q", "L2H1.v"], **QUIET)["value"]
    np.testing.assert_allclose(stream[:, 0], q, atol=1e-11)
    assert float(abs(q).min()) > 1e-5


@HOOKED
def test_direct_paths_to_logits_are_direct_attribution() -> None:
    """I3: final norm frozen, senders add up to the whole residual difference; the exact norm differs."""
    model, of = model_of(PLAIN), task(first=2, n=3)
    options: dict[str, Any] = {"freeze": "all", "norm": "frozen", **QUIET}
    alone = interp.path_patch(model, of, "all", "logits", **options)
    senders = [str(name) for name in alone["sender"].values]
    together = interp.path_patch(model, of, {"everything": senders}, "logits", **options)
    np.testing.assert_allclose(alone["value"].sum("sender"), together["value"][:, 0], atol=1e-11)
    clean, corrupt = (interp.attribution.direct(model, of, run=run) for run in ("clean", "corrupt"))
    shares = [name for name in senders if name.startswith("L")]
    rows = torch.arange(3)
    z = [model.run_with_cache(tokens)[1] for tokens in (of.corrupt, of.clean)]
    final = [cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][rows, of.positions] for cache in z]
    scale = [
        ((x - x.mean(-1, keepdim=True)).pow(2).mean(-1) + model.cfg.eps).sqrt().detach().numpy()
        for x in final
    ]
    theirs = clean["value"].sel(component=shares) * scale[1][:, None] / scale[0][:, None]
    theirs = theirs - corrupt["value"].sel(component=shares)
    np.testing.assert_allclose(alone["value"].sel(sender=shares), theirs, atol=1e-11)
    exact = interp.path_patch(model, of, "all", "logits", freeze="all", **QUIET)
    assert float(abs(exact["value"] - alone["value"]).max()) > 1e-3
    assert "approximate" in alone.attrs
    assert "approximate" not in exact.attrs


def test_one_edge_is_the_edge_of_circuits() -> None:
    """I6: noise, all frozen, one receiver."""
    model, of = small.model(), task(first=2, n=3)
    edges = interp.circuits.score_edges(model, of, method="exact", ablation="resample", **QUIET)["value"]
    names = ["L2H1.q", "L1H0.k", "L2H3.v", "MLP1", "logits"]
    found = interp.path_patch(model, of, "heads", names, freeze="all", direction="noise", **QUIET)
    readers = ["a2.h1<q>", "a1.h0<k>", "a2.h3<v>", "m1", "logits"]
    for layer, head in ((0, 0), (0, 3), (1, 2)):
        right = edges.sel(writer=f"a{layer}.h{head}", reader=readers)
        np.testing.assert_allclose(found["value"].sel(layer=layer, head=head), right, atol=1e-11)
    assert float(abs(found["value"]).max()) > 1e-3


@HOOKED
def test_without_mlps_paths_through_heads_are_direct() -> None:
    """I7."""
    model, of = model_of("attn-only"), task(first=2, n=3)
    heads, direct = (
        interp.path_patch(model, of, "heads", ["L2H1.q", "L2H1.v"], freeze=freeze, **QUIET)["value"]
        for freeze in ("heads", "all")
    )
    np.testing.assert_array_equal(heads, direct)
    assert float(abs(heads).max()) > 1e-3


@HOOKED
def test_effects_add_up_in_a_linear_model() -> None:
    """I8: no norm, no MLP, patterns of keys and queries out of play: values only."""
    model = architectures.build(
        {"attn_only": True, "d_mlp": None, "act_fn": None, "normalization_type": None}
    )
    of = task(first=2, n=3)
    alone = interp.path_patch(model, of, ["L0H0", "L0H1", "L1H2"], ["L2H1.v"], **QUIET)["value"]
    both = interp.path_patch(model, of, [["L0H0", "L0H1", "L1H2"]], ["L2H1.v"], **QUIET)["value"]
    np.testing.assert_allclose(alone.sum("sender"), both[:, 0], atol=1e-12)
    chain = model.W_O[0, 0] @ model.W_V[2, 1] @ model.W_O[2, 1]  # the OV path from L0H0
    with torch.no_grad():
        (_, own), (_, other) = (model.run_with_cache(tokens) for tokens in (of.corrupt, of.clean))
        change = (other["z", 0] - own["z", 0])[:, :, 0] @ chain  # [prompt, key, d_model]
        rows = torch.arange(3)
        moved = torch.einsum("pk,pkd->pd", own["pattern", 2][rows, 1, of.positions], change)
        right = (moved * (model.W_U[:, of.answer] - model.W_U[:, of.wrong]).T).sum(-1)
    np.testing.assert_allclose(alone[:, 0, 0], right, atol=1e-12)
    assert float(right.abs().min()) > 1e-4


@HOOKED
def test_a_key_value_head_moves_its_whole_group() -> None:
    model, of = model_of(GATED), task(first=2, n=2)
    found = interp.path_patch(model, of, ["L0H2"], ["L2H1.k", "L2H1.v", "L2H2"], **QUIET)
    slow = Slow(model, of)
    c = slow.c([("attn.hook_z", 0, 2)], HEADS, set())
    for part in "kv":
        right = slow.effect([(part, 2, 1)], c)
        np.testing.assert_allclose(found["value"].sel(receiver=f"L2H1.{part}")[:, 0], right, atol=1e-11)
    head = [("q", 2, 2), ("k", 2, 1), ("v", 2, 1)]
    right = slow.effect(head, c)
    np.testing.assert_allclose(found["value"].sel(receiver="L2H2")[:, 0], right, atol=1e-11)
    with pytest.raises(ValueError, match=r"heads 2, 3 of layer 2 read key-value head 1. Ask for 'L2H1.k'"):
        interp.path_patch(model, of, ["L0H2"], ["L2H3.k"], **QUIET)


@pytest.mark.parametrize(("freeze", "batch_size"), [("heads", 1), ((), 5)])
def test_size_and_order_of_batches_leave_numbers(freeze: Any, batch_size: int) -> None:
    """Prompts of several lengths and positions, metrics that read everywhere."""
    model, full = small.model(), task()
    lengths, positions = torch.tensor([9, 7, 8, 9, 6, 9]), torch.tensor([8, 6, 5, 4, 5, 7])
    rows = [[t[i, : lengths[i]].tolist() for i in range(6)] for t in (full.clean, full.corrupt)]
    keep = {"answer": full.answer, "wrong": full.wrong, "positions": positions}
    of = interp.Task.from_tokens(clean=rows[0], corrupt=rows[1], **keep)
    names = ["L2H1.q", "L1H0.k", "MLP2", ["L1H2.v", "logits"]]
    options: dict[str, Any] = {"freeze": freeze, "metric": [LogitDiff(), KL(), Loss()], **QUIET}
    whole = interp.path_patch(model, of, ["L0H1", "L1H3", "MLP0"], names, **options)["value"]
    parts = interp.path_patch(
        model, of, ["MLP0", "L1H3", "L0H1"], names[::-1], batch_size=batch_size, **options
    )["value"]
    np.testing.assert_allclose(
        whole, parts.sel(sender=whole["sender"], receiver=whole["receiver"]), atol=1e-12
    )
    for prompt in (1, 4):
        alone = interp.path_patch(model, of[prompt], ["L0H1", "L1H3", "MLP0"], names, **options)["value"]
        np.testing.assert_allclose(whole[prompt], alone[0], atol=1e-12)
    assert float(abs(whole).max()) > 1e-3


def test_what_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """C runs no attention when heads are frozen; D none at or below the receiver's layer."""
    model, of = small.model(), task(first=2, n=2)
    layers: list[int] = []
    whole = block.attention

    def counting(attn: Any, layer: int, queries: Any, keys: Any, groups: Any, past: Any, tap: Any) -> Any:
        layers.extend([layer] if past is not None else [])
        return whole(attn, layer, queries, keys, groups, past, tap)

    interp.path_patch(model, of, "heads", ["L1H0.q", "L2H1.v"], **QUIET)  # the checks come with the first use
    monkeypatch.setattr("interp.engine.block.attention", counting)
    for receivers, expected in (("logits", []), ("L2H1.v", []), ("MLP1", [2]), ("L1H0.q", [2])):
        layers.clear()
        interp.path_patch(model, of, ["L0H1", "L0H3"], receivers, **QUIET)
        assert layers == expected, receivers
    layers.clear()
    interp.path_patch(model, of, "heads", ["L1H0.q", "L1H0.k", "L2H1.v"], **QUIET)
    assert layers == [2]  # one wavefront for all senders and receivers
    interp.path_patch(model, of, ["L0H1"], "L2H1.v", freeze=(), **QUIET)
    assert layers == [2, 0, 1]


def test_bad_input() -> None:
    model, of = small.model(), task()

    def call(senders: Any = "heads", receivers: Any = "L2H1.q", **options: Any) -> Any:
        return lambda: interp.path_patch(model, of, senders, receivers, **options, **QUIET)

    refused(model, [
        (call(["L2H0"], ["L1H0.q"]), "receiver 'L1H0.q' reads before L2H0 writes, so no path"),
        (call(["L0H1", "L2H0"], ["L1H0.q"]), "sender 'L2H0' writes after every receiver has read"),
        (call("heads", ["L2H1.q", "L0H0.v"]), "'L0H0.v' reads before any of the 12 senders writes"),
        (call(["L0H1"], freeze=["L0H1"]), "'L0H1' is a sender and is frozen as well"),
        (call(freeze=["L0H1"]), "'L0H1' is a sender and is frozen"),
        (call(freeze="head"), "names no place"),
        (call(["L0H1"], freeze=["L1.resid_pre"]), "cannot be frozen"),
        (call(sender_positions=9), "sender_positions: position 9 is outside prompt 0, which has 9 tokens"),
        (call(receiver_positions=[3, -10]), "receiver_positions: .*-10 counts from the end"),
        (call(receiver_positions="verb"), "receiver_positions: .*verb"),
        (call(["L0H1@9"]), "pos 9 is out of range"),
        (call(["L0H4"]), "head 4 is out of range"),
        (call(["L0H1.q"]), "is no sender"),
        (call(["logits"]), "is no sender"),
        (call(receivers=["L1.resid_pre"]), "is no receiver"),
        (call(receivers=[]), "receivers= names nothing"),
        (call([]), "senders= names nothing"),
        (call({"a": []}), "senders= names nothing"),
        (call(["L0H1", "L0H1"]), "'L0H1' is given twice"),
        (call(norm="freeze"), "norm 'freeze' is not one of exact, frozen; did you mean 'frozen'"),
        (call(combine="sum"), "combine 'sum' is not one of replace, add"),
        (call(norm="frozen", engine="reference"), "norm='frozen' computes"),
        (call(ablation="zero", direction="denoise"), "no denoising direction"),
    ])  # fmt: skip


@HOOKED
def test_queries_that_share_a_norm_are_refused() -> None:
    with pytest.raises(ValueError, match="norms the queries and keys of all heads together"):
        interp.path_patch(model_of("post-norm"), task(n=2), "heads", ["L2H1.q"], **QUIET)


def test_receivers_from_a_result() -> None:
    """The inputs of what was just found, each apart; the sender grid is drawn and tested like any other."""
    model = interp.load("tiny-ioi")
    of = interp.tasks.ioi(model, n=16, seed=0)
    heads = interp.patch(model, of, "z", **QUIET)
    best = max(
        ((layer, head) for layer in range(3) for head in range(4)),
        key=lambda at: abs(float(heads["value"].mean("prompt").sel(layer=at[0], head=at[1]))),
    )
    late = heads.sel(layer=[1, 2])
    found = interp.path_patch(model, of, "heads", late, top=1, **QUIET)
    names = [str(name) for name in found["receiver"].values]
    assert [name.partition(".")[2] for name in names] == ["q", "k", "v"]
    assert best[0] == 0 or names[0].startswith(f"L{best[0]}H{best[1]}")
    tested = interp.stats.test(found)
    assert tested.attrs["family"] == int(found["reachable"].sum())
    assert float(abs(found["value"]).max()) > 0.1
    figure = interp.plot.heads(found)
    assert [note.text for note in figure.layout.annotations if note.text.startswith("<b>L")] == [
        f"<b>{name}</b>" for name in names
    ]
    with pytest.raises(ValueError, match="does not say which inputs are meant"):
        interp.path_patch(model, of, "heads", interp.patch(model, of[:2], "resid_pre", **QUIET), **QUIET)


def test_positions_by_name() -> None:
    """A span stands elsewhere in every prompt; a prompt without it has no value."""
    model, of = small.model(), task()
    at = [3, 5, None, 4, 6, 8]
    named = dataclasses.replace(of, spans={"verb": torch.tensor([[p == q for q in range(9)] for p in at])})
    found = interp.path_patch(model, named, ["L0H1"], "L2H1.v", sender_positions="verb", **QUIET)
    assert found["value"].isnull().values.ravel().tolist() == [each is None for each in at]
    assert found.attrs["prompts_without_positions"] == 1
    for prompt, pos in enumerate(at):
        if pos is not None:
            alone = interp.path_patch(model, of[prompt], [f"L0H1@{pos}"], "L2H1.v", **QUIET)
            np.testing.assert_allclose(found["value"][prompt], alone["value"][0], atol=1e-12)
    assert float(abs(found["value"]).max()) > 1e-4
