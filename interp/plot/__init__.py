"""Pictures of results. Every function takes a result and returns a plotly Figure; none shows it. No torch.

Effects are drawn on red to blue, centred on 0: blue is positive (the component helps), red negative.
"""

from interp.plot.agreement import agreement as agreement
from interp.plot.bars import bars as bars
from interp.plot.circuit import circuit as circuit
from interp.plot.curve import curve as curve
from interp.plot.export import save_html as save_html
from interp.plot.export import save_png as save_png
from interp.plot.heads import heads as heads
from interp.plot.positions import positions as positions
from interp.plot.probes import probes as probes
from interp.plot.steering import steering as steering
from interp.plot.tokens import TokenStrip as TokenStrip
from interp.plot.tokens import tokens as tokens

__all__ = [
    "TokenStrip",
    "agreement",
    "bars",
    "circuit",
    "curve",
    "heads",
    "positions",
    "probes",
    "save_html",
    "save_png",
    "steering",
    "tokens",
]
