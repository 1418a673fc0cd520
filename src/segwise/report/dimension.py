"""Slices or volumes: slice-wise models, slices lifted to volumes, and native 3D models, on the same targets.

Of each kind the arm with the best mean stands for it; accuracy is compared over persons, and continuity, seconds and
memory stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

import numpy as np

from segwise.report import figures
from segwise.report.gather import Arm, Gathered, Panel, panels, total_seconds
from segwise.report.markup import count, e, figure, interval, listing, n_bytes, number, p_value, seconds, table
from segwise.report.markup import note as said
from segwise.report.statistics import ALPHA, compare, family_wise, minus, subject_means

KINDS = ("slice-wise", "lifted", "native 3D")
SLICEWISE = "slices"  # the lift that lets every slice answer for itself
CHUNKS = "chunks"  # so does this one, but for adapters made for volumes
CONTINUITY = "continuity_lost"


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if all models look in the same way."""
    arms = tuple(arm for arm in gathered.arms if arm.ranked and arm.key[0] and kind_of(arm))
    if len({kind_of(arm) for arm in arms}) < 2:
        return ""
    panel = _widest(arms)
    if panel is None:
        return said("No target was answered both by slice models and by volume models, so they are not compared.")
    order = sorted(range(len(panel.arms)), key=lambda i: (KINDS.index(kind_of(panel.arms[i])), panel.arms[i].label))
    drawn = [_series(panel, i) for i in order]
    caption = (
        f"By kind: slice-wise first, then lifted, then native 3D; the kind stands before the model's name. All of it "
        f"is about the {count(len(panel.items), 'target')} of {count(len(set(panel.persons)), 'person')} that these "
        f"{len(panel.arms)} arms answered."
    )
    gone = [e(arm.label) for arm in arms if arm not in panel.arms]
    caption += f" Left out, as they answered fewer: {listing(gone)}." if gone else ""
    return (
        said(answer(panel, gathered.primary))
        + figure(figures.forest(drawn, measure=gathered.primary, name="dimension"), caption)
        + _table(panel, order, gathered.primary)
    )


def _widest(arms: Sequence[Arm]) -> Panel | None:
    """Of the sets of arms with several kinds the one that shares most persons, then targets; None if there is none."""
    found = [panel for panel in panels(arms) if len({kind_of(arm) for arm in panel.arms}) > 1]
    return max(found, key=lambda p: (len(set(p.persons)), len(p.items), len(p.arms)), default=None)


def kind_of(arm: Arm) -> str:
    """One of `KINDS`, from the card's dims and the resolved lift; "" if the card is not known."""
    dims = arm.card.get("dims")
    if dims not in (2, 3):
        return ""
    lift = next((str(o.last.resolved["lift"]) for o in arm.outcomes if o.last.resolved.get("lift")), "")
    if dims == 3:
        return KINDS[2]
    learned = arm.card.get("learned")
    deep = isinstance(learned, Mapping) and bool(learned.get("volumes"))
    return KINDS[0] if lift in ("", SLICEWISE) or (lift == CHUNKS and not deep) else KINDS[1]


def champions(panel: Panel) -> tuple[int, ...]:
    """The arm of each kind with the best mean over persons, in the order of `KINDS`; places in the panel."""
    found: dict[str, int] = {}
    means = compare(panel.values, panel.persons, n_boot=1).mean
    for i in sorted(range(len(panel.arms)), key=lambda i: (-means[i], i)):
        found.setdefault(kind_of(panel.arms[i]), i)
    return tuple(found[kind] for kind in KINDS if kind in found)


