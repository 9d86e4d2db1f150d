"""Does a model notice that something was put into its activations, and what? Rates, beside their controls.

1. A concept's vector is the activation at the end of a prompt about its word, minus the mean over the same
   prompt about other words (`concept_vectors`).
2. `strength` times the vector is added while the model is asked whether it notices anything. A judge gives a
   number for the answer, above 0 for "yes": a margin of logits (`probes.Question`), or any function.
3. Detection is the share of concepts that are noticed; a false alarm is a "yes" with nothing added; a
   *random* vector of the same norm says how much of the detection is the mere push. Identification is the
   share of concepts whose own name is the likeliest of all names. All by layer and strength.

A direction that is ablated at the same time (refusal, say) raises or lowers the rates: give it as an
intervention. Emergent Introspective Awareness (Lindsey, Transformer Circuits 2025) and its mechanisms; the
vectors and rates are from the public code, the margin in the place of a judging model is ours.
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
from interp._activations import activations, one_row
from interp._verbs import verb
from interp.lens._readout import token_ids
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.places import Place
from interp.positions import AnyPositions
from interp.probes._question import answer_logits
from interp.prompts import Prompts, read
from interp.stats._shares import check_level, share_interval
from interp.steering._controls import random_like
from interp.steering._direction import Direction, found_on
from interp.steering._intervention import Intervention, flat
from interp.steering.edits import add

Detect = Callable[..., Tensor]  # (model, prompts, *interventions) -> numbers [prompt], above 0: noticed


@verb
def concept_vectors(
    model: Model,
    words: Sequence[str],
    baseline: Sequence[str],
    *,
    template: str = "Tell me about {}",
    site: str = "resid_pre",
    layer: Layers = None,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> dict[str, Direction]:
    """h(template with the word) − the mean of h(template with each baseline word), for each word, by layer.

    template: with {} where the word goes. Cost: a forward of each word's prompt as far as the last layer.
    Raises ValueError before it for words that come twice, a template without {}, no baseline.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> options = {"template": "{} had a", "layer": 1}
        >>> found = methods.concept_vectors(model, ["Mary", "Tom"], ["Anna", "Paul"], **options)
        >>> sorted(found)
        ['Mary', 'Tom']
    """
    if "{}" not in template:
        raise ValueError(f"template is {template!r}; give a text with {{}} where the word goes.")
    if not len(words) or not len(baseline) or len(set(words)) < len(words):
        raise ValueError(f"there are {len(words)} words and {len(baseline)} of the baseline; give each once.")
    one_row(pos)
    wanted = vector_places(anatomy(model), layer, site)
    texts = [template.replace("{}", word) for word in (*words, *baseline)]
    rows = activations(model, texts, list(wanted), pos, batch_size=batch_size)
    n = len(words)
    vectors = {
        place: (rows[place][:n].double() - rows[place][n:].double().mean(0)).to(rows[place])
        for place in wanted
    }
    norms = {place: float(rows[place].double().norm(dim=-1).median()) for place in wanted}
    return {
        word: Direction(
            {place: vectors[place][i] for place in wanted}, **found_on(model), method=f"concept: {word}",
            positions=pos if isinstance(pos, str) else repr(pos), norms=norms,
        )
        for i, word in enumerate(words)
    }  # fmt: skip


@verb
def introspection(
    model: Model,
    prompts: Any,
    concepts: Mapping[str, Direction],
    detect: Detect,
    *interventions: Any,
    strengths: Sequence[float] = (1.0, 2.0, 4.0),
    names: Mapping[str, str | int] | None = None,
    when: AnyPositions = "all",
    level: float = 0.95,
    seed: int = 0,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """How often an added concept is noticed and named, by layer and strength, beside random vectors.

    prompts: the question, ready for its answer (one, or several wordings). concepts: of `concept_vectors`;
    their layers are those of the result. detect: a judge (model, prompts, *interventions) -> numbers
    [prompt], above 0 for "noticed", as `probes.Question(" yes", " no")`. interventions: in force in each run,
    as `steering.ablate(direction)`. strengths: of the vectors as they are. names: a token for each concept,
    for identification. when: the positions at which vectors are added, such as `positions.window(12, None)`.

    Returns a Dataset with dims layer and strength: `value`, the share of concepts whose mean verdict over the
    prompts is "noticed", `random`, the same of random vectors of the same norms, `low`, `high`,
    `random_low`, `random_high` (Clopper-Pearson over concepts); `identified` and `identified_random` with
    names; `margin` and `margin_random` [prompt, concept, layer, strength]; `margin_clean` [prompt] and
    `false_alarms`, the share of prompts that are "noticed" with nothing added, with `false_low`,
    `false_high`. Cost: a forward of each prompt, then two (four with names) for each concept, layer and
    strength. Raises ValueError before any pass for concepts at different places, names that lack one. The
    model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> options = {"template": "{} had a", "layer": 1}
        >>> made = methods.concept_vectors(model, ["Mary", "Tom"], ["Anna", "Paul"], **options)
        >>> ask = interp.probes.Question(" Mary", " John")
        >>> options = {"strengths": [0.0, 2.0], "progress": False}
        >>> found = methods.introspection(model, "Tom gave a book to", made, ask, **options)
        >>> change = found["margin"].sel(strength=0.0) - found["margin_clean"]
        >>> found["value"].dims, float(abs(change).max()) < 1e-4
        (('layer', 'strength'), True)
    """
    check_level(level)
    listed = _checked(model, concepts, strengths, names)
    data = read(model, prompts)
    always = [each.check(model) for each in flat(interventions)]
    everything = torch.arange(len(data)).repeat(len(listed))  # prompts in turn, concept by concept
    tiled = data[everything]
    ids = None if names is None else token_ids(model, [names[name] for name in concepts], "names")
    if ids is not None and len(set(ids)) < len(ids):
        raise ValueError("names has the same token for two concepts, which could not be told apart by it.")
    clean = _verdicts(detect(model, data, *always), len(data))
    generator = torch.Generator().manual_seed(seed)
    levels = listed[0].places
    shape = (len(data), len(listed), len(levels), len(strengths))
    margins = {kind: np.full(shape, np.nan) for kind in ("concept", "random")}
    named = {kind: np.full(shape[1:], np.nan) for kind in ("concept", "random")}
    bar = tqdm(total=2 * len(levels) * len(strengths), disable=not progress, desc="introspection", unit="run")
    for i, place in enumerate(levels):
        true = torch.stack([each.vectors[place] for each in listed])
        for kind, vectors in (("concept", true), ("random", random_like(true, generator))):
            for j, strength in enumerate(strengths):
                made = [*always, *_added(model, place, vectors, strength, len(data), when)]
                out = _verdicts(detect(model, tiled, *made), len(tiled))
                margins[kind][:, :, i, j] = out.reshape(len(listed), len(data)).T
                if ids is not None:
                    named[kind][:, i, j] = _named(model, tiled, ids, made, len(listed), engine)
                bar.update()
    bar.close()
    return _dataset(model, data, list(concepts), (levels, strengths), margins, named, clean, level, seed)


def _checked(
    model: Model,
    concepts: Mapping[str, Direction],
    strengths: Sequence[float],
    names: Mapping[str, Any] | None,
) -> list[Direction]:
    listed = [each.check(model) for each in concepts.values()]
    if len(listed) < 2:
        raise ValueError(f"there are {len(listed)} concepts; a rate needs two or more.")
    if any(each.places != listed[0].places or each.layout != "vector" for each in listed):
        raise ValueError("the concepts have vectors at different places; extract them in one call.")
    if not len(strengths) or len(set(strengths)) < len(strengths):
        raise ValueError(f"strengths is {list(strengths)}; give one or more, each once.")
    missing = [name for name in concepts if names is not None and name not in names]
    if missing:
        raise ValueError(f"names has no token for {missing[0]!r}; give one for each concept.")
    return listed


def _added(
    model: Model, place: Place, vectors: Tensor, strength: float, n: int, when: AnyPositions
) -> list[Intervention]:
    rows = [Direction({place: vector}) for vector in vectors for _ in range(n)]
    return [each.check(model) for each in add(rows, float(strength), when=when)]


def _verdicts(out: Tensor, n: int) -> np.ndarray:
    values = out.detach().cpu().double().numpy() if isinstance(out, Tensor) else np.asarray(out, dtype=float)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise ValueError(f"detect gave {values.shape} for {n} prompts; give one finite number a prompt.")
    return values


def _named(
    model: Model, rows: Prompts, ids: list[int], made: list[Intervention], n: int, engine: str
) -> np.ndarray:
    """Whether each concept's own name is the likeliest, in the mean over the prompts."""
    logits = answer_logits(model, rows, ids, made, engine).unflatten(0, (n, -1)).mean(1)  # [concept, name]
    return (logits.argmax(-1) == torch.arange(n, device=logits.device)).double().cpu().numpy()


