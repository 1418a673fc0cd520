"""The cost of ownership as HTML: who is cheaper from how many cases on, or that it cannot be decided, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segwise.decide import ownership
from segwise.decide.assumed import assumptions
from segwise.decide.choice import Sides, kept, left_out, sides
from segwise.decide.measured import Measured, read
from segwise.decide.mending import in_words
from segwise.decide.ownership import Cost, Moved
from segwise.decide.scenario import KINDS, Scenario
from segwise.decide.verdict import costs, money, verdict, when
from segwise.report import decision_figures as figures
from segwise.report import shell
from segwise.report.document import Section
from segwise.report.figures import Series
from segwise.report.markup import DASH, count, e, figure, note, number, table

SHOWN = 14  # bars of the sensitivity
WAYS = 12  # in a table or figure


def page(run_dir: Path | str, scenario: Scenario, *, generalist: str = "", specialist: str = "") -> str:
    """The cost of a run in a scenario as a page.

    Raises:
        RunError: not a run, or nothing was measured. SpecError: a model that is not in the run.
    """
    arms, about, late = read(run_dir)
    two = sides(arms, generalist=generalist, specialist=specialist)
    headline, sentences, decided = verdict(two, scenario)
    sentences += [late] if late else []
    title = f"Cost · {(about.get('plan') or {}).get('name', 'run')} · {scenario.title}"
    header = f"<h1>{e(title)}</h1>" + shell.answer(headline, sentences, decided=decided, scope=scope(scenario))
    return shell.whole(title, header, sections(arms, two, scenario))


def sections(arms: Sequence[Measured], two: Sides, scenario: Scenario) -> list[Section]:
    """The page's sections."""
    shown = kept(_best_first(arms), two.labels, WAYS)
    left = left_out(arms, shown, by="mean DSC", always="what is compared is")
    ways = [*(ownership.cost(arm, scenario) for arm in shown), ownership.by_hand(scenario)]
    return [
        ("break-even", "From how many cases on", _break_even(two, scenario)),
        ("sensitivity", "What every assumption does", _sensitivity(two, scenario)),
        ("parts", "What is paid for", _table(ways, arms, scenario, left)),
        ("assumed", "Assumptions", assumptions(scenario, [k for k, kind in KINDS.items() if kind.about != "queue"])),
        ("how", "How this is computed", _method(scenario)),
    ]


def section(arms: Sequence[Measured], scenario: Scenario) -> Section:
    """The same in one section of the report."""
    two = sides(arms)
    headline, sentences, _ = verdict(two, scenario)
    inner = "".join(f"<h3>{title}</h3>{body}" for key, title, body in sections(arms, two, scenario) if key != "how")
    lead = f"<p><b>{headline}.</b> {' '.join(sentences)}</p><p class='small'>{scope(scenario)}</p>"
    return "ownership", "Cost of ownership", lead + inner


def scope(scenario: Scenario) -> str:
    """What is assumed, in a line; HTML."""
    return (
        f"Scenario <b>{e(scenario.title)}</b>, {e(scenario.dated)}: {scenario['cases_per_year']:,.0f} cases a year for "
        f"{scenario['years']:g} years, {scenario['targets_per_case']:g} structures a case, all brought to DSC "
        f"{scenario['accept_dsc']:g}. Prices and seconds of people are assumptions; put in your own."
    )


def _break_even(two: Sides, scenario: Scenario) -> str:
    ways = list(costs(two, scenario))
    found = ownership.break_even(ways[0], ways[1], horizon=scenario.horizon)
    if two.first:
        ways.append(ownership.by_hand(scenario))
    most = max(1.3 * scenario.horizon, 1.3 * found.at if found.at < 5 * scenario.horizon else 0.0)
    x = np.linspace(0, most, 40)
    series = [_line(way, i, x) for i, way in enumerate(ways)]
    crossed = 0 < found.at < most
    svg = figures.against_cases(
        series,
        currency=scenario.currency,
        horizon=scenario.horizon,
        marks=[found.at] if crossed else [],
        name="ownership",
    )
    asked = "that both were" if two.first else "that it was"
    cross = "Dashed: where the means cross." if crossed else "The means of the two do not cross here."
    caption = (
        f"All costs so far on the {count(two.n_targets, 'target')} {asked} asked for; bands: bootstrap over "
        f"{count(len(ways[1].persons), 'subject')}. {cross}"
    )
    return figure(svg, caption)


def _line(way: Cost, index: int, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Series:
    y = way.fixed + x * way.case.mean()
    if len(way.persons) < 2:
        return Series(way.label, index, x.tolist(), y.tolist())
    n = len(way.case)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=2000) @ way.case / n
    low, high = (way.fixed + x * edge for edge in np.quantile(draws, (0.025, 0.975)))
    return Series(way.label, index, x.tolist(), y.tolist(), low.tolist(), high.tolist())


def _sensitivity(two: Sides, scenario: Scenario) -> str:
    a, b = costs(two, scenario)
    moved = ownership.sensitivity(two.first, two.second, scenario)
    moving = [one for one in moved if one.swing > 0]
    middle = a.total(scenario.horizon) - b.total(scenario.horizon)
    bars = [
        figures.Bar(label=one.key, low=one.saved[0], high=one.saved[1], left=f"{one.low:g}", right=f"{one.high:g}")
        for one in moving[:SHOWN]
    ]
    name = f"what {b.label} saves against {a.label} over all years, {scenario.currency}"
    svg = figures.tornado(bars, middle=middle, xlabel=name, name="tornado") if bars else ""
    caption = (
        "One assumption at a time at the low and the high end of its range, the others as assumed; below 0 the second "
        f"way is dearer. The {min(SHOWN, len(moving))} that matter most; all of them stand in the table."
    )
    rows = [_moved_row(one, scenario) for one in moved]
    head = ["Assumption", '<th scope="col" class="w">Meaning</th>', "Low", "High", "Saved at low", "Saved at high"]
    head += ["Second is cheaper<br><small>at low, cases</small>", "Second is cheaper<br><small>at high, cases</small>"]
    whole = table(head, rows, name="Sensitivity", left=2).replace('class="scroll"', 'class="scroll tall"', 1)
    return note(_hangs(moved, a, b)) + figure(svg, caption) + whole


