"""Units of a long work in other processes: of this machine, of a Dask cluster, of any executor.

1. A verb cuts its work into units, which depend neither on `memory=` nor on how many workers there are. One
   process runs the same units in order, so that numbers are the same bit for bit wherever they are run (with
   as many threads of torch: a product summed by more threads is rounded otherwise).
2. A `Job` is what all units share: small, and pickled once, with the `Recipe` of each model.
3. A worker loads the models once, proves that they are the driver's, starts the job once, and measures units
   one at a time (`_worker.py`).
4. The driver hands units out, takes in what comes back in any order, and alone writes the store. A unit whose
   worker died is handed out again; after `PATIENCE` losses in a row without a unit between them the driver
   gives up, and says what is kept.

`workers=4` starts processes here. `executor=` is a `concurrent.futures.Executor`, Dask's `Client` or the
address of its scheduler, submitit's executor, or anything else with a `submit` that returns futures.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch

from interp import _worker
from interp._verbs import warn
from interp.models import Model, recipe
from interp.results import versions

if TYPE_CHECKING:
    from interp.tasks import Task
    from interp.tasks.metrics import Metric

PATIENCE = 3
CONNECT = 8  # seconds that a scheduler has to answer
_AHEAD = 256  # units handed out at once to an executor of unknown size
_TICK = 0.02  # seconds between two looks at what is handed out
_LOOK = 5  # seconds between two looks at the workers of a cluster
_LONELY = 60  # seconds without any, until the driver says so
_LOST = ("BrokenExecutor", "CancelledError", "CommClosedError", "KilledWorker", "UncompletedJobError")
_Unit = TypeVar("_Unit")
Measure = Callable[[Any], Any]  # a unit -> what was measured


class WorkersLost(ConnectionError):
    """The processes that units were handed to are gone, again and again."""


@runtime_checkable
class Job(Protocol):
    """What all units of a work share; picklable, and without the models themselves."""

    def start(self, models: Sequence[Model]) -> Measure:
        """Make ready to measure units with these models, in the order of `pack`."""
        ...


# --- the driver ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """A job as it goes to workers: bytes, so that a scheduler that passes it on need not know what is in."""

    head: bytes  # versions, and the recipe of each model
    job: bytes
    digest: str

    @classmethod
    def of(cls, head: bytes, job: Job) -> Parcel:
        """A job for the models of a head."""
        text = _pickled(job, "this work")
        return cls(head, text, blake2b(head + text, digest_size=16).hexdigest())


def pack(job: Job, models: Sequence[Model], named: dict[str, Any]) -> Parcel:
    """A job and the recipes of its models. Cost: the weights are read once.

    named: the parts of the job that may be the user's own code, by what to call them. Raises ValueError for a
    model that workers cannot load, or a part that cannot be pickled.
    """
    for name, part in named.items():
        _pickled(part, name)
    return Parcel.of(pickle.dumps((versions(), [recipe(model) for model in models])), job)


def metrics_of(metrics: Sequence[Metric], task: Task) -> dict[str, Any]:
    """What of an experiment may be the user's own code, by what to call it."""
    named: dict[str, Any] = {f"metric {metric.name!r}": metric for metric in metrics}
    return named | {f"the task's metric {task.metric.name!r}": task.metric}


def _pickled(part: Any, name: str) -> bytes:
    try:
        return pickle.dumps(part)
    except Exception as error:  # pickle raises whatever an object's own code does
        raise ValueError(
            f"{name} cannot be sent to workers ({error}). Define its function at the top level of a module "
            "that workers can import (no lambda, nothing inside a function), or leave out workers= and "
            "executor=."
        ) from error


def measured(
    parcel: Parcel, units: Sequence[_Unit], workers: int | None, executor: Any, kept: str
) -> Generator[tuple[_Unit, Any], None, None]:
    """Each unit with what was measured, as they come.

    kept: in words, what of the finished units outlasts a failure. Raises WorkersLost where workers die again
    and again, and what a unit itself raises. What is still out is cancelled at the end.
    """
    if not units:
        return
    with _opened(workers, executor) as pool:
        yield from _Driver(pool, parcel, units, kept).run()


class _Driver:
    """Units on their way: waiting, handed out, done."""

    def __init__(self, pool: _Pool, parcel: Parcel, units: Sequence[Any], kept: str) -> None:
        self.pool, self.parcel, self.units, self.kept = pool, parcel, units, kept
        self.waiting = list(range(len(units)))[::-1]
        self.out: dict[Any, int] = {}  # by future, the number of its unit
        self.losses = self.finished = 0

    def run(self) -> Iterator[tuple[Any, Any]]:
        try:
            while self.waiting or self.out:
                self._hand_out()
                for future in [each for each in self.out if each.done()]:
                    number = self.out.pop(future)
                    try:
                        outcome = future.result()
                    except Exception as error:
                        if not _is_loss(error):
                            raise
                        self.waiting.append(number)
                        self._lost(error)
                        break  # a pool that broke has given all its futures up
                    self.losses, self.finished = 0, self.finished + 1
                    yield self.units[number], outcome
                if reason := self.pool.gone():
                    raise WorkersLost(self._story(reason))
                time.sleep(_TICK)
        finally:
            for future in self.out:
                with suppress(Exception):
                    future.cancel()

    def _hand_out(self) -> None:
        while self.waiting and len(self.out) < self.pool.ahead:
            number = self.waiting[-1]
            try:
                unit, parcel = pickle.dumps(self.units[number]), self.parcel
                future = self.pool.submit(_worker.measure, parcel.digest, parcel.head, parcel.job, unit)
            except (TypeError, ValueError):  # of a unit, from an executor that runs it at once
                raise
            except Exception as error:  # whatever an executor says that is no more
                return self._lost(error)
            self.out[future] = self.waiting.pop()

    def _lost(self, error: Exception) -> None:
        """Count a loss; hand out anew what was out, or give up."""
        self.losses += 1
        if self.losses >= PATIENCE or not self.pool.renewed():
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
            raise WorkersLost(self._story(reason)) from error
        if self.pool.anew:
            self.waiting += sorted(self.out.values(), reverse=True)
            self.out.clear()

    def _story(self, reason: str) -> str:
        done, total = self.finished, len(self.units)
        again = "the same call goes on from there" if done else "nothing was finished"
        return (
            f"{self.pool.name} lost its workers ({reason}). {done} of {total} units were finished here and "
            f"are {self.kept}; {again}. {self.pool.advice}"
        )