def _dataset(
    model: Model,
    data: Prompts,
    words: list[str],
    grid: tuple[tuple[Place, ...], Sequence[float]],
    margins: dict[str, np.ndarray],
    named: dict[str, np.ndarray],
    clean: np.ndarray,
    level: float,
    seed: int,
) -> xr.Dataset:
    dims, n = ("layer", "strength"), len(words)
    variables: dict[str, Any] = {}
    for kind, (value, prefix) in {"concept": ("value", ""), "random": ("random", "random_")}.items():
        hits = (margins[kind].mean(0) > 0).sum(0)  # [layer, strength]
        low, high = share_interval(hits, n, level)
        variables[value] = (dims, hits / n)
        variables |= {f"{prefix}low": (dims, low), f"{prefix}high": (dims, high)}
        ending = "" if kind == "concept" else "_random"
        variables[f"margin{ending}"] = (("prompt", "concept", *dims), margins[kind])
        variables[f"identified{ending}"] = (dims, named[kind].mean(0))
    alarms = int((clean > 0).sum())
    low, high = share_interval(alarms, len(clean), level)
    variables["margin_clean"] = (("prompt",), clean)
    for name, number in (("false_alarms", alarms / len(clean)), ("false_low", low), ("false_high", high)):
        variables[name] = ((), np.array(number))
    levels, strengths = grid
    attrs = results.provenance(
        method="introspection", site=levels[0].site, model=anatomy(model).name, n_prompts=len(data),
        seed=seed, unit="share", convention="value = share of concepts that the judge says were noticed",
        level=level,
    )  # fmt: skip
    coords = {"prompt": np.arange(len(data)), "concept": np.array(words, dtype=object)}
    coords |= {"layer": np.array([int(place.layer or 0) for place in levels])}
    coords |= {"strength": np.array([float(each) for each in strengths])}
    return results.dataset(variables, coords, attrs)
