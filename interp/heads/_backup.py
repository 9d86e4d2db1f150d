"""Back-up heads and self-repair: what steps in when heads are knocked out, and how much it gives back.

1. Run the clean prompts intact, and with the heads K ablated (resample or mean; zeros would leave the
   distribution). Direct effects are shares of the logit difference through the final norm.
2. backup(j) = direct effect of head j with K out − intact, for every other head; with the norm's scale
   *frozen* at the intact run's, and *recomputed*. A stream that shrinks scales everything up: that is the
   norm, and no head steps in. The frozen column does not have it.
3. Self-repair = DE(K) − TE(K): what K's writes are worth directly, less what the logit difference loses. As a
   share of DE(K) only where the interval of that does not hold 0.
4. `restored` (on demand): head j put back to its intact value while K is out; what the logit difference
   loses by it is what j's change gave back by all paths. Not defined for heads that K does not reach.

McGrath et al. 2307.15771; Rushing & Nanda 2402.15390 (of a direct effect the norm alone gives back about 30
%).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp import results, stats
from interp._verbs import verb
from interp.ablation import Ablation, Constants, Gaussian, Zero
from interp.attribution._direct import Hooks, Shares, require_difference, shares_of
from interp.attribution.rules import check_hooks
from interp.experiment import Experiment, prepare
from interp.heads._patterns import head_names
from interp.models import Anatomy, Model, attentions, attn_out_norm, logits
from interp.patching._matched import places_of
from interp.places import hook_name
from interp.tasks import LogitDiff, Task

Head = tuple[int, int]  # layer, head
NORMS = ("frozen", "recomputed")
_ROWS = 32  # prompts at once


@verb
def backup(
    model: Model,
    task: Task,
    heads: Sequence[str],
    *,
    restore: bool = False,
    ablation: str | Ablation = "resample",
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Who steps in when heads are knocked out on the clean prompts, and how much of the loss comes back.

    heads: names, knocked out together. restore: also put each later head back alone, one forward each.
    ablation: "resample" or "mean".

    Returns a Dataset, in logits: `value` [prompt, norm, layer, head], the change of each head's direct effect
    under both norms, NaN for the heads that are out; `direct` [prompt, layer, head], intact; `direct_effect`,
    `total_effect` and `repair` [prompt] of the heads together; `share`, `low`, `high`, self-repair as a share
    of the direct effect (ratio of means), NaN where the interval of the direct effect holds 0; with
    `restore`, `restored` [prompt, layer, head]. Positive helps the answer.

    Cost: three forwards a prompt, and with `restore` one for every head in a layer above the lowest of those
    that are out. Raises ValueError as `attribution.direct`, for places that are no heads, and zero ablation.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> found = interp.heads.backup(model, task, ["L2H2"], progress=False)
        >>> found["value"].dims
        ('prompt', 'norm', 'layer', 'head')
    """
    with torch.no_grad():
        experiment = prepare(
            model, task, ablation=ablation, direction="noise", metric=LogitDiff(), seed=seed,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
        require_difference(task)
        check_hooks(model)
        out = _heads_out(experiment, heads)
        runs = [_Block(experiment, out, rows, restore) for rows in _batches(experiment)]
        n_runs = len(runs) * (len(_above(experiment.facts, out)) if restore else 0)
        with tqdm(total=n_runs, disable=not progress or not n_runs, desc="restore", unit="run") as bar:
            columns = [run.measured(bar) for run in runs]
    arrays = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
    return _dataset(experiment, out, arrays, level, seed)


def _heads_out(experiment: Experiment, heads: Sequence[str]) -> list[Head]:
    places = places_of(experiment.facts, experiment.task.clean.shape[1], heads)
    for one in places:
        if one.site != "z" or one.layer is None or one.head is None or one.pos is not None:
            raise ValueError(f"{one} is no head; give names such as 'L9H6'.")
    if isinstance(experiment.contrast.ablation, (Zero, Gaussian, Constants)):
        raise ValueError(
            f"{experiment.contrast.ablation.kind} ablation leaves the distribution that other heads "
            "know, and what steps in then says little. Use ablation='resample' or 'mean'."
        )
    return [(one.layer or 0, one.head or 0) for one in places]


def _batches(experiment: Experiment) -> list[slice]:
    n, size = len(experiment.task), experiment.budget.batch_size or _ROWS
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _above(facts: Anatomy, out: list[Head]) -> list[Head]:
    """Heads that the ablation can reach and that are not out themselves."""
    lowest = min(layer for layer, _ in out)
    every = ((layer, head) for layer in range(lowest + 1, facts.n_layers) for head in range(facts.n_heads))
    return [each for each in every if each not in out]


@dataclass(frozen=True, eq=False)
class _Block:
    """Some prompts, intact and with the heads out."""

    experiment: Experiment
    out: list[Head]
    rows: slice
    restore: bool

    def measured(self, bar: tqdm) -> dict[str, np.ndarray]:
        model, facts = self.experiment.model, self.experiment.facts
        task = self.experiment.task[self.rows]
        own: dict[int, Tensor] = {}
        source = self._source()
        keep = [(hook_name("z", layer), partial(_keep, own, layer)) for layer in range(facts.n_layers)]
        intact = shares_of(model, facts, task, "clean", True, keep)
        ablate = [(hook_name("z", layer), partial(_put, head, source[layer])) for layer, head in self.out]
        without = shares_of(model, facts, task, "clean", True, ablate)
        direct = _by_head(facts, intact.values)
        with_out = _by_head(facts, without.values)
        frozen = with_out * (without.scale / intact.scale)[..., None]
        value = torch.stack((frozen - direct, with_out - direct), 1)  # [prompt, norm, layer, head]
        for layer, head in self.out:
            value[:, :, layer, head] = torch.nan
        effect = self._direct_effect(task, intact, own, source)
        total = intact.total - without.total
        out = {"value": value, "direct": direct, "direct_effect": effect, "total_effect": total}
        if self.restore:
            out["restored"] = self._restored(task, ablate, own, without, bar)
        return {name: column.double().cpu().numpy() for name, column in out.items()}

    def _source(self) -> dict[int, Float[Tensor, "prompt pos head d_head"]]:
        """What stands in for z, at the layers of the heads that are out."""
        runs = self.experiment.runs(("z",)).take(self.rows)
        kept: dict[int, Tensor] = {}
        layers = {layer for layer, _ in self.out}
        hooks = [(hook_name("z", layer), partial(_keep, kept, layer)) for layer in layers]
        with self.experiment.model.hooks(fwd_hooks=hooks):
            logits(self.experiment.model, runs.source)
        return {n: z if runs.fill is None else runs.fill("z", n, z) for n, z in kept.items()}

    def _direct_effect(
        self, task: Task, intact: Shares, own: dict[int, Tensor], source: dict[int, Tensor]
    ) -> Float[Tensor, "prompt"]:
        """What the heads' own writes are worth, by the intact run's norm, less what stands in is."""
        model, at = self.experiment.model, task.positions.to(intact.total.device)
        total, attns = torch.zeros_like(intact.total), attentions(model)
        for layer in sorted(own.keys() & source.keys()):
            gone = [head for at_layer, head in self.out if at_layer == layer]
            change = (own[layer] - source[layer])[torch.arange(len(at)), at][:, gone].to(intact.values)
            write = torch.einsum("phd,hdm->pm", change, attns[layer].W_O[gone].to(change))
            if attn_out_norm(model, model.blocks[layer]) is not None:
                raise ValueError(
                    "a norm stands between what attention writes and the stream, so that heads have no "
                    "direct effect of their own. Use interp.patch."
                )
            total = total + intact.of_write(write)
        return total

    def _restored(
        self, task: Task, ablate: Hooks, own: dict[int, Tensor], without: Shares, bar: tqdm
    ) -> Float[Tensor, "prompt layer head"]:
        model, facts = self.experiment.model, self.experiment.facts
        lost = without.total.new_full((len(task), facts.n_layers, facts.n_heads), torch.nan)
        for layer, head in _above(facts, self.out):
            hooks = [*ablate, (hook_name("z", layer), partial(_put, head, own[layer]))]
            lost[:, layer, head] = without.total - shares_of(model, facts, task, "clean", True, hooks).total
            bar.update(1)
        return lost


def _keep(kept: dict[int, Tensor], layer: int, tensor: Tensor, hook: Any) -> Tensor:
    kept[layer] = tensor.detach().clone()
    return tensor


def _put(head: int, source: Tensor, tensor: Tensor, hook: Any) -> Tensor:
    out = tensor.clone()
    out[:, :, head] = source[:, :, head].to(tensor)
    return out


def _by_head(facts: Anatomy, shares: Float[Tensor, "prompt component"]) -> Tensor:
    """The heads' columns of shares of all components: [prompt, layer, head]."""
    each = facts.n_heads + 1 + (not facts.attn_only)  # heads, the bias of attention, the MLP
    layers = shares[:, 1:-1].unflatten(1, (facts.n_layers, each))
    return layers[..., : facts.n_heads]


def _dataset(
    experiment: Experiment, out: list[Head], arrays: dict[str, np.ndarray], level: float, seed: int
) -> xr.Dataset:
    facts = experiment.facts
    arrays["repair"] = arrays["direct_effect"] - arrays["total_effect"]
    by_head = ("prompt", "layer", "head")
    dims = {"value": ("prompt", "norm", "layer", "head"), "direct": by_head, "restored": by_head}
    attrs = results.attrs(
        experiment, method="backup", site="z", level=level,
        heads=", ".join(f"L{layer}H{head}" for layer, head in out),
        convention="value = direct effect with the heads out - intact; positive: the head steps in",
    )  # fmt: skip
    coords: dict[str, Any] = {
        "norm": list(NORMS),
        "layer": range(facts.n_layers),
        "head": range(facts.n_heads),
    }
    coords["head_name"] = head_names(range(facts.n_layers), facts)
    variables = {name: (dims.get(name, ("prompt",)), array) for name, array in arrays.items()}
    result = results.dataset(variables, coords, attrs, experiment.task)
    return result.assign(_share(result, level, seed))


def _share(result: xr.Dataset, level: float, seed: int) -> dict[str, Any]:
    """Self-repair over the direct effect, with its interval; NaN where the latter may be 0."""
    nothing: dict[str, Any] = dict.fromkeys(("share", "share_low", "share_high"), ((), np.nan))
    if result.sizes["prompt"] < 2:
        return nothing
    effect = result["direct_effect"]
    kept = xr.Dataset(
        {"value": effect.expand_dims(cell=1, axis=1), "clean": effect, "corrupt": effect * 0},
        attrs=result.attrs,
    )
    ends = stats.bootstrap(kept, level=level, seed=seed)
    if float(ends["low"][0]) <= 0 <= float(ends["high"][0]):
        return nothing
    shares = kept.assign(value=result["repair"].expand_dims(cell=1, axis=1))
    ends = stats.bootstrap(shares, level=level, seed=seed, statistic="normalised")
    names = {"share": "estimate", "share_low": "low", "share_high": "high"}
    return {str(name): ((), float(ends[column][0])) for name, column in names.items()}
