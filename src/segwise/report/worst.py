"""The worst results, with three planes of outlines and what happened there in words."""

from __future__ import annotations

from collections.abc import Sequence

from segwise.report import words
from segwise.report.gather import Gathered, each_once
from segwise.report.markup import count, e, number
from segwise.report.outcome import Outcome
from segwise.report.overlay import KEY, Crops, pictures
from segwise.report.ranking import Ranked, arm_name

SHOWN = 12
PICTURE_BYTES = 3_000_000  # all pictures together; the page stays under 5 MB
_AT_MOST = 2  # of one arm beyond its worst, so that one bad arm does not fill the page
_ALSO = (("NSD", 3, ""), ("HD95", 1, " mm"), ("sensitivity", 2, ""), ("precision", 2, ""))


def worst(gathered: Gathered, ranked: Sequence[Ranked], crops: Crops) -> str:
    """The worst result of each of the first arms, then the lowest of all."""
    arms = list(dict.fromkeys(arm for one in ranked for arm in one.arms)) or [a for a in gathered.arms if a.values]
    place = ranked[0].place if ranked else {}
    names = {arm.key: arm_name(arm, place) for arm in arms}
    chosen = choose([each_once(arm.outcomes) for arm in arms], gathered.primary)
    spent, cards = 0, []
    for outcome in chosen:
        last = outcome.last
        crop = crops(last.key)
        planes = pictures(crop, e(f"{last.target} of {last.case}")) if crop is not None else ""
        if spent + len(planes) > PICTURE_BYTES:
            planes = ""
        spent += len(planes)
        cards.append(_card(outcome, names[last.model, last.prompter], gathered.primary, planes))
    if not cards:
        return ""
    missing = "" if spent else "<p>No pictures were stored with this run.</p>"
    lead = (
        f"<p>The lowest {e(gathered.primary)} of each of the first arms, then the lowest of all "
        f"({count(len(cards), 'result')}); the last round of each.</p>"
    )
    return f'{lead}{KEY if spent else missing}<div class="cards">{"".join(cards)}</div>'


def choose(by_arm: Sequence[Sequence[Outcome]], measure: str) -> list[Outcome]:
    """The worst of each arm in the order given, then the lowest of all; no (case, target) of an arm twice."""
    scored = [
        sorted((o for o in outcomes if o.values.get(measure) is not None), key=lambda o: (_value(o, measure), o.item))
        for outcomes in by_arm
    ]
    chosen = [outcomes[0] for outcomes in scored if outcomes][: SHOWN * 2 // 3]
    rest = sorted((o for outcomes in scored for o in outcomes[1:]), key=lambda o: (_value(o, measure), o.item))
    taken = {(o.last.model, o.last.prompter, o.item) for o in chosen}
    used: dict[tuple[str, str], int] = {}
    for outcome in rest:
        arm = outcome.last.model, outcome.last.prompter
        if len(chosen) < SHOWN and used.get(arm, 0) < _AT_MOST and (*arm, outcome.item) not in taken:
            chosen.append(outcome)
            taken.add((*arm, outcome.item))
            used[arm] = used.get(arm, 0) + 1
    return sorted(chosen, key=lambda o: (_value(o, measure), o.item))


def _value(outcome: Outcome, measure: str) -> float:
    value = outcome.values.get(measure)
    return 0.0 if value is None else value


def _card(outcome: Outcome, arm: str, measure: str, planes: str) -> str:
    last = outcome.last
    also = " · ".join(
        f"{name} {number(value, digits)}{unit}"
        for name, digits, unit in _ALSO
        if name != measure and (value := words.pick(outcome, name)) is not None
    )
    facts = [
        e(last.case),
        e(last.modality),
        f"seed {last.seed}" if last.seed else "",
        f"round {last.round}" if last.round else "",
    ]
    return (
        f'<article class="card"><header><b>{e(last.target)}</b> <span class="score">{e(measure)} '
        f"{number(outcome.values.get(measure))}</span></header>"
        f'<p class="where">{arm}<br>{" · ".join(fact for fact in facts if fact)}</p>{planes}'
        f"<p>{words.what_happened(outcome, measure)}</p><p class='where'>{also}</p></article>"
    )