def answer(panel: Panel, measure: str) -> str:
    """In words: which kind is ahead on accuracy, decided or not, and what the others cost.

    As the best of each kind was chosen from many, what is beyond chance is decided over all pairs of arms of two kinds
    (`statistics.family_wise`).
    """
    best = champions(panel)
    result = compare(panel.values[:, best], panel.persons)
    told = []
    for i in result.order:
        arm = panel.arms[best[i]]
        spent, peak = _seconds(arm, panel), _peak(arm)
        lost = arm.mean(CONTINUITY, panel.items)
        than = "less" if lost is not None and lost >= 0 else "more"
        smooth = "" if lost is None else f", {number(abs(lost))} {than} continuous than the reference"
        told.append(
            f"<b>{kind_of(arm)}</b> ({e(arm.label)}) {number(float(result.mean[i]))}{smooth}, {seconds(spent)} and "
            f"{n_bytes(peak)} a target"
        )
    first, second = result.order[0], result.order[1]
    chance = _chance(panel)
    tied = [first]
    for i in result.order[1:]:
        sure = chance[frozenset((best[first], best[i]))] < ALPHA and result.difference_low[first, i] > 0
        tied += [] if sure else [i]
    bounds = interval(float(result.difference_low[first, second]), float(result.difference_high[first, second]))
    ahead = " ".join(filter(None, (number(float(result.difference[first, second])), e(measure), bounds)))
    pairs = (
        f"p {p_value(chance[frozenset((best[first], best[second]))])} over {count(len(chance), 'pair')} of two kinds"
    )
    if len(tied) == 1:
        verdict = f"<b>{kind_of(panel.arms[best[first]])}</b> is ahead by {ahead}, beyond chance ({pairs})."
    else:
        names = listing([kind_of(panel.arms[best[i]]) for i in tied])
        verdict = f"Cannot decide between {names} on {count(result.n_subjects, 'person')}: {ahead} apart ({pairs})."
    return f"{verdict} Best of each kind, mean {e(measure)}: {'; '.join(told)}."


def _chance(panel: Panel) -> dict[frozenset[int], float]:
    """p of every pair of arms of two kinds, corrected for all of them together."""
    means, n = subject_means(panel.values, panel.persons), len(panel.arms)
    kinds = [kind_of(arm) for arm in panel.arms]
    pairs = [(i, j) for i in range(n) for j in range(i) if kinds[i] != kinds[j]]
    found = family_wise(np.column_stack([minus(means[:, i], means[:, j]) for i, j in pairs]))
    return {frozenset(pair): float(p) for pair, p in zip(pairs, found, strict=True)}


def _seconds(arm: Arm, panel: Panel) -> float | None:
    wanted = set(panel.items)
    found = [s for o in arm.outcomes if o.item in wanted and o.status == "done" and (s := total_seconds(o)) is not None]
    return median(found) if found else None


def _peak(arm: Arm) -> int:
    return max((o.last.peak_bytes for o in arm.outcomes), default=0)


def _series(panel: Panel, i: int) -> figures.Series:
    arm = panel.arms[i]
    result = compare(panel.values[:, [i]], panel.persons, n_boot=2000)
    known = not math.isnan(float(result.low[0]))
    by_person: dict[str, list[float]] = {}
    for person, value in zip(panel.persons, panel.values[:, i].tolist(), strict=True):
        by_person.setdefault(person, []).append(value)
    bounds = ((float(result.low[0]),), (float(result.high[0]),)) if known else ((), ())
    ticks = [fmean(values) for values in by_person.values()]
    label = f"{kind_of(arm)}: {arm.label}"
    return figures.Series(label, KINDS.index(kind_of(arm)), (float(np.mean(ticks)),), ticks, *bounds)


def _table(panel: Panel, order: Sequence[int], measure: str) -> str:
    rows = []
    for i in order:
        arm = panel.arms[i]
        rows.append(
            [
                e(arm.label),
                f'<td class="w">{kind_of(arm)}</td>',
                number(arm.mean(measure, panel.items)),
                number(arm.mean("continuity", panel.items)),
                number(arm.mean(CONTINUITY, panel.items)),
                seconds(_seconds(arm, panel)),
                n_bytes(_peak(arm)),
            ]
        )
    head = ["Arm", '<th scope="col" class="w">Kind</th>', f"Mean {e(measure)}", "Continuity", "Lost against reference"]
    return table([*head, "Seconds a target", "Peak memory"], rows, name="Dimension")
