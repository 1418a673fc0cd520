"""Values of arguments that a prompter or a metric refuses, met before anything runs: each is asked about a cube."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segwise import assemble
from segwise.case import Target
from segwise.errors import SpecError
from segwise.geometry import Grid
from segwise.pair import Pair

_GRID = Grid((9, 9, 9), np.eye(4))
_CUBE = np.zeros(_GRID.shape, dtype=bool)
_CUBE[2:7, 2:7, 2:7] = True


def of_prompter(text: str) -> str:
    """What a simulated user refuses of its arguments, "" if nothing."""
    return _refused(lambda: assemble.prompter(text).first(Target("cube", _CUBE, _GRID), 0))


def of_metric(text: str) -> str:
    """What a metric refuses of its arguments, "" if nothing."""

    def score() -> None:
        metric, pair = assemble.metric(text), Pair(_CUBE, _CUBE, _GRID)
        metric.score([pair] if metric.card.curve else pair)

    return _refused(score)


def _refused(work: Callable[[], object]) -> str:
    try:
        work()
    except SpecError as error:
        return str(error)
    except Exception:  # a stranger's member that a cube does not suit: a task that breaks says so
        return ""
    return ""
