"""Batches made ahead of need in processes beside the training; in order, and the same as if made here."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from segwise.training.contract import Stream

_stream: Stream | None = None


def batches(stream: Stream, first: int, *, ahead: int, makers: int) -> Iterator[Any]:
    """Batches of a stream from an index on, without end; closing it ends its processes."""
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
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _receive(stream: Stream) -> None:
    global _stream  # noqa: PLW0603 - the one thing a worker process keeps
    _stream = stream
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def _make(index: int) -> Any:
    assert _stream is not None
    return _stream.batch(index)
