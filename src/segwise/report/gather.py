"""Records and scores put in order: arms, what became of each target, and sets of items that arms can be compared on."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from segwise import spec
from segwise.errors import SpecError
from segwise.records.types import DOUBTS, STAGES, Record, Score
from segwise.report import folds
from segwise.report.outcome import ArmKey, Item, Outcome
from segwise.report.specs import parsed
from segwise.report.statistics import Floats
from segwise.spec import Spec

PREFERRED = ("DSC", "NSD", "IoU")  # what arms are ranked by: the first one that was measured
ENOUGH = 0.5  # an arm is ranked if it has a value for at least this share of what it was asked


@dataclass(frozen=True, eq=False)
class Arm:
    """A model with a prompter and all that became of it.

    Attributes:
        name: of its model for people: its spec, or of a trained one what was trained and on how many subjects.
        label: how sentences and figures name it: name, prompter and remark.
        outcomes: one a target, case and seed.
        values: item -> primary value, mean over seeds.
        asked: items it was run on, whether it answered or failed.
        counts: outcomes by status.
        doubt: "random" or "unknown" if its weights are: shown, never ranked; "" otherwise.
        remark: what its model's card says of such a spec wherever it is shown, "" if nothing; the label has it too.
        provenance: of one of its records, the fullest.
    """

    key: ArmKey
    name: str
    label: str
    outcomes: tuple[Outcome, ...]
    values: Mapping[Item, float]
    asked: frozenset[Item]
    counts: Counter[str]
    doubt: str
    remark: str
    provenance: Mapping[str, Any]

    @property
    def ranked(self) -> bool:
        """It can take part in a comparison."""
        return not self.doubt and bool(self.values) and len(self.values) >= ENOUGH * len(self.asked)

    @property
    def card(self) -> Mapping[str, Any]:
        """What the model declares of itself, as recorded."""
        card = self.provenance.get("card")
        return card if isinstance(card, Mapping) else {}

    @property
    def people(self) -> frozenset[str]:
        """Subjects that it was scored on."""
        return frozenset(o.last.subject for o in self.outcomes)

    def n_targets(self, status: str) -> int:
        """Targets with an outcome of this status; the draws of one are one."""
        return len({o.item for o in self.outcomes if o.status == status})

    def mean(self, measure: str, items: Iterable[Item]) -> float | None:
        """Mean of a measure over the subjects of these items, None if it is nowhere defined."""
        wanted = set(items)
        by_person: dict[str, list[float]] = defaultdict(list)
        for (person, item), found in self._by_item(measure).items():
            if item in wanted:
                by_person[person].append(fmean(found))
        return fmean(map(fmean, by_person.values())) if by_person else None

    def each(self, measure: str) -> dict[Item, float]:
        """Mean of a measure over the draws of each item that it is defined for."""
        return {item: fmean(found) for (_, item), found in self._by_item(measure).items()}

    def _by_item(self, measure: str) -> dict[tuple[str, Item], list[float]]:
        found: dict[tuple[str, Item], list[float]] = defaultdict(list)
        for outcome in self.outcomes:
            value = outcome.values.get(measure, outcome.curve.get(measure))
            if value is not None:
                found[outcome.person, outcome.item].append(value)
        return found


@dataclass(frozen=True, eq=False)
class Gathered:
    """A run as the report sees it.

    Attributes:
        primary: the measure that ranks, "" if nothing was scored.
        measures: all of the last round; curves: all of whole curves.
        arms: in order of name.
        metrics: measure -> specs of the metrics that computed it.
    """

    primary: str
    measures: tuple[str, ...]
    curves: tuple[str, ...]
    arms: tuple[Arm, ...]
    metrics: Mapping[str, tuple[str, ...]]

    @property
    def outcomes(self) -> list[Outcome]:
        """Of all arms."""
        return [outcome for arm in self.arms for outcome in arm.outcomes]

    @property
    def unions(self) -> list[str]:
        """Names of targets that are left and right together."""
        names = {outcome.last.target for outcome in self.outcomes}
        made = {outcome.last.target for outcome in self.outcomes if outcome.union}
        return sorted(made | {name for name in names if {f"left {name}", f"right {name}"} <= names})


@dataclass(frozen=True, eq=False)
class Panel:
    """Arms that answered the same items, with their values.

    Attributes:
        arms: compared.
        items: [N] that every one of them has a value for.
        left_out: items that all were asked but some arm has no value for.
        not_shared: items that only some arms could be asked (or have finished).
        persons: [N] whose item it is.
        values: [N, A].
    """

    arms: tuple[Arm, ...]
    items: tuple[Item, ...]
    left_out: tuple[Item, ...]
    not_shared: tuple[Item, ...]
    persons: tuple[str, ...]
    values: Floats = field(repr=False)


def gather(records: Sequence[Record], scores: Sequence[Score]) -> Gathered:
    """Puts a run in order."""
    named, metrics = _name_measures(scores)
    by_target: dict[tuple[str, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        by_target[record.task, record.target][record.round] = record
    scores_of: dict[tuple[str, str], list[tuple[str, Score]]] = defaultdict(list)
    for name, score in named:
        scores_of[score.task, score.target].append((name, score))
    measures = sorted({name for name, score in named if score.round >= 0})
    primary = next((m for p in PREFERRED for m in measures if m == p or m.startswith(f"{p} ")), (measures or [""])[0])
    by_arm: dict[ArmKey, list[Outcome]] = defaultdict(list)
    for key, rounds in by_target.items():
        outcome = _outcome(rounds, scores_of.get(key, []), primary=primary)
        by_arm[outcome.last.model, outcome.last.prompter].append(outcome)
    return Gathered(
        primary=primary,
        measures=tuple(measures),
        curves=tuple(sorted({name for name, score in named if score.round < 0})),
        arms=_named(tuple(_arm(k, outcomes, primary) for k, outcomes in sorted(folds.together(by_arm).items()))),
        metrics=metrics,
    )


def panels(arms: Sequence[Arm], *, at_most: int = 3) -> list[Panel]:
    """Sets of arms on the items they share: first the widest set of arms, then smaller sets that share more.

    A model that knows six structures would shrink a comparison over forty to those six for everyone; so the others
    are compared again without it. Where no item is shared by all, the first is the set with the most arms.
    """
    able = [arm for arm in arms if arm.ranked]
    groups = {tuple(able)} | {tuple(b for b in able if b.asked >= arm.asked) for arm in able}
    found = [panel for group in groups if group for panel in [panel_of(group)] if panel.items]
    found.sort(key=lambda p: (-len(p.arms), -len(p.items), [arm.label for arm in p.arms]))
    kept: list[Panel] = []
    for panel in found:
        rival = any(set(panel.arms) <= set(k.arms) and len(panel.items) <= len(k.items) * 1.1 for k in kept)
        if not kept or (len(panel.arms) > 1 and not rival):
            kept.append(panel)
    return kept[:at_most]


def each_once(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes without unions of two sides that are there themselves, or that were put together from those there."""
    there = {outcome.item for outcome in outcomes if outcome.status in ("done", "undefined")}
    return [o for o in outcomes if not _doubled(o, there)]


