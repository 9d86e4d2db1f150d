"""What the model writes, unsteered and steered, beside both controls.

1. Prompts are continued without steering, with the direction, with a random direction, and with that of
   shuffled labels.
2. At a coefficient the vectors are of equal length. At a target KL each of the three has its own coefficient
   (`calibrate`), so that all change the next token after the prompts by as much.
3. Of each text: the KL of the next token after the prompt, the loss of the text under the unsteered model
   (high where steering has broken it), and the share of repeated pairs of tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.positions import AnyPositions, everywhere, parse
from interp.prompts import Prompts, read
from interp.steering._controls import controls
from interp.steering._direction import Direction
from interp.steering._generate import (
    WRITES_NOTHING,
    Draws,
    check_run,
    end_ids,
    generate,
    require_next_tokens,
)
from interp.steering._intervention import flat
from interp.steering._steer import own_weights
from interp.steering._sweep import sweep
from interp.steering.edits import add, added
from interp.steering.measures import calibrate, repetition
from interp.tasks import vocabulary
from interp.tasks.metrics import KL


@verb
def side_by_side(
    model: Model,
    prompts: Any,
    direction: Direction,
    coefficient: float | int | None = None,
    *,
    target_kl: float | int | None = None,
    when: AnyPositions = everywhere,
    max_new_tokens: int = 20,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Any = None,
    mask: Tensor | None = None,
    seed: int = 0,
    engine: str = "auto",
) -> xr.Dataset:
    """Continuations by run ("base", "steered", "random", "shuffled") and prompt.

    prompts: strings, token ids or a Task. direction: with one place. Give `coefficient`, or `target_kl` in
    nats. stop: as in `generate`: None for the end of the text. Variables: `text` (prompt, run); `coefficient`
    (run), 0 for base; `kl`, `loss` (nats a token) and `repetition` (prompt, run). seed: of the random
    direction, and of what is drawn at a temperature. Coordinate `prompt_text`. "shuffled" is there where the
    direction has it.

    engine: as in `generate`; the attribute `engine` names it. Raises ValueError before any pass.
    `report.write` shows the result as a page.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp import steering
        >>> d = steering.mean_difference(model, up, down, layer=1)
        >>> wrote = steering.side_by_side(model, task[:2], d, 1.0, max_new_tokens=2)
        >>> wrote["run"].values.tolist()
        ['base', 'steered', 'random', 'shuffled']
    """
    require_next_tokens(model, WRITES_NOTHING)
    if (coefficient is None) == (target_kl is None):
        raise ValueError("give coefficient= or target_kl=, one of them.")
    rows = read(model, prompts, mask)
    check_run(model, rows, max_new_tokens, Draws(temperature, top_k, top_p, seed))
    stops = end_ids(model, rows, stop)
    direction = direction.check(model).require_any()
    chosen = _engine(model, direction, rows, when, max_new_tokens, engine)
    runs = _runs(model, direction, rows, coefficient, target_kl, when, seed, chosen)
    drawn: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    drawn |= {"max_new_tokens": max_new_tokens, "stop": stop, "engine": chosen}
    ids, kl = [], []
    for vector, step in runs.values():
        edits = () if step == 0 else added(vector, [vector], step, when=when)
        whole = generate(model, rows, edits, **drawn)
        column = rows.lengths[:, None] + torch.arange(whole.shape[1], device=whole.device)
        ids.append(_continuations(whole, column, max_new_tokens))
        quiet: dict[str, Any] = {"with_controls": False, "engine": chosen, "progress": False}
        one = sweep(model, vector, rows, [step], metric=KL(), when=when, **quiet)
        kl.append(one["raw"].isel(layer=0, coefficient=0).values)
    ends = [_lengths(new, stops) for new in ids]
    return _dataset(model, direction, rows, runs, ids, ends, np.stack(kl), (when, seed, temperature, chosen))


def _engine(
    model: Model, direction: Direction, rows: Prompts, when: AnyPositions, n_new: int, engine: str
) -> str:
    """ "fast" or "reference", for all that follows."""
    made = [each.check(model) for each in flat(add(direction, 0.0, when=when))]
    limit, reach = vocabulary.context(model), int(rows.lengths.max()) + n_new
    weights = own_weights(
        model, made, rows.tokens, rows.lengths, reach=min(reach, limit or reach), engine=engine,
        instead=f"a pass of {len(rows):,} rows through the model and its hooks for every token",
    )  # fmt: skip
    return "reference" if weights is None else "fast"


def _runs(
    model: Model,
    direction: Direction,
    rows: Prompts,
    coefficient: float | int | None,
    target_kl: float | int | None,
    when: AnyPositions,
    seed: int,
    engine: str,
) -> dict[str, tuple[Direction, float]]:
    """The direction and the coefficient of each run."""
    if len(direction.places) != 1:
        names = ", ".join(map(str, direction.places))
        raise ValueError(f"side_by_side takes a direction with one place, this has {names}. Use .at(...).")
    if coefficient is not None:
        add(direction, coefficient, when=when)  # its checks
    found = {"steered": direction}
    found |= {name: parts[0] for name, parts in controls([direction], seed).items() if parts[0] is not None}
    out = {"base": (direction, 0.0)}
    for name, vector in found.items():
        step = coefficient
        if step is None:
            step = calibrate(model, vector, rows, target_kl or 0.0, when=when, engine=engine).coefficient
        out[name] = (vector, float(step))
    return out


def _continuations(whole: Tensor, column: Tensor, n_new: int) -> Tensor:
    """The generated tokens [prompt, new]; a run that ended early is shorter than n_new."""
    column = column[:, :n_new]
    inside = column < whole.shape[1]
    return whole.gather(1, column.clamp(max=whole.shape[1] - 1)).masked_fill(~inside, -1)


def _lengths(new: Tensor, stop: Tensor) -> Tensor:
    """How many tokens of each row count: up to the first stop id, or to what was generated."""
    ends = (new == -1) | torch.isin(new, stop)
    first = torch.where(ends.any(1), ends.int().argmax(1), torch.full_like(new[:, 0], new.shape[1]))
    return first.clamp(min=1)


def _dataset(
    model: Model,
    direction: Direction,
    rows: Prompts,
    runs: dict[str, tuple[Direction, float]],
    ids: list[Tensor],
    ends: list[Tensor],
    kl: np.ndarray,
    how: tuple[AnyPositions, int, float | int, str],
) -> xr.Dataset:
    texts = [_texts(model, new, end) for new, end in zip(ids, ends)]
    losses = [_loss(model, rows, new, end) for new, end in zip(ids, ends)]
    repeats = [_repeats(new, end) for new, end in zip(ids, ends)]
    two = ("prompt", "run")
    when, seed, temperature, engine = how
    texts_of_prompts = np.array(_prompt_texts(model, rows), dtype=object)
    variables = {
        "text": (two, np.array(texts, dtype=object).T),
        "coefficient": (("run",), np.array([step for _, step in runs.values()])),
        "kl": (two, kl.T),
        "loss": (two, np.stack(losses, 1)),
        "repetition": (two, np.stack(repeats, 1)),
    }
    coords = {"prompt": np.arange(len(rows)), "run": list(runs), "prompt_text": ("prompt", texts_of_prompts)}
    attrs = results.provenance(
        method="generations",
        convention="kl: from the unsteered run, next token after the prompt; loss: under that run",
        model=anatomy(model).name,
        site=str(direction.place),
        n_prompts=len(rows),
        seed=seed,
        direction_method=direction.method,
        when=repr(parse(when)),
        temperature=float(temperature),
        engine=engine,
    )
    return results.dataset(variables, coords, attrs)


def _prompt_texts(model: Model, rows: Prompts) -> list[str]:
    """The prompts as they were given, or decoded, without the token that begins every sequence."""
    if rows.texts is not None:
        return list(rows.texts)
    skip = (
        int(bool((rows.tokens[:, 0] == vocabulary.bos(model)).all()))
        if vocabulary.bos(model) is not None
        else 0
    )
    return _texts(model, rows.tokens[:, skip:], rows.lengths - skip)


def _texts(model: Model, ids: Tensor, ends: Tensor) -> list[str]:
    """Rows as strings; ids parted by blanks where the model has no tokenizer."""
    cut = [row[:end] for row, end in zip(ids.tolist(), ends.tolist())]
    if not vocabulary.has_tokenizer(model):
        return [" ".join(map(str, row)) for row in cut]
    return [vocabulary.decode(model, [token for token in row if token >= 0]).strip() for row in cut]


def _loss(model: Model, rows: Prompts, new: Tensor, ends: Tensor) -> np.ndarray:
    """Mean loss of each text under the model without steering, in nats a token."""
    out = []
    for i, (length, end) in enumerate(zip(rows.lengths.tolist(), ends.tolist())):
        whole = torch.cat((rows.tokens[i, :length], new[i, :end]))[None]
        with torch.no_grad():
            log = logits(model, whole[:, :-1])[0, length - 1 :].double().log_softmax(-1)
        out.append(-log.gather(1, new[i, :end, None]).mean().item())
    return np.array(out)


def _repeats(new: Tensor, ends: Tensor) -> np.ndarray:
    """Share of pairs of tokens that have come before; 0 for texts of one or two tokens."""
    rows = zip(new, ends.tolist())
    return np.array([repetition(row[None, :end]).item() if end > 2 else 0.0 for row, end in rows])
