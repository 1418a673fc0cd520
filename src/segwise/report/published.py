"""Published figures beside the run's own, where data set and structure agree; set side by side, never ranked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from segwise.errors import SpecError
from segwise.evidence.base import Base, open_base
from segwise.evidence.cite import CREDIT
from segwise.evidence.compare import Figure, differences, published
from segwise.evidence.query import known_as
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import count, details, e, listing, note, number, table
from segwise.report.measured import figures
from segwise.report.outcome import Outcome
from segwise.report.ranking import shortened

PREFERRED = ("DSC", "NSD", "HD95")
UNFOLDED_UP_TO = 2  # structures that stand open


def section(gathered: Gathered) -> str:
    """The section's HTML; "" where nothing is published of what was measured."""
    if not gathered.outcomes:
        return ""
    base = open_base()
    names = sorted({outcome.last.dataset for outcome in gathered.outcomes})
    known = {name: id for name in names if (id := known_as(base, name))}
    blocks = [
        block for name, target, part in _parts(gathered, known) for block in _one(base, part, name, known[name], target)
    ]
    if not blocks:
        return ""
    folded = [details(head, body, unfolded=i < UNFOLDED_UP_TO) for i, (head, body) in enumerate(blocks)]
    lead = (
        "What others report of the same structure in the same data set, as they report it. "
        "<b>These rows are not ranked</b>: they were measured on other cases, or nothing says on which."
    )
    return f"<p>{lead}</p>{''.join(folded)}{note(f'Published figures: {e(CREDIT)}.')}"


def _parts(gathered: Gathered, names: Iterable[str]) -> Iterator[tuple[str, str, Gathered]]:
    """(data set, target, what the run has of it) in order; split once, for a run may have a hundred structures."""
    found: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for arm in gathered.arms:
        mine: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        for outcome in arm.outcomes:
            mine[outcome.last.dataset, outcome.last.target].append(outcome)
        for key, outcomes in mine.items():
            found[key].append(replace(arm, outcomes=tuple(outcomes)))
    for name, target in sorted(key for key in found if key[0] in set(names) and key[1]):
        yield name, target, replace(gathered, arms=tuple(found[name, target]))


def _one(base: Base, part: Gathered, name: str, id: str, target: str) -> list[tuple[str, str]]:
    """[(heading, table)] of a structure that is both measured and published, else []."""
    for metric in PREFERRED:
        others = _published(base, id, target, metric)
        own = figures(part, target, metric, reporter="this run") if others else []
        if own:
            head = f"{e(target)} in {e(name)}, {metric}: {count(len(others), 'published figure')}"
            return [(head, _table([*own, *others]) + _why(own[0], others))]
    return []


def _published(base: Base, id: str, target: str, metric: str) -> list[Figure]:
    try:
        return published(base, id, (target,), metric)
    except SpecError:
        return []


def _table(found: Sequence[Figure]) -> str:
    head = ["Model", "Family", "Value", "Prompt", "Split", "Reported by", "Source"]
    rows = []
    for figure in found:
        name = " ".join(filter(None, (shortened(figure.model), figure.variant)))
        setting = f"<br><small>{e(figure.setting)}</small>" if figure.setting else ""
        value = f"<b>{number(figure.value)}</b>" if figure.measured else number(figure.value)
        words = [
            e(figure.prompt or "not stated"),
            e(figure.split or "not stated"),
            e(figure.reported_by),
            e(figure.source),
        ]
        cells = [f'<td class="w">{word}</td>' for word in words]
        rows.append([f"{e(name)}{setting}", f'<td class="w">{e(figure.family)}</td>', value, *cells])
    return table(head, rows, name="Published figures", left=2)


def _why(own: Figure, others: Sequence[Figure]) -> str:
    aspects = dict.fromkeys(aspect for figure in others for aspect in differences(own, figure))
    return f'<p class="small">Not ranked: {listing(list(aspects))} differ or are not stated.</p>' if aspects else ""
