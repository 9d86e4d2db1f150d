"""Path patching: what of a component's effect goes by way of given inputs.

Four runs, on the own tokens (denoise: corrupt, noise: clean):

1. A, the own run, and B, the other run, are run once and kept.
2. C: the senders' outputs are B's, the frozen components' A's, the rest is recomputed. The receivers' inputs
   are read off (`_carry.py`).
3. D: the receivers' inputs are what C gave, nothing is frozen; the metric is read (`_receive.py`).
4. The effect is metric(D) - metric(A) for denoise, metric(A) - metric(D) for noise, so that positive means
   that what goes along these paths helps.

Wang et al. 2022 (2211.00593): noise, all heads frozen, MLPs recomputed. Goldowsky-Dill et al. 2023
(2304.05969).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation, Constants, Optimal
from interp.engine.readout import Outcome
from interp.engine.runs import Runs
from interp.engine.trust import choose
from interp.engine.wavefront import Prepared
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.models import Anatomy, Model, unsupported, weights
from interp.models.parts import gathered
from interp.paths._carry import Batch, carry, pointwise
from interp.paths._ends import Cell, Ends, Named, make, read_at, written
from interp.paths._receive import receive
from interp.paths._reference import PathReference
from interp.positions import AnyPositions
from interp.tasks import Task
from interp.tasks.check import warn_unsolved


@verb
def path_patch(
    model: Model,
    task: Task,
    senders: Named = "heads",
    receivers: Named | xr.Dataset = "logits",
    *,
    freeze: str | Sequence[str] = "heads",
    norm: str = "exact",
    combine: str = "replace",
    sender_positions: AnyPositions | Sequence[AnyPositions] = "all",
    receiver_positions: AnyPositions | Sequence[AnyPositions] = "all",
    top: int = 3,
    source: Model | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Exact effect of senders by way of receivers: who feeds what.

    `patch` says that a head matters; this says along which path. The sender's output is taken from the other
    run, but only the receivers may see it, directly and by way of what is not frozen.

    model: a TransformerLens model in eval mode; left as found.
    senders: "heads" (dims layer, head), "mlps" (layer), "all" (every writer, and embed), or a list of places
        (dim sender): heads `L9H6`, `MLP3`, neurons `L3N17`, `embed`, the stream `L3.resid_pre@5`. A list in
        the list, or a mapping of names to places, is patched together.
    receivers: `L9H6.q`, `.k`, `.v`, `L9H6` (all three), `MLP3` or `L3.mlp` (its input), `logits`, or "all"
        inputs together. A list gives each apart, in a dim `receiver`; a list in it, or a mapping, is received
        together. A result, such as that of `patch`: the inputs of its `top` cells, each apart. Under
        grouped-query attention k and v are named by key-value head, and move every head that reads it.
    freeze: whose outputs stay those of the own run on the way to the receivers: "heads" (paths go by MLPs,
        Wang et al.), "all" (the one direct edge), () (nothing), or a list of heads and MLPs.
    norm: "exact", or "frozen": receivers divide by the own run's scale, an approximation that is linear in
        what the senders change.
    combine: several receivers together. "replace": each gets what C gave it (Wang et al.); "add": what C
        changed on top of what reaches it in D, as edges of a circuit do. The same for one receiver.
    sender_positions, receiver_positions: where they act, as in `interp.positions` ("last", 3, (2, 5)), or a
        list of indices.
    top: cells of a result given as receivers.
    source: another model of the same shape, as in `interp.patch`; its heads and neurons send what they write
        by its own weights.
    ablation, direction, metric, batch_size, memory, engine, progress: as in `interp.patch`; engine
        "reference" knows norm="exact" and combine="replace", and of another model no heads and neurons.

    Returns a Dataset: `value`, the effect in units of the metric, positive helps, with dims prompt, those of
    the senders, (receiver,) (metric); NaN where a sender writes after the receiver has read (`reachable`
    False), and for prompts without one of the positions; `clean`, `corrupt`, `clean_right` as in `patch`.

    Cost: two forwards per prompt; for every sender the MLPs between it and the receivers (no attention with
    freeze="heads"), and for every sender and receiver the layers above the receiver. Engine "reference": one
    forward per sender and one more per receiver. Raises ValueError for anything wrong with the request,
    before the first forward pass. Wang et al. 2022 (2211.00593).

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> paths = interp.path_patch(model, task, "heads", ["L2H3.q", "logits"], progress=False)
        >>> paths["value"].dims, paths["value"].shape
        (('prompt', 'layer', 'head', 'receiver'), (4, 3, 4, 2))
    """
    with torch.inference_mode():
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
            memory=memory, engine=engine, progress=progress, source=source,
        )  # fmt: skip
        ends = make(
            experiment.facts, task, senders, receivers, top=top, freeze=freeze, norm=norm, combine=combine,
            sender_positions=sender_positions, receiver_positions=receiver_positions,
        )  # fmt: skip
        result = Paths.of(experiment, ends).run()
    warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
    return result


