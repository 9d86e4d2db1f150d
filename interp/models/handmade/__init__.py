"""Models whose weights are written out in code: their circuits are known exactly.

`interp.load("reverse")` and so on build them; `truth(name, ablation)` is the circuit. Each is a stock
HookedTransformer without norms (where that class is gone a TransformerBridge with the same weights), and
solves its task on every input of its domain. One file a model or two.
Importing this package loads no torch.
"""

from __future__ import annotations

from interp.models.handmade._catalogue import ABLATIONS as ABLATIONS
from interp.models.handmade._catalogue import MODELS as MODELS
from interp.models.handmade._catalogue import NAMES as NAMES
from interp.models.handmade._catalogue import SHAPES as SHAPES
from interp.models.handmade._catalogue import build as build
from interp.models.handmade._catalogue import sketch as sketch
from interp.models.handmade._catalogue import truth as truth
