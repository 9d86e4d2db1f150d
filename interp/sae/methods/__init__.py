"""Methods of papers on sparse dictionaries, each a short function on the pieces of `interp.sae`.

Every module says the method in steps, its paper, and what of it is derived. The first use of a name loads its
module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.sae.methods._itda import itda as itda
    from interp.sae.methods._itda import itda_atoms as itda_atoms
    from interp.sae.methods._itda import itda_curve as itda_curve
    from interp.sae.methods._itda import itda_fit as itda_fit
    from interp.sae.methods._itda import itda_jaccard as itda_jaccard
    from interp.sae.methods._langfir import Selective as Selective
    from interp.sae.methods._langfir import ce_changes as ce_changes
    from interp.sae.methods._langfir import langfir as langfir
    from interp.sae.methods._langfir import selective_latents as selective_latents
    from interp.sae.methods._posterior import Attenuation as Attenuation
    from interp.sae.methods._posterior import attenuate as attenuate
    from interp.sae.methods._posterior import js_separability as js_separability
    from interp.sae.methods._reasoning import Detectors as Detectors
    from interp.sae.methods._reasoning import chain as chain
    from interp.sae.methods._reasoning import detectors as detectors
    from interp.sae.methods._regimes import probe_regimes as probe_regimes
    from interp.sae.methods._spare import LatentEdit as LatentEdit
    from interp.sae.methods._spare import mi_latents as mi_latents
    from interp.sae.methods._spare import spare as spare
    from interp.sae.methods._stress import fragility as fragility
    from interp.sae.methods._stress import near_misses as near_misses
    from interp.sae.methods._stress import stress as stress
    from interp.sae.methods._stress import variance_shares as variance_shares
    from interp.sae.methods._supervised import Supervised as Supervised
    from interp.sae.methods._supervised import principled as principled
    from interp.sae.methods._supervised import supervised_dict as supervised_dict

__all__ = [
    "Attenuation",
    "Detectors",
    "LatentEdit",
    "Selective",
    "Supervised",
    "attenuate",
    "ce_changes",
    "chain",
    "detectors",
    "fragility",
    "itda",
    "itda_atoms",
    "itda_curve",
    "itda_fit",
    "itda_jaccard",
    "js_separability",
    "langfir",
    "mi_latents",
    "near_misses",
    "principled",
    "probe_regimes",
    "selective_latents",
    "spare",
    "stress",
    "supervised_dict",
    "variance_shares",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.sae.methods._itda": ("itda", "itda_atoms", "itda_curve", "itda_fit", "itda_jaccard"),
        "interp.sae.methods._langfir": ("Selective", "ce_changes", "langfir", "selective_latents"),
        "interp.sae.methods._posterior": ("Attenuation", "attenuate", "js_separability"),
        "interp.sae.methods._reasoning": ("Detectors", "chain", "detectors"),
        "interp.sae.methods._regimes": ("probe_regimes",),
        "interp.sae.methods._spare": ("LatentEdit", "mi_latents", "spare"),
        "interp.sae.methods._stress": ("fragility", "near_misses", "stress", "variance_shares"),
        "interp.sae.methods._supervised": ("Supervised", "principled", "supervised_dict"),
    },
)
