"""Trainings on a user's own labelled cases: a specialist from nothing, or the tuned part of a promptable net."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from segwise import assemble
from segwise.errors import TrainingError
from segwise.nets.recomputed import recompute
from segwise.segmenter import Learned, Parts
from segwise.training import labelled_regions
from segwise.training.closed import Labelled, Loss
from segwise.training.contract import Recipe, Schedule, Settings
from segwise.training.interactive import Interactive
from segwise.training.labelled_regions import LabelledRegions
from segwise.training.marked import MarkedSlices, checked
from segwise.training.patches import Patches, mirrored
from segwise.training.prepared import Prepared
from segwise.training.prompted import OnSlices

Save = Callable[[Path, nn.Module, Mapping[str, Any]], list[Path]]
HELD = 24  # slices of a learning curve
CLICKS, CLICKS_3D = "clicks(n=99)", "cvpr2025(n=99)"
LOOSE = 0.06  # of a structure's side on its slice, by how much the faces of most boxes are moved
POINTS = ("points(n=1)", "points(n=3)")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how a training on labelled cases goes.

    Attributes:
        steps: optimiser steps.
        rate: greatest learning rate.
        size: patches, or slices, a batch.
        seed: of everything drawn.
        loss: of masks; not of `default`, whose regions have their own.
        augment: change what is shown.
        precision: of the forward pass.
        validate_every: batches; 0 for five validations in all.
        gather: batches whose gradients are averaged for one step: as many samples, the memory of one batch.
        recompute: blocks of the net throw away what they hold and compute it again for the gradient.
        schedule: how the rate falls.
    """

    steps: int
    rate: float = 1e-3
    size: int = 2
    seed: int = 0
    loss: Loss = "dice-ce"
    augment: bool = True
    precision: Any = "auto"
    validate_every: int = 0
    gather: int = 1
    recompute: bool = False
    schedule: Schedule = "cosine"

    def settings(self) -> Settings:
        """For the loop."""
        return Settings(
            steps=self.steps,
            rate=self.rate,
            warmup=min(100, max(1, self.steps // 10)),
            average=min(0.998, 1 - 10 / (10 + self.steps)),
            precision=self.precision,
            seed=self.seed,
            keep_every=max(10, min(200, self.steps // 10)),
            validate_every=self.validate_every or max(1, self.steps // 5),
            makers=0,
            gather=self.gather,
            schedule=self.schedule,
        )


def specialist(
    name: str, parts: Parts, train: Sequence[Prepared], valid: Sequence[Prepared], budget: Budget, save: Save, note: str
) -> Recipe:
    """A net that answers a closed list of labels, on patches.

    Args:
        name: of the model.
        parts: untrained; the frame prepared the cases.
        train, valid: cases of subjects that share nobody.
        budget: see there.
        save: writes the model folder.
        note: on what it is trained.
    """
    if budget.recompute:
        recompute(parts.net)
    axes = train[0].grid.axes
    stream = Patches(
        tuple(train),
        parts.frame,
        size=budget.size,
        seed=budget.seed,
        augment=budget.augment,
        mirror=mirrored(train[0].names, axes),
    )
    objective = Labelled(parts.net, parts.frame, held=valid, loss=budget.loss, seed=budget.seed)
    return Recipe(
        name=name, objective=objective, stream=stream, settings=budget.settings(), save=save, note=note, version="1"
    )


def adaptable(name: str, model: Learned, budget: Budget) -> None:
    """Refuse, before any case is prepared, what `adaptation` cannot tune.

    Raises:
        TrainingError: it is no promptable model of slices or regions, has nothing to train, or no such loss.
    """
    net, frame = model.parts.net, model.parts.frame
    regions = hasattr(frame, "around")  # of `RegionFrame`
    if model.parts.labels is not None or not (regions or (frame.shape[0] == 1 and hasattr(frame, "restore"))):
        raise TrainingError(
            f"{name} cannot be adapted here: expected a promptable model of slices (sam, litemedsam, medsam, sam2 …) "
            "or default; specialists are trained with segwise train"
        )
    if not any(p.requires_grad for p in net.parameters()):
        raise TrainingError(f"{name} has nothing to train; put an adapter behind it, such as {name}+lora")
    if regions and budget.loss != Budget.loss:
        raise TrainingError(f"{name} looks at regions, whose loss is its own; leave out --loss {budget.loss}")


def adaptation(
    name: str,
    model: Learned,
    takes: Collection[str],
    train: Sequence[Prepared],
    valid: Sequence[Prepared],
    budget: Budget,
    save: Save,
    note: str,
) -> Recipe:
    """The tuned part of a promptable net: on slices, or on the regions that it looks at.

    Args:
        name: of the model with its adapter.
        model: its adapter fresh.
        takes: kinds of mark that the model takes.
        train, valid, budget, save, note: as `specialist`.

    Raises:
        TrainingError: as `adaptable`, or the model takes neither boxes nor points.
    """
    adaptable(name, model, budget)
    net, frame = model.parts.net, model.parts.frame
    if budget.recompute:
        recompute(net)
    if hasattr(frame, "around"):
        return _regional(name, net, frame, train, valid, budget, save, note)
    plane = getattr(frame, "plane", "axial")
    specs = first_words(takes, train)
    if not specs:
        raise TrainingError(f"{name} takes {', '.join(sorted(takes))}; expected a model that takes boxes or points")
    users = tuple(assemble.prompter(assemble.on_plane(spec, plane)) for spec in specs)
    frozen = not any(p.requires_grad for p in net.encoding.parameters())
    stream = MarkedSlices(
        tuple(train),
        frame,
        users,
        size=budget.size,
        seed=budget.seed,
        augment=budget.augment and not frozen,
        mirror=mirrored(train[0].names, train[0].grid.axes),
    )
    first = users[0] if "box" not in takes else assemble.prompter(assemble.on_plane("box2d", plane))
    held = checked(frame, valid, first, n=HELD, seed=budget.seed)
    clicker = assemble.prompter(CLICKS) if "points" in takes else None
    objective = OnSlices(net, frame, user=clicker, held=held, loss=budget.loss)
    return Recipe(name=name, objective=objective, stream=stream, settings=budget.settings(), save=save, note=note)


def _regional(
    name: str,
    net: Any,
    frame: Any,
    train: Sequence[Prepared],
    valid: Sequence[Prepared],
    budget: Budget,
    save: Save,
    note: str,
) -> Recipe:
    stream = LabelledRegions(tuple(train), frame, size=budget.size, seed=budget.seed, augment=budget.augment)
    held = labelled_regions.checked(frame, valid, n=HELD, seed=budget.seed)
    objective = Interactive(net, frame, assemble.prompter(CLICKS_3D), held=held)
    return Recipe(name=name, objective=objective, stream=stream, settings=budget.settings(), save=save, note=note)


def first_words(takes: Collection[str], cases: Sequence[Prepared]) -> list[str]:
    """Prompters for the first word, each as often as it stands there: boxes, tight or loose, and points."""
    sides = []
    for case in cases:
        for name in case.there:
            places = case.places(name)
            middle = (case.labels[int(np.median(places[:, 0]))] == case.names.index(name) + 1).sum()
            sides.append(float(np.sqrt(middle * np.prod(case.grid.spacing_mm[1:]))))
    jitter = round(LOOSE * float(np.median(sides)), 2) if sides else 0.0
    boxes = [f"box2d(jitter_mm={jitter})", f"box2d(jitter_mm={jitter})", "box2d"]
    return (boxes if "box" in takes else []) + (list(POINTS) if "points" in takes else [])


def with_settings(recipe: Recipe, **changed: Any) -> Recipe:
    """The recipe with other settings (threads, makers …); None leaves one as it is."""
    wanted = {key: value for key, value in changed.items() if value is not None}
    return replace(recipe, settings=replace(recipe.settings, **wanted))
