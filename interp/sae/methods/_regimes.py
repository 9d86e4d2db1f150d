"""Do features make better probes than what they are made of? Sparse probes against strong baselines.

1. Regimes in which dense probes should be weak: few prompts (scarcity), few of one class (imbalance), wrong
   labels (noise), test prompts of another kind (shift).
2. Baselines on the activations: logistic regression, the same on principal components, nearest neighbours,
   mean difference. Sparse probes: logistic regression on the k features with the largest difference of
   standardised means, ranked on the training prompts alone.
3. "best baseline" is the baseline that is best on a third of the training prompts, and "with features"
   chooses among all: what a practitioner gains by adding features to the tools at hand.
4. Every draw takes other training prompts, the same for all probes. AUROC on prompts that no fit or choice
   saw.

Kantamneni et al. 2502.16681 (their finding: no gain). Gradient-boosted trees and MLPs of theirs are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.places import Place
from interp.positions import AnyPositions, require_rows
from interp.probes import splits
from interp.probes._train import logistic
from interp.probes.selectors import auroc
from interp.prompts import Mask, Prompts, read, read_classes
from interp.sae._contexts import encode
from interp.sae._dictionary import Dictionary
from interp.sae._site import read_sites, require, site_name

REGIMES: dict[str, tuple[float, ...]] = {
    "scarcity": (4, 8, 16), "imbalance": (0.1, 0.25), "noise": (0.0, 0.2, 0.4), "shift": (0.0,),
}  # fmt: skip
_L2, _NEIGHBOURS, _COMPONENTS = 1e-2, 5, 8
Probe = Callable[[Tensor, Tensor, Tensor], Tensor]  # train rows, labels, test rows -> scores


@verb
def probe_regimes(
    model: Model,
    dictionary: Dictionary,
    positive: Any,
    negative: Any,
    *,
    shifted: tuple[Any, Any] | None = None,
    regimes: Mapping[str, Sequence[float | int]] | None = None,
    ks: Sequence[int] = (1, 8),
    n_train: int = 32,
    pos: AnyPositions = "last",
    draws: int = 5,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Sparse probes on features beside baselines on the activations, in four regimes (see the steps above).

    shifted: (positive, negative) prompts of another kind, for "shift". regimes: levels of each: training
    prompts of both classes together (scarcity), share of positives (imbalance), share of labels turned
    round (noise), ignored for shift. ks: features of sparse probes. n_train: prompts for all but scarcity.
    Equal prompts of a class count once, so that none is in training and test.

    Returns a Dataset: `value` [case, probe], mean AUROC over draws; `draws` [draw, case, probe]; `gain`
    [case] with its standard error `gain_se`, "with features" less "best baseline". Cost: a forward of each
    prompt as far as the site; fits are small. Raises ValueError for classes that are too small to train and
    test on, prompts in both classes, and shift without prompts. Kantamneni et al. 2502.16681.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_pre")
        >>> task = interp.tasks.ioi(model, n=48)
        >>> cases = {"scarcity": [8]}
        >>> found = sae.methods.probe_regimes(
        ...     model, d, task.clean[:24], task.clean[24:], regimes=cases, draws=2, progress=False
        ... )
        >>> found["value"].dims, found["case"].values.tolist()
        (('case', 'probe'), ['scarcity 8'])
    """
    require(dictionary, model)
    require_rows(pos)
    asked = dict(REGIMES if regimes is None else regimes)
    if regimes is None and shifted is None:
        del asked["shift"]
    cases = _cases(asked, shifted, n_train)
    if not len(ks) or not all(1 <= k <= dictionary.n_features for k in ks) or len(set(ks)) < len(ks):
        raise ValueError(f"ks is {list(ks)}; give 1 to {dictionary.n_features} features, each once.")
    sides = _sides(model, positive, negative, mask, cases)
    options: dict[str, Any] = {"pos": pos, "batch_size": batch_size}
    tables = [_both(model, dictionary, side, options) for side in sides]
    moved = None
    if shifted is not None:
        moved = [_both(model, dictionary, read(model, each), options) for each in shifted]
    probes = [*_BASELINES, *(f"k={k}" for k in ks), "best baseline", "with features"]
    out = np.zeros((draws, len(cases), len(probes)))
    with tqdm(total=draws * len(cases), disable=not progress, desc="probes", unit="fit") as bar:
        for draw in range(draws):
            for number, case in enumerate(cases):
                generator = torch.Generator().manual_seed((seed * 100_003 + draw) % 2**63)
                out[draw, number] = _drawn(tables, moved, case, ks, generator)
                bar.update()
    gain = out[..., -1] - out[..., -2]
    attrs = results.provenance(
        method="sae.probe_regimes", model=anatomy(model).name, site=site_name(dictionary), seed=seed,
        convention="AUROC on prompts that no fit or choice saw; chance is 0.5", 
        n_prompts=sum(map(len, sides)),
        dictionary=repr(dictionary), n_draws=draws,
    )  # fmt: skip
    attrs |= {"metric": "auroc", "unit": "AUROC", "better": "higher"}
    spread = gain.std(0, ddof=1) / draws**0.5 if draws > 1 else np.full(len(cases), np.nan)
    variables = {
        "value": (("case", "probe"), out.mean(0)), "draws": (("draw", "case", "probe"), out),
        "gain": (("case",), gain.mean(0)),
        "gain_se": (("case",), spread),
    }  # fmt: skip
    names = np.array([name for name, *_ in cases], dtype=object)
    return results.dataset(variables, {"case": names, "probe": np.array(probes, dtype=object)}, attrs)


