"""`watch`: generate under probes that score every token; `stream`: the same scores of texts that are there.

1. A probe's score after each token is that of the whole text so far (`_stream`).
2. While text is generated the probes read at their sites in the passes that are made anyway: no pass is
   added, and nothing is changed. A row that is over is not read further.
3. A threshold for "ever fires" belongs to the largest score of a stream (`highest`), not to the last one. A
   score that is not finite fires.

Probes for long contexts: 2601.11516.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.places import Place
from interp.positions import Frame
from interp.probes._probes import BATCH, Probes, readings
from interp.probes._stream import State, compact
from interp.prompts import read
from interp.steering import Intervention, generate
from interp.steering._edit_types import Edit
from interp.steering._generate import end_ids

Thresholds = float | int | Mapping[str, float] | None


@dataclass(eq=False)
class _Reader(Edit):
    """Reads what is at its place, and hands it on as it is: a product a pass, and no more until the end."""

    probe: State
    passes: list[tuple[Tensor, Frame]] = field(default_factory=list)  # what was read, and where it stood

    def __call__(self, h: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        return h

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        if frame.offset == 0:  # a pass over the whole text
            self.passes.clear()
        self.passes.append((self.probe.project(h), frame))
        return h

    def scores(self, ends: Int[Tensor, "end"]) -> tuple[Tensor, Tensor]:
        """Scores after each token of all passes, and how many tokens of each row were read."""
        read = torch.cat([each for each, _ in self.passes], 1)
        tokens, count = compact(read, self._real((read.shape[0], read.shape[1]), ends))
        return self.probe.add(tokens, count), count

    def _real(self, size: tuple[int, int], ends: Tensor) -> Tensor:
        """The columns that are read: no padding, and nothing from a token on that ends the text."""
        frames = [frame for _, frame in self.passes]
        first = frames[0]
        positions = Frame(0, first.padding, size, first.device, first.prompt_lengths).positions
        real, ids = positions >= 0, [frame.all_tokens for frame in frames]
        known = [each for each in ids if each is not None]
        if not len(ends) or len(known) < len(ids):
            return real
        ended = torch.isin(torch.cat(known, 1), ends) & (positions >= first.lengths)
        return real & ~(ended.cumsum(1) > 0)


@verb
def watch(
    model: Model,
    prompts: Any,
    probes: Probes,
    *interventions: Any,
    thresholds: Thresholds = None,
    max_new_tokens: int = 20,
    mask: Tensor | None = None,
    stop: Any = None,
    temperature: float | int = 0.0,
    seed: int = 0,
    engine: str = "auto",
) -> tuple[Int[Tensor, "prompt total"], xr.Dataset]:
    """Generate, with probes that read every token as it is run.

    probes: linear ones or of any aggregation, at any sites. interventions: of steering, made before the
    probes read. thresholds: a score above which a probe fires, one for all or by place. The other arguments
    are those of `steering.generate`, whose tokens are given first.

    Returns the tokens and a Dataset with dims prompt, place and pos, NaN behind what was read: `value`, the
    score in logits of the text up to that token; `highest` and `last` [prompt, place]; with thresholds
    `fired` [prompt, place], the first position at which it fired (−1: never). Every token that the model
    reads is scored: all of the prompt, all that is generated but the last, no end of text. Cost: that of
    `generate`, no pass more, and a product [token, d_model · heads] a probe. Raises ValueError for probes of
    another model and those of one position, a model whose attention goes both ways, and as `generate`. The
    model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> names = ("Mary", "Tom", "John", "Anna")
        >>> up, down = ([f"{a} had a {b}" for a in names] for b in ("book", "bag"))
        >>> probes = interp.probes.fit(
        ...     model, up, down, layer=1, agg="multimax", draws=1, progress=False
        ... )[1]
        >>> tokens, scores = interp.probes.watch(model, up[:2], probes, max_new_tokens=2)
        >>> scores["value"].dims
        ('prompt', 'place', 'pos')
    """
    states = _states(model, probes)
    rows = read(model, prompts, mask)
    ends = end_ids(model, rows, stop)
    readers = {place: _Reader(state) for place, state in states.items()}
    made = [Intervention(place, reader) for place, reader in readers.items()]
    tokens = generate(
        model, prompts, *interventions, *made, max_new_tokens=max_new_tokens, mask=mask, stop=stop,
        temperature=temperature, seed=seed, engine=engine,
    )  # fmt: skip
    columns = [_assembled([reader.scores(ends)]) for reader in readers.values()]
    return tokens, _dataset(model, probes, columns, thresholds, "watch", rows.data_hash())


@verb
def stream(
    model: Model,
    prompts: Any,
    probes: Probes,
    *,
    thresholds: Thresholds = None,
    piece: int | None = None,
    mask: Tensor | None = None,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """Scores of texts that are there, after each of their tokens: what `watch` would have given for them.

    piece: tokens that are taken at once, all of them by default; the scores do not depend on it. Returns the
    Dataset of `watch`; its `highest` is what a threshold for "ever fires" is calibrated on. Cost: one
    forward of each prompt as far as the last place. Raises ValueError as `watch`. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> names = ("Mary", "Tom", "John", "Anna")
        >>> up, down = ([f"{a} had a {b}" for a in names] for b in ("book", "bag"))
        >>> probes = interp.probes.fit(
        ...     model, up, down, layer=1, agg="ema", draws=1, progress=False
        ... )[1]
        >>> interp.probes.stream(model, up, probes)["highest"].dims
        ('prompt', 'place')
    """
    states = _states(model, probes)
    data = read(model, prompts, mask)
    if piece is not None and piece < 1:
        raise ValueError(f"piece is {piece}; give 1 or more tokens, or None for all.")
    wanted = tuple(dict.fromkeys(Place(place.site, place.layer) for place in states))
    found = readings(model, data, wanted, "all", batch_size=batch_size or BATCH, engine=engine)
    columns = []
    for place, state in states.items():
        seen = found[place]
        size = piece or seen.tokens.shape[1]
        scores = []
        for tokens, real in zip(seen.tokens.split(size, 1), seen.real.split(size, 1)):
            count = real.sum(1)
            scores.append((state.take(tokens, count), count))
        columns.append(_assembled(scores))
    return _dataset(model, probes, columns, thresholds, "stream", data.data_hash())


def _states(model: Model, probes: Probes) -> dict[Place, State]:
    probes.check(model)
    if probes.pos != "all":
        raise ValueError(
            f"these probes read at pos={probes.pos!r}, and a stream has scores at every token. Fit them with "
            "agg='mean', 'ema', 'attention', 'multimax' or 'rolling'."
        )
    if not anatomy(model).causal:
        raise ValueError(
            f"attention of {anatomy(model).name} goes both ways: what is read at a token changes with those "
            "that come after it, so no stream has the scores of the text so far. Use probes.score."
        )
    return {place: State(probes.agg, weights) for place, weights in probes.weights.items()}


def _assembled(scores: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    """The passes of a run, one after the other: [row, token], NaN behind a row's last one."""
    total = int(torch.stack([count for _, count in scores]).sum(0).max())
    out = np.full((len(scores[0][1]), total), np.nan)
    filled = np.zeros(len(out), dtype=np.int64)
    for running, count in ((each.cpu().numpy(), n.cpu().numpy()) for each, n in scores):
        real = np.arange(running.shape[1]) < count[:, None]
        row, column = real.nonzero()
        out[row, filled[row] + column] = np.where(np.isfinite(running[real]), running[real], np.inf)
        filled += count
    return out


