"""The commands `segwise train` and `segwise adapt`: parse, train, show how far it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segwise.cli import show as screen
from segwise.cli.learning import (
    WAYS,
    Batch,
    Budget,
    Data,
    Device,
    DryRun,
    Fold,
    Fraction,
    Gather,
    Layout,
    LeaveOut,
    Loss,
    Minutes,
    Modality,
    Out,
    Precision,
    Rate,
    Recompute,
    Schedule,
    Seed,
    SplitFile,
    Steps,
    Targets,
    Threads,
    budget,
    counted,
    folder,
    forecast_only,
    held_gb,
    not_used,
    only_the_first_speaks,
    ready,
    shown,
    three,
    told,
    typed,
    who,
    words,
)
from segwise.cli.weights import Json
from segwise.errors import SpecError

if TYPE_CHECKING:
    from segwise.learn import Learning, Who


def train(
    name: Annotated[str, typer.Argument(help="Recipe (segwise list recipes), or with DATA a specialist, as unet.")],
    out: Out,
    data: Annotated[Path | None, typer.Argument(help="Folder of labelled cases, for a specialist.")] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    makers: Annotated[
        int | None, typer.Option(min=0, help="Processes beside it that make samples; default: the recipe's.")
    ] = None,
    target: Targets = None,
    modality: Modality = "",
    fraction: Fraction = 1.0,
    leave_out: LeaveOut = "",
    fold: Fold = "",
    split: SplitFile = None,
    layout: Layout = None,
    rate: Rate = None,
    batch: Batch = 2,
    loss: Loss = "dice-ce",
    schedule: Schedule = "cosine",
    patch: Annotated[str, typer.Option(help="Of a specialist: d,h,w voxels; default: planned.")] = "",
    spacing: Annotated[str, typer.Option(help="Of a specialist: d,h,w mm; default: planned.")] = "",
    from_: Annotated[
        Path | None, typer.Option("--from", help="Of a specialist: folder of segwise pretrain; its encoder and plan.")
    ] = None,
    gather: Gather = 1,
    recompute: Recompute = False,
    precision: Precision = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of nnunet: what --steps are cut into.")] = None,
    nnunet_env: Annotated[
        Path | None, typer.Option(help="Of nnunet: the environment with nnunetv2; default: SEGWISE_NNUNET_ENV.")
    ] = None,
    dry_run: DryRun = False,
    budget_gb: Budget = None,
    json: Json = False,
) -> None:
    """Train a specialist on labelled cases (with DATA), or a model that ships with Segwise (without).

    Repeat the command to go on where it stopped.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or 1))  # before numpy comes, and for the makers
    from segwise import api
    from segwise.training.together import in_turn

    planned = {
        "--patch": patch,
        "--spacing": spacing,
        "--dry-run": dry_run,
        "--budget-gb": budget_gb is not None,
        "--gather": gather != 1,
        "--recompute": recompute,
        "--batch": batch != 2,
        "--loss": loss != "dice-ce",
        "--schedule": schedule != "cosine",
        "--precision": precision != "auto",
        "--from": from_,
    }
    if data is not None:
        if makers is not None:
            raise SpecError(f"--makers is of a recipe; {name} makes its samples itself: leave it out")
        whom = who(data, layout, target, fraction, leave_out, fold, split, seed, modality)
        if api.elsewhere(name):
            how = {"minutes": minutes, "device": device, "threads": threads, "env": nnunet_env}
            _elsewhere(name, whom, out, planned, how, steps=steps, epochs=epochs, rate=rate, seed=seed, json=json)
            return
        if epochs is not None or nnunet_env is not None:
            raise SpecError(f"--epochs and --nnunet-env are of nnunet; {name} is trained for --steps here")
        given: dict[str, Any] = {
            "patch": three(patch, int, "--patch"),
            "spacing_mm": three(spacing, float, "--spacing"),
        }
        ready(device, budget_gb, dry_run=dry_run)
        more: dict[str, Any] = {"loss": loss, "schedule": schedule, "gather": gather, "recompute": recompute}
        with in_turn(device), screen.progress() as tick:
            made = api.specialist(
                name,
                whom,
                out,
                budget(steps or 1000, 1e-3 if rate is None else rate, batch, seed, precision, **more),
                start=from_,
                tick=tick,
                **given,
            )
        ways = (*WAYS, "--patch")
        _learn(made, out, minutes, device, threads, dry_run=dry_run, budget_gb=budget_gb, json=json, ways=ways)
        return
    planned |= {
        "--from": from_,
        "--rate": rate is not None,
        "--epochs": epochs,
        "--nnunet-env": nnunet_env,
        "--target": target,
    }
    planned |= {"--fraction": fraction != 1, "--leave-out": leave_out, "--fold": fold, "--split": split}
    planned |= {"--layout": layout, "--modality": modality}
    _without_data(name, [option for option, value in planned.items() if value])
    with shown() as report:
        found = api.train(
            name,
            out,
            minutes=minutes,
            steps=steps,
            seed=seed,
            device=device,
            threads=threads,
            makers=makers,
            progress=report,
        )
    if json:
        screen.data(found)
    else:
        told(name, found, out)


