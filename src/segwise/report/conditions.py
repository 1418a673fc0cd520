"""What became of every model along an axis of conditions: curves over the targets and persons that all places share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from segwise.records.types import Record, Score
from segwise.report.gather import Arm, gather
from segwise.report.outcome import ArmKey, Item, Outcome
from segwise.report.statistics import Floats, subject_means

Values = dict[Item, list[float]]


@dataclass(frozen=True, eq=False)
class Line:
    """One model and prompter along one axis.

    Attributes:
        label: the arm's.
        places: [K] rising: the greater, the worse.
        values: [K, P], mean of each person over the targets that have a value at every place.
        n_targets: how many those are.
        people: [P], in the order of `values`.
        model, prompter: the arm's; of a model folder what was trained.
        volumes: it has a trained adapter that is made for them.
    """

    label: str
    places: tuple[float, ...]
    values: Floats
    n_targets: int
    people: tuple[str, ...] = ()
    model: str = ""
    prompter: str = ""
    volumes: bool = False


@dataclass(frozen=True, eq=False)
class Family:
    """One axis of conditions.

    Attributes:
        kind: the condition without its number; before: what was done to the case before that, "" for nothing.
        unit: a place in words, with {} for the number.
        accuracy: primary measure on targets that are there at every place.
        silence: on targets that are there at no place: 1 where the model painted nothing, 0 where it did.
    """

    kind: str
    before: str
    unit: str
    accuracy: tuple[Line, ...]
    silence: tuple[Line, ...]

    def at(self, place: float) -> str:
        """A place in words."""
        return self.unit.replace("{}", f"{place:.3g}")

    @property
    def along(self) -> str:
        """What the places are, for the axis of a figure."""
        return self.unit.replace("{}", "").strip()

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.kind} after {self.before}" if self.before else self.kind


def families(records: Sequence[Record], scores: Sequence[Score]) -> tuple[str, list[Family]]:
    """(the measure, all axes with two places or more)."""
    by_condition: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_condition[record.condition].append(record)
    axes: dict[str, Mapping[str, Any]] = {}
    for record in records:
        known = record.provenance.get("condition")
        if isinstance(known, Mapping) and "at" in known:
            axes[record.condition] = known
    if not axes:
        return "", []
    gathered = {text: gather(own, scores) for text, own in by_condition.items()}
    primary = next((one.primary for one in gathered.values() if one.primary), "")
    found: dict[tuple[str, str], dict[float, str]] = defaultdict(dict)
    units: dict[tuple[str, str], str] = {}
    for text, axis in axes.items():
        key = (str(axis["before"]), str(axis["kind"]))
        found[key][float(axis["at"])] = text
        units[key] = str(axis["unit"])
        if axis["start"] is not None and axis["before"] in gathered:
            found[key].setdefault(float(axis["start"]), str(axis["before"]))
    out = []
    for (before, kind), places in sorted(found.items()):
        arms = [(at, {arm.key: arm for arm in gathered[text].arms}) for at, text in sorted(places.items())]
        accuracy, silence = (tuple(_lines(arms, primary, absent=absent)) for absent in (False, True))
        if accuracy or silence:
            out.append(Family(kind, before, units[before, kind], accuracy, silence))
    return primary, out


def _lines(arms: Sequence[tuple[float, Mapping[ArmKey, Arm]]], primary: str, *, absent: bool) -> Iterable[Line]:
    """A line for every arm that has shared targets at two places or more."""
    for key in sorted({key for _, own in arms for key in own}):
        there = [(at, own[key]) for at, own in arms if key in own]
        read = [(at, _values(arm, primary, absent=absent)) for at, arm in there]
        read = [(at, values) for at, values in read if values]
        shared = sorted(set.intersection(*(set(values) for _, values in read))) if read else []
        if len(read) < 2 or not shared or any(arm.doubt for _, arm in there):
            continue
        person = {o.item: o.person for _, arm in there for o in arm.outcomes}
        table = np.array([[fmean(values[item]) for _, values in read] for item in shared])  # [N, K]
        persons = [person[item] for item in shared]
        means = subject_means(table, persons).T
        learned = there[0][1].card.get("learned")
        learned = learned if isinstance(learned, Mapping) else {}
        yield Line(
            there[0][1].label,
            tuple(at for at, _ in read),
            np.asarray(means),
            len(shared),
            tuple(sorted(set(persons))),
            str(learned.get("model") or key[0]),
            key[1],
            bool(learned.get("volumes")),
        )


def _values(arm: Arm, primary: str, *, absent: bool) -> Values:
    found: Values = defaultdict(list)
    for outcome in arm.outcomes:
        if outcome.status not in ("done", "undefined") or not outcome.last.target or is_absent(outcome) != absent:
            continue
        value = outcome.values.get(primary)
        if absent:
            found[outcome.item].append(float(value is None))
        elif value is not None:
            found[outcome.item].append(value)
    return dict(found)


def is_absent(outcome: Outcome) -> bool:
    """The reference is empty, as the measures say: of a reference that has voxels sensitivity is always defined."""
    return "sensitivity" in outcome.values and outcome.values["sensitivity"] is None
