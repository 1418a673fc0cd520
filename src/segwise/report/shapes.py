"""Targets that come in levels, as "branching lesion level 3": curves over the levels of each kind.

The persons are the pairing: each has every level of a kind.
"""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import fmean

import numpy as np

from segwise.report.breaks import family_html
from segwise.report.conditions import Family, Line
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import e
from segwise.report.markup import note as said
from segwise.report.turning import LOST

_LEVELED = re.compile(r"(?P<kind>.+?),? level (?P<level>\d+)$")


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if no target comes in levels."""
    found = families(gathered)
    if not found:
        return ""
    measure = gathered.primary
    lead = said(
        f"Each kind is compared with its first level on the same persons. A model <b>holds</b> while it loses no more "
        f"than {LOST:g} {e(measure)}; what is lost is the shape's, as nothing else changes."
    )
    return lead + "".join(family_html(family, measure, f"shape{i}") for i, family in enumerate(found))


def families(gathered: Gathered) -> list[Family]:
    """All kinds with two levels or more."""
    kinds = sorted({m["kind"] for o in gathered.outcomes if (m := _LEVELED.match(o.last.target))})
    found = []
    for kind in kinds:
        lines = tuple(line for arm in gathered.arms if (line := _line(arm, kind)) is not None)
        if lines:
            found.append(Family(kind, "", "level {}", lines, ()))
    return found


def _line(arm: Arm, kind: str) -> Line | None:
    if arm.doubt:
        return None
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    person = {o.item: o.person for o in arm.outcomes}
    for item, value in arm.values.items():
        matched = _LEVELED.match(item[2])
        if matched and matched["kind"] == kind:
            values[int(matched["level"])][person[item]].append(value)
    places = sorted(values)
    people = sorted(set.intersection(*(set(values[at]) for at in places))) if places else []
    if len(places) < 2 or not people:
        return None
    table = np.array([[fmean(values[at][one]) for one in people] for at in places])
    return Line(arm.label, tuple(map(float, places)), table, len(people))
