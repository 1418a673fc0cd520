"""The loop: batches → losses → optimiser steps → averaged weights, with checkpoints that resume exactly."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointError

from segwise import __version__
from segwise.errors import TrainingError, is_no_memory
from segwise.training import checkpoint
from segwise.training.ahead import batches
from segwise.training.contract import Recipe, Settings
from segwise.training.log import Log, Silence
from segwise.training.memory import memory_gb
from segwise.training.precision import autocast, check_device, sound
from segwise.training.together import Shared, World, own_device, world
from segwise.training.whole import whole

Progress = Callable[
    [int, int, float, Mapping[str, float]], None
]  # steps done, of all, seconds left (or inf), what is measured


POWER = 0.9  # of the polynomial schedule


@dataclass(frozen=True)
class Outcome:
    """How a training, or a piece of it, ended.

    Attributes:
        step: optimiser steps done so far, pieces before included.
        finished: the schedule is at its end.
        seconds: of all pieces.
        files: the weights, as the recipe saved them.
        measures: of the last validation.
    """

    step: int
    finished: bool
    seconds: float
    files: tuple[Path, ...]
    measures: Mapping[str, float]


@dataclass
class _Run:
    """What a checkpoint holds."""

    net: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)  # of the last validation
    whole: bool = True  # no batch is half done
    world: World = field(default_factory=World)


def train(
    recipe: Recipe,
    out: Path,
    *,
    minutes: float | None = None,
    device: str = "cpu",
    known: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train, or go on where the folder's last checkpoint stands.

    Ctrl-C waits for the batch at hand and keeps a checkpoint; `KeyboardInterrupt` is raised then.

    Args:
        recipe: what to train.
        out: folder of checkpoint, log and weights; made if need be.
        minutes: stop after so long, after one batch at the earliest; the next call goes on. None: to the end of the
            schedule.
        device: where the net is trained.
        known: of the run, for the card that `recipe.save` writes.
        progress: told after every batch.

    Raises:
        TrainingError: the folder holds another training, is in use or cannot be written, or a loss or gradient is no
            finite number; the last checkpoint stays.
    """
    settings = recipe.settings
    device = own_device(device)
    check_device(device)
    everyone = world(device)
    with checkpoint.only_writer(out) if everyone.first else contextlib.nullcontext(), _threads(settings.threads):
        torch.manual_seed(settings.seed)
        run = _begun(recipe, device, everyone)
        identity = {"name": recipe.name, "version": recipe.version, **_identity(settings, everyone)}
        checkpoint.resume(out, run, identity)
        everyone.most(0.0)  # nobody writes before all have read
        keep = functools.partial(checkpoint.save, out, run, identity) if everyone.first else _nothing
        with contextlib.closing(Log(out, keep=run.batch, step=run.step) if everyone.first else Silence()) as log:
            if run.step < settings.steps:
                with _room(run):
                    _piece(recipe, run, log, keep, minutes=minutes, progress=progress if everyone.first else None)
        told = {**(known or {}), "steps": run.step, "seconds": round(run.seconds), "seed": settings.seed}
        told |= {"steps_per_s": round(run.step / max(run.seconds, 1e-9), 3), "peak_gb": round(memory_gb(device), 3)}
        files: list[Path] = []
        if everyone.first:
            with checkpoint.written(out):
                files = recipe.save(out, run.averaged.to("cpu"), told)
        everyone.most(0.0)  # what the first one wrote is there for all
    return Outcome(run.step, run.step >= settings.steps, run.seconds, tuple(files), run.measures)


def _nothing() -> None:
    """What a process keeps that is not the first."""


