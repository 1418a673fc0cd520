"""How many labelled subjects: what was trained on more and more of them, and where a specialist overtakes.

A curve is one trained model (a specialist, or a generalist with an adapter) by the number of its training subjects,
mean over the test persons, their targets, and the draws of training subjects. Between measured numbers a curve is taken
as straight over the logarithm of the number. The crossover of two curves is the number from which the specialist stays
ahead; its interval comes from drawing the test persons anew.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from segwise.report import figures
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import e, figure, listing, note, number, signed, table
from segwise.report.statistics import ALPHA, Floats, interval_of_mean, minus, subjects_needed
from segwise.spec import parse

N_BOOT = 2000
SURE = 0.95  # share of the draws that must agree


@dataclass(frozen=True, eq=False)
class Curve:
    """A model by its number of training subjects.

    Attributes:
        model: what was trained.
        family: "specialist" or "generalist".
        subjects: numbers of training subjects, rising.
        values: [N, P] mean of each test person at each of them.
        parameters: trained ones, 0 if unknown.
        seconds: of training, at each number of subjects, mean; nan if unknown.
    """

    model: str
    family: str
    subjects: tuple[int, ...]
    values: Floats
    parameters: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Crossing:
    """Where one curve overtakes another for good.

    Attributes:
        at: number of subjects, nan if it does not within the measured range.
        low, high: of the interval, nan without one.
        verdict: "crosses", "ahead" (from the first number on), "behind" (to the last one) or "cannot decide".
    """

    at: float
    low: float
    high: float
    verdict: str


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if nothing was trained on two numbers of subjects or more."""
    found, persons = curves(gathered)
    if not any(len(curve.subjects) > 1 for curve in found):
        return ""
    starts = _untrained(gathered, found, persons)
    series = [_series(curve, i, len(persons)) for i, curve in enumerate(found)]
    caption = (
        f"Mean {gathered.primary} on {len(persons)} test persons that no training saw, against the number of labelled "
        "subjects that were trained on; bands: bootstrap over the test persons. Draws of subjects are averaged."
    )
    answers = [_answer(curve, other) for curve in found for other in found if _rivals(curve, other)]
    parts = [note(text) for text in answers] or [note("Nothing here is a specialist beside an adapted generalist.")]
    body = figure(figures.by_subjects(series, measure=gathered.primary, starts=starts), caption)
    return "".join(parts) + body + _table(found, starts, gathered.primary)


def curves(gathered: Gathered) -> tuple[list[Curve], tuple[str, ...]]:
    """All curves on the persons that every trained arm was tested on, or that its fold was; and those persons."""
    found: dict[str, dict[int, list[Arm]]] = defaultdict(lambda: defaultdict(list))
    for arm in gathered.arms:
        learned = arm.card.get("learned")
        if isinstance(learned, Mapping) and learned.get("model") and arm.values and not learned.get("generated"):
            found[str(learned["model"])][int(learned.get("subjects", 0))].append(arm)
    each = [by_person(arms) for by_number in found.values() for arms in by_number.values()]
    persons = tuple(sorted(set.intersection(*map(set, each)))) if each else ()
    if not persons:
        return [], ()
    return [_curve(model, by_number, persons) for model, by_number in sorted(found.items())], persons


def _curve(model: str, by_number: Mapping[int, Sequence[Arm]], persons: Sequence[str]) -> Curve:
    numbers = tuple(sorted(by_number))
    values = np.array([[by_person(by_number[n])[p] for p in persons] for n in numbers])
    card = next(iter(by_number.values()))[0].card
    learned = [arm.card["learned"] for arms in by_number.values() for arm in arms]
    parameters = next((int(one["parameters"]) for one in learned if one.get("parameters")), 0)
    seconds = []
    for n in numbers:
        known = [float(s) for arm in by_number[n] if (s := arm.card["learned"].get("seconds")) is not None]
        seconds.append(fmean(known) if known else math.nan)
    family = str(card.get("family") or "generalist")
    return Curve(model, family, numbers, values, parameters, tuple(seconds))


def by_person(arms: Sequence[Arm]) -> dict[str, float]:
    """Person -> mean over targets of the mean over arms."""
    person = {o.item: o.person for arm in arms for o in arm.outcomes}
    by_item: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for arm in arms:
        for item, value in arm.values.items():
            by_item[item].append(value)
    person_values: dict[str, list[float]] = defaultdict(list)
    for item, values in by_item.items():
        person_values[person[item]].append(fmean(values))
    return {name: fmean(values) for name, values in person_values.items()}


def crossing(behind: Curve, ahead: Curve, *, n_boot: int = N_BOOT, seed: int = 0) -> Crossing:
    """From how many subjects on the second curve stays above the first.

    Args:
        behind: of the generalist.
        ahead: of the specialist, on the same test persons; too few of them for a paired test decide nothing.
        n_boot: draws of the test persons.
        seed: of the draws.
    """
    numbers = np.array(sorted({*behind.subjects, *ahead.subjects}), dtype=float)
    low = max(behind.subjects[0], ahead.subjects[0])
    high = min(behind.subjects[-1], ahead.subjects[-1])
    numbers = numbers[(numbers >= low) & (numbers <= high)]
    n = behind.values.shape[1]
    if not len(numbers) or n < subjects_needed(1, alpha=ALPHA):
        return Crossing(math.nan, math.nan, math.nan, "cannot decide")
    difference = minus(_on(ahead, numbers), _on(behind, numbers))  # [N, P]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    draws = counts @ difference.T / n  # [B, N]
    places = np.array([_place(numbers, row) for row in draws])
    at = _place(numbers, difference.mean(axis=1))
    ahead_share, behind_share = float((places == 0).mean()), float(np.isinf(places).mean())
    if ahead_share >= SURE:
        return Crossing(math.nan, math.nan, math.nan, "ahead")
    if behind_share >= SURE:
        return Crossing(math.nan, math.nan, math.nan, "behind")
    inside = places[(places > 0) & np.isfinite(places)]
    if len(inside) < SURE * n_boot or not 0 < at < math.inf:
        return Crossing(at if 0 < at < math.inf else math.nan, math.nan, math.nan, "cannot decide")
    first, last = np.quantile(inside, (ALPHA / 2, 1 - ALPHA / 2))
    return Crossing(float(at), float(first), float(last), "crosses")


def _on(curve: Curve, numbers: Floats) -> Floats:
    """[N, P] of a curve at some numbers of subjects, straight over their logarithm."""
    own = np.log(np.maximum(curve.subjects, 1))
    wanted = np.log(np.maximum(numbers, 1))
    return np.stack([np.interp(wanted, own, curve.values[:, p]) for p in range(curve.values.shape[1])], axis=1)


def _place(numbers: Floats, difference: Floats) -> float:
    """Where a difference becomes positive for good: 0 if it is from the first number on, inf if never."""
    below = np.flatnonzero(difference <= 0)
    if not len(below):
        return 0.0
    last = int(below[-1])
    if last == len(numbers) - 1:
        return math.inf
    a, b = np.log(numbers[last]), np.log(numbers[last + 1])
    share = -difference[last] / (difference[last + 1] - difference[last])
    return float(np.exp(a + share * (b - a)))


def _rivals(curve: Curve, other: Curve) -> bool:
    return curve.family == "generalist" and other.family == "specialist"


