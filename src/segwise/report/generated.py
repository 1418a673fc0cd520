"""What generated data are worth: one net trained on real cases, on generated persons, and on both.

Only arms of one model with as many real subjects are compared, on the persons that all of them were tested on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

import numpy as np

from segwise.report.gather import Arm, Gathered
from segwise.report.labels import by_person
from segwise.report.markup import count, e, interval, note, number, p_value, signed, table
from segwise.report.statistics import Comparison, compare

REAL, MADE, BOTH = "real", "generated", "both"


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if no model was trained on real cases and with generated ones, too."""
    return "".join(_of(model, kinds, gathered.primary) for model, kinds in trained(gathered).items())


def trained(gathered: Gathered) -> dict[str, dict[str, list[Arm]]]:
    """Model -> what it was trained on -> arms (of several draws), all with the most real subjects there are."""
    found: dict[str, list[tuple[int, int, Arm]]] = defaultdict(list)
    for arm in gathered.arms:
        learned = arm.card.get("learned")
        if isinstance(learned, Mapping) and learned.get("model") and arm.values:
            numbers = int(learned.get("subjects", 0)), int(learned.get("generated", 0))
            found[str(learned["model"])].append((*numbers, arm))
    kept = {}
    for model, arms in sorted(found.items()):
        most = max(subjects for subjects, _, _ in arms)
        kinds: dict[str, list[Arm]] = defaultdict(list)
        for subjects, made, arm in arms:
            if subjects in (0, most):
                kinds[REAL if not made else BOTH if subjects else MADE].append(arm)
        if REAL in kinds and len(kinds) > 1:
            kept[model] = {kind: kinds[kind] for kind in (REAL, MADE, BOTH) if kind in kinds}
    return kept


def compared(kinds: Mapping[str, list[Arm]]) -> Comparison | None:
    """The kinds in their order on the persons that all were tested on; None without any."""
    each = [by_person(arms) for arms in kinds.values()]
    persons = sorted(set.intersection(*map(set, each)))
    if not persons:
        return None
    return compare(np.array([[values[person] for values in each] for person in persons]), persons)


def _of(model: str, kinds: Mapping[str, list[Arm]], measure: str) -> str:
    found = compared(kinds)
    if found is None:
        return note(f"{model}: no person was tested by all of {', '.join(kinds)}.")
    names, rows = list(kinds), []
    for i, kind in enumerate(names):
        learned = kinds[kind][0].card["learned"]
        seconds = [float(s) for arm in kinds[kind] if (s := arm.card["learned"].get("seconds")) is not None]
        rows.append(
            [
                e(kind),
                str(learned.get("subjects", 0)),
                str(learned.get("generated", 0)),
                f"{number(found.mean[i])} {interval(found.low[i], found.high[i])}",
                ""
                if not i
                else f"{signed(found.difference[i, 0])} "
                f"{interval(found.difference_low[i, 0], found.difference_high[i, 0])}",
                "" if not i else p_value(found.p[i, 0]),
                number(fmean(seconds) / 60 if seconds else math.nan, 1),
            ]
        )
    head = ["trained on", "real subjects", "generated", f"mean {measure}", "against real", "p", "minutes"]
    words = note(" ".join(_answer(model, names[i], i, found) for i in range(1, len(names))))
    return words + table(head, rows)


def _answer(model: str, kind: str, i: int, found: Comparison) -> str:
    told = {MADE: "generated persons alone", BOTH: "generated persons beside the real cases"}[kind]
    size = f"{signed(found.difference[i, 0])} on {count(found.n_subjects, 'person')}"
    if found.decided[i, 0]:
        return f"{e(model)}: {told} are better than the real cases alone ({size})."
    if found.decided[0, i]:
        return f"{e(model)}: {told} are worse than the real cases alone ({size})."
    return (
        f"{e(model)}: these data cannot decide whether {told} are better or worse than the real cases alone ({size})."
    )
