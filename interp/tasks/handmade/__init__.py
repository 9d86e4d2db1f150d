"""Task families of the hand-built models (`interp.models.handmade`); any model with these words can try."""

from __future__ import annotations

from interp.tasks.handmade.domains import FAMILIES as FAMILIES
from interp.tasks.handmade.domains import every_input as every_input
from interp.tasks.handmade.domains import some_inputs as some_inputs
from interp.tasks.handmade.gate_families import and_gate as and_gate
from interp.tasks.handmade.gate_families import or_gate as or_gate
from interp.tasks.handmade.letter_families import linear as linear
from interp.tasks.handmade.letter_families import xproportion as xproportion
from interp.tasks.handmade.reverse_family import reverse as reverse
