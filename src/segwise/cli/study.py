"""`segwise run` on a plan that trains first: parse, call, show."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segwise.cli import show as screen
from segwise.cli.learning import duration, shown
from segwise.errors import RunError, SpecError

if TYPE_CHECKING:
    from segwise.evaluate.compare import Preview
    from segwise.records.types import Plan


def generated(plan: Plan, out: Path | None) -> list[Path]:
    """The folders of the persons that a plan makes where no data are given, beside the run; [] if it makes none.

    A family is a data set, but for one that lies in another's.
    """
    from segwise import persons

    if not plan.persons:
        return []
    if out is None:
        raise SpecError(f"{plan.name} makes its own persons, beside the run; give -o RUN")
    root = out.with_name(f"{out.name}-data")
    with screen.progress() as tick:
        made = [
            persons.write(*one, f"{plan.name}: persons", persons.FIRST, root / persons.HOME.get(one[0], one[0]), tick)
            for one in plan.persons
        ]
    return list(dict.fromkeys(made))


def studied(
    plan: Plan,
    data: list[Path],
    out: Path | None,
    *,
    layout: str | None,
    workers: int,
    features: Path | None,
    dry_run: bool,
) -> None:
    """Train what is not trained yet, compare on the subjects that were left out, write the report.

    Trained on the first data set; all cases of the others are tested.
    """
    from segwise import api, persons, study
    from segwise.evaluate import compare

    assert plan.study is not None
    if features is not None:
        compare.writable(features)
    if out is None and (not dry_run or not data):
        raise SpecError("nothing says where the models and the run go; give -o RUN")
    out = out or Path(plan.name)
    if not data:
        if not plan.study.persons[1]:
            raise SpecError(f"{plan.name} learns from your labelled cases: give --data FOLDER")
        with screen.progress() as tick:
            data = persons.of_plan(plan, out.with_name(f"{out.name}-data"), tick=tick)
    if dry_run:
        cases = api.read_cases(data[0], layout=layout)
        for text in study.teachable(plan, cases)[1]:
            screen.note(text)
        parts = study.parts(plan, cases, out)
        done = sum(part.finished for part in parts)
        tested = {subject for part in parts for subject in part.test}
        more = f", and those of {len(data) - 1} more data sets" if len(data) > 1 else ""
        typer.echo(f"{len(parts)} trainings, {done} of them done; {len(tested)} subjects are tested{more}")
        return
    with shown() as progress:
        plans = study.run(
            plan,
            data[0],
            out,
            others=data[1:],
            layout=layout,
            say=_begun,
            progress=progress,
            command=tuple(sys.argv[1:]),
            workers=workers,
        )
    previews = []
    for one in plans:
        previews.append(api.preview(one, data, layout=layout))
        screen.preview(previews[-1])
        with screen.progress() as tick:
            path = api.run(
                previews[-1],
                out,
                workers=workers,
                features=features,
                progress=tick,
                expect=tick.expect,
                command=tuple(sys.argv[1:]),
            )
    compared(previews, out, path)


def compared(previews: Sequence[Preview], out: Path, report: Path) -> None:
    """Show the ranking, the report, and what failed.

    Raises:
        RunError: no task has an answer.
    """
    from segwise import api
    from segwise.evaluate import compare

    screen.ranking(api.ranking(out))
    screen.done("Report", report)
    found = [compare.outcome(preview, out) for preview in previews]
    n, done, failed = (sum(getattr(one, key) for one in found) for key in ("n_tasks", "n_done", "n_failed"))
    reason = next((one.reason for one in found if one.reason), "")
    if n and not done:
        raise RunError(f"none of the {n} tasks has an answer ({reason}); the report lists them all: mend and repeat")
    if failed:
        screen.note(
            f"{failed} of {n} tasks failed ({reason}); the report lists them, and a repetition tries them again"
        )


def _begun(what: str, left_s: float, untimed: int) -> None:
    """What is trained now, and how long all trainings that are left will take."""
    told = [f"about {duration(left_s)} of training left"] if left_s else []
    told += [f"{untimed} of models that none is timed of yet"] if untimed else []
    screen.note("; ".join([what, " and ".join(told)]) if told else what)
