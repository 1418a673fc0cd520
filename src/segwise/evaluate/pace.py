"""How long the rest of a run takes, by model and prompter: what is slow may come last."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from segwise.records.types import Task

Expect = Callable[[float, int], None]  # seconds of what is timed, number of tasks that are not


class Pace:
    """Keeps what tasks took.

    Args:
        todo: all tasks of the run.
        workers: how many run at once.
    """

    def __init__(self, todo: Sequence[Task], workers: int) -> None:
        self._left = Counter((task.model, task.prompter) for task in todo)
        self._taken: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._workers = max(1, workers)

    def done(self, task: Task, seconds: float) -> None:
        """One task ended, after so many seconds of its worker."""
        kind = task.model, task.prompter
        self._taken[kind].append(seconds)
        self._left[kind] -= 1

    def left(self) -> tuple[float, int]:
        """Seconds that the tasks left take as others of their model and prompter did, and how many have no other."""
        known = {kind: sum(taken) / len(taken) for kind, taken in self._taken.items()}
        untimed = sum(n for kind, n in self._left.items() if kind not in known)
        alone = sum(n * known[kind] for kind, n in self._left.items() if kind in known)
        return alone / min(self._workers, max(1, self._left.total())), untimed
