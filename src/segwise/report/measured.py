"""A run's own figures in the form of published ones, with the run as reporter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from segwise.errors import RunError
from segwise.evidence.compare import Figure
from segwise.evidence.schema import METRICS
from segwise.records.run import Run
from segwise.report.gather import Arm, Gathered, Item, Outcome, gather
from segwise.report.markup import listing

FAMILIES = {"specialist": "task-specific"}  # our word for it, and the survey's


def of_run(run_dir: Path | str, target: str, metric: str) -> list[Figure]:
    """What each model and prompter of a run reached on a target.

    Args:
        run_dir: folder of a run.
        target: common name; "mean" for all targets together.
        metric: DSC, NSD, HD95 ...

    Raises:
        RunError: not a run, nothing in it has finished, or it has no such score; says what it has.
    """
    run = Run.read(run_dir)
    records, scores = run.records(), run.scores()
    if not any(record.status == "done" for record in records):
        raise RunError(f"{run.path} holds no finished task, so there is nothing to compare; run it first (it resumes)")
    gathered = gather(records, scores)
    found = figures(gathered, target, metric, reporter=f"run {run.path.name}")
    if not found:
        done = sorted({o.last.target for o in gathered.outcomes if o.status == "done"})
        has = f"it has {listing(gathered.measures)} of {', '.join(done[:12])}{' and others' if len(done) > 12 else ''}"
        raise RunError(f"{run.path} has no {metric} of {target}; {has}")
    return found


def figures(gathered: Gathered, target: str, metric: str, *, reporter: str) -> list[Figure]:
    """One figure for each arm that has a value of the target, "mean" for all; [] if the metric was not measured."""
    measure = next((m for m in gathered.measures if m == metric or m.startswith(f"{metric} ")), "")
    if not measure:
        return []
    found = []
    for arm in gathered.arms:
        items = _items(arm, target)
        value = arm.mean(measure, items)
        if value is not None:
            found.append(_figure(arm, items, value, metric, gathered.metrics[measure], reporter=reporter))
    return found


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
