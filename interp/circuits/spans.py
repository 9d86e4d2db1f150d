"""Where the writers and readers of each layer stand in a graph's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp.circuits.graph import Graph


@dataclass(frozen=True, eq=False)
class Spans:
    """Indices of writers and readers, layer by layer."""

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
