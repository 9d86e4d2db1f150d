"""The model above a place, run again and again with other values there; what lies below is computed once.

`accuracy` measures interchange accuracy: the share of pairs (own, source) in which the model, with the
source's part of a subspace in the place of its own, gives the answer that exchanging the variable would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.engine import block as B
from interp.engine.forward import forward, unembed, whole_runs
from interp.engine.readout import widened
from interp.engine.trust import check_engine, own_weights
from interp.experiment import check_model, check_task
from interp.models import Model, anatomy, logits
from interp.models.hook_points import patch_hooks
from interp.models.parts import Block, Weights
from interp.places import Place
from interp.positions import AnyPositions, marked
from interp.subspaces._pairs import Pairs
from interp.subspaces._subspace import Subspace, place_in, spot
from interp.tasks import Task

Exchange = Callable[[Tensor, Tensor], Tensor]
_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class _Below:
    """Positions start..stop-1 are run again; those before them cannot change, and are read from `past`."""

    start: int
    stop: int
    stream: Float[Tensor, "prompt row d_model"]
    past: tuple[B.Past, ...]  # by layer: keys and values [prompt, start, kv head, d_head]

    def attend(self, own: Int[Tensor, "pair"]) -> B.Attend:
        """Attention of some prompts' runs from `start` on to themselves and to what lies before."""
        device, n, m = own.device, len(own), self.stop - self.start
        pos = torch.arange(self.start, self.stop, device=device)
        rows, runs, every = (
            torch.arange(n * m, device=device).view(n, m),
            torch.arange(n, device=device),
            pos.repeat(n),
        )
        groups = [B.Group(self.start, self.stop, own, rows, rows, pos, runs)]

        def attend(block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
            h = B.normed(block.attn_norm, x)
            return B.attention(block.attn, layer, (h, every), (h, every), groups, self.past[layer], tap)[0]

        return attend


@dataclass(frozen=True, eq=False)
class Stage:
    """A model, some prompts, and a place in them. positions: [prompt, m], as many in every prompt."""

    model: Model
    task: Task
    where: Place
    positions: Int[Tensor, "prompt m"]
    engine: str

    @classmethod
    def of(
        cls, model: Model, task: Task, where: str | Place, pos: AnyPositions, engine: str = "auto"
    ) -> Stage:
        """Checked; no forward pass. ValueError for what does not fit."""
        facts = anatomy(model)
        check_model(model, facts)
        check_task(task, facts, model)
        found = spot(where, facts)
        marks = marked(pos, task)
        counts = marks.sum(1)
        if int(counts.min()) == 0 or int(counts.max()) != int(counts[0]):
            raise ValueError(
                f"{pos!r} marks {int(counts.min())} to {int(counts.max())} positions of a prompt; prompts "
                "exchange position by position, so give one that all have with the same length."
            )
        columns = marks.nonzero()[:, 1].view(len(task), -1).to(facts.device)
        return cls(model, task, found, columns, engine)

    @cached_property
    def weights(self) -> Weights | None:
        """Those of our own forward pass; None for the model itself under hooks, a whole forward a pair."""
        task, instead = self.task, "a whole forward for every pair of every step"
        sites = (self.where.site,)
        return own_weights(
            self.model, task.clean, task.lengths, sites=sites, engine=self.engine, instead=instead
        )

    @cached_property
    def values(self) -> Float[Tensor, "prompt m width"]:
        """The place's own values in the clean prompts, at the positions."""
        every = activations(self.model, self.task, self.where, "all")  # [token, width]
        lengths = self.task.lengths.to(every.device)
        first = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)[:-1]))
        return every[first[:, None] + self.positions]

    @cached_property
    def _below(self) -> _Below:
        """Of the clean prompts' own runs, made once: the stream before the place's block, keys, values."""
        parts, layer, causal = cast(Weights, self.weights), self.where.layer or 0, anatomy(self.model).causal
        reads, n_pos = self.task.last_position.to(self.positions.device), self.task.clean.shape[1]
        wanted = torch.cat((self.positions.flatten(), reads))  # what changes, and what is read
        start, stop = (int(wanted.min()), int(wanted.max()) + 1) if causal else (0, n_pos)
        streams, past = [], [([], []) for _ in parts.blocks]
        with torch.no_grad():
            for tokens in self.task.clean.to(self.positions.device).split(_AT_ONCE):
                keep = lambda at, k, v: (past[at][0].append(k[:, :start]), past[at][1].append(v[:, :start]))  # noqa: E731
                kept: list[Tensor] = []
                attend = whole_runs((tokens.shape[0], tokens.shape[1]), keep)
                taps = {("resid_pre", layer): lambda x, kept=kept: kept.append(x) or x}
                forward(parts, parts.embed(tokens), 0, taps, attend)
                streams.append(kept[0][:, start:stop])
        joined = tuple(B.Past(torch.cat(k), torch.cat(v)) for k, v in past)
        return _Below(start, stop, torch.cat(streams), joined)

    def logits(
        self, own: Int[Tensor, "pair"], new: Float[Tensor, "pair m width"], columns: Tensor | None = None
    ) -> Float[Tensor, "pair column"]:
        """Logits at the position that is read, with other values at the place. Differentiable in `new`."""
        own = own.to(self.positions.device)
        read = self.task.last_position.to(own.device)[own]
        pair = torch.arange(len(own), device=own.device)
        if self.weights is None:
            out = self._hooked(own, new)[pair, read]
            return widened(out if columns is None else out[:, columns.to(out.device)])
        below, layer = self._below, self.where.layer or 0
        index = self._index(own, below.start)
        put = lambda tensor: tensor.index_put(index, new.to(tensor))  # noqa: E731
        taps = {(self.where.site, layer): put}
        final = forward(self.weights, below.stream[own], layer, taps, below.attend(own))
        return self._columns(final[pair, read - below.start], columns)

    def _columns(self, final: Tensor, columns: Tensor | None) -> Tensor:
        out = unembed(cast(Weights, self.weights), final)
        return widened(out if columns is None else out[:, columns.to(out.device)])

    def _index(self, own: Tensor, start: int = 0) -> tuple[Tensor, ...]:
        pair = torch.arange(len(own), device=own.device)[:, None]
        where = (pair, self.positions[own] - start)
        return (
            where if self.where.head is None else (*where, torch.tensor(self.where.head, device=own.device))
        )

    def _hooked(self, own: Tensor, new: Tensor) -> Tensor:
        tokens = self.task.clean.to(own.device)[own]
        facts, where = anatomy(self.model), self.where
        shape = (*tokens.shape, *((new.shape[-1],) if where.head is None else (facts.n_heads, new.shape[-1])))
        whole = torch.zeros(shape, dtype=new.dtype, device=new.device).index_put(self._index(own), new)
        hooks = patch_hooks(self.model, where.site, where.layer or 0, self._index(own), whole)
        with self.model.hooks(fwd_hooks=hooks):
            return logits(self.model, tokens)

    def right(self, pairs: Pairs, exchange: Exchange) -> dict[str, Tensor]:
        """Of every pair: is the expected answer first of the choices, of the vocabulary; its probability."""
        out: dict[str, list[Tensor]] = {"choices": [], "vocabulary": [], "probability": []}
        with torch.no_grad():
            for rows in torch.arange(len(pairs)).split(_AT_ONCE):
                some = pairs.take(rows)
                seen = self.logits(some.own, self._exchanged(some, exchange)).cpu()
                best = some.choices[seen[:, some.choices].argmax(1)]
                out["choices"].append(best == some.expected)
                out["vocabulary"].append(seen.argmax(1) == some.expected)
                out["probability"].append(seen.softmax(-1).gather(1, some.expected[:, None])[:, 0])
        return {name: torch.cat(parts).double() for name, parts in out.items()}

    def _exchanged(self, pairs: Pairs, exchange: Exchange) -> Tensor:
        rows = [rows.to(self.values.device) for rows in (pairs.own, pairs.source)]
        return exchange(self.values[rows[0]], self.values[rows[1]])

    def loss(self, pairs: Pairs, exchange: Exchange) -> Tensor:
        """Mean cross-entropy, in nats, of the expected answer among the choices."""
        seen = self.logits(pairs.own, self._exchanged(pairs, exchange), pairs.choices)
        return torch.nn.functional.cross_entropy(seen, pairs.target.to(seen.device))

    def solved(self) -> Tensor:
        """The prompts whose answer is first among all answers and outcomes of the task: [prompt] bool."""
        task, out = self.task, []
        known = [task.answers.cpu(), *(each.outcomes for each in task.variables.values())]
        choices = torch.unique(torch.cat([ids.flatten() for ids in known]))
        choices = choices[choices >= 0]
        with torch.no_grad():
            for rows in torch.arange(len(task)).split(_AT_ONCE):
                seen = self.logits(rows, self.values[rows.to(self.values.device)], choices).cpu()
                best = choices[seen.argmax(1)]
                out.append((best[:, None] == task.answers.cpu()[rows]).any(1))
        return torch.cat(out)


