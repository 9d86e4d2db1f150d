"""What work will cost before it is done: passes, FLOPs, bytes, and seconds on this machine.

1. FLOPs are counted from sizes alone: multiply-adds times two of the matrix products. A forward of one prompt
   of T tokens takes T · (4 d·kv + 4 d·w + m d·d_mlp) + 4 w T² a layer, with w = heads · d_head, kv that of
   key-value heads, m = 6 for gated MLPs and 4 for others, and 2 d·columns where logits are read. A backward,
   to activations alone, takes as much as a forward.
2. Bytes are what the verbs themselves count with, to fill `memory` and no more.
3. Seconds are FLOPs by the rate of products of the model's shape, measured for less than a second. They leave
   out copies and elementwise work: docs/scaling.md says by how much they were wrong where they were measured.

No forward pass is made, and a shape needs no weights, so that a model of any size can be planned for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from interp._arguments import whole
from interp._verbs import verb as public
from interp.ablation import Ablation
from interp.attribution._passes import at_once, prompt_bytes
from interp.circuits._graph import Graph
from interp.circuits._score.passes import sizes as edge_sizes
from interp.circuits._search.decisions import SMALLEST
from interp.engine.cells import grid
from interp.engine.memory import Budget
from interp.engine.plan import Plan, forward_flops, make_plan
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.experiment import MEMORY, Metrics, check_metric
from interp.grid import check_site, dims_of
from interp.methods import parse
from interp.models import Anatomy, Model, anatomy
from interp.patching._matched import DRAWS
from interp.patching._sweep import sweep_plan
from interp.places import AXES, hint
from interp.tasks import LogitDiff, Task

# By verb what `runs` counts, and at most how many runs of each prompt that makes beside base and source.
AT_MOST: dict[str, tuple[str, Callable[[int], int]]] = {
    "run": ("circuits", lambda n: 1 + n),  # and the one that keeps nothing
    "evaluate": ("circuits", lambda n: 1 + n),
    "curve": ("sizes", lambda n: 1 + 2 * n),  # by two rankings
    "random_baseline": ("circuits", lambda n: 1 + n),
    "hypothesis_tests": ("edges", lambda n: 103 + n),  # and twice fifty draws
    "sweep": ("layers times coefficients times directions", lambda n: n),
    "path_patch": ("paths", lambda n: 2 * n),  # to the receiver, and from it on
    "pairs": ("components", lambda n: n * (n + 1)),  # alone and by two, in both directions
    "knockouts": ("sets", lambda n: n * (1 + DRAWS)),
    "load_bearing": ("sets", lambda n: n * (1 + DRAWS)),
    "interchange": ("positions", lambda n: 3 * n),
    "illusion": ("positions", lambda n: 4 * n),
    "attention_knockout": ("pairs of spans times layers", lambda n: n),
    "circuit": ("nodes", lambda n: 1 + 2 * n),  # over features: a backward of the scores, and both a node
    "faithfulness": ("circuits", lambda n: 5 * n),
}
VERBS = (
    "patch", "attribute", "screen", "optimal_ablation", "score_edges", "score_nodes", "exact", "acdc",
    "acdc_sweep", "trace_back", *AT_MOST,
)  # fmt: skip
_WITH_METHOD = ("attribute", "screen", "score_edges", "score_nodes")
_MOST = 2**26  # tokens of all prompts, which are laid out to be counted
_FOLLOWED = 15  # inputs of the five heads that trace_back follows at each step


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that need not be there. Defaults are those of Llama: gated MLPs, float32."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    gated: bool = True
    dtype: torch.dtype = torch.float32
    name: str = "a shape"

    @property
    def facts(self) -> Anatomy:
        """As facts of a serial causal model."""
        n = self.n_layers
        return Anatomy(
            n_layers=n, n_heads=self.n_heads, n_key_value_heads=self.n_key_value_heads, d_model=self.d_model,
            d_head=self.d_head, d_mlp=self.d_mlp, d_vocab=self.d_vocab, d_vocab_out=self.d_vocab,
            n_ctx=2**20, attn_only=False, parallel=False, causal=True, rotary_switch=None,
            windows=(None,) * n, experts=(False,) * n, n_experts=0, latent=False, embed_scale=1.0,
            whole_qk_norm=False, post_norm=False, dtype=self.dtype, device=torch.device("cpu"), act_fn=None,
            architecture="", name=self.name,
        )  # fmt: skip


SHAPES = {
    "gpt2": Shape(12, 12, 12, 768, 64, 3072, 50257, gated=False, name="gpt2"),
    "llama-3-8b": Shape(32, 32, 8, 4096, 128, 14336, 128256, name="llama-3-8b"),
    "llama-3-70b": Shape(80, 64, 8, 8192, 128, 28672, 128256, name="llama-3-70b"),
}


@dataclass(frozen=True)
class Sizes:
    """Prompts that need not be there: how many, of how many tokens, and the first that differs."""

    prompts: int
    tokens: int
    first: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (("prompts", 1), ("tokens", 1), ("first", 0)):
            whole(name, getattr(self, name), lowest)
        if self.first >= self.tokens:
            raise ValueError(
                f"first is {self.first}, and prompts have {self.tokens} tokens; it counts from 0, so 0 to "
                f"{self.tokens - 1} fits."
            )
        if self.prompts * self.tokens > _MOST:
            raise ValueError(
                f"{self.prompts} prompts of {self.tokens} tokens are more than {_MOST}. Plan for fewer "
                "prompts: FLOPs and seconds grow as their number."
            )

    @property
    def runs(self) -> Runs:
        """Tokens that differ from `first` on, read at the last."""
        base = torch.zeros(self.prompts, self.tokens, dtype=torch.long)
        source, ids = base.clone(), torch.zeros(self.prompts, 1, dtype=torch.long)
        source[:, self.first :] = 1  # where nothing differs, nothing is run
        lengths = torch.full((self.prompts,), self.tokens)
        return Runs(base, source, False, ids, ids + 1, lengths - 1, lengths)


@public
def plan(
    verb: str,
    model: Model | Shape | str,
    task: Task | Sizes,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    method: str | None = None,
    runs: int = 1,
    cells: Sequence[str | Sequence[str]] | None = None,
    window: int = 1,
    neurons: Sequence[int] | None = None,
    source: Model | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
) -> Plan:
    """What a verb would cost: passes, FLOPs, bytes, and seconds on this machine. No forward pass.

    verb: by its name; "exact" cuts every edge, "run" and its like run circuits, "sweep" steers.
    model: a model, a `Shape`, or a name of `SHAPES` ("llama-3-8b", "llama-3-70b", "gpt2"). task: a Task, or
        `Sizes(prompts, tokens, first)`.
    method: of attribute and score_edges. runs: how many circuits ("run", "evaluate", "random_baseline"),
        sizes ("curve"), edges ("hypothesis_tests"), thresholds ("acdc_sweep"), paths ("path_patch"),
        components ("pairs"), sets ("knockouts", "load_bearing"), positions ("interchange", "illusion"),
        cells that are confirmed ("screen"), steps ("trace_back", "optimal_ablation"); of "sweep" layers ×
        coefficients × directions. The rest: as in `interp.patch`; cells, window, neurons, source and engine
        count for "patch" of a model with a task, which is counted cell by cell.

    Returns a Plan, which prints. Where runs are counted FLOPs are at most: only what differs is computed. Of
    "acdc", whose rows hang on what it finds, there are two bounds: all edges cut (`least_forwards`), and
    every guess wrong (`forwards`). Passes are those of our own forward; through the model itself all
    logits are computed. Seconds divide by a rate of products that is measured once (under a second). Raises
    ValueError for an unknown verb, and for "patch" as `patch` does.

    Example:
        >>> from interp.plans import Sizes
        >>> interp.plan("attribute", "llama-3-8b", Sizes(prompts=64, tokens=20)).forwards
        128
        >>> model = interp.load("tiny-ioi")
        >>> plan = interp.plan("patch", model, interp.tasks.ioi(model, n=4), "z")
        >>> plan.cells, plan.prompts
        (12, 4)
    """
    if verb not in VERBS:
        raise ValueError(f"verb is {verb!r}; it must be one of {', '.join(VERBS)}{hint(verb, VERBS)}")
    if isinstance(model, str) and model not in SHAPES:
        raise ValueError(f"{model!r} is no known shape ({', '.join(SHAPES)}); give one, a Shape or a model.")
    shape = SHAPES[model] if isinstance(model, str) else model
    if verb == "patch" and not isinstance(shape, Shape) and isinstance(task, Task):
        counted = sweep_plan(
            shape, task, site, by, cells=cells, window=window, neurons=neurons, source=source,
            ablation=ablation, direction=direction, metric=metric, batch_size=batch_size, memory=memory,
            engine=engine,
        )  # fmt: skip
        return _timed(counted, anatomy(shape))
    facts = shape.facts if isinstance(shape, Shape) else anatomy(shape)
    gated = shape.gated if isinstance(shape, Shape) else bool(getattr(shape.cfg, "gated_mlp", False))
    own = task.metric if isinstance(task, Task) else LogitDiff()
    reads = Reads(_runs_of(task), check_metric(metric, own))
    work = _Work(facts, gated, reads, Budget(facts, memory, batch_size))
    sites = [site or "z"] if isinstance(site, str) or site is None else list(site)
    for each in sites:
        check_site(facts, each)
    if method is not None and verb not in _WITH_METHOD:
        raise ValueError(f"method is {method!r}, and {verb} has none; {', '.join(_WITH_METHOD)} have.")
    counted = {
        "patch": lambda: work.patch(sites, by),
        "attribute": lambda: work.attribute(sites, method or "atp"),
        "score_edges": lambda: work.score_edges(method or "eap"),
        "score_nodes": lambda: work.score_edges(method or "eap"),
        "screen": lambda: work.screen(sites, method or "relp", runs),
        "exact": work.exact,
        "acdc": lambda: work.acdc(1),
        "acdc_sweep": lambda: work.acdc(runs),
        "trace_back": lambda: work.runs(work.traced(runs), "steps"),
        "optimal_ablation": lambda: work.optimal(sites, runs),
    }
    what, of = AT_MOST.get(verb, ("", int))
    made = counted[verb]() if verb in counted else work.runs(of(runs), what)
    return _timed(replace(made, verb=verb), facts)


def _runs_of(task: Task | Sizes) -> Runs:
    if isinstance(task, Sizes):
        return task.runs
    ends = (task.answers, task.wrongs, task.last_position, task.lengths)
    return Runs(task.corrupt, task.clean, False, *ends)


@dataclass(frozen=True, eq=False)
class _Work:
    """Sizes, from which every verb's cost follows."""

    facts: Anatomy
    gated: bool
    reads: Reads
    budget: Budget

    @property
    def prompts(self) -> int:
        return len(self.reads.runs)

    @property
    def n_pos(self) -> int:
        return self.reads.runs.n_pos

    @property
    def n_logits(self) -> int:
        """Logits that are read of one prompt."""
        return self._columns * (self.n_pos if self.reads.everywhere else 1)

    @property
    def _columns(self) -> int:
        return self.facts.d_vocab_out if self.reads.columns is None else len(self.reads.columns)

    def forward(self) -> float:
        """FLOPs of one prompt, with the logits that are read."""
        n_read = self.n_pos if self.reads.everywhere else 1
        return forward_flops(self.facts, self.gated, self.n_pos, self._columns, n_read)

    def patch(self, sites: list[str], by: str | Sequence[str] | None) -> Plan:
        """Every cell of a grid of each site, counted as `patch` counts."""
        plans = []
        for site in sites:
            dims = ("layer", AXES[site][-1]) if by is None else dims_of((site,), by)
            if "span" in dims:
                raise ValueError("by= has 'span', and sizes name no spans. Give a Task, or another dim.")
            table, _ = grid(self.facts, site, dims, self.n_pos)
            plans.append(make_plan(self.facts, self.gated, table, self.reads, self.budget, "fast"))
        first = max(plans, key=lambda each: each.memory)
        summed: dict[str, float] = {
            name: sum(getattr(each, name) for each in plans) for name in ("cells", "live", "flops")
        }
        summed["forwards"] = 2 * self.prompts
        return replace(first, **summed, naive_flops=sum(each.naive_flops for each in plans))

    def attribute(self, sites: list[str], method: str) -> Plan:
        forwards, backwards = parse(method).cost(self.facts.n_layers)
        n_metrics = len(self.reads.metrics)
        given = self.facts, self.budget.item_size, self.n_pos, tuple(sites), n_metrics, max(1, backwards)
        whole, by_block = prompt_bytes(*given), prompt_bytes(*given, by_block=True, n_logits=self.n_logits)
        block, cut = at_once(self.budget.limit, whole, by_block)
        block = min(self.prompts, block)
        held = by_block if cut else block * whole
        return self._passes("attribute", forwards, backwards * n_metrics, held, block, cut)

    def score_edges(self, method: str) -> Plan:
        graph, n_metrics = self._graph(), len(self.reads.metrics)
        forwards, backwards = parse(method, over="edges").edge_cost(graph.n_layers, graph.attn_only)
        room = edge_sizes(self.budget, self.n_pos, graph, n_metrics)
        block, pairs = min(room.prompts, self.prompts), len(graph.writers) * len(graph.readers)
        held = int(block * (room.each + 24 * pairs * n_metrics))
        result = 8 * self.prompts * pairs * n_metrics
        each = result / self.prompts / 2**30
        note = f"the result is {result / 2**30:.2g} GiB more; with by_prompt=False {each:.2g}"
        counted = self._passes("score_edges", forwards, backwards * n_metrics, held, block, room.by_block)
        products = 2.0 * pairs * self.facts.d_model * self.n_pos * max(1, backwards) * n_metrics
        return replace(counted, flops=counted.flops + self.prompts * products, note=note)

    def screen(self, sites: list[str], method: str, cells: int) -> Plan:
        """An estimate of every cell, and some of them exactly."""
        estimate, exact = self.attribute(sites, method), self.runs(cells, "cells")
        both = {name: getattr(estimate, name) + getattr(exact, name) for name in ("flops", "forwards")}
        return replace(exact, **both, backwards=estimate.backwards, memory=max(estimate.memory, exact.memory))

    def exact(self) -> Plan:
        """The layers after each edge's reader."""
        graph = self._graph()
        counted = self._counted(
            "exact", self.prompts * (2 + self._after(graph)) * self.forward(), self.budget.limit, 1
        )
        return replace(counted, cells=graph.n_edges, forwards=2 * self.prompts)

    def acdc(self, thresholds: int) -> Plan:
        """Least: the edges into the logits are tried and cut, and then all readers are dead. Most: every
        guess is wrong, and `SMALLEST` rows decide one edge; a row runs the layers from its reader on."""
        graph, n = self._graph(), self.prompts * thresholds
        least, most = len(graph.writers), SMALLEST * (graph.n_edges + 4)
        flops = n * (2 + SMALLEST * self._after(graph)) * self.forward()
        counted = self._counted("acdc", flops, self.budget.limit, 1)
        return replace(
            counted, cells=graph.n_edges * thresholds, forwards=(2 + most) * n,
            least_forwards=(2 + least) * n,
            least_flops=n * (2 * self.forward() + 2.0 * least * self.facts.d_model * self._columns),
            note="at least: every edge is cut; at most: every guess is wrong",
        )  # fmt: skip

    def _after(self, graph: Graph) -> float:
        """Forwards that all edges take when each runs the layers from its reader on."""
        allowed = graph.allowed.numpy()
        layers = np.array([graph.n_layers if name == "logits" else int(name[1:].split(".")[0].split("<")[0])
                           for name in graph.readers])  # fmt: skip
        return float((allowed.sum(0) * (graph.n_layers - layers)).sum() / graph.n_layers)

    def runs(self, n: int, what: str) -> Plan:
        """Runs of each prompt, each at most a forward. what: `runs=` counts."""
        note = f"at most: only what differs is run; runs= counts {what}"
        counted = self._counted("run", self.prompts * (2 + n) * self.forward(), self.budget.limit, 1)
        return replace(counted, cells=n, forwards=(2 + n) * self.prompts, note=note)

    def traced(self, steps: int) -> int:
        """Runs of `trace_back`: every writer to the logits, then to the inputs of what was kept; the prompts
        are halved, and a path takes two runs."""
        return len(self._graph().writers) * (1 + _FOLLOWED * (steps - 1))

    def optimal(self, sites: list[str], steps: int) -> Plan:
        """A forward and a backward for each cell and step."""
        cells = self.facts.n_layers * sum(self.facts.n_heads if site == "z" else 1 for site in sites)
        counted = self._passes(
            "optimal_ablation", cells * steps, cells * steps, self.budget.limit, self.prompts
        )
        return replace(counted, cells=cells, note="runs= counts steps")

    def _graph(self) -> Graph:
        f = self.facts
        return Graph(
            f.n_layers, f.n_heads, f.n_key_value_heads, attn_only=f.attn_only, parallel=f.parallel,
            d_model=f.d_model,
        )  # fmt: skip

    def _passes(
        self, verb: str, forwards: int, backwards: int, memory: float, block: int, by_block: bool = False
    ) -> Plan:
        """by_block: the blocks run once more for each backward."""
        forwards += backwards if by_block else 0
        flops = self.prompts * (forwards + backwards) * self.forward()
        counted = self._counted(verb, flops, memory, -(-self.prompts // block))
        return replace(counted, forwards=forwards * self.prompts, backwards=backwards * self.prompts)

    def _counted(self, verb: str, flops: float, memory: float, chunks: int) -> Plan:
        return Plan(
            cells=0, prompts=self.prompts, live=0, flops=flops, naive_flops=flops, memory=int(memory),
            chunks=chunks, engine="fast", verb=verb,
        )  # fmt: skip


def _timed(counted: Plan, facts: Anatomy) -> Plan:
    shape = (str(facts.device), facts.dtype, facts.d_model, max(facts.d_mlp, facts.d_model))
    least = counted.flops if counted.least_flops is None else counted.least_flops
    return replace(counted, seconds=least / rate(*shape, torch.get_num_threads()))


@lru_cache(maxsize=16)
def rate(device: str, dtype: torch.dtype, d_model: int, d_mlp: int, threads: int) -> float:
    """FLOPs a second of products of 256 rows into an MLP and back, the better half of a third of a second."""
    d_model, d_mlp = min(d_model, 4096), min(d_mlp, 8192)
    x = torch.zeros(256, d_model, dtype=dtype, device=device)
    W_in, W_out = (torch.zeros(d_model, d_mlp, dtype=dtype, device=device) for _ in range(2))
    seconds, start = [], time.perf_counter()
    with torch.inference_mode():
        while len(seconds) < 3 or time.perf_counter() - start < 0.3:
            before = time.perf_counter()
            out = (x @ W_in) @ W_out.T
            float(out[0, 0])  # waits for a GPU
            seconds.append(time.perf_counter() - before)
    return 4.0 * 256 * d_model * d_mlp / float(np.median(sorted(seconds)[: (len(seconds) + 1) // 2]))
