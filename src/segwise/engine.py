"""Where tasks run: in this process, or in a pool of local processes.

An engine takes groups of jobs (those of one model and case) and a function that makes a worker, which is called once a
process, so that a model is loaded once a worker. It gives back each job with its outcome as soon as it is there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Failure:
    """A job that gave no outcome.

    Attributes:
        reason: in words.
        traceback: "" if the process died.
    """

    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Group(Generic[Job]):
    """Jobs that share a model and a volume.

    Attributes:
        model: what a worker would have to load; a worker prefers groups of the model it has.
        jobs: in order.
    """

    model: Hashable
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done, total: jobs.
        left_s: estimate of the seconds left, None before the first job is done.
    """

    done: int
    total: int
    left_s: float | None


class Engine(Protocol):
    """Runs jobs somewhere.

    Attributes:
        took_s: seconds of the job that was given back last.
    """

    took_s: float

    def map(
        self, setup: Callable[[], Callable[[Job], Outcome]], groups: Sequence[Group[Job]]
    ) -> Iterator[tuple[Job, Outcome | Failure]]:
        """Each job with its outcome, or why there is none, in the order they end."""


class Serial:
    """This process, one job after the other."""

    took_s = 0.0

    def map(
        self, setup: Callable[[], Callable[[Job], Outcome]], groups: Sequence[Group[Job]]
    ) -> Iterator[tuple[Job, Outcome | Failure]]:
        """As `Engine.map`."""
        work = setup()
        for group in groups:
            for job in group.jobs:
                begun = time.monotonic()
                outcome = _tried(work, job)
                self.took_s = time.monotonic() - begun
                yield job, outcome


@dataclass
class Pool:
    """Local processes, each with its own memory; one that dies loses its job only.

    Attributes:
        workers: how many.
        took_s: as `Engine`.
    """

    workers: int
    took_s: float = 0.0
    _crew: list[_Worker] = field(default_factory=list, repr=False)

    def map(
        self, setup: Callable[[], Callable[[Job], Outcome]], groups: Sequence[Group[Job]]
    ) -> Iterator[tuple[Job, Outcome | Failure]]:
        """As `Engine.map`; `setup`, jobs and outcomes are pickled."""
        waiting = list(groups)
        n = min(self.workers, len(waiting))
        self._crew = [_Worker(setup, max(1, (os.cpu_count() or 1) // n)) for _ in range(n)]
        try:
            while True:
                for worker in self._crew:
                    worker.feed(waiting)
                busy = [worker for worker in self._crew if worker.job is not None]
                if not busy:
                    return
                ready = wait([handle for worker in busy for handle in (worker.pipe, worker.sentinel)])
                for worker in busy:
                    if worker.pipe in ready or worker.sentinel in ready:
                        self.took_s = time.monotonic() - worker.begun
                        yield worker.collect()
        finally:
            for worker in self._crew:
                worker.stop()


class _Worker:
    """A process and what it is at."""

    def __init__(self, setup: Callable[[], Any], threads: int) -> None:
        self.setup = setup
        self.threads = threads
        self.model: Hashable = None
        self.jobs: list[Any] = []
        self.job: tuple[Any] | None = None
        self.begun = 0.0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_loop, args=(self.setup, theirs), daemon=True)
        with _threads(self.threads):
            self.process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        return self.process.sentinel

    def feed(self, waiting: list[Group[Any]]) -> None:
        """Give it its next job, from a group of its own model if there is one."""
        if self.job is not None:
            return
        if not self.jobs and waiting:
            index = next((i for i, group in enumerate(waiting) if group.model == self.model), 0)
            group = waiting.pop(index)
            self.model, self.jobs = group.model, list(group.jobs)
        if self.jobs:
            self.job, self.begun = (self.jobs.pop(0),), time.monotonic()
            with contextlib.suppress(ConnectionError):  # it died while idle: `collect` finds the end of the pipe
                self.pipe.send(self.job[0])

    def collect(self) -> tuple[Any, Any]:
        """The job that ended, with its outcome; a dead process is replaced."""
        job = self.job[0] if self.job else None
        self.job = None
        try:
            return job, self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            self.pipe.close()
            self._start()
            self.model = None
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
            hint = "; it may have run out of memory" if code == -9 else ""
            return job, Failure(f"the worker process {how}{hint}")

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def clocked(total: int, report: Callable[[Progress], None]) -> Callable[[], None]:
    """A function to call after each job: it reports how far the run is and how long it may still take."""
    started = time.monotonic()
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        report(Progress(done, total, (time.monotonic() - started) / done * (total - done)))

    report(Progress(0, total, None))
    return tick


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """While this holds, a process that is started computes with n threads, unless the user said otherwise."""
    name = "OMP_NUM_THREADS"
    given = os.environ.get(name)
    os.environ[name] = given or str(n)
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


def _tried(work: Callable[[Job], Outcome], job: Job) -> Outcome | Failure:
    try:
        return work(job)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def _loop(setup: Callable[[], Callable[[Any], Any]], pipe: Connection) -> None:
    """A worker's life: until the pipe ends."""
    try:
        work = setup()
        while True:
            pipe.send(_tried(work, pipe.recv()))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return