@verb
def accuracy(
    model: Model,
    pairs: Pairs,
    subspace: Subspace | Mapping[str, Subspace],
    pos: AnyPositions = "last",
    *,
    engine: str = "auto",
) -> xr.Dataset:
    """Interchange accuracy of a subspace, or of several by name, beside no exchange and the whole site.

    pairs: such as `pairs(task, variable)["test"]`. pos: where, one position or the name of a span; own and
    source exchange position by position.

    Returns a Dataset: `raw` with dims pair, exchange (none, whole, and the subspaces' names): 1 where the
    expected answer is the first among the choices; `value` = raw - raw of no exchange, positive where the
    exchange brings it; `vocabulary` the same of the whole vocabulary; `probability` of the expected answer.

    Cost: a forward for the place's values, and for each exchange the blocks above the place a pair.
    Raises ValueError for subspaces of several places, and as `interchange` does.

    Example:
        >>> import torch
        >>> model = interp.load("tiny-ioi")
        >>> test = interp.subspaces.pairs(interp.tasks.ioi(model, n=32), "output_position", n=32)["test"]
        >>> whole = interp.subspaces.Subspace(torch.eye(64), "L1.resid_pre")
        >>> result = interp.subspaces.accuracy(model, test, whole)
        >>> result["raw"].dims, [str(each) for each in result["exchange"].values]
        (('pair', 'exchange'), ['none', 'whole', 'subspace'])
    """
    check_engine(engine)
    by_name = {"subspace": subspace} if isinstance(subspace, Subspace) else dict(subspace)
    places = {each.place for each in by_name.values()}
    if len(places) != 1:
        raise ValueError(f"{len(places)} places in one call; give subspaces of one place.")
    for each in by_name.values():
        place_in(each, anatomy(model))
    stage = Stage.of(model, pairs.task, places.pop(), pos, engine)
    return table(stage, pairs, {name: each.exchange for name, each in by_name.items()})


