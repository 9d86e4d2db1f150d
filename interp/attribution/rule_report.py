"""What a set of rules touched in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """Modules by family of rules, and why a family touched none. `print(report)` lists both."""

    touched: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, str]

    def __getitem__(self, family: str) -> tuple[str, ...]:
        """The modules that a family touched; none for one that was skipped."""
        if family not in self.touched and family not in self.skipped:
            raise KeyError(f"{family!r} is no family of rules; there are {', '.join(self._families)}.")
        return self.touched.get(family, ())

    @property
    def _families(self) -> tuple[str, ...]:
        return (*self.touched, *self.skipped)

    def __str__(self) -> str:
        lines = [
            f"{family}: {len(modules)} modules: {', '.join(modules)}"
            for family, modules in self.touched.items()
        ]
        return "\n".join([*lines, *(f"{family}: none, {reason}" for family, reason in self.skipped.items())])
