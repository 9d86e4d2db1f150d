"""The graph: which edges there are, how many, and what is said of one that does not exist."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import architectures
import naive
import pytest
import small
import torch

from interp.circuits import Graph

SHAPES = [
    Graph(layers, heads, shared, attn_only=only, parallel=parallel)
    for layers, (heads, shared), only, parallel in itertools.product(
        (1, 2, 3), ((1, 1), (4, 4), (4, 2), (6, 1)), (False, True), (False, True)
    )
]
SERIAL, PARALLEL, ATTENTION = Graph(3, 4), Graph(3, 4, parallel=True), Graph(3, 4, attn_only=True)
GROUPED = Graph(3, 8, 2)


def names_of(graph: Graph) -> list[str]:
    return [graph.name(*edge) for edge in graph.allowed.nonzero().tolist()]


def test_gpt2_small_has_32491_edges() -> None:
    gpt2 = Graph(12, 12)
    assert gpt2.n_edges == 32_491
    assert (len(gpt2.writers), len(gpt2.readers)) == (1 + 12 * 13, 12 * 37 + 1)


def test_counts_made_by_hand() -> None:
    # input writes to q, k, v, m0, logits; a0.h0 to m0, logits; m0 to logits
    assert names_of(Graph(1, 1)) == [
        *(f"input->{reader}" for reader in ("a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits")),
        *("a0.h0->m0", "a0.h0->logits", "m0->logits"),
    ]
    assert Graph(1, 1, parallel=True).n_edges == 7  # a0.h0->m0 is gone
    assert Graph(1, 1, attn_only=True).n_edges == 5
    assert Graph(1, 4, 2).n_edges == (4 + 2 + 2) + 5 + 6  # to queries, keys and values; to m0; to logits
    assert Graph(4, 8, attn_only=True).n_edges == 24 * (1 + 9 + 17 + 25) + 33 == 1_281


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_edges_are_those_of_the_naive_list(graph: Graph) -> None:
    sizes = {size: getattr(graph, size) for size in ("n_layers", "n_heads", "n_key_value_heads", "attn_only")}
    model = SimpleNamespace(cfg=SimpleNamespace(**sizes, parallel_attn_mlp=graph.parallel))
    expected = naive.edges(model)
    assert sorted(names_of(graph)) == sorted(expected)
    assert graph.n_edges == len(set(expected)) == int(graph.allowed.sum())


@pytest.mark.parametrize("graph", [SERIAL, PARALLEL, ATTENTION, GROUPED], ids=str)
def test_edge_inverts_name(graph: Graph) -> None:
    for writer, reader in graph.allowed.nonzero().tolist():
        name = graph.name(writer, reader)
        assert graph.edge(name) == (writer, reader)
        assert name == f"{graph.writers[writer]}->{graph.readers[reader]}"


@pytest.mark.parametrize("graph", SHAPES, ids=str)
def test_a_writer_reaches_everything_after_it_and_nothing_before(graph: Graph) -> None:
    """Order of the forward pass, by walking through it and letting each part see what has been written."""
    written, walk = {"input"}, {}
    for layer in range(graph.n_layers):
        attention = [r for r in graph.readers if r.startswith(f"a{layer}.")]
        heads = {w for w in graph.writers if w.startswith(f"a{layer}.")}
        walk |= dict.fromkeys(attention, frozenset(written))
        before_mlp = written if graph.parallel else written | heads
        walk |= {} if graph.attn_only else {f"m{layer}": frozenset(before_mlp)}
        written |= heads | (set() if graph.attn_only else {f"m{layer}"})
    walk["logits"] = frozenset(written)
    seen = {
        reader: frozenset(itertools.compress(graph.writers, graph.allowed[:, column].tolist()))
        for column, reader in enumerate(graph.readers)
    }
    assert seen == walk


def test_readers_stand_in_the_order_of_the_contract() -> None:
    assert Graph(2, 2, 1).readers == (
        *("a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h0<v>", "m0"),
        *("a1.h0<q>", "a1.h1<q>", "a1.h0<k>", "a1.h0<v>", "m1", "logits"),
    )
    assert Graph(2, 2, attn_only=True).writers == ("input", "a0.h0", "a0.h1", "a1.h0", "a1.h1")


def test_owners_of_a_shared_key_are_the_heads_of_its_group() -> None:
    owners = GROUPED.owners
    assert owners.shape == (len(GROUPED.readers), len(GROUPED.nodes))
    row = owners[GROUPED.readers.index("a1.h1<k>")]
    assert [GROUPED.nodes[i] for i in row.nonzero().flatten()] == [f"a1.h{head}" for head in range(4, 8)]
    assert torch.equal(SERIAL.owners.sum(1), torch.ones(len(SERIAL.readers), dtype=torch.long))
    assert [SERIAL.nodes[i] for i in SERIAL.owners.int().argmax(1)] == [
        r.split("<")[0] for r in SERIAL.readers
    ]


def test_graph_of_a_model() -> None:
    assert Graph.of(architectures.build({})) == Graph(3, 4)
    assert Graph.of(architectures.build({"n_key_value_heads": 2})) == Graph(3, 4, 2)
    assert Graph.of(architectures.build({"parallel_attn_mlp": True})) == Graph(3, 4, parallel=True)
    only = Graph.of(architectures.build({"attn_only": True, "d_mlp": None, "act_fn": None}))
    assert only == Graph(3, 4, attn_only=True)
    assert only.d_model == 24


@pytest.mark.parametrize(
    ("family", "graph"),
    [("gpt2", Graph(3, 4)), ("llama", Graph(3, 4, 2)), ("neox", Graph(3, 4, parallel=True))],
)
def test_graph_of_a_bridge(family: str, graph: Graph) -> None:
    assert Graph.of(small.bridge(family)) == graph


def test_sizes_that_make_no_model() -> None:
    with pytest.raises(ValueError, match="4 heads cannot share 3 key-value heads evenly"):
        Graph(2, 4, 3)
    with pytest.raises(ValueError, match="n_layers is 0"):
        Graph(0, 4)
    with pytest.raises(ValueError, match="n_heads is -1"):
        Graph(2, -1)


def test_parallel_means_nothing_without_mlps() -> None:
    assert Graph(2, 2, attn_only=True, parallel=True) == Graph(2, 2, attn_only=True)
    assert Graph(2, 2, parallel=True) != Graph(2, 2)


@pytest.mark.parametrize(
    "text",
    [
        "a0.h1->a2.h3<k>",
        "0.1->2.3.k",
        "A0.1->A2.3.K",
        "<a0.1>-><a2.3_k>",
        "L0H1 -> L2H3.k",
        "blocks.0.attn.hook_z[:, :, 1]->blocks.2.attn.hook_k[:, :, 3]",
    ],
)
def test_every_style_of_name_is_read(text: str) -> None:
    assert SERIAL.name(*SERIAL.edge(text)) == "a0.h1->a2.h3<k>"


def test_the_ends_are_read_in_every_style() -> None:
    assert SERIAL.edge("embed->MLP2") == SERIAL.edge("Resid Start->MLP 2") == SERIAL.edge("input->m2")
    assert SERIAL.edge("<m2>-><resid_post>") == SERIAL.edge("MLP2->logits")


@pytest.mark.parametrize(
    ("graph", "edge", "message"),
    [
        (SERIAL, "a0.h1", r"'a0\.h1' is no edge\. An edge is written writer->reader: 'input->a0\.h0<q>'"),
        (
            SERIAL,
            "a0.h9->m1",
            r"'a0\.h9' is no writer of this graph \(3 layers of 4 heads\); did you mean 'a0\.h",
        ),
        (SERIAL, "logits->m1", r"'logits' is no writer"),
        (SERIAL, "a0.h1<q>->m1", r"'a0\.h1<q>' is no writer.*did you mean 'a0\.h1'"),
        (SERIAL, "a0.h1@3->m1", r"'a0\.h1@3' is no writer"),
        (SERIAL, "nonsense->m1", r"'nonsense' is no writer"),
        (SERIAL, "input->m7", r"'m7' is no reader of this graph.*did you mean 'm"),
        (SERIAL, "input->input", r"'input' is no reader"),
        (SERIAL, "input->a1.h4<v>", r"'a1\.h4<v>' is no reader.*did you mean 'a1\.h"),
        (SERIAL, "input->a1.h2", r"three inputs\. Name one of them: a1\.h2<q>, a1\.h2<k>, a1\.h2<v>"),
        (SERIAL, "input->1.2", r"three inputs\. Name one of them: a1\.h2<q>"),
        (ATTENTION, "input->m1", r"'m1' is no reader of this graph \(3 layers of 4 heads, attention only\)"),
        (SERIAL, "m0->a0.h0<q>", r"no edge 'm0->a0\.h0<q>': m0 writes after a0\.h0<q> has read\."),
        (SERIAL, "a1.h0->a1.h1<k>", r"a1\.h0 writes after a1\.h1<k> has read"),
        (SERIAL, "m1->m1", r"m1 writes after m1 has read"),
        (PARALLEL, "a1.h0->m1", r"a1\.h0 writes after m1 has read \(attention and MLP run in parallel\)"),
        (GROUPED, "input->a1.h6<k>", r"8 heads share 2 keys and values.*head 6 uses is 'a1\.h1<k>'"),
        (GROUPED, "input->a1.h2<v>", r"head 2 uses is 'a1\.h0<v>'"),
        (GROUPED, "input->a1.h8<k>", r"'a1\.h8<k>' is no reader"),
    ],
)
def test_an_edge_that_does_not_exist(graph: Graph, edge: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph.edge(edge)


@pytest.mark.parametrize("edge", [(-1, 0), (0, -1), (len(SERIAL.writers), 0), (0, len(SERIAL.readers))])
def test_indices_out_of_range(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"out of range: writers and readers are \(16, 40\)"):
        SERIAL.name(*edge)


def test_name_of_an_edge_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="m2 writes after m0 has read"):
        SERIAL.name(SERIAL.writers.index("m2"), SERIAL.readers.index("m0"))


def test_between_joins_what_exists_among_the_parts() -> None:
    joined = SERIAL.between(["a0.h1", "m1"], ["a1.h0", "m1", "logits"], "qv")
    assert sorted(SERIAL.name(*edge) for edge in joined.nonzero().tolist()) == [
        *("a0.h1->a1.h0<q>", "a0.h1->a1.h0<v>", "a0.h1->logits", "a0.h1->m1", "m1->logits"),
    ]


def test_between_refuses_what_is_no_node() -> None:
    with pytest.raises(ValueError, match=r"'a0\.h4' is no node of this graph .*did you mean 'a0\.h"):
        SERIAL.between(["a0.h4"], ["m1"])
    with pytest.raises(ValueError, match=r"'a1\.h0<q>' is no node"):
        SERIAL.between(["input"], ["a1.h0<q>"])


def test_between_reaches_the_shared_key_of_a_head() -> None:
    joined = GROUPED.between(["input"], ["a2.h5"])
    assert [GROUPED.name(*edge) for edge in joined.nonzero().tolist()] == [
        *("input->a2.h5<q>", "input->a2.h1<k>", "input->a2.h1<v>"),
    ]


def test_a_graph_cannot_be_spoilt_through_its_mask() -> None:
    graph = Graph(2, 2)
    graph.allowed.zero_()
    assert graph.n_edges == int(graph.allowed.sum()) == 6 + 3 + 4 * 6 + 6 + 7
    assert not graph.allowed[-1, 0]
