"""How each model fails: signatures that flag, with and without the reference, and where to look."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segwise import catalog
from segwise.card import MetricCard
from segwise.report import figures, quality
from segwise.report.gather import Arm, Gathered, Item, Outcome, each_once
from segwise.report.markup import DASH, count, details, e, figure, heat, listing, number, table
from segwise.report.overlay import Crops
from segwise.report.tally import Tally, tally
from segwise.spec import Spec

SIGNATURES = {  # name -> what it is called
    "leak": "leak",
    "discontinuity": "discontinuity",
    "hallucination": "hallucination",
    "overrun": "over-propagation",
    "decay": "decay",
}
SAID = {  # component -> what was found, with its value
    "outside": "{:.0%} of it beyond the reference's border",
    "beside": "{:.0%} of it outside the reference",
    "excess": "{:.2f} volumes of the reference too much",
    "beyond": "{:.0%} of it beside the box",
    "filled": "fills {:.0%} of the box",
    "over": "sticks out of the box by {:.0%} of its size a side",
    "slice": "{:.0%} beside the box on its own slice",
    "wide": "{:.0%} of it far beside the box",
    "burst": "widens at once by {:.0%} of its mean area",
    "gaps": "{:.0%} of its slices empty in between",
    "holes": "holes of {:.0%} of its area",
    "odd": "{:.0%} of it disagrees with both neighbouring slices",
    "detour": "slices go back and forth ({:.0%} of their area)",
    "jumps": "slices jump by {:.2f} radii",
    "steps": "area jumps (log ratio {:.2f} a slice)",
    "stairs": "{:.0%} of its slices repeat the one before",
    "apart": "{:.0%} of it apart from the reference",
    "astray": "{:.0%} of it in pieces that do not touch the box",
    "aside": "{:.0%} of it in pieces beside the box",
    "crumbs": "{:.0%} of it crumbs",
    "pieces": "many pieces (log of their number {:.1f})",
    "rough": "{:.0%} of it thinner than three voxels",
    "past": "runs past an end by {:.0%} of the target's length",
    "volume": "runs past the ends with {:.0%} of the volume",
    "tail": "hardly changes over the last {:.0%} of its slices",
    "lost": "{:.0%} of the slices never reached",
    "falling": "finds {:.0%} less of the target far from the prompt",
    "short": "leaves {:.0%} of the box's width untouched",
    "fading": "loses {:.0%} of its area away from the prompt",
    "waning": "loses {:.0%} of its area away from the prompt",
    "ragged": "frays away from the prompt (compactness {:.2f} less)",
}
SHOWN, FOLDED, PER_ARM = 12, 60, 4


@dataclass(frozen=True)
class _Flag:
    """A flag as stored by `evaluate.flagged`."""

    signature: str
    component: str
    value: float
    severity: float
    axis: int
    slice: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> _Flag:
        """Raises KeyError, TypeError or ValueError if it is none."""
        low, high = ((int(d), int(h), int(w)) for d, h, w in (item["low"], item["high"]))
        axis = (0, 1, 2).index(int(item["axis"]))
        numbers = float(item["value"]), float(item["severity"]), axis, int(item["slice"])
        return cls(str(item["signature"]), str(item["component"]), *numbers, low, high)


@dataclass(frozen=True, eq=False)
class _Case:
    """One result with its flags, the gravest first, and the gravest severity without the reference."""

    arm: Arm
    outcome: Outcome
    seen: tuple[_Flag, ...]
    blind: tuple[_Flag, ...]
    gravest: float


def failures(gathered: Gathered, place: Mapping[str, int], crops: Crops) -> str:
    """The section; "" where no failures were stored.

    Args:
        place: label of an arm -> its place in the ranking.
        crops: what is stored beside records.
    """
    arms = sorted(gathered.arms, key=lambda arm: (place.get(arm.label, len(place)), arm.label))
    found = [case for arm in arms for o in each_once(arm.outcomes) if (case := _case(arm, o, crops)) is not None]
    if not found:
        return ""
    by_arm = {arm.label: own for arm in arms if (own := [case for case in found if case.arm is arm])}
    lead = (
        "<p>Five ways to fail, each measured against the reference and, as on a new scan, from the mask and its prompt "
        "alone. A result is flagged where it goes beyond what good masks reach. These thresholds come from real masks, "
        f"spoilt in known ways, not from this run: one good mask in twenty is flagged there. {e(_measured())} A target "
        "counts once: as flagged if most of its draws are. Shares are means over persons, draws averaged first.</p>"
    )
    stored = {case.outcome.last.key: case for case in found}
    told = quality.block([case.outcome for case in found], gathered.primary, lambda o: stored[o.last.key].gravest)
    drawn = figure(
        _bars(by_arm, place),
        "Share of targets that a signature flags, mean over persons: bar with the reference, line without it.",
    )
    return lead + _words(by_arm) + _table(by_arm) + drawn + _list(found, gathered.primary) + told


def _measured() -> str:
    """What the metric's card says of how often it is wrong on good masks."""
    card = catalog.card("metrics", Spec("failures"))
    return card.measured if isinstance(card, MetricCard) else ""