def _doubled(outcome: Outcome, there: Collection[Item]) -> bool:
    sides = [(*outcome.item[:2], f"{side} {outcome.item[2]}") in there for side in ("left", "right")]
    return any(sides) if outcome.union else all(sides)


def without_doubles(arm: Arm) -> Arm:
    """An arm without unions of two sides that it answered themselves, so that nothing is counted twice."""
    outcomes = tuple(each_once(arm.outcomes))
    items = frozenset(o.item for o in outcomes)
    return dataclasses.replace(
        arm,
        outcomes=outcomes,
        values={item: value for item, value in arm.values.items() if item in items},
        asked=arm.asked & items,
        counts=Counter(o.status for o in outcomes),
    )


def total_seconds(outcome: Outcome) -> float | None:
    """Seconds of all stages over all rounds, None if none were recorded."""
    return sum(outcome.seconds.values()) if outcome.seconds else None


def _name_measures(scores: Sequence[Score]) -> tuple[list[tuple[str, Score]], dict[str, tuple[str, ...]]]:
    """Scores under the name of their measure; the metric's spec joins it where several metrics measure the same."""
    specs: dict[str, set[str]] = defaultdict(set)
    for score in scores:
        specs[score.measure].add(score.metric)
    named = [(s.measure if len(specs[s.measure]) == 1 else f"{s.measure} {s.metric}", s) for s in scores]
    return named, {measure: tuple(sorted(found)) for measure, found in sorted(specs.items())}


def _outcome(rounds: Mapping[int, Record], scores: Sequence[tuple[str, Score]], *, primary: str) -> Outcome:
    in_order = [rounds[i] for i in sorted(rounds)]
    last = in_order[-1]
    fresh = [(name, s) for name, s in scores if _fits(s, rounds.get(s.round, last))]  # others are of an earlier mask
    final = {name: score for name, score in fresh if score.round == last.round}
    trace = {score.round: score.value for name, score in fresh if name == primary}
    done = last.status == "done"
    seconds = {s: sum(r.seconds.get(s, 0.0) for r in in_order) for s in STAGES if any(s in r.seconds for r in in_order)}
    return Outcome(
        last=last,
        union="union" in last.provenance,
        values={name: score.value for name, score in final.items()} if done else {},
        reasons={name: score.reason for name, score in final.items() if score.reason},
        rounds=tuple((r.n_interactions, trace.get(r.round)) for r in in_order if r.status == "done"),
        curve={name: score.value for name, score in fresh if score.round < 0},
        seconds=seconds,
        undefined=done and (primary not in final or final[primary].value is None),
    )


