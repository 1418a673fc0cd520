"""The verbs of the command line as functions: what a notebook calls.

from segwise import api
api.inspect(["scan.nii.gz"])
api.segment("scan.nii.gz", "geodesic", "mask.nii.gz", boxes=("10,40,40,30,90,90",))
plan = api.compare_plan(models=("geodesic", "litemedsam"), prompters=("box2d",))
api.run(api.preview(plan, "data"), "runs/mine")
api.report("runs/mine")
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from segwise import assemble, io
from segwise.asked import doubts, named, prompts_of
from segwise.case import Case
from segwise.decide import scenario
from segwise.errors import FileError, SpecError
from segwise.evaluate import compare as experiments
from segwise.evaluate import expand, inventory
from segwise.evaluate.compare import Preview, preview, score
from segwise.evaluate.compare import named_plan as read_plan
from segwise.evaluate.compare import plan_of as compare_plan
from segwise.evaluate.pace import Expect
from segwise.records.run import Run
from segwise.records.types import Plan
from segwise.session import Session
from segwise.store import FeatureStore

if TYPE_CHECKING:
    from segwise.in_context import Written as SupportSet
    from segwise.learn import Learning, Who
    from segwise.nnunet_package import Budget as PackageBudget
    from segwise.training.forecast import Forecast
    from segwise.training.labelled import Budget
    from segwise.training.loop import Outcome, Progress

Tick = Callable[[int, int, str], None]
would_read = io.would_read
__all__ = [
    "Answer",
    "Preview",
    "adaptation",
    "cases",
    "compare_plan",
    "demo",
    "elsewhere",
    "export",
    "in_context",
    "inspect",
    "learn",
    "learn_forecast",
    "pretraining",
    "preview",
    "ranking",
    "read_cases",
    "read_plan",
    "report",
    "run",
    "score",
    "segment",
    "specialist",
    "support_set",
    "train",
    "train_elsewhere",
    "would_read",
]
FORMATS = ("csv", "parquet", "jsonl")


@dataclass(frozen=True)
class Answer:
    """What `segment` made.

    Attributes:
        path: the written file.
        model: its spec.
        labels: label id in the file -> structure.
        voxels, ml: foreground by structure.
        quality: the model's own predicted DSC by structure, None where it predicts none.
        findings: what was odd about the scan and what was done about it, and what to doubt in the answer.
        seconds: from the encoded volume to the last mask, loading not counted.
        presence: the model's probability that a structure is in the scan at all, None where it predicts none; below
            0.5 its mask is empty.
    """

    path: Path
    model: str
    labels: Mapping[int, str]
    voxels: Mapping[str, int]
    ml: Mapping[str, float]
    quality: Mapping[str, float | None]
    findings: tuple[str, ...]
    seconds: float
    presence: Mapping[str, float | None] = field(default_factory=dict)


def inspect(paths: Sequence[Path | str], **reading: Any) -> list[io.Inspection]:
    """What files hold, what is odd about them, and what Segwise would do; `reading` as `segment`."""
    return [found for path in paths for found in io.inspect(path, **reading)]


def cases(data: Path | str, *, layout: str | None = None) -> list[dict[str, Any]]:
    """The cases of a data set: id, subject, geometry, and every target with voxels and centroid.

    Raises:
        DatasetError: the folder is of no known layout.
    """
    _, found = inventory.find(Path(data), layout)
    return inventory.inventory(found)


def check_plan(plan: Plan) -> None:
    """Refuse what is wrong with a plan whatever the data: names of members, and its scenario.

    Raises:
        PlanError: all that is wrong.
    """
    if plan.scenario:
        scenario.read(plan.scenario)
    if plan.study is None:
        expand.check(plan)


def read_cases(data: Path | str, *, layout: str | None = None) -> list[Case]:
    """The cases of a data set, nothing of them read yet.

    Raises:
        DatasetError: the folder is of no known layout.
    """
    return inventory.find(Path(data), layout)[1]


def run(
    found: Preview,
    out: Path | str,
    *,
    workers: int = 1,
    progress: Tick | None = None,
    expect: Expect | None = None,
    command: Sequence[str] = (),
    features: Path | None = None,
) -> Path:
    """Run what a preview found, score it, and write the report; the report's path. Called again it resumes.

    Args and errors as `evaluate.compare.run`.
    """
    from segwise.decide import for_report

    check_plan(found.plan)  # a wrong one is told before anything is computed
    try:
        experiments.run(
            found, out, workers=workers, progress=progress, expect=expect, command=command, features=features
        )
    finally:
        for_report.keep(out, found.plan.scenario)
    return report(out)


def report(path: Path | str) -> Path:
    """Write RUN/report.html from the records of a run; its path.

    Raises:
        RunError: not a run, or nothing in it has finished.
    """
    from segwise.decide.for_report import sections
    from segwise.report import build

    return build(Path(path), more=sections(path))


def ranking(path: Path | str) -> list[dict[str, str]]:
    """The order of models and prompters as the report has it, one row an arm, for a terminal."""
    from segwise.report import rows

    store = Run.read(path)
    return rows(store.records(), store.scores())


def export(path: Path | str, *, format: str = "csv", out: Path | None = None) -> None:
    """Write all scores of a run as a table: to a file, or to standard output (csv and jsonl).

    Raises:
        SpecError: an unknown format. FileError: the file cannot be written. RunError: not a run, or nothing in it is
            finished yet.
    """
    if format not in FORMATS or (format == "parquet" and out is None):
        wanted = "parquet needs -o FILE" if format == "parquet" else f"expected {', '.join(FORMATS)}"
        raise SpecError(f'--format "{format}": {wanted}')
    rows = experiments.export_rows(path)  # refused before anything is written
    try:
        if format == "parquet" and out is not None:
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(list(rows)), out)
        elif out is not None:
            with out.open("w", encoding="utf-8", newline="") as stream:
                _write_rows(rows, format, stream)
        else:
            _write_rows(rows, format, sys.stdout)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise FileError(f"{out}: cannot be written ({error.strerror})") from error


def demo(out: Path | str, *, progress: Tick | None = None, expect: Expect | None = None, workers: int = 1) -> Path:
    """Make the built-in scans in OUT-data, compare models on them, and write the report; its path."""
    from segwise.demo import plan_with_what_is_here, write_cases

    data = write_cases(Path(out).with_name(Path(out).name + "-data"), progress=progress)
    found = preview(plan_with_what_is_here(), data)
    return run(found, out, workers=workers, progress=progress, expect=expect, command=("demo", "-o", str(out)))


def segment(
    image: Path | str,
    model: str,
    out: Path | str,
    *,
    boxes: Sequence[str] = (),
    points: Sequence[str] = (),
    texts: Sequence[str] = (),
    mm: bool = False,
    modality: str = "",
    **reading: Any,
) -> Answer:
    """Segment one scan and write the mask on its exact grid.

    Boxes and points describe one target together. Each text is a target of its own; a model that takes only text and
    is given none is asked for all it knows.

    Args:
        image: file, DICOM folder or zip.
        model: spec.
        out: .nii, .nii.gz, .nrrd or .mha.
        boxes: "d0,h0,w0,d1,h1,w1", half-open voxels; with `mm` "x0,y0,z0,x1,y1,z1" in RAS.
        points: "d,h,w,+" or "d,h,w,-"; with `mm` "x,y,z,+". The sign may be left out for "+".
        texts: names of structures.
        mm: see above.
        modality: "CT" or "MR" where the file does not say.
        reading: `series`, `volume`, `spacing_mm` of `io.read`.

    Raises:
        PromptError: a malformed prompt, one that the model does not take, or one outside the scan.
        NoSuchStructure: a text that the model does not know.
        FileError: the scan cannot be read, or the mask not written, or it would replace the scan.
    """
    io.must_be_free(Path(out), Path(image))
    info = assemble.model_info(model)
    built = assemble.build(model)
    scan = io.read(image, modality=modality, **reading)
    volume = named(scan.volume, modality)
    prompts = prompts_of(info, volume.grid, boxes=boxes, points=points, texts=texts, mm=mm)
    session = Session(built.segmenter, volume, store=FeatureStore())
    start = time.perf_counter()
    predictions = session.say(prompts)
    masks = {name: found.array[0] for name, found in session.masks().items()}
    seconds = time.perf_counter() - start
    labels = {i + 1: name for i, name in enumerate(masks)}
    painted = np.zeros(volume.grid.shape, dtype=np.uint16)
    for label, name in labels.items():
        painted[masks[name]] = label
    io.write_mask(out, painted, scan.header, names=labels)
    voxel_ml = abs(float(np.linalg.det(volume.grid.affine[:3, :3]))) / 1000
    voxels = {name: int(mask.sum()) for name, mask in masks.items()}
    presence = {n: None if p.presence is None else float(p.presence) for n, p in predictions.items()}
    return Answer(
        path=Path(out),
        model=str(info.spec),
        labels=labels,
        voxels=voxels,
        ml={name: n * voxel_ml for name, n in voxels.items()},
        quality={n: None if p.quality is None else float(p.quality[p.best]) for n, p in predictions.items()},
        findings=(
            *(str(finding) for finding in scan.findings if finding.level != "note"),
            *doubts(info, volume, voxels, presence),
        ),
        seconds=seconds,
        presence=presence,
    )


def train(
    name: str,
    out: Path | str,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    makers: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train a model that ships with Segwise, or go on where the folder's last checkpoint stands.

    Args:
        name: a recipe, as in `segwise list recipes`.
        out: folder of checkpoint, log and weights.
        minutes: stop after so long; the next call goes on. None: to the end of the schedule.
        steps: optimiser steps of the whole schedule; None: the recipe's own.
        seed: of everything drawn.
        device: "cpu", "cuda", "cuda:1", "mps".
        threads, makers: threads of the training and processes that make samples; None: the recipe's own.
        progress: told steps done, steps of all, seconds left and measures after every batch.

    Raises:
        TrainingError: no such recipe, the folder holds another training, is in use or cannot be written, or the
            training came to a number that is none.
    """
    from segwise.training import names as recipes

    recipe = recipes.load(name, seed=seed, steps=steps)
    from segwise.training import loop

    changed: dict[str, Any] = {
        key: value for key, value in {"threads": threads, "makers": makers}.items() if value is not None
    }
    recipe = replace(recipe, settings=replace(recipe.settings, **changed))
    words = ["segwise", "train", name, *(["--steps", str(steps)] if steps else []), "--seed", str(seed)]
    known: dict[str, Any] = {
        "command": " ".join(words),
        "versions": loop.versions(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    known |= {"device": device, "threads": recipe.settings.threads}
    return loop.train(recipe, Path(out), minutes=minutes, device=device, known=known, progress=progress)


def adaptation(model: str, who: Who, out: Path | str, budget: Budget, *, tick: Tick | None = None) -> Learning:
    """A promptable model with an adapter, ready to be tuned on labelled cases; see `segwise.learn`."""
    from segwise import learn as room

    return room.adaptation(model, who, Path(out), budget, tick=tick)


def specialist(
    model: str, who: Who, out: Path | str, budget: Budget, *, tick: Tick | None = None, **planned: Any
) -> Learning:
    """A specialist, ready to be trained on labelled cases; see `segwise.learn`."""
    from segwise import learn as room

    return room.specialist(model, who, Path(out), budget, tick=tick, **planned)


def pretraining(
    model: str,
    who: Who,
    out: Path | str,
    budget: Budget,
    *,
    mask_ratio: float = 0.6,
    target: Any = "normalised",
    unit: int = 0,
    **planned: Any,
) -> Learning:
    """The encoder of a specialist, ready to be trained on scans without labels; see `segwise.pretrain`."""
    from segwise import pretrain as room
    from segwise.training.masked import Masking

    masking = Masking(ratio=mask_ratio, target=target, unit=unit)
    return room.pretraining(model, who, Path(out), budget, masking, **planned)


def elsewhere(model: str) -> bool:
    """Whether a specialist is trained by its own package (`train_elsewhere`), not by Segwise's loop."""
    from segwise import nnunet_package

    return nnunet_package.fits(model)


def train_elsewhere(who: Who, out: Path | str, budget: PackageBudget, **how: Any) -> Outcome:
    """Train nnU-Net by its own package; see `segwise.nnunet_package.train`. The folder is a model: `-m ./FOLDER`."""
    from segwise import nnunet_package

    return nnunet_package.train(who, Path(out), budget, **how)


def in_context(model: str) -> bool:
    """Whether a model is adapted by a support set (`support_set`), without any training."""
    from segwise import in_context as room

    return room.fits(model)


def support_set(model: str, who: Who, out: Path | str, **how: Any) -> SupportSet:
    """Write the support set of universeg from labelled cases; see `segwise.in_context.adapt`."""
    from segwise import in_context as room

    return room.adapt(model, who, Path(out), **how)


def learn(learning: Learning, out: Path | str, **how: Any) -> Outcome:
    """Train what `adaptation`, `specialist` or `pretraining` made ready; after the first two the folder is a model."""
    from segwise import learn as room

    return room.train(learning, Path(out), **how)


def learn_forecast(
    learning: Learning, *, device: str = "cpu", budget_gb: float | None = None, cheaper: bool = False
) -> Forecast:
    """What such a training will take, from a few steps of it; see `segwise.training.forecast.forecast`."""
    from segwise import learn as room

    return room.forecast(learning, device=device, budget_gb=budget_gb, cheaper=cheaper)


def _write_rows(rows: Iterable[Mapping[str, Any]], format: str, stream: TextIO) -> None:
    if format == "jsonl":
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    writer = csv.DictWriter(stream, experiments.COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
