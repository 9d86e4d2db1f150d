"""Limits on a process that runs students' code: time, memory, no network, as far as the platform allows.

| limit | Linux | macOS | Windows |
|---|---|---|---|
| processor time, of the copy's own code | the system ends it | the same | not |
| wall time | the parent ends it and what it started | the same | the same |
| memory | address space beyond what is in use at the start | not | not |
| network | a namespace of its own without one, where the system grants it; else Python's sockets | sockets |
sockets |

Python's sockets refuse to connect; code that means harm can get around that. Grade copies of people whom you
know, on a machine that holds nothing secret.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, NoReturn

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000


def limit(memory: int = 4 * 2**30) -> dict[str, Any]:
    """Set the limits of this process; what was set, by name. memory: bytes above what it uses now."""
    return {"memory": _limit_memory(memory), "network": _close_network()}


def limit_time(seconds: float) -> None:
    """Let the system end this process after so many more seconds of processor time, where it can."""
    if sys.platform == "win32":
        return
    import resource
    import time

    last = int(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (last, last + 5))


def _limit_memory(memory: int) -> bool:
    if sys.platform != "linux":
        return False
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    return True


def _close_network() -> str:
    """`none` where the process has no network at all, `sockets` where Python's sockets refuse."""
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = _refuse  # type: ignore[method-assign]
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NET) == 0:
            return "none"
    return "sockets"


def _refuse(*args: Any, **options: Any) -> NoReturn:
    raise OSError("a copy that is graded has no network")
