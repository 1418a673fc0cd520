"""The loop: batches → losses → optimiser steps → averaged weights, with checkpoints that resume exactly."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segwise.errors import TrainingError
from segwise.training import checkpoint
from segwise.training.ahead import batches
from segwise.training.contract import Recipe, Settings
from segwise.training.log import Log

Progress = Callable[[int, int, float, Mapping[str, float]], None]  # steps done, of all, seconds left, what is measured


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

    Args:
        recipe: what to train.
        out: folder of checkpoint, log and weights; made if need be.
        minutes: stop after so long; the next call goes on. None: to the end of the schedule.
        device: where the net is trained.
        known: of the run, for the card that `recipe.save` writes.
        progress: told after every batch.

    Raises:
        TrainingError: the folder holds another training, or a loss is no number; the last checkpoint stays.
    """
    settings = recipe.settings
    out.mkdir(parents=True, exist_ok=True)
    with _threads(settings.threads):
        torch.manual_seed(settings.seed)
        run = _begun(recipe, device)
        identity = {"name": recipe.name, **_identity(settings)}
        checkpoint.resume(out, run, identity)
        log = Log(out, keep=run.batch)
        measures = _pieces(recipe, run, out, identity, log, minutes=minutes, progress=progress)
        told = {**(known or {}), "steps": run.step, "seconds": round(run.seconds), "seed": settings.seed}
        files = recipe.save(out, run.averaged, told)
    return Outcome(run.step, run.step >= settings.steps, run.seconds, tuple(files), measures)


def _begun(recipe: Recipe, device: str) -> _Run:
    net = recipe.objective.net.to(device)
    plain = [p for p in net.parameters() if p.requires_grad and p.ndim < 2]
    decayed = [p for p in net.parameters() if p.requires_grad and p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": recipe.settings.decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.settings.rate, betas=(0.9, 0.99))
    return _Run(net, copy.deepcopy(net).eval().requires_grad_(False), optimizer)


def _pieces(
    recipe: Recipe,
    run: _Run,
    out: Path,
    identity: Mapping[str, Any],
    log: Log,
    *,
    minutes: float | None,
    progress: Progress | None,
) -> Mapping[str, float]:
    """Batches until the schedule or the time is at its end; the checkpoint is always one of a whole batch."""
    settings, measures = recipe.settings, dict[str, float]()
    begun, before = time.monotonic(), run.seconds
    until = math.inf if minutes is None else begun + 60 * minutes
    first = run.step
    with contextlib.closing(batches(recipe.stream, run.batch, ahead=settings.ahead, makers=settings.makers)) as made:
        for batch in made if run.step < settings.steps else ():
            shown = _one_batch(recipe, run, batch)
            run.batch, run.seconds = run.batch + 1, before + time.monotonic() - begun
            if settings.validate_every and run.batch % settings.validate_every == 0:
                measures = _validated(recipe, run)
            log.write(run.batch, run.step, run.seconds, {**shown, **measures})
            done = run.step >= settings.steps or time.monotonic() >= until
            if done or run.batch % settings.keep_every == 0:
                checkpoint.save(out, run, identity)
            if progress is not None:
                pace = (time.monotonic() - begun) / max(1, run.step - first)
                left = min((settings.steps - run.step) * pace, until - time.monotonic())
                progress(run.step, settings.steps, max(0.0, left), {**shown, **measures})
            if done:
                break
    log.close()
    return measures


def _one_batch(recipe: Recipe, run: _Run, batch: Any) -> dict[str, float]:
    """All optimiser steps of one batch; the mean of what its losses measured."""
    settings = recipe.settings
    shown: dict[str, list[float]] = {}
    torch.manual_seed(int(np.random.default_rng([settings.seed, run.batch, 1]).integers(2**62)))
    rng = np.random.default_rng([settings.seed, run.batch])
    run.net.train()
    with autocast(settings.precision, next(run.net.parameters()).device.type):
        for loss, measured in recipe.objective.losses(batch, rng):
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {float(loss.detach())} at step {run.step}; the last checkpoint is kept: "
                    "go on with a lower learning rate or precision=fp32"
                )
            rate = scheduled(run.step, settings)
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            run.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(run.net.parameters(), settings.clip)
            run.optimizer.step()
            run.step += 1
            _average(run, settings)
            for key, value in {"loss": float(loss.detach()), "rate": rate, **measured}.items():
                shown.setdefault(key, []).append(value)
            if run.step >= settings.steps:
                break
    return {key: float(np.mean(values)) for key, values in shown.items()}


def scheduled(step: int, settings: Settings) -> float:
    """The learning rate of a step: a linear start, then half a cosine to its floor."""
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    share = min(1.0, (step - settings.warmup) / max(1, settings.steps - settings.warmup))
    return settings.rate * (settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * share)))


@torch.no_grad()
def _average(run: _Run, settings: Settings) -> None:
    keep = min(settings.average, (1 + run.step) / (10 + run.step))
    for mean, value in zip(run.averaged.parameters(), run.net.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)
    for mean, value in zip(run.averaged.buffers(), run.net.buffers(), strict=True):
        mean.copy_(value)


def _validated(recipe: Recipe, run: _Run) -> dict[str, float]:
    """The objective's own scores, with the averaged weights in its net."""
    own = {key: value.clone() for key, value in run.net.state_dict().items()}
    run.net.load_state_dict(run.averaged.state_dict())
    run.net.eval()
    with torch.no_grad(), autocast(recipe.settings.precision, next(run.net.parameters()).device.type):
        found = {f"valid_{key}": value for key, value in recipe.objective.validate().items()}
    run.net.load_state_dict(own)
    return found


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it is asked for, or where "auto" finds a device that has it."""
    wanted = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device, dtype=torch.bfloat16, enabled=wanted)


def has_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.backends.cpu.get_cpu_capability() if device == "cpu" else ""
    return "AVX512" in has and bool(torch.cpu._is_avx512_bf16_supported())  # type: ignore[no-untyped-call]


def _identity(settings: Settings) -> dict[str, Any]:
    """What two pieces of one training must share."""
    kept = asdict(settings)
    for free in ("keep_every", "validate_every", "ahead", "makers", "threads"):
        kept.pop(free)
    return kept


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
