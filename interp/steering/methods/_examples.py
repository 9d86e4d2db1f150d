"""Which examples in the context help? Similar activations, against what the examples do.

1. For each example and each query: cos of their activations at the last token, by layer.
2. The effect of the example: the query's margin with the example before it, minus its margin alone.
3. The rank correlation of both over the examples of a query, averaged over queries, beside the same with the
   effects dealt to the examples at random.

Cross-task in-context learning: examples of other tasks, chosen by similarity of activations (2405.10548),
from its abstract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations, one_row
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.positions import AnyPositions
from interp.prompts import Prompts, read
from interp.steering._runs import question_of, runner, score
from interp.tasks import LogitDiff, Task, vocabulary

_ROWS = 128


@verb
def example_effects(
    model: Model,
    task: Task,
    examples: Any,
    *,
    site: str = "resid_pre",
    layer: Layers = None,
    pos: AnyPositions = "last",
    draws: int = 200,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """Whether examples whose activations are like a query's help it, by layer.

    task: the queries, with answers and wrong answers. examples: texts (or a Task, whose clean prompts are
    taken), each put before each query as it is. draws: shuffles of the effects among a query's examples.

    Returns a Dataset with dims prompt, example and layer: `value` [layer], the mean rank correlation of
    similarity and effect, `shuffled` [draw, layer], `p_value` [layer] (two-sided); `effect` [prompt,
    example], the change of the logit difference (positive: the example helps), `clean` [prompt], `similarity`
    [prompt, example, layer]. Cost: a forward of each query, each example and each of their pairs. Raises
    ValueError before any pass for fewer than 3 examples, and texts that are too long together. The model is
    left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> task = interp.tasks.ioi(model, n=4, seed=0)
        >>> texts = ["Mary had a book", "Tom went to the store", "Anna gave a book to Paul"]
        >>> methods.example_effects(model, task, texts, layer=[1, 2])["value"].dims
        ('layer',)
    """
    facts = anatomy(model)
    one_row(pos)
    wanted = vector_places(facts, layer, site)
    queries, shown = read(model, task), read(model, examples, what="examples")
    if len(shown) < 3:
        raise ValueError(f"there are {len(shown)} examples; a rank correlation needs three or more.")
    joined = _joined(model, shown, queries)  # query by query
    n, m = len(queries), len(shown)
    answers = [each.to(queries.tokens.device) for each in (task.answers, task.wrongs)]
    clean = _margins(model, queries, answers, engine)
    pairs = _margins(model, joined, [each.repeat_interleave(m, 0) for each in answers], engine)
    effect = (pairs.view(n, m) - clean[:, None]).cpu().numpy()
    options: dict[str, Any] = {"batch_size": batch_size, "engine": engine}
    one = activations(model, queries, list(wanted), pos, **options)
    other = activations(model, shown, list(wanted), pos, **options)
    similarity = torch.stack([_cosines(one[place], other[place]) for place in wanted], -1).cpu().numpy()
    value = correlation(similarity, effect)
    rng = np.random.default_rng(seed)
    shuffled = np.array([correlation(similarity, rng.permuted(effect, axis=1)) for _ in range(draws)])
    variables: dict[str, Any] = {"value": (("layer",), value), "shuffled": (("draw", "layer"), shuffled)}
    variables["p_value"] = (("layer",), (1 + (abs(shuffled) >= abs(value)).sum(0)) / (1 + draws))
    variables["effect"] = (("prompt", "example"), effect)
    variables["similarity"] = (("prompt", "example", "layer"), similarity)
    variables["clean"] = (("prompt",), clean.cpu().numpy())
    attrs = results.provenance(
        method="example effects", site=site, model=facts.name, task=task.name, seed=seed, n_prompts=n,
        task_fingerprint=task.fingerprint(), metric=[LogitDiff()],
        convention="value = rank correlation of similarity and effect; positive: like examples help",
    )  # fmt: skip
    coords = {"layer": [int(place.layer or 0) for place in wanted], "example": np.arange(m)}
    return results.dataset(variables, coords, attrs, task)


def _cosines(one: Tensor, other: Tensor) -> Float[Tensor, "prompt example"]:
    unit = [torch.nn.functional.normalize(rows.double().flatten(1), dim=-1) for rows in (one, other)]
    return unit[0] @ unit[1].T


def _joined(model: Model, examples: Prompts, queries: Prompts) -> Prompts:
    """Each query behind each example; one beginning token."""
    bos = vocabulary.bos(model)
    rows = [
        [row[:n] for row, n in zip(each.tokens.tolist(), each.lengths.tolist())]
        for each in (queries, examples)
    ]
    tails = [row[1:] if row[0] == bos and len(row) > 1 else row for row in rows[0]]
    return read(model, [head + tail for tail in tails for head in rows[1]])


def _margins(model: Model, rows: Prompts, answers: Sequence[Tensor], engine: str) -> Float[Tensor, "prompt"]:
    out = []
    for part in torch.arange(len(rows), device=rows.tokens.device).split(_ROWS):
        question = question_of(model, rows[part], None, answers[0][part], answers[1][part], LogitDiff())
        clean = runner(model, question, [], engine, 1).clean
        out.append(score(question.reads, clean, clean, torch.arange(len(part), device=clean.device))[:, 0])
    return torch.cat(out)


def correlation(
    similarity: Float[np.ndarray, "prompt example layer"], effect: Float[np.ndarray, "prompt example"]
) -> Float[np.ndarray, "layer"]:
    """Spearman's over the examples of a query, averaged over queries; of equal numbers it is 0."""
    from scipy.stats import rankdata

    one, other = rankdata(similarity, axis=1), rankdata(effect, axis=1)[..., None]
    one, other = (each - each.mean(1, keepdims=True) for each in (one, other))
    size = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return np.where(size > 0, (one * other).sum(1) / np.where(size > 0, size, 1), 0.0).mean(0)
