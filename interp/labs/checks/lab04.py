"""Lab 04, circuits: checks of `cut_edge`, `acdc`, `faithfulness`, `chance`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference

# cut_edge: [reader, d] → [reader, d]


@reference
def _cut_edge(seen: Tensor, writes: Tensor, corrupt_writes: Tensor, reader: int, writer: int) -> Tensor:
    cut = seen.clone()
    cut[reader] += corrupt_writes[writer] - writes[writer]
    return cut


def _cut_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        writes, corrupt = torch.tensor([[1.0], [10.0]]), torch.tensor([[2.0], [30.0]])
        return torch.tensor([[11.0], [11.0], [1.0]]), writes, corrupt, 1, 1

    def on_model() -> tuple[Any, ...]:
        writes, corrupt = (value.clone() for value in _writes())
        return writes.sum(0).repeat(3, 1), writes, corrupt, 2, 1

    three = "reader 1 sees 11; without writer 1's 10 and with its corrupt 30 it sees 31; the others stay"
    return [
        Case(by_hand, "three readers by hand", three),
        Case(lambda: (drawn(4, 3), drawn(2, 3, seed=1), drawn(2, 3, seed=2), 2, 0), "random writers"),
        Case(on_model, "the heads of tiny-ioi's layer 0 at the last token"),
    ]


@cache
def _writes() -> tuple[Tensor, Tensor]:
    """What the heads of layer 0 of tiny-ioi write at the last token of a pair, [head, d]."""
    import interp

    loaded = model("tiny-ioi")
    task = interp.tasks.ioi(loaded, n=2, seed=0, template=0)
    pair = []
    for tokens in (task.clean, task.corrupt):
        with torch.no_grad():
            z = loaded.run_with_cache(tokens)[1]["blocks.0.attn.hook_z"][0, -1]
        pair.append(torch.einsum("hd,hde->he", z, loaded.blocks[0].attn.W_O.detach()))
    return pair[0], pair[1]


cut_edge = Exercise(
    "cut_edge",
    _cut_edge,
    _cut_cases,
    lambda right: "1 reader sees something else, and all others what they saw",
)


@cut_edge.mistake("the writer is cut for every reader; an edge is what one reader sees of it")
def _cut_writer(seen: Tensor, writes: Tensor, corrupt_writes: Tensor, reader: int, writer: int) -> Tensor:
    return seen + corrupt_writes[writer] - writes[writer]


@cut_edge.mistake("nothing is put in for the writer: that is zero ablation; add corrupt_writes[writer]")
def _cut_zero(seen: Tensor, writes: Tensor, corrupt_writes: Tensor, reader: int, writer: int) -> Tensor:
    cut = seen.clone()
    cut[reader] -= writes[writer]
    return cut


@cut_edge.mistake("the corrupt part is added on top of the clean one; take writes[writer] out first")
def _cut_added(seen: Tensor, writes: Tensor, corrupt_writes: Tensor, reader: int, writer: int) -> Tensor:
    cut = seen.clone()
    cut[reader] += corrupt_writes[writer]
    return cut


@cut_edge.mistake("the reader now sees this writer alone; the other writers' parts must stay")
def _cut_alone(seen: Tensor, writes: Tensor, corrupt_writes: Tensor, reader: int, writer: int) -> Tensor:
    cut = seen.clone()
    cut[reader] = corrupt_writes[writer]
    return cut


@cut_edge.mistake("clean and corrupt are exchanged: take the clean part out, put the corrupt one in")
def _cut_turned(seen: Tensor, writes: Tensor, corrupt_writes: Tensor, reader: int, writer: int) -> Tensor:
    cut = seen.clone()
    cut[reader] += writes[writer] - corrupt_writes[writer]
    return cut


# acdc: the kept edges

Damage = Callable[[Collection[str]], float]


@reference
def _acdc(edges: Sequence[str], damage: Damage, threshold: float) -> set[str]:
    kept = set(edges)
    now = damage(kept)
    for edge in edges:
        after = damage(kept - {edge})
        if after - now < threshold:
            kept, now = kept - {edge}, after
    return kept


def _acdc_cases() -> list[Case]:
    def spare(kept: Collection[str]) -> float:
        return 5.0 * ("c" not in kept) + 2.0 * (not {"a", "b"} & set(kept))

    def weights(kept: Collection[str]) -> float:
        costs = zip("abcdef", (0.1, 0.3, 0.05, 0.2, 0.01, 0.4))
        return sum(cost for name, cost in costs if name not in kept)

    text = "a or b is enough, c is needed: cut a (b does it), then b must stay, and c: {b, c}"
    return [
        Case(lambda: (["a", "b", "c"], spare, 0.1), "three edges by hand", text),
        Case(lambda: (list("abcdef"), weights, 0.15), "six edges of known cost, threshold 0.15"),
        Case(lambda: (*_reverse(), 0.01), "the 46 edges of reverse"),
    ]


@cache
def _reverse() -> tuple[list[str], Damage]:
    from interp import circuits, tasks

    loaded = model("reverse")
    graph, task = circuits.Graph.of(loaded), tasks.handmade.reverse(loaded, n=8, seed=0)
    order = graph.allowed.T.nonzero().flip(0).tolist()
    remembered: dict[frozenset[str], float] = {}

    def damage(kept: Collection[str]) -> float:
        key = frozenset(kept)
        if key not in remembered:
            circuit = circuits.Circuit.from_edges(graph, key)
            run = circuits.run(loaded, task, [circuit], metric="kl", progress=False)
            remembered[key] = float(run["raw"].mean())
        return remembered[key]

    return [f"{graph.writers[writer]}->{graph.readers[reader]}" for reader, writer in order], damage


acdc = Exercise(
    "acdc",
    _acdc,
    _acdc_cases,
    lambda right: f"reverse needs {len(right)} of its 46 edges",
)


@acdc.mistake("every cut is compared with the whole model; compare it with the circuit so far")
def _acdc_alone(edges: Sequence[str], damage: Damage, threshold: float) -> set[str]:
    whole = damage(set(edges))
    return {edge for edge in edges if damage(set(edges) - {edge}) - whole >= threshold}


@acdc.mistake("the comparison is turned round: an edge is cut where cutting it costs little")
def _acdc_turned(edges: Sequence[str], damage: Damage, threshold: float) -> set[str]:
    kept = set(edges)
    for edge in edges:
        if damage(kept - {edge}) - damage(kept) >= threshold:
            kept = kept - {edge}
    return kept


@acdc.mistake("this is the set of edges that were cut; give those that are kept")
def _acdc_cut(edges: Sequence[str], damage: Damage, threshold: float) -> set[str]:
    return set(edges) - _acdc(edges, damage, threshold)


@acdc.mistake("the edges are tried in the opposite order; take them as they come")
def _acdc_backwards(edges: Sequence[str], damage: Damage, threshold: float) -> set[str]:
    return _acdc(list(reversed(edges)), damage, threshold)


@acdc.mistake("this compares all damage so far with the threshold; compare what this one cut adds")
def _acdc_total(edges: Sequence[str], damage: Damage, threshold: float) -> set[str]:
    kept = set(edges)
    for edge in edges:
        if damage(kept - {edge}) < threshold:
            kept = kept - {edge}
    return kept


# faithfulness: [prompt] three times → a number


@reference
def _faithfulness(circuit: Tensor, whole: Tensor, empty: Tensor) -> float:
    return float((circuit - empty).mean() / (whole - empty).mean())


def _faithful_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([2.0, 6.0]), torch.tensor([3.0, 9.0]), torch.tensor([1.0, -1.0])

    def on_model() -> tuple[Any, ...]:
        return tuple(values.clone() for values in _without_an_edge())

    return [
        Case(by_hand, "two prompts by hand", "((2 − 1) + (6 + 1)) / ((3 − 1) + (9 + 1)) = 8 / 12 = 0.667"),
        Case(lambda: (drawn(5), drawn(5, seed=1) + 3, drawn(5, seed=2) - 2), "random metrics"),
        Case(on_model, "tiny-ioi without one edge"),
    ]


@cache
def _without_an_edge() -> tuple[Tensor, Tensor, Tensor]:
    import interp
    from interp import circuits

    loaded = model("tiny-ioi")
    graph, task = circuits.Graph.of(loaded), interp.tasks.ioi(loaded, n=8, seed=0)
    mask = graph.allowed.clone()
    mask[graph.edge("a2.h2->logits")] = False
    run = circuits.run(loaded, task, [circuits.Circuit(graph, mask)], progress=False)
    circuit, whole, empty = (torch.tensor(run[name].values) for name in ("raw", "clean", "empty"))
    return circuit[:, 0], whole, empty


faithfulness = Exercise(
    "faithfulness",
    _faithfulness,
    _faithful_cases,
    lambda right: f"tiny-ioi without the edge from L2H2 to the logits keeps {right:.2f}",
)


@faithfulness.mistake("this is a mean of ratios; one prompt with a small difference can rule it. Means first")
def _faithful_ratios(circuit: Tensor, whole: Tensor, empty: Tensor) -> float:
    return float(((circuit - empty) / (whole - empty)).mean())


@faithfulness.mistake("nothing is subtracted: a model with every edge cut must come out as 0")
def _faithful_bare(circuit: Tensor, whole: Tensor, empty: Tensor) -> float:
    return float(circuit.mean() / whole.mean())


@faithfulness.mistake("the ratio is upside down")
def _faithful_inverse(circuit: Tensor, whole: Tensor, empty: Tensor) -> float:
    return 1 / _faithfulness(circuit, whole, empty)


@faithfulness.mistake("this is what the circuit loses; faithfulness is what it keeps")
def _faithful_lost(circuit: Tensor, whole: Tensor, empty: Tensor) -> float:
    return 1 - _faithfulness(circuit, whole, empty)


# chance: a number and [draw] → a number


@reference
def _chance(value: float, random: Tensor) -> float:
    return float((1 + (random >= value).sum()) / (1 + len(random)))


def _chance_cases() -> list[Case]:
    def on_model() -> tuple[Any, ...]:
        circuit, whole, empty = _without_an_edge()
        ratios = (circuit - empty) / (whole - empty)
        return float(ratios.median()), ratios

    return [
        Case(
            lambda: (0.8, torch.tensor([0.1, 0.9, 0.8, 0.2])),
            "four draws by hand",
            "two of four reach 0.8: (1 + 2) / (1 + 4) = 0.6",
        ),
        Case(lambda: (5.0, drawn(9)), "nine draws below the value"),
        Case(lambda: (0.3, drawn(19)), "nineteen draws"),
        Case(on_model, "the median prompt of tiny-ioi without one edge"),
    ]


chance = Exercise(
    "chance",
    _chance,
    _chance_cases,
    lambda right: "the least that 19 draws can show is 1 / 20 = 0.05",
)


@chance.mistake("the circuit itself is not counted, so that a chance can be 0: add 1 above and below")
def _chance_bare(value: float, random: Tensor) -> float:
    return float((random >= value).float().mean())


@chance.mistake("this counts the draws that are worse; count those that are at least as good")
def _chance_turned(value: float, random: Tensor) -> float:
    return float((1 + (random < value).sum()) / (1 + len(random)))


@chance.mistake("equal draws count as well: at least as faithful is >=")
def _chance_strict(value: float, random: Tensor) -> float:
    return float((1 + (random > value).sum()) / (1 + len(random)))


@chance.mistake("1 is added above and not below")
def _chance_above(value: float, random: Tensor) -> float:
    return float((1 + (random >= value).sum()) / len(random))
