"""What a training will take, from a few steps of it: seconds, and the greatest memory of the process.

The steps are real ones on real batches in a folder that is thrown away. Memory grows with the samples of a batch by
what two probes differ in; what one sample takes beside the net and the program tells how many fit a budget.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segwise.errors import TrainingError
from segwise.nets.recomputed import recomputable, recompute
from segwise.training.contract import Recipe
from segwise.training.loop import train
from segwise.training.memory import memory_gb, start_anew

STEPS = 4  # of a probe; the first is not timed


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What is to be expected.

    Attributes:
        seconds: of the training, its validations included, preparation of the cases not.
        memory_gb: greatest memory: of the process, or on the device if that is a GPU.
        step_s: of one optimiser step.
        sample_gb: what one more sample a batch takes.
        size: samples a batch.
        fits: samples a batch that fit the budget, 0 if not even one does; None without a budget.
        recomputed: the same with blocks computed again (gradient checkpointing), where that was asked for and the batch
            does not fit.
        untried: why that could not be told; "" where it was, or was not asked for.
    """

    seconds: float
    memory_gb: float
    step_s: float
    sample_gb: float
    size: int
    fits: int | None = None
    recomputed: Forecast | None = None
    untried: str = ""


def forecast(recipe: Recipe, *, device: str = "cpu", budget_gb: float | None = None, cheaper: bool = False) -> Forecast:
    """Probe a training; its net is no longer fresh afterwards.

    Args:
        recipe: of a stream with `size` samples a batch.
        device: where it will be trained.
        budget_gb: memory that there is.
        cheaper: if the batch does not fit, probe gradient checkpointing too, where the net has blocks for it.
    """
    told = _forecast(recipe, device, budget_gb)
    net = recipe.objective.net
    if not cheaper or told.fits is None or told.fits >= told.size or not recomputable(net):
        return told
    recompute(net)
    if not start_anew(device):
        return dataclasses.replace(told, untried="this system does not let the greatest memory be counted anew")
    try:
        return dataclasses.replace(told, recomputed=_forecast(recipe, device, budget_gb))
    except TrainingError as error:  # blocks that do not come to the same values twice, as some in bf16
        return dataclasses.replace(told, untried=str(error))


def _forecast(recipe: Recipe, device: str, budget_gb: float | None) -> Forecast:
    stream: Any = recipe.stream
    size = int(stream.size)
    one, _, _ = _probed(recipe, 1, device)
    many, step_s, valid_s = _probed(recipe, size, device) if size > 1 else _probed(recipe, 1, device)
    sample = max((many - one) / (size - 1), 0.0) if size > 1 else 0.0
    settings = recipe.settings
    more_gb, encoding_s = _kept(recipe, size)
    many += more_gb
    checks = settings.steps // settings.validate_every + 1 if settings.validate_every else 0
    fits = None
    if budget_gb is not None:
        room = budget_gb - (many - size * sample)
        fits = size if many <= budget_gb else max(0, int(room / sample)) if sample else 0
    seconds = settings.steps * step_s + checks * valid_s + encoding_s
    return Forecast(seconds, many, step_s, sample, size, fits)


def _kept(recipe: Recipe, size: int) -> tuple[float, float]:
    """(GB more, seconds) of features that a training makes once and keeps: a probe is too short to show them."""
    objective: Any = recipe.objective
    if not _spent(recipe):
        return 0.0, 0.0
    stream: Any = recipe.stream
    batches = recipe.settings.steps / objective.rounds * recipe.settings.gather
    more, seconds = objective.to_come(stream.views, int(batches * size))
    return more / 1e9, float(seconds)


def _spent(recipe: Recipe) -> float:
    """Seconds so far on features that are kept, which are not part of a step."""
    return float(getattr(recipe.objective, "spent_s", 0.0))


def _probed(recipe: Recipe, size: int, device: str) -> tuple[float, float, float]:
    """(greatest memory so far in GB, seconds a step, seconds a validation) of a few steps.

    Without what is spent on features that are kept.
    """
    stream: Any = recipe.stream
    marks: list[tuple[float, int]] = []

    def now() -> float:
        return time.perf_counter() - _spent(recipe)

    def note(step: int, steps: int, left_s: float, measures: Mapping[str, float]) -> None:
        marks.append((now(), step))

    settings = dataclasses.replace(recipe.settings, steps=STEPS, warmup=1, validate_every=0)
    shorter = dataclasses.replace(recipe, stream=dataclasses.replace(stream, size=size), settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        begun = now()
        train(shorter, Path(folder), device=device, progress=note)
    (first, n), (last, m) = marks[0], marks[-1]
    step_s = (last - first) / (m - n) if m > n else (last - begun) / m
    begun = now()
    if recipe.settings.validate_every:
        net = recipe.objective.net.eval()
        with torch.no_grad():
            recipe.objective.validate()
        net.train()
    return memory_gb(device), step_s, now() - begun
