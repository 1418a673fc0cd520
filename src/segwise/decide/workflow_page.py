"""The workflow as HTML: how long a mark waits for its mask, minutes a case, cases an hour, against drawing by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segwise.decide import ownership
from segwise.decide.assumed import assumptions
from segwise.decide.choice import duel, kept, left_out, named
from segwise.decide.effort import effort
from segwise.decide.measured import Measured, by_person, read
from segwise.decide.mending import in_words
from segwise.decide.scenario import KINDS, Scenario
from segwise.decide.shift import DEADLINES_S
from segwise.decide.workflow import LEVELS, REPLICATIONS, Expected, Span, expected
from segwise.report import decision_figures as figures
from segwise.report import shell
from segwise.report.document import Section
from segwise.report.markup import DASH, count, e, figure, interval, note, number, seconds, table
from segwise.report.statistics import compare, subjects_needed

ARMS = 10
_HIDDEN = {"hardware_price", "upkeep_share", "power_w", "energy_price_kwh", "engineer_wage_hour", "setup_hours"}
_HIDDEN |= {"wage_hour", "years", "cases_per_year"}


def page(run_dir: Path | str, scenario: Scenario, *, models: Sequence[str] = ()) -> str:
    """The workflow of a run in a scenario as a page.

    Args:
        run_dir: folder of the run.
        scenario: of the site.
        models: only arms of these models; () is all.

    Raises:
        RunError: not a run, or nothing was measured. SpecError: a model that is not in the run.
    """
    arms, about, late = read(run_dir)
    arms = [arm for model in dict.fromkeys(models) for arm in named(arms, model, "model")] if models else arms
    arms = fastest_first(arms, scenario)
    headline, sentences, decided = verdict(arms, scenario)
    sentences += [late] if late else []
    title = f"Workflow · {(about.get('plan') or {}).get('name', 'run')} · {scenario.title}"
    header = f"<h1>{e(title)}</h1>" + shell.answer(headline, sentences, decided=decided, scope=scope(scenario))
    return shell.whole(title, header, sections(arms, scenario))


def sections(arms: Sequence[Measured], scenario: Scenario) -> list[Section]:
    """The page's sections; arms in the order of minutes."""
    pair = duel(arms)
    shown = kept(arms, {pair.generalist.label, pair.specialist.label} if pair else (), ARMS)
    always = "the best generalist and specialist on the same targets are" if pair else ""
    left = left_out(arms, shown, by="a reader's minutes", always=always)
    arms = shown
    ways = [expected(arm, scenario) for arm in arms] + [expected(None, scenario)]
    keys = [key for key, kind in KINDS.items() if kind.about in ("site", "reader", "queue") and key not in _HIDDEN]
    return [
        ("minutes", "Minutes a case", _minutes(ways, arms, scenario, left)),
        ("latency", "From a click to its mask", _latency(ways)),
        ("shift", "A shift", _shift(ways)),
        ("assumed", "Assumptions", assumptions(scenario, keys)),
        ("how", "How this is computed", _method(scenario)),
    ]


def section(arms: Sequence[Measured], scenario: Scenario) -> Section:
    """The same in one section of the report."""
    arms = fastest_first(arms, scenario)
    headline, sentences, _ = verdict(arms, scenario)
    inner = "".join(f"<h3>{title}</h3>{body}" for anchor, title, body in sections(arms, scenario) if anchor != "how")
    lead = f"<p><b>{headline}.</b> {' '.join(sentences)}</p><p class='small'>{scope(scenario)}</p>"
    return "workflow", "Workflow", lead + inner


def verdict(arms: Sequence[Measured], scenario: Scenario) -> tuple[str, list[str], bool]:
    """(headline, sentences, whether it is decided): which way takes a reader's time least; HTML."""
    enough = [arm for arm in arms if len({play.person for play in arm.plays}) >= subjects_needed(1)]
    means = [(_minutes_of(arm, scenario).mean(), arm) for arm in enough or arms]
    minutes, first = means[0]
    hand = scenario["targets_per_case"] * scenario["hand_minutes"]
    own = _minutes_of(first, scenario)
    values = np.column_stack([-own, np.full(len(own), -hand)])
    against = compare(values, [str(i) for i in range(len(own))])
    sentences = [
        f"<b>{e(first.label)}</b> takes {minutes:.1f} minutes of a reader for a case, drawing by hand {hand:.1f} "
        f"(assumed), until every structure has DSC {scenario['accept_dsc']:g}."
    ]
    if not against.decided.any():
        sentences.append(_undecided(against.n_subjects, against.n_needed))
        headline, decided = "The data cannot decide whether a model saves time", False
    elif against.decided[1, 0]:
        headline, decided = "Drawing by hand is the fastest", True
    else:
        headline, decided = f"{e(first.label)} saves {hand - minutes:.1f} minutes a case", True
    return headline, [*sentences, _others(first, [arm for _, arm in means[1:]], arms, scenario)], decided


