"""Where models break: each axis of conditions as curves, with the place where a model no longer holds.

A model holds while it loses no more than 0.05 of the measure against the mildest place; what it does on targets that
are not there is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from segwise.records.types import Record, Score
from segwise.report import adapted, figures
from segwise.report.conditions import Family, Line, families
from segwise.report.markup import count, details, e, figure, number, table
from segwise.report.markup import note as said
from segwise.report.statistics import interval_of_mean
from segwise.report.turning import LOST, Break, broken

FALSE = 0.2  # share of absent targets: a model that paints on so many more than at first has begun to make them up


def section(records: Sequence[Record], scores: Sequence[Score]) -> str:
    """HTML of the section; "" if no condition was varied."""
    measure, found = families(records, scores)
    if not found:
        return ""
    lead = said(
        "Every condition is compared with the mildest place of its axis on the same targets and persons; the ranking "
        f"is of the cases as they are. A model <b>holds</b> while it loses no more than {LOST:g} {e(measure)}."
    )
    return lead + "".join(family_html(family, measure, f"breaks{i}") for i, family in enumerate(found))


def family_html(family: Family, measure: str, name: str) -> str:
    """One axis: answers, a figure, a table; `name` keeps the ids of figures apart."""
    parts = [f"<h3>{e(family.name)}</h3>"]
    if family.accuracy:
        answers = "".join(f"<li>{answer(line, family, measure)}</li>" for line in family.accuracy)
        parts += [f"<ul>{answers}</ul>", _figure(family.accuracy, measure, family.along, name)]
        parts += [_table(family.accuracy, measure), adapted.section(family, measure)]
    if family.silence:
        answers = "".join(f"<li>{made_up(line, family)}</li>" for line in family.silence)
        drawn = _figure(family.silence, "share of absent targets left empty", family.along, f"{name}-absent")
        parts.append(details("Targets that are not there", f"<ul>{answers}</ul>{drawn}", unfolded=True))
    return "".join(parts)


def answer(line: Line, family: Family, measure: str) -> str:
    """In words: where the model breaks, that it holds, or that these data cannot decide."""
    found, name = broken(line.places, line.values), f"<b>{e(line.label)}</b>"
    mean, last = line.values.mean(axis=1), family.at(line.places[-1])
    fell = f"{e(measure)} {number(float(mean[0]))} at {family.at(line.places[0])}, {number(float(mean[-1]))} at {last}"
    if found.verdict == "breaks":
        return (
            f"{name} holds to {found.holds:.3g} and <b>breaks by {family.at(found.fails)}</b>: {LOST:g} is lost at "
            f"about {found.at:.2g} ({_interval(found)}); {fell}."
        )
    if found.verdict == "holds":
        return f"{name} holds to {family.at(found.holds)}, the worst that was tried; {fell}."
    n = count(line.values.shape[1], "person")
    return f"{name}: cannot decide on {n} whether it breaks; {fell}."


def made_up(line: Line, family: Family) -> str:
    """In words: when a model begins to paint what is not there."""
    found, name = broken(line.places, line.values, lost=FALSE), f"<b>{e(line.label)}</b>"
    first, last = 1 - float(line.values[0].mean()), 1 - float(line.values[-1].mean())
    asked = f"{count(line.n_targets, 'absent target')} of {count(line.values.shape[1], 'person')}"
    shares = f"it paints on {first:.0%} of {asked} at {family.at(line.places[0])}"
    shares += f" and on {last:.0%} at {family.at(line.places[-1])}"
    if found.verdict == "breaks":
        return f"{name} begins to make targets up by <b>{family.at(found.fails)}</b> ({_interval(found)}): {shares}."
    if found.verdict == "holds":
        return f"{name} makes no more targets up than at first: {shares}."
    return f"{name}: cannot decide when it begins to make targets up; {shares}."


def _interval(found: Break) -> str:
    return f"95 % {found.low:.2g} to {found.high:.2g}, over persons"


def _figure(lines: Sequence[Line], measure: str, along: str, name: str) -> str:
    drawn = [_series(line, i) for i, line in enumerate(lines)]
    svg = figures.lines(drawn, measure=measure, along=along, name=name, log=False)
    return figure(svg, "Mean over persons on the same targets at every place; bands: bootstrap over persons.")


def _series(line: Line, index: int) -> figures.Series:
    low, high = interval_of_mean(line.values.T, [str(i) for i in range(line.values.shape[1])])
    known = not math.isnan(float(low[0]))
    bounds = (low.tolist(), high.tolist()) if known else ((), ())
    return figures.Series(line.label, index, line.places, line.values.mean(axis=1).tolist(), *bounds)


def _table(lines: Sequence[Line], measure: str) -> str:
    places = sorted({at for line in lines for at in line.places})
    head = [f"Mean {e(measure)}", "Persons", "Targets", *(f"{at:g}" for at in places), "Lost at the worst"]
    rows = []
    for line in lines:
        mean = dict(zip(line.places, line.values.mean(axis=1).tolist(), strict=True))
        lost = mean[line.places[0]] - mean[line.places[-1]]
        sizes = [str(line.values.shape[1]), str(line.n_targets)]
        rows.append([e(line.label), *sizes, *(number(mean.get(at)) for at in places), number(lost)])
    return table(head, rows, name="Conditions")
