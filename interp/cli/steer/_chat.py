"""`interp steer chat`: a chat in the terminal, steered, with two controls beside it.

Every turn is answered three times, in one batch: `steered`, `plain` (the model alone) and `random` (a random
direction of the same length). Each voice goes on with its own answers. Turns are added to the transcript as
they come, so that nothing is lost whatever ends the talk; a transcript that is given goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli._inputs import load, waiting
from interp.cli._output import Output, require_file, require_folder
from interp.cli.steer._prompts import direction_of, one_place, require_draws, when_of
from interp.tasks._files import text_of

if TYPE_CHECKING:
    from interp.steering import Direction

_VOICES = ("steered", "plain", "random")
_HELP = "/coef 2 changes the coefficient, /reset begins anew, /quit ends (so does the end of the input)"
_INDENT = " " * 11
Message = dict[str, str]


def chat(args: argparse.Namespace, out: Output) -> None:
    """Lines of standard input are what the user says; the transcript's path comes last."""
    from interp.prompts import template

    _check(args)
    path = args.transcript or _new(args.out or args.direction.parent)
    past = _past(path)
    model = load(args)
    direction = one_place(direction_of(model, args))
    begin = [] if args.system is None else [{"role": "system", "content": args.system}]
    template(model, [*begin, {"role": "user", "content": "a"}])  # its checks
    talk = _Talk(model, direction, args, begin, past)
    more = f" after {len(past)} turns" if past else ""
    out.say(f"{args.model} at {direction.place}, coefficient {talk.coefficient:g}{more}. {_HELP}")
    with suppress(KeyboardInterrupt):  # ends the talk
        for line in _lines(out):
            if line == "/quit":
                break
            out.say(*(talk.command(line) if line.startswith("/") else talk.answers(line, path)))
    out.tell(model=args.model, place=str(direction.place), turns=talk.turns)
    if talk.turns:
        out.wrote("transcript", path)


def _check(args: argparse.Namespace) -> None:
    """What can be said without a model."""
    require_draws(args)
    if args.transcript is not None and args.out is not None:
        raise ValueError("give --out, for a new transcript, or --transcript, to go on with one; not both.")
    require_folder(args.out or args.direction.parent)
    if args.transcript is not None:
        require_file(args.transcript, "--transcript")


def _new(folder: Path) -> Path:
    """`chat.jsonl`, or the first of `chat-2.jsonl`, `chat-3.jsonl`, ... that is free."""
    names = (f"chat-{i}.jsonl" if i > 1 else "chat.jsonl" for i in range(1, 1_000_000))
    return next(folder / name for name in names if not (folder / name).exists())


def _past(path: Path) -> list[dict[str, Any]]:
    """The turns of a transcript; none where there is no file yet."""
    if not path.exists():
        return []
    turns = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            turn = json.loads(line)
        except ValueError:
            turn = None
        if not _is_turn(turn):
            raise ValueError(f"{path}, line {number}, is no turn of a chat. Give a file that chat wrote.")
        turns.append(turn)
    return turns


def _is_turn(given: Any) -> bool:
    if not isinstance(given, dict) or not isinstance(given.get("coefficient"), (int, float)):
        return False
    return all(isinstance(given.get(key), str) for key in ("user", *_VOICES))


