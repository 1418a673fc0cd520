"""A run's own figures in the form of published ones, with the run as reporter."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segwise.errors import RunError, SpecError
from segwise.evidence.base import Base
from segwise.evidence.compare import Figure
from segwise.evidence.query import is_known_as
from segwise.evidence.schema import METRICS
from segwise.records.run import Run
from segwise.records.types import Record
from segwise.report.gather import Arm, Gathered, gather
from segwise.report.markup import listing
from segwise.report.outcome import Item, Outcome
from segwise.report.statistics import compare


@dataclass(frozen=True)
class Named:
    """A data set of the base, and what a run may call it.

    Attributes:
        base: an open one.
        id: in the base.
        called: further names, on the user's word.
    """

    base: Base
    id: str
    called: tuple[str, ...] = ()

    def means(self, name: str) -> bool:
        """Whether a run that says `name` means it."""
        return name in self.called or is_known_as(self.base, self.id, name)


FAMILIES = {"specialist": "task-specific"}  # our word for it, and the survey's


@dataclass(frozen=True, eq=False)
class _Own:
    """A figure with what it is the mean of."""

    figure: Figure
    values: Mapping[Item, float]
    persons: Mapping[Item, str]


def of_run(run_dir: Path | str, dataset: Named, target: str, metric: str) -> list[Figure]:
    """What each model and prompter of a run reached on a target in one data set; its other data sets do not count.

    Args:
        run_dir: folder of a run.
        dataset: which of the run's data sets is meant.
        target: common name; "mean" for all targets together.
        metric: DSC, NSD, HD95 ...

    Raises:
        RunError: not a run, nothing in it has finished, or nothing of this data set, or it has no such score; says what
            it has.
    """
    return _judged(_of_run(run_dir, dataset, target, metric), metric)


def _of_run(run_dir: Path | str, dataset: Named, target: str, metric: str) -> list[_Own]:
    run = Run.read(run_dir)
    records = run.records()
    there = _there(records)
    if not there:
        raise RunError(f"{run.path} holds no finished task, so there is nothing to compare; run it first (it resumes)")
    meant = [name for name in there if dataset.means(name)]
    if not meant:
        raise RunError(
            f"{run.path} has scores of {', '.join(there[:8])}{' and others' if len(there) > 8 else ''}, and not of "
            f"{dataset.id}; if one of these is {dataset.id} under a name of yours, say so: "
            f'--called "{there[0]}"; without --run the published figures stand alone'
        )
    gathered = gather([record for record in records if record.dataset in meant], run.scores())
    found = _own(gathered, target, metric, reporter=f"run {run.path.name}")
    if not found:
        known = sorted({o.last.target for o in gathered.outcomes if o.status == "done"})
        more = " and others" if len(known) > 12 else ""
        has = f"it has {listing(gathered.measures)} of {', '.join(known[:12])}{more}"
        raise RunError(f"{run.path} has no {metric} of {target} in {dataset.id}; {has}")
    words = [f"{name} taken as {dataset.id} on your word" for name in meant if name in dataset.called]
    words += [f"its {name} left out, another data set" for name in there if name not in meant]
    return [replace(own, figure=replace(own.figure, source="; ".join([own.figure.source, *words]))) for own in found]


def of_runs(run_dirs: Sequence[Path], dataset: Named, target: str, metric: str) -> list[Figure]:
    """The same of several runs.

    Raises:
        RunError: see `of_run`.
        SpecError: a further name of the data set stands in none of the runs.
    """
    there = {name for folder in run_dirs for name in _there(Run.read(folder).records())}
    if lost := [name for name in dataset.called if name not in there]:
        known = f"there are {', '.join(sorted(there))}" if there else "give a run, too: --run DIR"
        raise SpecError(f'--called "{lost[0]}": no run has scores of a data set of this name; {known}')
    return _judged([own for folder in run_dirs for own in _of_run(folder, dataset, target, metric)], metric)


def _there(records: Sequence[Record]) -> list[str]:
    """Data sets that something was finished of."""
    return sorted({record.dataset for record in records if record.status == "done"})


def figures(gathered: Gathered, target: str, metric: str, *, reporter: str) -> list[Figure]:
    """One figure for each arm that has a value of the target, "mean" for all; [] if the metric was not measured."""
    return [own.figure for own in _own(gathered, target, metric, reporter=reporter)]


def _own(gathered: Gathered, target: str, metric: str, *, reporter: str) -> list[_Own]:
    measure = next((m for m in gathered.measures if m == metric or m.startswith(f"{metric} ")), "")
    if not measure:
        return []
    found = []
    for arm in gathered.arms:
        items = _items(arm, target)
        value = arm.mean(measure, items)
        if value is not None:
            figure = _figure(arm, items, value, metric, gathered.metrics[measure], reporter=reporter)
            wanted = set(items)
            each = {item: mean for item, mean in arm.each(measure).items() if item in wanted}
            found.append(_Own(figure, each, {o.item: o.person for o in arm.outcomes}))
    return found


def _judged(own: Sequence[_Own], metric: str) -> list[Figure]:
    """The figures, each with how many of those that it may be ranked against are better beyond chance."""
    alike: dict[tuple[str, ...], list[_Own]] = defaultdict(list)
    for one in own:
        alike[one.figure.protocol].append(one)
    sign = 1 if METRICS[metric].higher_is_better else -1
    behind: dict[int, int] = {}
    for group in alike.values():
        items = sorted(set[Item].intersection(*(set(one.values) for one in group)))
        if items and len(group) > 1:
            values = np.array([[sign * one.values[item] for one in group] for item in items])
            better = compare(values, [group[0].persons[item] for item in items]).decided.sum(axis=0)
            behind |= {id(one): int(n) for one, n in zip(group, better, strict=True)}
    return [replace(one.figure, behind=behind.get(id(one))) for one in own]


def _items(arm: Arm, target: str) -> list[Item]:
    return sorted({o.item for o in arm.outcomes if o.status == "done" and target in ("mean", o.last.target)})


def _set(outcomes: Iterable[Outcome]) -> str:
    """Six digits that two runs share only if they scored the same cases and targets against the same references."""
    told = sorted({str((*o.item, str(o.last.provenance.get("reference", "")))) for o in outcomes})
    return hashlib.blake2b("\x1f".join(told).encode(), digest_size=3).hexdigest()


def _figure(
    arm: Arm, items: Sequence[Item], value: float, metric: str, specs: Sequence[str], *, reporter: str
) -> Figure:
    chosen = set(items)
    mine = [o for o in arm.outcomes if o.item in chosen and o.status == "done"]
    people = {o.person for o in mine}
    targets = {item[2] for item in items}
    over = f" and {len(targets)} targets" if len(targets) > 1 else ""
    names = ", ".join(sorted({item[0] for item in items}))
    family = str(arm.card.get("family", "")) or "not stated"
    return Figure(
        model=arm.key[0],
        family=FAMILIES.get(family, family),
        value=value,
        unit=METRICS[metric].units[0],
        n=len(people),
        split=f"{len(people)} subject{'s' * (len(people) != 1)} of {names}, set {_set(mine)}",
        edition="own files",
        prompt=arm.key[1],
        definition=f"mean over subjects{over}; {', '.join(specs)}",
        reported_by=reporter,
        printed_in=reporter,
        source=f"{reporter}, measured with Segwise",
        measured=True,
        doubt=f"{arm.doubt} weights" if arm.doubt else "",
    )