def table(
    stage: Stage,
    pairs: Pairs,
    exchanges: Mapping[str, Exchange],
    others: Mapping[str, dict[str, Tensor]] | None = None,
    **more: Any,
) -> xr.Dataset:
    """`accuracy` of any exchanges, of which "none" and "whole" are always the first.

    others: what `Stage.right` gave on another model, by name.
    """
    width = stage.values.shape[-1]
    every = {"none": lambda own, source: own, "whole": lambda own, source: source, **exchanges}
    seen = {name: stage.right(pairs, each) for name, each in every.items()} | dict(others or {})
    stacked = {
        part: np.stack([each[part].numpy() for each in seen.values()], 1)
        for part in ("choices", "vocabulary", "probability")
    }
    task, dims = stage.task, ("pair", "exchange")
    attrs = results.provenance(
        method="interchange accuracy",
        convention="value = accuracy - accuracy without an exchange; positive: the exchange helps",
        site=str(stage.where), model=anatomy(stage.model).name, task=task.name,
        task_fingerprint=task.fingerprint(), n_prompts=len(task),
        seed=-1 if task.seed is None else task.seed,
        variable=pairs.variable, judged=pairs.judged, width=width, n_choices=len(pairs.choices),
        engine="reference" if stage.weights is None else "fast", **more,
    )  # fmt: skip
    attrs |= {"metric": "interchange accuracy", "unit": "share of pairs", "better": "higher"}
    return results.dataset(
        {
            "value": (dims, stacked["choices"] - stacked["choices"][:, :1]),
            "raw": (dims, stacked["choices"]),
            "vocabulary": (dims, stacked["vocabulary"]),
            "probability": (dims, stacked["probability"]),
        },
        {
            "exchange": list(seen),
            "own": ("pair", pairs.own.numpy()),
            "source": ("pair", pairs.source.numpy()),
        },
        attrs,
    )
