"""Models asked in words: what other words, spelling mistakes and organs that are not there do to their answers.

A refusal ("no such structure") counts as 0: whoever asked has nothing. It is counted apart from a wrong answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from segwise.records.types import Record, Score
from segwise.report import figures
from segwise.report.conditions import is_absent
from segwise.report.gather import Arm, Gathered, gather
from segwise.report.markup import count, e, figure, number, signed, table
from segwise.report.markup import note as said
from segwise.report.outcome import ArmKey, Item
from segwise.report.specs import gives, parsed
from segwise.report.statistics import (
    ALPHA,
    Floats,
    interval_of_mean,
    minus,
    signed_rank,
    subject_means,
    subjects_needed,
)
from segwise.report.tally import Tally, tally
from segwise.report.turning import broken

PLAIN = "name"  # the prompter that says the common name
MISTAKES = "letters"  # the argument that counts spelling mistakes


@dataclass(frozen=True, eq=False)
class Variant:
    """One way of saying the names, for one model.

    Attributes:
        prompter: its spec.
        answered: share of the asked targets that were answered at all, seeds averaged, mean over persons.
        values: [P] mean of each person, refusals as 0, on the targets that the plain name was asked for.
    """

    prompter: str
    answered: float
    values: Floats


def section(records: Sequence[Record], scores: Sequence[Score]) -> str:
    """HTML of the section; "" if no model was asked with the plain name and in other words."""
    plain = gather([r for r in records if not r.condition], scores)
    by_model = variants(plain)
    if not by_model:
        return ""
    notes = [f"<li>{answer(model, found, plain.primary)}</li>" for model, found in by_model.items()]
    notes += [f"<li>{line}</li>" for line in absent(records, scores)]
    drawn = [s for i, (model, found) in enumerate(by_model.items()) if (s := _series(model, found, i))]
    svg = figures.lines(drawn, measure=plain.primary, along="wrong letters", name="naming", log=False) if drawn else ""
    caption = (
        "Mean over persons, refusals as 0; bands: bootstrap over persons. Beyond chance is said of each way to say a "
        "name by itself, whatever their number."
    )
    return f"<ul>{''.join(notes)}</ul>{figure(svg, caption)}{_table(by_model, plain.primary)}"


def variants(gathered: Gathered) -> dict[str, list[Variant]]:
    """Model -> the plain name first, then the other ways of saying it."""
    arms: dict[str, dict[str, Arm]] = defaultdict(dict)
    for arm in gathered.arms:
        if not arm.doubt and _only_words(arm.key[1]):
            arms[arm.key[0]][arm.key[1]] = arm
    found = {}
    for model, own in arms.items():
        if PLAIN in own and len(own) > 1 and own[PLAIN].values:
            items = sorted(own[PLAIN].values)
            order = [PLAIN, *sorted(name for name in own if name != PLAIN)]
            found[model] = [_variant(own[name], items, gathered.primary) for name in order]
    return found


def _only_words(prompter: str) -> bool:
    return gives(prompter) == {"text"}


def _variant(arm: Arm, items: Sequence[Item], primary: str) -> Variant:
    values: dict[Item, list[float]] = {item: [] for item in items}
    answers: dict[Item, list[bool]] = {item: [] for item in items}
    person = {}
    for outcome in arm.outcomes:
        if outcome.item not in values or (not outcome.last.prompt and outcome.status == "skipped"):
            continue
        person[outcome.item] = outcome.person
        value = outcome.values.get(primary)
        answers[outcome.item].append(outcome.status in ("done", "undefined"))
        values[outcome.item].append(0.0 if value is None else value)
    known = [item for item in items if values[item]]
    columns = np.array([[fmean(values[item]), fmean(answers[item])] for item in known]).reshape(len(known), 2)
    means = subject_means(columns, [person[item] for item in known]) if known else columns
    return Variant(arm.key[1], float(means[:, 1].mean()) if known else 0.0, means[:, 0])


def answer(model: str, found: Sequence[Variant], measure: str) -> str:
    """In words: what each other way of saying the names costs, and how many wrong letters break the model."""
    told = [_compared(found[0], other, measure) for other in found[1:]]
    places, values = _mistakes(found)
    broke = broken(places, values)
    if broke.verdict == "breaks":
        told.append(f"it <b>breaks by {broke.fails:g} wrong letter{'s' * (broke.fails != 1)}</b>")
    elif broke.verdict == "holds":
        told.append(f"it holds to {broke.holds:g} wrong letters, the most that were tried")
    mean = number(float(found[0].values.mean()))
    return f"<b>{e(model)}</b>, {mean} {e(measure)} by plain names: {'; '.join(told)}."


def _compared(plain: Variant, other: Variant, measure: str) -> str:
    name = f"<i>{e(other.prompter)}</i>"
    share = "" if other.answered > 0.999 else f", {1 - other.answered:.0%} refused"
    if len(other.values) != len(plain.values):
        return f"{name} has not been asked of everyone{share}"
    difference = minus(other.values, plain.values)
    mean = signed(float(difference.mean()))
    low, high = interval_of_mean(difference[:, None], [str(i) for i in range(len(difference))])
    if not difference.any():
        return f"{name} changes nothing{share}"
    sure = len(difference) >= subjects_needed(1, alpha=ALPHA) and float(signed_rank(difference[:, None])[0]) < ALPHA
    if sure and (low[0] > 0 or high[0] < 0):
        return f"{name} <b>{mean}</b>, beyond chance{share}"
    return f"{name} {mean}, which {count(len(difference), 'person')} cannot decide{share}"


def _mistakes(found: Sequence[Variant]) -> tuple[list[float], Floats]:
    """Numbers of wrong letters, 0 for the plain name, and [K, P]."""
    places = {0.0: found[0]}
    for other in found[1:]:
        letters = parsed(other.prompter).args.get(MISTAKES)
        if isinstance(letters, int) and len(other.values) == len(found[0].values):
            places[float(letters)] = other
    order = sorted(places)
    return order, np.array([places[at].values for at in order])


def absent(records: Sequence[Record], scores: Sequence[Score]) -> list[str]:
    """In words: on how many targets that are not there each model painted all the same, whatever the condition."""
    painted: dict[ArmKey, list[tuple[str, Item, bool]]] = defaultdict(list)
    for arm in gather(records, scores).arms:
        if _only_words(arm.key[1]) and not arm.doubt:
            for outcome in arm.outcomes:
                if outcome.status in ("done", "undefined") and is_absent(outcome):
                    value = next((v for m, v in outcome.values.items() if m.startswith("DSC")), None)
                    painted[arm.key].append((outcome.person, outcome.item, value is not None))
    return [f"<b>{e(key[0])}</b> · {e(key[1])} {_painted(tally(found))}" for key, found in sorted(painted.items())]


def _painted(found: Tally) -> str:
    often = f", in most of {found.n_answers} answers to each" if found.n_answers > 1 else ""
    return (
        f"paints on {found.n} of {count(found.n_targets, 'target')} of {count(found.n_persons, 'person')} that "
        f"{'is' if found.n_targets == 1 else 'are'} not there{often} ({found.share:.0%} as the mean over persons)"
    )


def _series(model: str, found: Sequence[Variant], index: int) -> figures.Series | None:
    places, values = _mistakes(found)
    if len(places) < 2:
        return None
    low, high = interval_of_mean(values.T, [str(i) for i in range(values.shape[1])])
    bounds = ((), ()) if np.isnan(low).any() else (low.tolist(), high.tolist())
    return figures.Series(model, index, places, values.mean(axis=1).tolist(), *bounds)


def _table(by_model: Mapping[str, Sequence[Variant]], measure: str) -> str:
    rows = [
        [
            e(model),
            f'<td class="w">{e(one.prompter)}</td>',
            f"{one.answered:.0%}",
            number(float(one.values.mean())) if len(one.values) else "–",
        ]
        for model, found in by_model.items()
        for one in found
    ]
    head = ["Model", '<th scope="col" class="w">Asked by</th>', "Answered", f"Mean {e(measure)}, refusals as 0"]
    return said("Other words of the same names, on the targets that the plain name was asked for.") + table(
        head, rows, name="Naming"
    )