def _dataset(
    model: Model, probes: Probes, columns: list[np.ndarray], thresholds: Thresholds, method: str, data: str
) -> xr.Dataset:
    value = np.stack(columns, 1)  # [prompt, place, pos]
    read_ = ~np.isnan(value)
    names = [str(place) for place in probes.places]
    last = np.take_along_axis(value, read_.sum(-1, keepdims=True) - 1, -1)[..., 0]
    dims = ("prompt", "place")
    highest = np.where(read_, value, -np.inf).max(-1)
    variables: dict[str, Any] = {
        "value": ((*dims, "pos"), value), "highest": (dims, highest), "last": (dims, last)
    }  # fmt: skip
    if thresholds is not None:
        limits = np.array([_limit(thresholds, name) for name in names])[:, None]
        above = read_ & (value > limits)
        variables["fired"] = (dims, np.where(above.any(-1), above.argmax(-1), -1))
        variables["threshold"] = (("place",), limits[:, 0])
    attrs = results.provenance(
        method=method, site=", ".join(names), model=anatomy(model).name, n_prompts=len(value), unit="logits",
        convention="value = score of the text up to and with the token; positive: the probe's positive class",
        agg=probes.agg, data=data,
    )  # fmt: skip
    coords = {"prompt": np.arange(len(value)), "place": np.array(names, dtype=object)}
    return results.dataset(variables, coords | {"pos": np.arange(value.shape[-1])}, attrs)


def _limit(thresholds: Any, name: str) -> float:
    if not isinstance(thresholds, Mapping):
        return float(thresholds)
    if name not in thresholds:
        raise ValueError(f"thresholds has no {name!r}; it has {', '.join(map(str, thresholds))}.")
    return float(thresholds[name])
