"""The commands `segwise distill` and `segwise convert`: parse, call, show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segwise.cli import learning as training
from segwise.cli import show as screen
from segwise.cli.weights import Json
from segwise.errors import SpecError

if TYPE_CHECKING:
    from segwise.training.fidelity import Fidelity

STEPS, RATE = 2000, 1e-3


def distill(
    teacher: Annotated[str, typer.Argument(help="Promptable model to learn from: litemedsam, sam, ./DIR, default.")],
    out: training.Out,
    data: Annotated[
        Path | None, typer.Argument(help="Folder of scans, labelled or not; none for default: generated regions.")
    ] = None,
    student: Annotated[str, typer.Option(help="small (a quarter of the teacher) or tiny (a sixteenth).")] = "small",
    minutes: training.Minutes = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = STEPS,
    seed: training.Seed = 0,
    device: training.Device = "cpu",
    threads: training.Threads = None,
    target: training.Targets = None,
    modality: training.Modality = "",
    fraction: training.Fraction = 1.0,
    leave_out: training.LeaveOut = "",
    fold: training.Fold = "",
    split: training.SplitFile = None,
    layout: training.Layout = None,
    rate: Annotated[float, typer.Option(help="Greatest learning rate.")] = RATE,
    batch: training.Batch = 2,
    precision: training.Precision = "auto",
    report: Annotated[bool, typer.Option(help="Compare both on the held-out subjects at the end.")] = True,
    dry_run: training.DryRun = False,
    budget_gb: training.Budget = None,
    json: Json = False,
) -> None:
    """Teach a small model to answer like a large one; no labels needed. Writes a model folder and fidelity.json.

    Repeat the command to go on where it stopped.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or 1))
    from segwise import api, distilling

    who = None
    if data is None:
        chosen = {
            "--target": target,
            "--modality": modality,
            "--fraction": fraction != 1,
            "--leave-out": leave_out,
            "--fold": fold,
            "--split": split,
            "--layout": layout,
        }
        if given := [option for option, value in chosen.items() if value]:
            raise SpecError(
                f"{', '.join(given)} came without scans to choose from; expected their folder too: segwise distill "
                f"{teacher} DATA"
            )
    else:
        who = training.who(data, layout, target, fraction, leave_out, fold, split, seed, modality)
    training.ready(device, budget_gb, dry_run=dry_run)
    budget = training.budget(steps, rate, batch, seed, precision)
    with screen.progress() as tick:
        made = distilling.distillation(teacher, who, out, budget, student=student, tick=tick)  # type: ignore[arg-type]
    big, small = made.sizes
    typer.echo(f"{made.teacher}: {big:,} parameters; its {student} student: {small:,} ({small / big:.1%})", err=True)
    if line := made.learning.split.lost:
        screen.note(f"warning: {line}")
    if dry_run:
        told = api.learn_forecast(made.learning, device=device, budget_gb=budget_gb)
        screen.data(told) if json else typer.echo(training.expected(told, budget_gb, ways=()))
        return
    with training.shown() as shown:
        found, fidelity = distilling.distill(
            made,
            out,
            report=report,
            minutes=minutes,
            device=device,
            threads=threads,
            command=training.typed(),
            progress=shown,
        )
    if json:
        screen.data(found if fidelity is None else fidelity.content)
        return
    training.told(str(made.student), found, out)
    if fidelity is not None:
        typer.echo(table(fidelity))
    typer.echo(f"use it like any model: segwise compare DATA -m {training.folder(out)}")


def table(told: Fidelity) -> str:
    """The report for a person."""
    n = len(told.subjects)
    others = {
        "train": f"{n} subjects that it learned from (nobody was held out)",
        "generated": "generated regions that it never saw",
    }
    who = others.get(told.held, f"{n} held-out subject{'s' * (n != 1)}")
    lines = [
        f"{told.n} questions about {who}: DSC of the student's masks with the teacher's {told.agreement:.3f} (worst "
        f"subject {told.least:.3f})",
        f"{'':<12}{'parameters':>12}{'file':>10}{'s a look':>10}{'memory':>10}{'DSC':>7}",
    ]
    for name, cost, dsc in (("teacher", told.teacher, told.teacher_dsc), ("student", told.student, told.student_dsc)):
        memory = "-" if cost.memory_gb is None else f"{cost.memory_gb:.2f} GB"
        score = "-" if dsc is None else f"{dsc:.3f}"
        lines.append(
            f"{name:<12}{cost.parameters:>12,}{cost.file_bytes / 1e6:>7.1f} MB{cost.seconds:>10.3f}{memory:>10}"
            f"{score:>7}"
        )
    return "\n".join(lines)


def convert(
    model: Annotated[
        str, typer.Argument(help="sam, litemedsam, medsam, default, also with adapters, or a folder of one.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The model folder to be.")],
    precision: Annotated[str, typer.Option(help="bf16 (half the size of float32) or int8 (a quarter).")] = "bf16",
    json: Json = False,
) -> None:
    """Write the weights of a model in fewer bits, as a model folder, and say what that changes.

    Adapters (lora, qlora, samed, ssf and those that add nothing) are merged into a whole model.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from segwise import converting

    if precision not in ("bf16", "int8"):
        raise SpecError(f'--precision "{precision}": expected bf16 or int8')
    with screen.spinner(f"writing {model} as {precision}"):
        told = converting.convert(model, out, precision)  # type: ignore[arg-type]
    if json:
        screen.data(told)
        return
    typer.echo(
        f"{told.precision}: {told.n_bytes / 1e6:.2f} MB instead of {told.n_bytes_before / 1e6:.2f} MB in float32; a "
        f"phantom's logits differ by {told.mean:.3g} in the mean and {told.greatest:.3g} at most (their deviation is "
        f"{told.deviation:.3g}); DSC of the masks {told.agreement:.4f}"
    )
    typer.echo(f"use it like any model: segwise compare DATA -m {training.folder(out)}")