Case = tuple[str, str, int, float, float]  # name, regime, training prompts, share of positives, of noise


def _sides(model: Model, positive: Any, negative: Any, mask: Mask, cases: list[Case]) -> list[Prompts]:
    """The distinct prompts of both classes; ValueError where they are too few to train and test on."""
    sides = _distinct(*read_classes(model, positive, negative, mask))
    largest = [max(each) for each in zip(*(_counts(n, share) for _, _, n, share, _ in cases))]
    if any(len(side) < need + 4 for side, need in zip(sides, largest)):
        raise ValueError(
            f"there are {list(map(len, sides))} prompts that differ, and training takes up to {largest} of "
            "each class; give 4 more of each for the test, or smaller n_train and regimes."
        )
    return sides


def _distinct(*sides: Prompts) -> list[Prompts]:
    """Each side without repetitions, and without what the other side has too: equal prompts would stand in
    training and test."""
    rows = [[tuple(row) for row in splits.token_rows(side)] for side in sides]
    both = set(rows[0]) & set(rows[1])
    if both:
        raise ValueError(f"{len(both)} prompts are in both classes; take these out.")
    first = [sorted({row: i for i, row in reversed(list(enumerate(each)))}.values()) for each in rows]
    return [side[torch.tensor(index)] for side, index in zip(sides, first)]


def _counts(n: int, share: float) -> list[int]:
    """Training prompts of either class, two at least; n together."""
    up = min(max(2, round(n * share)), n - 2)
    return [up, n - up]


def _cases(asked: Mapping[str, Sequence[float | int]], shifted: Any, n_train: int) -> list[Case]:
    """Every level of every regime. ValueError for a level that has no meaning."""
    out: list[Case] = []
    if n_train < 4:
        raise ValueError(f"n_train is {n_train}; 4 prompts or more train a probe.")
    for regime, levels in asked.items():
        if regime not in REGIMES:
            raise ValueError(f"{regime!r} is no regime; there are {', '.join(REGIMES)}.")
        if regime == "shift" and shifted is None:
            raise ValueError(
                "the regime 'shift' needs shifted=(positive, negative), prompts of another kind."
            )
        for level in levels:
            inside = {"scarcity": level >= 4, "imbalance": 0 < level < 1, "noise": 0 <= level < 0.5}
            if not inside.get(regime, True):
                raise ValueError(
                    f"{level} is no level of {regime!r}: 4 prompts or more, a share, noise below 0.5."
                )
            n = int(level) if regime == "scarcity" else n_train
            share = float(level) if regime == "imbalance" else 0.5
            noise = float(level) if regime == "noise" else 0.0
            out.append((regime if regime == "shift" else f"{regime} {level:g}", regime, n, share, noise))
    if not out:
        raise ValueError("regimes is empty; give levels of one at least.")
    return out


