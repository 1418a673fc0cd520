"""Checkpoints: written whole or not at all, taken up again only by the training that wrote them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from segwise.errors import TrainingError

FILE = "last.pt"


class Run(Protocol):
    """What is kept of a training."""

    net: torch.nn.Module
    averaged: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batch: int
    step: int
    seconds: float


def save(out: Path, run: Run, identity: Mapping[str, Any]) -> None:
    """Write the checkpoint of a folder; a crash at any moment leaves the one before."""
    content = {
        "identity": dict(identity),
        "net": run.net.state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "batch": run.batch,
        "step": run.step,
        "seconds": run.seconds,
    }
    descriptor, name = tempfile.mkstemp(dir=out, prefix=f".{FILE}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(out / FILE)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def resume(out: Path, run: Run, identity: Mapping[str, Any]) -> None:
    """Bring a run to where the folder's checkpoint stands; nothing if there is none.

    Raises:
        TrainingError: the checkpoint is of another training, or cannot be read.
    """
    for stale in out.glob(f".{FILE}.*"):
        stale.unlink(missing_ok=True)
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
        raise TrainingError(f"{path} is of another training ({listed}); give another folder, or the same settings")
    try:
        run.net.load_state_dict(content["net"])
        run.averaged.load_state_dict(content["averaged"])
        run.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"{path} is of another net; remove it or give another folder") from error
    run.batch, run.step, run.seconds = int(content["batch"]), int(content["step"]), float(content["seconds"])
