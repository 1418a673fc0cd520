"""The verbs: from a plan and a folder of data to a run folder with records and scores.

preview = compare.preview(plan, "data")      # pure: tasks and what is left out
compare.run(preview, "runs/mine")            # predict what is not done yet, then score
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwise import assemble, catalog, engine
from segwise.errors import CatalogError, DatasetError, PlanError, RunError, WeightsError
from segwise.evaluate import answerable, conditions, cost, expand, references
from segwise.evaluate import score as scoring
from segwise.evaluate.pace import Expect, Pace
from segwise.evaluate.predict import Setup
from segwise.evaluate.score import Tick
from segwise.evaluate.sources import Source, read_sources
from segwise.records import plan as plans
from segwise.records.run import Run, fit
from segwise.records.types import Plan, Record, Task, record_of

COLUMNS = (
    *("model", "dataset", "case", "subject", "target", "prompter", "seed", "round", "metric", "value", "reason"),
    *("status", "read_s", "encode_s", "prompt_s", "decode_s", "write_s", "peak_bytes", "n_interactions", "modality"),
    *("quality", "presence", "metric_spec", "task", "mask", "prompt", "weights", "condition"),
)


@dataclass(frozen=True)
class Preview:
    """What a plan comes to on some data, before anything is computed.

    Attributes:
        plan: as given.
        sources: the data sets.
        tasks: what would run.
        skipped: a record for each target that is left out, and for each case that cannot be read.
        left_out: reason -> how often.
        unanswered: what of the question these data cannot answer, a line each.
    """

    plan: Plan
    sources: tuple[Source, ...]
    tasks: tuple[Task, ...]
    skipped: tuple[Record, ...]
    left_out: Mapping[str, int]
    unanswered: tuple[str, ...] = ()


def plan_of(
    models: Sequence[str],
    prompters: Sequence[str] = (),
    *,
    targets: Sequence[str] = (),
    cases: Sequence[str] = (),
    metrics: Sequence[str] = (),
    seeds: int = 1,
) -> Plan:
    """The plan of `segwise compare`; no metrics means all.

    Raises:
        PlanError: a spec cannot be parsed, or something came twice.
    """
    content: dict[str, Any] = {
        "models": list(models),
        "prompters": list(prompters),
        "targets": list(targets),
        "cases": list(cases),
        "metrics": list(metrics or catalog.names("metrics")),
        "seeds": seeds,
    }
    return plans.build(content, name="compare", source="compare")


def named_plan(name: str) -> Plan:
    """A plan by the name of a shipped one or by its path.

    Raises:
        CatalogError: no such plan. PlanError: it is wrong.
    """
    path = Path(name)
    is_path = path.suffix == ".toml" or len(path.parts) > 1
    return plans.read(path if is_path else catalog.plan_path(name))


def preview(plan: Plan, data: Path | str | Sequence[Path | str], *, layout: str | None = None) -> Preview:
    """Which tasks a plan has on data, and what is left out and why. Reads no voxel and loads no weight.

    Raises:
        PlanError: a spec, case or target is wrong, some model has no task, or nothing of the question can be answered.
        DatasetError: the data are of no known layout.
    """
    found = read_sources([data] if isinstance(data, Path | str) else list(data), layout)
    expanded = expand.expand(plan, found)
    _each_once(expanded.tasks)
    lines = answerable.unanswered(plan, expanded.tasks)
    plan = expand.grouped(plan, found)
    return Preview(plan, tuple(found), expanded.tasks, expanded.skipped, expanded.left_out, lines)


def _each_once(tasks: Sequence[Task]) -> None:
    """Refuse cases that the records could not tell apart.

    Raises:
        DatasetError: two folders hold a case of one name in a data set of one name, or a folder came twice.
    """
    known: dict[str, Task] = {}
    for task in tasks:
        if (first := known.setdefault(task.id, task)) is not task:
            raise DatasetError(
                f"case {task.case} of the data set {task.dataset} came twice, from {first.root} and {task.root}; "
                "expected every case once: give each folder once, and folders of different names"
            )


def check(tasks: Sequence[Task], out: Path | str) -> None:
    """Refuse now what `run` refuses before it computes; nothing is written.

    Raises:
        PlanError, WeightsError: models that cannot be built, all of them together.
        RunError: `out` holds other things than a run.
    """
    fit(Path(out))
    _check_models(tasks)


@dataclass(frozen=True)
class Outcome:
    """How the tasks of a preview ended.

    Attributes:
        n_tasks: of the preview.
        n_done, n_failed: with an answer for one target at least; with a target that failed.
        reason: of the first target that failed, or that was skipped where none did; "" if there is none.
    """

    n_tasks: int
    n_done: int
    n_failed: int
    reason: str


def outcome(found: Preview, out: Path | str) -> Outcome:
    """What the folder of a run says of the tasks of a preview."""
    mine = {task.id: task for task in found.tasks}
    records = [record for record in Run.read(out).records() if record.task in mine]
    by_status = {status: [r for r in records if r.status == status] for status in ("done", "failed", "skipped")}
    first = next(iter((*by_status["failed"], *by_status["skipped"])), None)
    reason = "" if first is None else f"{mine[first.task].case}: {first.reason}"
    done, failed = (len({r.task for r in by_status[status]}) for status in ("done", "failed"))
    return Outcome(len(mine), done, failed, reason)


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
    """Predict what is not done yet, then score; the folder of the run. Called again it resumes.

    Args:
        found: from `preview`.
        out: folder of the run, new or old; an old one may have had another plan.
        workers: processes; 1 is this one.
        progress: called with (done, total, what).
        expect: called with the seconds that the rest will take, as tasks of the same model and prompter took so far,
            and how many tasks are of a model and prompter that none is timed of yet.
        command: how to repeat it, for the report.
        features: folder where encoded features are kept between runs, or None.

    Raises:
        WeightsError: models whose weights are missing, all of them together, before anything is computed.
        RunError: the folder is not a run, or another process is writing it; features cannot be kept where they should.
    """
    if features is not None:
        writable(features)
    with Run.write(out) as store:
        records = store.records()
        todo = _pending(found, records)
        _check_models(todo)
        _called_as_before(found, store)
        store.describe(_about(found, store, command, records))
        known = {record.key: record for record in records}
        store.add([r for r in found.skipped if r.key not in known or known[r.key].reason != r.reason])
        tick = progress or _silent
        where: engine.Engine = engine.Serial() if workers <= 1 else engine.Pool(workers)
        pace = Pace(todo, workers)
        tick(0, len(todo), "")
        for n, (task, outcome) in enumerate(where.map(Setup(store.path, features), _groups(todo)), start=1):
            failed = isinstance(outcome, engine.Failure)
            pace.done(task, where.took_s)
            if expect:
                expect(*pace.left())
            store.add(list(_failures(task, outcome)) if isinstance(outcome, engine.Failure) else outcome)
            tick(n, len(todo), f"{'failed: ' if failed else ''}{task.model} on {task.case}")
        scoring.score(store, progress=progress)
        store.compact()
    return Path(out)


def writable(features: Path) -> None:
    """Refuse a folder of features that cannot be written to.

    Raises:
        RunError: so it is.
    """
    try:
        features.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=features):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(
            f"encoded scans cannot be kept in {features} ({why}); expected a folder to write to: give another one"
        ) from error


def compare(
    data: Path | str | Sequence[Path | str],
    models: Sequence[str],
    prompters: Sequence[str] = (),
    *,
    out: Path | str,
    targets: Sequence[str] = (),
    cases: Sequence[str] = (),
    metrics: Sequence[str] = (),
    seeds: int = 1,
    layout: str | None = None,
    workers: int = 1,
    progress: Tick | None = None,
    dry_run: bool = False,
) -> Preview:
    """Compare models on the same cases with the same prompts. Errors as `preview` and `run`."""
    plan = plan_of(models, prompters, targets=targets, cases=cases, metrics=metrics, seeds=seeds)
    return run_plan(plan, data, out=out, layout=layout, workers=workers, progress=progress, dry_run=dry_run)


def run_plan(
    plan: Plan | str,
    data: Path | str | Sequence[Path | str],
    *,
    out: Path | str,
    layout: str | None = None,
    workers: int = 1,
    progress: Tick | None = None,
    dry_run: bool = False,
) -> Preview:
    """Run a plan, by itself, its name or its path, on data; what it came to."""
    found = preview(named_plan(plan) if isinstance(plan, str) else plan, data, layout=layout)
    if not dry_run:
        run(found, out, workers=workers, progress=progress)
    return found


def score(
    path: Path | str, metrics: Sequence[str] = (), *, data: Path | None = None, progress: Tick | None = None
) -> int:
    """Score the stored masks of a run; how many scores were written. Errors as `evaluate.score.score`.

    Raises:
        RunError: not a run folder, or nothing in it is finished yet.
    """
    _finished(path, "to score")
    with Run.write(path) as store:
        return scoring.score(store, metrics, data=data, progress=progress)


def export_rows(path: Path | str) -> Iterator[dict[str, Any]]:
    """A run as rows of `COLUMNS`: one a score (a curve's has round -1), one a record that has none.

    Raises:
        RunError: not a run folder, or nothing in it is finished yet; before the first row.
    """
    return _export_rows(*_finished(path, "to export"))


def _finished(path: Path | str, purpose: str) -> tuple[Run, list[Record]]:
    """A run with its records, of which there are some."""
    store = Run.read(path)
    records = store.records()
    if not records:
        raise RunError(f"{store.path} holds no finished task, so there is nothing {purpose}; run it first (it resumes)")
    return store, records


def _export_rows(store: Run, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    by_key = defaultdict(list)
    for item in store.scores():
        by_key[item.task, item.target, item.round].append(item)
    last = {(record.task, record.target): record for record in records if record.status == "done"}
    for record in records:
        scores = by_key.get(record.key, []) if record.status == "done" else []
        if last.get((record.task, record.target)) is record:
            scores = scores + by_key.get((record.task, record.target, -1), [])
        scores = [item for item in scores if item.mask == record.mask]
        for item in scores:
            own = {"round": item.round, "metric": item.measure, "metric_spec": item.metric}
            yield _row(record, {**own, "value": item.value, "reason": item.reason})
        if not scores:
            reason = record.reason or ("not scored yet" if record.status == "done" else "")
            yield _row(record, {"metric": "", "metric_spec": "", "value": None, "reason": reason})


def _row(record: Record, own: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**vars(record), **record.seconds, **own, "weights": record.doubt or _named(record)}
    return {name: whole.get(name) for name in COLUMNS}


def _named(record: Record) -> str:
    """ "known" for weights that a card names, "" for a model without or a record that does not say."""
    return "known" if record.provenance.get("weights") else ""


def _silent(done: int, total: int, what: str) -> None:
    """Progress that nobody watches."""


def _pending(found: Preview, records: Sequence[Record]) -> list[Task]:
    """The tasks with those of their targets that are not settled.

    That is: never tried, failed, of another reference, or of a model folder that holds other weights by now.
    """
    rounds: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        rounds[record.task, record.target].append(record)
    holds = {model: _weights(model) for model in dict.fromkeys(task.model for task in found.tasks)}
    settled = {key for key, own in rounds.items() if all(_settled(record, holds) for record in own)}
    cases = {(str(source.root), case.id): case for source in found.sources for case in source.cases}
    names: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for task in found.tasks:
        names[task.root, task.case, task.condition] |= dict.fromkeys(t for t in task.targets if (task.id, t) in settled)
    digests: dict[tuple[str, str, str, str], str] = {}
    for place, wanted in names.items():
        if wanted:
            masks = references.masks(conditions.under(cases[place[:2]], place[2]), list(wanted))
            digests |= {(*place, name): references.digest_of(mask) for name, mask in masks.items()}
    todo = []
    for task in found.tasks:
        left = tuple(
            t
            for t in task.targets
            if (task.id, t) not in settled
            or any(
                r.provenance["reference"] != digests[task.root, task.case, task.condition, t]
                for r in rounds[task.id, t]
            )
        )
        if left:
            todo.append(dataclasses.replace(task, targets=left))
    return todo


def _settled(record: Record, holds: Mapping[str, tuple[str, ...]]) -> bool:
    if record.status == "failed" or "reference" not in record.provenance:
        return False
    had, has = _of_card(record.provenance.get("card")), holds.get(record.model)
    return not had or not has or had == has


def _weights(model: str) -> tuple[str, ...]:
    """What the model folder in a spec holds, () if there is none, or none any more."""
    try:
        return _of_card({"learned": assemble.model_info(model).card.learned})
    except (CatalogError, WeightsError):
        return ()


def _of_card(card: Any) -> tuple[str, ...]:
    learned = card.get("learned") if isinstance(card, Mapping) else None
    found = learned.get("weights") if isinstance(learned, Mapping) else None
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


def _check_models(todo: Sequence[Task]) -> None:
    """Build every model once, so that all that cannot be built are said together before anything is computed."""
    missing, wrong = [], []
    for model in dict.fromkeys(task.model for task in todo):
        try:
            assemble.build(model)
        except WeightsError as error:
            missing.append(f"{model}: {error}")
        except CatalogError as error:
            wrong.append(f"{model}: {error}")
    if wrong:
        raise PlanError("\n".join(wrong + missing))
    if missing:
        raise WeightsError("\n".join(missing))


def _groups(todo: Sequence[Task]) -> list[engine.Group[Task]]:
    """Tasks of one base model and case together: they share features and the volume."""
    found: dict[tuple[str, str, str, str], list[Task]] = defaultdict(list)
    for task in todo:
        found[assemble.base_name(task.model), task.root, task.case, task.condition].append(task)
    return [engine.Group(model, tuple(tasks)) for (model, *_), tasks in found.items()]


def _failures(task: Task, failure: engine.Failure) -> Iterator[Record]:
    info = assemble.model_info(task.model)
    facts: dict[str, Any] = {"reason": failure.reason, "traceback": failure.traceback}
    for target in task.targets:
        yield record_of(task, target, 0, "failed", given=dict(info.given), resolved=dict(info.resolved), **facts)


def _called_as_before(found: Preview, store: Run) -> None:
    """Refuse folders whose data sets have other names in the run already: everybody would count twice.

    Raises:
        RunError: one has.
    """
    old = store.about().get("sources", []) if (store.path / "run.json").exists() else []
    before = {str(source["root"]): str(source.get("name", "")) for source in old}
    for source in found.sources:
        if (name := before.get(str(source.root), source.name)) != source.name:
            own = name or source.root.name
            raise RunError(
                f"{store.path} knows {source.root} as the data set {own}; with these folders it is called "
                f"{source.name or source.root.name}: give the same folders, or another -o"
            )


def _about(found: Preview, store: Run, command: Sequence[str], records: Sequence[Record]) -> dict[str, Any]:
    """What run.json says: the plan, all plans so far, where the data are, the command and the versions.

    `n_tasks` counts those of the plan and those of earlier plans that were tried: what a finished run holds.
    """
    old = store.about() if (store.path / "run.json").exists() else {}
    plan = dataclasses.asdict(found.plan)
    named = [{"root": str(s.root), "layout": s.layout, **({"name": s.name} if s.name else {})} for s in found.sources]
    earlier = [p for p in old.get("plans", []) if p != plan]
    return {
        "plan": plan,
        "plans": [*earlier, plan],
        "sources": [*(s for s in old.get("sources", []) if s not in named), *named],
        "command": list(command),
        "versions": cost.versions(),
        "git": cost.git_revision(),
        "left_out": dict(found.left_out),
        "unanswered": list(found.unanswered),
        "n_tasks": len({task.id for task in found.tasks} | {record.task for record in records if record.tried}),
    }
