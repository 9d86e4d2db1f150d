"""How many prompts fit in memory at once while a pass keeps its graph."""

from __future__ import annotations

from interp.engine.memory import Budget
from interp.methods import Method
from interp.models import Anatomy
from interp.places import AXES


def prompt_bytes(
    facts: Anatomy, item_size: int, n_pos: int, sites: tuple[str, ...], n_metrics: int, n_tables: int
) -> int:
    """Peak bytes of one prompt: the graph of a pass, the logits, and what the estimates hold."""
    width = facts.n_heads * facts.d_head
    row = 16 * facts.d_model + 8 * width + (0 if facts.attn_only else 10 * facts.d_mlp)
    graph = facts.n_layers * (n_pos * row + 6 * facts.n_heads * n_pos * n_pos)
    kept = sum(_numbers(facts, site, n_pos) for site in sites) * facts.n_layers
    tables = sum(_cells(facts, site, n_pos) for site in sites) * facts.n_layers * n_metrics * n_tables
    return item_size * (graph + 3 * kept + 3 * n_pos * facts.d_vocab) + 16 * tables


def prompts_at_once(
    budget: Budget, n_pos: int, sites: tuple[str, ...], n_metrics: int, method: Method
) -> int:
    """At least one; at most `batch_size` where the caller gave one."""
    n_tables = method.cost(budget.facts.n_layers)[1] if method.name == "atp*" else 1
    each = prompt_bytes(budget.facts, budget.item_size, n_pos, sites, n_metrics, n_tables)
    room = max(1, budget.limit // each)
    return room if budget.batch_size is None else min(room, budget.batch_size)


def _cells(facts: Anatomy, site: str, n_pos: int) -> int:
    out = 1
    for axis in AXES[site]:
        out *= facts.size(site, axis, n_pos) + 1
    return out


def _numbers(facts: Anatomy, site: str, n_pos: int) -> int:
    vector = {"pos": facts.d_model, "head": facts.d_head}.get(AXES[site][-1], 1)
    return _cells(facts, site, n_pos) * vector