def _answer(generalist: Curve, specialist: Curve) -> str:
    found = crossing(generalist, specialist)
    a, b = f"<b>{e(specialist.model)}</b>", f"<b>{e(generalist.model)}</b>"
    first = max(generalist.subjects[0], specialist.subjects[0])
    last = min(generalist.subjects[-1], specialist.subjects[-1])
    if found.verdict == "ahead":
        return f"{a} is ahead of {b} from {first} labelled subjects on, the fewest that were tried."
    if found.verdict == "behind":
        ahead = [
            n for n in specialist.subjects if n in generalist.subjects and _mean(specialist, n) > _mean(generalist, n)
        ]
        but = f", though its mean is higher with {', '.join(map(str, ahead))}" if ahead else ", and so it is with fewer"
        return f"No crossover within these data: with {last} labelled subjects {a} is behind {b}{but}."
    if found.verdict == "crosses":
        return (
            f"{a} overtakes {b} at about <b>{found.at:.0f} labelled subjects</b> (95 % {found.low:.1f} to "
            f"{found.high:.1f}, over the test persons)."
        )
    n, needed = generalist.values.shape[1], subjects_needed(1, alpha=ALPHA)
    if n < needed:
        return f"Cannot decide whether {a} overtakes {b}: {n} test persons, and fewer than {needed} decide nothing."
    guess = "" if math.isnan(found.at) else f"; the means cross at about {found.at:.0f}"
    return f"Cannot decide whether {a} overtakes {b} between {first} and {last} labelled subjects{guess}."


def _mean(curve: Curve, n: int) -> float:
    return float(curve.values[curve.subjects.index(n)].mean())


def _untrained(gathered: Gathered, found: Sequence[Curve], persons: Sequence[str]) -> dict[str, float]:
    """Base model -> mean on these persons, as it came."""
    bases = {str(parse(curve.model).base) for curve in found if curve.family == "generalist"}
    out = {}
    for arm in gathered.arms:
        if arm.key[0] in bases and arm.values and not arm.card.get("learned"):
            own = by_person([arm])
            if all(person in own for person in persons):
                out[arm.key[0]] = fmean(own[person] for person in persons)
    return out


def _series(curve: Curve, index: int, n: int) -> figures.Series:
    low, high = interval_of_mean(curve.values.T, [str(i) for i in range(n)])
    known = not np.isnan(low).any()
    return figures.Series(
        curve.model,
        index,
        list(map(float, curve.subjects)),
        curve.values.mean(axis=1).tolist(),
        low.tolist() if known else (),
        high.tolist() if known else (),
    )


def _table(found: Sequence[Curve], starts: Mapping[str, float], measure: str) -> str:
    numbers = sorted({n for curve in found for n in curve.subjects})
    head = ["Trained", *(f"{n} subjects" if n != 1 else "1 subject" for n in numbers)]
    head += ["Gain over the start", "Gain per labelled subject", "Trained parameters", "Gain per million of them"]
    head += ["Gain per training hour"]
    rows = []
    for curve in found:
        means = dict(zip(curve.subjects, curve.values.mean(axis=1).tolist(), strict=True))
        start = starts.get(str(parse(curve.model).base), math.nan) if curve.family == "generalist" else math.nan
        gain = curve.values[-1].mean() - start
        hours = curve.seconds[-1] / 3600
        per_million = gain / (curve.parameters / 1e6) if curve.parameters else math.nan
        rows.append(
            [
                e(curve.model),
                *(number(means.get(n)) for n in numbers),
                _or_dash(signed, gain),
                _or_dash(lambda value: signed(value, 4), gain / curve.subjects[-1] if curve.subjects[-1] else math.nan),
                f"{curve.parameters:,}" if curve.parameters else "–",
                _or_dash(signed, per_million),
                _or_dash(signed, gain / hours if hours else math.nan),
            ]
        )
    came = listing([f"{e(model)} {value:.3f}" for model, value in starts.items()])
    said = f"As they came: {came}. " if came else ""
    return note(f"{said}Gains are of mean {e(measure)} with all training subjects.") + table(head, rows, name="Labels")


def _or_dash(write: object, value: float) -> str:
    return "–" if math.isnan(value) else write(value)  # type: ignore[operator]