def _fits(score: Score, record: Record) -> bool:
    return not score.mask or score.mask == record.mask


def _arm(key: ArmKey, outcomes: Sequence[Outcome], primary: str) -> Arm:
    found: dict[Item, list[float]] = defaultdict(list)
    for outcome in outcomes:
        value = outcome.values.get(primary)
        if value is not None:
            found[outcome.item].append(value)
    provenance = max((o.last.provenance for o in outcomes), key=lambda p: (bool(p.get("card")), len(p)))
    doubts = {o.last.doubt for o in outcomes}
    remark = _remark(key[0], provenance.get("card"))
    return Arm(
        key=key,
        name=_name(key[0], provenance.get("card")),
        label="",
        outcomes=tuple(outcomes),
        values={item: fmean(values) for item, values in found.items()},
        asked=frozenset(o.item for o in outcomes if o.status in ("done", "failed") and o.last.target),
        counts=Counter(o.status for o in outcomes),
        doubt=next((kind for kind in DOUBTS if kind in doubts), ""),
        remark=remark,
        provenance=provenance,
    )


def _named(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """Arms with labels; where two trained models would be called the same, their folders or specs tell them apart."""
    found, ways = [], [[arm.name, f"{arm.name} [{_folder(arm.key[0])}]"] for arm in arms]
    same = Counter((name, arm.key[1]) for arm, own in zip(arms, ways, strict=True) for name in own)
    for arm, own in zip(arms, ways, strict=True):
        name = next((one for one in own if same[one, arm.key[1]] == 1), arm.key[0])
        label = " · ".join(filter(None, (name, arm.key[1])))
        found.append(dataclasses.replace(arm, name=name, label=f"{label} ({arm.remark})" if arm.remark else label))
    return tuple(found)


def _name(model: str, card: Any) -> str:
    """A model's spec; of a model folder what was trained on how much, as its spec is a path."""
    learned = card.get("learned") if isinstance(card, Mapping) else None
    if not isinstance(learned, Mapping) or not learned.get("model"):
        return model
    n, made = learned.get("subjects"), learned.get("generated")
    told = [f"{n} subject{'s' * (n != 1)}{' a fold' if learned.get('folds') else ''}"] if n else []
    told += [f"{made} generated"] if made else []
    told += [f"{learned['draws']} draws"] if learned.get("draws") else []
    around = parsed(model).plus[len(parsed(str(learned["model"])).plus) :]  # wrappers of the trained one
    return ", ".join(["+".join(map(str, (learned["model"], *around))), *told])


def _folder(model: str) -> str:
    """The last part of the path of a model folder in a spec."""
    return model.rpartition("checkpoint=")[2].split(",")[0].strip('()"').rstrip("/").rpartition("/")[2]


def _remark(model: str, card: Any) -> str:
    """What a recorded card says of a spec like this one."""
    said = card.get("remarks") if isinstance(card, Mapping) else None
    try:
        base = spec.parse(model).base
    except SpecError:
        return ""
    given = {"", *(str(Spec("", {name: value})).strip("()") for name, value in base.args.items())}
    return "; ".join(str(text) for key, text in (said or {}).items() if key in given)


def panel_of(arms: tuple[Arm, ...]) -> Panel:
    """Some arms on the items that every one of them has a value for."""
    asked = frozenset.intersection(*(arm.asked for arm in arms))
    shared = sorted(item for item in asked if all(item in arm.values for arm in arms))
    shared = _without_doubled_unions(shared)
    person = {o.item: o.person for arm in arms for o in arm.outcomes}
    values = np.array([[arm.values[item] for arm in arms] for item in shared]).reshape(len(shared), len(arms))
    left_out = sorted(item for item in asked if any(arm.values.get(item) is None for arm in arms))
    others = sorted(frozenset[Item]().union(*(arm.asked for arm in arms)) - asked)
    return Panel(arms, tuple(shared), tuple(left_out), tuple(others), tuple(person[item] for item in shared), values)


def _without_doubled_unions(items: Sequence[Item]) -> list[Item]:
    """Items without the unions whose two sides are there themselves, so that nothing counts twice."""
    there = set(items)
    return [item for item in items if not {(*item[:2], f"left {item[2]}"), (*item[:2], f"right {item[2]}")} <= there]
