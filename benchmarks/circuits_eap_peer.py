"""`attribution_patch` of TransformerLens 4 with edges, and eap, on one TransformerBridge: values and times.

Run with TransformerLens 4; circuits_eap.py does. The last line it prints is JSON. The peer works prompt by
prompt and scores an edge at every position; ours is the sum over positions.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from attribution_peer import bridge, one_pair
from patching import task_of, timed
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

from interp import circuits

KINDS = {"q_input": "q", "k_input": "k", "v_input": "v"}
BATCHES = ((1, 15, "≥ 12×"), (10, 15, "≥ 25×"))  # prompts, tokens, asked


def peer(model: Any, task: Any) -> Any:
    """The peer on all edges: means over prompts; the corrupt run patched with the clean."""
    answer, wrong = int(task.answers[0, 0]), int(task.wrongs[0, 0])
    return attribution_patch(
        model,
        task.clean,
        task.corrupt,
        lambda logits: logits[0, -1, answer] - logits[0, -1, wrong],
        config=EdgeAttributionConfig(granularity="edge"),
    )


def name(node: Any) -> str:
    """A node of the peer in EAP-IG's names."""
    if node.kind in KINDS:
        return f"a{node.layer}.h{node.head}<{KINDS[node.kind]}>"
    ends = {"embed": "input", "logits": "logits", "attn_head_out": f"a{node.layer}.h{node.head}"}
    return ends.get(node.kind, f"m{node.layer}")


def summed(graph: circuits.Graph, found: Any) -> np.ndarray:
    """The peer's scores over positions, [writer, reader]; NaN where it has no edge."""
    out = np.full(graph.allowed.shape, np.nan)
    writers = {writer: index for index, writer in enumerate(graph.writers)}
    readers = {reader: index for index, reader in enumerate(graph.readers)}
    for (source, target), score in found.edge_scores.items():
        at = writers[name(source)], readers[name(target)]
        out[at] = score + (0.0 if np.isnan(out[at]) else out[at])
    return out


def row(model: Any, prompts: int, tokens: int, asked: str, dtype: str) -> dict[str, Any]:
    """Times and their ratio; the largest difference between the scores."""
    task = one_pair(task_of(model, tokens, 0, prompts))
    ours = partial(circuits.score_edges, model, task, direction="denoise")
    ours()  # warm
    seconds, result = timed(ours, 3)
    other, found = timed(partial(peer, model, task), 1)
    graph = circuits.Graph.of(model)
    theirs, mine = summed(graph, found), result["value"].mean("prompt").values
    if not np.array_equal(np.isnan(theirs), np.isnan(mine)):
        raise RuntimeError("the peer has other edges")
    return {
        "prompts": prompts, "tokens": tokens, "dtype": dtype, "edges": graph.n_edges, "asked": asked,
        "ours_s": seconds, "peer_s": other, "ratio": other / seconds,
        "gap": float(np.nanmax(abs(theirs - mine))), "largest": float(np.nanmax(abs(theirs))),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row(bridge(True, torch.float64), 2, 15, "–", "float64, small")]
    model = bridge(args.quick, torch.float32)
    rows += [row(model, *batch, "float32") for batch in BATCHES]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
