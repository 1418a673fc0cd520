"""Where tests find what is outside the project; each is skipped with a reason where it is absent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


def _there(path: Path, what: str) -> Path:
    if not path.exists():
        pytest.skip(f"{what} is not here")
    return path


@pytest.fixture(scope="session", autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is heard in tests, also where they run in the background of a script, which would ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared."""
    return _there(SHARED, "../shared")


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """Real labelled cases."""
    return _there(shared / "data", "../shared/data")


@pytest.fixture(scope="session")
def awkward(shared: Path) -> Path:
    """Real odd files."""
    return _there(shared / "awkward", "../shared/awkward")


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Fixtures of the official implementations (SEGWISE_PARITY_DIR)."""
    return _there(Path(os.environ.get("SEGWISE_PARITY_DIR", SHARED / "parity")), "the folder of parity fixtures")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Real weights (SEGWISE_WEIGHTS_DIR)."""
    folder = os.environ.get("SEGWISE_WEIGHTS_DIR")
    if not folder:
        pytest.skip("SEGWISE_WEIGHTS_DIR is not set: no real weights")
    return _there(Path(folder), "SEGWISE_WEIGHTS_DIR")
