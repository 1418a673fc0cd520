"""Masks spoilt in named ways and five levels, with known truth: on these the failure signatures are calibrated.

Every kind is a pure function of a mask, a level and a seed. Level 1 is what a reader would just notice, level 5 what
nobody overlooks. `wobble` is no failure: the outline of a good answer, off by a voxel here and there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segwise.errors import InputError
from segwise.geometry import Array
from segwise.synth import spoilt_slices as slices
from segwise.synth.fields import smooth

LEVELS = range(1, 6)
Spoil = Callable[["Mask", int, np.random.Generator], Array]


@dataclass(frozen=True, eq=False)
class Mask:
    """What is spoilt.

    Attributes:
        mask: bool [N, H, W], the slicing axis first, with room around it; not empty.
        spacing_mm: between slices, rows and columns.
        neighbour: bool [N, H, W] of a structure beside it that a leak may run into, or None.
    """

    mask: Array
    spacing_mm: tuple[float, float, float]
    neighbour: Array | None = None

    @property
    def radius_mm(self) -> float:
        """Of a disc with the mean area of the occupied slices."""
        areas = self.mask.sum(axis=(1, 2))
        return float(np.sqrt(areas[areas > 0].mean() * self.spacing_mm[1] * self.spacing_mm[2] / np.pi))

    @property
    def ends(self) -> tuple[int, int]:
        """Half-open first and last occupied slice."""
        there = np.flatnonzero(self.mask.any(axis=(1, 2)))
        return int(there[0]), int(there[-1]) + 1

    def away(self, of: Array | None = None) -> Array:
        """float64 [N, H, W] mm to the nearest voxel of a mask, by default this one."""
        return np.asarray(ndimage.distance_transform_edt(~(self.mask if of is None else of), self.spacing_mm))


def spoil(target: Mask, kind: str, *, level: int, seed: int) -> Array:
    """bool [N, H, W]: the mask with one kind of failure.

    Args:
        target: left as it is.
        kind: one of `KINDS`, or "wobble".
        level: 1 (just noticed) to 5 (gross).
        seed: of every draw.

    Raises:
        InputError: an unknown kind or level, or an empty mask.
    """
    every = {name: make for group in KINDS.values() for name, make in group.items()} | {"wobble": wobble}
    if kind not in every:
        raise InputError(f'no way to spoil a mask is called "{kind}", expected one of {", ".join(every)}')
    if level not in LEVELS:
        raise InputError(f"level is {level}, expected 1 to 5")
    if not target.mask.any():
        raise InputError("the mask to spoil is empty, expected at least one voxel")
    return every[kind](target, level, np.random.default_rng((seed, sorted(every).index(kind))))


def wobble(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """The outline moved in and out, smoothly, by a third of a voxel a level (a tenth of the radius where that is less).

    Levels 1 to 3 are what good readers differ by.
    """
    out = ndimage.distance_transform_edt(~target.mask) - ndimage.distance_transform_edt(target.mask)
    field = smooth(target.mask.shape, rng, scale=(2.0, 4.0, 4.0))
    step = min(0.35, 0.1 * target.radius_mm / max(target.spacing_mm[1:]))
    return np.asarray(out + step * level * field < 0.1)


def dilation(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """Everything within an eighth of the radius a level, at least one voxel, in the slices of the target."""
    reach = max(0.12 * level * target.radius_mm, (0.5 + 0.5 * level) * max(target.spacing_mm[1:]))
    low, high = target.ends
    grown = target.away() <= reach + 1e-6
    grown[:low] = grown[high:] = False
    return grown


def bleed(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """Over a third of the slices the mask is dragged to one side, by a quarter of its radius a level."""
    low, high = target.ends
    n = max(2, (high - low) // 3)
    first = int(rng.integers(low, max(low + 1, high - n + 1)))
    angle = rng.uniform(0, 2 * np.pi)
    reach = max(2.0, 0.25 * level * target.radius_mm / target.spacing_mm[1])
    found = target.mask.copy()
    for step in np.arange(1, int(np.ceil(reach)) + 1):
        h, w = (round(step * v) for v in (np.sin(angle), np.cos(angle)))
        found[first : first + n] |= slices.moved(target.mask[first : first + n], h, w)
    return found


def shift(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """The whole mask a sixth of its radius a level to one side, at least a voxel."""
    angle = rng.uniform(0, 2 * np.pi)
    reach = max(1.0 + 0.5 * level, 0.18 * level * target.radius_mm / target.spacing_mm[1])
    return slices.moved(target.mask, round(reach * np.sin(angle)), round(reach * np.cos(angle)))


def neighbour(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """A leak into the structure beside it (a round one where none is given) of 15 % of the volume a level."""
    size = int(0.15 * level * target.mask.sum()) + 5
    there = target.neighbour if target.neighbour is not None else np.ones_like(target.mask)
    there = there & ~target.mask
    low, high = target.ends
    there[:low] = there[high:] = False
    door = np.argwhere(there & (target.away() <= 1.5 * max(target.spacing_mm)))
    if not len(door):
        return neighbour(Mask(target.mask, target.spacing_mm), level, rng) if target.neighbour is not None else there
    at = np.zeros_like(there)
    at[tuple(door[int(rng.integers(len(door)))])] = True
    away = np.where(there, target.away(at), np.inf)
    nearest = np.partition(away[there], min(size, int(there.sum())) - 1)[min(size, int(there.sum())) - 1]
    return np.asarray(target.mask | (away <= nearest) & there)


def islands(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """One to three balls away from the target, 8 % of its volume a level together."""
    n = 1 + level // 2
    return _balls(target, n, 0.08 * level / n, rng, beyond=False)


def elsewhere(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """A ball on slices that the target is not on, 10 % of its volume a level."""
    return _balls(target, 1, 0.1 * level, rng, beyond=True)


def noise(target: Mask, level: int, rng: np.random.Generator) -> Array:
    """Specks all over the field of view, 8 % of the target's volume a level (20 voxels at least)."""
    grain = ndimage.gaussian_filter(rng.normal(size=target.mask.shape), 0.6)
    grain[target.away() <= 2 * max(target.spacing_mm)] = -np.inf
    n = min(int(0.08 * level * target.mask.sum()) + 20, int(np.isfinite(grain).sum()) // 8 + 1)
    return np.asarray(target.mask | (grain >= np.partition(grain.ravel(), -n)[-n]) & np.isfinite(grain))


def _balls(target: Mask, n: int, share: float, rng: np.random.Generator, *, beyond: bool) -> Array:
    found = target.mask.copy()
    size = max(8, int(share * target.mask.sum()))
    spacing = np.array(target.spacing_mm)
    radius = (3 * size * float(spacing.prod()) / 4 / np.pi) ** (1 / 3)
    low, high = target.ends
    away = target.away()
    free = away > radius + 2 * spacing.max()
    if beyond:
        free[low:high] = False
    for _ in range(n):
        places = np.argwhere(free) if free.any() else np.argwhere(away >= away.max())
        at = np.zeros_like(found)
        at[tuple(places[int(rng.integers(len(places)))])] = True
        ball = target.away(at)
        if beyond:
            ball[low:high] = np.inf
        found |= ball <= np.partition(ball.ravel(), size - 1)[size - 1]
    return found


KINDS: dict[str, dict[str, Spoil]] = {  # signature -> kind -> how
    "leak": {"dilation": dilation, "bleed": bleed, "neighbour": neighbour, "shift": shift},
    "discontinuity": {
        "jitter": slices.jitter,
        "holes": slices.holes,
        "dropped": slices.dropped,
        "blocks": slices.blocks,
        "flicker": slices.flicker,
        "swaps": slices.swaps,
    },
    "hallucination": {"islands": islands, "noise": noise, "elsewhere": elsewhere},
    "overrun": {"tail": slices.tail, "runaway": slices.runaway},
    "decay": {"shrinking": slices.shrinking, "stop": slices.stop, "crumbling": slices.crumbling},
}
