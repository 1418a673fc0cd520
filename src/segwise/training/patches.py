"""Patches of labelled cases for a net that sees windows: some around a structure, the others anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from segwise.errors import TrainingError
from segwise.geometry import Array, Grid, regrid
from segwise.segmenter import Frame
from segwise.training.augment import Change, changed, drawn, reach
from segwise.training.prepared import Prepared, mapped

AROUND = 1 / 3  # share of the patches that are centred on a structure (nnU-Net)
THICK = 3.0  # spacing of one axis over the others' from which it is only turned about


class Patch(NamedTuple):
    """One patch.

    Attributes:
        image: float32 [C, *shape].
        labels: uint8 [*shape].
        case: its id.
        centre: index in the prepared case.
        change: what was changed.
    """

    image: Array
    labels: Array
    case: str
    centre: tuple[int, int, int]
    change: Change


@dataclass(frozen=True)
class Patches:
    """The stream: batches are functions of their index.

    Attributes:
        cases: prepared; of the training subjects only.
        frame: of the net; its `window` and `view` are all the preprocessing.
        size: patches a batch.
        seed: of everything drawn.
        augment: change patches.
        mirror: axes that may be mirrored.
        around: share of the patches that are centred on a structure: at least one of a batch of two or more; of
            batches of one that share, so that a net sees what lies elsewhere, too.
    """

    cases: tuple[Prepared, ...]
    frame: Frame[Any]
    size: int = 2
    seed: int = 0
    augment: bool = True
    mirror: tuple[int, ...] = (0, 1, 2)
    around: float = AROUND

    def __post_init__(self) -> None:
        if not self.cases:
            raise TrainingError("there is no case to train on; expected one at least")

    def batch(self, index: int) -> list[Patch]:
        """`size` patches of cases drawn at random."""
        rng = np.random.default_rng([self.seed, index])
        forced = max(1, round(self.around * self.size)) if self.size > 1 else int(rng.random() < self.around)
        return [self._patch(rng, around=i < forced) for i in range(self.size)]

    def _patch(self, rng: np.random.Generator, *, around: bool) -> Patch:
        case = self.cases[int(rng.integers(len(self.cases)))]
        shape = self.frame.shape
        centre = _centre(case, shape, rng, around=around)
        flat = max(case.grid.spacing_mm) > THICK * min(case.grid.spacing_mm)
        change = drawn(rng, mirror=self.mirror, flat=flat) if self.augment else Change()
        image, labels = cut(case, self.frame, centre, reach(shape, change))
        image, labels = changed(image, labels, change, shape)
        return Patch(image, labels, case.id, centre, change)


def cut(case: Prepared, frame: Frame[Any], centre: Sequence[int], shape: Sequence[int]) -> tuple[Array, Array]:
    """float32 [C, *shape] and uint8 [*shape] of a case around an index; zeros beyond it."""
    middle = frame.window(case.grid, centre)
    grow = [(n - m) // 2 for n, m in zip(shape, middle.shape, strict=True)]
    window = middle.crop([-g for g in grow], [n - g for n, g in zip(shape, grow, strict=True)])
    volume, labels = mapped(case)
    return frame.view(volume, window), _shown(labels, case.grid, window)


def mirrored(names: Sequence[str], axes: str) -> tuple[int, ...]:
    """Axes of a window that may be mirrored: all, but the one from left to right where a name has a side.

    Args:
        names: of the structures.
        axes: where the array's axes point, as "SAR".
    """
    sided = any({"left", "right"} & set(name.lower().split()) for name in names)
    return tuple(i for i, letter in enumerate(axes) if not (sided and letter in "LR"))


def _shown(labels: Array, have: Grid, window: Grid) -> Array:
    return np.asarray(regrid(labels, have, window, order=0, outside=0), dtype=np.uint8)


def _centre(case: Prepared, shape: Sequence[int], rng: np.random.Generator, *, around: bool) -> tuple[int, int, int]:
    """On a structure that is there, or anywhere; the patch lies within the case where that is large enough."""
    sizes = case.grid.shape
    if around and case.there:
        places = case.places(case.there[int(rng.integers(len(case.there)))])
        wanted = places[int(rng.integers(len(places)))]
    else:
        wanted = np.array([int(rng.integers(n)) for n in sizes])
    found = []
    for place, n, side in zip(wanted, sizes, shape, strict=True):
        low = n // 2 if n <= side else side // 2
        high = n // 2 if n <= side else n - side + side // 2
        found.append(int(np.clip(place, low, high)))
    d, h, w = found
    return d, h, w


def spread(
    cases: Sequence[Prepared], shape: Sequence[int], n: int, seed: int
) -> list[tuple[Prepared, tuple[int, int, int]]]:
    """The same n places in some cases every time, in turn around a structure and anywhere, for a learning curve."""
    rng = np.random.default_rng([seed, 77])
    chosen = [cases[i % len(cases)] for i in range(n)] if cases else []
    return [(case, _centre(case, shape, rng, around=i % 2 == 0)) for i, case in enumerate(chosen)]
