"""Trained on one data set, tested on others: what is lost there, beside what models lose that were trained on neither.

The persons of two data sets are others, so means are compared without pairs: intervals from drawing the persons of each
set anew, and the rank sum test (Mann and Whitney 1947) with Holm's correction over all rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segwise.report.gather import Arm
from segwise.report.markup import count, e, interval, note, number, p_value, signed, table
from segwise.report.statistics import ALPHA, holm
from segwise.report.words import within

N_BOOT = 2000


@dataclass(frozen=True)
class Away:
    """An arm at home and elsewhere.

    Attributes:
        arm: its label.
        trained: on the home set; False for one that was not.
        home, other: data sets.
        mean_home, mean_other: over their persons, of the structures that both sets have.
        low, high: interval of what is lost.
        p: of no difference, corrected.
        n_home, n_other: persons.
    """

    arm: str
    trained: bool
    home: str
    other: str
    mean_home: float
    mean_other: float
    low: float
    high: float
    p: float
    n_home: int
    n_other: int

    @property
    def lost(self) -> float:
        """At home less elsewhere."""
        return self.mean_home - self.mean_other

    @property
    def decided(self) -> bool:
        """The interval leaves out 0 and the test agrees."""
        return self.p < ALPHA and not self.low <= 0 <= self.high


def section(arms: Sequence[Arm], measure: str) -> str:
    """HTML; "" if nothing was trained on one of the data sets and tested on another."""
    found = losses(arms)
    if not found:
        return ""
    rows = [
        [
            e(one.arm),
            e(one.home) if one.trained else "neither",
            e(one.other),
            f"{number(one.mean_home)} <small>{count(one.n_home, 'person')}</small>",
            f"{number(one.mean_other)} <small>{count(one.n_other, 'person')}</small>",
            f"{signed(-one.lost)} {interval(-one.high, -one.low)}",
            p_value(one.p),
        ]
        for one in found
    ]
    head = ["Model", "Trained on", "Tested on", f"{measure} at home", f"{measure} there", "Change", "p"]
    told = "".join(f"<li>{answer(one, found, measure)}</li>" for one in found if one.trained)
    return f"<ul>{told}</ul>" + note("At home: test persons of the data set that was trained on.") + table(head, rows)


def losses(arms: Sequence[Arm]) -> list[Away]:
    """Every arm for every data set that something was trained on, and every other one that it has values in."""
    sets = {item[0] for arm in arms for item in arm.values}
    at_home = {arm.label: _home(arm, sets) for arm in arms}
    homes = sorted(set(at_home.values()) & sets)
    drawn = []
    for home in homes:
        for other in sorted(sets - {home}):
            for arm in arms:
                if at_home[arm.label] in (home, "") and (pair := _means(arm, home, other)) is not None:
                    drawn.append((arm, home, other, *pair))
    from scipy.stats import mannwhitneyu  # half a second, and only where something was trained

    p = holm(np.array([mannwhitneyu(a, b).pvalue for *_, a, b in drawn])) if drawn else np.zeros(0)
    return [_away(*one, float(p[i])) for i, one in enumerate(drawn)]


def answer(one: Away, found: Sequence[Away], measure: str) -> str:
    """In words, beside the arm that is best there among those that were trained on neither."""
    where = f"{e(one.arm)}: {number(one.mean_home)} {e(measure)} on <b>{e(one.home)}</b>, where it was trained, and "
    where += f"{number(one.mean_other)} on <b>{e(one.other)}</b>"
    if not one.decided:
        said = f"; {count(one.n_home, 'person')} and {one.n_other} cannot decide whether it loses anything"
    else:
        said = f": {number(abs(one.lost))} {'less' if one.lost > 0 else 'more'}, beyond chance"
    rivals = [r for r in found if not r.trained and (r.home, r.other) == (one.home, one.other)]
    if not rivals:
        return f"{where}{said}."
    best = max(rivals, key=lambda r: r.mean_other)
    beside = f"{e(best.arm)}, trained on neither, goes from {number(best.mean_home)} to {number(best.mean_other)}"
    return f"{where}{said}. {beside}."


def _home(arm: Arm, sets: Collection[str]) -> str:
    """The data set that an arm was trained on, "" if it was not trained on labelled cases of the user."""
    learned = arm.card.get("learned")
    own = str(learned.get("data") or "") if isinstance(learned, Mapping) and learned.get("model") else ""
    alike = [name for name in sets if own and within(own, name)]
    return own if own in sets or len(alike) != 1 else alike[0]


def _means(arm: Arm, home: str, other: str) -> tuple[list[float], list[float]] | None:
    """Means of the persons of both sets over the structures that both have; None if one has none."""
    targets = [{item[2] for item in arm.values if item[0] == name} for name in (home, other)]
    shared = targets[0] & targets[1]
    person = {o.item: o.person for o in arm.outcomes}
    found: list[list[float]] = []
    for name in (home, other):
        by: dict[str, list[float]] = {}
        for item, value in arm.values.items():
            if item[0] == name and item[2] in shared:
                by.setdefault(person[item], []).append(value)
        found.append([float(np.mean(values)) for _, values in sorted(by.items())])
    return (found[0], found[1]) if all(found) else None


def _away(arm: Arm, home: str, other: str, a: list[float], b: list[float], p: float) -> Away:
    rng = np.random.default_rng(0)
    draws = [rng.choice(values, (N_BOOT, len(values))).mean(axis=1) for values in (a, b)]
    low, high = np.percentile(draws[0] - draws[1], (100 * ALPHA / 2, 100 - 100 * ALPHA / 2))
    means = float(np.mean(a)), float(np.mean(b))
    return Away(
        arm.label, bool(_home(arm, (home, other))), home, other, *means, float(low), float(high), p, len(a), len(b)
    )
