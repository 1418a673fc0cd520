"""Structures of labelled cases for a net that looks at one region: cut out, mirrored, and prompted at random."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segwise.errors import TrainingError
from segwise.geometry import Array, Grid, Volume, bounds
from segwise.training.interactive import Sample
from segwise.training.prepared import Prepared, mapped
from segwise.training.regions import RegionFrame, asked_about

ROOM = 1.0  # of a structure's side, cut out beyond it on either side
LEAST = 12  # voxels of a structure
TRIES = 200


@dataclass(frozen=True)
class LabelledRegions:
    """The stream.

    Attributes:
        cases: prepared by `frame`.
        frame: of the net.
        size: samples a batch.
        seed: of everything drawn.
        augment: mirror what is cut out: a region has no side.
    """

    cases: tuple[Prepared, ...]
    frame: RegionFrame
    size: int = 2
    seed: int = 0
    augment: bool = True

    def __post_init__(self) -> None:
        if not any(case.there for case in self.cases):
            raise TrainingError("no training case has any of the structures; expected one at least")

    def batch(self, index: int) -> list[Sample]:
        """`size` samples."""
        rng = np.random.default_rng([self.seed, index])
        found: list[Sample] = []
        for _ in range(TRIES * self.size):
            one = self._sample(rng)
            found += [] if one is None else [one]
            if len(found) == self.size:
                return found
        raise TrainingError(f"no structure of the training cases fills {LEAST} voxels; expected larger ones")

    def _sample(self, rng: np.random.Generator) -> Sample | None:
        fit = [case for case in self.cases if case.there]
        case = fit[int(rng.integers(len(fit)))]
        name = case.there[int(rng.integers(len(case.there)))]
        return drawn(self.frame, case, name, rng, mirror=self.augment)


def drawn(
    frame: RegionFrame, case: Prepared, name: str, rng: np.random.Generator, *, mirror: bool = False
) -> Sample | None:
    """One sample of a structure, or None if it is too small."""
    volume, labels = mapped(case)
    box = _box(case, name)
    if box is None:
        return None
    low, high = box
    room = np.ceil(ROOM * (high - low)).astype(int) + 3
    first, last = np.maximum(low - room, 0), np.minimum(high + room, case.grid.shape)
    here = tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    image, mask = volume.array[(slice(None), *here)], labels[here] == case.names.index(name) + 1
    if mirror:
        flips = np.flatnonzero(rng.random(3) < 0.5)
        image, mask = np.flip(image, tuple(flips + 1)), np.flip(mask, tuple(flips))
    grid = Grid(mask.shape, case.grid.crop(first.tolist(), last.tolist()).affine)
    cut = Volume.of(np.ascontiguousarray(image), grid, volume.channels)
    return asked_about(frame, name, cut, np.ascontiguousarray(mask), rng)


def checked(frame: RegionFrame, cases: Sequence[Prepared], *, n: int, seed: int) -> list[Sample]:
    """The same samples of some cases every time: what a learning curve is measured on."""
    rng = np.random.default_rng([seed, 79])
    wanted = [(case, name) for case in cases for name in case.there]
    found: list[Sample] = []
    for i in rng.permutation(len(wanted)).tolist()[:n]:
        case, name = wanted[i]
        one = drawn(frame, case, name, rng)
        found += [] if one is None else [one]
    return found


@functools.lru_cache(maxsize=4096)
def _box(case: Prepared, name: str) -> tuple[Array, Array] | None:
    mask = mapped(case)[1] == case.names.index(name) + 1
    found = bounds(mask) if mask.sum() >= LEAST else None
    return None if found is None else (np.array(found[0]), np.array(found[1]))
