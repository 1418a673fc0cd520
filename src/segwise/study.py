"""Plans that train first: every model on every share of the training subjects, then all compared on other subjects.

What is trained lies in RUN-models, a model folder each; one that is finished is taken as it is, so that a study can be
stopped and taken up again. Without data a study makes its own persons, of a family that no shipped model ever saw.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from segwise import assemble, in_context, learn, nnunet_package, persons
from segwise.case import Case
from segwise.decide import scenario
from segwise.engine import Failure, Group, Pool
from segwise.errors import PlanError, TrainingError
from segwise.evaluate import compare
from segwise.evaluate.expand import expand
from segwise.evaluate.sources import Source, read_sources
from segwise.records.types import Choice, Plan, Study, Training
from segwise.spec import of_folder, parse
from segwise.teaching import Part, Teaching
from segwise.training import splits
from segwise.training.loop import Progress
from segwise.weights import folders

Say = Callable[[str, float, int], None]  # what is trained, seconds left, trainings left whose model is not timed yet


def parts(plan: Plan, cases: Sequence[Case], out: Path) -> list[Part]:
    """All trainings of a study, in order.

    Raises:
        CatalogError: a model or adapter is not there, or has no such argument.
        SpecError: no spec can name the folder of the models.
        TrainingError: fewer subjects than a fold or a fraction needs.
    """
    of_folder(models_of(out).resolve())  # refused before anything is trained
    plan = teachable(plan, cases)[0]
    study = plan.study
    assert study is not None
    usable = splits.usable(cases, targets=plan.targets, modality=study.modality)
    found = list(_parts(study, usable, out))
    _fusible(found, usable)
    return found


def teachable(plan: Plan, cases: Sequence[Case]) -> tuple[Plan, list[str]]:
    """The plan with those of its targets that every training has somebody to learn from, and what is left out.

    Raises:
        PlanError: that leaves no target.
        TrainingError: fewer subjects than a fold or a fraction needs.
    """
    study = plan.study
    lacking: dict[str, set[str]] = {}
    assert study is not None
    while True:
        fit = splits.usable(cases, targets=plan.targets, modality=study.modality)
        having = {name: {case.subject for case in fit if case.structure(name)} for name in plan.targets}
        learned = _learned(study, fit) if plan.targets else []
        lost = {name: who for name, who in having.items() if who and any(not who & one for one in learned)}
        if not lost:
            return plan, [
                f"left out: {name}, named in {', '.join(sorted(who))} only: one of the trainings would have nobody"
                for name, who in lacking.items()
            ]
        lacking |= lost
        plan = dataclasses.replace(plan, targets=tuple(name for name in plan.targets if name not in lost))
        if not plan.targets:
            told = "; ".join(f"{name} in {', '.join(sorted(who))} only" for name, who in lacking.items())
            raise PlanError(
                f"{plan.name}: one of the trainings would have nobody to learn any target from ({told}); expected "
                "another subject with one of them: add cases, or name other targets"
            )


def _learned(study: Study, cases: Sequence[Case]) -> list[set[str]]:
    """The subjects of each training on real cases alone; generated persons have what the plan asks for."""
    if all(training.on != "real" for training in study.models):
        return []
    if len(splits.subjects(cases)) == 1:
        return [set()]
    draws = [(test, f, seed) for test in _tests(study, cases) for f in study.fractions for seed in range(study.seeds)]
    return [set(splits.split(cases, seed=seed, left_out=test, fraction=f).train) for test, f, seed in draws]


def _fusible(parts: Sequence[Part], cases: Sequence[Case]) -> None:
    """What fuses channels is refused before the first training, not after it, where there is one channel."""
    fused = next((part.training.model for part in parts if _fusion(part.training.model) not in ("", "early")), "")
    case = next((case for case in cases if not case.broken), None)
    if fused and case is not None and len(case.volume().channels) < 2:
        raise PlanError(
            f"{fused}: fuses channels, and {case.id} has one; expected two or more (further images beside a case.json "
            'are read with --layout "case-json(channels=true)")'
        )


def _fusion(model: str) -> str:
    return str(parse(model).args.get("fusion", ""))


def _parts(study: Study, cases: Sequence[Case], out: Path) -> Iterator[Part]:
    for training in study.models:
        _check(training)
    for k, test in enumerate(_tests(study, cases)):
        for training in study.models:
            for fraction in study.fractions:
                for seed in range(study.seeds):
                    splits.split(cases, seed=seed, left_out=test, fraction=fraction)  # refused before anything is done
                    name = _plain(training.model) + ("" if training.on == "real" else f"-{training.on}")
                    recipe = f"{name}-{round(100 * fraction)}"
                    folder = models_of(out) / (f"{recipe}-s{seed}-f{k}" if study.folds else f"{recipe}-s{seed}")
                    yield Part(_steps(training), fraction, seed, test, folder, recipe, k if study.folds else None)


def _check(training: Training) -> None:
    """A wrong spec is met before the first training, not hours later."""
    model = training.model
    spec = parse(model)
    assemble.model_info(spec)
    if nnunet_package.fits(model) and training.batch != Training.batch:
        raise PlanError(f"study.models: {model} plans its batch itself: leave batch = {training.batch} out")
    if not spec.plus and not in_context.fits(model) and not nnunet_package.fits(model):
        learn.trainable(spec)


def _steps(training: Training) -> Training:
    """A support set takes none."""
    return dataclasses.replace(training, steps=0) if in_context.fits(training.model) else training


def left(parts: Sequence[Part]) -> tuple[float, int]:
    """Seconds that the trainings that are not done will take, and how many more are of models that none is timed of.

    A model takes as long as it did on average, on however many subjects: its steps are the same.
    """
    known: dict[str, list[float]] = defaultdict(list)
    todo = []
    for part in parts:
        if not part.finished:
            todo.append(part.training.model)
        elif took := folders.read(part.folder).trained.get("seconds"):
            known[part.training.model].append(float(took))
    timed = [fmean(known[model]) for model in todo if known[model]]
    return sum(timed), len(todo) - len(timed)


def models_of(out: Path) -> Path:
    """Beside the folder of the run: its models."""
    return out.with_name(f"{out.name}-models")


def _tests(study: Study, cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """The subjects that are tested, once for each fold."""
    everyone = splits.subjects(cases)
    if study.folds:
        n = len(everyone) if study.folds < 0 else study.folds
        return [splits.fold(cases, k=k, n=n).test for k in range(n)]
    return [splits.split(cases, valid=study.test, seed=9).valid or everyone[-1:]]


def run(
    plan: Plan,
    data: Path,
    out: Path,
    *,
    others: Sequence[Path] = (),
    layout: str | None = None,
    tick: learn.Tick | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
    command: Sequence[str] = (),
    workers: int = 1,
) -> list[Plan]:
    """Train all that a study trains; plans that compare it, one a fold.

    Args:
        plan: with a study.
        data: folder of the data set.
        out: folder of the run.
        others: folders of data sets that nothing is trained on; all of their cases are tested.
        layout: of the data set.
        tick: told how far the preparation of cases is.
        say: told what is about to be trained, and what is left.
        progress: of each training.
        command: for the model folders.
        workers: trainings at once, each in a process of its own that tells nothing on its way.

    Raises:
        PlanError: the plan has no study, folds and several data sets, or no target that can be taught and tested.
        TrainingError: a training cannot begin or go on.
        PlanError, WeightsError, RunError: what the comparison would refuse after the trainings, before the first.
    """
    if plan.study is None:
        raise PlanError(f"{plan.name}: nothing to train: the plan has no study")
    study = plan.study
    read = read_sources([data, *others], layout)
    cases = read[0].cases
    plan, lacking = teachable(plan, cases)
    if say is not None:
        for text in lacking:
            say(text, 0.0, 0)
    if others and study.folds:
        raise PlanError(f"{plan.name}: folds test every subject of one data set, and {1 + len(others)} came")
    all_parts = parts(plan, cases, out)
    _comparable(plan, read, all_parts, out)
    generated = None
    if study.generated[1]:
        where = out.with_name(f"{out.name}-generated")
        generated = persons.write(*study.generated, "study.generated", persons.EXTRA, where, tick)
    teaching = Teaching(plan, data, generated, layout, read[0].name, tuple(command))
    if workers > 1:
        _at_once(teaching, all_parts, workers, say)
    for i, part in enumerate(all_parts):
        if not part.finished:
            if say is not None:
                say(f"training {i + 1} of {len(all_parts)}: {part.words}", *left(all_parts))
            teaching.teach(part, tick=tick, progress=progress)
    return [_compared(plan, test, read, all_parts) for test in dict.fromkeys(part.test for part in all_parts)]


def _at_once(teaching: Teaching, all_parts: Sequence[Part], workers: int, say: Say | None) -> None:
    """All trainings that are not finished, so many at once.

    Raises:
        TrainingError: one of them did not come to its end; those beside it stop where their last checkpoints are.
    """
    todo = [part for part in all_parts if not part.finished]
    done = len(all_parts) - len(todo)
    if todo and say is not None:
        seconds, untimed = left(all_parts)
        say(f"{done} of {len(all_parts)} trainings done, {workers} at once", seconds / workers, untimed)
    groups = [Group(part.training.model, (part,)) for part in todo]
    for part, outcome in Pool(workers).map(teaching, groups):
        if isinstance(outcome, Failure):
            raise TrainingError(f"{part.words}: {outcome.reason}; what is done is kept: repeat to go on")
        done += 1
        if say is not None:
            seconds, untimed = left(all_parts)
            say(f"{done} of {len(all_parts)} trainings done, last {part.words}", seconds / workers, untimed)


def _comparable(plan: Plan, read: Sequence[Source], all_parts: Sequence[Part], out: Path) -> None:
    """Refuse now what the comparison after the trainings would refuse: it is laid out with the untrained specs."""
    if plan.scenario:
        scenario.read(plan.scenario)
    learned = dict.fromkeys(part.training.model for part in all_parts)
    tasks = []
    for test in dict.fromkeys(part.test for part in all_parts):
        one = _compared(plan, test, read, ())
        found = expand(dataclasses.replace(one, models=tuple(dict.fromkeys((*one.models, *learned)))), read)
        given = {str(assemble.model_info(model).spec) for model in (*plan.models, *(p.model for p in plan.pairs))}
        tasks += [task for task in found.tasks if task.model in given]
    compare.check(tasks, out)
    for part in all_parts:
        if nnunet_package.fits(part.training.model) and not part.finished:
            nnunet_package.ready(part.folder)


def _compared(plan: Plan, test: tuple[str, ...], read: Sequence[Source], all_parts: Sequence[Part]) -> Plan:
    """The plan of the comparison on some subjects: the models that did not see them, and those that are not trained.

    Raises:
        PlanError: a case of another data set is called like one of the first.
    """
    mine = [str(part.folder.resolve()) for part in all_parts if part.test == test]
    assert plan.study is not None
    fit = [splits.usable(one.cases, targets=plan.targets, modality=plan.study.modality) for one in read]
    more = [case.id for one in fit[1:] for case in one]
    if same := sorted({case.id for case in read[0].cases} & set(more)):
        raise PlanError(
            f"{plan.name}: {same[0]} is a case of {read[0].root} and of another data set; expected names that "
            "differ, as cases are chosen by them"
        )
    tested = [case for case in fit[0] if case.subject in test] + [case for one in fit[1:] for case in one]
    there = tuple(name for name in plan.targets if any(case.structure(name) for case in tested))
    return dataclasses.replace(
        plan,
        models=(*plan.models, *mine),
        cases=tuple(Choice(case=case.id) for case in tested),
        targets=there or plan.targets,  # where nobody has one, the names are told later
        persons=(),
        study=None,
    )


def _plain(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model).strip("-").replace("--", "-")
