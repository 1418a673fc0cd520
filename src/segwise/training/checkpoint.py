"""Checkpoints: written whole or not at all, taken up again only by the training that wrote them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from segwise.errors import TrainingError
from segwise.records import durable

FILE = "last.pt"


class Run(Protocol):
    """What is kept of a training."""

    net: torch.nn.Module
    averaged: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batch: int
    step: int
    seconds: float
    measures: dict[str, float]


@contextlib.contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """While this holds, no other process trains in a folder; made if need be.

    Raises:
        TrainingError: another process trains there, or it cannot be written.
    """
    lock = durable.Lock(out / "lock")
    try:
        taken = lock.take(wait=False)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written ({error.strerror}); give another folder") from error
    if not taken:
        raise TrainingError(f"another process is training in {out}; wait for it, or give another folder")
    try:
        yield
    finally:
        lock.give()


@contextlib.contextmanager
def written(out: Path) -> Iterator[None]:
    """Something is written to the folder of a training in here.

    Raises:
        TrainingError: the system refused.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written ({error.strerror or error}); the last checkpoint is kept: make room and repeat"
        ) from error


def save(out: Path, run: Run, identity: Mapping[str, Any]) -> None:
    """Write the checkpoint of a folder; a crash at any moment leaves the one before.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written any more.
    """
    content = {
        "identity": dict(identity),
        "net": run.net.state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        **{key: getattr(run, key) for key in ("batch", "step", "seconds", "measures")},
    }
    part = out / f".{FILE}.tmp"  # one name is enough for one writer
    with written(out):
        try:
            with part.open("wb") as file:
                _pickle(content, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(out / FILE)
            durable.sync_folder(out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _pickle(content: Any, file: Any) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # what torch makes of a file that takes no more
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def resume(out: Path, run: Run, identity: Mapping[str, Any]) -> None:
    """Bring a run to where the folder's checkpoint stands; nothing if there is none.

    Raises:
        TrainingError: the checkpoint is of another training, or cannot be read.
    """
    path = out / FILE
    if not path.is_file():
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(content["identity"])
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint that can be read; remove it or give another folder") from error
    differs = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
    if differs:
        listed = ", ".join(f"{key} {found.get(key)} there, {identity.get(key)} asked" for key in differs)
        what = "; the version stands for data, structures, model and options" if "version" in differs else ""
        raise TrainingError(
            f"{path} is of another training ({listed}); give another folder, or the same settings{what}"
        )
    try:
        run.net.load_state_dict(content["net"])
        run.averaged.load_state_dict(content["averaged"])
        run.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"{path} is of another net; remove it or give another folder") from error
    run.batch, run.step, run.seconds = int(content["batch"]), int(content["step"]), float(content["seconds"])
    run.measures = dict(content["measures"])
