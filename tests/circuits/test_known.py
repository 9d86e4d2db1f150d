"""Known circuits, counted again: each count comes out of the rules, and each rule matters to it."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from test_import import modules_after

from interp.circuits import Circuit, Graph, known, known_names
from interp.circuits._known import PUBLISHED, RULES, facts
from interp.files import data_dir
from interp.models import handmade

COUNTS = {  # heads, edges, edges in ACDC's count, edges of the graph, of ACDC's graph
    "ioi-gpt2": (26, 963, 1_041, 32_491, 32_923),
    "greater-than-gpt2": (9, 235, 262, 32_491, 32_923),
    "docstring-attn-only-4l": (6, 24, 37, 1_281, 1_377),
}
IOI = {
    "name mover": "9.9 10.0 9.6",
    "backup": "10.10 10.6 10.2 10.1 11.2 9.7 9.0 11.9",
    "negative": "10.7 11.10",
    "s": "7.3 7.9 8.6 8.10",
    "induction": "5.5 5.8 5.9 6.9",
    "duplicate": "0.1 0.10 3.0",
    "previous": "2.2 4.11",
}


def layers(group: str) -> list[int]:
    return [int(head.split(".")[0]) for head in IOI[group].split()]


def later(first: str, then: str) -> int:
    """Pairs of heads of two groups in which the first is in an earlier layer."""
    return sum(a < b for a in layers(first) for b in layers(then))


def ends(circuit: Circuit) -> set[tuple[str, str]]:
    return {(edge.split("->")[0], edge.split("->")[1]) for edge in circuit.edges()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts(name: str) -> None:
    circuit = known(name)
    whole = Circuit(circuit.graph, circuit.graph.allowed)
    counts = (circuit.n_edges, circuit.n_edges_acdc, whole.n_edges, whole.n_edges_acdc)
    assert (len(circuit.heads()), *counts) == COUNTS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_readme_gives_these_counts(name: str) -> None:
    heads, edges, acdc, whole, whole_acdc = COUNTS[name]
    table = (data_dir() / "circuits" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
    assert row.endswith(f"| {heads} | {edges:,} of {whole:,} | {acdc:,} of {whole_acdc:,} |")


def test_ioi_by_its_sizes() -> None:
    """The same count from group sizes and layers alone, without a graph."""
    every = [layer for group in IOI for layer in layers(group)]
    movers, mlps = ("name mover", "backup", "negative"), 12
    stream = mlps + 1 + mlps * (mlps - 1) // 2 + mlps  # input to MLPs and logits, MLPs to MLPs, to logits
    with_mlps = sum(3 * layer + (mlps - layer) for layer in every)
    to_heads = (
        3 * (3 + 2) + 4 + 2 * (3 + 8 + 2)
    )  # input to duplicate and previous, to S-inhibition, to movers
    heads = 2 * later("previous", "induction") + 2 * later("induction", "s") + 2 * later("duplicate", "s")
    heads += sum(later("s", group) for group in movers)
    to_logits = sum(len(layers(group)) for group in movers)
    assert stream + with_mlps + to_heads + heads + to_logits == known("ioi-gpt2").n_edges


def test_ioi_has_the_heads_of_the_paper() -> None:
    expected = {"a{}.h{}".format(*head.split(".")) for group in IOI.values() for head in group.split()}
    assert set(known("ioi-gpt2").heads()) == expected


def test_ioi_connects_the_groups_as_the_paper_says() -> None:
    found = ends(known("ioi-gpt2"))
    assert {("a8.h6", "a9.h9<q>"), ("a5.h5", "a7.h3<k>"), ("a2.h2", "a5.h5<v>"), ("m4", "a9.h9<v>")} <= found
    absent = {("a8.h6", "a9.h9<k>"), ("input", "a5.h5<q>"), ("a5.h5", "logits"), ("a9.h9", "a10.h0<q>")}
    assert not absent & found
    assert {(a, b) for a, b in found if a in ("a4.h11", "a6.h9") and not b.startswith("m")} == {
        *(("a4.h11", f"a5.h{head}<{part}>") for head in (5, 8, 9) for part in "kv"),
        *(("a4.h11", f"a6.h9<{part}>") for part in "kv"),
        *(("a6.h9", f"a7.h{head}<{part}>") for head in (3, 9) for part in "kv"),
        *(("a6.h9", f"a8.h{head}<{part}>") for head in (6, 10) for part in "kv"),
    }


def test_greater_than_by_its_parts() -> None:
    middle = (5, 6, 6, 7, 8, 9)
    to_middle = 3 * 3 * 6 + 4 * 3 * 6  # three early heads and four early MLPs, all inputs
    queries = sum(layer - 4 for layer in middle)  # MLPs before the head that are not among the early ones
    stream = 2 * 3 + 3 + 4  # input to the early heads and MLPs
    mlps = 9 * 8 // 2 + 4 * 3 // 2  # those before the last middle head, the late ones; m8 is in both
    late = sum(sum(layer <= mlp for mlp in (8, 9, 10, 11)) for layer in middle)
    to_logits = 6 + 4
    assert stream + 4 + to_middle + queries + mlps + late + to_logits == known("greater-than-gpt2").n_edges


def test_docstring_edge_by_edge() -> None:
    expected = {
        *(("input", reader) for reader in ("a0.h5<v>", "a1.h4<v>", "a1.h2<q>", "a1.h2<k>")),
        *(("input", reader) for reader in ("a2.h0<q>", "a2.h0<k>", "a3.h0<v>", "a3.h6<v>")),
        *(("a0.h5", reader) for reader in ("a1.h4<v>", "a1.h2<q>", "a1.h2<k>", "a2.h0<q>", "a2.h0<k>")),
        *(("a0.h5", reader) for reader in ("a3.h0<v>", "a3.h6<v>")),
        *(("a1.h4", reader) for reader in ("a2.h0<v>", "a3.h0<q>", "a3.h6<q>")),
        *((head, reader) for head in ("a1.h2", "a2.h0") for reader in ("a3.h0<k>", "a3.h6<k>")),
        *((head, "logits") for head in ("a3.h0", "a3.h6")),
    }
    assert ends(known("docstring-attn-only-4l")) == expected


def rebuilt(name: str, stated: dict[str, Any]) -> Circuit:
    graph = Graph(**stated["graph"])
    return Circuit(graph, RULES[name](graph, stated))


CONNECTIONS = [(name, i) for name in PUBLISHED for i in range(len(facts(name)["connections"]))]


@pytest.mark.parametrize(("name", "number"), CONNECTIONS)
def test_every_connection_counts(name: str, number: int) -> None:
    stated = facts(name)
    dropped = stated["connections"].pop(number)
    less = rebuilt(name, stated)
    assert less.n_edges < COUNTS[name][1], dropped
    assert (less - known(name)).n_edges == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_head_counts(name: str) -> None:
    stated = facts(name)
    groups = stated["groups"]
    members = [(group, node) for group, nodes in groups.items() for node in nodes]
    assert len({node for _, node in members}) == len(members)
    for group, node in members:
        changed = copy.deepcopy(stated)
        changed["groups"][group].remove(node)
        assert rebuilt(name, changed).n_edges < COUNTS[name][1], node


def test_whole_queries_count() -> None:
    stated = facts("greater-than-gpt2") | {"whole_queries": "early heads"}
    assert rebuilt("greater-than-gpt2", stated).n_edges < 235


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_head_lies_on_a_path_from_input_to_logits(name: str) -> None:
    import networkx

    made = known(name).to_networkx()
    for head in known(name).heads():
        assert networkx.has_path(made, "input", head)
        assert networkx.has_path(made, head, "logits")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_circuit_says_where_it_comes_from(name: str) -> None:
    circuit = known(name)
    assert (circuit.name, circuit.provenance["method"]) == (name, "published")
    assert circuit.provenance["model"] == name.split("-", 1 if name.startswith(("ioi", "doc")) else 2)[-1]
    assert re.search(r"arXiv:2304\.14997", str(circuit.provenance["source"]))
    assert {"about", "licence"} <= set(facts(name))


def test_the_files_are_those_of_the_list() -> None:
    found = {path.stem for path in (data_dir() / "circuits").glob("*.json")}
    assert found == set(PUBLISHED) == set(RULES)
    for name in PUBLISHED:
        path = data_dir() / "circuits" / f"{name}.json"
        assert json.loads(path.read_text(encoding="utf-8"))["name"] == name


@pytest.mark.parametrize("name", handmade.NAMES)
def test_handmade_circuits_are_their_truths(name: str) -> None:
    for ablation in ("resample", "zero", "mean"):
        circuit = known(name, ablation=ablation)
        assert sorted(circuit.edges()) == sorted(handmade.truth(name, ablation))
        assert circuit.n_edges > 0
        assert circuit.provenance == {"method": "by construction", "model": name, "ablation": ablation}
    assert known(name).provenance["ablation"] == "resample"


def test_names_that_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"'ioi' is no known circuit.*Known: ioi-gpt2, .*reverse"):
        known("ioi")
    with pytest.raises(ValueError, match="did you mean 'greater-than-gpt2'"):
        known("greaterthan-gpt2")
    with pytest.raises(ValueError, match=r"'noise'.*resample"):
        known("reverse", ablation="noise")
    with pytest.raises(ValueError, match="'ioi-gpt2' is one circuit, not one for each ablation"):
        known("ioi-gpt2", ablation="zero")
    assert known_names() == (*PUBLISHED, *handmade.NAMES)


def test_listing_the_names_loads_no_torch() -> None:
    loaded = modules_after("import interp; interp.circuits.known_names()")
    assert "interp.models.handmade" in loaded
    assert loaded.isdisjoint(("torch", "transformer_lens", "networkx", "numpy"))