def _without_data(name: str, given: Sequence[str]) -> None:
    """Nothing, unless it is a model that is trained on a user's cases only, or something was said of such a training.

    Raises:
        SpecError: it is, or was.
    """
    from segwise import catalog
    from segwise.training import names as recipes

    if name not in recipes.names() and name.split("(", maxsplit=1)[0] in catalog.names("models"):
        raise SpecError(f"{name} is trained on your labelled cases; expected their folder: segwise train {name} DATA")
    if given:
        raise SpecError(
            f"{', '.join(given)}: of a specialist; expected DATA too, as in segwise train unet DATA, or without for "
            f"the recipe {name}, which says these itself"
        )


def _elsewhere(
    name: str,
    who: Who,
    out: Path,
    planned: Mapping[str, object],
    how: Mapping[str, object],
    *,
    json: bool,
    **budget: Any,
) -> None:
    """A specialist that its own package trains."""
    from segwise import api
    from segwise.nnunet_package import Budget as PackageBudget

    if given := [option for option, value in planned.items() if value]:
        raise SpecError(f"{name} plans these itself: leave out {', '.join(given)}; --steps and --epochs say how long")
    said = {key: value for key, value in budget.items() if value is not None}
    with screen.progress() as tick:

        def report(step: int, steps: int, left_s: float, measures: Mapping[str, float]) -> None:
            tick(step, steps, words(step, steps, 0.0, measures))

        found = api.train_elsewhere(who, out, PackageBudget(**said), **how, command=typed(), tick=tick, progress=report)
    not_used(out)
    if json:
        screen.data(found)
    else:
        told(name, found, out)
        typer.echo(f"use it like any model: segwise compare DATA -m {folder(out)}")