def _lines(out: Output) -> Iterator[str]:
    """What is typed, without blank lines, to the end of the input; what comes from a file is shown."""
    asked = sys.stdin.isatty()
    if asked:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() then edits lines and remembers them)
    while True:
        try:
            line = (input("you      > ") if asked else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            return
        if line:
            if not asked:
                out.say(f"you      > {line}")
            yield line


class _Talk:
    """Three conversations of the same user, and the coefficient of the next turn."""

    def __init__(
        self,
        model: Any,
        direction: Direction,
        args: argparse.Namespace,
        begin: list[Message],
        past: list[dict[str, Any]],
    ) -> None:
        from interp.steering import controls

        self.model, self.args, self.begin, self.direction = model, args, begin, direction
        before = past[-1]["coefficient"] if past else 1.0
        self.coefficient = before if args.coefficient is None else args.coefficient
        control = controls([direction], args.seed)["random"][0]
        self.vectors = [direction.vector, 0 * direction.vector, (control or direction).vector]
        self.turns: list[dict[str, Any]] = []
        self.n_past = len(past)
        self.reset()
        for turn in past:
            if turn.get("begins"):
                self.reset()
            said: list[Message] = [{"role": "user", "content": turn["user"]}]
            for chat, voice in zip(self.chats, _VOICES):
                chat += [*said, {"role": "assistant", "content": turn[voice]}]

    def reset(self) -> None:
        self.chats: list[list[Message]] = [list(self.begin) for _ in _VOICES]

    def command(self, line: str) -> list[str]:
        """What a line that begins with a stroke asks for, and what to say of it."""
        name, _, rest = line.partition(" ")
        if name == "/reset":
            self.reset()
            return ["the conversation begins anew"]
        if name == "/coef":
            try:
                value = float(rest) if rest.strip() else self.coefficient
            except ValueError:
                return [f"/coef {rest}: give a number, such as /coef 2"]
            if value - value != 0:  # infinite, or none
                return [f"/coef {rest}: give a finite number, such as /coef 2"]
            self.coefficient = value
            return [f"coefficient {value:g}"]
        return [f"{name} is no command. {_HELP}"]

    def answers(self, said: str, path: Path) -> list[str]:
        """The answers of the three voices, which they remember; a turn that does not fit is taken back."""
        asked: list[list[Message]] = [[*each, {"role": "user", "content": said}] for each in self.chats]
        try:
            with waiting(self.args, "writing ..."):
                texts, cut = self._generated(asked)
        except ValueError as error:
            return [f"{error} (or /reset)"]
        turn: dict[str, Any] = {"user": said, "coefficient": self.coefficient, **dict(zip(_VOICES, texts))}
        if len(asked[0]) == len(self.begin) + 1:
            turn["begins"] = True
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(turn, ensure_ascii=False) + "\n")
        for chat, text in zip(asked, texts):
            chat.append({"role": "assistant", "content": text})
        self.chats = asked
        self.turns.append(turn)
        return [_shown(*each) for each in zip(_VOICES, texts, cut)]

    def _generated(self, asked: list[list[Message]]) -> tuple[list[str], list[bool]]:
        """The texts, and whether each was cut at --tokens."""
        import torch

        from interp.prompts import read
        from interp.steering import Intervention, generate
        from interp.steering._edit_types import Add
        from interp.steering._generate import end_ids
        from interp.tasks import vocabulary

        rows, args = read(self.model, asked), self.args
        edit = Add(torch.stack(self.vectors), self.coefficient)
        made = Intervention(self.direction.place, edit, when_of(args))
        whole = generate(
            self.model, rows, made, max_new_tokens=args.tokens, temperature=args.temperature,
            top_k=args.top_k, seed=args.seed + self.n_past + len(self.turns),
        )  # fmt: skip
        ends = set(end_ids(self.model, rows, None).tolist())
        texts, cut = [], []
        for row, length in zip(whole.tolist(), rows.lengths.tolist()):
            new = row[length : length + args.tokens]
            stop = next((i for i, token in enumerate(new) if token in ends), len(new))
            texts.append(vocabulary.decode(self.model, new[:stop]).strip())
            cut.append(stop == args.tokens)
        return texts, cut


def _shown(voice: str, text: str, cut: bool) -> str:
    """An answer beside its voice, in lines of the terminal's width; dots where it was cut."""
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 10**6
    lines = [
        part
        for line in f"{text}{' ...' * cut}".split("\n")
        for part in textwrap.wrap(line, max(width - len(_INDENT), 20), drop_whitespace=True) or [""]
    ]
    return f"{voice:<9}> " + "\n".join(lines[:1] + [f"{_INDENT}{line}".rstrip() for line in lines[1:]])
