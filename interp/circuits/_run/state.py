"""The run that batches of circuits start from: some prompts, all that a circuit can reuse.

`Base` is fixed: the run in which nothing is cut, and what a cut adds to its reader (`gaps`). `State` is the
run of one circuit, at first that of all edges. The circuits of a batch are computed as changes to a state.

Of each prompt only a window of positions is computed, all windows equally wide: before the first change every
circuit is the base run, and after the last position that is read nothing matters.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits._graph import Spans
from interp.circuits._run.ablation import gaps
from interp.circuits._run.reach import WHOLE
from interp.engine import block as B
from interp.engine.readout import Readout, Reads
from interp.engine.runs import Capture, Runs, capture
from interp.models.parts import Weights
from interp.tasks.metrics import Metric

_ELEMENTS = 2**20  # of logits that a metric sees at once: more would leave the processor's cache


@dataclass(eq=False)
class State:
    """Activations of the run of one circuit, by layer; q and k as the scores use them."""

    mask: Bool[Tensor, "writer reader"]
    q: list[Tensor]  # [prompt, pos, head, d_head]
    k: list[Tensor]  # [prompt, key, kv head, d_head]: keys from position 0 on
    v: list[Tensor]
    z: list[Tensor]  # [prompt, pos, head, d_head]
    mlp: list[Tensor]  # [prompt, pos, d_model]
    logits: Tensor  # [prompt, column] or [prompt, pos, column], positions from 0 on
    moved: dict[int, Tensor] = field(default_factory=dict)  # writer: its write less the base run's
    inputs: dict[int, Tensor] = field(default_factory=dict)  # reader: its input, where not the base stream

    def copy(self, mask: Tensor) -> State:
        """The same tensors in new lists, to be replaced one by one."""
        lists = {name: list(getattr(self, name)) for name in ("q", "k", "v", "z", "mlp")}
        return replace(self, mask=mask, **lists, moved=dict(self.moved), inputs=dict(self.inputs))


class Base:
    """Some prompts, run once with nothing cut and once as what cut edges carry."""

    def __init__(
        self,
        weights: Weights,
        runs: Runs,
        spans: Spans,
        metrics: tuple[Metric, ...],
        constants: Tensor | None,
    ) -> None:
        self.weights, self.runs, self.spans = weights, runs, spans
        self.reads = Reads(runs, metrics)
        self.readout = Readout(weights, self.reads)
        saved = capture(weights, runs, ("z", "mlp_out"))
        n = len(runs)
        base, source = (self.readout.whole_runs(part) for part in (saved.final[:n], saved.final[n:]))
        self.clean_logits = base if runs.clean_is_base else source
        self.values = self.score(base[None])[0]  # [prompt, metric]: of the base run
        self.source_values = self.score(source[None])[0]
        self.gaps = gaps(weights, runs, saved, constants, self.window)  # [writer, prompt, pos, d_model]
        self.pre = [self.seen(x) for x in saved.pre]  # by layer and after the last: [prompt, pos, d_model]
        self.mid = [self.seen(x) for x in saved.mid]
        self.full = self._state(saved, base)
        self.streams = saved  # pre, mid and past of the base run, all positions
        saved.base, saved.source, saved.final = {}, {}, base.new_empty(0)
        self._replaced: dict[int, tuple[bytes, Tensor]] = {}

    def let_go(self) -> None:
        """Free all that is held, whoever still has a name for it."""
        vars(self).clear()

    @cached_property
    def pos(self) -> Int[Tensor, "prompt pos"]:
        """The positions that are computed of each prompt."""
        first = torch.minimum(self.runs.first_change(), self.runs.positions)
        width = int((self.reads.stop - first).max())
        start = (self.reads.stop - width).clamp(min=0)
        return start[:, None] + torch.arange(width, device=start.device)

    @property
    def width(self) -> int:
        return self.pos.shape[1]

    @property
    def n_keys(self) -> int:
        """One past the last position that is computed of any prompt."""
        return int(self.pos.max()) + 1

    @cached_property
    def window(self) -> tuple[Tensor, Tensor]:
        """Index of the positions that are computed in [prompt, pos, ...]."""
        return self.prompts[:, None], self.pos

    def seen(self, x: Float[Tensor, "prompt all_pos *rest"]) -> Float[Tensor, "prompt pos *rest"]:
        """The positions that are computed."""
        return x[self.window]

    @cached_property
    def prompts(self) -> Int[Tensor, "prompt"]:
        return torch.arange(len(self.runs), device=self.runs.base.device)

    @cached_property
    def at(self) -> Int[Tensor, "prompt"]:
        """Index of the answer's position among those computed."""
        return self.runs.positions - self.pos[:, 0]

    def final(self, x: Float[Tensor, "*any prompt pos d"]) -> Float[Tensor, "*any prompt 1 d"]:
        """The rows at the answer's position."""
        return x[..., self.prompts, self.at, :].unsqueeze(-2)

    def stream(self, layer: int, mlp: bool) -> Float[Tensor, "prompt pos d_model"]:
        """What the readers of a layer's attention (or its MLP) see in the base run."""
        return self.mid[layer] if mlp and self.mid else self.pre[layer]

    def replaced(self, reader: int, cut: Bool[Tensor, "writer"]) -> Float[Tensor, "prompt pos d_model"]:
        """What the cut edges into a reader add, kept until others are asked for: a search that starts anew
        from its circuit cuts most readers as it did before."""
        key = cut.cpu().numpy().tobytes()
        if self._replaced.get(reader, (b"",))[0] != key:
            writers = cut.nonzero()[:, 0].tolist()
            some = slice(writers[0], writers[-1] + 1) if writers else slice(0)
            weights, gaps = cut[some].to(self.gaps.dtype), self.gaps[some]
            self._replaced[reader] = key, (weights @ gaps.flatten(1)).view(gaps.shape[1:])
        return self._replaced[reader][1]

    def put(self, target: Tensor, level: int, value: Tensor) -> Tensor:
        """A copy of target [prompt, pos, ...] with the computed rows replaced by value."""
        out = target.clone()
        if level == WHOLE:
            out[:] = value
        else:
            out[self.prompts, self.at] = value[:, 0]
        return out

    def score(
        self, logits: Float[Tensor, "circuit prompt *column"]
    ) -> Float[Tensor, "circuit prompt metric"]:
        """The metrics of runs whose logits at the positions read are given, float64.

        Of many circuits prompt by prompt: what a metric makes of the clean run is then made once for all.
        """
        k, n = logits.shape[:2]
        if k < n:
            at_once = max(1, _ELEMENTS // self.clean_logits.numel())
            return torch.cat([self._score(some) for some in logits.split(at_once)])
        at_once = max(1, _ELEMENTS // self.clean_logits[0].numel())
        parts = [logits[:, prompt].split(at_once) for prompt in range(n)]
        scores = [torch.cat([self._of_prompt(some, at) for some in part]) for at, part in enumerate(parts)]
        return torch.stack(scores, 1)

    def _of_prompt(self, logits: Float[Tensor, "circuit *column"], prompt: int) -> Tensor:
        clean = self.clean_logits[prompt].expand(logits.shape)
        return self.readout.score(logits, clean, self.prompts[prompt].expand(len(logits)))

    def _score(self, logits: Tensor) -> Tensor:
        k = len(logits)
        clean = self.clean_logits.expand(k, *self.clean_logits.shape).flatten(0, 1)
        found = self.readout.score(logits.flatten(0, 1), clean, self.prompts.repeat(k))
        return found.unflatten(0, (k, -1))

    def _state(self, saved: Capture, logits: Tensor) -> State:
        queries = []
        for block, x in zip(self.weights.blocks, self.pre):
            rows = B.normed(block.attn_norm, x).flatten(0, 1)
            q = B.project(block.attn.W_Q, block.attn.b_Q, rows)
            q = B.finish(block.attn, q, self.pos.flatten(), block.attn.q_norm)
            queries.append(q.unflatten(0, x.shape[:2]))
        layers = range(len(queries))
        return State(
            mask=self.spans.graph.allowed.to(logits.device),
            q=queries,
            k=[past.k[:, : self.n_keys] for past in saved.past],
            v=[past.v[:, : self.n_keys] for past in saved.past],
            z=[self.seen(saved.base["z", layer]) for layer in layers],
            mlp=[
                self.seen(saved.base["mlp_out", layer]) for layer in layers if not self.spans.graph.attn_only
            ],
            logits=logits,
        )
