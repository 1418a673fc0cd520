"""How much memory a training has needed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

GB = 1e9
STATUS = Path("/proc/self/status")


def memory_gb(device: str = "cpu") -> float:
    """The greatest memory of this process so far, or of the GPU it uses.

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
