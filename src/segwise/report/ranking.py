"""The answer: who ranks first and by how much, as a table, a figure and a matrix of pairs; one block a panel."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from segwise.report import figures, words
from segwise.report.gather import Arm, Gathered, Panel, panels, total_seconds
from segwise.report.markup import (
    DASH,
    count,
    details,
    e,
    figure,
    interval,
    note,
    number,
    p_value,
    seconds,
    signed,
    table,
)
from segwise.report.outcome import Item
from segwise.report.statistics import ALPHA, Comparison, compare, subject_means

MATRIX_UP_TO = 12  # arms in a matrix; of more, the first ones
FIGURE_UP_TO = 20
_PATH = re.compile(r"""(?<=[="])~?\.{0,2}/[^=,()"]*/(?=[^/=,()"]+/[^/=,()"]+[,)"])""")  # all but two parts of a path
_SHAPES = {  # matplotlib's markers as paths in a square of ten
    "o": "M5 .6A4.4 4.4 0 1 1 5 9.4A4.4 4.4 0 1 1 5 .6Z",
    "s": "M1 1H9V9H1Z",
    "D": "M5 0L10 5L5 10L0 5Z",
    "^": "M5 .5L9.8 9.2H.2Z",
    "v": "M5 9.5L.2 .8H9.8Z",
    "P": "M3.3 .4H6.7V3.3H9.6V6.7H6.7V9.6H3.3V6.7H.4V3.3H3.3Z",
    "X": "M2.6 .2L5 2.6L7.4 .2L9.8 2.6L7.4 5L9.8 7.4L7.4 9.8L5 7.4L2.6 9.8L.2 7.4L2.6 5L.2 2.6Z",
    "<": "M.5 5L9.2 .2V9.8Z",
    ">": "M9.5 5L.8 9.8V.2Z",
}
_OPEN_UP_TO = 6  # arms up to which the matrix stands open
_BESIDE = ("NSD", "HD95")  # shown beside the measure that ranks


@dataclass(frozen=True, eq=False)
class Ranked:
    """A panel with its comparison; `place` gives every arm of the report its colour."""

    panel: Panel
    result: Comparison
    place: dict[str, int]

    @property
    def arms(self) -> list[Arm]:
        """From best to worst."""
        return [self.panel.arms[i] for i in self.result.order]


def rank(gathered: Gathered) -> list[Ranked]:
    """Panels of a run compared, the one with the most arms first."""
    found = [(panel, compare(panel.values, panel.persons)) for panel in panels(gathered.arms)]
    place: dict[str, int] = {}
    for panel, result in found:
        for i in result.order:
            place.setdefault(panel.arms[i].label, len(place))
    return [Ranked(panel, result, place) for panel, result in found]


def swatch(index: int) -> str:
    """The marker of an arm as in the figures; a ring for one that is not ranked (index below 0)."""
    shape = '<circle class="ring" cx="5" cy="5" r="3.6"/>'
    if index >= 0:
        outline = _SHAPES[figures.MARKERS[index % len(figures.MARKERS)]]
        shape = f'<path fill="{figures.colour(index)}" d="{outline}"/>'
    return f'<svg class="dot" viewBox="0 0 10 10" aria-hidden="true">{shape}</svg>'


def arm_name(arm: Arm, place: dict[str, int]) -> str:
    """Swatch, model and prompter of an arm."""
    model, prompter = arm.key
    how = "".join(f' <span class="how">{e(part)}</span>' for part in (prompter, arm.remark) if part)
    short = shortened(arm.name)
    breakable = e(short).replace("(", "<wbr>(").replace(",", ",<wbr>").replace("+", "<wbr>+")
    whole = f' title="{e(model)}"' if short != model else ""
    return f"{swatch(place.get(arm.label, -1))}<span class='arm'{whole}>{breakable}</span>{how}"


def shortened(model: str) -> str:
    """A spec whose paths keep their last two parts: a table is read for what differs, not for where files lie."""
    return _PATH.sub("…/", model)


def heading(first: Ranked, other: Ranked) -> str:
    """What sets a further panel apart from the first one."""
    gone = [arm.label for arm in first.panel.arms if arm not in other.panel.arms]
    return f"<h3>Without {e(', '.join(gone))}: more targets in common</h3>" if gone else "<h3>Others</h3>"


def blocks(gathered: Gathered, ranked: Sequence[Ranked]) -> str:
    """All panels, the first one open and the others under their own headings."""
    parts = []
    for i, one in enumerate(ranked):
        if i:
            parts.append(heading(ranked[0], one))
            head, text = words.verdict(one.panel, one.result, gathered.primary)
            parts.append(f"<p><b>{head}.</b> {text} {words.scope(one.panel)}</p>")
        parts += [_table(gathered, one), _forest(gathered, one, name=f"forest{i}"), _pairs(one)]
    return "".join(parts)


def counts(arm: Arm) -> str:
    """Targets that gave no value, by status, as they stand beside every mean; the draws of a target are one."""
    marks = {"failed": "bad", "skipped": "mild", "undefined": "mild"}
    parts = []
    for status in [s for s in marks if arm.counts[s]]:
        n = arm.n_targets(status)
        draws = f' title="{count(arm.counts[status], "result")} over all draws"' if n != arm.counts[status] else ""
        parts.append(f'<span class="tag {marks[status]}"{draws}>{n} {status}</span>')
    return " ".join(parts) or '<span class="none">none</span>'


def _table(gathered: Gathered, one: Ranked) -> str:
    panel, result = one.panel, one.result
    beside = [m for m in _BESIDE if m in gathered.measures and m != gathered.primary]
    any_failed = any(arm.counts["failed"] for arm in panel.arms)
    head = ["Arm", "Rank", f"{e(gathered.primary)}<br><small>mean over subjects, 95 % interval</small>"]
    head += ["<small>mean over<br>targets</small>", *(f"{e(m)}{' mm' if m == 'HD95' else ''}" for m in beside)]
    head += [f"<small>{e(gathered.primary)} if a<br>failure is 0</small>"] if any_failed else []
    head += ["Interactions<br><small>a target</small>", "Seconds<br><small>a target, median</small>"]
    head += ["Subjects, cases,<br>targets", "Targets not<br>in the mean"]
    rows = []
    for i in result.order:
        arm = panel.arms[i]
        row = [arm_name(arm, one.place), _rank_cell(result, i)]
        row.append(f"<b>{number(result.mean[i])}</b><br>{interval(result.low[i], result.high[i])}")
        row.append(number(float(panel.values[:, i].mean())))
        row += [number(arm.mean(m, panel.items), 2 if m == "HD95" else 3) for m in beside]
        row += [number(_with_failures(arm, panel))] if any_failed else []
        row += [_plain(words.median_interactions(arm, panel)), seconds(median_seconds(arm, panel))]
        row += [_sizes(panel), counts(arm)]
        rows.append(row)
    return table(head, rows, name="Ranking")


def _rank_cell(result: Comparison, i: int) -> str:
    low, high, first = int(result.rank_low[i]), int(result.rank_high[i]), float(result.first[i])
    if np.isnan(first):
        return f"<b>{result.rank[i]}</b>"
    span = f"{low}" if low == high else f"{low}–{high}"
    over_draws = f'<span class="ci" title="rank over the bootstrap">{span}; first in {first:.0%}</span>'
    return f"<b>{result.rank[i]}</b><br>{over_draws}"


def _plain(value: float | None) -> str:
    return DASH if value is None else f"{value:g}"


def _sizes(panel: Panel) -> str:
    n_cases, n_targets = len({i[:2] for i in panel.items}), len(panel.items)
    return f"{len(set(panel.persons))}, {n_cases}, {n_targets}"


def median_seconds(arm: Arm, panel: Panel) -> float | None:
    """Of all stages for one target, over the items of a panel."""
    wanted = set(panel.items)
    outcomes = [o for o in arm.outcomes if o.status == "done"]
    found = [s for o in outcomes if o.item in wanted and (s := total_seconds(o)) is not None]
    found = found or [s for o in outcomes if (s := total_seconds(o)) is not None]
    return median(found) if found else None


def _with_failures(arm: Arm, panel: Panel) -> float | None:
    """Mean over subjects of a panel's items and of those left out for a failure, each failure counted as 0."""
    wanted = {*panel.items, *panel.left_out}
    failed = {o.item for o in arm.outcomes if o.status == "failed"}
    by_item: dict[tuple[str, Item], list[float]] = defaultdict(list)
    for outcome in arm.outcomes:
        item = outcome.item
        if item in wanted and (item in failed or item in arm.values):
            value = 0.0 if outcome.status == "failed" else arm.values.get(item, 0.0)
            by_item[outcome.person, item].append(value)
    by_person: dict[str, list[float]] = defaultdict(list)
    for (person, _), values in by_item.items():
        by_person[person].append(fmean(values))
    return fmean(fmean(values) for values in by_person.values()) if by_person else None


def _forest(gathered: Gathered, one: Ranked, *, name: str) -> str:
    means, result = subject_means(one.panel.values, one.panel.persons), one.result
    series = [
        figures.Series(
            label=one.panel.arms[i].label,
            index=one.place[one.panel.arms[i].label],
            x=(float(result.mean[i]),),
            y=means[:, i].tolist(),
            low=() if np.isnan(result.low[i]) else (float(result.low[i]),),
            high=() if np.isnan(result.high[i]) else (float(result.high[i]),),
        )
        for i in result.order[:FIGURE_UP_TO]
    ]
    rough = " With so few subjects the interval is rough and rather too narrow." if 1 < result.n_subjects < 6 else ""
    alone = " One subject has no interval." if result.n_subjects == 1 else ""
    more = f" The first {FIGURE_UP_TO} of {len(result.order)} arms." if len(result.order) > FIGURE_UP_TO else ""
    svg = figures.forest(series, measure=gathered.primary, name=name)
    return figure(svg, f"Mean over subjects with the bootstrap interval over subjects.{rough}{alone}{more}")


def _pairs(one: Ranked) -> str:
    if len(one.panel.arms) < 2:
        return ""
    result, order = one.result, one.result.order[:MATRIX_UP_TO]
    n_pairs = len(one.panel.arms) * (len(one.panel.arms) - 1) // 2
    head = ["Row minus column", *(arm_name(one.panel.arms[j], one.place) for j in order)]
    rows = [[arm_name(one.panel.arms[i], one.place), *(_pair(result, i, j) for j in order)] for i in order]
    more = (
        f" The first {MATRIX_UP_TO} of {len(one.panel.arms)} arms are shown." if len(order) < len(result.order) else ""
    )
    text = (
        "Difference of the means over subjects, its 95 % interval, and p of the Wilcoxon signed-rank test corrected "
        f"by Holm for all {count(n_pairs, 'pair')}. Better or worse only where p &lt; {ALPHA} and the interval "
        f"excludes 0.{more}"
    )
    if result.n_subjects < result.n_needed:
        subjects = count(result.n_subjects, "subject")
        text += f" With {subjects} no pair can be decided; {result.n_needed} would be the fewest."
    body = note(text) + table(head, rows, name="Pairs").replace("<table", '<table class="matrix"', 1)
    title = f"Who is better than whom: all pairs ({int(result.decided.sum())} of {n_pairs} decided)"
    return details(title, body, unfolded=len(order) <= _OPEN_UP_TO)


def _pair(result: Comparison, i: int, j: int) -> str:
    if i == j:
        return '<td class="self"></td>'
    kind, word = ("even", "undecided")
    if result.decided[i, j]:
        kind, word = "better", "▲ better"
    if result.decided[j, i]:
        kind, word = "worse", "▼ worse"
    between = interval(result.difference_low[i, j], result.difference_high[i, j]) if result.n_subjects > 1 else ""
    shown = f"{signed(result.difference[i, j])}<br>{between}<small>p {p_value(result.p[i, j])}<br>{word}</small>"
    return f'<td class="{kind}">{shown}</td>'
