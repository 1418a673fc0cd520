"""Groups of targets that a plan names, such as seldom and commonly labelled ones: what every arm reaches on each.

Whether an arm is worse on one group than on another is asked of the persons who have targets of both. Groups differ in
how hard they are, so the best arm without weights stands beside: what a model loses more than that is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segwise.report import figures
from segwise.report.gather import Gathered, Panel, panel_of
from segwise.report.markup import count, e, figure, interval, listing, note, number, signed, table
from segwise.report.statistics import (
    ALPHA,
    Floats,
    highest,
    interval_of_mean,
    minus,
    signed_rank,
    subject_means,
    subjects_needed,
)

Groups = Sequence[tuple[str, Sequence[str]]]  # name and targets of each
FLOOR = "floor"


@dataclass(frozen=True, eq=False)
class Part:
    """One group on the items that all arms answered.

    Attributes:
        name: of the group.
        n_targets: structures of it that were scored.
        persons: in order of name.
        values: [P, A] means of persons.
    """

    name: str
    n_targets: int
    persons: tuple[str, ...]
    values: Floats


def section(gathered: Gathered, groups: Groups) -> str:
    """HTML of the section; "" without two groups that were scored."""
    if not groups:
        return ""
    ranked = [arm for arm in gathered.arms if arm.ranked]
    having = {
        arm.label: {name for name, words in groups if any(item[2] in words for item in arm.values)} for arm in ranked
    }
    every = set().union(*having.values())
    able = tuple(arm for arm in ranked if having[arm.label] == every)  # others would empty a group for all
    panel = panel_of(able) if able else None
    found = parts(panel, groups) if panel is not None else []
    if panel is None or len(found) < 2:
        there = listing([e(name) for name, _ in groups if name in every]) or "none"
        return note(f"Nothing to set against each other: no arm was scored in two of the plan's groups ({there} was).")
    lacking = [e(arm.label) for arm in ranked if arm not in able]
    lead = note(
        f"Mean {e(gathered.primary)} over persons on the {count(len(panel.items), 'target')} that all arms answered: "
        + "; ".join(f"<b>{e(p.name)}</b>: {count(p.n_targets, 'structure')}" for p in found)
        + ". Beyond chance is said of each difference by itself, whatever their number."
        + (f" Left out, as it has not every group: {listing(lacking)}." if lacking else "")
    )
    told = "".join(f"<li>{text}</li>" for text in answers(panel, found))
    return lead + f"<ul>{told}</ul>" + figure(_figure(panel, found, gathered.primary), _CAPTION) + _table(panel, found)


_CAPTION = "Mean over the persons of each group, who need not be the same; bands: bootstrap over persons."


def parts(panel: Panel, groups: Groups) -> list[Part]:
    """The groups that have items in a comparison, in their order."""
    found = []
    for name, targets in groups:
        own = [k for k, item in enumerate(panel.items) if item[2] in targets]
        if own:
            persons = [panel.persons[k] for k in own]
            n = len({panel.items[k][2] for k in own})
            found.append(Part(name, n, tuple(sorted(set(persons))), subject_means(panel.values[own], persons)))
    return found


def answers(panel: Panel, found: Sequence[Part]) -> list[str]:
    """In words, of every arm with weights: the first group against each other one, and both against the floor."""
    floors = [i for i, arm in enumerate(panel.arms) if arm.card.get("family") == FLOOR]
    every = np.concatenate([part.values for part in found])
    floor = floors[highest(every[:, floors].mean(axis=0))] if floors else None
    told = []
    for i, arm in enumerate(panel.arms):
        if arm.card.get("family") == FLOOR:
            continue
        first, *others = found
        for other in others:
            text = f"<b>{e(arm.label)}</b> reaches {_reached(first, i)} and {_reached(other, i)}; "
            text += _apart(first, other, i)
            if floor is not None:
                beside = [f"{_beside(part, i, floor)} on {e(part.name)}" for part in (first, other)]
                text += f" Beside {e(panel.arms[floor].label)}, the best without weights: {' and '.join(beside)}."
            told.append(text)
    return told


def _reached(part: Part, i: int) -> str:
    return f"{number(part.values[:, i].mean())} on {e(part.name)} ({count(len(part.persons), 'person')})"


def _apart(first: Part, other: Part, i: int) -> str:
    """The difference of two groups over the persons who have both."""
    both = sorted(set(first.persons) & set(other.persons))
    if not both:
        return "nobody has both, so their difference may be that of the persons."
    mine, theirs = (part.values[[part.persons.index(p) for p in both], i] for part in (first, other))
    size, bounds, sure = _tested(minus(mine, theirs))
    people = count(len(both), "person")
    verdict = "beyond chance" if sure else f"which {'they' if len(both) > 1 else 'one person'} cannot decide"
    return f"of {people} with both {size} {bounds}, {verdict}." if bounds else f"{people} with both cannot decide."


def _beside(part: Part, i: int, floor: int) -> str:
    size, bounds, sure = _tested(minus(part.values[:, i], part.values[:, floor]))
    return " ".join(filter(None, (size, bounds, "beyond chance" if sure else "undecided")))


def _tested(difference: Floats) -> tuple[str, str, bool]:
    """Mean in words, its interval ("" of one person), and whether it is beyond chance."""
    low, high = (
        float(side[0]) for side in interval_of_mean(difference[:, None], [str(k) for k in range(len(difference))])
    )
    enough = len(difference) >= subjects_needed(1, alpha=ALPHA)
    sure = enough and (low > 0 or high < 0) and float(signed_rank(difference[:, None])[0]) < ALPHA
    return signed(float(difference.mean())), interval(low, high), bool(sure)


def _figure(panel: Panel, found: Sequence[Part], measure: str) -> str:
    drawn = []
    places = [float(k) for k in range(len(found))]
    for i, arm in enumerate(panel.arms):
        y = [float(part.values[:, i].mean()) for part in found]
        bounds = [interval_of_mean(part.values[:, [i]], part.persons) for part in found]
        low, high = ([float(pair[k][0]) for pair in bounds] for k in (0, 1))
        known = not np.isnan(low).any()
        drawn.append(figures.Series(arm.label, i, places, y, low if known else (), high if known else ()))
    ticks: Mapping[float, str] = {float(k): part.name for k, part in enumerate(found)}
    return figures.lines(drawn, measure=measure, along="group of targets", name="groups", log=False, ticks=ticks)


def _table(panel: Panel, found: Sequence[Part]) -> str:
    head = ["Arm", *(f"{e(part.name)}<br><small>{count(len(part.persons), 'person')}</small>" for part in found)]
    rows = []
    for i, arm in enumerate(panel.arms):
        cells = [f'<td class="w">{e(arm.label)}</td>']
        for part in found:
            low, high = interval_of_mean(part.values[:, [i]], part.persons)
            cells.append(f"{number(part.values[:, i].mean())} {interval(float(low[0]), float(high[0]))}")
        rows.append(cells)
    return table(head, rows, name="Groups")
