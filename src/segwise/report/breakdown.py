"""Where the arms differ: by modality and kind of reference, by effort, by cost, and item by item."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from segwise.records.types import STAGES
from segwise.report import figures, subgroups, words
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import DASH, count, details, e, figure, heat, n_bytes, note, number, seconds, table
from segwise.report.outcome import Item
from segwise.report.ranking import Ranked, arm_name, counts, heading, median_seconds
from segwise.report.statistics import interval_of_mean
from segwise.report.structures import COLUMNS_UP_TO

_FIGURE_UP_TO = 14


def by_subsets(gathered: Gathered, ranked: Sequence[Ranked]) -> str:
    """`by_subset` of every panel, the further ones under their headings."""
    found = [(one, body) for one in ranked if (body := by_subset(gathered, one))]
    return "".join((heading(ranked[0], one) if one is not ranked[0] else "") + body for one, body in found)


def by_subset(gathered: Gathered, one: Ranked) -> str:
    """The panel's mean by modality, reference, data set, size, spacing, scanner and anatomy, if there are several."""
    facts: dict[Item, list[str]] = {}
    for outcome in sorted(gathered.outcomes, key=lambda o: o.union):  # of its own answer more is known
        last = outcome.last
        kind = words.quality_of(outcome)
        facts.setdefault(
            outcome.item,
            [
                last.modality or "modality not known",
                f"{kind} reference",
                f"data set {last.dataset}",
                *subgroups.kinds(outcome),
            ],
        )
    groups: dict[str, list[int]] = {}
    for place in range(len(next(iter(facts.values()), ()))):
        names = sorted({facts[item][place] for item in one.panel.items} - {""})
        if len(names) > 1:
            groups |= {n: [k for k, i in enumerate(one.panel.items) if facts[i][place] == n] for n in names}
    if not groups:
        return ""
    order = one.result.order[:COLUMNS_UP_TO]
    head = ["Subset", "Subjects", "Targets", *(arm_name(one.panel.arms[i], one.place) for i in order)]
    rows = []
    for name, rows_of in groups.items():
        persons = [one.panel.persons[k] for k in rows_of]
        values = one.panel.values[rows_of]
        low, high = interval_of_mean(values, persons)
        means = [_subject_mean(values[:, i], persons) for i in order]
        cells = [
            f"{heat(m)}{number(m)}"
            + ("" if np.isnan(low[i]) else f'<br><span class="ci">[{number(low[i], 2)}, {number(high[i], 2)}]</span>')
            + "</td>"
            for i, m in zip(order, means, strict=True)
        ]
        rows.append([e(name), str(len(set(persons))), str(len(rows_of)), *cells])
    return table(head, rows, name="By subset")


def _subject_mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], persons: Sequence[str]) -> float:
    by_person: dict[str, list[float]] = defaultdict(list)
    for value, person in zip(values.tolist(), persons, strict=True):
        by_person[person].append(value)
    return fmean(map(fmean, by_person.values()))


def effort(gathered: Gathered, one: Ranked) -> str:
    """The primary measure against the number of interactions, and the measures of whole curves."""
    arms = one.arms[:_FIGURE_UP_TO]
    series = [s for arm in arms if (s := _curve(arm, one)) is not None]
    if not series:
        return _curve_table(gathered, one)
    caption = "Mean over subjects against what a person had to do for one target (nothing for a name). "
    if any(len(s.x) > 1 for s in series):
        caption += (
            "Lines: after each round, with the bootstrap interval; the last round counts, never the best so far. "
            "A target whose user was content early keeps its last value. Arms of one round are single points."
        )
    else:
        caption += "Every arm took one round, so there are no curves."
    body = figure(figures.curves(series, measure=gathered.primary), caption)
    return body + _curve_table(gathered, one)


def _curve(arm: Arm, one: Ranked) -> figures.Series | None:
    wanted = set(one.panel.items)
    chosen = [o for o in arm.outcomes if o.item in wanted and o.rounds and o.status == "done"]
    chosen = [o for o in chosen if all(value is not None for _, value in o.rounds)]
    if not chosen:
        return None
    n_rounds = max(len(o.rounds) for o in chosen)
    held = np.array([[v for _, v in (*o.rounds, *[o.rounds[-1]] * (n_rounds - len(o.rounds)))] for o in chosen], float)
    clicks = np.array(
        [[n for n, _ in (*o.rounds, *[o.rounds[-1]] * (n_rounds - len(o.rounds)))] for o in chosen], float
    )
    persons = [o.person for o in chosen]
    low, high = interval_of_mean(held, persons)
    y = [_subject_mean(held[:, k], persons) for k in range(n_rounds)]
    known = () if np.isnan(low).any() else low.tolist()
    return figures.Series(
        arm.label, one.place[arm.label], clicks.mean(axis=0).tolist(), y, known, high.tolist() if known else ()
    )


def _curve_table(gathered: Gathered, one: Ranked) -> str:
    if not gathered.curves:
        return ""
    arms = [arm for arm in one.arms if any(len(o.rounds) > 1 for o in arm.outcomes)]
    means = {m: [arm.mean(m, one.panel.items) for arm in arms] for m in gathered.curves}
    known = {m: values for m, values in means.items() if any(v is not None for v in values)}
    if not known:
        return ""
    rows = [[arm_name(arm, one.place), *(number(v[i], 2) for v in known.values())] for i, arm in enumerate(arms)]
    text = "Measures of the whole curve of rounds, mean over subjects; – where the metric defines none."
    return note(text) + table(["Arm", *map(e, known)], rows, name="Curves")


