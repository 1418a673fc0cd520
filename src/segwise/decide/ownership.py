"""Total cost of ownership: what is paid once, what every case costs, and from how many cases one way is cheaper.

Once: the machine with its upkeep, bringing the model into use, pre-training borne here, cases drawn to train or
fine-tune, and the energy of that. Every case: a reader's minutes (`effort`) and energy. All ways end at the same
quality: what a model leaves below the wanted DSC is mended by hand, so costs can be compared. By hand is a way too.

Uncertainty is over subjects: the cost of a case is one mean a subject, drawn anew; two ways
met the same ones. Assumptions have no distribution here; each is moved over its own range instead (`sensitivity`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segwise.decide.effort import effort
from segwise.decide.measured import Measured, by_person
from segwise.decide.scenario import Scenario
from segwise.report.statistics import ALPHA, Floats, signed_rank, subjects_needed

N_BOOT = 4000
SURE = 0.975  # share of the draws that must agree on a sign: two-sided 5 %
_TIE = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class Cost:
    """Of one way of working.

    Attributes:
        once: parts of what is paid once, in the scenario's currency.
        persons: subjects it was measured on; () by hand.
        case: [S] cost of a case for each of them.
        parts: mean parts of it: "prompting", "looking", "mending", "waiting", "energy".
        minutes: a person's minutes a case, mean.
        reached: share of targets whose answers alone were good enough, mean over subjects.
        anew: share of targets that were drawn anew by hand, mean over subjects.
    """

    label: str
    once: Mapping[str, float]
    persons: tuple[str, ...]
    case: Floats
    parts: Mapping[str, float]
    minutes: float
    reached: float
    anew: float

    @property
    def fixed(self) -> float:
        """All that is paid once."""
        return sum(self.once.values())

    def total(self, n_cases: float) -> float:
        """After so many cases."""
        return self.fixed + n_cases * float(self.case.mean())


@dataclass(frozen=True)
class BreakEven:
    """From how many cases on the second way is the cheaper one.

    Attributes:
        at: number of cases, nan if the lines of the means do not cross.
        low, high: of the 95 % interval over subjects, nan without one.
        verdict: "crosses" (the second is cheaper beyond), "crosses back" (the first is cheaper beyond), "first" or
            "second" (cheaper from the first case on, in 97.5 % of the draws), "cannot decide".
        within: share of the draws in which the second way is cheaper at the planned number of cases, nan without any.
    """

    at: float
    low: float
    high: float
    verdict: str
    within: float


def cost(arm: Measured, scenario: Scenario) -> Cost:
    """What an arm costs in a scenario."""
    n_targets, second = scenario["targets_per_case"], scenario["wage_hour"] / 3600
    watt_second = scenario["power_w"] * scenario["energy_price_kwh"] / 3.6e6
    spent = [effort(play, arm, scenario) for play in arm.plays]
    persons, case = by_person(arm.plays, [(s.person_s * second + s.machine_s * watt_second) * n_targets for s in spent])

    def mean(values: list[float]) -> float:
        return float(by_person(arm.plays, values)[1].mean())

    parts = {
        "prompting": mean([s.marks_s for s in spent]) * second * n_targets,
        "looking": mean([s.review_s for s in spent]) * second * n_targets,
        "mending": mean([s.repair_s for s in spent]) * second * n_targets,
        "waiting": mean([s.wait_s for s in spent]) * second * n_targets,
        "energy": mean([s.machine_s for s in spent]) * watt_second * n_targets,
    }
    return Cost(
        label=arm.label,
        once=_once(arm, scenario),
        persons=tuple(persons),
        case=case,
        parts=parts,
        minutes=mean([s.person_s for s in spent]) * n_targets / 60,
        reached=mean([float(s.reached) for s in spent]),
        anew=mean([float(s.anew) for s in spent]),
    )


def by_hand(scenario: Scenario) -> Cost:
    """Everything drawn by hand."""
    minutes = scenario["targets_per_case"] * scenario["hand_minutes"]
    each = minutes / 60 * scenario["wage_hour"]
    return Cost(
        label="by hand",
        once={},
        persons=(),
        case=np.array([each]),
        parts={"drawing": each},
        minutes=minutes,
        reached=math.nan,
        anew=1.0,
    )


def _once(arm: Measured, scenario: Scenario) -> dict[str, float]:
    s = scenario
    found = {
        "machine": s["hardware_price"] * (1 + s["upkeep_share"] * s["years"]),
        "bringing into use": s["setup_hours"] * s["engineer_wage_hour"],
    }
    n_cases, hours = _learning(arm, scenario)
    if arm.family == "generalist":
        found["pre-training"] = s["pretraining_price"] * s["pretraining_share"]
    if n_cases or hours:
        found["cases drawn to learn from"] = (
            n_cases * s["targets_per_case"] * s["hand_minutes"] / 60 * s["wage_hour"] * s["trainings"]
        )
        found["energy of learning"] = hours * s["power_w"] / 1000 * s["energy_price_kwh"] * s["trainings"]
    return found


def _learning(arm: Measured, scenario: Scenario) -> tuple[float, float]:
    """(cases drawn, machine hours): what the model's own training says, else what the scenario assumes."""
    name = {"specialist": "training", "generalist": "tuning"}.get(arm.family)
    if name is None:
        return 0.0, 0.0
    own, seconds = arm.learned.get("subjects"), arm.learned.get("seconds")
    n_cases = float(own) if own else scenario[f"{name}_cases"]
    hours = float(seconds) / 3600 / scenario["speed_factor"] if seconds else scenario[f"{name}_hours"]
    return n_cases, hours


