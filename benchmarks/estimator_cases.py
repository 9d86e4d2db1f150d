"""The models and tasks of the study of estimators: what is measured in benchmarks/estimators.py."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import interp
from interp.tasks import Task

GROUPS = ("tiny-ioi", "tiny-world", "others", "smollm2", "random")
DRAWN, KEPT = 128, 16  # prompts drawn of a family, and prompts used
DRAWN_REAL, KEPT_REAL = 16, 8  # of the real model, which takes a second for a prompt
RANDOM_PROMPTS = 8
ARCHITECTURES = (
    "LN-gelu_new-plain-serial-mha-learned",
    "LN-relu-plain-serial-mha-rotary",
    "LN-silu-gated-serial-gqa-learned",
    "LN-gelu_new-plain-parallel-mha-rotary",
    "LNPre-gelu_new-gated-serial-mha-learned",
    "LNPre-relu-plain-parallel-gqa-learned",
    "RMS-silu-gated-serial-gqa-rotary",
    "RMS-gelu_new-plain-serial-mha-learned",
    "RMSPre-silu-gated-parallel-mha-rotary",
    "RMSPre-relu-gated-serial-mha-rotary",
    "none-gelu_new-plain-serial-mha-learned",
    "none-silu-gated-serial-gqa-rotary",
    "attn-only",
    "sandwich-norm",
    "qk-norm",
    "soft-cap",
)
NAMES = (
    "Tom", "Tim", "Ben", "Sue", "Lily", "Mia", "Sam", "Max", "Anna", "Lucy", "Jack", "Bob", "Amy", "Jane",
    "Billy", "Sara", "Mary", "John", "Jen", "Joe", "Ann", "Kim",
)  # fmt: skip
WORLD: dict[str, tuple[str, dict[str, Any]]] = {
    "ioi": ("ioi", {"template": 0}),
    "coloured_objects": ("coloured_objects", {"template": 2}),
    "induction": ("induction", {}),
    "greater_than": ("greater_than", {}),
    "agreement": ("agreement", {}),
    "docstring": ("docstring", {}),
    "facts, capital": ("facts", {"relation": "capital"}),
    "facts, born": ("facts", {"relation": "born"}),
    "facts, country": ("facts", {"relation": "country"}),
    "facts, two_hop": ("facts", {"relation": "two_hop"}),
    "conflict": ("conflict", {}),
    "sentiment": ("sentiment", {}),
    "pronouns": ("pronouns", {}),
    "languages": ("languages", {}),
    "register": ("register", {}),
    "requests, refusal": ("requests", {"kind": "refusal"}),
    "requests, frame": ("requests", {"kind": "frame"}),
    "requests, harm": ("requests", {"kind": "harm"}),
}
REAL: dict[str, dict[str, Any]] = {"ioi": {"template": 0}, "greater_than": {}}  # of SmolLM2-135M-Instruct


@dataclass(frozen=True)
class Case:
    """One model on one task; made when it is its turn.

    neurons: of how many neurons one is measured. short: whether it has only the three sites and five methods
    for which a model of a hundred million parameters leaves time, and no times.
    """

    group: str
    name: str
    make: Callable[[], tuple[Any, Task]]
    neurons: int = 1
    short: bool = False


def cases(group: str, shared: Path) -> Iterator[Case]:
    """All cases of a group; of the models made by others, those that are there."""
    if group == "random":
        for name in ARCHITECTURES:
            yield Case(group, name, partial(_random, name))
    elif group == "tiny-ioi":
        for name in ("ioi", "induction", "greater_than"):
            options = {"template": 0} if name == "ioi" else {}
            yield Case(group, name, partial(_bundled, "tiny-ioi", name, options))
    elif group == "tiny-world":
        for name, (family, options) in WORLD.items():
            yield Case(group, name, partial(_bundled, "tiny-world", family, options), neurons=4)
    elif group == "smollm2":
        for name, options in REAL.items():
            make = partial(_bundled, "smollm2-135m", name, options, DRAWN_REAL, KEPT_REAL)
            yield Case(group, name, make, short=True)
    else:
        yield from _others(group, shared)


def _others(group: str, shared: Path) -> Iterator[Case]:
    made = {
        "stories260K, he or she": ("stories260K", _pronoun, 4),
        "TinyStories-656K, he or she": ("TinyStories-656K", _merged_pronoun, 4),
        "llmviz_gpt_nano_sort, first letter": ("llmviz_gpt_nano_sort", partial(_sorting, 0), 1),
        "llmviz_gpt_nano_sort, fourth letter": ("llmviz_gpt_nano_sort", partial(_sorting, 3), 1),
    }
    for name, (folder, task, neurons) in made.items():
        if (shared / folder).is_dir():
            yield Case(group, name, partial(_loaded, shared / folder, task), neurons)
        else:
            print(f"{name}: skipped, there is no folder {shared / folder}")


@cache
def _model(name: str) -> Any:
    return interp.load(name)


def _bundled(
    name: str, family: str, options: dict[str, Any], n: int = DRAWN, kept: int = KEPT
) -> tuple[Any, Task]:
    model = _model(name)
    return model, alike(model, getattr(interp.tasks, family)(model, n=n, seed=0, **options), kept)


def _loaded(folder: Path, task: Callable[[Any], Task]) -> tuple[Any, Task]:
    model = _model(str(folder))
    return model, alike(model, task(model))


def alike(model: Any, task: Task, n: int = KEPT) -> Task:
    """The first prompts that the model solves among those of the most frequent length: no padding, and
    positions that mostly line up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of how many were dropped
        solved = task.keep_solved(model)
    length = Counter(solved.lengths.tolist()).most_common(1)[0][0]
    rows = (solved.lengths == length).nonzero()[:n, 0]
    kept = solved[rows]
    return Task.from_tokens(
        clean=kept.clean[:, :length], corrupt=kept.corrupt[:, :length], answer=kept.answer, wrong=kept.wrong,
        positions=kept.positions, template=kept.template, metric=kept.metric, name=kept.name,
    )  # fmt: skip


