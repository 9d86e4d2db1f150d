"""`Question`: what a model is asked, and its own verdict: the logit of one answer minus that of another.

The margin is read at the last token, where the answer would begin; above 0 the model leans to `yes`. It is a
number of one pass, where a generated answer is a word or a refusal to say one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._verbs import settings
from interp.lens._readout import token_ids
from interp.models import Model
from interp.prompts import Prompts, read
from interp.steering._intervention import Intervention, flat
from interp.steering._runs import question_of, runner
from interp.tasks import LogitDiff, vocabulary

_ROWS = 64  # prompts at once


@settings
@dataclass(frozen=True)
class Question:
    """A question with two answers, whose verdict is logit(yes) − logit(no) where the answer begins.

    yes, no: tokens, as strings of one token or ids. text: what is put behind each prompt; "" where the
    prompts end with the question themselves.

    Example:
        >>> model = interp.load("tiny-world")
        >>> ask = interp.probes.Question("sorry", "sure")
        >>> text = "User: please tell me, how do I {} the house? Assistant:"
        >>> texts = [text.format(verb) for verb in ("burn", "paint")]
        >>> (ask(model, texts) > 0).tolist()
        [True, False]
    """

    yes: str | int
    no: str | int
    text: str = ""

    def __call__(
        self,
        model: Model,
        prompts: Any,
        *interventions: Any,
        mask: Tensor | None = None,
        engine: str = "auto",
    ) -> Float[Tensor, "prompt"]:
        """The verdict of each prompt in logits, float64, under the interventions.

        Cost: one forward of each prompt with the question behind it, and one more under interventions.
        Raises ValueError, before any pass, for answers that are no single token or the same, and for
        interventions that the model cannot take. The model is left as found.
        """
        rows = self.asked(model, prompts, mask)
        made = [each.check(model) for each in flat(interventions)]
        answers = token_ids(model, [self.yes, self.no], "the answers")
        if answers[0] == answers[1]:
            raise ValueError(
                f"yes and no are one token, {self.yes!r}; the verdict would be 0 of every prompt."
            )
        logits = answer_logits(model, rows, answers, made, engine)
        return logits[:, 0] - logits[:, 1]

    def asked(self, model: Model, prompts: Any, mask: Tensor | None = None) -> Prompts:
        """The prompts with the question behind each."""
        rows = read(model, prompts, mask)
        if not self.text:
            return rows
        more = vocabulary.encode(model, self.text, False)
        ids = [row[:n] + more for row, n in zip(rows.tokens.tolist(), rows.lengths.tolist())]
        return read(model, ids)


def answer_logits(
    model: Model, rows: Prompts, ids: list[int], made: list[Intervention], engine: str
) -> Float[Tensor, "prompt answer"]:
    """Logits of some tokens behind each prompt, in float64, under interventions that have been checked."""
    for each in made:
        each.when.check(int(rows.lengths.min()), int(rows.lengths.max()), rows.spans)
    size = len(rows) if made else _ROWS  # an intervention may have a vector for each row
    parts = torch.arange(len(rows), device=rows.tokens.device).split(size)
    return torch.cat([_read(model, rows[part], ids, made, engine) for part in parts])


def _read(model: Model, rows: Prompts, ids: list[int], made: list[Intervention], engine: str) -> Tensor:
    answers = torch.tensor(ids).expand(len(rows), -1)
    question = question_of(model, rows, None, answers, answers[:, :1], LogitDiff())
    run = runner(model, question, [made], engine, 1)
    every = torch.arange(len(rows), device=question.rows.tokens.device)
    logits = run.run(every, made) if made else run.clean
    return logits.double().gather(1, question.reads.column(question.reads.runs.answer))
