"""Batches made ahead of need in processes beside the training; in order, and the same as if made here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from segwise.errors import TrainingError
from segwise.training.contract import Stream

_stream: Stream | None = None


def batches(stream: Stream, first: int, *, ahead: int, makers: int) -> Generator[Any, None, None]:
    """Batches of a stream from an index on, without end; closing it ends its processes.

    Raises:
        TrainingError: a process that makes batches was killed.
    """
    if makers <= 0:
        index = first
        while True:
            yield stream.batch(index)
            index += 1
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(makers, mp_context=context, initializer=_receive, initargs=(stream,))
    waiting: deque[Future[Any]] = deque()
    try:
        index = first
        while True:
            while len(waiting) < max(ahead, makers):
                waiting.append(pool.submit(_make, index))
                index += 1
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process that makes batches was killed (out of memory?); the last checkpoint is kept: repeat to go on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _receive(stream: Stream) -> None:
    global _stream  # noqa: PLW0603 - the one thing a worker process keeps
    _stream = stream
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A training that is killed leaves nobody waiting for work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _make(index: int) -> Any:
    assert _stream is not None
    return _stream.batch(index)
