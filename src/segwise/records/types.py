"""What an experiment is made of: `Plan` → `Task` → `Record` and `Score`, plain values: each is one JSON line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STAGES = ("read_s", "encode_s", "prompt_s", "decode_s", "write_s")
OWN_PROVENANCE = (
    "reference",
    "reference_ml",
    "seeds",
    "union",
    "device_bytes",
    "label",
)  # differs from record to record; the rest is shared


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One case of a plan and the targets wanted in it (all if empty)."""

    case: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model with a prompter, beside those of the grid."""

    model: str
    prompter: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model that a plan trains on some subjects before it compares on the others.

    Attributes:
        model: spec of a specialist, or of a generalist with an adapter at its end.
        steps: optimiser steps.
        rate: greatest learning rate; 0 for the kind's own.
        batch: patches or slices a step.
        on: "real" cases, the study's "generated" persons, or "both".
    """

    model: str
    steps: int = 300
    rate: float = 0.0
    batch: int = 2
    on: str = "real"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a plan trains, and on how much.

    Attributes:
        models: every one is trained with every fraction and seed.
        fractions: shares of the training subjects.
        seeds: 0, 1, … of subjects drawn, weights and samples.
        test: share of the subjects that nothing is trained on, one at least.
        folds: instead of `test`: every subject is tested in one of so many folds; 0 for none, -1 for one a subject.
        persons: family and number of generated persons where no data are given, e.g. ("torso", 44).
        generated: family and number of generated persons to train on, which are never tested.
        modality: only cases of it; "" for all.
    """

    models: tuple[Training, ...] = ()
    fractions: tuple[float, ...] = (1.0,)
    seeds: int = 1
    test: float = 0.25
    folds: int = 0
    persons: tuple[str, int] = ("", 0)
    generated: tuple[str, int] = ("", 0)
    modality: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment.

    Attributes:
        name: file name without ending, or "compare".
        question: what it asks, in a sentence.
        models, prompters: specs; every model meets every prompter it can take.
        pairs: further pairs, as they stand.
        targets: only these, by common name; () is all.
        cases: only these; () is all.
        metrics: specs.
        seeds: how many draws of prompters that draw.
        study: what is trained first, or None.
        conditions: of the image: every task is done on the case as it is, then under each of these.
        persons: families and numbers of generated persons where no data are given, e.g. (("torso", 6),): one data set
            each; beside a study they are only tested.
        scenario: of cost and workflow, by name or path; "" for none.
        needs: what the question needs of the data: "several data sets", "targets in levels".
        optional: models that are left out, instead of refusing the plan, where they have nothing to do.
        groups: of targets that the report sets against each other: name and targets of each.
    """

    name: str
    question: str = ""
    models: tuple[str, ...] = ()
    prompters: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    targets: tuple[str, ...] = ()
    cases: tuple[Choice, ...] = ()
    metrics: tuple[str, ...] = ("overlap", "surface")
    seeds: int = 1
    study: Study | None = None
    conditions: tuple[str, ...] = ()
    persons: tuple[tuple[str, int], ...] = ()
    scenario: str = ""
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One model, case, prompter and seed, with all its targets; the unit of work.

    Attributes:
        model, prompter: canonical specs, arguments as given.
        dataset: name of the data set; `layout` the member that reads it; `root` its folder.
        case, subject: ids.
        seed: 0, 1, 2 ...
        targets: common names.
        condition: what was done to the case, e.g. "noise(level=3)"; "" for the case as it is.
    """

    model: str
    prompter: str
    dataset: str
    layout: str
    root: str
    case: str
    subject: str
    seed: int
    targets: tuple[str, ...]
    condition: str = ""

    @property
    def id(self) -> str:
        """Hash of what the task is; not of where the data lie nor of the list of targets."""
        words = (self.model, self.prompter, self.dataset, self.case, str(self.seed), *filter(None, [self.condition]))
        return hashlib.blake2b("\x1f".join(words).encode(), digest_size=10).hexdigest()


DOUBTS = ("random", "unknown")  # how digests of weights begin that nobody published; the graver one first


@dataclass(frozen=True, kw_only=True)
class Record:
    """What happened to one target of a task in one round.

    Attributes:
        task: id of the task; with `target` ("" for a whole case that cannot be read) and `round` it is the key.
        status: "done", "failed" (see `reason`, `traceback`) or "skipped" (see `reason`).
        prompt: digest of the prompt in the ledger, "" if none was made.
        mask: address of the stored mask, "" if none.
        n_interactions: what the simulated user did up to this round.
        quality: the model's predicted DSC; presence: its probability that the target is there.
        seconds: by stage (`STAGES`), after warm-up, of this round; what targets did together (reading, encoding, a
            call for several) is shared equally among them, so that sums over records are the task's.
        peak_bytes: of the worker during the task.
        given, resolved: arguments of the model as given and with defaults.
        provenance: versions, git revision, digests of weights, card, segmenter and reference.
        condition: as the task's; `provenance["condition"]` says on which axis it lies and where.
    """

    task: str
    target: str
    round: int
    status: str
    model: str
    prompter: str
    dataset: str
    case: str
    subject: str
    seed: int
    modality: str = ""
    reason: str = ""
    traceback: str = ""
    prompt: str = ""
    mask: str = ""
    n_interactions: int = 0
    quality: float | None = None
    presence: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    given: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    condition: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """(task, target, round)."""
        return self.task, self.target, self.round

    @property
    def tried(self) -> bool:
        """Its task ran: it is not what the plan left out before."""
        return self.status != "skipped" or "reference" in self.provenance

    @property
    def doubt(self) -> str:
        """ "random" or "unknown" if some of the model's weights are: such results are shown and never ranked."""
        digests = _texts(self.provenance.get("weights"))
        return next((kind for kind in DOUBTS if any(text.startswith(kind) for text in digests)), "")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measure of one record.

    Attributes:
        task, target, round: the record's key; round is -1 for a measure of the whole curve.
        measure: "DSC", "HD95" ...
        metric: the metric's spec with its resolved arguments (the tolerance).
        value: null if undefined, with the reason.
        reference: digest of the reference it was scored against, and the edition of the metric from its second on.
        mask: address of the mask that was scored, that of the last round for a curve.
    """

    task: str
    target: str
    round: int
    measure: str
    metric: str
    value: float | None
    reason: str = ""
    reference: str = ""
    mask: str = ""


def record_of(task: Task, target: str, number: int, status: str, **facts: Any) -> Record:
    """A record of a task; `facts` are further fields."""
    return Record(
        task=task.id,
        target=target,
        round=number,
        status=status,
        model=task.model,
        prompter=task.prompter,
        dataset=task.dataset,
        case=task.case,
        subject=task.subject,
        seed=task.seed,
        condition=task.condition,
        **facts,
    )


def to_line(item: Any) -> str:
    """A dataclass of this file as one line of JSON, keys sorted."""
    return json.dumps(dataclasses.asdict(item), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _texts(value: Any) -> list[str]:
    """The texts in a value of JSON, however deep."""
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []
