"""Several processes that train one net: each has its share of every step's batches, and gradients are averaged.

Started by `torchrun --nproc-per-node N SEGWISE train …` (the path of the command), which sets RANK, WORLD_SIZE and
LOCAL_RANK. The first process alone writes checkpoint, log and weights. N processes come to what one process with N
times `gather` comes to.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from segwise.errors import TrainingError
from segwise.training.contract import Stream


@dataclass(frozen=True)
class World:
    """Who trains.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """This process writes."""
        return self.rank == 0

    def average(self, net: nn.Module) -> None:
        """Every gradient becomes the mean over the processes; what has none in one counts zero there."""
        if self.size == 1:
            return
        for parameter in net.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.size

    def most(self, value: float) -> float:
        """The greatest of all processes' values."""
        if self.size == 1:
            return value
        own = torch.tensor([value], dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            own = own.float().cuda()
        distributed.all_reduce(own, op=distributed.ReduceOp.MAX)
        return float(own)


@dataclass(frozen=True)
class Shared:
    """A stream of lists of batches: this process's share of what one optimiser step sees."""

    stream: Stream
    gather: int
    world: World

    def batch(self, index: int) -> list[Any]:
        """Batches of one step."""
        parts = range(self.gather)
        return [self.stream.batch((index * self.gather + j) * self.world.size + self.world.rank) for j in parts]


def world(device: str = "cpu") -> World:
    """The processes of this training; joins them the first time.

    Raises:
        TrainingError: they cannot be joined.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        return World()
    if not distributed.is_initialized():
        try:
            distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{size} processes were asked for and cannot be joined ({str(error).splitlines()[0]}); start them with "
                "torchrun --nproc-per-node N"
            ) from error
        atexit.register(_leave)  # its threads must end before the interpreter does, or the process may abort
    return World(rank, size)


def _leave() -> None:
    """All at once: gloo's threads abort a process whose peer hangs up first. Not for long, a peer may have failed."""
    if not distributed.is_initialized():
        return
    if distributed.get_backend() == "gloo":
        with contextlib.suppress(RuntimeError):
            distributed.monitored_barrier(timeout=timedelta(seconds=10))
    distributed.destroy_process_group()


def own_device(device: str) -> str:
    """The GPU of this process, where "cuda" stands for all of them."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


@contextlib.contextmanager
def in_turn(device: str = "cpu") -> Iterator[World]:
    """The first process goes first, the others after it: what it prepares on disk, they find."""
    found = world(device)
    if found.size > 1 and not found.first:
        distributed.barrier()
    try:
        yield found
    finally:
        if found.size > 1 and found.first:
            distributed.barrier()
