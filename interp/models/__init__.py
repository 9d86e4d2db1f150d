"""Models: `load` one by name or from a folder, `available` lists the bundled ones.

Everything that TransformerLens's classes and releases do differently is settled in this folder. Importing
it loads neither torch nor transformer_lens; the first `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy
from interp.models._bundled import Card as Card
from interp.models._bundled import available as available

if TYPE_CHECKING:
    from interp.models._anatomy import Anatomy as Anatomy
    from interp.models._anatomy import Model as Model
    from interp.models._anatomy import activation_shape as activation_shape
    from interp.models._anatomy import anatomy as anatomy
    from interp.models._computation import computation_fingerprint as computation_fingerprint
    from interp.models._computation import dtypes_explained as dtypes_explained
    from interp.models._computation import has_hooks as has_hooks
    from interp.models._computation import lasting as lasting
    from interp.models._computation import logits as logits
    from interp.models._computation import model_fingerprint as model_fingerprint
    from interp.models._computation import part_in_training as part_in_training
    from interp.models._computation import require_eval as require_eval
    from interp.models._experts import changed_gates as changed_gates
    from interp.models._experts import expert_points as expert_points
    from interp.models._experts import experts_per_token as experts_per_token
    from interp.models._export import export as export
    from interp.models._fetch import get as get
    from interp.models._load import ModelNotReachable as ModelNotReachable
    from interp.models._load import in_hub_format as in_hub_format
    from interp.models._load import load as load
    from interp.models._norms import attn_out_norm as attn_out_norm
    from interp.models._norms import final_norm as final_norm
    from interp.models._norms import stream_norms as stream_norms
    from interp.models._own import require_free as require_free
    from interp.models._own import save as save
    from interp.models._recipe import Recipe as Recipe
    from interp.models._recipe import recipe as recipe
    from interp.models._release import cache_holds as cache_holds
    from interp.models._weights import ACTIVATIONS as ACTIVATIONS
    from interp.models._weights import attentions as attentions
    from interp.models._weights import layer_with_same_weight as layer_with_same_weight
    from interp.models._weights import unsupported as unsupported
    from interp.models._weights import weights as weights
    from interp.models.hook_points import is_bridge as is_bridge

_ANATOMY = ("Anatomy", "Model", "activation_shape", "anatomy")
_COMPUTATION = (
    *("computation_fingerprint", "dtypes_explained", "has_hooks", "lasting", "logits", "model_fingerprint"),
    *("part_in_training", "require_eval"),
)
_NORMS = ("attn_out_norm", "final_norm", "stream_norms")
_WEIGHTS = ("ACTIVATIONS", "attentions", "layer_with_same_weight", "unsupported", "weights")
__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.models._anatomy": _ANATOMY,
        "interp.models._computation": _COMPUTATION,
        "interp.models._bundled": ("Card", "available"),
        "interp.models._experts": ("changed_gates", "expert_points", "experts_per_token"),
        "interp.models._export": ("export",),
        "interp.models._fetch": ("get",),
        "interp.models._load": ("ModelNotReachable", "in_hub_format", "load"),
        "interp.models._norms": _NORMS,
        "interp.models._own": ("require_free", "save"),
        "interp.models._recipe": ("Recipe", "recipe"),
        "interp.models._release": ("cache_holds",),
        "interp.models._weights": _WEIGHTS,
        "interp.models.hook_points": ("is_bridge",),
    },
    submodules=("handmade", "hook_points", "parts", "places"),
)
