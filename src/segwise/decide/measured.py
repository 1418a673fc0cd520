"""A run as cost and workflow see it: what every round took, what it asked of a person, what it reached."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from segwise import catalog, spec
from segwise.errors import CatalogError, RunError, SpecError
from segwise.records.run import Run
from segwise.records.types import Record, Score
from segwise.report.gather import Arm, gather
from segwise.report.markup import count
from segwise.report.outcome import Item
from segwise.report.statistics import Floats

MEASURE = "DSC"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One exchange.

    Attributes:
        n_interactions: points, boxes and strokes of a person up to here.
        dsc: of the answer, None where it is undefined; 1 where nothing is there and nothing was painted, which is
            right though no DSC says so.
        ahead_s: reading and encoding in this round, which can be done before the reader comes.
        answer_s: from the mark to the mask, once encoded.
    """

    n_interactions: int
    dsc: float | None
    ahead_s: float
    answer_s: float

    @property
    def seconds(self) -> float:
        """Of the machine."""
        return self.ahead_s + self.answer_s


@dataclass(frozen=True, kw_only=True)
class Play:
    """One target of a case as it was played; no rounds if it failed: nothing came, so all is left to the hand."""

    item: Item
    person: str
    rounds: tuple[Round, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """An arm with all that it played.

    Attributes:
        label, model, prompter: as in the report.
        family: "generalist", "specialist", "floor" or "".
        gives: kinds of mark that its simulated user makes.
        learned: what a trained model says of its training, {} for others.
        plays: finished and failed ones; what was skipped or is not scored is not here.
        n_unscored: targets that it answered and nobody scored yet.
    """

    label: str
    model: str
    prompter: str
    family: str
    gives: tuple[str, ...]
    learned: Mapping[str, Any]
    plays: tuple[Play, ...]
    n_unscored: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        """Specs of the models that it was put together of, () if it is one."""
        return tuple(map(str, self.learned.get("models") or ()))

    @property
    def items(self) -> frozenset[Item]:
        """What it was played on."""
        return frozenset(play.item for play in self.plays)

    @property
    def unattended(self) -> bool:
        """It asks nothing of a person, so that it can run before the reader comes."""
        return all(not play.rounds or play.rounds[-1].n_interactions == 0 for play in self.plays)

    @property
    def mean(self) -> float:
        """Mean DSC of the last rounds over subjects, a failure counted as 0."""
        ends = {i: (play.rounds[-1].dsc or 0.0) if play.rounds else 0.0 for i, play in enumerate(self.plays)}
        return float(np.mean(by_person(self.plays, list(ends.values()))[1]))

    def on(self, items: frozenset[Item]) -> Measured:
        """The same arm on fewer items."""
        kept = tuple(play for play in self.plays if play.item in items)
        return Measured(**{**vars(self), "plays": kept})


def read(run_dir: Path | str) -> tuple[list[Measured], Mapping[str, Any], str]:
    """The arms of a run folder, what the run says of itself, and a sentence (HTML, or "") on what nobody scored.

    Raises:
        RunError: not a run, nothing in it has finished, or it is not scored with DSC.
    """
    run = Run.read(run_dir)
    records = run.records()
    if not any(record.status == "done" for record in records):
        raise RunError(f"{run.path} holds no finished task, so nothing was measured; run it first (it resumes)")
    every = _all(records, run.scores())
    found = [arm for arm in every if arm.plays]
    if not found:
        raise RunError(
            f"{run.path} has no DSC of any model whose weights are known; if it is not scored yet, type: segwise score "
            f"{shlex.quote(str(run.path))}"
        )
    return found, run.about(), _unscored(every)


def measured(records: Sequence[Record], scores: Sequence[Score]) -> list[Measured]:
    """Arms with a DSC, in order of name; arms with random or unknown weights are left out."""
    return [arm for arm in _all(records, scores) if arm.plays]


def _all(records: Sequence[Record], scores: Sequence[Score]) -> list[Measured]:
    """As `measured`, with arms that only wait for their scores; these have no plays."""
    rounds: dict[tuple[str, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        rounds[record.task, record.target][record.round] = record
    arms = [arm for arm in gather(records, scores).arms if not arm.doubt]
    dsc = {(s.task, s.target, s.round, s.mask): _dsc(s) for s in scores if s.measure == MEASURE and s.round >= 0}
    found = [(arm, _arm(arm, rounds, dsc)) for arm in arms]
    told = [arm.values and any(play.rounds for play in made.plays) for arm, made in found]
    return [made if some else replace(made, plays=()) for some, (_, made) in zip(told, found, strict=True)]


def _unscored(arms: Sequence[Measured]) -> str:
    n, ways = sum(arm.n_unscored for arm in arms), sum(arm.n_unscored > 0 for arm in arms)
    if not n:
        return ""
    return (
        f"{count(n, 'answer')} of {count(ways, 'way')} {'is' if n == 1 else 'are'} not scored yet and left out; type "
        "<code>segwise score RUN</code>."
    )


def shared(first: Measured, second: Measured) -> tuple[Measured, Measured] | None:
    """Both on what both were asked, None if that is nothing."""
    both = first.items & second.items
    return (first.on(both), second.on(both)) if both else None


def by_person(plays: Sequence[Play], values: Sequence[float]) -> tuple[list[str], Floats]:
    """Persons in order of name, and [S] the mean of each one's targets; seeds of a target are averaged first."""
    found: dict[str, dict[Item, list[float]]] = defaultdict(lambda: defaultdict(list))
    for play, value in zip(plays, values, strict=True):
        found[play.person][play.item].append(value)
    persons = sorted(found)
    return persons, np.array([fmean(map(fmean, found[person].values())) for person in persons])


def _arm(arm: Arm, rounds: Mapping[tuple[str, str], Mapping[int, Record]], dsc: Mapping[Any, float | None]) -> Measured:
    plays, n_unscored = [], 0
    for outcome in arm.outcomes:
        last = outcome.last
        if last.status == "skipped" or outcome.union or not last.target:
            continue  # a union was put together after the run: nobody waited for it
        own = rounds[last.task, last.target]
        answers = [own[n] for n in sorted(own) if own[n].status == "done"]
        if last.status == "done" and not all(_scored(record, dsc) for record in answers):
            n_unscored += 1
            continue
        played = tuple(_round(record, dsc) for record in answers)
        plays.append(Play(item=outcome.item, person=outcome.person, rounds=() if last.status == "failed" else played))
    card = arm.card
    return Measured(
        label=arm.label,
        model=arm.key[0],
        prompter=arm.key[1],
        family=str(card.get("family", "")),
        gives=_gives(arm.key[1]),
        learned=card.get("learned") or {},
        plays=tuple(plays),
        n_unscored=n_unscored,
    )


def _dsc(score: Score) -> float | None:
    return 1.0 if score.value is None and score.reason == "both empty" else score.value


def _scored(record: Record, dsc: Mapping[Any, float | None]) -> bool:
    return (*record.key, record.mask) in dsc or (*record.key, "") in dsc


def _round(record: Record, dsc: Mapping[Any, float | None]) -> Round:
    spent, key = record.seconds, record.key
    value = dsc.get((*key, record.mask), dsc.get((*key, "")))
    return Round(
        n_interactions=record.n_interactions,
        dsc=value,
        ahead_s=spent.get("read_s", 0.0) + spent.get("encode_s", 0.0),
        answer_s=spent.get("decode_s", 0.0),
    )


def _gives(prompter: str) -> tuple[str, ...]:
    """Kinds of mark of a simulated user; ("points",) for one that is no longer installed."""
    try:
        parts = spec.parse(prompter)
        names = (parts.name, *(part.name for part in parts.plus))
        return tuple(kind for name in names for kind in catalog.card("prompters", name).gives)
    except (CatalogError, SpecError):
        return ("points",)
