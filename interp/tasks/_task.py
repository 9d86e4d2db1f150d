"""Task: pairs of clean and corrupt prompts, the answers, where the answer is predicted, and the metric.

A task is frozen and checked when it is built: every mistake is a `ValueError` before any forward pass.

Conventions. `clean` and `corrupt` have one shape, (prompt, pos), right-padded; row i has `lengths[i]` real
tokens. `positions[i]` is the index of the token whose logits predict the answer (by default the last).
`answer` and `wrong` are token ids, (prompt,) or (prompt, k); −1 pads rows with fewer than k. They may be left
out for a metric that reads none (`wrong` for LogProb, both for KL), and are −1 then.
`corrupt is clean` (the same tensor; `corrupt=None` in the constructors) means that the task has no corrupt
prompts (`has_corrupt` is False): for ablations that need none, such as "zero", or noise on the embeddings.
`spans` are named positions as masks (prompt, pos), `variables` causal variables (`Variable`); both by name.

Several read-out positions: `positions` (prompt, read), and `answer` and `wrong` (prompt, read), or (prompt,
read, k); −1 pads rows with fewer reads. The metric of a prompt is then the mean over its reads (for
SeqLogProb the sum), and the prompt is right where every read is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import verb
from interp.tasks import (
    _files,
    _prompts,
    _rows,
    _spans,
    _tokens,
    _validate,
    _variables,
    _writing,
    chat,
    check,
)  # fmt: skip
from interp.tasks._variables import Variable
from interp.tasks.metrics import LogitDiff, Metric, as_metric

Tokens = Tensor | Sequence[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A behaviour to explain. See the module's text for the conventions."""

    clean: Int[Tensor, "prompt pos"]
    corrupt: Int[Tensor, "prompt pos"]
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | Int[Tensor, "prompt read k"]
    wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt j"] | Int[Tensor, "prompt read j"]
    positions: Int[Tensor, "prompt"] | Int[Tensor, "prompt read"]
    lengths: Int[Tensor, "prompt"]
    metric: Metric = field(default_factory=LogitDiff)
    name: str = "custom"
    seed: int | None = None
    labels: tuple[tuple[str, ...], ...] | None = None
    template: tuple[str, ...] = ()
    spans: Mapping[str, Bool[Tensor, "prompt pos"]] = field(default_factory=dict)
    part: str = ""  # "discovery" or "verification", of a task that was split
    variables: Mapping[str, Variable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", as_metric(self.metric))
        without_corrupt = self.corrupt is self.clean
        tensors = {key: getattr(self, key) for key in _validate.TENSORS}
        _validate.require_tensors(tensors)
        for key, value in tensors.items():
            object.__setattr__(self, key, value.to(torch.int64, copy=True))
        if without_corrupt:
            object.__setattr__(self, "corrupt", self.clean)
        if not self.template:
            object.__setattr__(self, "template", tuple(f"prompt {i}" for i in range(len(self))))
        _validate.require_names(self.template, self.labels, *self.clean.shape)
        _spans.require(self.spans, (self.clean.shape[0], self.clean.shape[1]))
        spans = {name: mask.to(self.clean.device, copy=True) for name, mask in self.spans.items()}
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "variables", dict(self.variables))
        _validate.require(_validate.row_problems(self))
        _variables.require(self.variables, self.answers)

    @property
    def answers(self) -> Int[Tensor, "prompt k"]:
        """The answers as (prompt, k); of several reads one after the other."""
        return self.targets.flatten(1)

    @property
    def wrongs(self) -> Int[Tensor, "prompt j"]:
        """The wrong answers as (prompt, j); of several reads one after the other."""
        return self.wrong_targets.flatten(1)

    @property
    def targets(self) -> Int[Tensor, "prompt read k"]:
        """The answers of every read-out position."""
        return self._by_read(self.answer)

    @property
    def wrong_targets(self) -> Int[Tensor, "prompt read j"]:
        """The wrong answers of every read-out position."""
        return self._by_read(self.wrong)

    def _by_read(self, ids: Tensor) -> Tensor:
        if self.positions.ndim == 2:
            return ids if ids.ndim == 3 else ids.unsqueeze(-1)
        return ids.unsqueeze(1) if ids.ndim == 2 else ids[:, None, None]

    @property
    def reads(self) -> Int[Tensor, "prompt read"] | None:
        """The read-out positions of a task that has several a prompt, −1 where there is none; else None."""
        return self.positions if self.positions.ndim == 2 else None

    @property
    def last_position(self) -> Int[Tensor, "prompt"]:
        """The last position that is read of each prompt."""
        return self.positions if self.positions.ndim == 1 else self.positions.amax(-1)

    @property
    def has_corrupt(self) -> bool:
        """False when the task was built without corrupt prompts."""
        return self.corrupt is not self.clean

    @property
    def first_difference(self) -> Int[Tensor, "prompt"]:
        """First position at which clean and corrupt differ; the number of positions when there is none."""
        return _tokens.first_difference(self.clean, self.corrupt)

    def __len__(self) -> int:
        return self.clean.shape[0]

    def __repr__(self) -> str:
        prompts, pos = self.clean.shape
        return f"Task({self.name!r}, {prompts} prompts of {pos} tokens, {self.metric!r}, seed={self.seed})"

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Task:
        """The task of some of the prompts, in the order given; the width (pos) stays."""
        return _rows.take(self, index)

    def __add__(self, other: Task) -> Task:
        """The prompts of both, whatever their lengths; one metric, and either all or no corrupt prompts."""
        if not isinstance(other, Task):
            raise ValueError(f"a task and {shown(other)} cannot be joined. Add a Task.")
        return _rows.joined((self, other))

    @verb
    def split(
        self, share: float = 0.5, seed: int = 0, *, cluster: str | None = "template"
    ) -> tuple[Task, Task]:
        """The discovery part, to search and choose on, and the verification part, to measure what was chosen.

        share: of the independent units that goes to discovery. cluster: what stays together, as in
        `stats.bootstrap`: templates where there are at least 10, else prompts that share a text; None
        for single prompts (mirrored pairs then come apart: each part has seen the other's texts). Prompts
        keep their order. Results say in `part` which they are of. ValueError where one part would be empty.

        Example:
            >>> task = interp.tasks.ioi(interp.load("tiny-ioi"), n=16)
            >>> [(len(part), part.part) for part in task.split()]
            [(8, 'discovery'), (8, 'verification')]
        """
        return _rows.parted(self, share, seed, cluster)

    def swap(self) -> Task:
        """Clean and corrupt exchanged, and answers with wrong answers. ValueError without wrong answers.

        Spans become those of the mirrored prompts, so that the names stay true; variables go.
        """
        return _rows.swapped(self)

    def with_rest(self, name: str = "rest") -> Task:
        """The task with one more span: the real positions that no other span marks.

        With it the spans make up the prompts, so that a map by span leaves nothing out and a circuit by span
        can keep all of the model. Raises ValueError for a name that is taken, and where nothing is left.

        Example:
            >>> task = interp.tasks.ioi(interp.load("tiny-ioi"), n=4).with_rest()
            >>> list(task.spans)[-1], bool(torch.stack([*task.spans.values()]).any(0)[:, 0].all())
            ('rest', True)
        """
        return replace(self, spans=_spans.with_rest(self.spans, self.lengths, self.clean, name))

    def without_corrupt(self) -> Task:
        """The clean prompts alone: for zero or mean ablation, and for two models on the same prompts."""
        return replace(self, corrupt=self.clean)

    def with_variables(self, **variables: Variable) -> Task:
        """The task with causal variables, beside those that it has: values and outcomes by name.

        Example:
        >>> task = interp.Task.from_tokens(
        ...     clean=[[1, 2], [2, 1]], corrupt=[[2, 1], [1, 2]], answer=[5, 6], wrong=[6, 5]
        ... )
        >>> first = interp.tasks.Variable(values=[0, 1], outcomes=[[5, 6], [5, 6]])
        >>> list(task.with_variables(first=first).variables)
        ['first']
        """
        return replace(self, variables={**self.variables, **variables})

    def fingerprint(self) -> str:
        """sha256 of the tokens, answers, positions, lengths and metric; the same on every device."""
        digest = hashlib.sha256(repr(self.metric).encode())
        ids = (self.answers, self.wrongs)  # (prompt, k) in the same way whether k is 1 or not
        for tensor in (self.clean, self.corrupt, *ids, self.positions, self.lengths):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def problems(self, model: Any = None) -> list[str]:
        """What is wrong with the task on this model; nothing, for a task that was built, without a model."""
        return _validate.row_problems(self) + ([] if model is None else _validate.fit_problems(self, model))

    def same_pairs(self) -> list[str]:
        """A sentence for every prompt that is its own corrupt prompt: there is nothing to exchange."""
        return _validate.same_problems(self.clean, self.corrupt, self.lengths) if self.has_corrupt else []

    def require_vocabulary(self, model: Any) -> None:
        """Raise ValueError for ids that the model has not, and for padding that would be read as text.

        Prompts' ids belong to the vocabulary that it reads, answers' to that which it gives logits for.
        """
        _validate.require_vocabulary(self, model)

    def require_metrics(self, model: Any, metric: Sequence[Metric]) -> None:
        """Raise ValueError for metrics that need what the task or the model has not."""
        _validate.require_metrics(self, model, metric)

    @verb
    def check(self, model: Any, *, floor: float = 0.5, batch_size: int = 32) -> check.TaskReport:
        """All problems on this model, and how many prompts it solves."""
        return check.check(self, model, floor=floor, batch_size=batch_size)

    @verb
    def keep_solved(self, model: Any, *, corrupt: bool = True, batch_size: int = 32) -> Task:
        """The pairs with clean right and, with `corrupt`, corrupt wrong; warns how many it drops."""
        return check.keep_solved(self, model, corrupt=corrupt, batch_size=batch_size)

    @classmethod
    @verb
    def from_tokens(
        cls,
        *,
        clean: Tokens,
        corrupt: Tokens | None = None,
        answer: Tokens | None = None,
        wrong: Tokens | None = None,
        positions: Tokens | None = None,
        lengths: Tokens | None = None,
        mask: Tokens | None = None,
        metric: Metric | str | None = None,
        name: str = "custom",
        seed: int | None = None,
        template: Sequence[str] | None = None,
        labels: Sequence[Sequence[str]] | None = None,
        spans: Mapping[str, Any] | None = None,
        pad: int = 0,
    ) -> Task:
        """A task from token ids: tensors, or lists of lists whose rows may differ in length.

        positions: the token whose logits predict the answer, by default the last; (prompt, read) for several,
        with `answer` and `wrong` of each. answer, wrong: needed where the metric reads them. mask: 1 where
        a token is real, 0 where it is padding, for ids that are padded on the left or on the right; positions
        and labels count in the ids as given. Without a mask, ids that begin or end in several `pad` and have
        no `lengths` are refused. spans: named positions, by name one entry a prompt: an index, a list of
        them, (start, stop), or None; or a bool tensor (prompt, pos).

        Example:
        >>> task = interp.Task.from_tokens(
        ...     clean=[[1, 2, 3]], corrupt=[[1, 4, 3]], answer=[5], wrong=[6], spans={"verb": [1]}
        ... )
        >>> task.clean.shape, task.positions.tolist(), task.spans["verb"].tolist()
        (torch.Size([1, 3]), [2], [[False, True, False]])
        """
        chosen = LogitDiff() if metric is None else as_metric(metric)
        fields = _tokens.fields(
            clean, corrupt, {"answer": answer, "wrong": wrong}, chosen, positions=positions, lengths=lengths,
            mask=mask, labels=labels, spans=spans, pad=pad,
        )  # fmt: skip
        return cls(**fields, metric=chosen, name=name, seed=seed, template=tuple(template or ()))

    @classmethod
    @verb
    def from_prompts(
        cls,
        model: Any,
        *,
        clean: Sequence[str | Any],
        corrupt: Sequence[str | Any] | None = None,
        answer: Sequence[str | Sequence[str]] | None = None,
        wrong: Sequence[str | Sequence[str]] | None = None,
        positions: Tokens | None = None,
        metric: Metric | str | None = None,
        name: str = "custom",
        seed: int | None = None,
        template: Sequence[str] | None = None,
        spans: Mapping[str, Any] | None = None,
        prepend_bos: bool | None = None,
    ) -> Task:
        """A task from strings. Each answer is one token (often with a leading space), or a list of such.

        spans: as in `from_tokens` (BOS counted); an entry may also be words that stand once in the text.

        With metric="seq_log_prob" an answer is one string of any number of tokens; all but its last token are
        put behind both prompts, and the metric is its log probability.

        Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.Task.from_prompts(
        ...     model,
        ...     clean=["When Mary and John went to the store, John gave a book to"],
        ...     corrupt=["When Mary and John went to the store, Mary gave a book to"],
        ...     answer=[" Mary"], wrong=[" John"], spans={"place": ["store"], "end": [-1]},
        ... )
        >>> len(task), task.has_corrupt, list(task.spans)
        (1, True, ['place', 'end'])
        """
        chosen = LogitDiff() if metric is None else as_metric(metric)
        fields = _prompts.tokenize(
            model, clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, prepend_bos=prepend_bos,
            forced=chosen.over_reads == "sum", positions=positions, spans=spans,
        )  # fmt: skip
        return cls._on(model, fields, metric=chosen, name=name, seed=seed, template=template)

    @classmethod
    def _on(cls, model: Any, fields: dict[str, Any], **options: Any) -> Task:
        """The task of these token ids, checked against the model."""
        task = cls.from_tokens(**fields, **options)
        _validate.require(task.problems(model))
        return task

    @classmethod
    @verb
    def from_chat(
        cls,
        model: Any,
        *,
        clean: Sequence[str | Any],
        corrupt: Sequence[str | Any] | None = None,
        answer: Sequence[str | Sequence[str]] | None = None,
        wrong: Sequence[str | Sequence[str]] | None = None,
        system: str | None = None,
        prefix: str = "",
        metric: Metric | str | None = None,
        name: str = "custom",
        seed: int | None = None,
        template: Sequence[str] | None = None,
    ) -> Task:
        """A task from chats, written out by the tokenizer's own template, up to the assistant's first token.

        clean, corrupt: a string each (one user turn), or a list of messages {"role": ..., "content": ...}.
        system: a system message in front of every chat that has none. prefix: how the assistant's answer
        begins; the answer is predicted after it. The template writes BOS itself; no second one is added.
        The words of the system's message, of the user's last one and of how the answer begins are the spans
        "system", "last_user" and "response", where both prompts of a pair have them at the same positions.
        ValueError for a tokenizer without a template, and for content that holds a special token.
        """
        chosen = LogitDiff() if metric is None else as_metric(metric)
        fields = chat.tokenize(
            model, clean, corrupt, answer, wrong, system=system, prefix=prefix,
            forced=chosen.over_reads == "sum",
        )  # fmt: skip
        return cls._on(model, fields, metric=chosen, name=name, seed=seed, template=template)

    @classmethod
    @verb
    def from_file(cls, model: Any, path: str | Path, **options: Any) -> Task:
        """A task from JSONL or CSV, of texts or of token ids. `options` go to `from_prompts`.

        One prompt pair a line, with the keys `clean`, `corrupt`, `answer`, `wrong` and, if wanted, `template`
        (the cluster of the prompt), `position` (index of the token whose logits predict the answer, BOS
        counted) and `spans` (an object from names to positions; in CSV a cell of JSON). Several answers are a
        list in JSONL and `a|b` in CSV. Errors name the line of the file.
        """
        return _files.read(Path(path)).build(cls, model, {"name": Path(path).stem, **options})

    @classmethod
    @verb
    def from_frame(cls, model: Any, frame: Any, **options: Any) -> Task:
        """A task from a table of pandas or polars, a Dataset of Hugging Face, or a list of rows (dicts).

        The columns are those of `from_file`; cells of `answer`, `wrong` may be lists. `options` go to
        `from_prompts`. Errors name the row.
        """
        return _files.from_frame(frame).build(cls, model, options)

    @verb
    def to_file(
        self, model: Any, path: str | Path, *, tokens: bool | None = None, prepend_bos: bool | None = None
    ) -> Path:
        """Write the prompts as JSONL or CSV (by the suffix), so that `from_file` gives the same tokens.

        tokens: write token ids and not texts (JSONL only); by default for a model without a tokenizer, for
        which `model` may be None. The file is written whole. The metric and the variables are not in it.
        """
        return _writing.write(self, Path(path), model, tokens=tokens, prepend_bos=prepend_bos)