def adapt(
    model: Annotated[str, typer.Argument(help='Model with an adapter, as "litemedsam+lora(rank=4)".')],
    data: Data,
    out: Out,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    target: Targets = None,
    modality: Modality = "",
    fraction: Fraction = 1.0,
    leave_out: LeaveOut = "",
    fold: Fold = "",
    split: SplitFile = None,
    layout: Layout = None,
    rate: Rate = None,
    batch: Batch = 2,
    loss: Loss = "dice-ce",
    schedule: Schedule = "cosine",
    gather: Gather = 1,
    recompute: Recompute = False,
    precision: Precision = "auto",
    support: Annotated[
        int | None, typer.Option(min=1, help="Of universeg: slices of its support set; default 16.")
    ] = None,
    choose: Annotated[str, typer.Option(help="Of universeg: which slices, random or like (the query).")] = "",
    dry_run: DryRun = False,
    budget_gb: Budget = None,
    json: Json = False,
) -> None:
    """Tune a promptable model on labelled cases: only the adapter is trained and saved.

    Repeat the command to go on where it stopped. universeg is not trained: labelled slices become its support set.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or 1))
    from segwise import api
    from segwise.training.together import in_turn

    whom = who(data, layout, target, fraction, leave_out, fold, split, seed, modality)
    if api.in_context(model):
        trained = {
            "--dry-run": dry_run,
            "--budget-gb": budget_gb is not None,
            "--steps": steps,
            "--minutes": minutes is not None,
            "--rate": rate is not None,
            "--batch": batch != 2,
            "--loss": loss != "dice-ce",
            "--schedule": schedule != "cosine",
            "--gather": gather != 1,
            "--recompute": recompute,
            "--precision": precision != "auto",
            "--device": device != "cpu",
        }
        if given := [option for option, value in trained.items() if value]:
            raise SpecError(
                f"{model} takes no training, only one look at each case: leave out {', '.join(given)}; --support says "
                "how many slices it is shown"
            )
        _support(model, whom, out, {"support": support, "choose": choose or None}, json=json)
        return
    if support is not None or choose:
        raise SpecError(f"--support and --choose are of universeg; {model} is trained for --steps")
    ready(device, budget_gb, dry_run=dry_run)
    more: dict[str, Any] = {"loss": loss, "schedule": schedule, "gather": gather, "recompute": recompute}
    own = budget(steps or 300, 3e-4 if rate is None else rate, batch, seed, precision, **more)
    with in_turn(device), screen.progress() as tick:
        made = api.adaptation(model, whom, out, own, tick=tick)
    _learn(made, out, minutes, device, threads, dry_run=dry_run, budget_gb=budget_gb, json=json)


def _support(model: str, who: Who, out: Path, said: Mapping[str, Any], *, json: bool) -> None:
    """A support set is written, nothing is trained."""
    from segwise import api

    given = {key: value for key, value in said.items() if value is not None}
    with screen.progress() as tick:
        found = api.support_set(model, who, out, **given, command=typed(), tick=tick)
    not_used(out)
    if json:
        screen.data(found)
        return
    typer.echo(
        f"{model}: {found.pool} slices each of {', '.join(found.names)}, from {counted(found.subjects, 'subject')}"
    )
    for path in found.files:
        screen.done("Support set", path)
    typer.echo(f"use it like any model: segwise compare DATA -m {folder(out)}")


def _learn(
    made: Learning,
    out: Path,
    minutes: float | None,
    device: str,
    threads: int | None,
    *,
    dry_run: bool,
    budget_gb: float | None,
    json: bool,
    ways: Sequence[str] = WAYS,
) -> None:
    """Say what is about to be trained; forecast it or train it."""
    from segwise import api

    only_the_first_speaks()
    (n, m), split = made.cases, made.split
    typer.echo(
        f"{made.model}: {', '.join(made.names)}; {counted(len(split.train), 'subject')} ({counted(n, 'case')}) to "
        f"learn from, "
        f"{len(split.valid)} ({m}) for the curve, {len(split.test)} kept for testing; {made.trained:,} of "
        f"{made.parameters:,} parameters are trained ({made.trained / made.parameters:.2%}); weights, gradients and "
        f"optimiser take {held_gb(made):.3g} GB of memory, a batch comes on top (--dry-run measures it)",
        err=True,
    )
    if made.taken:
        saw = f"; it has seen scans of {', '.join(made.seen)}, who are kept for testing" if made.seen else ""
        typer.echo(f"{made.taken} tensors of its encoder are pre-trained{saw}", err=True)
    if forecast_only(made, device, budget_gb, dry_run=dry_run, json=json, ways=ways):
        return
    with shown() as report:
        found = api.learn(made, out, minutes=minutes, device=device, threads=threads, command=typed(), progress=report)
    if json:
        screen.data(found)
    else:
        told(str(made.model), found, out)
        typer.echo(f"use it like any model: segwise compare DATA -m {folder(out)}")
