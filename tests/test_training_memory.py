"""Memory is that of the program that asks, not of whoever started it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from segwise.training import memory


def test_the_memory_of_a_large_parent_is_not_its_childs():
    room = np.ones(int(1.2e9), dtype=np.uint8)
    code = "from segwise.training.memory import memory_gb; print(memory_gb())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert room.all() and memory.memory_gb() > 1.2
    if not memory.STATUS.is_file():
        pytest.skip("only Linux tells the program's own")
    assert 0.05 < float(said) < 1.0


def test_without_linux_words_the_processs_own_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    assert 0.05 < memory.memory_gb() < 100
