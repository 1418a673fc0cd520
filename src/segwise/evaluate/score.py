"""Stored masks + references → scores; neither a model nor torch. What is scored already is not scored again.

Where some model of a run answered for both sides of a structure only together ("thalamus"), the union of what the
others gave for left and right is made here from their stored masks, and scored as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segwise import assemble, pair
from segwise.assemble import Metric
from segwise.case import Case
from segwise.errors import RunError
from segwise.evaluate import agreement, conditions, crops, flagged, inventory, references
from segwise.evaluate.ledger import Ledger
from segwise.evaluate.masks import Masks
from segwise.evaluate.sources import called
from segwise.geometry import Array, Volume
from segwise.pair import Pair
from segwise.prompt import Prompt
from segwise.records.run import Run
from segwise.records.types import Record, Score

Tick = Callable[[int, int, str], None]  # done, total, what


def score(run: Run, metrics: Sequence[str] = (), *, data: Path | None = None, progress: Tick | None = None) -> int:
    """Score what is not scored yet; how many scores were written.

    Args:
        run: opened for writing.
        metrics: specs, or names of measures; () is those of the run's plan.
        data: where the data set lies now, if it has moved.
        progress: called with (done, total, what).

    Raises:
        RunError: the run holds no record, or its data are not where they were.
        CatalogError: an unknown metric.
    """
    if data is not None and not data.is_dir():
        raise RunError(f"{data} is no folder; expected where the data of {run.path} are now")
    about = run.about()
    wanted = [assemble.metric_info(text) for text in metrics or about["plan"]["metrics"]]
    chosen = [assemble.metric(spec) for spec in {str(spec): spec for spec in wanted}.values()]
    cases = _cases(about, data)
    by_case: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in run.records():
        by_case[record.dataset, record.case, record.condition].append(record)
    if not by_case:
        raise RunError(f"{run.path} holds no record; run the comparison first")
    known = {(s.task, s.target, s.round, s.measure, s.metric): (s.reference, s.mask) for s in run.scores()}
    asked = tuple(about["plan"]["targets"])
    marks = {entry["hash"]: entry["marks"] for entry in Ledger(run.ledger).entries() if entry["marks"] is not None}
    written, seen = 0, 0
    answers = {key: len(_rounds([r for r in found if r.status == "done"])) for key, found in by_case.items()}
    total = sum(answers.values())
    for key, records in by_case.items():
        *named, condition = key
        place = (named[0], named[1])
        before, seen = seen, seen + answers[key]
        if progress:
            progress(before, total, f"scoring {place[1]}")
        if not answers[key]:
            continue
        if place not in cases and data is not None:  # its folder may have another name now
            cases.update([(place, case) for (_, name), case in cases.items() if name == place[1]])
        if place not in cases and _all_scored(records, chosen, known):
            continue
        if place not in cases:
            roots = ", ".join(str(data or source["root"]) for source in about["sources"])
            raise RunError(
                f"case {place[1]} of {place[0]} is no longer in {roots}; say where the data are now: "
                "segwise score RUN --data DIR"
            )
        case = conditions.under(cases[place], condition)
        derived = _unions(run, case, records, asked)
        run.add(derived)
        fresh = {record.key for record in derived}
        current = [record for record in records if record.key not in fresh] + derived
        scoring = _Scoring(run, case, current, chosen, known, marks)
        for n, found in enumerate(scoring.each(), start=1):
            written += found
            if progress:  # unions made here come on top of the answers that were counted
                progress(min(before + n, seen), total, f"scoring {place[1]}")
        flagged.forget()
        written += agreement.add(run, current, known)
    if progress:
        progress(total, total, "scored")
    return written


def _all_scored(records: Sequence[Record], chosen: Sequence[Metric], known: Mapping[Any, Any]) -> bool:
    """Whether every finished record has the chosen measures, so that the data need not be there any more."""
    plain = [
        (str(metric.spec), measure) for metric in chosen if not metric.card.curve for measure in metric.card.measures
    ]
    done = [record for record in records if record.status == "done"]
    return all((r.task, r.target, r.round, measure, name) in known for r in done for name, measure in plain)


def _cases(about: dict[str, object], data: Path | None) -> dict[tuple[str, str], Case]:
    """By data set and id."""
    listed = about.get("sources")
    every = listed if isinstance(listed, list) else []
    found: dict[tuple[str, str], Case] = {}
    for source in every:
        root = Path(source["root"])
        if data is not None and (len(every) == 1 or not root.exists()):
            root = data
        if not root.exists():  # an earlier place of the data
            continue
        for case in called(inventory.find(root, source["layout"])[1], source.get("name", "")):
            found[case.dataset, case.id] = case
    return found


def _rounds(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by task and target, in the order of their rounds."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.round):
        found[record.task, record.target].append(record)
    return found


def _unions(run: Run, case: Case, records: Sequence[Record], asked: tuple[str, ...]) -> list[Record]:
    """New records of unions that some model answered (or that were asked for) from the sides that others gave."""
    rounds = _rounds(records)
    both = references.unions(case)
    answered = {record.target for record in records if record.status == "done"} | set(asked)
    made: list[Record] = []
    for union in sorted(set(both) & answered):
        for task in dict.fromkeys(record.task for record in records):
            sides = [rounds.get((task, side), []) for side in both[union]]
            own = rounds.get((task, union), [])
            if all(sides) and not any(r.status == "failed" for side in sides for r in side):
                made += _union(run, union, sides, own)
    return made


def _union(run: Run, union: str, sides: list[list[Record]], own: list[Record]) -> list[Record]:
    """The records of one union in one task; [] if they are there, or if no side was answered."""
    sides = [[r for r in side if r.status == "done"] for side in sides]
    n = max(map(len, sides))
    at = [[side[min(i, len(side) - 1)] for side in sides if side] for i in range(n)]
    wanted = [[record.mask for record in parts] for parts in at]
    if not n or any("union" not in r.provenance for r in own) or [r.provenance["union"] for r in own] == wanted:
        return []
    masks, made = Masks.of(run), []
    for number, parts in enumerate(at):
        loaded = [masks.get(record.mask) for record in parts]
        address = masks.put(np.logical_or.reduce([mask for mask, _ in loaded]), loaded[0][1])
        first = parts[0]
        single = ("reference", "reference_ml", "seeds", "label")
        shared = {key: value for key, value in first.provenance.items() if key not in single}
        sizes = [record.provenance.get("reference_ml") for record in parts]
        if all(sides) and all(isinstance(ml, int | float) for ml in sizes):
            shared["reference_ml"] = sum(sizes)
        changed = {
            "target": union,
            "round": number,
            "mask": address,
            "prompt": "",
            "quality": None,
            "presence": None,
            "n_interactions": sum(record.n_interactions for record in parts),
            "seconds": {},
            "provenance": {**shared, "union": wanted[number]},
        }
        made.append(Record(**{**vars(first), **changed}))
    return made


@dataclass
class _Scoring:
    """The scores of one case."""

    run: Run
    case: Case
    records: list[Record]
    metrics: list[Metric]
    known: dict[tuple[str, str, int, str, str], tuple[str, str]]
    marks: Mapping[str, list[dict[str, Any]]]
    _volume: list[Volume] = field(default_factory=list)

    def each(self) -> Iterator[int]:
        """Score what is new of each target of each task; how many scores were written."""
        done = [record for record in self.records if record.status == "done"]
        names = tuple(dict.fromkeys(record.target for record in done))
        masks = references.masks(self.case, names)
        digests = {name: references.digest_of(mask) for name, mask in masks.items()}
        ignored = references.ignored(self.case)
        for (_, name), rounds in _rounds(done).items():
            found = list(self._target(rounds, masks[name], digests[name], ignored))
            self.run.add_scores(found)
            yield len(found)

    def _target(self, rounds: list[Record], reference: Array, digest: str, ignored: Array | None) -> Iterator[Score]:
        """New scores of one target of a task: of each round, and of the curve."""
        new = {
            (metric.spec, record.round): self._is_new(metric, record, record.round, digest)
            for metric in self.metrics
            for record in rounds
        }
        curves = [m for m in self.metrics if m.card.curve and self._is_new(m, rounds[-1], -1, digest)]
        if not any(new.values()) and not curves:
            return
        pairs = [self._pair(record, reference, ignored) for record in rounds]
        for metric in self.metrics:
            if metric.card.curve:
                if metric in curves:
                    yield from self._scores(metric, metric.score(pairs), rounds[-1], -1, digest)
                continue
            for record, both in zip(rounds, pairs, strict=True):
                if new[metric.spec, record.round]:
                    yield from self._scores(metric, metric.score(both), record, record.round, digest)
        assert pairs[-1].reference is not None
        more = flagged.flagged(rounds[-1], pairs[-1])
        crops.write(self.run, rounds[-1], self._scan(), pairs[-1].reference, pairs[-1].prediction, more)

    def _is_new(self, metric: Metric, record: Record, number: int, digest: str) -> bool:
        if metric.card.curve != (number < 0):
            return False
        keys = [(record.task, record.target, number, m, str(metric.spec)) for m in metric.card.measures]
        return any(self.known.get(key) != (_edition(metric, digest), record.mask) for key in keys)

    def _pair(self, record: Record, reference: Array, ignored: Array | None) -> Pair:
        prediction, grid = Masks.of(self.run).get(record.mask)
        if prediction.shape != reference.shape:
            raise RunError(
                f"case {self.case.id}: its reference is {reference.shape}, its predictions are {prediction.shape}: the "
                "data changed since the run; run it again in a new folder"
            )
        marks = self.marks.get(record.prompt)
        prompt = None if marks is None else Prompt.from_json(marks)
        image = self._scan().array
        if ignored is not None:
            return Pair(reference & ~ignored, prediction & ~ignored, grid, prompt, image, prediction)
        return Pair(reference, prediction, grid, prompt, image)

    def _scan(self) -> Volume:
        """Read once, on first use."""
        if not self._volume:
            self._volume.append(self.case.volume())
        return self._volume[0]

    def _scores(
        self, metric: Metric, values: dict[str, float], record: Record, number: int, digest: str
    ) -> Iterator[Score]:
        for measure, value in values.items():
            finite = math.isfinite(value)
            yield Score(
                task=record.task,
                target=record.target,
                round=number,
                measure=measure,
                metric=str(metric.spec),
                value=float(value) if finite else None,
                reason="" if finite else pair.reason(value) or "not finite",
                reference=_edition(metric, digest),
                mask=record.mask,
            )


def _edition(metric: Metric, digest: str) -> str:
    """What a score was made against: the reference, and the metric's edition from its second on."""
    return digest if metric.card.edition == 1 else f"{digest}, edition {metric.card.edition}"