def _begun(recipe: Recipe, device: str, everyone: World | None = None) -> _Run:
    net = recipe.objective.net.to(device)
    plain = [p for p in net.parameters() if p.requires_grad and p.ndim < 2]
    decayed = [p for p in net.parameters() if p.requires_grad and p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": recipe.settings.decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.settings.rate, betas=(0.9, 0.99))
    return _Run(net, copy.deepcopy(net).eval().requires_grad_(False), optimizer, world=everyone or World())


def _piece(
    recipe: Recipe,
    run: _Run,
    log: Log | Silence,
    keep: Callable[[], None],
    *,
    minutes: float | None,
    progress: Progress | None,
) -> None:
    """Batches until the schedule or the time is at its end; the checkpoint is always one of a whole batch."""
    settings = recipe.settings
    clock = _Clock(run, settings.steps, minutes)
    stream = Shared(recipe.stream, settings.gather, run.world)
    with contextlib.closing(batches(stream, run.batch, ahead=settings.ahead, makers=settings.makers)) as made:
        try:
            for batch in made:
                with whole():
                    shown = _one_batch(recipe, run, batch, clock, log)
                    done = run.step >= settings.steps or run.world.most(clock.over()) > 0
                    if done or run.batch % settings.keep_every == 0:
                        keep()
                if progress is not None:
                    progress(run.step, settings.steps, clock.left(run.step), {**shown, **run.measures})
                if done:
                    return
        except KeyboardInterrupt:
            if run.whole:
                keep()
            raise


class _Clock:
    """Seconds of all pieces, and how many are left of this one."""

    def __init__(self, run: _Run, steps: int, minutes: float | None) -> None:
        self._begun, self._before, self._steps = time.monotonic(), run.seconds, steps
        self._until = math.inf if minutes is None else self._begun + 60 * minutes
        self._first: tuple[float, int] | None = None

    def total(self) -> float:
        return self._before + time.monotonic() - self._begun

    def over(self) -> bool:
        return time.monotonic() >= self._until

    def left(self, step: int) -> float:
        """Infinite where nothing is known: the first batch is no measure, it waits for its makers."""
        now = time.monotonic()
        begun, first = self._first = self._first or (now, step)
        rest = (self._steps - step) * (now - begun) / (step - first) if step > first else math.inf
        return max(0.0, min(rest if step < self._steps else 0.0, self._until - now))


def _one_batch(recipe: Recipe, run: _Run, batch: list[Any], clock: _Clock, log: Log | Silence) -> dict[str, float]:
    """All that a step's batches bring: its steps, a validation where one is due, its row in the log."""
    settings, run.whole = recipe.settings, False
    shown = _steps(recipe, run, batch)
    run.batch += 1
    valid = {}
    if (
        run.world.first
        and settings.validate_every
        and (run.batch % settings.validate_every == 0 or run.step >= settings.steps)
    ):
        valid = run.measures = _validated(recipe, run)
    run.seconds = clock.total()
    log.write(run.batch, run.step, run.seconds, {**shown, **valid})
    run.whole = True
    return shown


@contextlib.contextmanager
def _room(run: _Run) -> Iterator[None]:
    """What the system says of too little memory, in whatever part of a training, as one error of ours."""
    try:
        yield
    except CheckpointError as error:
        raise TrainingError(
            "some blocks of this net do not come to the same values twice in bf16, which --recompute needs; leave it "
            "out, or give --precision fp32"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_no_memory(error):
            raise
        raise TrainingError(
            f"out of memory at step {run.step}; the last checkpoint is kept: take fewer samples a batch, a smaller "
            "patch or model, or another machine (--dry-run says what a training takes)"
        ) from error


def _steps(recipe: Recipe, run: _Run, batch: list[Any]) -> dict[str, float]:
    """All optimiser steps of some batches; the mean of what their losses measured."""
    settings, everyone = recipe.settings, run.world
    shown: dict[str, list[float]] = {}
    # numbers after the index keep these draws apart from a stream's own default_rng([seed, index])
    own = [everyone.rank] if everyone.rank else []
    torch.manual_seed(int(np.random.default_rng([settings.seed, run.batch, 1, *own]).integers(2**62)))
    parts = []
    for j, part in enumerate(batch):
        place = j * everyone.size + everyone.rank
        rng = np.random.default_rng([settings.seed, run.batch, 2, *([place] if place else [])])
        parts.append(recipe.objective.losses(part, rng))
    device = next(run.net.parameters()).device.type
    run.net.train()
    while run.step < settings.steps:
        answered = 0
        for part in parts:
            with sound(settings.precision, device), autocast(settings.precision, device):
                answer = next(part, None)
            if answer is not None:
                loss, measured = answer
                _finite(loss, "loss", run.step)
                if not answered:
                    run.optimizer.zero_grad(set_to_none=True)
                with sound(settings.precision, device):
                    torch.autograd.backward(loss / len(parts) if len(parts) > 1 else loss)
                for key, value in {"loss": float(loss.detach()), **measured}.items():
                    shown.setdefault(key, []).append(value)
                answered += 1
        if not everyone.most(answered):
            break
        shown.setdefault("rate", []).append(_step(run, settings))
    return {key: float(np.mean(values)) for key, values in shown.items()}


def _step(run: _Run, settings: Settings) -> float:
    """One step of the optimiser and of the average; its learning rate."""
    rate = scheduled(run.step, settings)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.world.average(run.net)
    _finite(nn.utils.clip_grad_norm_(run.net.parameters(), settings.clip), "gradient", run.step)
    run.optimizer.step()
    run.step += 1
    _average(run, settings)
    return rate


def _finite(value: torch.Tensor, what: str, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"the {what} is {float(value.detach())} at step {step}, expected a finite number; the last checkpoint is "
            'kept: look at log.csv, and train with a lower rate or precision="fp32" in another folder'
        )


def scheduled(step: int, settings: Settings) -> float:
    """The learning rate of a step: a linear start, then a fall to its floor."""
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    share = min(1.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    left = (1 - share) ** POWER if settings.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * share))
    return settings.rate * (settings.floor + (1 - settings.floor) * left)


@torch.no_grad()
def _average(run: _Run, settings: Settings) -> None:
    keep = min(settings.average, (1 + run.step) / (10 + run.step))
    for mean, value in zip(run.averaged.parameters(), run.net.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)
    for kept, now in zip(run.averaged.buffers(), run.net.buffers(), strict=True):
        kept.copy_(now)


def _validated(recipe: Recipe, run: _Run) -> dict[str, float]:
    """The objective's own scores, with the averaged weights in its net."""
    own = {key: value.clone() for key, value in run.net.state_dict().items()}
    run.net.load_state_dict(run.averaged.state_dict())
    run.net.eval()
    try:
        with torch.no_grad(), autocast(recipe.settings.precision, next(run.net.parameters()).device.type):
            return {f"valid_{key}": float(value) for key, value in recipe.objective.validate().items()}
    finally:
        run.net.load_state_dict(own)


def versions() -> dict[str, str]:
    """What a training ran with, for its card."""
    return {"segwise": __version__, "torch": str(torch.__version__), "numpy": np.__version__}


def _identity(settings: Settings, everyone: World) -> dict[str, Any]:
    """What two pieces of one training must share; how the batches of a step are shared out is free."""
    kept = asdict(settings)
    for free in ("keep_every", "validate_every", "ahead", "makers", "threads", "gather"):
        kept.pop(free)
    each = settings.gather * everyone.size
    return {**kept, **({"batches a step": each} if each > 1 else {})}


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
