"""Circuits as files in the layout of EAP-IG and MIB: both ways, other programs' files, and bad ones."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import EDGES, GRAPHS, PLAIN, drawn, small_circuit

from interp.circuits import Circuit, Graph


def saved(circuit: Circuit, folder: Path) -> dict[str, Any]:
    return json.loads(circuit.save(folder / "c.json").read_text(encoding="utf-8"))


def written(folder: Path, data: Any) -> Path:
    path = folder / "changed.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_load_inverts_save(graph: Graph, dtype: torch.dtype | None, tmp_path: Path) -> None:
    circuit = drawn(graph, 2, dtype=dtype)
    for again in (
        Circuit.load(circuit.save(tmp_path / "c.json")),
        Circuit.load(tmp_path / "c.json", graph),
    ):
        assert (again.graph, again.graph.d_model) == (graph, graph.d_model)
        assert torch.equal(again.mask, circuit.mask)
        assert (again.name, again.provenance) == (circuit.name, circuit.provenance)
        assert 0 < again.n_edges < graph.n_edges
        assert (again.scores is None) == (dtype is None)
        if circuit.scores is not None and again.scores is not None:
            assert again.scores.dtype == dtype
            exact = {"rtol": 0, "atol": 0} if dtype == torch.float32 or graph.group < 3 else {}
            torch.testing.assert_close(again.scores, circuit.scores, equal_nan=True, **exact)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_files_have_the_layout_of_eap_ig(tmp_path: Path) -> None:
    """What the Graph.from_json of EAP-IG reads: its cfg, its names, a number for every score."""
    circuit = drawn(PLAIN, 2, dtype=torch.float32)
    data = saved(circuit, tmp_path)
    theirs = {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 24}
    assert data["cfg"] == theirs | {"attn_only": False, "n_key_value_heads": 4}
    assert list(data["nodes"]) == list(PLAIN.nodes)
    assert [node for node, facts in data["nodes"].items() if facts == {"in_graph": True}] == circuit.nodes()
    assert len(data["edges"]) == PLAIN.n_edges
    assert {edge for edge, facts in data["edges"].items() if facts["in_graph"]} == set(circuit.edges())
    assert circuit.scores is not None
    for edge, facts in data["edges"].items():
        assert facts["score"] == float(circuit.scores[PLAIN.edge(edge)]) != 0
    assert {facts["score"] for facts in saved(small_circuit(), tmp_path)["edges"].values()} == {0.0}


def test_shared_keys_are_written_head_by_head(tmp_path: Path) -> None:
    graph = Graph(2, 4, 2)
    edge = graph.edge("m0->a1.h1<k>")
    mask = torch.zeros_like(graph.allowed)
    mask[edge] = True
    scores = torch.zeros(mask.shape)
    scores[edge] = 3.0
    data = saved(Circuit(graph, mask, scores), tmp_path)
    kept = {name: facts["score"] for name, facts in data["edges"].items() if facts["in_graph"]}
    assert kept == {"m0->a1.h2<k>": 1.5, "m0->a1.h3<k>": 1.5}
    assert len(data["edges"]) == Graph(2, 4).n_edges


def foreign(circuit: Circuit, folder: Path) -> dict[str, Any]:
    """The file as another program would write it."""
    data = saved(circuit, folder)
    del data["interp"], data["cfg"]["attn_only"], data["cfg"]["n_key_value_heads"]
    return data


def test_a_file_of_another_program(tmp_path: Path) -> None:
    circuit = drawn(PLAIN, 4, dtype=torch.float32)
    again = Circuit.load(written(tmp_path, foreign(circuit, tmp_path)), PLAIN)
    assert torch.equal(again.mask, circuit.mask)
    assert circuit.scores is not None
    assert again.scores is not None
    assert torch.equal(again.scores.nan_to_num(), circuit.scores.nan_to_num())
    assert (again.name, again.provenance) == ("changed", {"file": "changed.json"})


def test_a_file_of_the_first_eap_ig(tmp_path: Path) -> None:
    circuit = drawn(PLAIN, 4)
    data = foreign(circuit, tmp_path)
    del data["cfg"]["d_model"]
    data["nodes"] = {node: facts["in_graph"] for node, facts in data["nodes"].items()}
    for facts in data["edges"].values():
        facts["score"] = None
    again = Circuit.load(written(tmp_path, data))
    assert torch.equal(again.mask, circuit.mask)
    assert again.scores is None
    assert again.graph.d_model is None
    data["edges"][circuit.edges()[0]]["score"] = -2
    scores = Circuit.load(written(tmp_path, data)).scores
    assert scores is not None
    assert scores[PLAIN.edge(circuit.edges()[0])] == -2
    assert int(scores.isnan().sum()) == scores.numel() - 1


def test_edges_that_a_file_leaves_out_are_cut(tmp_path: Path) -> None:
    data = foreign(drawn(PLAIN, 4, dtype=torch.float32), tmp_path)
    data["edges"] = {name: data["edges"][name] | {"in_graph": True} for name in EDGES}
    assert sorted(Circuit.load(written(tmp_path, data)).edges()) == sorted(EDGES)


def test_keys_named_head_by_head_are_put_together_where_the_graph_shares_them(tmp_path: Path) -> None:
    single, grouped = Graph(2, 4), Graph(2, 4, 2)
    data = foreign(drawn(single, 5, dtype=torch.float64), tmp_path)
    for name in data["edges"]:
        data["edges"][name]["in_graph"] = "h3" in name or "h2" in name.split("->")[1]
    path = written(tmp_path, data)
    assert Circuit.load(path).graph == single
    circuit = Circuit.load(path, grouped)
    assert circuit.graph == grouped
    kept = set(circuit.edges())
    assert {"input->a1.h1<k>", "input->a1.h1<v>", "input->a1.h2<q>", "input->a1.h3<q>"} <= kept
    assert "input->a1.h0<k>" not in kept
    assert circuit.scores is not None
    for writer, part in itertools.product(("input", "m0"), "kv"):
        parts = [data["edges"][f"{writer}->a1.h{head}<{part}>"]["score"] for head in (2, 3)]
        score = float(circuit.scores[grouped.edge(f"{writer}->a1.h1<{part}>")])
        assert score == pytest.approx(sum(parts), abs=1e-6)
    data["edges"]["m0->a1.h2<k>"]["in_graph"] = False
    with pytest.raises(ValueError, match=r"edges m0->a1\.h2<k>, m0->a1\.h3<k> are one edge"):
        Circuit.load(written(tmp_path, data), grouped)


@pytest.mark.parametrize(
    "graph", [Graph(4, 4), Graph(3, 2), Graph(3, 4, parallel=True), Graph(3, 4, attn_only=True)], ids=str
)
def test_a_circuit_of_another_model(graph: Graph, tmp_path: Path) -> None:
    path = small_circuit().save(tmp_path / "c.json")
    with pytest.raises(
        ValueError, match=r"another model: 3 layers of 4 heads, d_model 24; the graph given has"
    ):
        Circuit.load(path, graph)


def test_a_circuit_of_a_model_of_another_width(tmp_path: Path) -> None:
    path = small_circuit().save(tmp_path / "c.json")
    assert Circuit.load(path, Graph(3, 4)).n_edges == 5
    with pytest.raises(ValueError, match=r"d_model 24; the graph given has 3 layers of 4 heads, d_model 32"):
        Circuit.load(path, Graph(3, 4, d_model=32))


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = small_circuit().save(tmp_path / "c.json")
    text = path.read_text(encoding="utf-8")
    for end in (0, 1, len(text) // 3, len(text) - 1):
        path.write_text(text[:end], encoding="utf-8")
        with pytest.raises(ValueError, match=r"c\.json is cut short or is not JSON"):
            Circuit.load(path)


def test_a_file_that_is_missing_or_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        Circuit.load(tmp_path / "none.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        Circuit.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [1, 2], r"another kind of JSON: .*; the file has list"),
        (lambda d: {"links": [], "nodes": []}, r"another kind of JSON: .* the file has links, nodes"),
        (lambda d: d | {"edges": list(d["edges"])}, "another kind of JSON"),
        (lambda d: d | {"cfg": {"n_layers": 3}}, "cfg must give n_layers and n_heads as whole numbers"),
        (lambda d: d | {"cfg": d["cfg"] | {"n_heads": "4"}}, "as whole numbers"),
        (lambda d: d | {"cfg": d["cfg"] | {"parallel_attn_mlp": "no"}}, "as true or false"),
        (
            lambda d: d | {"cfg": d["cfg"] | {"n_layers": 2}},
            r"'a2\.h0' is not in the graph that cfg describes",
        ),
        (lambda d: d | {"nodes": {"b0": {"in_graph": True}}}, r"node 'b0' is not in the graph"),
        (lambda d: d | {"edges": {"m2->m0": {"score": 0, "in_graph": True}}}, "m2 writes after m0"),
        (lambda d: d | {"edges": {"x->m0": {"score": 0, "in_graph": True}}}, "'x' is no writer"),
        (lambda d: d | {"edges": {"m0->m1": True}}, r"edge 'm0->m1' is true; it must be"),
        (lambda d: d | {"edges": {"m0->m1": {"score": 1}}}, r"edge 'm0->m1' is .*it must be"),
        (lambda d: d | {"edges": {"m0->m1": {"score": "1", "in_graph": True}}}, "it must be"),
        (lambda d: d | {"edges": {"m0->m1": {"score": True, "in_graph": True}}}, "it must be"),
        (lambda d: d | {"neurons": {"m0": [True, False]}}, "circuit of single neurons"),
        (lambda d: d | {"nodes": {"m0": {"in_graph": True, "neurons": [1, 0]}}}, "circuit of single neurons"),
    ],
)
def test_a_file_of_another_schema(change: Any, message: str, tmp_path: Path) -> None:
    data = foreign(drawn(PLAIN, 1), tmp_path)
    assert Circuit.load(written(tmp_path, data)).n_edges > 0
    path = written(tmp_path, change(data))
    with pytest.raises(ValueError, match=message) as caught:
        Circuit.load(path)
    assert str(path) in str(caught.value)


def test_what_cannot_be_saved_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = small_circuit().save(tmp_path / "c.json")
    before = path.read_bytes()
    infinite = Circuit(PLAIN, PLAIN.allowed, torch.full((16, 40), math.inf))
    stacked = Circuit(PLAIN, PLAIN.allowed.expand(3, -1, -1))
    odd = small_circuit()
    odd.provenance["seed"] = np.int64(1)  # type: ignore[assignment]
    unknown = Circuit(PLAIN, PLAIN.allowed, provenance={"threshold": math.nan}, name="unknown")
    reasons = (
        "infinite scores",
        "3 positions",
        "provenance of 'five' holds",
        "'unknown' holds what JSON cannot",
    )
    for circuit, reason in zip((infinite, stacked, odd, unknown), reasons):
        with pytest.raises(ValueError, match=reason):
            circuit.save(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="is a folder"):
        odd.save(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["c.json"]


def test_a_disk_that_fails_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = small_circuit().save(tmp_path / "c.json")
    before = path.read_bytes()
    whole = Path.write_text

    def half(self: Path, text: str, **kind: Any) -> int:
        whole(self, text[: len(text) // 2], **kind)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        drawn(PLAIN).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["c.json"]
