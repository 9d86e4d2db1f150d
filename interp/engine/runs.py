"""The two runs of every counterfactual, and what is kept of them.

The base is patched; the source is what is patched in. Denoising patches the clean run's activations into the
corrupt run; noising the other way round. An ablation takes its source from `fill` instead of from a second
run.

`capture` runs both together. Of the base it keeps the stream before every block and in its middle, keys and
values; of both the activations of the patched sites. Nothing is unembedded but the positions that the metrics
read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.forward import through_blocks, whole_runs
from interp.models.parts import Weights

Fill = Callable[[str, int, Tensor], Tensor]  # site, layer, activation of the source run -> what to patch in
Mix = Callable[[str, int, Tensor, Tensor], Tensor]  # site, layer, what base has and would get -> what it gets
_PARTS = ("base", "source", "answer", "wrong", "positions", "lengths", "noise", "reads", "spans")
_ALSO = {"q": ("k", "v", "z"), "k": ("q", "v", "z"), "v": ("pattern", "z"), "pattern": ("z",)}


@dataclass(frozen=True, eq=False)
class Runs:
    """Tokens of the base and source runs, and where the metrics read them."""

    base: Int[Tensor, "prompt pos"]
    source: Int[Tensor, "prompt pos"]
    clean_is_base: bool
    answer: Int[Tensor, "prompt k"]
    wrong: Int[Tensor, "prompt j"]
    positions: Int[Tensor, "prompt"]
    lengths: Int[Tensor, "prompt"]
    noise: Float[Tensor, "prompt pos d_model"] | None = None  # added to the corrupt run's embeddings
    fill: Fill | None = None
    reads: Int[Tensor, "prompt read"] | None = None  # of tasks that read several positions; -1 is none
    spans: Bool[Tensor, "prompt span pos"] | None = None  # of tasks with named positions, in their order
    two_models: bool = False  # the source run is another model's, and differs from the first token on

    def __len__(self) -> int:
        return self.base.shape[0]

    @property
    def n_pos(self) -> int:
        return self.base.shape[1]

    @property
    def clean(self) -> Int[Tensor, "prompt pos"]:
        return self.base if self.clean_is_base else self.source

    def noises(self) -> tuple[Tensor | None, Tensor | None]:
        """The noise on the base run and on the source run."""
        return (None, self.noise) if self.clean_is_base else (self.noise, None)

    def first_change(self) -> Int[Tensor, "prompt"]:
        """First position at which the two runs can differ; `n_pos` where they never do."""
        if self.fill is not None or self.two_models:
            return torch.zeros_like(self.positions)
        differ = self.base != self.source  # [prompt, pos]
        if self.noise is not None:
            differ = differ | (self.noise != 0).any(-1)
        return torch.where(differ.any(1), differ.int().argmax(1), self.n_pos)

    def patched_in(self, site: str, layer: int, source: Tensor) -> Tensor:
        """What a patch puts in, from the activation of the source run."""
        return source if self.fill is None else self.fill(site, layer, source)

    def outside_inference(self) -> Runs:
        """The same runs in tensors that a graph can hold, also where the task was made in inference mode."""
        with torch.inference_mode(False):
            return self._each(lambda part: part.clone() if part.is_inference() else part)

    def to(self, device: torch.device) -> Runs:
        """The same runs on a device: themselves where they lie there."""
        return self if self.base.device == device else self._each(lambda part: part.to(device))

    def take(self, index: slice | Tensor) -> Runs:
        """The same runs for some of the prompts."""
        return self._each(lambda part: part[index])

    def _each(self, act: Callable[[Tensor], Tensor]) -> Runs:
        """The same with something done to every tensor."""
        parts = {name: part for name in _PARTS if (part := getattr(self, name)) is not None}
        return replace(self, **{name: act(part) for name, part in parts.items()})


@dataclass(eq=False)
class Capture:
    """`base` and `source` map (site, layer) to [prompt, ...]; streams are those of the base run."""

    pre: list[Tensor] = field(default_factory=list)  # by layer, and after the last: [prompt, pos, d_model]
    mid: list[Tensor] = field(default_factory=list)
    past: list[B.Past] = field(default_factory=list)
    base: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    source: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    # The stream after the last block of base, then source: [2 prompt, pos, d_model].
    final: Tensor = field(default_factory=lambda: torch.empty(0))
    spans: Bool[Tensor, "prompt span pos"] | None = None

    def difference(self, site: str, layer: int) -> Tensor:
        return self.source[site, layer] - self.base[site, layer]

    def mixed(self, mix: Mix) -> Capture:
        """The same runs, with a mixture of base and source to patch in; where they agree it gives that."""
        return replace(self, source={key: mix(*key, self.base[key], put) for key, put in self.source.items()})


def needed(sites: tuple[str, ...]) -> set[str]:
    """The sites to keep in order to patch `sites`."""
    return set(sites).union(*(_ALSO.get(site, ()) for site in sites))


def capture(weights: Weights, runs: Runs, sites: tuple[str, ...], source: Weights | None = None) -> Capture:
    """Run base and source. source: the weights of the source run, where they are another model's.

    Cost: 2 forwards of the blocks per prompt; 4 with two models. Raises ValueError at the first value that is
    not finite.
    """
    saved = _captured(weights, runs, sites)
    if source is not None and source is not weights:
        n, other = len(runs), _captured(source, runs, sites)
        saved.source = {at: there.to(saved.base[at].device) for at, there in other.source.items()}
        saved.final = torch.cat((saved.final[:n], other.final[n:].to(saved.final.device)))
    return saved


def _captured(weights: Weights, runs: Runs, sites: tuple[str, ...]) -> Capture:
    n, n_pos = runs.base.shape
    base_noise, source_noise = runs.noises()
    embedded = [weights.embed(runs.base, base_noise), weights.embed(runs.source, source_noise)]
    x = torch.cat(embedded).flatten(0, 1)  # [2 n_prompt pos, d_model]
    saved = Capture(spans=runs.spans)
    keep = lambda layer, k, v: saved.past.append(B.Past(k[:n].clone(), v[:n].clone()))  # noqa: E731
    x = through_blocks(weights, x, whole_runs((2 * n, n_pos), keep), _saver(saved, runs, needed(sites)))
    _finite(x, len(weights.blocks), n, n_pos)
    saved.final = x.view(2 * n, n_pos, -1)
    saved.pre.append(saved.final[:n])
    return saved


def _saver(saved: Capture, runs: Runs, sites: set[str]) -> B.Tap:
    n, n_pos = runs.base.shape

    def tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        if site == "resid_pre":
            _finite(tensor, layer, n, n_pos)
        if site in sites or site in ("resid_pre", "resid_mid"):
            whole = tensor if group else tensor.unflatten(0, (2 * n, n_pos))
            base, source = whole[:n], whole[n:]
            if site in ("resid_pre", "resid_mid"):
                # A copy, unless the source's half is kept as well: a view would hold on to both.
                stream = base if site in sites else base.clone()
                (saved.pre if site == "resid_pre" else saved.mid).append(stream)
            if site in sites:
                saved.base[site, layer] = base
                saved.source[site, layer] = runs.patched_in(site, layer, source)
        return tensor

    return tap


def _finite(x: Tensor, layer: int, n: int, n_pos: int) -> None:
    if torch.isfinite(x).all():
        return
    row = int((~torch.isfinite(x)).any(-1).nonzero()[0])
    run, pos = divmod(row, n_pos)
    which = "base" if run < n else "source"
    place = "L0.resid_pre" if layer == 0 else f"L{layer - 1}.resid_post"
    raise ValueError(
        f"the model computes values that are not finite: first in {place}, {which} run of prompt {run % n}, "
        f"position {pos}. Check the weights, or load the model in float32."
    )
