"""`interp steer chat`: a chat in the terminal, steered, with two controls beside it.

Every turn is answered three times, in one batch: `steered`, `plain` (the model alone) and `random` (a random
direction of the same length). Each voice goes on with its own answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from interp.cli._inputs import load
from interp.cli._output import Output, require_folder
from interp.cli.steer._prompts import direction_of, one_place, when_of
from interp.files import write_text

if TYPE_CHECKING:
    from interp.steering import Direction

_VOICES = ("steered", "plain", "random")
_HELP = "/coef 2 changes the coefficient, /reset begins anew, /quit ends (so does the end of the input)"
Message = dict[str, str]


def chat(args: argparse.Namespace, out: Output) -> None:
    """Lines of standard input are what the user says; the transcript's path comes last."""
    from interp.prompts import template

    if args.tokens < 1:
        raise ValueError(f"--tokens is {args.tokens}; it must be at least 1.")
    folder = args.out or args.direction.parent
    require_folder(folder)
    model = load(args)
    direction = one_place(direction_of(model, args))
    begin = [] if args.system is None else [{"role": "system", "content": args.system}]
    template(model, [*begin, {"role": "user", "content": "a"}])  # its checks
    talk = _Talk(model, direction, args, begin)
    out.say(f"{args.model} at {direction.place}, coefficient {talk.coefficient:g}. {_HELP}")
    with suppress(KeyboardInterrupt):  # ends the talk, and keeps it
        for line in _lines():
            if line == "/quit":
                break
            out.say(*(talk.command(line) if line.startswith("/") else talk.answers(line)))
    out.tell(model=args.model, place=str(direction.place), turns=talk.turns)
    text = "".join(json.dumps(turn, ensure_ascii=False) + "\n" for turn in talk.turns)
    out.wrote("transcript", write_text(folder / "chat.jsonl", text))


def _lines() -> Iterator[str]:
    """What is typed, without blank lines, to the end of the input."""
    asked = sys.stdin.isatty()
    while True:
        try:
            line = (input("you      > ") if asked else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            return
        if line:
            yield line


class _Talk:
    """Three conversations of the same user, and the coefficient of the next turn."""

    def __init__(
        self, model: Any, direction: Direction, args: argparse.Namespace, begin: list[Message]
    ) -> None:
        from interp.steering import controls

        self.model, self.args, self.begin = model, args, begin
        self.direction, self.coefficient = direction, args.coefficient
        control = controls([direction], args.seed)["random"][0]
        self.vectors = [direction.vector, 0 * direction.vector, (control or direction).vector]
        self.turns: list[dict[str, Any]] = []
        self.reset()

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
                value = float(rest)
            except ValueError:
                return [f"/coef {rest}: give a number, such as /coef 2"]
            if value - value != 0:  # infinite, or none
                return [f"/coef {rest}: give a finite number, such as /coef 2"]
            self.coefficient = value
            return [f"coefficient {value:g}"]
        return [f"{name} is no command. {_HELP}"]

    def answers(self, said: str) -> list[str]:
        """The answers of the three voices, which they remember; a turn that does not fit is taken back."""
        asked: list[list[Message]] = [[*each, {"role": "user", "content": said}] for each in self.chats]
        try:
            texts = self._generated(asked)
        except ValueError as error:
            return [f"{error} (or /reset)"]
        for chat, text in zip(asked, texts):
            chat.append({"role": "assistant", "content": text})
        self.chats = asked
        self.turns.append({"user": said, "coefficient": self.coefficient, **dict(zip(_VOICES, texts))})
        return [f"{voice:<9}> {text}" for voice, text in zip(_VOICES, texts)]

    def _generated(self, asked: list[list[Message]]) -> list[str]:
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
            top_k=args.top_k, seed=args.seed + len(self.turns),
        )  # fmt: skip
        ends = set(end_ids(self.model, rows, None).tolist())
        texts = []
        for row, length in zip(whole.tolist(), rows.lengths.tolist()):
            new = row[length : length + args.tokens]
            stop = next((i for i, token in enumerate(new) if token in ends), len(new))
            texts.append(vocabulary.decode(self.model, new[:stop]).strip())
        return texts