def _others(first: Measured, rivals: Sequence[Measured], arms: Sequence[Measured], scenario: Scenario) -> str:
    """The next fastest way, and generalist against specialist, on what both were asked; HTML."""
    if len(arms) == 1:
        return "It is the only way of this run, so nothing is said of another model."
    same = [arm for arm in rivals if arm.items & first.items]
    told = [_two("The next fastest", first, same[0], scenario) if same else "No other way had the same targets."]
    pair = duel(arms)
    if pair is None:
        told.append("Among these ways no specialist and generalist had the same targets, so they are not compared.")
    elif not same or {pair.generalist.label, pair.specialist.label} != {first.label, same[0].label}:
        told.append(_two("Best generalist and specialist by DSC", pair.generalist, pair.specialist, scenario))
    return " ".join(told)


def _two(lead: str, first: Measured, second: Measured, scenario: Scenario) -> str:
    both = first.items & second.items
    one, two = first.on(both), second.on(both)
    spent = np.column_stack([_minutes_of(one, scenario), _minutes_of(two, scenario)])
    found = compare(-spent, [str(i) for i in range(len(spent))])
    few = f" ({count(found.n_subjects, 'subject')}, {found.n_needed} would be the fewest)"
    unsure = "which these data cannot tell apart" + (few if found.n_subjects < found.n_needed else "")
    sure = "beyond chance" if found.decided.any() else unsure
    return (
        f"{lead}: on {count(len(both), 'target')} that both were asked for, {spent[:, 0].mean():.1f} minutes of "
        f"<b>{e(one.label)}</b> against {spent[:, 1].mean():.1f} of <b>{e(two.label)}</b>, {sure}."
    )


def _undecided(n: int, needed: int) -> str:
    few = f"{count(n, 'subject')} cannot decide it, {needed} would be the fewest."
    return f"Not decided is whether that saves time: {few if n < needed else f'among {n} the minutes vary too much.'}"


def scope(scenario: Scenario) -> str:
    """What is assumed, in a line; HTML."""
    return (
        f"Scenario <b>{e(scenario.title)}</b>, {e(scenario.dated)}: {count(int(scenario['readers']), 'reader')}, "
        f"{_plural(scenario['arrivals_per_hour'], 'case')} an hour for {_plural(scenario['shift_hours'], 'hour')}, "
        f"{_plural(scenario['targets_per_case'], 'structure')} a case. Seconds of people are assumed; time your own."
    )


def _plural(value: float, what: str) -> str:
    return f"{value:g} {what}{'' if value == 1 else 's'}"


def _minutes_of(arm: Measured, scenario: Scenario) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[S] a reader's minutes a case, without queues and chance."""
    spent = [effort(play, arm, scenario).person_s for play in arm.plays]
    return np.asarray(by_person(arm.plays, spent)[1] * scenario["targets_per_case"] / 60)


def fastest_first(arms: Sequence[Measured], scenario: Scenario) -> list[Measured]:
    """By a reader's expected minutes a case."""
    return sorted(arms, key=lambda arm: (_minutes_of(arm, scenario).mean(), arm.label))