def break_even(first: Cost, second: Cost, *, horizon: float, n_boot: int = N_BOOT, seed: int = 0) -> BreakEven:
    """From how many cases on the second way is cheaper than the first.

    Decided where 97.5 % of the draws agree on the sign of the difference of a case *and* the signed-rank test over
    subjects says so: with few subjects draws alone agree too easily.

    Args:
        first, second: measured on the same subjects, or one of them by hand, which is a constant.
        horizon: planned number of cases.
        n_boot: draws of the subjects.
        seed: of the draws.
    """
    gap = second.fixed - first.fixed
    own = second.case - first.case  # [S] of a case
    at = crossing(gap, float(own.mean()))
    sure = bool(signed_rank(own[:, None])[0] < ALPHA) or bool((np.abs(own) <= _TIE).all())
    if len(own) < subjects_needed(1, alpha=ALPHA):
        return BreakEven(at, math.nan, math.nan, "cannot decide", math.nan)
    draws = _draws(own, n_boot=n_boot, seed=seed)
    places = np.array([crossing(gap, float(d)) for d in draws])
    within = float((gap + horizon * draws < -_TIE).mean())
    crossed = np.isfinite(places)
    if sure and crossed.mean() >= SURE and math.isfinite(at):
        low, high = np.quantile(places[crossed], (ALPHA / 2, 1 - ALPHA / 2))
        return BreakEven(at, float(low), float(high), "crosses" if gap > 0 else "crosses back", within)
    never = ~crossed
    for verdict, sign in (("first", 1), ("second", -1)):
        ahead = never & (sign * gap >= 0) & (sign * draws >= 0) & ((abs(gap) > _TIE) | (np.abs(draws) > _TIE))
        if sure and ahead.mean() >= SURE:
            return BreakEven(math.nan, math.nan, math.nan, verdict, within)
    return BreakEven(at, math.nan, math.nan, "cannot decide", within)


def crossing(gap: float, difference: float) -> float:
    """Cases after which `gap + n * difference` changes sign, nan if it never does for n > 0."""
    if abs(gap) <= _TIE or abs(difference) <= _TIE or (gap > 0) == (difference > 0):
        return math.nan
    return -gap / difference


def _draws(values: Floats, *, n_boot: int, seed: int) -> Floats:
    """[B] means of subjects drawn with replacement."""
    n = len(values)
    return np.asarray(np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot) @ values / n)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What one assumption does to the comparison of two ways.

    Attributes:
        key: of the assumption; low, high: the values tried.
        saved: what the second way saves over all years at low and at high; usual: at the assumed value.
        a_case: what the second way saves with every case at low and at high; below 0 it is the dearer one.
        at: the break-even at low and at high, nan if the lines do not cross.
    """

    key: str
    low: float
    high: float
    saved: tuple[float, float]
    usual: float
    a_case: tuple[float, float]
    at: tuple[float, float]

    @property
    def swing(self) -> float:
        """How much it matters."""
        return max(*self.saved, self.usual) - min(*self.saved, self.usual)

    @property
    def turns(self) -> bool:
        """Which way is cheaper depends on it; both ends may say the same, and the value between them the opposite."""
        return max(*self.saved, self.usual) > 0 > min(*self.saved, self.usual)


def sensitivity(first: Measured | None, second: Measured, scenario: Scenario) -> list[Moved]:
    """Every assumption moved over its range, one at a time, the weightiest first.

    Args:
        first: None for drawing by hand.
        second: what it is compared with.
        scenario: with the ranges.
    """
    found = []
    usual = _saved(first, second, scenario)
    for key, assumed in scenario.assumptions.items():
        saved, a_case, at = [], [], []
        for value in (assumed.low, assumed.high):
            moved = scenario.with_value(key, value)
            a, b = by_hand(moved) if first is None else cost(first, moved), cost(second, moved)
            saved.append(_saved(first, second, moved))
            a_case.append(float(a.case.mean() - b.case.mean()))
            at.append(crossing(b.fixed - a.fixed, -a_case[-1]))
        ends = {name: (two[0], two[1]) for name, two in (("saved", saved), ("a_case", a_case), ("at", at))}
        found.append(Moved(key=key, low=assumed.low, high=assumed.high, usual=usual, **ends))
    return sorted(found, key=lambda one: (-one.swing, one.key))


def _saved(first: Measured | None, second: Measured, scenario: Scenario) -> float:
    """What the second way saves over all years."""
    one = by_hand(scenario) if first is None else cost(first, scenario)
    return one.total(scenario.horizon) - cost(second, scenario).total(scenario.horizon)
