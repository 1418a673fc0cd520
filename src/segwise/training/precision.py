"""In what numbers and where the forward pass runs."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from segwise.errors import TrainingError


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it is asked for, or where "auto" finds a device that has it.

    Weights are cast anew at every use: torch's cache would answer with those of before the last optimiser step for as
    long as one context lasts.
    """
    wanted = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device, dtype=torch.bfloat16, enabled=wanted, cache_enabled=False)


def has_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; `device` is a type, as "cpu" or "cuda"."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.backends.cpu.get_cpu_capability() if device == "cpu" else ""
    return "AVX512" in has and bool(torch.cpu._is_avx512_bf16_supported())


def check_device(device: str) -> None:
    """Raises:
    TrainingError: torch does not know the device, or it is not there.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f'device "{device}" cannot be used ({reason}); cpu always can') from error
