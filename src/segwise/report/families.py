"""Generalist or specialist, and is either above the floor: the best arm of each family, over all and by structure.

The floor is what models without weights reach with the same prompts. Which arm is the best of its family is read from
the same data, so differences are decided with a correction over all arms, not of the best ones alone: the two families
over all their pairs (`statistics.family_wise`), what is beside the floor with Holm's over the pairs of all arms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segwise.report.gather import ENOUGH, Arm, Gathered, Panel, panel_of
from segwise.report.markup import DASH, count, e, interval, listing, note, number, p_value, signed, table
from segwise.report.ranking import Ranked
from segwise.report.statistics import ALPHA, Comparison, compare, family_wise, minus, subject_means
from segwise.report.words import median_interactions

LEARNED, FLOOR = ("generalist", "specialist"), "floor"
N_BOOT = 2000  # draws for one structure
NAMED = 8  # structures in a sentence
_WORDS = {"above": "above", "below": "below", "": "cannot decide"}


@dataclass(frozen=True, eq=False)
class Row:
    """One structure: the best arm of each family there.

    Attributes:
        target: its name.
        arms: compared on it.
        result: over the persons that all of them have it of.
        best: family -> index of its best arm.
    """

    target: str
    arms: tuple[Arm, ...]
    result: Comparison
    best: Mapping[str, int]


def answer(ranked: Sequence[Ranked]) -> str:
    """The best generalist against the best specialist, and both against the floor; "" where there is nothing to say.

    Told on the comparison that has the most of the three families, of several on that of the most subjects.
    """
    each = [_best(one.panel.arms, one.result) for one in ranked]
    k = max(range(len(each)), key=lambda i: (len(each[i]), ranked[i].result.n_subjects), default=-1)
    if k < 0:
        return ""
    panel, result = ranked[k].panel, ranked[k].result
    told = " ".join(filter(None, (_rivals(panel, result, each[k]), _above(panel.arms, result, each[k]))))
    where = f" This is of {count(len(panel.items), 'target')} of {count(result.n_subjects, 'subject')}."
    return told + (where if k and told else "")


def section(gathered: Gathered) -> str:
    """HTML: the families structure by structure; "" without a floor, or without anything beside it."""
    found = rows(gathered)
    if not found:
        return ""
    lead = (
        f"Mean {e(gathered.primary)} over subjects of the best arm of each family on this structure, on the cases that "
        "all arms with it answered. The <b>floor</b> are models without weights. Above or below only beyond chance "
        "(Holm over all pairs of arms of the row, interval of the difference without 0)."
    )
    told = "".join(f"<li>{line}</li>" for family in LEARNED if (line := _in_short(found, family)))
    learned = [family for family in LEARNED if any(family in row.best for row in found)]
    head = ["Structure", "Subjects", *(family.capitalize() for family in (*learned, FLOOR))]
    head += [f"{family.capitalize()}<br>minus floor" for family in learned]
    body = table(head, [_cells(row, learned) for row in found], name="Families by structure")
    return note(lead) + f"<ul>{told}</ul>" + body.replace('class="scroll"', 'class="scroll tall"', 1)


def rows(gathered: Gathered) -> list[Row]:
    """Structures with a floor and a learned model that share cases, by name."""
    arms = [arm for arm in gathered.arms if arm.ranked and arm.card.get("family") in (*LEARNED, FLOOR)]
    found = []
    for target in sorted({item[2] for arm in arms for item in arm.values}):
        n = {arm.key: sum(item[2] == target for item in arm.values) for arm in arms}
        able = tuple(arm for arm in arms if n[arm.key] and n[arm.key] >= ENOUGH * max(n.values()))
        panel = panel_of(able)
        own = [k for k, item in enumerate(panel.items) if item[2] == target]
        if own:
            result = compare(panel.values[own], [panel.persons[k] for k in own], n_boot=N_BOOT)
            best = _best(able, result)
            if FLOOR in best and len(best) > 1:
                found.append(Row(target, able, result, best))
    return found


def against_floor(row: Row, family: str) -> str:
    """ "above" or "below" beyond chance, "" if these data cannot decide."""
    return _against(row.result, row.best[family], row.best[FLOOR])


def _against(result: Comparison, i: int, floor: int) -> str:
    return "above" if result.decided[i, floor] else "below" if result.decided[floor, i] else ""


def _best(arms: Sequence[Arm], result: Comparison) -> dict[str, int]:
    best: dict[str, int] = {}
    for i in result.order:
        family = str(arms[i].card.get("family", ""))
        if family in (*LEARNED, FLOOR):
            best.setdefault(family, i)
    return best


def _rivals(panel: Panel, result: Comparison, best: Mapping[str, int]) -> str:
    if any(family not in best for family in LEARNED):
        return ""
    a, b = sorted((best[family] for family in LEARNED), key=lambda i: (-result.mean[i], i))
    names = {best[family]: f"the best {family}, <b>{e(panel.arms[best[family]].label)}</b>," for family in LEARNED}
    p, n_pairs = _chance(panel, a, b)
    sure = f"; these data cannot decide between the two (p {p_value(p)} over {count(n_pairs, 'such pair')})."
    if p < ALPHA and (result.difference_low[a, b] > 0 or result.difference_high[a, b] < 0):
        sure = f"; this is beyond chance (p {p_value(p)} over {count(n_pairs, 'such pair')})."
    effort = {i: median_interactions(panel.arms[i], panel) for i in (a, b)}
    asked = (
        f" It asked {_interactions(effort[a])} of a person for each target, the other {_interactions(effort[b])}."
        if None not in effort.values()
        else ""
    )
    text = f"{names[a]} reaches {number(result.mean[a])}, {names[b]} {number(result.mean[b])}"
    difference = signed(result.difference[a, b])
    return f"<b>Generalist or specialist?</b> {text[0].upper()}{text[1:]} ({difference}){sure}{asked}"


def _chance(panel: Panel, a: int, b: int) -> tuple[float, int]:
    """The p of two arms over all pairs of a generalist and a specialist, and how many pairs those are."""
    families = [str(arm.card.get("family", "")) for arm in panel.arms]
    first, second = ([i for i, family in enumerate(families) if family == name] for name in LEARNED)
    pairs = [(i, j) for i in first for j in second]
    means = subject_means(panel.values, panel.persons)
    p = family_wise(np.column_stack([minus(means[:, i], means[:, j]) for i, j in pairs]))
    return float(p[pairs.index((a, b) if (a, b) in pairs else (b, a))]), len(pairs)


def _interactions(n: float | None) -> str:
    return "nothing" if not n else f"{n:g} interaction{'' if n == 1 else 's'}"


def _above(arms: Sequence[Arm], result: Comparison, best: Mapping[str, int]) -> str:
    learned = [family for family in LEARNED if family in best]
    if FLOOR not in best or not learned:
        return ""
    floor = best[FLOOR]
    clauses = []
    for family in learned:
        label = f", <b>{e(arms[best[family]].label)}</b>," if len(learned) == 1 else ""
        clauses.append(f"the best {family}{label} is {_apart(result, best[family], floor)}")
    return (
        f"<b>Above the floor?</b> Without weights <b>{e(arms[floor].label)}</b> reaches {number(result.mean[floor])}; "
        f"{'; '.join(clauses)}."
    )


def _apart(result: Comparison, i: int, floor: int) -> str:
    difference = float(result.difference[i, floor])
    bounds = interval(result.difference_low[i, floor], result.difference_high[i, floor])
    size = f"{number(abs(difference))} {'above' if difference > 0 else 'below'}" if difference else "level with"
    sure = "beyond chance" if _against(result, i, floor) else ""
    text = f"{size} it{f' {bounds}' if bounds else ''}"
    return f"{text}, {sure}" if sure else f"{text}, which {count(result.n_subjects, 'subject')} cannot decide"


def _in_short(found: Sequence[Row], family: str) -> str:
    told = {row.target: against_floor(row, family) for row in found if family in row.best}
    if not told:
        return ""
    parts = []
    for verdict, words in _WORDS.items():
        names = [e(name) for name, own in told.items() if own == verdict]
        shown = names if len(names) <= NAMED + 1 else [*names[:NAMED], f"{len(names) - NAMED} more"]
        if names:
            parts.append(f"{words} {'on' if verdict else 'for'} {count(len(names), 'structure')} ({listing(shown)})")
    return f"The best <b>{family}</b> against the floor: {'; '.join(parts)}."


def _cells(row: Row, learned: Sequence[str]) -> list[str]:
    cells = [e(row.target), f"{row.result.n_subjects}"]
    for family in (*learned, FLOOR):
        i = row.best.get(family)
        cells.append(DASH if i is None else f"{number(row.result.mean[i])}<br><small>{e(row.arms[i].label)}</small>")
    for family in learned:
        i, floor = row.best.get(family), row.best[FLOOR]
        if i is None:
            cells.append(DASH)
            continue
        bounds = interval(row.result.difference_low[i, floor], row.result.difference_high[i, floor])
        word = _WORDS[against_floor(row, family)]
        word = f"<b>{word}</b>" if against_floor(row, family) else word
        cells.append(f"{signed(row.result.difference[i, floor])} {bounds}<br><small>{word}</small>")
    return cells
