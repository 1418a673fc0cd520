"""Many simulated shifts of every arm: what is expected of one, with an interval over subjects and over chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from segwise.decide.measured import Measured
from segwise.decide.scenario import Scenario
from segwise.decide.shift import DEADLINES_S, Shift, simulate

REPLICATIONS = 40
LEVELS = (0.85, 0.9)  # DSC that minutes are told for


@dataclass(frozen=True)
class Span:
    """A mean over shifts and where 95 % of the shifts lie; nan if it is nowhere defined."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is expected of a way of working.

    Attributes:
        label: of the arm, or "by hand".
        n_subjects: drawn from, 0 by hand.
        latency_p50_s, latency_p95_s: click to mask; nan where nobody waits for an answer.
        in_time: by deadline in seconds: DSC of the last answer that came in time.
        minutes: a reader's minutes a case at the scenario's DSC.
        to_level: by DSC: a reader's minutes a case until every target has it, mending included.
        reached: by DSC: share of targets with which the reader was content without mending.
        cases_per_hour: finished.
        capacity_per_hour: what the readers could finish if there were always a case.
        turnaround_p50_s, turnaround_p95_s: from arrival to done.
        reader_busy, machine_busy: utilisation.
    """

    label: str
    n_subjects: int
    latency_p50_s: Span
    latency_p95_s: Span
    in_time: dict[float, Span]
    minutes: Span
    to_level: dict[float, Span]
    reached: dict[float, Span]
    cases_per_hour: Span
    capacity_per_hour: Span
    turnaround_p50_s: Span
    turnaround_p95_s: Span
    reader_busy: Span
    machine_busy: Span


def expected(arm: Measured | None, scenario: Scenario, *, n: int = REPLICATIONS, seed: int = 0) -> Expected:
    """Simulates shifts.

    Every shift draws its subjects anew from those of the run, so that the spread of shifts holds both chance and how
    few subjects there are.

    Args:
        arm: None for drawing by hand.
        scenario: of the site.
        n: shifts for each DSC that is wanted.
        seed: of the first shift.
    """
    own = scenario["accept_dsc"]
    found = {level: _shifts(arm, scenario, level, n, seed) for level in (*LEVELS, own)}
    main = found[own]
    readers, machines = scenario["readers"], scenario["machines"]

    def busy(seconds: Callable[[Shift], float], capacity: float) -> Span:
        return _span([min(1.0, seconds(s) / (capacity * 3600 * s.hours)) for s in main])

    return Expected(
        label=arm.label if arm else "by hand",
        n_subjects=len({play.person for play in arm.plays}) if arm else 0,
        latency_p50_s=_span([_quantile(s.latencies_s, 0.5) for s in main]),
        latency_p95_s=_span([_quantile(s.latencies_s, 0.95) for s in main]),
        in_time={d: _span([_mean(s.in_time[d]) for s in main]) for d in DEADLINES_S},
        minutes=_span([_mean(s.minutes) for s in main]),
        to_level={level: _span([_mean(s.minutes) for s in found[level]]) for level in LEVELS},
        reached={level: _span([_mean(s.reached) for s in shifts]) for level, shifts in found.items()},
        cases_per_hour=_span([s.n_in_time / s.hours for s in main]),
        capacity_per_hour=_span([readers * 60 / m if (m := _mean(s.minutes)) > 0 else math.nan for s in main]),
        turnaround_p50_s=_span([_quantile(s.turnaround_s, 0.5) for s in main]),
        turnaround_p95_s=_span([_quantile(s.turnaround_s, 0.95) for s in main]),
        reader_busy=busy(lambda s: s.reader_s, readers),
        machine_busy=busy(lambda s: s.machine_s, machines),
    )


def _shifts(arm: Measured | None, scenario: Scenario, wanted: float, n: int, seed: int) -> list[Shift]:
    persons = sorted({play.person for play in arm.plays}) if arm else []
    found = []
    for i in range(n):
        drawn = np.random.default_rng([seed, i]).integers(max(len(persons), 1), size=len(persons))
        chosen = [persons[int(k)] for k in drawn]
        found.append(simulate(arm, scenario, wanted=wanted, seed=seed + i, persons=chosen))
    return found


def _span(values: Sequence[float]) -> Span:
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return Span(math.nan, math.nan, math.nan)
    low, high = np.quantile(known, (0.025, 0.975))
    return Span(fmean(known), float(low), float(high))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else math.nan
