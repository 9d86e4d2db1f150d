"""One self-contained HTML page from figures, results and text. No torch."""

from interp.report.comparison import Comparison as Comparison
from interp.report.page import write as write

__all__ = ["Comparison", "write"]
