"""What a worker does with a unit (`interp.workers` hands them out).

Nothing heavy is imported before a unit comes: a scheduler reads the names of functions that it passes on, and
must not load torch for it.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from socket import gethostname
from typing import Any

_one_at_a_time = threading.Lock()  # hooks and flags of a model are one thread's
_models: dict[tuple[str, str], Any] = {}  # by fingerprint and device
_started: dict[str, Callable[[Any], Any]] = {}  # the job at hand, by its digest


def begin(threads: int) -> None:
    """In a process that `workers=` started: its threads, and its end with the driver's."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    import torch

    torch.set_num_threads(threads)
    driver = parent_process()
    if driver is not None:
        follow = lambda: (wait([driver.sentinel]), os._exit(1))  # noqa: E731
        threading.Thread(target=follow, daemon=True).start()


def measure(digest: str, head: bytes, job: bytes, unit: bytes) -> Any:
    """One unit, pickled, with the models and the job that are kept from the unit before."""
    with _one_at_a_time:
        import torch

        with torch.inference_mode():
            if digest not in _started:
                _started.clear()
                _started[digest] = _start(head, job)
            return _started[digest](pickle.loads(unit))


def _start(head: bytes, job: bytes) -> Callable[[Any], Any]:
    driver, recipes = pickle.loads(head)
    _require_versions(driver)
    try:
        work = pickle.loads(job)
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"a worker cannot read what it should measure ({error}). Put your own function into a module "
            "that workers can import; what stands in a notebook or a script, they cannot."
        ) from error
    wanted = {(each.fingerprint, each.device): each for each in recipes}
    for key in set(_models) - set(wanted):
        del _models[key]
    _models.update({key: _loaded(each) for key, each in wanted.items() if key not in _models})
    return work.start([_models[each.fingerprint, each.device] for each in recipes])


def _loaded(recipe: Any) -> Any:
    import torch

    with torch.inference_mode(False):
        return recipe.load()


def _require_versions(driver: dict[str, str]) -> None:
    from interp.results import versions

    here = versions()
    for name, theirs in driver.items():
        if here[name] != theirs:
            raise ValueError(
                f"a worker on {gethostname()} has {name} {here[name]}, the driver {theirs}. Start the "
                "workers in the driver's environment."
            )
