"""With and without an adapter made for volumes: what each trained arm of one base loses along an axis of conditions.

The persons are the pairing. What is compared is the loss from the mildest to the worst place, not the level: an adapter
that only learned the cases shifts a curve and does not flatten it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segwise.errors import SpecError
from segwise.report.conditions import Family, Line
from segwise.report.markup import count, e, number
from segwise.report.statistics import ALPHA, Floats, holm, interval_of_mean, signed_rank, subjects_needed
from segwise.spec import parse


@dataclass(frozen=True, eq=False)
class Kept:
    """What one arm keeps against another along an axis.

    Attributes:
        mean: how much less it loses, over persons; below 0 it loses more.
        low, high: of the bootstrap interval over persons; nan with one.
        sure: beyond chance.
        n: persons.
        p: of the signed-rank test.
        ends: the first and last place that both have.
        losses: of the arm and of the other one between them, mean over the same persons.
    """

    mean: float
    low: float
    high: float
    sure: bool
    n: int
    p: float = 1.0
    ends: tuple[float, float] = (float("nan"), float("nan"))
    losses: tuple[float, float] = (float("nan"), float("nan"))


def section(family: Family, measure: str) -> str:
    """HTML: answers in words; "" where no base has both a trained arm made for volumes and one that is not."""
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in family.accuracy:
        groups[_base(line.model), line.prompter].append(line)
    return "".join(_of_base(base, lines, family, measure) for (base, _), lines in sorted(groups.items()))


def _of_base(base: str, lines: Sequence[Line], family: Family, measure: str) -> str:
    made = [line for line in lines if line.volumes]
    others = [line for line in lines if not line.volumes]
    if not made or not others:
        return ""
    pairs = [(one, other) for one in made for other in others]
    every = _together([kept(one, other) for one, other in pairs])
    answers = [answer(*pair, found, family, measure) for pair, found in zip(pairs, every, strict=True)]
    told = "".join(f"<li>{text}</li>" for text in answers)
    better = sum(one.sure and one.mean > 0 for one in every)
    verdict = (
        "none of them is shown to flatten the fall"
        if not better
        else f"{better} of {len(every)} comparisons show{'s' * (better == 1)} a flatter fall with one"
    )
    head = f"<b>With and without an adapter made for volumes</b> ({e(base)}): {verdict}{_sees(base)}."
    return f"<p>{head}</p><ul>{told}</ul>"


def _sees(base: str) -> str:
    """A caveat where such an adapter has nothing to act on."""
    try:
        given = parse(base).args
        deep = given.get("lift") == "chunks" and given.get("chunk") != 1
    except SpecError:
        return ""
    return "" if deep else "; where the model shows it single slices, such an adapter acts in the plane only"


def _together(found: Sequence[Kept]) -> list[Kept]:
    """Holm's correction over the comparisons of one base."""
    told = holm(np.array([one.p for one in found]))
    return [replace(one, p=float(p), sure=one.sure and bool(p < ALPHA)) for one, p in zip(found, told, strict=True)]


def answer(one: Line, other: Line, found: Kept, family: Family, measure: str) -> str:
    """In words: what an arm loses along the axis, and whether that is less than another one loses."""
    if not found.n:
        return f"<b>{e(one.label)}</b> and {e(other.label)} share no persons or places: they cannot be compared."
    lost, there = found.losses
    way = f"from {family.at(found.ends[0])} to {family.at(found.ends[1])}"
    head = f"<b>{e(one.label)}</b> loses {number(lost)} {e(measure)} {way}, {e(other.label)} {number(there)}"
    if np.isnan(found.low):
        return f"{head}: {count(found.n, 'person')} cannot decide."
    more = found.mean < 0
    ends = (-found.high, -found.low) if more else (found.low, found.high)
    span = f"{number(abs(found.mean), 4)} {'more' if more else 'less'}; 95 % of the difference "
    span += f"{number(ends[0], 4)} to {number(ends[1], 4)}"
    return f"{head}: {span}, " + (
        "beyond chance." if found.sure else f"which {count(found.n, 'person')} cannot decide."
    )


def kept(one: Line, other: Line) -> Kept:
    """How much less an arm loses than another, over the persons and between the places that both have."""
    people = sorted(set(one.people) & set(other.people))
    ends = sorted(set(one.places) & set(other.places))
    if not people or len(ends) < 2:
        return Kept(0.0, float("nan"), float("nan"), False, 0)
    mine, theirs = _loss(one, people, ends), _loss(other, people, ends)
    gain = theirs - mine
    low, high = (float(bound[0]) for bound in interval_of_mean(gain[:, None], people))
    enough = len(people) >= subjects_needed(1, alpha=ALPHA)
    p = float(signed_rank(gain[:, None])[0])
    sure = enough and (low > 0 or high < 0) and p < ALPHA
    losses = (float(mine.mean()), float(theirs.mean()))
    return Kept(float(gain.mean()), low, high, bool(sure), len(people), p, (ends[0], ends[-1]), losses)


def _loss(line: Line, people: Sequence[str], ends: Sequence[float]) -> Floats:
    """[P]: from the first of the places to the last."""
    columns = [line.people.index(one) for one in people]
    first, last = (line.values[line.places.index(end)] for end in (ends[0], ends[-1]))
    return np.asarray((first - last)[columns])


def _base(model: str) -> str:
    """The spec without what is composed onto it."""
    try:
        return str(parse(model).base)
    except SpecError:
        return model
