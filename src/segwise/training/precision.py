"""In what numbers and where the forward pass runs."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from segwise.errors import TrainingError
from segwise.nets.half import has_bf16


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it is asked for, or where "auto" finds a device that has it.

    Weights are cast anew at every use: torch's cache would answer with those of before the last optimiser step for as
    long as one context lasts.
    """
    wanted = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device, dtype=torch.bfloat16, enabled=wanted, cache_enabled=False)


def check_device(device: str) -> None:
    """Raises:
    TrainingError: torch does not know the device, or it is not there.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f'device "{device}" cannot be used ({reason}); cpu always can') from error
