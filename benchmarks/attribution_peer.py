"""`attribution_patch` of TransformerLens 4 and our estimates, on one TransformerBridge: values and times.

Run with TransformerLens 4; attribution.py does. The last line it prints is JSON.

The peer scores every node: the embedding by position, heads by (layer, pos, head), MLPs by (layer, pos),
prompt by prompt. Ours are compared node by node for `atp`. Where the inputs differ in tokens alone, the
embedding is resid_pre of layer 0.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from functools import partial
from typing import Any

import torch
import transformers
from patching import _version, task_of, timed
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

import interp

SITES = ("resid_pre", "attn_out", "mlp_out")
BATCHES = ((1, 15), (16, 15))  # prompts, tokens


def bridge(quick: bool, dtype: torch.dtype) -> Any:
    """A bridge to a random GPT-2 of its own shape, or a tiny one."""
    from tokenizers import Tokenizer, models

    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 500} if quick else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval().to(dtype)
    words = Tokenizer(models.WordLevel({"<s>": 0, "<u>": 1}, unk_token="<u>"))
    special = {"bos_token": "<s>", "eos_token": "<s>", "unk_token": "<u>", "pad_token": "<s>"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner.config.save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        model = TransformerBridge.boot_transformers(
            folder, hf_model=inner, tokenizer=tokenizer, dtype=dtype, device="cpu"
        )
        model.enable_compatibility_mode()
    return model.eval()


def peer(model: Any, task: Any) -> Any:
    """The peer on all nodes: means over prompts."""
    answer, wrong = int(task.answers[0, 0]), int(task.wrongs[0, 0])
    return attribution_patch(
        model, task.clean, task.corrupt, lambda logits: logits[0, -1, answer] - logits[0, -1, wrong]
    )


def one_pair(task: Any) -> Any:
    """The same answers for all prompts: the peer's metric does not know which prompt it is given."""
    n = len(task)
    return interp.Task.from_tokens(clean=task.clean, corrupt=task.corrupt, answer=[3] * n, wrong=[7] * n)


def row(model: Any, prompts: int, tokens: int) -> dict[str, Any]:
    """Times and their ratio; the largest difference between the values of `atp` and the peer's nodes."""
    task = one_pair(task_of(model, tokens, 0, prompts))
    ours = partial(interp.attribute, model, task, SITES, method="relp", progress=False)
    ours()  # warm
    seconds, _ = timed(ours, 3)
    other, found = timed(partial(peer, model, task), 2)
    return {
        "prompts": prompts, "tokens": tokens, "ours_s": seconds, "peer_s": other, "ratio": other / seconds,
        "cells": 3 * model.cfg.n_layers * tokens, "nodes": len(found.node_scores), **gaps(model, task, found),
    }  # fmt: skip


def gaps(model: Any, task: Any, found: Any) -> dict[str, float]:
    """Of every node of the peer."""
    options = {"method": "atp", "progress": False}
    heads = interp.attribute(model, task, "z", by=("layer", "pos", "head"), **options)["value"].mean("prompt")
    stream = interp.attribute(model, task, ("resid_pre", "mlp_out"), **options)["value"].mean("prompt")
    largest, gap = 0.0, 0.0
    for node, score in found.node_scores.items():
        if node.kind == "attn_head_out":
            mine = heads.values[node.layer, node.position, node.head]
        else:
            site = "mlp_out" if node.kind == "mlp_out" else "resid_pre"
            mine = stream.sel(site=site).values[node.layer or 0, node.position]
        gap, largest = max(gap, abs(float(mine) - score)), max(largest, abs(score))
    return {"gap": gap, "largest": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    out: dict[str, Any] = {"version": _version("transformer-lens")}
    out["float64"] = row(bridge(args.quick, torch.float64), 2, 15)
    model = bridge(args.quick, torch.float32)
    out["rows"] = [row(model, *batch) for batch in BATCHES]
    print(json.dumps(out))


if __name__ == "__main__":
    main()
