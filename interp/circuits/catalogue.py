"""The names of the known circuits. Needs no torch."""

from __future__ import annotations

PUBLISHED = ("ioi-gpt2", "greater-than-gpt2", "docstring-attn-only-4l")


def known_names() -> tuple[str, ...]:
    """Names that `known` takes: circuits of public models, by papers, and those of hand-built models."""
    from interp.models import handmade

    return (*PUBLISHED, *handmade.NAMES)
