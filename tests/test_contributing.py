"""What CONTRIBUTING shows works as it stands: a model in one file of at most 60 lines, and a metric."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from segwise import assemble, catalog
from segwise.geometry import Grid, Volume
from segwise.pair import Pair
from segwise.prompt import Box, Prompt
from segwise.session import Session
from segwise.store import FeatureStore

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def member(tmp_path, monkeypatch):
    """Puts a member's source where an entry point finds it."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(kind: str, name: str, source: str) -> None:
        module = name.replace("-", "_") + "_of_a_stranger"
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[segwise.{kind}]\n{name} = {module}\n")
        catalog._sources.cache_clear()
        catalog._read.cache_clear()

    yield put
    catalog._sources.cache_clear()
    catalog._read.cache_clear()


def test_the_model_of_contributing_runs(member):
    source = BLOCKS[0]
    assert source.count("\n") <= 60
    member("models", "bright-half", source)
    assert "bright-half" in catalog.names("models")
    grid = Grid((5, 6, 7), np.diag([3.0, 2.0, 1.5, 1.0]))
    image = np.zeros(grid.shape)
    image[1:3, 2:4, 3:5] = 100
    session = Session(assemble.segmenter("bright-half(offset=0.5)"), Volume.of(image, grid), store=FeatureStore())
    found = session.say({"cube": Prompt((Box.of(grid, (0, 1, 1), (5, 5, 6)),))})["cube"]
    assert np.array_equal(found.mask(grid), image > 0)


def test_the_metric_of_contributing_runs(member):
    member("metrics", "centre", BLOCKS[1])
    grid = Grid((5, 6, 7), np.diag([3.0, 2.0, 1.5, 1.0]))
    one, other = (np.zeros(grid.shape, dtype=bool) for _ in range(2))
    one[1, 1, 1] = other[2, 1, 3] = True
    assert assemble.metric("centre").score(Pair(one, other, grid, None)) == {"CENTRE": pytest.approx(np.hypot(3, 3))}
    assert np.isnan(assemble.metric("centre").score(Pair(one, one & other, grid, None))["CENTRE"])