def _both(model: Model, d: Dictionary, prompts: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Activations and features of prompts, float64."""
    end = Place(*read_sites(d, model)[0])
    dense = activations(model, prompts, end, options["pos"], batch_size=options["batch_size"]).flatten(1)
    return dense.double(), encode(model, d, prompts, **options).double()


def _drawn(
    tables: list[tuple[Tensor, Tensor]],
    moved: list[tuple[Tensor, Tensor]] | None,
    case: Case,
    ks: Sequence[int],
    generator: torch.Generator,
) -> list[float]:
    """AUROC of every probe on one draw of training prompts."""
    _, regime, n, share, noise = case
    counts = _counts(n, share)
    orders = [torch.randperm(len(table[0]), generator=generator) for table in tables]
    train = [[t[order[:c]] for t in table] for table, order, c in zip(tables, orders, counts)]
    test = [[t[order[c:]] for t in table] for table, order, c in zip(tables, orders, counts)]
    test = [list(each) for each in moved] if regime == "shift" and moved is not None else test
    y = torch.cat((torch.ones(counts[0]), torch.zeros(counts[1]))).double()
    turned = torch.randperm(len(y), generator=generator)[: round(noise * len(y))]
    y[turned] = 1 - y[turned]
    rows = [torch.cat((train[0][kind], train[1][kind])) for kind in (0, 1)]  # dense, features
    fresh = [torch.cat((test[0][kind], test[1][kind])) for kind in (0, 1)]
    truth = torch.cat((torch.ones(len(test[0][0])), torch.zeros(len(test[1][0]))))
    probes: list[tuple[int, Probe]] = [(0, probe) for probe in _BASELINES.values()]
    probes += [(1, _sparse(k)) for k in ks]
    scores = [_area(probe(rows[kind], y, fresh[kind]), truth) for kind, probe in probes]
    held = _validation(y, generator)
    inner = [_area(probe(rows[kind][~held], y[~held], rows[kind][held]), y[held]) for kind, probe in probes]
    best = int(np.argmax(inner[: len(_BASELINES)]))
    return [*scores, scores[best], scores[int(np.argmax(inner))]]


def _validation(y: Tensor, generator: torch.Generator) -> Tensor:
    """A third of each class, one at least, and one at least left."""
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in (0.0, 1.0):
        index = (y == label).nonzero()[:, 0]
        index = index[torch.randperm(len(index), generator=generator)]
        held[index[: min(max(1, len(index) // 3), len(index) - 1)]] = True
    return held


def _area(scores: Tensor, labels: Tensor) -> float:
    up, down = scores[labels > 0.5], scores[labels < 0.5]
    if not len(up) or not len(down):
        return 0.5
    return float(auroc(up[:, None], down[:, None])[0])


def _standard(x: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    middle, scale = x.mean(0), x.std(0).clamp(min=1e-9)
    return (x - middle) / scale, ((fresh - middle) / scale).clamp(-1e3, 1e3)


def _logistic(x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    x, fresh = _standard(x, fresh)
    if float(x.abs().max()) == 0:
        return fresh.new_zeros(len(fresh))
    w, b = logistic(x, y[None], _L2, balanced=True)
    return fresh @ w[0] + b[0]


def _principal(x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    x, fresh = _standard(x, fresh)
    basis = torch.linalg.svd(x, full_matrices=False)[2][:_COMPONENTS]
    return _logistic(x @ basis.T, y, fresh @ basis.T)


def _neighbours(x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    x, fresh = _standard(x, fresh)
    near = torch.cdist(fresh, x).topk(min(_NEIGHBOURS, len(x)), largest=False)
    return (y[near.indices] / (1e-9 + near.values)).sum(1) / (1 / (1e-9 + near.values)).sum(1)


def _difference(x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    return fresh @ (x[y > 0.5].mean(0) - x[y < 0.5].mean(0))


def _sparse(k: int) -> Probe:
    def probe(x: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
        seen, _ = _standard(x, x)
        gap = seen[y > 0.5].mean(0) - seen[y < 0.5].mean(0)
        chosen = gap.abs().topk(min(k, len(gap))).indices
        return _logistic(x[:, chosen], y, fresh[:, chosen])

    return probe


_BASELINES: dict[str, Probe] = {
    "logistic": _logistic, "principal components": _principal, "neighbours": _neighbours,
    "mean difference": _difference,
}  # fmt: skip
