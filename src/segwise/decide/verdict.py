"""Who is cheaper from how many cases on, in words: what is decided, and what is not. HTML."""

from __future__ import annotations

import math

from segwise.decide import ownership
from segwise.decide.choice import Sides
from segwise.decide.ownership import BreakEven, Cost, Moved
from segwise.decide.scenario import Scenario
from segwise.report.markup import count, e
from segwise.report.statistics import subjects_needed


def costs(two: Sides, scenario: Scenario) -> tuple[Cost, Cost]:
    """Costs of the first way (by hand where there is no pair) and the second."""
    first = ownership.by_hand(scenario) if two.first is None else ownership.cost(two.first, scenario)
    return first, ownership.cost(two.second, scenario)


def verdict(two: Sides, scenario: Scenario) -> tuple[str, list[str], bool]:
    """(headline, sentences, whether it is decided)."""
    first, second = costs(two, scenario)
    found = ownership.break_even(first, second, horizon=scenario.horizon)
    against = "" if two.first else ", against drawing by hand"
    headline, text = _words(found, first, second, scenario)
    lead = [two.why] if two.why else []
    return headline + against, [*lead, f"{text} {_totals(first, second, scenario)}"], found.verdict != "cannot decide"


def money(value: float, scenario: Scenario, *, digits: int = 0) -> str:
    """With the scenario's currency."""
    return f"{value:,.{digits}f}&nbsp;{e(scenario.currency)}".replace("-", "−")


def when(moved: Moved, end: int) -> str:
    """From how many cases on the second way is the cheaper one at an end of a range; plain text."""
    at, saved = moved.at[end], moved.saved[end]
    if math.isnan(at):
        return "always" if saved > 0 else "never" if saved < 0 else "same"
    if moved.a_case[end] > 0:
        return f"from {at:,.0f} on" if at >= 0.5 else "always"
    return f"up to {at:,.0f}" if at >= 0.5 else "never"


def _words(found: BreakEven, first: Cost, second: Cost, scenario: Scenario) -> tuple[str, str]:
    if found.verdict in ("crosses", "crosses back"):
        cheaper = second if found.verdict == "crosses" else first
        n = max(len(first.persons), len(second.persons))
        where = "within" if found.high <= scenario.horizon else "beyond" if found.low > scenario.horizon else "about"
        text = (
            f"{_bold(cheaper)} is the cheaper one from about <b>{found.at:,.0f} cases</b> on (95 % {found.low:,.0f} to "
            f"{found.high:,.0f}, over {count(n, 'subject')}); that is {where} the {scenario.horizon:,.0f} planned."
        )
        return f"Break-even at about {found.at:,.0f} cases", text
    if found.verdict in ("first", "second"):
        cheaper, other = (first, second) if found.verdict == "first" else (second, first)
        text = (
            f"The curves do not cross, so no number of cases can be named: {_bold(cheaper)} is cheaper than "
            f"{_bold(other)} from the first case on, in 97.5 % of the draws of the subjects or more."
        )
        return "No break-even: the curves do not cross", text
    text = f"Not decided is whether {_bold(first)} or {_bold(second)} is cheaper, and from how many cases on: "
    return "The data cannot decide a break-even", text + _undecided(found, first, second)


def _undecided(found: BreakEven, first: Cost, second: Cost) -> str:
    n = max(len(first.persons), len(second.persons))
    needed = subjects_needed(1)
    if n < needed:
        why = f"{count(n, 'subject')} cannot decide it, {needed} would be the fewest."
    else:
        share = f" The second is cheaper over the planned cases in {found.within:.0%} of the draws."
        why = f"among {n} subjects the cost of a case varies too much, or the curves do not cross for sure.{share}"
    gap, case = second.fixed - first.fixed, float(second.case.mean() - first.case.mean())
    if not math.isnan(found.at):
        ahead = second if case < 0 else first
        guess = f"by the means alone {_bold(ahead)} would be the cheaper one from about {found.at:,.0f} cases on"
    elif gap == case == 0:
        guess = "the means are the same"
    else:
        ahead = first if gap >= 0 and case >= 0 else second
        guess = f"the means do not cross: {_bold(ahead)} would be the cheaper one from the first case on"
    return f"{why} For what it is worth, {guess}."


def _totals(first: Cost, second: Cost, scenario: Scenario) -> str:
    ways = [first, second]
    hand = ownership.by_hand(scenario).total(scenario.horizon)
    told = " and ".join(money(way.total(scenario.horizon), scenario) for way in ways)
    text = f"Over {scenario.horizon:,.0f} cases they cost {told} in the mean"
    if not first.persons:
        return f"{text}."
    dearer = [way for way in ways if way.total(scenario.horizon) > hand]
    worse = {0: "", 1: f", less than {_bold(dearer[0])}" if dearer else "", 2: ", less than either"}[len(dearer)]
    return f"{text}; drawing by hand {money(hand, scenario)}{worse}."


def _bold(way: Cost) -> str:
    return f"<b>{e(way.label if way.persons else 'drawing by hand')}</b>"
