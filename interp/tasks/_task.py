"""Task: pairs of clean and corrupt prompts, the answers, where the answer is predicted, and the metric.

A task is frozen and checked when it is built: every mistake is a `ValueError` before any forward pass.

Conventions. `clean` and `corrupt` have one shape, (prompt, pos), right-padded; row i has `lengths[i]` real
tokens. `positions[i]` is the index of the token whose logits predict the answer (by default the last).
`answer` and `wrong` are token ids, (prompt,) or (prompt, k); −1 pads rows with fewer than k.
`corrupt is clean` (the same tensor; `corrupt=None` in the constructors) means that the task has no corrupt
prompts (`has_corrupt` is False): for corruptions that make their own, such as noise on the embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.tasks import _files, _prompts, _tokens, _validate, check
from interp.tasks.metrics import LogitDiff, Metric

Tokens = Tensor | Sequence[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A behaviour to explain. See the module's text for the conventions."""

    clean: Int[Tensor, "prompt pos"]
    corrupt: Int[Tensor, "prompt pos"]
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"]
    wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt j"]
    positions: Int[Tensor, "prompt"]
    lengths: Int[Tensor, "prompt"]
    metric: Metric = field(default_factory=LogitDiff)
    name: str = "custom"
    seed: int | None = None
    labels: tuple[tuple[str, ...], ...] | None = None
    template: tuple[str, ...] = ()

    def __post_init__(self) -> None:
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
        _validate.require(_validate.row_problems(self))

    @property
    def answers(self) -> Int[Tensor, "prompt k"]:
        """The answers as (prompt, k)."""
        return self.answer if self.answer.ndim == 2 else self.answer.unsqueeze(-1)

    @property
    def wrongs(self) -> Int[Tensor, "prompt j"]:
        """The wrong answers as (prompt, k)."""
        return self.wrong if self.wrong.ndim == 2 else self.wrong.unsqueeze(-1)

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
        rows = torch.arange(len(self))[[index] if isinstance(index, int) else _on_cpu(index)]
        picked = rows.tolist()
        clean = self.clean[rows]
        return replace(
            self,
            clean=clean,
            corrupt=self.corrupt[rows] if self.has_corrupt else clean,
            answer=self.answer[rows],
            wrong=self.wrong[rows],
            positions=self.positions[rows],
            lengths=self.lengths[rows],
            labels=None if self.labels is None else tuple(self.labels[i] for i in picked),
            template=tuple(self.template[i] for i in picked),
        )

    def swap(self) -> Task:
        """Clean and corrupt exchanged, and answers with wrong answers."""
        labels = self.labels
        if labels is not None:
            labels = _tokens.relabel(self.clean, labels, self.corrupt, self.lengths)
        return replace(
            self, clean=self.corrupt, corrupt=self.clean, answer=self.wrong, wrong=self.answer, labels=labels
        )

    def fingerprint(self) -> str:
        """sha256 of the tokens, answers, positions, lengths and metric; the same on every device."""
        digest = hashlib.sha256(repr(self.metric).encode())
        for tensor in (self.clean, self.corrupt, self.answers, self.wrongs, self.positions, self.lengths):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def problems(self, model: Any = None) -> list[str]:
        """What is wrong with the task on this model; nothing, for a task that was built, without a model."""
        found = _validate.row_problems(self)
        return found if model is None else found + _validate.fit_problems(self, model)

    def check(self, model: Any, *, floor: float = 0.5, batch_size: int = 32) -> check.TaskReport:
        """All problems on this model, and how many prompts it solves."""
        return check.check(self, model, floor=floor, batch_size=batch_size)

    def keep_solved(self, model: Any, *, corrupt: bool = True, batch_size: int = 32) -> Task:
        """The pairs with clean right and, with `corrupt`, corrupt wrong; warns how many it drops."""
        return check.keep_solved(self, model, corrupt=corrupt, batch_size=batch_size)

    @classmethod
    def from_tokens(
        cls,
        *,
        clean: Tokens,
        corrupt: Tokens | None = None,
        answer: Tokens,
        wrong: Tokens,
        positions: Tokens | None = None,
        lengths: Tokens | None = None,
        metric: Metric | None = None,
        name: str = "custom",
        seed: int | None = None,
        template: Sequence[str] | None = None,
        labels: Sequence[Sequence[str]] | None = None,
        pad: int = 0,
    ) -> Task:
        """A task from token ids: tensors, or lists of lists whose rows may differ in length."""
        rows = _tokens.pad_pairs(clean, corrupt, lengths, pad)
        device = rows.clean.device
        tensors = {
            "clean": rows.clean,
            "corrupt": rows.corrupt,
            "answer": _tokens.pad_answers(answer, device),
            "wrong": _tokens.pad_answers(wrong, device),
            "positions": rows.lengths - 1 if positions is None else _tokens.as_tensor(positions, device),
            "lengths": rows.lengths,
        }
        _validate.require_tensors(tensors)
        return cls(
            **tensors,
            metric=metric or LogitDiff(),
            name=name,
            seed=seed,
            labels=None if labels is None else _tokens.pad_labels(labels, rows.clean.shape[1]),
            template=tuple(template or ()),
        )

    @classmethod
    def from_prompts(
        cls,
        model: Any,
        *,
        clean: Sequence[str],
        corrupt: Sequence[str] | None = None,
        answer: Sequence[str | Sequence[str]],
        wrong: Sequence[str | Sequence[str]],
        positions: Tokens | None = None,
        metric: Metric | None = None,
        name: str = "custom",
        seed: int | None = None,
        template: Sequence[str] | None = None,
        prepend_bos: bool | None = None,
    ) -> Task:
        """A task from strings. Each answer is one token (often with a leading space), or a list of such."""
        fields = _prompts.tokenize(
            model, clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, prepend_bos=prepend_bos
        )
        task = cls.from_tokens(
            **fields, positions=positions, metric=metric, name=name, seed=seed, template=template
        )
        _validate.require(task.problems(model))
        return task

    @classmethod
    def from_file(cls, model: Any, path: str | Path, **options: Any) -> Task:
        """A task from JSONL or CSV: see `interp.tasks._files`. `options` go to `from_prompts`."""
        return cls.from_prompts(model, **{"name": Path(path).stem, **_files.read(Path(path)), **options})

    def to_file(self, model: Any, path: str | Path, *, prepend_bos: bool | None = None) -> Path:
        """Write the prompts as JSONL or CSV (by the suffix), so that `from_file` gives the same tokens."""
        return _files.write(self, Path(path), model, prepend_bos=prepend_bos)


def _on_cpu(index: slice | list[int] | Tensor) -> Any:
    return index.cpu() if isinstance(index, Tensor) else index
