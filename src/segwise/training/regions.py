"""Generated targets for a net that looks at one region: worlds and phantoms, cut out, imaged, and prompted.

A batch is a function of its index: which worlds, which targets in them, how coarse the scan, where the box's faces are
and what is clicked first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from segwise.geometry import Array, Grid, Volume, bounds
from segwise.prompt import Box, Points, Prompt
from segwise.synth.appearance import shoot
from segwise.synth.phantom import Phantom
from segwise.synth.worlds import World
from segwise.training.interactive import Sample

FIRST = 1000  # seeds below belong to the demonstration and to tests
APART = 500_000  # seeds of worlds from here on are for validation
Targets = tuple[tuple[str, tuple[int, ...]], ...]
Make = Callable[[int], World]
ASKED = ("box", "box-points", "points", "wrong", "close", "mask")  # kinds of a first prompt
SHARES = (0.38, 0.19, 0.10, 0.09, 0.19, 0.05)


class RegionFrame(Protocol):
    """The preprocessing of a net that looks at one region, as `lifts.focus` has it."""

    def prepare(self, volume: Volume) -> Volume:
        """The volume on the frame's own axes."""

    def around(self, grid: Grid, low: Array, high: Array, *, margin: float = ...) -> Grid:
        """The window of an index box."""

    def view(self, prepared: Volume, window: Grid) -> Array:
        """What the net sees of a window."""

    def close(self, grid: Grid, window: Grid, place: Array) -> Grid | None:
        """The surroundings of a click: a part of a window."""

    def resize(self, array: Array) -> Array:
        """Values of a window on the voxels of its view."""


@dataclass(frozen=True)
class Regions:
    """The stream.

    Attributes:
        frame: the net's preprocessing, with `around` and `marks`.
        families: what makes phantoms, and how often each is drawn.
        upright: how often a phantom that has a head and feet is shown as it stands, mirrored at most.
        size: samples a batch.
        fresh: phantoms begun a batch; each serves two batches.
        seed: of everything drawn.
        held: the phantoms are those of validation.
    """

    frame: RegionFrame
    families: tuple[tuple[Make, float], ...]
    upright: float = 0.7
    size: int = 8
    fresh: int = 1
    seed: int = 0
    held: bool = False

    def batch(self, index: int) -> list[Sample]:
        """`size` samples of the phantoms index..index + fresh."""
        rng = np.random.default_rng([self.seed, index, int(self.held)])
        found: list[Sample] = []
        while len(found) < self.size:
            which = self.fresh * index + int(rng.integers(0, 2 * self.fresh))
            sample = self._sample(which, rng)
            found += [] if sample is None else [sample]
        return found

    def _sample(self, which: int, rng: np.random.Generator) -> Sample | None:
        phantom, targets, boxes = _made(self, which)
        sizes = np.array([np.prod(np.subtract(high, low)) for low, high in boxes], dtype=np.float64)
        weight = sizes**-0.15  # small ones are many, but not all that counts
        chosen = int(rng.choice(len(targets), p=weight / weight.sum()))
        kind, labels = targets[chosen]
        stands = bool(rng.random() < self.upright)
        scan = _scanned(phantom, labels, boxes[chosen], rng, stands=stands)
        return None if scan is None else asked_about(self.frame, kind, *scan, rng)


@functools.lru_cache(maxsize=6)
def _phantom(make: Make, seed: int) -> tuple[Phantom, Targets, tuple[tuple[Array, Array], ...]]:
    made = make(seed)
    boxes = []
    for _, labels in made.targets:
        found = bounds(np.isin(made.phantom.labels, labels))
        assert found is not None
        boxes.append((np.array(found[0]), np.array(found[1])))
    return made.phantom, made.targets, tuple(boxes)


def _made(stream: Regions, which: int) -> tuple[Phantom, Targets, tuple[tuple[Array, Array], ...]]:
    rng = np.random.default_rng([stream.seed, which, 7])
    often = np.array([share for _, share in stream.families])
    make = stream.families[int(rng.choice(len(often), p=often / often.sum()))][0]
    return _phantom(make, (APART if stream.held else FIRST) + which)