@dataclass(frozen=True, eq=False)
class Paths:
    """An experiment and the ends of its paths; `runs` and the marks hold each prompt's draws side by side."""

    experiment: Experiment
    ends: Ends
    runs: Runs

    @classmethod
    def of(cls, experiment: Experiment, ends: Ends) -> Paths:
        """Checked; no forward pass, but for the means of a mean ablation."""
        if isinstance(experiment.contrast.ablation, (Constants, Optimal)):
            raise ValueError(
                "constants stand for all that a component does, and a path carries what it does in another "
                "run. Use ablation='resample', 'gaussian', 'zero' or 'mean'."
            )
        source = experiment.contrast.source
        models = [experiment.model] if source is None else [experiment.model, source]
        if experiment.budget.engine == "reference" or any(unsupported(model) for model in models):
            why = "the reference engine, which was asked for or this model needs,"
            _require_covered(ends, why, source is not None)
        if source is not None and not pointwise(ends, experiment.facts):
            _require_separable(experiment.facts, ends)
        marks = (ends.sender_marks, ends.receiver_marks)
        sending, receiving = (each.repeat_interleave(experiment.draws, 0) for each in marks)
        by_draw = replace(ends, sender_marks=sending, receiver_marks=receiving)
        return cls(experiment, by_draw, experiment.runs(ends.sites(experiment.facts)))

    def run(self) -> xr.Dataset:
        """Block by block of prompts, then the averages over draws, signed."""
        experiment, budget, ends = self.experiment, self.experiment.budget, self.ends
        n_paths = len(ends.senders) * len(ends.receivers)
        passes = n_paths + len(ends.senders)
        source = experiment.contrast.source
        engine = choose(experiment.model, self.runs, self._sites(), passes, budget.engine, source)
        if engine == "reference":
            _require_covered(ends, "the reference engine, which this model needs,", source is not None)
        parts, right = [], []
        with tqdm(
            total=len(self.runs) * n_paths, disable=not budget.progress, desc="paths", unit="run"
        ) as bar:
            for rows in self._blocks(engine):
                outcome, clean_right = self._block(engine, rows, bar.update)
                parts.append(outcome)
                right.append(clean_right)
        change = np.concatenate([part.change for part in parts], 1)  # [path, prompt draw, metric]
        ends_of_runs = [
            np.concatenate([getattr(part, name) for part in parts]) for name in ("base", "source")
        ]
        return self._dataset(change, ends_of_runs[0], ends_of_runs[1], np.concatenate(right), engine)

    def _sites(self) -> tuple[str, ...]:
        """The sites that are read or changed."""
        read = {place.site for cell in self.ends.receivers for place in cell.places} - {"logits"}
        return tuple(dict.fromkeys((*self.ends.sites(self.experiment.facts), *sorted(read))))

    def _blocks(self, engine: str) -> Iterator[slice]:
        """Prompts (all their draws) to capture at once."""
        experiment, reads = self.experiment, self.experiment.reads(self.runs)
        n, draws = len(experiment.task), experiment.draws
        columns = experiment.facts.d_vocab_out if reads.columns is None else len(reads.columns)
        sites = self.ends.sites(experiment.facts)
        room = experiment.room.prompts(self.runs.n_pos, sites, columns, reads.everywhere)
        size = 32 if engine != "fast" else max(1, room // draws)
        for start in range(0, n, size):
            yield slice(start * draws, min(start + size, n) * draws)

    def _block(self, engine: str, rows: slice, tick: Callable[[int], object]) -> tuple[Outcome, np.ndarray]:
        experiment, ends = self.experiment, self.ends
        some, draws, sites = self.runs.take(rows), experiment.draws, ends.sites(experiment.facts)
        source = experiment.contrast.source
        if engine == "reference":
            reference = PathReference(experiment.model, some, ends, experiment.metric, rows, source)
            return reference.run_paths(tick), reference.clean_right()[::draws]
        own = gathered(weights(experiment.model))
        theirs = None if source is None or source is experiment.model else gathered(weights(source))
        ready = Prepared(own, some, sites, experiment.metric, experiment.room, theirs)
        patched = np.broadcast_to(
            ready.base, (len(ends.senders), len(ends.receivers), *ready.base.shape)
        ).copy()
        done = 0
        for batch in _batches(ready, ends, rows):
            for part, senders in _parts(batch, self._room(batch)):
                prompts = part.prompts.cpu().numpy()
                values = self._measured(part, senders)
                patched[np.ix_(senders, np.arange(len(ends.receivers)), prompts)] = values
                tick(values[..., 0].size)
                done += values[..., 0].size
        tick(len(some) * len(ends.senders) * len(ends.receivers) - done)
        outcome = Outcome(patched.reshape(-1, *ready.base.shape), ready.base, ready.source)
        return outcome, ready.clean_right()[::draws]

    def _measured(self, batch: Batch, senders: np.ndarray) -> np.ndarray:
        """Metrics [sender, receiver, prompt, metric] of some senders on a batch of prompts."""
        facts, ends = self.experiment.facts, self.ends
        cells = [ends.senders[number] for number in senders]
        times = sorted({read_at(facts, place) for cell in ends.receivers for place in cell.places})
        deltas = carry(batch, cells, times)
        first = np.array([min(written(facts, place) for place in cell.places) for cell in cells])
        return receive(batch, deltas, ends.receivers, first)

    def _room(self, batch: Batch) -> int:
        """How many senders fit on one prompt at once: their Δ by time, and what enters of every receiver."""
        facts, budget, ends = self.experiment.facts, self.experiment.room, self.ends
        times = {read_at(facts, place) for cell in ends.receivers for place in cell.places}
        span = batch.stop - int(batch.rows[0])
        row = 3 * facts.d_model + (0 if facts.attn_only else 3 * facts.d_mlp)
        each = len(batch.rows) * (row + len(times) * facts.d_model)
        if not pointwise(ends, facts):
            each += span * (budget.row_bytes() // budget.item_size + facts.n_heads * batch.stop)
        each += len(ends.receivers) * span * 3 * facts.d_model
        fit = max(1, int(budget.limit / 4 / (each * budget.item_size)))
        return fit if budget.batch_size is None else min(fit, budget.batch_size)

    def _dataset(
        self, change: np.ndarray, base: np.ndarray, source: np.ndarray, right: np.ndarray, engine: str
    ) -> xr.Dataset:
        experiment, ends = self.experiment, self.ends
        n, draws, n_metrics = len(experiment.task), experiment.draws, len(experiment.metric)
        by_draw = change.transpose(1, 0, 2) * experiment.signs  # [prompt draw, path, metric]
        effects = by_draw.reshape(n, draws, len(ends.senders), len(ends.receivers), n_metrics)
        lacking = self._lacking().reshape(n, draws, len(ends.senders), len(ends.receivers))[:, 0]
        value = np.where((lacking | ~ends.reachable)[..., None], np.nan, effects.mean(1))
        base, source = (raw.reshape(n, draws, -1).mean(1) for raw in (base, source))
        noise = experiment.contrast.direction == "noise"
        dims = (*ends.dims, *(("receiver",) if ends.several else ()))
        shape = (*ends.shape, *((len(ends.receivers),) if ends.several else ()))
        variables = {
            "value": (("prompt", *dims, "metric"), value.reshape(n, *shape, n_metrics)),
            "clean": (("prompt", "metric"), base if noise else source),
            "corrupt": (("prompt", "metric"), source if noise else base),
            "clean_right": (("prompt",), right),
        }
        coords = {**ends.coords, "metric": [metric.name for metric in experiment.metric]}
        if ends.several:
            coords["receiver"] = np.array([cell.name for cell in ends.receivers], dtype=object)
        coords["reachable"] = (dims, ends.reachable.reshape(shape))
        return results.dataset(variables, coords, self._attrs(engine, lacking), experiment.task)

    def _lacking(self) -> np.ndarray:
        """Prompts that have none of a sender's or of a receiver's positions: [prompt, sender, receiver]."""
        ends, every = self.ends, slice(None)

        def has(cells: Sequence[Any], sending: bool) -> np.ndarray:
            marks = [
                torch.stack([ends.marks(p, every, sending=sending).any(1) for p in cell.places]).any(0)
                for cell in cells
            ]
            return torch.stack(marks, 1).cpu().numpy()  # [prompt, cell]

        return ~(has(ends.senders, True)[:, :, None] & has(ends.receivers, False)[:, None])

    def _attrs(self, engine: str, lacking: np.ndarray) -> dict[str, Any]:
        ends = self.ends
        sites = dict.fromkeys(place.site for cell in ends.senders for place in cell.places)
        more = {
            "receivers": ", ".join(cell.name for cell in ends.receivers),
            "freeze": ends.frozen.name, "norm": ends.norm, "combine": ends.combine,
            "sender_positions": _counted(ends.sender_marks), "engine": engine,
            "receiver_positions": _counted(ends.receiver_marks), "draws": self.experiment.draws,
            "prompts_without_positions": int(lacking.all((1, 2)).sum()),
        }  # fmt: skip
        if ends.norm == "frozen":
            more["approximate"] = "receivers divide by the own run's scale (norm='frozen')"
        return results.attrs(self.experiment, method="path_patch", site=", ".join(sites), **more)


def _counted(marks: torch.Tensor) -> str:
    """Positions as text: the same in every prompt, or how many of each."""
    if bool((marks == marks[:1]).all()):
        return ", ".join(str(pos) for pos in marks[0].nonzero().flatten().tolist())
    low, high = int(marks.sum(1).min()), int(marks.sum(1).max())
    return f"{low} of each prompt" if low == high else f"{low} to {high} of each prompt"


def _require_separable(facts: Anatomy, ends: Ends) -> None:
    """What another model's weights cannot write where some heads are not frozen."""
    sites = {place.site for cell in ends.senders for place in cell.places}
    if "post" in sites or ("z" in sites and facts.post_norm):
        raise ValueError(
            "what neurons of another model write (and its heads, where a norm follows) is known here only on "
            "paths without attention. Use freeze='heads' or 'all'."
        )


def _require_covered(ends: Ends, what: str, two_models: bool) -> None:
    """What hooks on the model itself cannot do."""
    sites = {place.site for cell in ends.senders for place in cell.places}
    if two_models and sites & {"z", "post"}:
        raise ValueError(
            f"heads and neurons of source= write by its own weights, and {what} goes by hooks. Send whole "
            "layers (L3.attn_out, MLP3) or the stream (L3.resid_pre)."
        )
    if ends.norm == "frozen":
        raise ValueError(
            f"norm='frozen' computes the receivers' inputs from the model's own weights, and {what} goes by "
            "hooks. Use norm='exact'."
        )
    if ends.combine == "add" and any(len(cell.places) > 1 for cell in ends.receivers):
        raise ValueError(
            f"combine='add' adds to inputs before their norm, and {what} goes by hooks, where some models "
            "have none. Use combine='replace'."
        )


def _batches(ready: Prepared, ends: Ends, block: slice) -> Iterator[Batch]:
    """Prompts of a block whose changes stand at the same positions. Prompts without any are left out."""
    facts, runs = ready.budget.facts, ready.runs
    pos = torch.arange(runs.n_pos, device=runs.base.device)
    live = (pos >= runs.first_change()[:, None]) & (pos < ready.reads.stop[:, None])
    sending = _somewhere(ends, ends.senders, block, sending=True) & live
    receiving = _somewhere(ends, ends.receivers, block, sending=False) & live
    if not ready.reads.everywhere and _only_logits(ends):
        receiving &= pos == ready.reads.stop[:, None] - 1
    if pointwise(ends, facts):
        rows = sending & receiving
    else:
        rows = sending.cumsum(1).bool() & live  # from the first sending position on
        rows &= receiving.any(1, keepdim=True)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for prompt, (marks, stop) in enumerate(zip(rows.tolist(), ready.reads.stop.tolist())):
        where = tuple(index for index, marked in enumerate(marks) if marked)
        if where:
            groups.setdefault((where, stop), []).append(prompt)
    for (where, stop), prompts in groups.items():
        index = torch.tensor(prompts, device=pos.device)
        yield Batch(ready, ends, index, index + block.start, torch.tensor(where, device=pos.device), stop)


def _somewhere(ends: Ends, cells: Sequence[Cell], block: slice, *, sending: bool) -> torch.Tensor:
    """The positions at which any of the cells acts: [prompt, pos]."""
    by_pos = {place.pos: place for cell in cells for place in cell.places}
    every = [by_pos[None]] if None in by_pos else list(by_pos.values())
    return torch.stack([ends.marks(place, block, sending=sending) for place in every]).any(0)


def _only_logits(ends: Ends) -> bool:
    return all(place.site == "logits" for cell in ends.receivers for place in cell.places)


def _parts(batch: Batch, room: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Prompts and senders that fit at once: as many senders as possible, then as many prompts."""
    every = np.arange(len(batch.ends.senders))
    at_once = min(len(every), room)
    size = max(1, room // at_once)
    for start in range(0, len(batch.prompts), size):
        span = slice(start, start + size)
        part = replace(batch, prompts=batch.prompts[span], numbers=batch.numbers[span])
        for first in range(0, len(every), at_once):
            yield part, every[first : first + at_once]