def _minutes(ways: Sequence[Expected], arms: Sequence[Measured], scenario: Scenario, left: str) -> str:
    accept = scenario["accept_dsc"]
    levels = sorted({accept, *LEVELS})
    head = ["Way", f"Expected minutes<br><small>to DSC {accept:g}, no queue</small>"]
    for level in levels:
        head += [f"Minutes a case<br><small>to DSC {level:g}</small>", "Content without<br>mending"]
    rows, costs = [], [*(ownership.cost(arm, scenario) for arm in arms), ownership.by_hand(scenario)]
    for way, cost in zip(ways, costs, strict=True):
        minutes = {**way.to_level, accept: way.minutes}
        told = [cell for level in levels for cell in (_told(minutes[level]), _told(way.reached[level], 2))]
        rows.append([e(way.label), number(cost.minutes, 1), *told])
    parts = ("prompting", "looking", "waiting", "mending", "drawing")
    wage = scenario["wage_hour"] / 60 or 1.0
    free = scenario["wage_hour"] == 0
    stacks = [figures.Stack(label=c.label, parts=[c.parts.get(part, 0.0) / wage for part in parts]) for c in costs]
    svg = "" if free else figures.stacks(stacks, parts, xlabel="a reader's minutes for a case", name="minutes")
    text = (
        "A reader's minutes from opening a case to the last structure, mending by hand included; in brackets where "
        "95 % of the simulated shifts lie (few subjects and chance together). A reader is content at a DSC that is "
        "judged with an error; a content reader may be wrong. The first column is the mean without queue, "
        "chance and misjudgement, as in the answer above."
    )
    if left:
        text += f" {left} Ask for others with <code>-m MODEL</code>."
    return note(text) + table(head, rows, name="Minutes") + figure(svg, "Expected minutes without queues, by what.")


def _latency(ways: Sequence[Expected]) -> str:
    head = ["Way", "Click to mask<br><small>median</small>", "95th percentile"]
    head += [f"DSC if {d:g} s<br><small>are waited</small>" for d in DEADLINES_S]
    rows = [
        [
            e(way.label),
            _or_dash(way.latency_p50_s),
            _or_dash(way.latency_p95_s),
            *(_told(way.in_time[d], 3) for d in DEADLINES_S),
        ]
        for way in ways[:-1]
    ]
    text = (
        "From a mark to its mask, the queue at the machine included. Under a deadline the reader gives a structure up "
        "at the first answer that comes too late: what counts is the DSC of the last answer in time (0 if none was), "
        "never the best so far. – : nothing is asked of a person, so nobody waits."
    )
    return note(text) + table(head, rows, name="Latency")


def _shift(ways: Sequence[Expected]) -> str:
    head = ["Way", "Cases an hour<br><small>finished</small>", "Cases an hour<br><small>possible</small>"]
    head += ["Arrival to done<br><small>median</small>", "95th percentile", "Readers busy", "Machine busy", "Subjects"]
    rows = [
        [
            e(way.label),
            _told(way.cases_per_hour, 2),
            _told(way.capacity_per_hour, 2),
            _min(way.turnaround_p50_s),
            _min(way.turnaround_p95_s),
            f"{way.reader_busy.mean:.0%}",
            f"{way.machine_busy.mean:.0%}",
            str(way.n_subjects) if way.n_subjects else DASH,
        ]
        for way in ways
    ]
    return table(head, rows, name="Shift")


def _method(scenario: Scenario) -> str:
    parts = [
        f"<b>Simulation</b>: {REPLICATIONS} shifts for every way and every wanted DSC, event by event; every shift "
        "draws its subjects anew from those of the run, cases from these, and structures from each.",
        "<b>The reader</b> takes the case that waits longest; marks, waits, looks, judges the DSC with a normal error, "
        "and is content or makes the next recorded correction; where the recorded rounds end, mends the last answer by "
        f"hand or draws anew: {in_words(scenario)}. Seconds are log-normal around the assumed ones.",
        "<b>The machine</b> serves requests in order, each as long as was measured in the run, divided by the speed "
        "factor. What asks nothing of a person is answered on arrival; of the others "
        f"{scenario['ahead_share']:.0%} of reading and encoding is done then.",
        "<b>Not known</b>: how a person would click after a late answer or an early stop: rounds are replayed as they "
        "were recorded. Pauses, interruptions and urgent cases are left out.",
    ]
    return "<ul>" + "".join(f"<li>{part}</li>" for part in parts) + "</ul>"


def _told(span: Span, digits: int = 1) -> str:
    if math.isnan(span.mean):
        return DASH
    return f"<b>{number(span.mean, digits)}</b><br>{interval(span.low, span.high, digits)}"


def _or_dash(span: Span) -> str:
    return DASH if math.isnan(span.mean) else seconds(span.mean)


def _min(span: Span) -> str:
    return DASH if math.isnan(span.mean) else f"{span.mean / 60:.1f} min"
