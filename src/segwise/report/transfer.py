"""Choose on one data set, test on another: what the choice of a model is worth elsewhere, and how far the sets differ.

For every data set the arm with the best mean is chosen and looked at on each other one; what it loses against that
set's own best arm is the price of having chosen elsewhere. The same is done with structures: chosen on all but one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwise.report import elsewhere, figures, words
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import count, details, e, figure, heat, listing, number, table
from segwise.report.markup import note as said
from segwise.report.outcome import Item
from segwise.report.statistics import (
    ALPHA,
    Floats,
    family_wise,
    highest,
    interval_of_mean,
    minus,
    subject_means,
    subjects_needed,
)


@dataclass(frozen=True, eq=False)
class Transfer:
    """An arm chosen on one part of the targets, looked at on another.

    Attributes:
        chosen_on, tested_on: the parts.
        arm, best: labels of the chosen arm, and of the tested part's own best.
        value: mean of the chosen arm over the tested part's persons.
        lost: [P] of each person: what the own best arm has more.
        p: of that, over all arms that might have been the best there (`statistics.family_wise`).
    """

    chosen_on: str
    tested_on: str
    arm: str
    best: str
    value: float
    lost: Floats
    p: float

    @property
    def sure(self) -> bool:
        """The loss is beyond chance over the persons."""
        if self.arm == self.best or len(self.lost) < subjects_needed(1, alpha=ALPHA):
            return False
        low, _ = interval_of_mean(self.lost[:, None], [str(i) for i in range(len(self.lost))])
        return bool(low[0] > 0) and self.p < ALPHA


def section(gathered: Gathered) -> str:
    """HTML of the section; "" for one data set."""
    names = sorted({o.last.dataset for o in gathered.outcomes if o.last.case})
    arms = [arm for arm in gathered.arms if arm.ranked]
    if len(names) < 2 or not arms:
        return ""
    found = matrix(arms, _dataset)
    if not found:
        return said("No two data sets share arms with values, so nothing can be chosen on one and tested on another.")
    measure = gathered.primary
    told = "".join(f"<li>{answer(one, measure)}</li>" for one in found if one.chosen_on != one.tested_on)
    return (
        f"<ul>{told}</ul>"
        + _matrix(found, measure)
        + figure(_figure(arms, sorted({one.tested_on for one in found}), measure), "Mean over each data set's persons.")
        + elsewhere.section(arms, measure)
        + anatomies(arms, measure)
        + _shift(gathered, names)
        + _zero_shot(gathered, names)
        + _harmonised(gathered, names)
    )


def matrix(arms: Sequence[Arm], part_of: Callable[[Item], str]) -> list[Transfer]:
    """All pairs of parts, the part itself included, over the arms that have values in every part."""
    parts = sorted({part_of(item) for arm in arms for item in arm.values})
    able = [arm for arm in arms if {part_of(item) for item in arm.values} == set(parts)]
    tables = {part: _table_of(able, _equals(part_of, part)) for part in parts} if able else {}
    if len(parts) < 2 or not able or any(not table_.size for table_ in tables.values()):
        return []
    best = {part: highest(table.mean(axis=0)) for part, table in tables.items()}
    return [_transfer(able, tables[b], a, b, best[a], best[b]) for a in parts for b in parts]


def held_out(arms: Sequence[Arm]) -> list[Transfer]:
    """For every structure: the arm chosen on all others, tested on it."""
    names = sorted({item[2] for arm in arms for item in arm.values})
    able = [arm for arm in arms if {item[2] for item in arm.values} == set(names)]
    found = []
    for name in names if len(names) > 1 and len(able) > 1 else ():
        others, own = (_table_of(able, _equals(_target, name, other=other)) for other in (True, False))
        if others.size and own.size:
            chosen, best = (highest(table.mean(axis=0)) for table in (others, own))
            found.append(_transfer(able, own, "the others", name, chosen, best))
    return found


def _dataset(item: Item) -> str:
    return item[0]


def _target(item: Item) -> str:
    return item[2]


def _equals(part_of: Callable[[Item], str], part: str, *, other: bool = False) -> Callable[[Item], bool]:
    """Whether an item is of a part, or of any other one."""
    return lambda item: (part_of(item) == part) != other


def _transfer(arms: Sequence[Arm], table_: Floats, a: str, b: str, chosen: int, best: int) -> Transfer:
    lost = minus(table_, table_[:, [chosen]])
    p = float(family_wise(lost)[best])
    return Transfer(a, b, arms[chosen].label, arms[best].label, float(table_[:, chosen].mean()), lost[:, best], p)


def _table_of(arms: Sequence[Arm], wanted: Callable[[Item], bool]) -> Floats:
    """[P, A] means of persons over the wanted items that all arms have."""
    items = sorted(i for i in set.intersection(*(set(arm.values) for arm in arms)) if wanted(i))
    person = {o.item: o.person for arm in arms for o in arm.outcomes}
    values = np.array([[arm.values[item] for arm in arms] for item in items]).reshape(len(items), len(arms))
    return subject_means(values, [person[item] for item in items]) if items else values


def answer(one: Transfer, measure: str) -> str:
    """In words: what an arm chosen on one part loses on another."""
    where = f"Chosen on <b>{e(one.chosen_on)}</b>, tested on <b>{e(one.tested_on)}</b>: {e(one.arm)} reaches "
    where += f"{number(one.value)} {e(measure)}"
    if one.arm == one.best:
        return f"{where} and is the best there too."
    if not one.lost.any():
        return f"{where}, just as {e(one.best)}, the best there."
    lost, people = float(one.lost.mean()), count(len(one.lost), "person")
    tail = f"{number(lost)} behind {e(one.best)}"
    return f"{where}, {tail}, beyond chance." if one.sure else f"{where}, {tail}, which {people} cannot decide."


def _matrix(found: Sequence[Transfer], measure: str) -> str:
    parts = sorted({one.tested_on for one in found})
    cells = {(one.chosen_on, one.tested_on): one for one in found}
    rows = []
    for a in parts:
        row = [f"{e(a)} <small>{e(cells[a, a].arm)}</small>"]
        for b in parts:
            one = cells[a, b]
            lost = "" if one.arm == one.best else f"<br><small>−{number(float(one.lost.mean()))}</small>"
            row.append(f"{heat(one.value)}{number(one.value)}{lost}</td>")
        rows.append(row)
    text = (
        f"Generalisation matrix: mean {e(measure)} of the row's choice; below it what the column's own best has more."
    )
    return said(text) + table(["Chosen on", *map(e, parts)], rows, name="Generalisation")


def _figure(arms: Sequence[Arm], parts: Sequence[str], measure: str) -> str:
    able = [arm for arm in arms if {item[0] for item in arm.values} >= set(parts)]
    drawn = []
    for i, arm in enumerate(able):
        tables = [_table_of(able, _equals(_dataset, part))[:, [i]] for part in parts]
        bounds = [interval_of_mean(one, [str(k) for k in range(len(one))]) for one in tables]
        low, high = ([float(pair[k][0]) for pair in bounds] for k in (0, 1))
        known = not np.isnan(low).any()
        y = [float(one.mean()) for one in tables]
        places = [float(k) for k in range(len(parts))]
        drawn.append(figures.Series(arm.label, i, places, y, low if known else (), high if known else ()))
    ticks = {float(i): part for i, part in enumerate(parts)}
    return figures.lines(drawn, measure=measure, along="data set", name="transfer", log=False, ticks=ticks)


def anatomies(arms: Sequence[Arm], measure: str) -> str:
    """HTML of the table of structures held out; "" where there is one structure or one arm."""
    found = held_out(arms)
    if not found:
        return ""
    rows = [
        [
            e(one.tested_on),
            f'<td class="w">{e(one.arm)}</td>',
            number(one.value),
            f'<td class="w">{e(one.best)}</td>',
            number(float(one.lost.mean())) + ("" if one.sure or one.arm == one.best else " <small>not decided</small>"),
        ]
        for one in found
    ]
    head = ["Held out", '<th scope="col" class="w">Chosen on the others</th>', f"Its {e(measure)}"]
    head += ['<th scope="col" class="w">Own best</th>', "Lost"]
    return said("Held-out anatomies: the arm is chosen on all other structures.") + table(head, rows, name="Held out")


def _shift(gathered: Gathered, names: Sequence[str]) -> str:
    """How the data sets look: modality, spacing, intensity, from the records."""
    seen: Mapping[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for outcome in gathered.outcomes:
        image = outcome.last.provenance.get("image")
        if isinstance(image, Mapping):
            seen[outcome.last.dataset][outcome.last.case] = image
    rows = []
    for name in names:
        images = list(seen[name].values())
        if not images:
            continue
        kinds = sorted({str(image.get("modality") or "not stated") for image in images})
        spacing = np.median([image["spacing_mm"] for image in images], axis=0)
        low, middle, high = np.median([image["intensity"] for image in images], axis=0)
        rows.append(
            [
                e(name),
                f'<td class="w">{e(listing(kinds))}</td>',
                str(len(images)),
                " × ".join(f"{mm:.3g}" for mm in spacing),
                f"{middle:.4g}",
                f"{low:.4g} to {high:.4g}",
            ]
        )
    head = ["Data set", '<th scope="col" class="w">Modality</th>', "Cases", "Spacing d × h × w, mm"]
    head += ["Intensity, median", "5 to 95 %"]
    text = "Domain shift: medians over cases; intensities of voxels above each scan's least value."
    return said(text) + table(head, rows, name="Domain shift") if rows else ""


def zero_shot(card: Mapping[str, Any], datasets: Collection[str], people: frozenset[str] = frozenset()) -> str:
    """ "yes", "no" or "unknown": whether a model never saw data sets, as far as its card tells."""
    told = words.leakage(card, datasets, people)
    if "<b>overlap" in told or told.startswith("no overlap: trained on"):
        return "no"
    return "unknown" if told.startswith("unknown") else "yes"


def _zero_shot(gathered: Gathered, names: Sequence[str]) -> str:
    rows = []
    told = {name: words.datasets_of(o for o in gathered.outcomes if o.last.dataset == name) for name in names}
    for model, arm in {arm.key[0]: arm for arm in gathered.arms}.items():
        cells = [f'<td class="w">{zero_shot(arm.card, told[name], arm.people)}</td>' for name in names]
        rows.append([e(model), *cells])
    text = "Zero-shot: whether the model never saw the data set, by the training sets on its card and nothing else."
    head = ["Model", *(f'<th scope="col" class="w">{e(name)}</th>' for name in names)]
    return said(text) + table(head, rows, name="Zero-shot")


def _harmonised(gathered: Gathered, names: Sequence[str]) -> str:
    """What each data set calls the structures that were compared."""
    raw: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for outcome in gathered.outcomes:
        label = outcome.last.provenance.get("label")
        if label:
            raw[outcome.last.target][outcome.last.dataset].add(str(label))
    rows = [
        [e(target), *(f'<td class="w">{e(", ".join(sorted(own[name]))) or "–"}</td>' for name in names)]
        for target, own in sorted(raw.items())
    ]
    if not rows:
        return ""
    head = ["Common name", *(f'<th scope="col" class="w">{e(name)}</th>' for name in names)]
    return details(
        "Label harmonisation: what each data set calls the structures", table(head, rows, name="Labels used")
    )
