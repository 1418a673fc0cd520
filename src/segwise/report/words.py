"""What the numbers say, in sentences. All text returned is HTML, with what came from outside escaped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from segwise.records.types import Record
from segwise.report.gather import Arm, Gathered, Panel
from segwise.report.markup import count, details, e, interval, listing, number
from segwise.report.outcome import Outcome
from segwise.report.statistics import Comparison

DOUBT = {"random": "random weights", "unknown": "unknown weights"}
DOUBT_MEANS = {
    "random": "its scores mean nothing",
    "unknown": "no card names this file, so its scores say nothing of the published model",
}
SYNTH = "Segwise synth (generated)"  # what cards call our own generator among their training sets
GENERATED = "the generator knows what it painted"  # a case's note that tells that it comes from there
_BEST_SHOWN = 4
_LISTED = 300  # letters of specs in a row that can still be read
_FOLDED = 120  # letters of a note that stands in a narrow column


def verdict(panel: Panel, result: Comparison, measure: str) -> tuple[str, str]:
    """(headline, one or two sentences) of who ranks first, by how much, or that the data cannot decide."""
    labels = [f"<b>{e(arm.label)}</b>" for arm in panel.arms]
    first = result.order[0]
    mean = f"mean {e(measure)} <b>{number(result.mean[first])}</b> over {count(result.n_subjects, 'subject')}"
    if len(panel.arms) == 1:
        return "Nothing to compare with", f"Only {labels[first]} could be ranked: {mean}."
    second = result.order[1]
    behind = f"{labels[second]} with {number(result.mean[second])}"
    lead = f"{number(result.difference[first, second])} ahead of {behind}{_spread(result, first, second)}"
    if len(result.top) == 1:
        others = "the other" if len(labels) == 2 else f"each of the other {len(labels) - 1}"
        text = f"{labels[first]} reaches a {mean}, {lead}. It is ahead of {others} beyond what chance explains."
        return f"{e(panel.arms[first].label)} ranks first", text
    if result.difference[first, second] == 0:
        lead = f"just as {behind}"
    text = f"{labels[first]} has the highest {mean}, {lead}. {_why_undecided(result)}"
    return "The data cannot decide", f"{text}{_what_can_be_said(labels, result)}"


def in_short(panel: Panel, result: Comparison) -> str:
    """The same in half a sentence."""
    order = [f"<b>{e(panel.arms[i].label)}</b> {number(result.mean[i])}" for i in result.order[:_BEST_SHOWN]]
    rest = f" and {len(result.order) - _BEST_SHOWN} more" if len(result.order) > _BEST_SHOWN else ""
    sure = "the first beyond chance" if len(result.top) == 1 else "not decided"
    return f"{', then '.join(order)}{rest}; {sure}"


def _what_can_be_said(labels: list[str], result: Comparison) -> str:
    tied = [labels[i] for i in result.top]
    if len(tied) == len(labels):
        return ""
    shown = [*tied[:_BEST_SHOWN], f"{len(tied) - _BEST_SHOWN} more"] if len(tied) > _BEST_SHOWN + 1 else tied
    return f" What can be said: {listing(shown)} cannot be told apart, the others are behind the first."


def _spread(result: Comparison, i: int, j: int) -> str:
    between = interval(result.difference_low[i, j], result.difference_high[i, j])
    return f" (95 % interval of the difference {between})" if between else ""


def _why_undecided(result: Comparison) -> str:
    n_pairs = len(result.mean) * (len(result.mean) - 1) // 2
    if result.n_subjects >= result.n_needed:
        return f"That difference is within what chance explains among {result.n_subjects} subjects."
    order = (
        "This is the order on one person; on another it may be another one"
        if result.n_subjects == 1
        else f"With {result.n_subjects} subjects the order may well be chance"
    )
    return f"{order}: at least {result.n_needed} subjects are needed to decide any of {count(n_pairs, 'pair')}."


def median_interactions(arm: Arm, panel: Panel | None = None) -> float | None:
    """What a person had to do for one target, in the median."""
    wanted = set(panel.items) if panel else None
    found = sorted(
        o.last.n_interactions for o in arm.outcomes if o.status == "done" and (wanted is None or o.item in wanted)
    ) or sorted(o.last.n_interactions for o in arm.outcomes if o.status == "done")
    return None if not found else (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2


def scope(panel: Panel) -> str:
    """On what a panel was compared."""
    n_cases = len({item[:2] for item in panel.items})
    n_names = len({item[2] for item in panel.items})
    n_subjects = len(set(panel.persons))
    every = f"all {len(panel.arms)} arms" if len(panel.arms) > 1 else "it"
    left = f" {count(len(panel.left_out), 'target')} left out, because an arm failed there." if panel.left_out else ""
    n_other = len(panel.not_shared)
    left += f" {count(n_other, 'more target')} could not be asked of every arm." if n_other else ""
    return (
        f"Compared on {count(len(panel.items), 'target')} that {every} answered: {count(n_names, 'structure')} in "
        f"{count(n_cases, 'case')} of {count(n_subjects, 'subject')}.{left}"
    )


def nothing_to_rank(gathered: Gathered) -> tuple[str, str]:
    """(headline, explanation) when no arm can be ranked."""
    counts: Counter[str] = sum((arm.counts for arm in gathered.arms), Counter())
    n = sum(counts.values())
    if counts["done"] + counts["undefined"] and not gathered.primary:
        return "Not scored yet", "The predictions are there, their scores are not. Type <code>segwise score RUN</code>."
    answered = [arm for arm in gathered.arms if arm.values]
    if answered and all(arm.doubt for arm in answered):
        kinds = [kind for kind in DOUBT if any(arm.doubt == kind for arm in answered)]
        means = "; ".join(f"<b>{DOUBT[kind]}</b>: {DOUBT_MEANS[kind]}" for kind in kinds)
        return "Nothing to rank", f"Every model that answered has {' or '.join(DOUBT[k] for k in kinds)} ({means})."
    parts = [f"{counts[s]} {s}" for s in ("failed", "skipped", "undefined", "done") if counts[s]]
    every = next((s for s in ("failed", "skipped", "undefined") if counts[s] == n), "")
    start = {
        "failed": "Every target failed.",
        "skipped": "Every target was skipped.",
        "undefined": "No score is defined for any target.",
        "": "No arm has scores for half of what it was asked.",
    }[every]
    return "Nothing to rank", f"{start} Of {count(n, 'outcome')}: {listing(parts)}. The reasons stand below."


def doubts(arms: Iterable[Arm]) -> list[str]:
    """A sentence for each kind of weights that are never ranked; [] if all are published ones."""
    arms = list(arms)
    found = {kind: _models(arm.key[0] for arm in arms if arm.doubt == kind) for kind in DOUBT}
    after = {
        "random": "Shown to prove that it runs; never ranked.",
        "unknown": (
            "No card names these bytes and nobody vouched for them here: shown, not ranked. If you know where a file "
            "comes from, vouch for it: <code>segwise weights import --trust FILE</code>."
        ),
    }
    return [f"{listing(names)}: <b>{DOUBT[kind]}</b>. {after[kind]}" for kind, names in found.items() if names]


def _models(specs: Iterable[str]) -> list[str]:
    """Models by their specs; by their names alone where their arguments would fill a page."""
    found = sorted(set(specs))
    if sum(map(len, found)) > _LISTED:
        found = sorted({re.split(r"[(+]", spec, maxsplit=1)[0] for spec in found})
    return [e(name) for name in found]


def unfinished(records: Iterable[Record], n_tasks: object) -> str:
    """How much of what was asked is there, "" if all of it (or if the run does not say how much was asked)."""
    n = len({record.task for record in records if record.tried})
    if not isinstance(n_tasks, int) or n >= n_tasks:
        return ""
    return (
        f"<b>The run is not finished: {n:,} of {count(n_tasks, 'task')} done.</b> All numbers below are of these "
        "alone; repeat the command to go on."
    )


def not_scored(gathered: Gathered) -> str:
    """How many answers wait for their score while others have one, "" if none."""
    waiting = [o for o in gathered.outcomes if o.status == "undefined" and gathered.primary not in o.values]
    if not waiting or not gathered.primary:
        return ""
    n = len(waiting)
    return (
        f"<b>{count(n, 'answer')} {'is' if n == 1 else 'are'} not scored yet</b> and left out of all numbers below; "
        "type <code>segwise score RUN</code>."
    )


def reference_note(outcomes: Iterable[Outcome]) -> str:
    """What the references are worth, "" if all are gold."""
    quality: dict[str, set[str]] = {}
    for outcome in outcomes:
        if outcome.status not in ("done", "undefined"):
            continue
        quality.setdefault(quality_of(outcome), set()).add(outcome.last.case)
    parts = []
    if "silver" in quality:
        parts.append(
            f"The reference is <b>silver</b> in {_cases(quality['silver'])}: the output of another program "
            "(TotalSegmentator, FreeSurfer …). There a score is agreement with that program, not accuracy."
        )
    if "template" in quality:
        parts.append(f"The reference is a <b>template</b> in {_cases(quality['template'])}: a group average.")
    if "unknown" in quality:
        parts.append(
            f"How the reference was made is <b>not documented</b> in {_cases(quality['unknown'])}: take scores "
            "there as agreement, not accuracy."
        )
    return " ".join(parts)


def _cases(names: set[str]) -> str:
    shown = [f"<i>{e(name)}</i>" for name in sorted(names)]
    return listing(shown) if len(shown) <= 3 else count(len(shown), "case")


def quality_of(outcome: Outcome) -> str:
    """ "gold", "silver", "template" or "unknown"."""
    return str(outcome.last.provenance.get("quality") or "unknown").lower()


def datasets_of(outcomes: Iterable[Outcome]) -> set[str]:
    """Names of the data sets that were scored on, and that of our generator if some of their cases are its."""
    return {name for o in outcomes for name in (o.last.dataset, *[SYNTH] * is_generated(o))}


def is_generated(outcome: Outcome) -> bool:
    """Its case is of our generator: no person was scanned."""
    notes = outcome.last.provenance.get("notes")
    return isinstance(notes, list | tuple) and any(GENERATED in str(note) for note in notes)


def leakage(card: Mapping[str, Any], datasets: Collection[str], people: Iterable[str] = ()) -> str:
    """Whether a model may have been trained on the data it was scored on: found, not found, or cannot be known.

    Args:
        card: of the model, as recorded.
        datasets: names of the data sets that it was scored on, as `datasets_of` tells them.
        people: subjects that it was scored on: of a model folder it is known whom it was trained on.
    """
    trained = [str(name) for name in card.get("training_sets") or ()]
    learned = card.get("learned") or {}
    own, taught = str(learned.get("data", "")), {str(one) for one in learned.get("people") or ()}
    n_folds = learned.get("folds")
    if own and (taught or n_folds) and any(within(own, name) for name in datasets):
        if both := sorted(taught & set(people)):
            return f"<b>overlap: trained on {count(len(both), 'subject')} of these ({e(listing(both[:8]))})</b>"
        trained = [name for name in trained if name != own]
        elsewhere = leakage({**card, "training_sets": trained, "learned": {}, "training_note": ""}, datasets)
        apart = f"trained on {count(len(taught), 'other subject')} of {e(own)}"
        apart = f"each of {n_folds} folds trained on other subjects of {e(own)}" if n_folds else apart
        return f"{elsewhere}; {apart}" if "<b>overlap" in elsewhere else f"no overlap: {apart}"
    if SYNTH in trained and SYNTH in datasets:
        rest = {**card, "training_sets": [name for name in trained if name != SYNTH]}
        elsewhere = leakage(rest, datasets)
        return elsewhere if "<b>overlap" in elsewhere else f"no overlap: trained on other data of {SYNTH}"
    weights = card.get("licence_weights") or trained or card.get("training_note")
    if not weights and card.get("family") == "floor":
        return "nothing was learned"
    public = [name for name in trained if name != own]  # a folder's own name is no part of another one's
    hits = [name for name in public for data in datasets if _plain(name) and _plain(name) in _plain(data)]
    hits += [name for name in public for data in datasets if len(_plain(data)) > 3 and _plain(data) in _plain(name)]
    if hits:
        return f"<b>overlap: trained on {e(listing(sorted(set(hits))))}</b>"
    said = str(card.get("training_note") or "")
    note = f'<br><span class="small">{e(said)}</span>' if said else ""
    if len(said) > _FOLDED:
        note = details("What is known", f'<span class="small">{e(said)}</span>')
    if trained:
        sure = not note or card.get("training_listed")
        return f"{'no overlap known' if sure else 'unknown'}: trained on {e(listing(trained))}{note}"
    return f"unknown: training data not listed{note}"


def within(own: str, name: str) -> bool:
    """Whether a data set is the one of that name, or was called so before its path told it from another (a/data)."""
    return own == name or own in name.split("/")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def what_happened(outcome: Outcome, measure: str) -> str:
    """How an answer went wrong, read from sensitivity, precision and volume."""
    found, right = pick(outcome, "sensitivity"), pick(outcome, "precision")
    ratio = _volume_ratio(outcome)
    value = outcome.values.get(measure)
    if ratio == 0 or (found == 0 and right is None):
        return "Empty: it predicted nothing."
    if found is None and right is not None:
        return "Painted something although the reference is empty."
    size = f" Its volume is {number(ratio, 2)} × the reference's." if ratio is not None else ""
    if found is None or right is None:
        return f"{e(measure)} {number(value)}.{size}"
    missed, wrong = f"{1 - found:.0%} of the target missed", f"{1 - right:.0%} of what it painted lies outside"
    if max(found, right) < 0.15:
        return f"Wrong place: hardly anything overlaps ({missed}, {wrong}).{size}"
    if right >= 0.6 and found < min(0.8, right - 0.1):
        much = "most" if found < 0.5 else "part"
        return f"Missed {much} of it: {missed}; what it painted is mostly right.{size}"
    if found >= 0.6 and right < min(0.8, found - 0.1):
        return f"Spills over: {wrong}; the target itself is mostly covered.{size}"
    if max(found, right) < 0.6:
        return f"Displaced or mixed up: {missed}, and {wrong}.{size}"
    kind = "Roughly right" if min(found, right) >= 0.8 else "Partly right"
    return f"{kind}: {missed}, {wrong}.{size}"


def pick(outcome: Outcome, measure: str) -> float | None:
    """The value of a measure, None if it is missing or undefined."""
    return outcome.values.get(measure)


def _volume_ratio(outcome: Outcome) -> float | None:
    found, right = pick(outcome, "sensitivity"), pick(outcome, "precision")
    if pick(outcome, "volume_ml") == 0:
        return 0.0
    return found / right if found is not None and right else None


def unions(gathered: Gathered) -> str:
    """Which targets are the union of two sides, "" if none."""
    names = gathered.unions
    if not names:
        return ""
    return (
        f"{listing([f'<i>{e(name)}</i>' for name in names[:6]])}{' …' if len(names) > 6 else ''}: left and right "
        "together. Where a model knows both sides only as one, the union of what the others gave for left and right is "
        "scored too. Where all arms have both sides, the union does not count a second time in their means."
    )
