"""LangFIR: features of one language, from text in that language and sequences of random tokens.

1. A feature is on in a sequence where it is not 0 at any of its tokens (the first ones left out).
2. Selective are the features that are on in at least a share `tau` of the sequences of the language, and in
   at most `tau_random` of sequences of random tokens: these have no language, so what fires on them is
   general.
3. v = Σ over selective features of (mean activation on the language) · (decoder row): a direction at the
   dictionary's place, to add or to ablate.
4. Where v is the language's own, its ablation raises the cross-entropy of that language's text and of no
   other: the diagonal of `ce_changes`.

Wong et al. 2604.03532, derived from its abstract: what counts as on, and the two shares, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp import results
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.prompts import Prompts, read
from interp.sae._contexts import encode
from interp.sae._dictionary import Dictionary
from interp.sae._site import require_place
from interp.steering import Direction, steer
from interp.steering._generate import require_next_tokens
from interp.steering._intervention import flat
from interp.tasks import vocabulary

_ROWS = 32


@dataclass(frozen=True, eq=False)
class Selective:
    """Features of a language: their numbers, and how often every feature is on in text and in random tokens.

    direction: Σ mean activation · decoder row, at the dictionary's place; None where no feature is selective.
    """

    features: tuple[int, ...]
    rate: Float[Tensor, "feature"]
    random_rate: Float[Tensor, "feature"]
    direction: Direction | None
    __repr__ = brief


@verb
def selective_latents(
    target: Bool[Tensor, "n feature"],
    random: Bool[Tensor, "m feature"],
    tau: float = 0.9,
    tau_random: float = 0.1,
) -> Bool[Tensor, "feature"]:
    """Which features are on in a share `tau` of target sequences or more, and in `tau_random` of random ones
    or fewer.

    Pure. Raises ValueError for shares outside of 0 to 1, no sequences, or other numbers of features.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> target, random = torch.tensor([[1, 1, 0]] * 4).bool(), torch.tensor([[0, 1, 0]] * 4).bool()
        >>> methods.selective_latents(target, random).tolist()
        [True, False, False]
    """
    if not 0 < tau <= 1 or not 0 <= tau_random < 1:
        raise ValueError(
            f"tau is {tau} and tau_random {tau_random}; both are shares of sequences, tau above 0."
        )
    if not len(target) or not len(random) or target.shape[1] != random.shape[1]:
        raise ValueError(
            f"target is {list(target.shape)} and random {list(random.shape)}; give sequences "
            "of each, with the same features."
        )
    return (target.double().mean(0) >= tau) & (random.double().mean(0) <= tau_random)


@verb
def langfir(
    model: Model,
    dictionary: Dictionary,
    target: Any,
    *,
    tau: float = 0.9,
    tau_random: float = 0.1,
    skip: int = 1,
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Selective:
    """Features of the language of `target`, and their direction (see the steps above).

    target: prompts in one language; as many sequences of random tokens, as long, are drawn from the model's
    vocabulary. skip: tokens left out at the start of each, which both share.

    Cost: two forwards of each prompt as far as the site. Raises ValueError for a dictionary that does not fit
    the model or is a transcoder, and prompts of `skip` tokens or fewer. Wong et al. 2604.03532 (derived).

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, -torch.ones(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> found = sae.methods.langfir(model, d, interp.tasks.ioi(model, n=8), tau_random=0.6)
        >>> all(found.rate[each] >= 0.9 for each in found.features)
        True
    """
    if dictionary.is_transcoder:
        raise ValueError("a transcoder reads another site than it writes: it has no direction at one place.")
    prompts = read(model, target, mask)
    if skip < 0 or int(prompts.lengths.min()) <= skip:
        raise ValueError(
            f"skip is {skip}, and the shortest prompt has {int(prompts.lengths.min())} tokens; "
            "one must be left."
        )
    sides = (prompts, random_tokens(model, prompts, skip, seed))
    on, sums = zip(*(_on(model, dictionary, side, skip, batch_size) for side in sides))
    chosen = selective_latents(on[0], on[1], tau, tau_random)
    weight = sums[0].mean(0) * chosen
    vector = weight @ dictionary.W_dec.to(weight)
    where = require_place(dictionary)
    direction = Direction.from_tensor(vector.float(), str(where)) if bool(chosen.any()) else None
    rates = [each.double().mean(0) for each in on]
    return Selective(tuple(chosen.nonzero()[:, 0].tolist()), rates[0], rates[1], direction)


def random_tokens(model: Model, like: Prompts, skip: int, seed: int) -> Prompts:
    """Sequences as long as those given, their first `skip` tokens kept, the others drawn from the words of
    the vocabulary."""
    special = {vocabulary.bos(model), vocabulary.pad(model), *vocabulary.ends(model)}
    words = torch.tensor([each for each in range(vocabulary.size(model)) if each not in special])
    drawn = torch.randint(len(words), like.tokens.shape, generator=torch.Generator().manual_seed(seed))
    tokens = words[drawn].to(like.tokens)
    tokens[:, :skip] = like.tokens[:, :skip]
    return Prompts(torch.where(like.real, tokens, like.tokens), like.lengths)


def _on(
    model: Model, d: Dictionary, prompts: Prompts, skip: int, batch_size: int | None
) -> tuple[Bool[Tensor, "prompt feature"], Float[Tensor, "prompt feature"]]:
    """Whether each feature is on in each prompt, and its mean over the prompt's tokens."""
    parts = encode(model, d, prompts, pos="all", batch_size=batch_size).split(prompts.lengths.tolist())
    on = torch.stack([(part[skip:] != 0).any(0) for part in parts])
    return on, torch.stack([part[skip:].double().mean(0) for part in parts])


@verb
def ce_changes(
    model: Model,
    texts: Mapping[str, Any],
    edits: Mapping[str, Any],
    *,
    skip: int = 1,
) -> xr.Dataset:
    """What each intervention costs each kind of text: a table of cross-entropy, edit by text.

    texts: prompts by name. edits: interventions by name (of `steering.ablate`, `add`, ...).

    Returns a Dataset: `value` [edit, text], cross-entropy under the edit less the model's own, in nats a
    token; positive: the edit hurts that text. `se`, its standard error over prompts; `clean` [text]. What
    tokens after the first `skip` predict counts. Cost: a forward of each prompt, and one for each edit.
    Raises ValueError, before any pass, for none of either, what is no intervention, prompts of `skip` + 1
    tokens or fewer, and a model that foretells no tokens.

    Example:
        >>> from interp import sae, steering
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> d = steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> sae.methods.ce_changes(model, {"ioi": task}, {"d": steering.ablate(d)})["value"].shape
        (1, 1)
    """
    if not texts or not edits:
        raise ValueError(f"there are {len(texts)} texts and {len(edits)} edits; give one of each or more.")
    if skip < 0:
        raise ValueError(f"skip is {skip}; give 0 or more tokens.")
    require_next_tokens(model, "Measure edits by a metric, as steering.sweep does.", taught=True)
    made = {name: [each.check(model) for each in flat([edit])] for name, edit in edits.items()}
    rows = {name: read(model, given, what=name) for name, given in texts.items()}
    for name, prompts in rows.items():
        if int(prompts.lengths.min()) < skip + 2:
            raise ValueError(f"{name!r} has a prompt of {int(prompts.lengths.min())} tokens; skip is {skip}.")
    clean = {name: _losses(model, prompts, (), skip) for name, prompts in rows.items()}
    change = {
        (edit, name): _losses(model, prompts, tuple(each), skip) - clean[name]
        for edit, each in made.items()
        for name, prompts in rows.items()
    }
    table = lambda of: np.array([[of(change[edit, name]) for name in rows] for edit in edits])  # noqa: E731
    attrs = results.provenance(
        method="ce_changes", model=anatomy(model).name, n_prompts=sum(map(len, rows.values())),
        convention="cross-entropy under the edit less the model's own; positive: the edit hurts the text",
    )  # fmt: skip
    attrs |= {"metric": "loss", "unit": "nats", "better": "lower"}
    dims = ("edit", "text")
    variables = {
        "value": (dims, table(np.mean)),
        "se": (
            dims,
            table(lambda each: np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan),
        ),
        "clean": (("text",), np.array([clean[name].mean() for name in rows])),
    }
    return results.dataset(variables, {"edit": list(edits), "text": list(rows)}, attrs)


def _losses(model: Model, prompts: Prompts, edits: tuple[Any, ...], skip: int) -> np.ndarray:
    """Mean cross-entropy of each prompt's next tokens, nats, [prompt]."""
    out = []
    for rows in torch.arange(len(prompts)).split(_ROWS):
        batch = prompts[rows.to(prompts.tokens.device)]
        with torch.no_grad(), steer(model, *edits, prompt_length=batch.lengths):
            logprobs = logits(model, batch.tokens).double().log_softmax(-1)
        taken = logprobs[:, :-1].gather(-1, batch.tokens[:, 1:, None])[..., 0]
        counted = batch.real[:, 1:].clone()
        counted[:, :skip] = False
        out.append(-(taken * counted).sum(1) / counted.sum(1))
    return torch.cat(out).cpu().numpy()
