"""How much memory a training has needed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch

GB = 1e9
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_anew(device: str = "cpu") -> bool:
    """From here on `memory_gb` tells of what comes, where the system allows it (Linux, a GPU): whether it does."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc keeps what was freed: give it back first
        ctypes.CDLL(None).malloc_trim(0)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with contextlib.suppress(OSError):
        RESET.write_text("5", encoding="utf-8")
        return True
    return False


def memory_gb(device: str = "cpu") -> float:
    """The greatest memory of this process so far (since `start_anew`), or of the GPU it uses.

    Linux counts it for the program (VmHWM); ru_maxrss, taken elsewhere, begins with that of whoever started it.
    """
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device)) / GB
    if STATUS.is_file():
        told = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "VmHWM" in told:
            return int(told["VmHWM"].split()[0]) * 1024 / GB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