def _case(arm: Arm, outcome: Outcome, crops: Crops) -> _Case | None:
    crop = crops(outcome.last.key) if outcome.last.status == "done" else None
    text = None if crop is None else crop.get("failures")
    if text is None:
        return None
    try:
        value = json.loads(str(text))
        seen, blind = (tuple(map(_Flag.of, value[name])) for name in ("flags", "blind_flags"))
        return _Case(arm, outcome, seen, blind, max(float(v) for v in value["blind"].values()))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # of another version, or damaged


def _counts(cases: Sequence[_Case], *, blind: bool) -> dict[str, Tally]:
    """Signature -> on how many targets it flags, for every one that flags anywhere."""
    flagged = [(case, {flag.signature for flag in (case.blind if blind else case.seen)}) for case in cases]
    names = {*SIGNATURES, *(name for _, own in flagged for name in own)}
    return {n: tally((c.outcome.person, c.outcome.item, n in own) for c, own in flagged) for n in sorted(names)}


def _words(by_arm: Mapping[str, Sequence[_Case]]) -> str:
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


def _table(by_arm: Mapping[str, Sequence[_Case]]) -> str:
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


def _bars(by_arm: Mapping[str, Sequence[_Case]], place: Mapping[str, int]) -> str:
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


def _list(found: Sequence[_Case], measure: str) -> str:
    """The gravest flags with the slice and box to look at; a few of each arm first, more folded away."""
    flagged = [(case, case.seen[0], False) for case in found if case.seen]
    flagged += [(case, case.blind[0], True) for case in found if case.blind and not case.seen]
    flagged.sort(key=lambda one: (one[2], -one[1].severity, one[0].outcome.item, one[0].arm.label))
    used: Counter[str] = Counter()
    first: list[tuple[_Case, _Flag, bool]] = []
    rest: list[tuple[_Case, _Flag, bool]] = []
    shown_once: set[tuple[str, Item]] = set()
    for one in flagged:
        key = one[0].arm.label, one[0].outcome.item
        if key in shown_once:  # another draw of the same target
            continue
        shown_once.add(key)
        used[one[0].arm.label] += 1
        (first if used[one[0].arm.label] <= PER_ARM and len(first) < SHOWN else rest).append(one)
    if not first:
        return "<p>No result is flagged.</p>"
    head = ("where", "model", e(measure), "signature", "what was found", "look at")
    shown = table(head, [_row(measure, *one) for one in first], name="Flagged results, the gravest first", left=6)
    more = table(head, [_row(measure, *one) for one in rest[:FOLDED]], name="Further flagged results", left=6)
    n_more = f"{len(rest)} more" + (f", the first {FOLDED}" if len(rest) > FOLDED else "")
    lead = "<h3>Where to look</h3><p>Slices and boxes are indices of the file's array from 0, boxes half-open.</p>"
    return lead + shown + (details(n_more, more) if rest else "")


def _row(measure: str, case: _Case, flag: _Flag, blind: bool) -> list[str]:
    last = case.outcome.last
    said = SAID.get(flag.component, f"{e(flag.component).replace('{', '').replace('}', '')} {{:.2f}}").format(
        flag.value
    )
    box = ", ".join(f"{name} {a}–{b}" for name, a, b in zip("dhw", flag.low, flag.high, strict=True))
    where = f"slice {'dhw'[flag.axis]} = {flag.slice}<br><small>{box}</small>" if any(flag.high) else DASH
    alone = "<br><small>without the reference only</small>" if blind else ""
    seed = f", seed {last.seed}" if last.seed else ""
    return [
        f"{e(last.target)}<br><small>{e(last.case)}{seed}</small>",
        e(case.arm.label),
        number(case.outcome.values.get(measure), 2),
        f"{e(SIGNATURES.get(flag.signature, flag.signature))} × {flag.severity:.1f}{alone}",
        said,
        where,
    ]
