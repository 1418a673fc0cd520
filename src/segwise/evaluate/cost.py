"""What a task costs: seconds by stage, peak memory, and the versions it ran with."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from segwise.segmenter import Tree
from segwise.store import FeatureStore

T = TypeVar("T")
_SELF = Path("/proc/self")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


class OneSession:
    """A store as one session sees it: each feature is charged once, at what making it costs, whoever made it.

    Attributes:
        charged_s: seconds of encoding that this session would have needed with an empty store.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._seen: set[str] = set()
        self.charged_s = 0.0

    @property
    def spent_s(self) -> float:
        """Seconds of encoding really done so far, by anyone."""
        return self._store.spent_s

    def get(self, keys: Sequence[str], make_many: Callable[[list[int]], list[Tree]]) -> list[Tree]:
        """As `Store.get`."""
        values: dict[int, Tree] = {}
        fresh = [i for i, key in enumerate(keys) if key not in self._seen]
        known = [i for i, key in enumerate(keys) if key in self._seen]
        for places in (fresh, known):
            if not places:
                continue
            before = self._store.charged_s
            found = self._store.get([keys[i] for i in places], partial(_made_at, make_many, places))
            values |= dict(zip(places, found, strict=True))
            self.charged_s += self._store.charged_s - before if places is fresh else 0.0
        self._seen.update(keys)
        return [values[i] for i in range(len(keys))]


def _made_at(make_many: Callable[[list[int]], list[Tree]], places: list[int], missing: list[int]) -> list[Tree]:
    return make_many([places[i] for i in missing])


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


def give_back() -> None:
    """Hand memory that nothing holds any more back to the system, so that it does not count as the next one's peak."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc: its heap keeps what was freed
        ctypes.CDLL(None).malloc_trim(0)


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
