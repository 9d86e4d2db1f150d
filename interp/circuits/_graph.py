"""The graph of a model's residual stream: who writes into it, who reads from it, which edges there are.

Writers are `input` (token and position embedding together), every head and every MLP. Readers are the
query, key and value input of every head (one key and one value for each key-value head under grouped-query
attention), every MLP, and `logits`. There is an edge u→v if and only if u writes before v reads. Time is
counted in sublayers: attention of layer l reads at 2l and writes at 2l + 1, the MLP reads at 2l + 1 (at 2l
where it runs in parallel with attention) and writes at 2l + 2; `logits` reads at the end.

Names are those of EAP-IG and MIB: `input`, `a9.h6`, `a9.h6<q>`, `m5`, `logits`, and `a9.h6->m9` for an
edge. Numbers about edges are tensors [writer, reader]; names are made when asked for. GPT-2 small has
32,491 edges. ACDC (Conmy et al. 2023, arXiv:2304.14997) also counts one inside each head for each of q, k
and v: 32,923.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp import places
from interp.models import Model, anatomy
from interp.places import hint


class _Reader(NamedTuple):
    name: str
    time: int
    nodes: range  # indices of the nodes that it is an input of; several for a shared key or value


@dataclass(frozen=True)
class Graph:
    """The shape of a model as a graph. `n_key_value_heads=0` means as many as heads."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int = 0
    attn_only: bool = False
    parallel: bool = False  # attention and MLP of a layer read the same stream (GPT-J, NeoX)
    d_model: int | None = field(default=None, compare=False)  # for the header of files only

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_key_value_heads", self.n_key_value_heads or self.n_heads)
        object.__setattr__(self, "parallel", self.parallel and not self.attn_only)
        for what in ("n_layers", "n_heads", "n_key_value_heads"):
            if getattr(self, what) < 1:
                raise ValueError(f"{what} is {getattr(self, what)}; a graph needs at least 1.")
        if self.n_heads % self.n_key_value_heads:
            raise ValueError(
                f"{self.n_heads} heads cannot share {self.n_key_value_heads} key-value heads evenly; "
                "n_key_value_heads must divide n_heads."
            )

    @classmethod
    def of(cls, model: Model) -> Graph:
        """The graph of a TransformerLens model. No forward pass; nothing is changed."""
        facts = anatomy(model)
        sizes = ("n_layers", "n_heads", "n_key_value_heads", "attn_only", "parallel", "d_model")
        return cls(**{size: getattr(facts, size) for size in sizes})

    @classmethod
    def from_sizes(cls, sizes: str) -> Graph:
        """The graph that `sizes` is of. Raises ValueError for other text."""
        try:
            layers, heads, shared, attn_only, parallel = map(int, sizes.split(","))
        except ValueError:
            raise ValueError(f"{sizes!r} are not the five sizes of a graph.") from None
        return cls(layers, heads, shared, bool(attn_only), bool(parallel))

    @property
    def sizes(self) -> str:
        """Layers, heads, key-value heads, attention only, parallel: all that makes a graph, as text."""
        parts = (self.n_layers, self.n_heads, self.n_key_value_heads, self.attn_only, self.parallel)
        return ",".join(str(int(part)) for part in parts)

    @property
    def group(self) -> int:
        """Heads that share one key and one value; 1 without grouped-query attention."""
        return self.n_heads // self.n_key_value_heads

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The writers, and `logits`."""
        return (*self.writers, "logits")

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names by layer: `input`, `a0.h0`, ..., `m0`, `a1.h0`, ..."""
        found = ["input"]
        for layer in range(self.n_layers):
            found += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            found += [] if self.attn_only else [f"m{layer}"]
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Names by layer: `a0.h0<q>`, ..., `a0.h0<k>`, ..., `a0.h0<v>`, ..., `m0`, ...; last `logits`."""
        return tuple(reader.name for reader in self._readers)

    @property
    def allowed(self) -> Bool[Tensor, "writer reader"]:
        """Which edges exist."""
        writes = torch.tensor(self._write_times)[:, None]
        return writes <= torch.tensor([reader.time for reader in self._readers])

    @cached_property
    def n_edges(self) -> int:
        """Edges of the whole graph."""
        return int(self.allowed.sum())

    @property
    def owners(self) -> Bool[Tensor, "reader node"]:
        """Of which nodes a reader is an input: one, or the heads that share a key or value."""
        found = torch.zeros(len(self.readers), len(self.nodes), dtype=torch.bool)
        for row, reader in enumerate(self._readers):
            found[row, list(reader.nodes)] = True
        return found

    def edge(self, name: str) -> tuple[int, int]:
        """Indices of writer and reader. Any style of `interp.places` is read: `9.6->10.0.q`, `A9.6->MLP 9`.

        Raises ValueError for an edge that does not exist.
        """
        left, arrow, right = (part.strip() for part in name.partition("->"))
        if not arrow:
            raise ValueError(f"{name!r} is no edge. An edge is written writer->reader: {self._example!r}.")
        writer, reader = self._writer(left, name), self._reader(right, name)
        self._check(writer, reader)
        return writer, reader

    def name(self, writer: int, reader: int) -> str:
        """The name of an edge by its indices. Raises ValueError for an edge that does not exist."""
        sizes = (len(self.writers), len(self.readers))
        if not (0 <= writer < sizes[0] and 0 <= reader < sizes[1]):
            raise ValueError(f"edge ({writer}, {reader}) is out of range: writers and readers are {sizes}.")
        self._check(writer, reader)
        return f"{self.writers[writer]}->{self.readers[reader]}"

    def between(
        self, writers: Sequence[str], readers: Sequence[str], parts: str = "qkv"
    ) -> Bool[Tensor, "writer reader"]:
        """Every edge from some nodes to some nodes; of heads, to their inputs among `parts`."""
        sources, targets = self._indices(writers), self._indices(readers)
        takes = [
            not targets.isdisjoint(reader.nodes)
            and (not reader.name.endswith(">") or reader.name[-2] in parts)
            for reader in self._readers
        ]
        sends = [writer in sources for writer in range(len(self.writers))]
        return self.allowed & torch.tensor(sends)[:, None] & torch.tensor(takes)

    def __str__(self) -> str:
        counts = ((self.n_layers, "layer"), (self.n_heads, "head"))
        size = " of ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in counts)
        shared = f" ({self.n_key_value_heads} key-value)" if self.group > 1 else ""
        return size + shared + ", attention only" * self.attn_only + ", parallel" * self.parallel

    @cached_property
    def _readers(self) -> tuple[_Reader, ...]:
        found = []
        for layer in range(self.n_layers):
            first, time = self._first_head(layer), 2 * layer
            for part in "qkv":
                count = self.n_heads if part == "q" else self.n_key_value_heads
                share = self.n_heads // count
                for head in range(count):
                    nodes = range(first + head * share, first + (head + 1) * share)
                    found.append(_Reader(f"a{layer}.h{head}<{part}>", time, nodes))
            if not self.attn_only:
                mlp = first + self.n_heads
                found.append(_Reader(f"m{layer}", time + (not self.parallel), range(mlp, mlp + 1)))
        end = len(self.writers)
        return (*found, _Reader("logits", 2 * self.n_layers, range(end, end + 1)))

    @cached_property
    def _write_times(self) -> tuple[int, ...]:
        block = [1] * self.n_heads + [2] * (not self.attn_only)
        return (0, *(2 * layer + after for layer in range(self.n_layers) for after in block))

    def _first_head(self, layer: int) -> int:
        return 1 + layer * (self.n_heads + (not self.attn_only))

    @cached_property
    def _writer_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.writers)}

    @cached_property
    def _reader_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.readers)}

    @property
    def _example(self) -> str:
        return f"input->{self.readers[0]}"

    def _indices(self, wanted: Sequence[str]) -> set[int]:
        for node in wanted:
            if node not in self.nodes:
                raise ValueError(f"{node!r} is no node of this graph ({self}){hint(node, self.nodes)}")
        return {self.nodes.index(node) for node in wanted}

    def _check(self, writer: int, reader: int) -> None:
        if self._write_times[writer] > self._readers[reader].time:
            u, v = self.writers[writer], self.readers[reader]
            why = " (attention and MLP run in parallel)" if self.parallel else ""
            raise ValueError(
                f"there is no edge {f'{u}->{v}'!r}: {u} writes after {v} has read{why}. "
                "The writer of an edge must come before its reader."
            )

    def _writer(self, text: str, edge: str) -> int:
        name = text if text in self._writer_index else _eap(text)
        if name not in self._writer_index:
            end = hint(text, self.writers)
            raise ValueError(f"edge {edge!r}: {text!r} is no writer of this graph ({self}){end}")
        return self._writer_index[name]

    def _reader(self, text: str, edge: str) -> int:
        name = text if text in self._reader_index else _eap(text)
        if name in self._reader_index:
            return self._reader_index[name]
        place = places.parse(name) if name in self.nodes or name[:-3] in self.nodes else None
        if place is not None and place.site == "z":
            inputs = ", ".join(f"{name}<{part}>" for part in "qkv")
            raise ValueError(f"edge {edge!r}: {text!r} has three inputs. Name one of them: {inputs}.")
        if place is not None and place.site in ("k", "v") and place.head is not None:
            own = f"a{place.layer}.h{place.head // self.group}<{place.site}>"
            raise ValueError(
                f"edge {edge!r}: {text!r} is no reader of its own, because {self.n_heads} heads share "
                f"{self.n_key_value_heads} keys and values. The one that head {place.head} uses is {own!r}."
            )
        end = hint(text, self.readers)
        raise ValueError(f"edge {edge!r}: {text!r} is no reader of this graph ({self}){end}")


def _eap(text: str) -> str:
    """The name in EAP-IG's style, whatever the style given; the text itself where it names no such place."""
    try:
        return places.parse(text).format("eap")
    except ValueError:
        return text


