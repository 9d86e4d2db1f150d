"""What cannot be attributed, found before the first forward pass: models without usable hooks or gradients,
metrics without a slope, requests for cells that do not add up."""

from __future__ import annotations

from torch import nn

from interp.attribution.scoring import scorings
from interp.methods import AtpStar, Method
from interp.models import Anatomy, Model, unsupported
from interp.patching.request import Request


def check_model(model: Model) -> None:
    """Raise ValueError for a compiled or checkpointed model: hooks or their graph would be bypassed."""
    modules = [model, *(model.modules() if isinstance(model, nn.Module) else ())]
    for module in modules:
        kind = type(module).__name__
        if kind == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "the model is compiled (torch.compile), and a compiled graph does not keep to hooks. "
                "Give the model as it was before compiling."
            )
        if kind == "CheckpointWrapper" or getattr(module, "gradient_checkpointing", False) is True:
            raise ValueError(
                "the model uses activation checkpointing, which runs hooks a second time in the backward "
                "pass. Switch it off, or load the model without it."
            )


def check_request(model: Model, request: Request, facts: Anatomy, method: Method) -> None:
    """Raise ValueError for cells of several patches, and methods that do not fit the model."""
    if not request.table.single:
        raise ValueError(
            "a cell of several patches has no estimate of its own: one patch can cut the path of another, so "
            "estimates do not add up. Ask for the places one by one, or use interp.patch."
        )
    if isinstance(method, AtpStar) and method.qk_fix and {"q", "k"} & set(request.all_sites):
        _check_queries_and_keys(model, facts)
    if method.needs_weights and (reason := unsupported(model)):
        raise ValueError(
            f"method {method.name!r} has to know every step of the model, and does not: {reason}. Use a "
            "method that needs only slopes (atp, ig, relp)."
        )
    if isinstance(method, AtpStar) and method.grad_drop and facts.n_layers < 2:
        raise ValueError(
            "GradDrop drops one layer at a time, and the model has only one. Use grad_drop=False."
        )


def _check_queries_and_keys(model: Model, facts: Anatomy) -> None:
    for scoring in scorings(model, facts):
        if scoring.shared_norm:
            raise ValueError(
                "queries and keys of all heads are normed together in this model, so patching one head moves "
                "every pattern and the QK fix has no closed form. Use qk_fix=False."
            )