def cost(gathered: Gathered, one: Ranked) -> str:
    """Accuracy against seconds with the front that no arm beats on both, then seconds by stage and memory."""
    series = []
    for i in one.result.order[:_FIGURE_UP_TO]:
        arm, result = one.panel.arms[i], one.result
        spent = median_seconds(arm, one.panel)
        if spent:
            known = not np.isnan(result.low[i])
            low, high = ((float(result.low[i]),), (float(result.high[i]),)) if known else ((), ())
            series.append(
                figures.Series(arm.label, one.place[arm.label], (spent,), (float(result.mean[i]),), low, high)
            )
    front = [
        k
        for k, s in enumerate(series)
        if not any(o.y[0] >= s.y[0] and o.x[0] <= s.x[0] and (o.y[0], -o.x[0]) != (s.y[0], -s.x[0]) for o in series)
    ]
    svg = figures.costs(series, measure=gathered.primary, front=front) if series else ""
    caption = (
        "The dashed line joins the arms that no other beats in both. Reading, encoding, prompts, decoding and writing."
    )
    return figure(svg, caption) + stages(one.arms, one.place)


def stages(arms: Sequence[Arm], place: dict[str, int]) -> str:
    """Median seconds of a target by stage and the greatest memory of each arm."""
    used = [s for s in STAGES if any(s in o.seconds for arm in arms for o in arm.outcomes)]
    rows = []
    for arm in arms:
        done = [o for o in arm.outcomes if o.status in ("done", "undefined") and o.seconds]
        if done:
            spent = [seconds(median(o.seconds.get(s, 0.0) for o in done)) for s in used]
            total = seconds(median(sum(o.seconds.values()) for o in done))
            peak = max((o.last.peak_bytes for o in done), default=0)
            size = None if arm.doubt else arm.card.get("parameters_m")  # the card's are those of the published weights
            shown = (cell.replace(" ", "&nbsp;") for cell in (*spent, total, n_bytes(peak)))
            rows.append([arm_name(arm, place), *shown, f"{size:g}&nbsp;M" if size else DASH])
    head = ["Arm", *(s.removesuffix("_s") for s in used), "all", "Peak memory", "Parameters"]
    text = (
        "Median seconds for one target after warm-up, all rounds together; peak memory is that of the worker process."
    )
    return note(text) + table(head, rows, name="Seconds by stage") if rows else ""


def distribution(gathered: Gathered, one: Ranked) -> str:
    """Every single result of the first arms."""
    series = [
        figures.Series(one.panel.arms[i].label, one.place[one.panel.arms[i].label], y=one.panel.values[:, i].tolist())
        for i in one.result.order[:_FIGURE_UP_TO]
    ]
    if len(one.panel.items) < 2:
        return ""
    n = count(len(one.panel.items), "target")
    return figure(figures.strips(series, measure=gathered.primary), f"All {n} of each arm; seeds are averaged.")


def by_seed(gathered: Gathered, one: Ranked) -> str:
    """How far a prompter's draw moves the mean, for arms with more than one seed."""
    wanted = set(one.panel.items)
    rows = []
    for arm in one.arms:
        seeds: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for outcome in arm.outcomes:
            value = outcome.values.get(gathered.primary)
            if value is not None and outcome.item in wanted:
                seeds[outcome.last.seed][outcome.person].append(value)
        if len(seeds) > 1:
            means = [fmean(map(fmean, persons.values())) for _, persons in sorted(seeds.items())]
            shown = ", ".join(number(mean) for mean in means[:10]) + (" …" if len(means) > 10 else "")
            rows.append([arm_name(arm, one.place), str(len(means)), shown, number(max(means) - min(means))])
    if not rows:
        return ""
    text = "The same arm with other random prompts: the mean over subjects of each seed, and how far they lie apart."
    return note(text) + table(["Arm", "Seeds", "Mean of each", "Range"], rows, name="By seed")


def unranked(gathered: Gathered, ranked: Sequence[Ranked], place: dict[str, int]) -> str:
    """Arms outside every comparison, with the reason; those that were never asked are only counted."""
    shown = {arm for one in ranked for arm in one.panel.arms}
    left = [arm for arm in gathered.arms if arm not in shown]
    rows, never = [], [arm for arm in left if not arm.asked and not arm.counts["undefined"]]
    for arm in left:
        if arm in never:
            continue
        done = f"{len(arm.values)} of {len(arm.asked)} targets have a value"
        reason = "nothing in common with the arms above" if arm.ranked else f"too few results: {done}"
        if not arm.asked:
            reason = "no score is defined"
        if arm.doubt:
            reason = f'<span class="tag bad">{words.DOUBT[arm.doubt]}</span>'
        mean = arm.mean(gathered.primary, arm.values)
        rows.append([arm_name(arm, place), f'<td class="w">{reason}</td>', number(mean), counts(arm)])
    head = ["Arm", '<th scope="col" class="w">Why not ranked</th>', f"Mean {e(gathered.primary)}", "Targets"]
    kinds = [kind for kind in words.DOUBT if any(arm.doubt == kind for arm in left)]
    means = [f"<b>{words.DOUBT[kind].capitalize()}</b>: {words.DOUBT_MEANS[kind]}; never ranked." for kind in kinds]
    parts = [note(" ".join(means)) if means and rows else "", table(head, rows, name="Not ranked") if rows else ""]
    parts.append(_never(never, place))
    return f"<h3>Not ranked</h3>{''.join(parts)}" if rows or never else ""


def _never(arms: Sequence[Arm], place: dict[str, int]) -> str:
    """Arms that were left out before anything ran, folded away: their reasons stand under "Not counted"."""
    if not arms:
        return ""
    body = table(["Arm", "Targets"], [[arm_name(arm, place), counts(arm)] for arm in arms], name="Never ran")
    return details(f"{count(len(arms), 'arm')} never ran; why stands under Not counted", body)
