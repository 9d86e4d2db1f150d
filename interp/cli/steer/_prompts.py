"""The two classes of a task family of the small world, as prompts to find directions in and to steer.

| family    | positive | negative     |
|-----------|----------|--------------|
| sentiment | positive | negative     |
| requests  | refused  | answered     |
| register  | formal   | casual       |
| languages | English  | the other    |
| pronouns  | feminine | masculine    |

A prompt belongs to the class whose words answer it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp import tasks
from interp.cli.steer._parser import FAMILIES
from interp.places import hint
from interp.tasks import Task, wordlists
from interp.tasks._files import text_of
from interp.tasks.world import CASES, Languages, Pronouns, Register, Sentiment

if TYPE_CHECKING:
    from interp.positions import Positions
    from interp.steering import Direction


NAMES = {
    "sentiment": ("positive", "negative"),
    "requests": ("refused", "answered"),
    "register": ("formal", "casual"),
    "languages": ("English", "the other language"),
    "pronouns": ("feminine", "masculine"),
}
_MORE = 4  # pairs drawn for each that is wanted, where a family has more than two classes


@dataclass(frozen=True, eq=False)
class Classes:
    """Prompts of the two classes; row i of one is the reverse of row i of the other."""

    family: str
    positive: Task
    negative: Task

    @property
    def names(self) -> tuple[str, str]:
        """What the classes are called."""
        return NAMES[self.family]

    @property
    def turned(self) -> Task:
        """The negative prompts, to be answered as the positive ones are."""
        task = self.negative
        return Task.from_tokens(
            clean=task.clean, corrupt=task.corrupt, answer=task.wrongs, wrong=task.answers,
            positions=task.positions, lengths=task.lengths, metric=task.metric, name=self.family,
        )  # fmt: skip


def classes(model: Any, family: str, n: int, seed: int, held_out: bool) -> Classes:
    """n prompts of a family, half of each class; from what was held out of training, or from the rest."""
    if family not in FAMILIES:
        raise ValueError(
            f"--task {family!r} has no two classes{hint(family, FAMILIES)} Use {', '.join(FAMILIES)}, or "
            "files of prompts."
        )
    if n < 4 or n % 2:
        raise ValueError(f"--n is {n}; it must be even, 4 or more: half of each class.")
    drawn = n * (_MORE if family == "pronouns" else 1)
    task = getattr(tasks, family)(model, n=drawn, seed=seed, held_out=held_out)
    sides = [set(wordlists.single_tokens(model, words).values()) for words in _WORDS[family]()]
    pairs = [pair for i in range(0, len(task), 2) if (pair := _pair(task, i, sides)) is not None]
    if len(pairs) < n // 2:
        raise ValueError(
            f"{family}: of {drawn // 2} pairs {len(pairs)} are of the two classes; {n // 2} are needed. "
            "Use a smaller --n."
        )
    rows = torch.tensor(pairs[: n // 2])  # [pair, side]
    return Classes(family, task[rows[:, 0]], task[rows[:, 1]])


def _pair(task: Task, row: int, sides: list[set[int]]) -> tuple[int, int] | None:
    """The rows of a mirrored pair, positive first; None where one is of neither class."""
    of = [_side(task.answers[i].tolist(), sides) for i in (row, row + 1)]
    if sorted(of, key=str) != [0, 1]:
        return None
    return (row, row + 1) if of[0] == 0 else (row + 1, row)


def _side(answers: Iterable[int], sides: list[set[int]]) -> int | None:
    known = {answer for answer in answers if answer >= 0}
    return next((i for i, side in enumerate(sides) if known <= side), None)


def _sentiment() -> list[list[str]]:
    return Sentiment().adjectives


def _requests() -> list[list[str]]:
    return [["sorry"], ["sure"]]


def _register() -> list[list[str]]:
    return _columns(Register().lexicon.values())


def _languages() -> list[list[str]]:
    return _columns(Languages().lexicon.values())


def _pronouns() -> list[list[str]]:
    words = Pronouns().words
    return [[words[case][gender] for case in CASES] for gender in (0, 1)]


def _columns(lexicons: Iterable[list[list[str]]]) -> list[list[str]]:
    words = [pair for lexicon in lexicons for pair in lexicon]
    return [[pair[i] for pair in words] for i in (0, 1)]


_WORDS: dict[str, Callable[[], list[list[str]]]] = {
    "sentiment": _sentiment,
    "requests": _requests,
    "register": _register,
    "languages": _languages,
    "pronouns": _pronouns,
}


_NEUTRAL = 32  # texts


def read_lines(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines do not count."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a text file with one prompt a line.")
    text = text_of(path)
    lines = [line.strip() for line in text.split("\n") if line.strip()]  # texts may hold U+2028, U+0085
    if not lines:
        raise ValueError(f"{path} has no prompts. Write one prompt a line.")
    return lines


def read_prompts(path: Path) -> list[Any]:
    """The prompts of a file: texts, one a line; of a `.jsonl` file chats, each {"messages": [...]}."""
    lines = read_lines(path)
    if path.suffix.lower() != ".jsonl":
        return lines
    chats = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        messages = row.get("messages") if isinstance(row, dict) else row
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise ValueError(
                f'{path}, prompt {number}: {line[:60]!r} is no chat. Write {{"messages": [{{"role": "user", '
                '"content": "..."}]} on each line.'
            )
        chats.append([{"role": each["role"], "content": each["content"]} for each in messages])
    return chats


def _is_message(given: Any) -> bool:
    keys = ("role", "content")
    return isinstance(given, dict) and all(isinstance(given.get(key), str) for key in keys)


def under(system: str, requests: list[str]) -> list[list[dict[str, str]]]:
    """A chat for each request, under a system prompt."""
    first = {"role": "system", "content": system}
    return [[first, {"role": "user", "content": each}] for each in requests]


def prompts_of(model: Any, args: argparse.Namespace) -> tuple[Any, str]:
    """The prompts to steer, a Task or strings, and what to say of them."""
    texts = getattr(args, "prompt", None)
    given = [name for name in ("task", "prompts", "prompt") if getattr(args, name, None)]
    if len(given) != 1:
        names = "--task, --prompts or --prompt" if "prompt" in vars(args) else "--task or --prompts"
        raise ValueError(f"give {names}, one of them.")
    if args.task:
        drawn = classes(model, args.task, args.n, args.seed + 1, held_out=True)
        up, down = drawn.names
        return drawn.turned, f"{len(drawn.negative)} held-out prompts of {args.task}, {down}, towards {up}"
    rows = texts or read_prompts(args.prompts)
    return rows, f"{len(rows)} prompt{'s' if len(rows) != 1 else ''}"


def direction_of(model: Any, args: argparse.Namespace) -> Direction:
    """The direction of the file at the layers that are wanted; checked against the model."""
    from interp.steering import Direction

    direction = Direction.load(args.direction, model)
    if args.layer is None:
        return direction
    wanted = [where for where in direction.places if where.layer in args.layer]
    missing = sorted(set(args.layer) - {where.layer for where in wanted})
    if missing:
        raise ValueError(
            f"{args.direction} has no vector at layer {', '.join(map(str, missing))}; it has "
            f"{', '.join(map(str, direction.places))}."
        )
    return direction.at(*wanted)


def one_place(direction: Direction) -> Direction:
    """The direction; ValueError unless it has a single place."""
    if len(direction.places) > 1:
        layers = ", ".join(str(where.layer) for where in direction.places)
        raise ValueError(f"the direction has layers {layers}. Choose one with --layer.")
    return direction


def when_of(args: argparse.Namespace) -> Positions:
    """The positions at which to steer."""
    from interp.positions import everywhere, generated, prompt_only

    return {"everywhere": everywhere, "generated": generated, "prompt_only": prompt_only}[args.when]


def neutral_text(args: argparse.Namespace) -> list[str] | None:
    """Texts that should not change: of the file, or stories of the small world beside its families."""
    if args.neutral is not None:
        return read_lines(args.neutral)
    if not args.task:
        return None
    from interp.tasks.world import Stories

    stories, rng = Stories(), random.Random(args.seed)
    return [stories.document(rng, test=True).replace("^", "") for _ in range(_NEUTRAL)]


def require_draws(args: argparse.Namespace) -> None:
    """What can be said without a model of how texts are generated. Raises ValueError."""
    for name, value, least in (("tokens", args.tokens, 1), ("top-k", args.top_k, 1)):
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; it must be at least {least}.")
    for name in ("temperature", "coefficient"):
        value = getattr(args, name)
        if value is not None and (value - value != 0 or (name == "temperature" and value < 0)):
            raise ValueError(f"--{name} is {value}; it must be finite{', 0 or more' * (name[0] == 't')}.")
    if args.top_k is not None and args.temperature == 0:
        raise ValueError(
            f"--top-k is {args.top_k} at --temperature 0, which takes the likeliest token and draws none. "
            "Give a --temperature above 0, or leave --top-k out."
        )
