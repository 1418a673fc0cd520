"""How long the rest of a run takes, by model and prompter: what is slow may come last."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from segwise.records.types import Task

Expect = Callable[[float, int], None]  # seconds of what is timed, number of tasks that are not


class Pace:
    """Times tasks as they end.

    Args:
        todo: all tasks of the run; the clock starts now.
    """

    def __init__(self, todo: Sequence[Task]) -> None:
        self._left = Counter((task.model, task.prompter) for task in todo)
        self._taken: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._last = time.monotonic()

    def done(self, task: Task) -> None:
        """One task ended; workers share the time since the last one."""
        now, kind = time.monotonic(), (task.model, task.prompter)
        self._taken[kind].append(now - self._last)
        self._left[kind] -= 1
        self._last = now

    def left(self) -> tuple[float, int]:
        """Seconds that the tasks left take as others of their model and prompter did, and how many have no other."""
        known = {kind: sum(taken) / len(taken) for kind, taken in self._taken.items()}
        untimed = sum(n for kind, n in self._left.items() if kind not in known)
        return sum(n * known[kind] for kind, n in self._left.items() if kind in known), untimed
