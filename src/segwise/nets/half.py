"""Half precision: where a device multiplies it."""

from __future__ import annotations

import torch


def has_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; `device` is a type, as "cpu" or "cuda"."""
    if device == "cuda":
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.backends.cpu.get_cpu_capability() if device == "cpu" else ""
    return "AVX512" in has and bool(torch.cpu._is_avx512_bf16_supported())
