"""What heads do: their attention as labelled arrays, scores of known roles, what weights say, telemetry.

A score is a signature. Whether the model needs the heads that have it, `load_bearing` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.heads._backup import backup as backup
    from interp.heads._composition import composition as composition
    from interp.heads._copying import copying as copying
    from interp.heads._copying import spectra as spectra
    from interp.heads._load_bearing import load_bearing as load_bearing
    from interp.heads._load_bearing import repeats as repeats
    from interp.heads._parts import parts as parts
    from interp.heads._patterns import attention as attention
    from interp.heads._roles import roles as roles
    from interp.heads._scores import scores as scores
    from interp.heads._telemetry import telemetry as telemetry
    from interp.heads._top import overlap as overlap
    from interp.heads._top import top as top

__all__ = [
    "attention",
    "backup",
    "composition",
    "copying",
    "load_bearing",
    "overlap",
    "parts",
    "repeats",
    "roles",
    "scores",
    "spectra",
    "telemetry",
    "top",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.heads._backup": ("backup",),
        "interp.heads._composition": ("composition",),
        "interp.heads._copying": ("copying", "spectra"),
        "interp.heads._load_bearing": ("load_bearing", "repeats"),
        "interp.heads._parts": ("parts",),
        "interp.heads._patterns": ("attention",),
        "interp.heads._roles": ("roles",),
        "interp.heads._scores": ("scores",),
        "interp.heads._telemetry": ("telemetry",),
        "interp.heads._top": ("overlap", "top"),
    },
)