@dataclass(frozen=True, eq=False)
class Spans:
    """Where the writers and readers of each layer stand in a graph's tensors."""

    graph: Graph

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Writers and readers of a block."""
        g = self.graph
        mlp = int(not g.attn_only)
        return g.n_heads + mlp, g.n_heads + 2 * g.n_key_value_heads + mlp

    def heads(self, layer: int) -> slice:
        """The writers of a layer's heads."""
        first = 1 + layer * self._size[0]
        return slice(first, first + self.graph.n_heads)

    def mlp(self, layer: int) -> int:
        """The writer of a layer's MLP."""
        return self.heads(layer).stop

    def part(self, layer: int, part: str) -> slice:
        """The readers of a layer's queries (one a head), keys or values (one a key-value head)."""
        shared, heads = self.graph.n_key_value_heads, self.graph.n_heads
        start = layer * self._size[1]
        edges = (start, start + heads, start + heads + shared, start + heads + 2 * shared)
        return slice(*edges["qkv".index(part) :][:2])

    def attention(self, layer: int) -> slice:
        """The readers of a layer's attention."""
        return slice(self.part(layer, "q").start, self.part(layer, "v").stop)

    def mlp_reader(self, layer: int) -> int:
        return self.part(layer, "v").stop

    @property
    def logits(self) -> int:
        """The last reader."""
        return self.graph.n_layers * self._size[1]

    def by_head(self, layer: int, values: np.ndarray) -> np.ndarray:
        """Values [..., reader] as [part, ..., head]: a head's query, and the key and value that it uses."""
        found = [values[..., self.part(layer, part)] for part in "qkv"]
        return np.stack([found[0], *(np.repeat(one, self.graph.group, -1) for one in found[1:])])
