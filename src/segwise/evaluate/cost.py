"""What a task costs: seconds by stage, peak memory, and the versions it ran with."""

from __future__ import annotations

import contextlib
import functools
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_SELF = Path("/proc/self")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


class Peak:
    """The greatest memory of this process while the block ran; a context manager.

    Attributes:
        n_bytes: resident memory; where the system does not let us start anew (not Linux) the peak since the process
            began.
        device_bytes: of the accelerator, 0 without one.
    """

    def __init__(self) -> None:
        self.n_bytes = 0
        self.device_bytes = 0

    def __enter__(self) -> Peak:
        with contextlib.suppress(OSError):  # Linux: start VmHWM anew
            (_SELF / "clear_refs").write_text("5")
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        self.n_bytes = peak_bytes()
        cuda = _cuda()
        self.device_bytes = 0 if cuda is None else int(cuda.max_memory_allocated())


def peak_bytes() -> int:
    """Greatest resident memory of this process so far."""
    with contextlib.suppress(OSError):
        for line in (_SELF / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> dict[str, str]:
    """Of Python, Segwise, numpy, and torch if something imported it."""
    found = {"python": platform.python_version(), "segwise": metadata.version("segwise")}
    for name in ("numpy", "scipy", "torch"):
        if name in sys.modules:
            found[name] = str(sys.modules[name].__version__)
    return found


@functools.cache
def git_revision() -> str:
    """Of the checkout that Segwise runs from, "+" behind it if files differ; "" outside a checkout."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _cuda() -> Any:
    """torch.cuda if it was imported and is in use."""
    torch = sys.modules.get("torch")
    cuda = None if torch is None else torch.cuda
    return cuda if cuda is not None and cuda.is_available() and cuda.is_initialized() else None
