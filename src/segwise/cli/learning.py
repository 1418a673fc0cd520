"""What the commands that learn share: their options, how these are read, and how a training is shown."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from segwise.cli import show as screen
from segwise.errors import SpecError
from segwise.spec import of_folder

if TYPE_CHECKING:
    from segwise.learn import Learning, Who
    from segwise.training.forecast import Forecast
    from segwise.training.labelled import Budget as LearnBudget
    from segwise.training.loop import Outcome
    from segwise.training.splits import Split

Report = Callable[[int, int, float, Mapping[str, float]], None]
SHOWN_EVERY_S = 10.0


Out = Annotated[Path, typer.Option("-o", "--out", help="Folder of checkpoint, log and weights: the model folder.")]
Data = Annotated[Path, typer.Argument(help="Folder of labelled cases.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Stop after so long; repeat to go on.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything drawn.")]
Device = Annotated[str, typer.Option(help="Where the net is trained: cpu, cuda, cuda:1, mps.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=512, help="Threads of the training; default: the recipe's, 1 where nothing is said."),
]
Layout = Annotated[str | None, typer.Option(help="Layout of the data set; default: recognised from the folder.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        "--target",
        "--targets",
        help="A structure to learn; repeat, or separate by commas. Default: those all training cases have.",
    ),
]
Modality = Annotated[str, typer.Option(help="Only cases of it: CT or MR; default: all.")]
Fraction = Annotated[float, typer.Option(help="Share of the training subjects that are used.")]
LeaveOut = Annotated[str, typer.Option(help="Subjects kept for testing, by commas.")]
Fold = Annotated[str, typer.Option(help="Instead: fold k of n, as 0/5; every subject is tested in one of them.")]
SplitFile = Annotated[Path | None, typer.Option(help="Instead: a split.json with the subjects by part.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps; default 300 to adapt, 1,000 to train.")]
Rate = Annotated[float | None, typer.Option(help="Greatest learning rate; default 3e-4 to adapt, 1e-3 to train.")]
Batch = Annotated[int, typer.Option(min=1, help="Slices or patches a step.")]
Gather = Annotated[
    int, typer.Option(min=1, help="Batches averaged for one step: as many samples more, the memory of one.")
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, about a third more time.")
]
Loss = Annotated[str, typer.Option(help="Of masks: dice-ce, dice-focal, dice or ce.")]
Schedule = Annotated[str, typer.Option(help="How the rate falls: cosine, or poly as nnU-Net's.")]
Precision = Annotated[str, typer.Option(help="auto (bf16 where the processor has it), bf16 or fp32.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how long it will take and how much memory.")]
Budget = Annotated[float | None, typer.Option(min=0, help="With --dry-run: memory in GB; says what fits.")]


WAYS = ("--gather", "--recompute")


def held_gb(made: Learning) -> float:
    """What a training holds whatever the batch: two sets of weights, gradients, two moments; 4 bytes a number."""
    return 4 * (2 * made.parameters + 3 * made.trained) / 1e9


def typed() -> list[str]:
    """The command as a shell takes it."""
    return ["segwise", *sys.argv[1:]]


def ready(device: str, budget_gb: float | None, *, dry_run: bool) -> None:
    """Refuses what can be told before any case is read.

    Raises:
        SpecError: a memory to fit without --dry-run. TrainingError: the device cannot be used.
    """
    from segwise.training.precision import check_device
    from segwise.training.together import own_device

    if budget_gb is not None and not dry_run:
        raise SpecError("--budget-gb says what fits in a forecast and bounds no training; expected --dry-run too")
    check_device(own_device(device))


def forecast_only(
    made: Learning, device: str, budget_gb: float | None, *, dry_run: bool, json: bool, ways: Sequence[str] = WAYS
) -> bool:
    """Say what lacks; with --dry-run say what the training will take, and whether that was all."""
    from segwise import api

    for line in filter(None, (made.split.lost, unwatched(made.split))):
        screen.note(f"warning: {line}")
    if dry_run:
        found = api.learn_forecast(made, device=device, budget_gb=budget_gb, cheaper="--recompute" in ways)
        if json:
            screen.data(found)
        else:
            typer.echo(expected(found, budget_gb, ways=ways))
    return dry_run


def unwatched(split: Split) -> str:
    """What to do where nobody is kept to look at a training with, in one line; "" where somebody is."""
    if split.valid or split.test or not split.train:
        return ""
    n = len(split.train)
    return (
        f"with {counted(n, 'subject')} to learn from and nobody kept for the curve or for testing nothing can be "
        f"validated or tested: {'add subjects, three at least' if n < 3 else 'keep some with --leave-out or --fold'}"
    )


def counted(n: int, what: str) -> str:
    """ "1 subject", "2 subjects"."""
    return f"{n} {what}{'s' * (n != 1)}"


def expected(told: Forecast, budget_gb: float | None, *, ways: Sequence[str] = WAYS) -> str:
    """A forecast for a person; `ways` are the options that the command has for less memory."""
    lines = [
        f"about {duration(told.seconds)} ({told.step_s:.2g} s a step) and {told.memory_gb:.2f} GB of memory with "
        f"{told.size} a batch"
    ]
    if told.fits is None or budget_gb is None:
        return lines[0]
    lines.append(_held(told, budget_gb, ways))
    if told.recomputed is not None:
        again = told.recomputed
        longer = again.step_s / told.step_s
        lines.append(
            f"with --recompute: about {duration(again.seconds)} ({longer:.2g} times as long) and "
            f"{again.memory_gb:.2f} GB; {_held(again, budget_gb, ways)}"
        )
    if told.untried:
        lines.append(f"--recompute could not be tried: {told.untried}")
    if told.fits == 0 and (told.recomputed is None or not told.recomputed.fits):
        own = ["a smaller --patch"] if "--patch" in ways else []
        lines.append(f"forecast again with {' or '.join([*own, 'a smaller model'])}")
    return "\n".join(lines)


def _held(told: Forecast, budget_gb: float, ways: Sequence[str]) -> str:
    fits = told.fits or 0
    if fits >= told.size:
        return f"fits {budget_gb:g} GB"
    if not fits:
        return f"{budget_gb:g} GB do not hold even one a batch"
    more = f" --gather {math.ceil(told.size / fits)} learn from as many a step" if "--gather" in ways else ""
    return f"{budget_gb:g} GB hold {fits} a batch: --batch {fits}{more}"


def folder(out: Path) -> str:
    """As -m wants it in a shell."""
    return shlex.quote(of_folder(out))


def who(
    data: Path,
    layout: str | None,
    targets: list[str] | None,
    fraction: float,
    leave_out: str,
    fold: str,
    split: Path | None,
    seed: int,
    modality: str = "",
) -> Who:
    """Which cases, from the options.

    Raises:
        SpecError: a fold that is none, a list that names nothing, or two ways to say who is tested.
    """
    from segwise.learn import Who

    k, n = 0, 0
    if fold:
        parts = fold.split("/")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts) or int(parts[1]) < 2:
            raise SpecError(f'--fold "{fold}": expected a fold from 0 on and how many, 2 or more, such as 0/5')
        k, n = map(int, parts)
    for option, text in (("--target", ",".join(targets or ())), ("--leave-out", leave_out)):
        if text and not _words(text):
            raise SpecError(f'{option} "{text}": names nothing; expected names by commas, or leave {option} out')
    if sum(map(bool, (fold, leave_out, split))) > 1:
        raise SpecError("--fold, --leave-out and --split each say who is tested; expected one of them")
    return Who(
        data=data,
        layout=layout,
        targets=_words(",".join(targets or ())),
        modality=modality.upper(),
        fraction=fraction,
        left_out=_words(leave_out),
        fold=k,
        folds=n,
        split=split,
        seed=seed,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def three(text: str, kind: type, option: str) -> list[int] | list[float] | None:
    """Three numbers above 0 by commas; None for "".

    Raises:
        SpecError: not that; names the option.
    """
    if not text:
        return None
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3 or not all(value > 0 for value in found):
        raise SpecError(f'{option} "{text}": expected three numbers above 0, d,h,w')
    return found


def budget(
    steps: int,
    rate: float,
    batch: int,
    seed: int,
    precision: str,
    *,
    loss: str = "dice-ce",
    schedule: str = "cosine",
    **more: Any,
) -> LearnBudget:
    """How long and how, from the options; `more` as they stand.

    Raises:
        SpecError: a precision, loss or schedule that is not known, or a rate that is no finite number above 0.
    """
    from segwise.training.labelled import Budget as LearnBudget

    known: dict[str, tuple[str, tuple[str, ...]]] = {
        "--precision": (precision, ("auto", "bf16", "fp32")),
        "--loss": (loss, ("dice-ce", "dice-focal", "dice", "ce")),
        "--schedule": (schedule, ("cosine", "poly")),
    }
    for option, (value, allowed) in known.items():
        if value not in allowed:
            raise SpecError(f'{option} "{value}": expected {", ".join(allowed)}')
    if not 0 < rate < math.inf:
        raise SpecError(f"--rate {rate:g}: expected a finite number above 0, such as 0.001")
    said: Any = {"precision": precision, "loss": loss, "schedule": schedule}
    return LearnBudget(steps=steps, rate=rate, size=batch, seed=seed, **said, **more)


def only_the_first_speaks() -> None:
    """Of several processes of torchrun the others say nothing but errors."""
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end of the process


def words(step: int, steps: int, left_s: float, measures: Mapping[str, float]) -> str:
    """How far a training is, for a person."""
    parts = [f"step {step:,} of {steps:,}"]
    parts += [f"{_called(key)} {value:.4g}" for key, value in measures.items() if key.startswith("valid_")]
    parts += [f"loss {measures['loss']:.4g}"] if "loss" in measures else []
    parts += [f"about {duration(left_s)} left"] if 0 < left_s < math.inf else []
    return ", ".join(parts)


def _called(key: str) -> str:
    """A measure of the validation; its loss is told apart from that of the batch."""
    return "validation loss" if key == "valid_loss" else key.removeprefix("valid_")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, for a person."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def told(name: str, found: Outcome, out: Path) -> None:
    """How a training, or a piece of it, ended, for a person."""
    scores = "".join(f", {_called(key)} {value:.4g}" for key, value in found.measures.items())
    typer.echo(f"{name}: {found.step:,} steps in {duration(found.seconds)}{scores}")
    if not found.finished:
        typer.echo("its schedule is not at its end: repeat the command to go on")
    for path in found.files:
        screen.done("Weights", path)
    screen.done("Log", out / "log.csv")


def not_used(out: Path) -> None:
    """One line on standard error, if the training in a folder does without some cases."""
    from segwise.training import splits

    if line := splits.lost(out):
        screen.note(f"warning: {line}")


@contextlib.contextmanager
def shown() -> Iterator[Report]:
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