def _is_loss(error: BaseException) -> bool:
    """Whether an error says that a worker, or all of them, are gone; by name, since engines are optional."""
    return any(kind.__name__ in _LOST for kind in type(error).__mro__)


@dataclass
class _Pool:
    """An executor under one face."""

    submit: Callable[..., Any]
    name: str
    advice: str
    ahead: int = _AHEAD
    anew: bool = False  # whether a loss takes along everything that was handed out

    def renewed(self) -> bool:
        """Ready again after a loss; False where nothing more can be handed out."""
        return True

    def gone(self) -> str | None:
        """Why nothing handed out will ever come back; None while it may."""
        return None


class _Processes(_Pool):
    """Processes of this machine, started anew when one of them dies."""

    def __init__(self, workers: int) -> None:
        self.workers, self.threads = workers, max(1, torch.get_num_threads() // workers)
        self.pool = self._started()
        super().__init__(
            lambda *task: self.pool.submit(*task), f"workers={workers}",
            "A worker that is killed at once is mostly short of memory (give fewer workers= or a smaller "
            'memory=), or its script has calls outside of `if __name__ == "__main__":`.',
            2 * workers, True,
        )  # fmt: skip

    def _started(self) -> ProcessPoolExecutor:
        from multiprocessing import get_context

        return ProcessPoolExecutor(self.workers, get_context("spawn"), _worker.begin, (self.threads,))

    def renewed(self) -> bool:
        self.close(wait=False)
        self.pool = self._started()
        return True

    def close(self, wait: bool) -> None:
        """End the processes, after the units that they are at. wait: until they have ended."""
        self.pool.shutdown(wait=wait, cancel_futures=True)


class _Cluster(_Pool):
    """A Dask cluster, by its client."""

    def __init__(self, client: Any) -> None:
        self.client, self.looked = client, time.monotonic()
        self.peopled, self.had_any, self.told = (
            self.looked,
            False,
            False,
        )  # when it last had workers, and whether
        executor = client.get_executor(pure=False)
        address = str(getattr(client.scheduler, "address", "?"))
        super().__init__(
            executor.submit, f"the Dask cluster at {address}",
            "See that its scheduler and workers run (`dask worker` says why one ended; mostly it is memory).",
        )  # fmt: skip

    def renewed(self) -> bool:
        return self.client.status == "running"

    def gone(self) -> str | None:
        """Why nothing will come: no scheduler, or no worker any more. Warns where none has come yet."""
        if self.client.status != "running":
            return f"the scheduler does not answer, the client is {self.client.status}"
        now = time.monotonic()
        if now - self.looked < _LOOK:
            return None
        self.looked = now
        if self.client.scheduler_info(n_workers=-1)["workers"]:
            self.peopled, self.had_any = now, True
        if now - self.peopled < _LONELY:
            return None
        if self.had_any:
            return f"no worker for {_LONELY} s"
        if not self.told:
            self.told = True
            warn(f"{self.name} has no worker yet. Start some: `dask worker` with its address.")
        return None


@contextmanager
def _opened(workers: int | None, executor: Any) -> Iterator[_Pool]:
    """The processes or the executor that was asked for; what is started here ends here."""
    if workers is not None:
        processes = _Processes(workers)
        try:
            yield processes
        except BaseException:
            processes.close(wait=False)
            raise
        processes.close(wait=True)
    elif isinstance(executor, str):
        with _connected(executor) as client:
            yield _Cluster(client)
    elif hasattr(executor, "get_executor"):
        yield _Cluster(executor)
    else:
        kind = type(executor).__name__
        yield _Pool(executor.submit, f"executor= ({kind})", "Make a new executor, and the same call.")


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler. Raises ValueError where there is none, within ten seconds."""
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"there is no Dask scheduler at {address!r} ({reason}). `dask scheduler` starts one and says its "
            "address, such as tcp://10.0.0.1:8786."
        ) from error
    with client:
        yield client


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ValueError(
            'the address of a scheduler needs Dask: pip install "interp-workbench[cluster]".'
        ) from error
    return distributed


def check(workers: Any, executor: Any) -> None:
    """Raise ValueError for what no units can be handed to; a scheduler must answer."""
    if workers is not None and executor is not None:
        raise ValueError("workers= starts processes here and executor= uses others. Give one of them.")
    if executor is not None and not isinstance(executor, str) and not hasattr(executor, "submit"):
        raise ValueError(
            f"executor is a {type(executor).__name__}, which has no submit. Give a concurrent.futures "
            "executor, a Dask Client, or the address of a Dask scheduler such as 'tcp://10.0.0.1:8786'."
        )
    if isinstance(executor, str):
        with _connected(executor):
            pass
