"""How much memory a training has needed."""

from __future__ import annotations

import sys

import torch

GB = 1e9


def memory_gb(device: str = "cpu") -> float:
    """The greatest memory of this process so far, or of the GPU it uses."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device)) / GB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