def _random(name: str) -> tuple[Any, Task]:
    """A random model of the tests' fixture grid, on random tokens of which about half differ."""
    folder = str(Path(__file__).resolve().parents[1] / "tests")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import architectures

    model = architectures.build(dict(architectures.grid())[name])
    clean, corrupt = architectures.tokens(n_prompts=RANDOM_PROMPTS)
    answer = torch.arange(RANDOM_PROMPTS)
    return model, Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=answer + 10, name=name)


def _pronoun(model: Any) -> Task:
    """`Once upon a time there was a boy named Tom.` → He; corrupt: girl, with the same name."""
    sides = (("boy", "girl", " He", " She"), ("girl", "boy", " She", " He"))
    rows = [(_story(kind, name) + ".", _story(other, name) + ".", answer, wrong)
            for name in NAMES for kind, other, answer, wrong in sides]  # fmt: skip
    clean, corrupt, answer, wrong = (list(column) for column in zip(*rows))
    return Task.from_prompts(model, clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)


def _merged_pronoun(model: Any) -> Task:
    """`... there was a boy named Tim` → `. He `, which is one token in this vocabulary."""
    rows = []
    for name in NAMES:
        for kind, other, answer, wrong in (("boy", "girl", 140, 163), ("girl", "boy", 163, 140)):
            clean, corrupt = (_encoded(model, _story(one, name)) for one in (kind, other))
            if len(clean) == len(corrupt):
                rows.append((clean, corrupt, answer, wrong))
    clean, corrupt, answer, wrong = (list(column) for column in zip(*rows))
    return Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)


def _story(kind: str, name: str) -> str:
    return f"Once upon a time there was a {kind} named {name}"


def _encoded(model: Any, text: str) -> list[int]:
    return model.to_tokens(text)[0].tolist()


def _sorting(given: int, model: Any) -> Task:
    """Six letters and the first `given` of them in order → the next in order. Corrupt: one letter exchanged,
    so that the next one differs and those given do not. Mirrored pairs, spread over all of them."""
    rows = []
    for letters in itertools.product(range(3), repeat=6):
        for place in range(6):
            if letters[place] == 2:
                continue
            other = (*letters[:place], letters[place] + 1, *letters[place + 1 :])
            a, b = sorted(letters), sorted(other)
            if a[:given] == b[:given] and a[given] != b[given]:
                rows.append(((*letters, *a[:given]), (*other, *b[:given]), a[given], b[given]))
    rows = rows[:: max(1, len(rows) // DRAWN)]
    rows = [row for one in rows for row in (one, (one[1], one[0], one[3], one[2]))]
    clean, corrupt, answer, wrong = (torch.tensor(column) for column in zip(*rows))
    return Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)
