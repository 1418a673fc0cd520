"""How each model fails: signatures that flag, with and without the reference, and where to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segwise import catalog
from segwise.card import MetricCard
from segwise.report import figures, quality
from segwise.report.flags import SIGNATURES, Flagged, read
from segwise.report.gather import Gathered, each_once
from segwise.report.markup import count, e, figure, heat, listing, table
from segwise.report.overlay import Crops
from segwise.report.tally import Tally, tally
from segwise.report.where import where
from segwise.spec import Spec


def failures(gathered: Gathered, place: Mapping[str, int], crops: Crops) -> str:
    """The section; "" where no failures were stored.

    Args:
        place: label of an arm -> its place in the ranking.
        crops: what is stored beside records.
    """
    arms = sorted(gathered.arms, key=lambda arm: (place.get(arm.label, len(place)), arm.label))
    found = [case for arm in arms for o in each_once(arm.outcomes) if (case := read(arm, o, crops)) is not None]
    if not found:
        return ""
    by_arm = {arm.label: own for arm in arms if (own := [case for case in found if case.arm is arm])}
    lead = (
        "<p>Five ways to fail, each measured against the reference and, as on a new scan, from the mask, its prompt "
        "and the image. A result is flagged where it goes beyond what good masks reach. These thresholds come from "
        "real masks, spoilt in known ways, not from this run: one good mask in twenty is flagged there. "
        f"{e(_measured())} A target counts once: as flagged if most of its draws are. Shares are means over persons, "
        "draws averaged first.</p>"
    )
    stored = {case.outcome.last.key: case for case in found}
    told = quality.block([case.outcome for case in found], gathered.primary, lambda o: stored[o.last.key].severities)
    drawn = figure(
        _bars(by_arm, place),
        "Share of targets that a signature flags, mean over persons: bar with the reference, line without it.",
    )
    return lead + _words(by_arm) + _table(by_arm) + drawn + where(found, gathered.primary, crops) + told


def _measured() -> str:
    """What the metric's card says of how often it is wrong on good masks."""
    card = catalog.card("metrics", Spec("failures"))
    return card.measured if isinstance(card, MetricCard) else ""


def _counts(cases: Sequence[Flagged], *, blind: bool) -> dict[str, Tally]:
    """Signature -> on how many targets it flags, for every one that flags anywhere."""
    flagged = [(case, {flag.signature for flag in (case.blind if blind else case.seen)}) for case in cases]
    names = {*SIGNATURES, *(name for _, own in flagged for name in own)}
    return {n: tally((c.outcome.person, c.outcome.item, n in own) for c, own in flagged) for n in sorted(names)}


def _words(by_arm: Mapping[str, Sequence[Flagged]]) -> str:
    lines = []
    for label, cases in by_arm.items():
        counts = sorted(_counts(cases, blind=False).items(), key=lambda one: -one[1].share)
        often = [f"{SIGNATURES.get(name, name)} in {n.n} ({n.share:.0%})" for name, n in counts[:3] if n.share]
        clean = tally((case.outcome.person, case.outcome.item, not case.seen) for case in cases)
        said = f"most often {listing([e(text) for text in often])}" if often else "no signature flags"
        lines.append(
            f"<li><b>{e(label)}</b>: {said}; {clean.n} of {count(clean.n_targets, 'target')} of "
            f"{count(clean.n_persons, 'person')} without any flag.</li>"
        )
    return f"<ul>{''.join(lines)}</ul>"


def _table(by_arm: Mapping[str, Sequence[Flagged]]) -> str:
    rows = []
    for label, cases in by_arm.items():
        seen, blind = _counts(cases, blind=False), _counts(cases, blind=True)
        cells = [
            f"{heat(seen[name].share)}{seen[name].n}<br><small>{blind[name].n} without</small></td>"
            for name in SIGNATURES
        ]
        one = seen["leak"]
        rows.append([e(label), f"{one.n_persons}", f"{one.n_targets}", f"{one.n_answers}", *cells])
    head = ("model", "persons", "targets", "draws", *(e(title) for title in SIGNATURES.values()))
    return table(head, rows, name="Flagged targets by signature; small: without the reference")


def _bars(by_arm: Mapping[str, Sequence[Flagged]], place: Mapping[str, int]) -> str:
    """SVG: a row an arm, a column a signature."""
    left, width, height = 290, 120, 26
    parts = [
        f'<text x="{left + i * width}" y="14" font-size="12" fill="currentColor">{e(title)}</text>'
        for i, title in enumerate(SIGNATURES.values())
    ]
    for row, (label, cases) in enumerate(by_arm.items()):
        y = 24 + row * height
        short = label if len(label) <= 42 else f"{label[:41]}…"
        parts.append(f'<text x="0" y="{y + 13}" font-size="12" fill="currentColor">{e(short)}</text>')
        seen, blind = _counts(cases, blind=False), _counts(cases, blind=True)
        for i, name in enumerate(SIGNATURES):
            x, full = left + i * width, width - 46
            share, told = seen[name].share, blind[name].share
            colour = figures.colour(place.get(label, len(place) + row))
            parts.append(
                f'<rect x="{x}" y="{y}" width="{full}" height="17" fill="none" stroke="var(--line)"/>'
                f'<rect x="{x}" y="{y}" width="{share * full:.1f}" height="17" fill="{colour}"/>'
                f'<rect x="{x + told * full - 1.2:.1f}" y="{y - 2}" width="2.4" height="21" fill="currentColor"/>'
                f'<text x="{x + full + 5}" y="{y + 13}" font-size="11" fill="currentColor">{share:.0%}</text>'
            )
    size = f"0 0 {left + len(SIGNATURES) * width} {30 + len(by_arm) * height}"
    return f'<svg viewBox="{size}" role="img" aria-label="Share of flagged targets by model">{"".join(parts)}</svg>'
