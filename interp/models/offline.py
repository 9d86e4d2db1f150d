"""The hub's offline mode, for as long as a load lasts.

Without a connection the hub's client tries again for most of a minute at every file. So one connection is
tried first; if it fails the load goes on in offline mode, which reads the cache and fails at once.
"""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator

SECONDS = 5.0


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No request leaves the machine: as with HF_HUB_OFFLINE=1, whatever the environment says."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Offline mode when the hub cannot be reached, else as the environment says."""
    with contextlib.nullcontext() if reachable() else offline():
        yield


def reachable() -> bool:
    """Whether the hub's host takes a connection; assumed behind a proxy, where only the client can tell."""
    from huggingface_hub import constants

    address = urllib.parse.urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    if urllib.request.getproxies():
        return True
    try:
        socket.create_connection((address.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
