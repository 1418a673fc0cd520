"""Where to look: the flagged results case by case, the worst case first, with slice, box, signature and picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from segwise.report.flags import SAID, SIGNATURES, Flagged
from segwise.report.markup import DASH, count, details, e, listing, number, table
from segwise.report.outcome import ArmKey, Item
from segwise.report.overlay import KEY, Crops, pictures

CASES_UP_TO, ENTRIES_UP_TO = 40, 15
OPEN_UP_TO = 2  # cases that stand open
PICTURE_BYTES = 1_200_000  # all pictures together, beside those of the worst results; the page stays under 5 MB
PICTURED = 4  # of one case, so that the first cases do not take all pictures


@dataclass(frozen=True, eq=False)
class _Case:
    """One case, with the gravest draw of every flagged target of every arm.

    Attributes:
        flagged: the gravest first.
        n: targets of all arms, flagged or not.
        mean: of the primary measure over all of those, draws averaged; nan if it is nowhere defined.
    """

    dataset: str
    name: str
    person: str
    flagged: tuple[Flagged, ...]
    n: int
    mean: float


def where(found: Sequence[Flagged], measure: str, crops: Crops) -> str:
    """A block a case.

    Args:
        found: every result with what was stored of its failures.
        measure: the primary one.
        crops: what is stored beside records; pictures of the gravest of each case are taken from there.
    """
    cases = _cases(found, measure)
    if not cases:
        return "<p>No result is flagged.</p>"
    shown, spent = [], 0
    for i, case in enumerate(cases[:CASES_UP_TO]):
        block, size = _block(case, measure, crops, unfolded=i < OPEN_UP_TO, left=PICTURE_BYTES - spent)
        shown.append(block)
        spent += size
    lead = (
        f"<h3>Where to look, case by case</h3><p>Cases with the lowest mean {e(measure)} over all models first, those "
        "of one person together; in each the gravest signature of every flagged target of every model, in its gravest "
        "draw. Slices and boxes are indices of the file's array from 0, boxes half-open.</p>" + (KEY if spent else "")
    )
    names = [e(case.name) for case in cases[CASES_UP_TO:]]
    rest = f"<p>Flagged as well, and in <code>segwise export</code>: {listing(names)}.</p>" if names else ""
    return lead + "".join(shown) + rest


def _cases(found: Sequence[Flagged], measure: str) -> list[_Case]:
    """Cases with a flag, the worst person first and of a person the worst case."""
    groups: dict[tuple[str, str], list[Flagged]] = defaultdict(list)
    for one in found:
        groups[one.outcome.item[:2]].append(one)
    cases = [case for key, own in groups.items() if (case := _case(*key, own, measure)).flagged]
    worst: dict[str, float] = {}
    for case in cases:
        worst[case.person] = min(_low(case), worst.get(case.person, 2.0))
    return sorted(cases, key=lambda case: (worst[case.person], case.person, _low(case), case.dataset, case.name))


def _low(case: _Case) -> float:
    return 2.0 if case.mean != case.mean else case.mean  # of no value: behind all others


def _case(dataset: str, name: str, own: Sequence[Flagged], measure: str) -> _Case:
    draws: dict[tuple[ArmKey, Item], list[Flagged]] = defaultdict(list)
    for one in own:
        draws[one.arm.key, one.outcome.item].append(one)
    values = [[v for one in same if (v := one.outcome.values.get(measure)) is not None] for same in draws.values()]
    means = [fmean(known) for known in values if known]
    gravest = [min(same, key=lambda one: (one.grave, one.outcome.last.seed)) for same in draws.values()]
    flagged = sorted(
        (one for one in gravest if one.flags), key=lambda one: (one.grave, one.outcome.item, one.arm.label)
    )
    person = own[0].outcome.last.subject
    return _Case(dataset, name, person, tuple(flagged), len(draws), fmean(means) if means else float("nan"))


def _block(case: _Case, measure: str, crops: Crops, *, unfolded: bool, left: int) -> tuple[str, int]:
    """(HTML of a case, bytes of its pictures): the gravest as cards with a picture, the others as a table."""
    cards: list[str] = []
    rows: list[list[str]] = []
    spent = 0
    for one in case.flagged[:ENTRIES_UP_TO]:
        picture = _picture(one, crops) if len(cards) < PICTURED and not rows else ""
        if picture and spent + len(picture) <= left:
            spent += len(picture)
            cards.append(_card(measure, one, picture))
        else:
            rows.append(_row(measure, one))
    often: dict[str, int] = defaultdict(int)
    for one in case.flagged:
        for name in {flag.signature for flag in one.seen}:
            often[name] += 1
    told = [f"{e(SIGNATURES.get(name, name))} {n}" for name, n in sorted(often.items(), key=lambda kv: (-kv[1], kv[0]))]
    whose = "" if case.person in ("", case.name) else f", {e(case.person)}"
    summary = (
        f"<b>{e(case.name)}</b>{whose}: mean {e(measure)} {number(case.mean, 2)}; {len(case.flagged)} of "
        f"{count(case.n, 'target')} of all models flagged{f' ({listing(told)})' if told else ''}"
    )
    body = f'<div class="cards">{"".join(cards)}</div>' if cards else ""
    head = ("structure", "model", e(measure), "signature", "what was found", "look at")
    body += table(head, rows, name=f"Flagged in {case.name}", left=6) if rows else ""
    n_more = len(case.flagged) - len(cards) - len(rows)
    body += f"<p>{n_more} more are in <code>segwise export</code>.</p>" if n_more else ""
    return details(summary, body, unfolded=unfolded), spent


def _picture(one: Flagged, crops: Crops) -> str:
    last = one.outcome.last
    crop = crops(last.key)
    return pictures(crop, e(f"{last.target} of {last.case}")) if crop is not None else ""


def _card(measure: str, one: Flagged, picture: str) -> str:
    what, model, value, signature, said, at = _row(measure, one)
    return (
        f'<article class="card"><header><b>{what}</b> <span class="score">{e(measure)} {value}</span></header>'
        f'<p class="where">{model}</p>{picture}<p><b>{signature}</b>: {said}</p><p class="where">{at}</p></article>'
    )


def _row(measure: str, one: Flagged) -> list[str]:
    """Structure, model, value, signature, what was found, and slice and box."""
    last, flag = one.outcome.last, one.flags[0]
    said = SAID.get(flag.component, f"{e(flag.component).replace('{', '').replace('}', '')} {{:.2f}}")
    box = ", ".join(f"{name} {a}–{b}" for name, a, b in zip("dhw", flag.low, flag.high, strict=True))
    at = f"slice {'dhw'[flag.axis]} = {flag.slice}<br><small>{box}</small>" if any(flag.high) else DASH
    return [
        f"{e(last.target)}{f' <small>seed {last.seed}</small>' if last.seed else ''}",
        e(one.arm.label),
        number(one.outcome.values.get(measure), 2),
        f"{e(SIGNATURES.get(flag.signature, flag.signature))} × {flag.severity:.1f}"
        + ("" if one.seen else "<br><small>without the reference only</small>"),
        said.format(flag.value),
        at,
    ]