def _hangs(moved: Sequence[Moved], first: Cost, second: Cost) -> str:
    """What the order hangs on; HTML."""
    who = f"First: <b>{e(first.label)}</b>, second: <b>{e(second.label)}</b>, by their means."
    turning = [one.key for one in moved if one.turns]
    ends = {when(one, end) for one in moved for end in (0, 1)}
    if turning:
        return f"{who} Which way is cheaper hangs on: <b>{e(', '.join(turning))}</b>. Find these out before you decide."
    text = f"{who} Within its range no single assumption turns the order over the planned cases; several together may."
    if ends <= {"always", "never", "same"}:
        ahead = first if "never" in ends else second
        text += f" None leads to a break-even either: <b>{e(ahead.label)}</b> is cheaper from the first case on."
    return text


def _moved_row(one: Moved, scenario: Scenario) -> list[str]:
    cells = [f"{one.low:g}", f"{one.high:g}", *(money(v, scenario) for v in one.saved), when(one, 0), when(one, 1)]
    key = f"<b>{e(one.key)}</b>" if one.turns else e(one.key)
    return [key, f'<td class="w">{e(KINDS[one.key].meaning)}</td>', *cells]


def _table(ways: Sequence[Cost], arms: Sequence[Measured], scenario: Scenario, left: str) -> str:
    dsc = {arm.label: arm.mean for arm in arms}
    rows = [
        [
            e(way.label),
            number(dsc.get(way.label)),
            number(way.reached, 2),
            number(way.anew, 2),
            number(way.minutes, 1),
            money(way.fixed, scenario),
            money(float(way.case.mean()), scenario, digits=2),
            money(way.total(scenario.horizon), scenario),
            str(len(way.persons)) if way.persons else DASH,
        ]
        for way in ways
    ]
    head = ["Way", "Mean DSC<br><small>failures 0</small>", "Good enough<br><small>without the hand</small>"]
    head += ["Drawn anew<br><small>by hand</small>", "A person's<br>minutes a case", "Once", "A case"]
    head += [f"{scenario.horizon:,.0f} cases", "Subjects"]
    parts = ("prompting", "looking", "waiting", "mending", "energy", "drawing")
    stacks = [figures.Stack(label=way.label, parts=[way.parts.get(part, 0.0) for part in parts]) for way in ways]
    svg = figures.stacks(stacks, parts, xlabel=f"cost of a case, {scenario.currency}", name="parts")
    once = sorted({part for way in ways for part in way.once})
    paid = [[e(w.label), *(money(w.once.get(part, 0.0), scenario) for part in once)] for w in ways if w.once]
    text = (
        "Each way on all targets that it was asked for, which may differ from way to way: read a pair only where both "
        "were asked the same, as in the first figure."
    )
    if left:
        text += f" {left} Name others with <code>--generalist</code> and <code>--specialist</code>."
    return (
        note(text)
        + table(head, rows, name="Ways")
        + figure(svg, "Mean over subjects; what a person does is paid by the hour, waiting included.")
        + table(["Paid once", *map(e, once)], paid, name="Paid once")
        + note(
            "Cases to learn from: of a model folder its own training subjects, else as assumed. Where published "
            "weights already know your structures, put <code>training_cases = 0</code> and "
            "<code>training_hours = 0</code>."
        )
    )


def _method(scenario: Scenario) -> str:
    parts = [
        "<b>Measured</b> in the run: rounds, interactions, DSC after each round, seconds of reading, encoding and "
        "answering; a trained model's own training subjects and hours where its folder tells them. <b>Assumed</b>: "
        "everything in the table of assumptions.",
        "<b>The reader</b> corrects until the answer's DSC reaches the wanted one, at most as often as was recorded; "
        "what stays below is mended by hand, what failed is drawn by hand. So all ways end at the same quality. A real "
        "reader has no reference and stops less exactly. Interactions are seconds by their kind; looking counts after "
        "each answer. What asks nothing of a person runs before the reader comes, so nobody waits for it.",
        f"<b>Mending</b> costs what is wrong: {in_words(scenario)}. So a worse mask is never cheaper, and a model "
        "without a usable mask costs more than the hand alone. Published is that minutes rise as DSC falls, and that "
        "DSC tells them badly (Kiser et al., J Digit Imaging 2021;34:541: rank correlation −0.25, surface DSC −0.48); "
        "the straight line and its three numbers are assumptions.",
        "<b>Break-even</b>: once paid plus cases times cost of a case, equal for both. The interval is over subjects "
        "(cases and targets of one person are averaged first; 4,000 draws of the subjects that both met). "
        "Decided where 97.5 % of the draws and the signed-rank test over subjects agree; fewer than six "
        "subjects decide nothing.",
        "Left out: the price of errors that nobody notices, insurance, approval as a medical device, interest.",
    ]
    return "<ul>" + "".join(f"<li>{part}</li>" for part in parts) + "</ul>"


def _best_first(arms: Sequence[Measured]) -> list[Measured]:
    return sorted(arms, key=lambda arm: (-arm.mean, arm.label))
