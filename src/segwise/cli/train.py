"""The command `segwise train`: parse, train, show how far it is."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from segwise.cli import show as screen
from segwise.cli.weights import Json

if TYPE_CHECKING:
    from segwise.training.loop import Outcome

Report = Callable[[int, int, float, Mapping[str, float]], None]
SHOWN_EVERY_S = 10.0


def train(
    name: Annotated[str, typer.Argument(help="Recipe, as in segwise list recipes.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of checkpoint, log and weights.")],
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long; repeat to go on.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of the whole schedule; default: the recipe's own.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    device: Annotated[str, typer.Option(help="Where the net is trained: cpu, cuda, cuda:1, mps.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the training; default: the recipe's, 1 where nothing is said.")
    ] = None,
    makers: Annotated[
        int | None, typer.Option(min=0, help="Processes beside it that make samples; default: the recipe's.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a model that ships with Segwise, from nothing and on made-up volumes. Repeat to go on where it stopped."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or 1))  # before numpy comes, and for the makers
    from segwise import api

    with _shown() as report:
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
        _told(name, found, out)


def words(step: int, steps: int, left_s: float, measures: Mapping[str, float]) -> str:
    """How far a training is, for a person."""
    parts = [f"step {step:,} of {steps:,}"]
    parts += [
        f"{key.removeprefix('valid_')} {value:.4g}" for key, value in measures.items() if key.startswith("valid_")
    ]
    parts += [f"loss {measures['loss']:.4g}"] if "loss" in measures else []
    parts += [f"about {_time(left_s)} left"] if 0 < left_s < math.inf else []
    return ", ".join(parts)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _told(name: str, found: Outcome, out: Path) -> None:
    scores = "".join(f", {key.removeprefix('valid_')} {value:.4g}" for key, value in found.measures.items())
    typer.echo(f"{name}: {found.step:,} steps in {_time(found.seconds)}{scores}")
    if not found.finished:
        typer.echo("its schedule is not at its end: repeat the command to go on")
    for path in found.files:
        screen.done("Weights", path)
    screen.done("Log", out / "log.csv")


@contextlib.contextmanager
def _shown() -> Iterator[Report]:
    """A line that changes where a person watches, a line now and then where nobody does; on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with console.status("setting up") as status:
        yield lambda *state: status.update(words(*state))


class _Lines:
    """A line now and then, for logs: the first batch, every ten seconds, the end."""

    def __init__(self) -> None:
        self._last = -SHOWN_EVERY_S

    def __call__(self, step: int, steps: int, left_s: float, measures: Mapping[str, float]) -> None:
        now = time.monotonic()
        if step >= steps or now - self._last >= SHOWN_EVERY_S:
            self._last = now
            typer.echo(words(step, steps, left_s, measures), err=True)
