"""Models whose weights are written out in code: their circuits are known exactly.

`interp.load("reverse")` and so on build them; `truth(name, ablation)` is the circuit. Each is a stock
HookedTransformer without norms, and solves its task on every input of its domain. One file a model.
Importing this package loads no torch.
"""

from __future__ import annotations

from interp.models.handmade.catalogue import ABLATIONS as ABLATIONS
from interp.models.handmade.catalogue import MODELS as MODELS
from interp.models.handmade.catalogue import NAMES as NAMES
from interp.models.handmade.catalogue import SHAPES as SHAPES
from interp.models.handmade.catalogue import sketch as sketch
from interp.models.handmade.catalogue import truth as truth
