"""Named or boxed: the same targets asked for in words and with marks, with the seconds that a person spends on each.

Seconds of a person are not measured here. A click, a box and a scribble count what the scenario small-hospital of
`segwise cost` assumes (4, 7 and 8 s; a test holds them together): the box is published (Papadopoulos et al., Extreme
clicking, ICCV 2017, abstract, checked 2026-11: four extreme points on a photograph; the usual way takes 35 s), click
and scribble are assumptions. Of a first click on a photograph 2.4 s are quoted (Bearman et al., ECCV 2016; the figure
was not found in what could be read); finding an error in a volume takes longer. A name counts 3 s here, because words
and marks are compared; in cost it is nothing, since the protocol says it once for all cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from segwise.report import figures
from segwise.report.gather import Arm, Gathered, panel_of
from segwise.report.markup import count, e, figure, listing, number, signed, table
from segwise.report.markup import note as said
from segwise.report.specs import gives
from segwise.report.statistics import (
    ALPHA,
    highest,
    interval_of_mean,
    minus,
    signed_rank,
    subject_means,
    subjects_needed,
)

CLICK_S, BOX_S, STROKE_S, NAME_S = 4.0, 7.0, 8.0, 3.0
ENOUGH = 0.02  # of the measure: words that lose no more than this are worth their saving anyhow


@dataclass(frozen=True)
class Trade:
    """One structure named and boxed.

    Attributes:
        target: its name; n_persons: on how many.
        named, boxed: mean of the measure over persons.
        named_s, boxed_s: a person's seconds a target.
        sure: the difference is beyond chance over the persons.
    """

    target: str
    n_persons: int
    named: float
    boxed: float
    named_s: float
    boxed_s: float
    sure: bool

    @property
    def verdict(self) -> str:
        """Whether automation by words is worth its loss, in words."""
        if self.named >= self.boxed - ENOUGH:
            return "words are enough" if self.named_s < self.boxed_s else "words are as good, and no faster"
        if self.named_s >= self.boxed_s:
            return "the box: words lose and save nothing"
        price = (self.boxed - self.named) / (self.boxed_s - self.named_s)
        return f"{price:.4f} lost for each second saved"


def section(gathered: Gathered) -> str:
    """HTML of the section; "" if nothing was both named and boxed."""
    best = _best(gathered)
    if best is None:
        return ""
    named, boxed = best
    found = trades(named, boxed)
    if not found:
        return ""
    drawn = [_series(arm, found, i, words=i == 0) for i, arm in enumerate((named, boxed))]
    ticks = {float(i): one.target for i, one in enumerate(found)}
    svg = figures.lines(drawn, measure=gathered.primary, along="structure", name="text-or-box", log=False, ticks=ticks)
    return (
        said(answer(named, boxed, found, gathered.primary))
        + figure(svg, "Mean over persons of each structure, named and boxed; the lines only guide the eye.")
        + _table(found, gathered.primary)
    )


def _best(gathered: Gathered) -> tuple[Arm, Arm] | None:
    """The best arm asked in words and the best one that was given a box, by mean on the targets of all of them."""
    able = [arm for arm in gathered.arms if arm.ranked and gives(arm.key[1])]
    groups = [[a for a in able if (gives(a.key[1]) == {"text"}) == words] for words in (True, False)]
    groups[1] = [arm for arm in groups[1] if "box" in gives(arm.key[1])]
    if not all(groups):
        return None
    chosen = []
    for arms in groups:
        panel = panel_of(tuple(arms))
        means = panel.values.mean(axis=0) if panel.items else np.array([fmean(arm.values.values()) for arm in arms])
        chosen.append(arms[highest(means)])
    return chosen[0], chosen[1]


def person_seconds(prompter: str, n_interactions: float) -> float:
    """What a person spends on one target: a mixed prompt begins with its box, the rest are clicks or scribbles."""
    kinds = gives(prompter)
    other = STROKE_S if "stroke" in kinds and "points" not in kinds else CLICK_S
    words = NAME_S if "text" in kinds else 0.0
    if "box" in kinds:
        boxes = n_interactions if kinds <= {"box", "text"} else min(1.0, n_interactions)
        return words + BOX_S * boxes + other * (n_interactions - boxes)
    return words + other * n_interactions


def trades(named: Arm, boxed: Arm) -> list[Trade]:
    """Structure by structure, on the targets that both answered."""
    panel = panel_of((named, boxed))
    rows: dict[str, list[int]] = defaultdict(list)
    for k, item in enumerate(panel.items):
        rows[item[2]].append(k)
    found = []
    for target, own in sorted(rows.items()):
        means = subject_means(panel.values[own], [panel.persons[k] for k in own])  # [S, 2]
        difference = minus(means[:, [0]], means[:, [1]])
        enough = len(means) >= subjects_needed(1, alpha=ALPHA)
        sure = enough and float(signed_rank(difference)[0]) < ALPHA
        spent = [_spent(arm, target) for arm in (named, boxed)]
        by_words, by_box = (float(mean) for mean in means.mean(axis=0))
        found.append(Trade(target, len(means), by_words, by_box, spent[0], spent[1], sure))
    return found


def _spent(arm: Arm, target: str) -> float:
    asked = [o.last.n_interactions for o in arm.outcomes if o.last.target == target and o.status == "done"]
    return person_seconds(arm.key[1], median(asked) if asked else 0)


def answer(named: Arm, boxed: Arm, found: Sequence[Trade], measure: str) -> str:
    """In words: where words are worth their loss of precision."""
    enough = [one.target for one in found if one.verdict.startswith("words are enough")]
    saved = fmean(one.boxed_s - one.named_s for one in found)
    lost = fmean(one.boxed - one.named for one in found)
    lead = (
        f"<b>{e(named.label)}</b> against <b>{e(boxed.label)}</b>: words save {saved:.0f} s of a person a target and "
        f"change mean {e(measure)} by {signed(-lost)}. "
    )
    worth = (
        f"Words are worth it for {e(listing(enough))}: they lose no more than {ENOUGH:g}. "
        if enough
        else f"No structure loses less than {ENOUGH:g} by being named. "
    )
    unsure = sum(not one.sure for one in found)
    doubt = (
        f"Cannot decide beyond chance for {count(unsure, 'structure')} of {len(found)} (each by itself, whatever their "
        "number): there it reads means alone. "
    )
    times = (
        f"A click counts {CLICK_S:g} s (assumed), a box {BOX_S:g} s (published), as in the scenario small-hospital of "
        f"<code>segwise cost</code>; a name {NAME_S:g} s (assumed), which is free there: the protocol says it once."
    )
    return lead + worth + (doubt if unsure else "") + times


def _series(arm: Arm, found: Sequence[Trade], index: int, *, words: bool) -> figures.Series:
    y = [one.named if words else one.boxed for one in found]
    by_person: Mapping[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    person = {o.item: o.person for o in arm.outcomes}
    for item, value in arm.values.items():
        by_person[item[2]][person[item]].append(value)
    low, high = [], []
    for one in found:
        own = np.array([[fmean(values)] for values in by_person[one.target].values()])
        bounds = interval_of_mean(own, [str(i) for i in range(len(own))])
        low.append(float(bounds[0][0]))
        high.append(float(bounds[1][0]))
    known = not np.isnan(low).any()
    return figures.Series(arm.label, index, list(range(len(found))), y, low if known else (), high if known else ())


def _table(found: Sequence[Trade], measure: str) -> str:
    rows = [
        [
            e(one.target),
            str(one.n_persons),
            number(one.named),
            number(one.boxed),
            signed(one.named - one.boxed) + ("" if one.sure else " <small>not decided</small>"),
            f"{one.named_s:.0f} s",
            f"{one.boxed_s:.0f} s",
            f'<td class="w">{e(one.verdict)}</td>',
        ]
        for one in found
    ]
    head = ["Structure", "Persons", f"Named, {e(measure)}", "Boxed", "Difference", "A person, named", "A person, boxed"]
    return table([*head, '<th scope="col" class="w">Worth it?</th>'], rows, name="Named or boxed")
