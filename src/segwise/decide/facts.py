"""What records and card say of one model: every number with the place that it comes from.

A page never writes a number of its own: it asks for a fact by key and shows its text, so that each can be traced.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from segwise.decide import called
from segwise.decide.shares import exact_interval, percents
from segwise.errors import RunError
from segwise.records.run import Run
from segwise.report import words
from segwise.report.gather import Arm, Gathered, gather, total_seconds, without_doubles
from segwise.report.markup import e, listing, n_bytes
from segwise.report.statistics import interval_of_mean, subject_means

POOR = 0.5  # DSC below which an answer counts as poor
USABLE = 0.8  # DSC from which it counts as usable


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that is known.

    Attributes:
        key: by which pages ask for it.
        text: as it is shown; plain text.
        value: for programs.
        source: which records or which field of the card.
    """

    key: str
    text: str
    value: Any
    source: str


class Facts(Mapping[str, Fact]):
    """Facts by key. What is not known is not there."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts = {fact.key: fact for fact in facts}

    def __getitem__(self, key: str) -> Fact:
        return self._facts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def shown(self, key: str) -> str:
        """HTML of a fact with its source behind it; for a key that is not there the word "unknown"."""
        fact = self.get(key)
        if fact is None:
            return '<span class="tag mild">unknown</span>'
        return f'<data value="{e(key)}" title="{e(fact.source)}">{e(fact.text)}</data>'

    @property
    def digest(self) -> str:
        """Hash of all of them: another one means that something a page says has changed."""
        told = json.dumps({key: fact.text for key, fact in self.items()}, sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Known:
    """A model in a run.

    Attributes:
        facts: of it.
        gathered: the run with the arms of this model alone.
        arm: the one that the facts are about: the highest mean.
        about: what the run says of itself.
        run: the folder.
    """

    facts: Facts
    gathered: Gathered
    arm: Arm
    about: Mapping[str, Any]
    run: Run


def read(run_dir: Path | str, model: str) -> Known:
    """What a run knows of a model.

    Args:
        run_dir: folder of the run.
        model: spec, bare name, label or folder.

    Raises:
        RunError: not a run, or the model has no score in it. SpecError: no model of the run, or several.
    """
    run = Run.read(run_dir)
    records = run.records()
    if not any(record.status == "done" for record in records):
        raise RunError(f"{run.path} holds no finished task, so nothing is known; run it first (it resumes)")
    whole = gather(records, run.scores())
    there = [(a.key[0], a.label, *map(str, (a.card.get("learned") or {}).get("models") or ())) for a in whole.arms]
    arms = tuple(without_doubles(whole.arms[i]) for i in called.one(there, model, "model"))
    scored = [arm for arm in arms if arm.values]
    if not scored:
        raise RunError(f"{run.path} has no score of {model}; type: segwise score {shlex.quote(str(run.path))}")
    arm = max(scored, key=lambda one: (not one.doubt, one.mean(whole.primary, one.values) or 0.0, one.label))
    gathered = replace(whole, arms=arms)
    found = Facts([*_of_card(arm, gathered), *_of_results(arm, gathered, str(run.path.name))])
    return Known(facts=found, gathered=gathered, arm=arm, about=run.about(), run=run)


def _of_card(arm: Arm, gathered: Gathered) -> list[Fact]:
    card = arm.card
    found = [Fact(key="model", text=arm.key[0], value=arm.key[0], source="records: model")]

    def tell(key: str, value: Any, field: str) -> None:
        if value:
            text = listing([str(v) for v in value]) if isinstance(value, list | tuple) else str(value)
            found.append(Fact(key=key, text=text, value=value, source=f"card: {field}"))

    for field in ("title", "summary", "family", "licence_code", "licence_weights", "paper", "code", "memory", "input"):
        tell(field, card.get(field), field)
    for field in ("modalities", "training_sets", "training_note", "deviations", "takes"):
        tell(field, card.get(field), field)
    if not card.get("parameters_m") and not card.get("training_sets") and card.get("family") == "floor":
        tell("training_sets", "none: it learns nothing", "family")
        tell("training_note", "nothing: it learns nothing", "family")
        tell("licence_weights", "it has no weights", "family")
    size = card.get("parameters_m")
    tell("parameters", f"{size:g} million" if size else "", "parameters_m")
    tell("commercial", "no commercial use" if card.get("non_commercial") else "", "non_commercial")
    datasets = words.datasets_of(gathered.outcomes)
    leak = words.leakage(card, datasets, arm.people)
    plain = leak.replace("<b>", "").replace("</b>", "").partition("<")[0]
    data = ", ".join(sorted(datasets - {words.SYNTH}))
    source = f"card: training_sets, training_note, learned; compared with the data of this run ({data})"
    found.append(Fact(key="leakage", text=plain, value=leak, source=source))
    if arm.doubt:
        found.append(
            Fact(key="doubt", text=words.DOUBT[arm.doubt], value=arm.doubt, source="records: digests of the weights")
        )
    digest = str(arm.provenance.get("segmenter") or "")
    if digest:
        found.append(Fact(key="build", text=digest[:24], value=digest, source="records: digest of the segmenter"))
    return found


def _of_results(arm: Arm, gathered: Gathered, run: str) -> list[Fact]:
    measure = gathered.primary
    items = sorted(arm.values)
    person = {o.item: o.person for o in arm.outcomes}
    persons = [person[item] for item in items]
    values = np.array([[arm.values[item]] for item in items])
    n_subjects = len(set(persons))
    where = f"records of run {run}: {arm.label}, last round of {len(items)} targets of {n_subjects} subjects"
    done = [o for o in arm.outcomes if o.status == "done"]
    n_made = len({o.person for o in done if words.is_generated(o)})
    structures, modalities = sorted({i[2] for i in items}), sorted({o.last.modality for o in done if o.last.modality})
    found = [
        _count("n_subjects", n_subjects, where),
        _count("n_cases", len({i[:2] for i in items}), where),
        _count("n_targets", len(items), where),
        _count("n_datasets", len({i[0] for i in items}), where),
        Fact(key="measure", text=measure, value=measure, source=where),
        _people(n_subjects, n_made, where),
        _counted("kinds", len(structures), "kind", "kinds", f"{where}: {listing(structures)}"),
        _counted("outlines", len(items), "outline", "outlines", where),
        Fact(key="structures", text=listing(structures), value=structures, source=where),
        Fact(key="tested_modalities", text=listing(modalities), value=modalities, source=where),
        Fact(key="prompter", text=arm.key[1], value=arm.key[1], source="records: prompter"),
        *_mean(values, persons, where),
        *_share("poor", (values < POOR).astype(float), persons, f"{where}, {measure} below {POOR}"),
        *_share("usable", (values >= USABLE).astype(float), persons, f"{where}, {measure} at least {USABLE}"),
        Fact(key="poor_limit", text=f"{POOR:g}", value=POOR, source="Segwise's convention, decide/facts.py"),
        Fact(key="usable_limit", text=f"{USABLE:g}", value=USABLE, source="Segwise's convention, decide/facts.py"),
        _count("n_failed", arm.n_targets("failed"), f"records of run {run}: status failed"),
        _count("n_asked", len(arm.asked), f"records of run {run}: targets that it was asked for"),
    ]
    worst = float(subject_means(values, persons).min())
    found.append(Fact(key="worst_subject", text=f"{worst:.2f}", value=worst, source=f"{where}, lowest subject"))
    silver = sorted({words.quality_of(o) for o in done})
    found.append(Fact(key="references", text=listing(silver), value=silver, source="records: quality of the reference"))
    by_people = "was drawn or checked by people" if silver == ["gold"] else "was not always drawn or checked by people"
    if n_made:
        found.append(_count("n_generated", n_made, "records: notes of the cases"))
        by_people = "the computer that made the bodies knows" if n_made == n_subjects else f"{by_people} or made up"
    source = "records: quality of the reference"
    found.append(Fact(key="reference_words", text=by_people, value=silver, source=source))
    spent = [s for o in done if (s := total_seconds(o)) is not None]
    if spent:
        found.append(Fact(key="seconds", text=f"{median(spent):.2g} s", value=median(spent), source=f"{where}, median"))
    peak = max((o.last.peak_bytes for o in done), default=0)
    if peak:
        found.append(Fact(key="peak", text=n_bytes(peak), value=peak, source="records: greatest memory of the worker"))
    versions = arm.provenance.get("versions")
    if isinstance(versions, Mapping):
        text = listing([f"{name} {version}" for name, version in sorted(versions.items())])
        found.append(Fact(key="versions", text=text, value=dict(versions), source="records: versions"))
    asked = words.median_interactions(arm)
    if asked is not None:
        found.append(Fact(key="interactions", text=f"{asked:g}", value=asked, source=f"{where}, median"))
    return found


def _people(n_subjects: int, n_made: int, source: str) -> Fact:
    """How many were scanned, and how many of them are no persons."""
    if not n_made:
        return _counted("people", n_subjects, "person", "people", source)
    made = f"{n_made:,} made-up {'body' if n_made == 1 else 'bodies'}"
    people = _counted("people", n_subjects - n_made, "person", "people", source)
    text = f"{made}, not of people" if n_made == n_subjects else f"{people.text} and {made}"
    return Fact(key="people", text=text, value=n_subjects, source=f"{source}; generated ones by the notes of the cases")


def _count(key: str, n: int, source: str) -> Fact:
    return Fact(key=key, text=f"{n:,}", value=n, source=source)


def _counted(key: str, n: int, one: str, many: str, source: str) -> Fact:
    return Fact(key=key, text=f"{n:,} {one if n == 1 else many}", value=n, source=source)


def _mean(values: Any, persons: Sequence[str], source: str) -> list[Fact]:
    """The mean over subjects and its interval, as facts; no interval with one subject."""
    mean = float(subject_means(values, persons).mean())
    low, high = (float(side[0]) for side in interval_of_mean(values, persons))
    found = [Fact(key="mean", text=f"{mean:.2f}", value=mean, source=f"{source}; mean over subjects")]
    if not math.isnan(low):
        told = f"{source}; 95 % bootstrap interval over subjects"
        found += _bounds("mean", (low, high), (f"{low:.2f}", f"{high:.2f}"), told)
    return found


def _share(key: str, values: Any, persons: Sequence[str], source: str) -> list[Fact]:
    """A share as mean over subjects with its exact interval, as facts; the upper end is told of one subject too."""
    n, mean = len(set(persons)), float(subject_means(values, persons).mean())
    low, high = exact_interval(mean, n)
    least, most = percents(low, high)
    exact = f"{source}; exact 95 % interval (Clopper-Pearson) of so many subjects, rounded outwards"
    found = [
        Fact(key=key, text=f"{mean:.0%}", value=mean, source=f"{source}; mean over subjects"),
        Fact(
            key=f"{key}_of_hundred",
            text=f"{round(100 * mean)} of 100",
            value=round(100 * mean),
            source=f"{source}; mean, rounded",
        ),
        Fact(key=f"{key}_most", text=f"{most} of 100", value=most, source=exact),
    ]
    return found if n < 2 else found + _bounds(key, (low, high), (f"{least}%", f"{most}%"), exact)


def _bounds(key: str, values: tuple[float, float], told: tuple[str, str], source: str) -> list[Fact]:
    ends = zip(("low", "high"), told, values, strict=True)
    found = [Fact(key=f"{key}_{name}", text=text, value=value, source=source) for name, text, value in ends]
    return [*found, Fact(key=f"{key}_interval", text=" to ".join(told), value=list(values), source=source)]
