"""Numbers that would be wrong without a word, and files that would do harm: each is an error that says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import masks as M
import numpy as np
import pytest
import small
import torch
from model_folders import needs_hooked

import interp
from interp import circuits
from interp.circuits import Circuit, Graph
from interp.tasks import Custom, LogitDiff, Task

QUIET = {"progress": False}


# --- edges of models whose blocks are not plain


REFUSED = {
    ("granite", ""): "scales what its layers write",
    ("olmo2", ""): "norms what attention and MLPs write",
    **{(family, "secant"): "hands over its pattern" for family in ("opt", "gptj")},
}


@pytest.mark.parametrize("method", ["eap", "eap-ig", "relp", "secant", "exact"])
@pytest.mark.parametrize("family", ["gptj", "phi", "gemma", "olmo", "olmo2", "granite", "opt"])
def test_edges_are_right_or_refused(family: str, method: str) -> None:
    """The edges out of the input add up to the attribution of the stream before the first block."""
    model, task = small.bridge(family), M.task()
    if (family, method) in REFUSED or (family, "") in REFUSED:
        with pytest.raises(ValueError, match=REFUSED.get((family, method), REFUSED.get((family, "")))):
            circuits.score_edges(model, task, method=method, **QUIET)
        return
    found = circuits.score_edges(model, task, method=method, **QUIET)["value"]
    assert float(abs(found).max()) > 1e-3
    if method in ("eap", "relp", "secant"):
        total = found.sel(writer="input").sum("reader")
        name = {"eap": "atp"}.get(method, method)
        stream = interp.attribute(model, task, "resid_pre", method=name, direction="noise", **QUIET)["value"]
        np.testing.assert_allclose(total, stream.sel(layer=0).sum("pos"), atol=2e-4)
    if method == "exact":
        graph = Graph.of(model)
        edge = int(np.nanargmax(abs(found.values[0])))
        mask = graph.allowed.clone()
        mask.view(-1)[edge] = False
        cut = circuits.run(model, task, mask[None], **QUIET)
        effect = (cut["clean"] - cut["raw"].isel(circuit=0)).values
        np.testing.assert_allclose(found.values.reshape(len(task), -1)[:, edge], effect, atol=1e-4)


@needs_hooked
def test_attention_both_ways_is_refused() -> None:
    """In one sentence, before any pass: what a later position writes reaches an earlier one."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=16, d_head=8, n_heads=2, n_ctx=6, d_vocab=20, attn_only=True,
        normalization_type=None, attention_dir="bidirectional", seed=0, initializer_range=0.5,
    )  # fmt: skip
    model = HookedTransformer(config).double().eval()
    task = Task.from_tokens(
        clean=[[1, 2, 3, 4]], corrupt=[[1, 2, 9, 4]], answer=[5], wrong=[6], positions=[0]
    )
    for call in (circuits.score_edges, circuits.exact, partial(circuits.acdc, threshold=0.1)):
        with pytest.raises(ValueError, match="its attention is not causal"):
            call(model, task, **QUIET)


# --- numbers that are none


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_metric_that_is_not_a_number_decides_nothing(number: float) -> None:
    """Before, acdc kept every edge and train_mask gave a circuit."""
    model, task = M.tiny(), M.task()
    broken = Custom(lambda reading: reading.logits.sum(-1) * 0 + number, name="broken", better="higher")
    late = Custom(
        lambda reading: (reading.logits - reading.clean).abs().sum(-1).log() + reading.logits.sum(-1) * 0,
        name="late",
        better="lower",
    )
    for metric in (broken, late):
        with pytest.raises(ValueError, match=f"metric '{metric.name}' is -?(nan|inf)"):
            circuits.acdc(model, task, 0.1, metric=metric, **QUIET)
        with pytest.raises(ValueError, match=f"metric '{metric.name}' is -?(nan|inf)"):
            circuits.evaluate(model, task, Circuit(Graph.of(model), Graph.of(model).allowed), metric=metric)
    with pytest.raises(ValueError, match=r"metric 'broken' is -?(nan|inf)"):
        circuits.train_mask(model, task, 0.5, metric=broken, steps=5, **QUIET)


def test_a_slope_that_is_not_a_number_scores_nothing() -> None:
    model, task = M.tiny(), M.task()
    edge = Custom(lambda reading: (reading.logits.sum(-1) * 0).sqrt(), name="edge", better="higher")
    with pytest.raises(ValueError, match=r"slope of the metric at .* is not finite"):
        circuits.score_edges(model, task, metric=edge, **QUIET)
    with pytest.raises(ValueError, match="slope of edge in the gates is not finite in step 0"):
        circuits.train_mask(model, task, 0.5, metric=edge, steps=5, **QUIET)


# --- one file, two processes

SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import masks
from interp import circuits
from interp.stores import LogStore
append = LogStore.append
def slow(self, line):
    append(self, line)
    print("batch", flush=True)
    time.sleep(60)
