"""Optimal ablation: the constant in the place of an activation under which the model loses least.

1. Every cell (a head's z, an MLP, the stream of a layer) has a constant c, the same for all prompts and
   positions. It begins at the mean of the activation over the prompts' real tokens.
2. A step runs every cell on every prompt with its constant in place, alone, and follows the slope of the mean
   loss in c down (Adam, in units of the activation's root mean square, with a rate that falls to 0).
3. The constant of a cell is the one with the lowest mean loss among all steps, the mean, and zero. So on
   these prompts no cell loses more than under zero or under that mean.

What is left of the loss is what the cell's *variation* is worth: zero and mean ablation also count the harm
of a value that the model never sees. Li & Janson 2024 (2409.09951).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp._verbs import verb
from interp.ablation import Mean, Optimal, make_runs, site_means
from interp.attribution._by_hooks import autograd_on
from interp.engine.readout import Reads, Scores
from interp.engine.runs import Runs
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.models import Model, logits
from interp.places import hint, hook_name
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric

SITES = ("z", "attn_out", "mlp_out", "resid_pre", "resid_post")
_PARTS_OF_CIRCUITS = ("z", "mlp_out", "resid_pre")
Place = tuple[str, int]


@verb
def optimal_ablation(
    model: Model,
    task: Task,
    sites: str | Sequence[str] = "z",
    *,
    steps: int = 100,
    learning_rate: float | int = 0.1,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> Optimal:
    """The constant for every cell of some sites that spoils the task least when it stands in for the cell.

    sites: of `z` (a constant for each head), `attn_out`, `mlp_out`, `resid_pre`, `resid_post` (for each
        layer); "circuit" for what a circuit needs: z, mlp_out and the input.
    steps, learning_rate (in root mean squares of the activation): of the training.
    metric: the loss, one, KL from the clean run by default; any with a gradient. Its unit is the loss's.
    batch_size: runs at once; by default as many as `memory` (bytes above the model's own) allows.

    Returns an ablation for `patch(..., ablation=)`, and for circuits (of the sites "circuit"): `values`, the
    constants [head, d_head] or [d_model] by (site, layer); `losses` [3, cell] under them, under the mean, and
    under zero, lower is better. It is fitted to these prompts: judge on others.

    Cost: a forward and a backward for each cell, prompt and step. Deterministic. Raises ValueError for
    anything wrong with the request, before the first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> optimal = interp.optimal_ablation(model, task, steps=3, progress=False)
        >>> loss, mean, zero = optimal.losses["z", 0]
        >>> bool((loss <= mean).all() and (loss <= zero).all())
        True
        >>> interp.patch(model, task, "z", ablation=optimal, progress=False).attrs["direction"]
        'noise'
    """
    listed = (
        _PARTS_OF_CIRCUITS if sites == "circuit" else (sites,) if isinstance(sites, str) else tuple(sites)
    )
    experiment = prepare(
        model, task, ablation="zero", direction="noise", metric=KL() if metric is None else metric,
        batch_size=batch_size, memory=memory, progress=progress,
    )  # fmt: skip
    places = _places(experiment, listed, only_input=sites == "circuit")
    _check(experiment.metric, steps, learning_rate)
    with torch.inference_mode(False), torch.no_grad():
        means = _means(experiment, places)
        runs = make_runs(model, task, experiment.contrast.ablation, "noise", ()).outside_inference()
    with autograd_on():
        return _Training(experiment, runs, means).run(steps, float(learning_rate))


def _places(experiment: Experiment, sites: tuple[str, ...], only_input: bool) -> list[Place]:
    facts = experiment.facts
    if only_input and facts.attn_only:
        sites = tuple(site for site in sites if site != "mlp_out")
    if not sites:
        raise ValueError(f"sites is empty; give some of {', '.join(SITES)}, or 'circuit'.")
    for site in sites:
        if site not in SITES:
            known = (*SITES, "circuit")
            raise ValueError(
                f"site {site!r} has no optimal constant; use {', '.join(known)}{hint(site, known)}"
            )
        if reason := facts.lacks(site):
            raise ValueError(f"site {site!r} does not exist here: {reason}.")
    layers = {site: (0,) if only_input and site == "resid_pre" else facts.layers(site) for site in sites}
    return [(site, layer) for site in sites for layer in layers[site]]


def _check(metrics: tuple[Metric, ...], steps: int, learning_rate: float | int) -> None:
    measure, *others = metrics
    if others:
        names = ", ".join(each.name for each in metrics)
        raise ValueError(f"constants are learned for one loss, and got {names}. Give one of them.")
    if not measure.differentiable:
        raise ValueError(
            f"metric {measure.name!r} has no gradient (it counts). Use KL, LogitDiff or LogProb."
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; a whole number, at least 1, is needed.")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate!r}; it must be above 0.")


def _means(experiment: Experiment, places: list[Place]) -> dict[Place, Float[Tensor, "..."]]:
    """The mean of every place over the real tokens of the clean prompts, float64."""
    task, sites = experiment.task, tuple(dict.fromkeys(site for site, _ in places))
    clean = task.without_corrupt()
    by_position = site_means(experiment.model, clean, Mean(), sites)
    pos = torch.arange(task.clean.shape[1], device=task.lengths.device)
    share = (pos < task.lengths[:, None]).double().sum(0)  # [pos]
    share = share / share.sum()
    return {place: torch.tensordot(share.to(by_position[place]), by_position[place], 1) for place in places}


@dataclass(eq=False)
class _Training:
    """All cells of all places at once; each is ablated alone, in rows of its own."""

    experiment: Experiment
    runs: Runs
    means: dict[Place, Tensor]

    def __post_init__(self) -> None:
        # a cell is a place and, at z, a head: constants are rows [cell, d] of its place
        self.rows = {place: mean if place[0] == "z" else mean[None] for place, mean in self.means.items()}
        self.cells = [(place, row) for place, rows in self.rows.items() for row in range(len(rows))]
        self.sign = -self.experiment.metric[0].sign
        reads = Reads(self.runs, self.experiment.metric)
        with torch.no_grad():
            self.clean = Scores(reads).pick(logits(self.experiment.model, self.runs.base))

    def run(self, steps: int, rate: float) -> Optimal:
        zero = {place: torch.zeros_like(rows) for place, rows in self.rows.items()}
        size = {place: rows.square().mean(1, keepdim=True).sqrt() for place, rows in self.rows.items()}
        size = {place: each.where(each > 0, torch.ones_like(each)) for place, each in size.items()}
        with torch.no_grad():
            of_zero, of_mean = self._losses(zero), self._losses(self.rows)
        best, least = {}, {}
        for place, rows in self.rows.items():
            better = (of_zero[place] < of_mean[place])[:, None]
            best[place] = torch.where(better, zero[place], rows).clone()
            least[place] = torch.minimum(of_zero[place], of_mean[place])
        moved = {place: torch.zeros_like(rows, requires_grad=True) for place, rows in self.rows.items()}
        adam = torch.optim.Adam(list(moved.values()), lr=rate)
        quiet = not self.experiment.budget.progress
        for step in tqdm(range(steps), disable=quiet, desc="optimal ablation", unit="step"):
            adam.param_groups[0]["lr"] = rate * (1 - step / steps)
            with torch.no_grad():
                now = {place: self.rows[place] + size[place] * moved[place] for place in moved}
            losses = self._losses({place: each.requires_grad_(True) for place, each in now.items()})
            for place, loss in losses.items():
                slope = now[place].grad
                moved[place].grad = None if slope is None else size[place] * slope
                lower = loss < least[place]
                least[place][lower], best[place][lower] = loss[lower], now[place].detach()[lower]
            adam.step()
        values = {place: rows if place[0] == "z" else rows[0] for place, rows in best.items()}
        return Optimal(values, {p: torch.stack((least[p], of_mean[p], of_zero[p])) for p in values})

    def _losses(self, constants: dict[Place, Tensor]) -> dict[Place, Float[Tensor, "cell"]]:
        """The mean loss of every cell under its constant; where these are leaves, `.grad` is its slope."""
        out: dict[Place, list[Tensor]] = {place: [] for place in self.rows}
        for some in self._batches():
            loss = self._alone(some, constants)
            if torch.is_grad_enabled():
                _differentiate(loss, {place: constants[place] for place, _ in some})
            for (place, _), each in zip(some, loss.detach()):
                out[place].append(each)
        return {place: torch.stack(losses) for place, losses in out.items()}

    def _alone(self, some: list[tuple[Place, int]], constants: dict[Place, Tensor]) -> Float[Tensor, "cell"]:
        """The mean loss of some cells, each in its own rows: [cell · prompt, pos]."""
        n = len(self.runs)
        index = torch.arange(n, device=self.runs.base.device).repeat(len(some))
        runs = self.runs.take(index)
        hooks = []
        for place in dict.fromkeys(place for place, _ in some):
            mine = [(i, row) for i, (each, row) in enumerate(some) if each == place]
            hooks.append((hook_name(*place), _puts(place[0], mine, constants[place], n)))
        with self.experiment.model.hooks(fwd_hooks=hooks):
            out = logits(self.experiment.model, runs.base)
        scores = Scores(Reads(runs, self.experiment.metric))
        value = scores(scores.pick(out), self.clean[index])[:, 0]
        return self.sign * value.unflatten(0, (len(some), n)).mean(1)

    def _batches(self) -> Iterator[list[tuple[Place, int]]]:
        """As many cells at once as their runs, with their graphs, fit in memory."""
        facts, room = self.experiment.facts, self.experiment.room
        n, n_pos = self.runs.base.shape
        each = room.run_bytes(n_pos, facts.d_vocab_out, True) + facts.n_layers * n_pos * room.row_bytes()
        size = room.batch_size or max(1, int(room.limit // each))
        step = max(1, size // n)
        for first in range(0, len(self.cells), step):
            yield self.cells[first : first + step]


def _puts(site: str, mine: list[tuple[int, int]], constants: Float[Tensor, "cell d"], n: int):
    """A hook that puts each cell's constant in its own rows; (cell of the batch, row of `constants`)."""

    def hook(tensor: Tensor, hook: object) -> Tensor:
        out = tensor.clone()
        for cell, row in mine:
            rows = slice(cell * n, (cell + 1) * n)
            if site == "z":
                out[rows, :, row] = constants[row].to(out)
            else:
                out[rows] = constants[row].to(out)
        return out

    return hook


def _differentiate(loss: Float[Tensor, "cell"], constants: dict[Place, Tensor]) -> None:
    """Add the slopes of some cells' losses to the `.grad` of the constants."""
    slopes = torch.autograd.grad(loss.sum(), list(constants.values()), allow_unused=True)
    for (site, layer), constant, slope in zip(constants, constants.values(), slopes):
        if slope is None:
            raise ValueError(
                f"no gradient reaches {site} of layer {layer}: the model does not go on with what its hook "
                "point gives. Load it with eager attention."
            )
        if not bool(torch.isfinite(slope).all()):
            raise ValueError("the slope of the loss is not finite. Load the model in float32.")
        constant.grad = slope if constant.grad is None else constant.grad + slope
