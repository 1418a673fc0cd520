"""The command `segwise pretrain`: an encoder learns from scans without labels."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from segwise.cli import learning as beside
from segwise.cli import show as screen
from segwise.cli.weights import Json


def pretrain(
    model: Annotated[str, typer.Argument(help="Specialist with a transformer: unetr, swin-unetr or transunet.")],
    data: Annotated[Path, typer.Argument(help="Folder of scans, in a known layout or not; labels are not read.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of checkpoint, log and encoder.")],
    mask_ratio: Annotated[float, typer.Option(help="Share of a patch that is hidden, between 0 and 1.")] = 0.6,
    target: Annotated[
        str, typer.Option(help="What is to be said of it: voxels, or normalised (each hidden cube by its own mean).")
    ] = "normalised",
    unit: Annotated[
        int | None, typer.Option(min=1, help="Sides of a hidden cube in voxels; default: 16, or of a word.")
    ] = None,
    minutes: beside.Minutes = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1000,
    seed: beside.Seed = 0,
    device: beside.Device = "cpu",
    threads: beside.Threads = None,
    leave_out: Annotated[str, typer.Option(help="Subjects whose scans are not looked at, by commas.")] = "",
    modality: beside.Modality = "",
    split: beside.SplitFile = None,
    layout: beside.Layout = None,
    rate: Annotated[float, typer.Option(help="Greatest learning rate.")] = 5e-4,
    batch: Annotated[int, typer.Option(min=1, help="Patches a step.")] = 2,
    patch: Annotated[str, typer.Option(help="d,h,w voxels; default: planned.")] = "",
    spacing: Annotated[str, typer.Option(help="d,h,w mm; default: planned.")] = "",
    precision: beside.Precision = "auto",
    dry_run: beside.DryRun = False,
    budget_gb: beside.Budget = None,
    json: Json = False,
) -> None:
    """Train the encoder of a specialist on scans without labels: parts are hidden, it says what was there.

    Then: segwise train MODEL DATA --from DIR. Repeat the command to go on where it stopped.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or 1))  # before numpy comes
    from segwise import api

    who = beside.who(data, layout, None, 1.0, leave_out, "", split, seed, modality)
    beside.ready(device, budget_gb, dry_run=dry_run)
    budget = beside.budget(steps, rate, batch, seed, precision)
    with screen.progress() as tick:
        made = api.pretraining(
            model,
            who,
            out,
            budget,
            mask_ratio=mask_ratio,
            target=target,
            unit=unit or 0,
            patch=beside.three(patch, int, "--patch"),
            spacing_mm=beside.three(spacing, float, "--spacing"),
            tick=tick,
        )
    (n, m), parts = made.cases, made.split
    people = f"{beside.counted(len(parts.train), 'subject')} ({beside.counted(n, 'scan')})"
    typer.echo(
        f"{made.model}, encoder: {people} to learn from, {len(parts.valid)} ({m}) for the curve, {len(parts.test)} not "
        f"looked at; {mask_ratio:.0%} hidden, {made.trained:,} of {made.parameters:,} parameters are trained",
        err=True,
    )
    if beside.forecast_only(made, device, budget_gb, dry_run=dry_run, json=json, ways=("--patch",)):
        return
    with beside.shown() as report:
        found = api.learn(
            made, out, minutes=minutes, device=device, threads=threads, command=beside.typed(), progress=report
        )
    if json:
        screen.data(found)
        return
    beside.told(str(made.model), found, out)
    typer.echo(f'start from it: segwise train "{made.model}" DATA -o DIR --from {shlex.quote(str(out))}')