def _scanned(
    phantom: Phantom, labels: tuple[int, ...], box: tuple[Array, Array], rng: np.random.Generator, *, stands: bool
) -> tuple[Volume, Array] | None:
    """An image of the target's surroundings on some scan's grid, and the target's mask; None if it is too small."""
    low, high = box
    side = (high - low).astype(float)
    factors = _factors(side, rng)
    room = np.maximum(side * rng.uniform(0.35, 0.9, 3), 6 * factors) + 2
    first = np.maximum(np.floor(low - room), 0).astype(int)
    last = np.minimum(np.ceil(high + room), phantom.labels.shape).astype(int)
    cut = phantom.labels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    turn, flips = rng.permutation(3), rng.random(3) < 0.5
    if stands:
        turn, flips = np.arange(3), flips & np.array([False, False, True])
    cut = np.ascontiguousarray(np.flip(cut.transpose(turn), tuple(np.flatnonzero(flips))))
    factors = np.minimum(factors, np.array(cut.shape) / 3)
    spacing = np.array(phantom.grid.spacing_mm)[turn]
    shot = shoot(cut, spacing.tolist(), phantom.tissues, rng, factors=factors.tolist(), targets=[labels])
    mask = shot.masks[0]
    if mask.sum() < 12 or min(mask.shape) < 3:
        return None
    d, h, w = shot.spacing_mm
    affine = np.array([[0, 0, -w, 0], [0, -h, 0, 0], [d, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
    return Volume.of(shot.image, Grid(mask.shape, affine)), mask


def _factors(side: Array, rng: np.random.Generator) -> Array:
    """Fine voxels a scan voxel on each axis: fine or coarse, often with thick slices; never too coarse to see."""
    factor = np.full(3, 1.0 if rng.random() < 0.5 else rng.uniform(1, 2.5))
    if rng.random() < 0.5:
        factor[rng.integers(3)] *= np.exp(rng.uniform(np.log(1.3), np.log(6)))
    return np.asarray(np.maximum(np.minimum(factor, side / 3), 1.0))


def asked_about(frame: RegionFrame, kind: str, volume: Volume, mask: Array, rng: np.random.Generator) -> Sample | None:
    """The sample of one target: its window, what is said first, and what the net sees."""
    prepared = frame.prepare(volume)
    grid = prepared.grid
    assert grid == volume.grid, "generated volumes lie on the frame's own axes"
    found = bounds(mask)
    assert found is not None
    low, high = np.array(found[0]), np.array(found[1])
    asked = ASKED[int(rng.choice(len(ASKED), p=SHARES))]
    first, last = _jittered(low, high, grid, rng)
    window = frame.around(grid, first, last)
    marks: list[Box | Points] = [Box.of(grid, first.tolist(), last.tolist())]
    if asked == "points" or (asked == "box" and rng.random() < 0.2):
        window = _loose(frame, grid, mask, low, high, rng)
        marks = [] if asked == "points" else marks
    if asked == "close":
        click, positive = _errant(mask, rng)
        window = frame.close(grid, window, click) or window
        marks.append(Points(grid.mm(click), np.array([positive])))
    here = _cut(mask, grid, window)
    if here.sum() < 8:
        return None
    if asked in ("box-points", "points"):
        marks.append(_clicks(here, window, rng))
    seen = _wrong(frame, here, rng) if asked in ("wrong", "close") else None
    if asked == "mask":
        seen = _wrong(frame, here, rng, kinds=(1, 2, 2, 4))
        marks = marks if rng.random() < 0.3 else []
    if asked == "wrong":
        marks.append(_clicks(here, window, rng, most=1))
    soft = frame.resize(here.astype(np.float32))
    return Sample(frame.view(prepared, window), soft, window, Prompt(tuple(marks)), seen, kind)


def _jittered(low: Array, high: Array, grid: Grid, rng: np.random.Generator) -> tuple[Array, Array]:
    """The box with its faces moved: tight, a little, or carelessly."""
    side = (high - low).astype(float)
    inward, outward = ((0, 0), (0.024, 0.06), (0.08, 0.2))[int(rng.choice(3, p=(0.3, 0.45, 0.25)))]
    move = rng.uniform(-inward, outward, (2, 3)) * side
    first, last = np.rint(low - move[0]).astype(int), np.rint(high + move[1]).astype(int)
    first, last = np.maximum(first, 0), np.minimum(last, grid.shape)
    thin = last <= first
    return np.where(thin, low, first), np.where(thin, high, last)


def _loose(frame: RegionFrame, grid: Grid, mask: Array, low: Array, high: Array, rng: np.random.Generator) -> Grid:
    """A window that does not know the target's size: larger than it, or a part of it."""
    places = np.argwhere(mask)
    centre = places[int(rng.integers(len(places)))]
    spacing = np.array(grid.spacing_mm)
    size_mm = float(((high - low) * spacing).max()) * np.exp(rng.uniform(np.log(0.35), np.log(2.5)))
    half = np.maximum(np.ceil(size_mm / 2 / spacing), 3).astype(int)
    first, last = np.maximum(centre - half, 0), np.minimum(centre + half + 1, grid.shape)
    return frame.around(grid, first, last, margin=0)


def _cut(mask: Array, grid: Grid, window: Grid) -> Array:
    low = np.rint(grid.index(window.mm((0, 0, 0)))[0]).astype(int)
    return mask[tuple(slice(a, a + n) for a, n in zip(low, window.shape, strict=True))]


def _clicks(mask: Array, window: Grid, rng: np.random.Generator, *, most: int = 6) -> Points:
    """One to `most` places in the target: mostly deep ones, as a person clicks."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=window.spacing_mm)[1:-1, 1:-1, 1:-1]
    n = int(rng.integers(1, most + 1))
    deep = np.argwhere(depth >= depth.max() * (0.5 if rng.random() < 0.8 else 0.01))
    places = deep[rng.choice(len(deep), size=n)]
    if rng.random() < 0.5:
        places[0] = np.unravel_index(int(depth.argmax()), depth.shape)
    return Points(window.mm(places), np.ones(n, dtype=bool))


def _egg(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """bool: an ellipsoid somewhere around the middle."""
    where = np.zeros(tuple(shape))
    for axis, n in enumerate(shape):
        middle, half = n * rng.uniform(0.35, 0.65), n * rng.uniform(0.12, 0.35)
        place = ((np.arange(n) + 0.5 - middle) / half) ** 2
        where = where + place.reshape([-1 if i == axis else 1 for i in range(3)])
    return np.asarray(where < 1)


def _errant(mask: Array, rng: np.random.Generator) -> tuple[Array, bool]:
    """A voxel to click at: mostly in the target, else just beside it; and whether it is the target's."""
    positive = bool(rng.random() < 0.75)
    wanted = mask if positive else ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask)
    places = np.argwhere(wanted if wanted.any() else mask)
    return places[int(rng.integers(len(places)))], positive or not wanted.any()


def _wrong(frame: RegionFrame, mask: Array, rng: np.random.Generator, *, kinds: Sequence[int] = range(6)) -> Array:
    """Logits of an answer that is empty, something else, or the target grown, shrunk, moved or blurred.

    float32 [1, *frame.shape].
    """
    size = max(1, round(min(mask.shape) * rng.uniform(0.03, 0.12)))
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == 4:
        blurred = ndimage.gaussian_filter(mask.astype(np.float32), float(rng.uniform(1, 3)))
        return frame.resize(np.float32(8) * (blurred - np.float32(rng.uniform(0.2, 0.6))))[None]
    if kind == 0:
        mask = np.zeros_like(mask)
    elif kind == 5:
        mask = _egg(mask.shape, rng) & ~mask
    elif kind == 1:
        mask = ndimage.binary_dilation(mask, iterations=size)
    elif kind == 2:
        mask = ndimage.binary_erosion(mask, iterations=size)
    else:
        mask = ndimage.shift(mask.astype(np.uint8), rng.normal(0, 2.5 * size, 3), order=0) > 0
    field = frame.resize(np.where(mask, np.float32(4), np.float32(-4)))
    return np.asarray(field * np.float32(rng.uniform(0.3, 2)))[None]


def held(stream: Regions, n: int) -> list[Sample]:
    """The first n samples of a stream of validation."""
    found: list[Sample] = []
    index = 0
    while len(found) < n:
        found += stream.batch(index)
        index += 2 * stream.fresh
    return found[:n]
