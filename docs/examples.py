"""What `make docs` does to docstrings: `Example:` holds code that is run, and is shown as code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Call the section what its parser calls it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Every function, class and module, as it is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", obj.docstring.value)