LogStore.append = slow
circuits.acdc(masks.tiny(), masks.task(), 0.002, store={path!r}, progress=False)
"""


def test_a_second_acdc_on_one_file_is_refused(tmp_path: Path) -> None:
    """With the first one's process and host; the file stays whole, and the search can go on after it."""
    path, here = tmp_path / "acdc.jsonl", Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parent.parent)]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(paths=paths, path=str(path))]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "batch"
        before = path.read_bytes()
        with pytest.raises(ValueError, match=rf"is being written by process {child.pid} on "):
            circuits.acdc(M.tiny(), M.task(), 0.002, store=path, **QUIET)
        assert path.read_bytes() == before
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    resumed = circuits.acdc(M.tiny(), M.task(), 0.002, store=path, **QUIET)
    whole = circuits.acdc(M.tiny(), M.task(), 0.002, **QUIET)
    assert resumed.edges() == whole.edges()
    np.testing.assert_array_equal(resumed.scores, whole.scores)


# --- rows that are alike


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_clean_rows_that_equal_their_corrupt_ones_can_be_ablated(ablation: str) -> None:
    """Zero and mean need no difference between the two; neither do they need corrupt prompts at all."""
    model, other = small.model(), M.task()
    rows = {name: getattr(other, name) for name in ("clean", "answer", "wrong")}
    same = Task.from_tokens(**rows, corrupt=other.clean, positions=other.positions)
    none = Task.from_tokens(**rows, corrupt=None, positions=other.positions)
    masks = M.drawn(Graph.of(model), 3)
    found = [M.raw(model, task, masks, ablation) for task in (same, none)]
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)
    assert (found[0] - M.plain(model, same, same.clean)).abs().max() > 1e-3
    for method in ("eap", "exact"):
        scores = circuits.score_edges(model, same, method=method, ablation=ablation, **QUIET)["value"]
        assert float(abs(scores).max()) > 1e-3


# --- precision


def test_acdc_in_half_precision_says_what_it_can_decide() -> None:
    model = interp.load("tiny-ioi", dtype="bfloat16")
    task = interp.tasks.ioi(model, n=4)
    with pytest.warns(UserWarning, match=r"in bfloat16 a loss .*rounding decides"):
        fine = circuits.acdc(model, task, 1e-4, **QUIET)
    assert float(fine.provenance["resolution"]) > 1e-3
    assert int(fine.provenance["n_ties"]) > 0
    coarse = circuits.acdc(model, task, 1.0, metric=LogitDiff(), **QUIET)
    assert "bfloat16" in str(coarse.provenance["precision"])
    single = interp.load("tiny-ioi")
    assert circuits.acdc(single, task, 0.1, **QUIET).provenance["resolution"] == 1e-6


def test_under_autocast_edges_are_refused() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=2)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="autocast is on"):
        circuits.score_edges(model, task, **QUIET)


# --- files


def written(tmp_path: Path, change: Any) -> Path:
    graph = Graph(n_layers=1, n_heads=1, attn_only=True)
    path = Circuit(graph, graph.allowed, torch.ones(graph.allowed.shape), {"method": "made"}).save(
        tmp_path / "circuit.json"
    )
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def _deep(data: dict) -> None:
    data["cfg"]["n_layers"] = 10**9


HOSTILE = {
    "a billion layers": (_deep, "1,000,000,000 layers .* do not belong together"),
    "a billion heads": (
        lambda d: d["cfg"].update(n_heads=10**9, n_key_value_heads=1),
        "do not belong together",
    ),
    "a huge score": (
        lambda d: next(iter(d["edges"].values())).update(score=10**400),
        "score of edge .* beyond what a number can hold",
    ),
    "an infinite score": (
        lambda d: next(iter(d["edges"].values())).update(score=float("inf")),
        "beyond what a number can hold",
    ),
    "a list for provenance": (lambda d: d["interp"].update(provenance=["a"]), "the provenance is a list"),
    "lists in provenance": (lambda d: d["interp"].update(provenance={"a": [1]}), "or holds lists"),
    "a number for a name": (lambda d: d["interp"].update(name=3), "names the circuit 3"),
    "a number for neurons": (lambda d: d["nodes"].update({"input": {"neurons": 5}}), "single neurons"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_a_moment(tmp_path: Path, what: str) -> None:
    change, message = HOSTILE[what]
    path = written(tmp_path, change)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as refused:
        Circuit.load(path)
    assert str(path) in str(refused.value)
    assert time.perf_counter() - start < 5


def test_text_that_is_no_json_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "circuit.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        Circuit.load(path)
    for encoding in ("utf-16", "latin-1"):
        path.write_bytes('{"cfg": "é"}'.encode(encoding))
        with pytest.raises(ValueError, match=r"circuit\.json is not text in UTF-8"):
            Circuit.load(path)
