"""What a plan's question needs of the data, and what is left of it where they do not have it.

`needs` of a plan names it; it is looked at when the tasks are known, before anything runs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from segwise.errors import PlanError
from segwise.records.plan import DATA_SETS, LEVELS
from segwise.records.types import Plan, Task

_LEVELED = re.compile(r"(?P<kind>.+?),? level (?P<level>\d+)$")


def unanswered(plan: Plan, tasks: Sequence[Task]) -> tuple[str, ...]:
    """A line for each part of the question that these data cannot answer, with what remains; () if all can be.

    Raises:
        PlanError: nothing of the question remains.
    """
    return tuple(line for need in plan.needs if (line := _CHECKS[need](plan, tasks)))


def _data_sets(plan: Plan, tasks: Sequence[Task]) -> str:
    names = sorted({task.dataset for task in tasks})
    if len(names) > 1:
        return ""
    return (
        f"{plan.name}: one data set came ({', '.join(names)}), so nothing can be chosen on one and tested on another; "
        "give --data once for each of several. What remains is the ranking on it, and each structure held out."
    )


def _levels(plan: Plan, tasks: Sequence[Task]) -> str:
    kinds: dict[str, set[str]] = defaultdict(set)
    for matched in (_LEVELED.match(target) for task in tasks for target in task.targets):
        if matched:
            kinds[matched["kind"]].add(matched["level"])
    if any(len(levels) > 1 for levels in kinds.values()):
        return ""
    some = sorted({target for task in tasks for target in task.targets})[:5]
    raise PlanError(
        f"{plan.name}: no target comes in levels (these data have {', '.join(some)}), and that is all the plan asks; "
        'leave --data out, and it makes its own persons, or name targets "... level 1", "... level 2"'
    )


_CHECKS: Mapping[str, Callable[[Plan, Sequence[Task]], str]] = {DATA_SETS: _data_sets, LEVELS: _levels}
