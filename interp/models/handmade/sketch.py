"""A model written out: named directions of the residual stream, and what each part reads and writes.

A sketch holds numbers in plain Python, so that the facts of a model are known without torch; `build` turns it
into a model. Every feature (`tok a`, `pos 3`, `out b`) is one basis direction of the stream.
There is no norm, and attention scores are not divided by sqrt(d_head).

* A head has *looks*, (feature of the query's position, feature of the key's position, strength): its score is
  the sum of strength · query feature · key feature. Without looks it attends alike to all it can see.
* A head has *moves*, (feature read where it looks, feature written, gain).
* A neuron is relu(reads · stream + bias), written into features by their weights.

`SHARP` is a strength at which softmax puts all but e⁻¹⁰⁰ of the attention on the key that matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SHARP = 100.0
Triple = tuple[str, str, float]


class Sketch:
    """The non-zero weights of a model, by the names and shapes of a HookedTransformer's state dict."""

    def __init__(
        self,
        words: Iterable[str],
        features: Iterable[str],
        *,
        n_ctx: int,
        n_layers: int,
        n_heads: int = 1,
        attn_only: bool = False,
    ) -> None:
        self.words = (*SPECIAL, *words)
        self.features = tuple(features)
        self.n_ctx, self.n_layers, self.n_heads, self.attn_only = n_ctx, n_layers, n_heads, attn_only
        self.d_head = 1
        self.n_neurons = [0] * n_layers
        self.entries: dict[str, dict[tuple[int, ...], float]] = {}
        self._word = {word: i for i, word in enumerate(self.words)}
        self._feature = {feature: i for i, feature in enumerate(self.features)}

    def embed(self, word: str, feature: str, value: float = 1.0) -> None:
        """Every place of the word has the feature."""
        self._set("embed.W_E", (self._word[word], self._feature[feature]), value)

    def place(self, position: int, feature: str, value: float = 1.0) -> None:
        """The position has the feature, whatever the word."""
        self._set("pos_embed.W_pos", (position, self._feature[feature]), value)

    def head(self, layer: int, head: int, *, looks: Iterable[Triple] = (), moves: Iterable[Triple]) -> None:
        """One head: where it looks and what it moves. Each look and each move takes a channel of d_head."""
        attn, looks, moves = f"blocks.{layer}.attn", list(looks), list(moves)
        for channel, (query, key, strength) in enumerate(looks):
            self._set(f"{attn}.W_Q", (head, self._feature[query], channel), strength)
            self._set(f"{attn}.W_K", (head, self._feature[key], channel), 1.0)
        for channel, (read, written, gain) in enumerate(moves):
            self._set(f"{attn}.W_V", (head, self._feature[read], channel), 1.0)
            self._set(f"{attn}.W_O", (head, channel, self._feature[written]), gain)
        self.d_head = max(self.d_head, len(looks), len(moves))

    def neuron(
        self, layer: int, reads: Mapping[str, float], writes: Mapping[str, float], bias: float = 0.0
    ) -> None:
        """One more neuron of the layer's MLP."""
        mlp, number = f"blocks.{layer}.mlp", self.n_neurons[layer]
        for feature, weight in reads.items():
            self._set(f"{mlp}.W_in", (self._feature[feature], number), weight)
        self._set(f"{mlp}.b_in", (number,), bias)
        for feature, weight in writes.items():
            self._set(f"{mlp}.W_out", (number, self._feature[feature]), weight)
        self.n_neurons[layer] += 1

    def unembed(self, feature: str, word: str, value: float = 1.0) -> None:
        """The word's logit reads the feature."""
        self._set("unembed.W_U", (self._feature[feature], self._word[word]), value)

    def offer(self, word: str, logit: float) -> None:
        """The word's logit begins at this value."""
        self._set("unembed.b_U", (self._word[word],), logit)

    @property
    def d_mlp(self) -> int | None:
        """Neurons in each MLP; None in a model of attention only."""
        return None if self.attn_only else max(1, *self.n_neurons)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter of the model, with its shape."""
        vocab, d, heads, inner = len(self.words), len(self.features), self.n_heads, self.d_head
        found: dict[str, tuple[int, ...]] = {"embed.W_E": (vocab, d), "pos_embed.W_pos": (self.n_ctx, d)}
        for block in (f"blocks.{layer}" for layer in range(self.n_layers)):
            for name in "QKV":
                found[f"{block}.attn.W_{name}"] = (heads, d, inner)
                found[f"{block}.attn.b_{name}"] = (heads, inner)
            found |= {f"{block}.attn.W_O": (heads, inner, d), f"{block}.attn.b_O": (d,)}
            if self.d_mlp is not None:
                found |= {f"{block}.mlp.W_in": (d, self.d_mlp), f"{block}.mlp.b_in": (self.d_mlp,)}
                found |= {f"{block}.mlp.W_out": (self.d_mlp, d), f"{block}.mlp.b_out": (d,)}
        return found | {"unembed.W_U": (d, vocab), "unembed.b_U": (vocab,)}

    @property
    def n_parameters(self) -> int:
        """Numbers in all parameters, zeros included."""
        return sum(prod(shape) for shape in self.shapes.values())

    def _set(self, name: str, index: tuple[int, ...], value: float) -> None:
        self.entries.setdefault(name, {})[index] = value
