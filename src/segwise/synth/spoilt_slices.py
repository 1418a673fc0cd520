"""Ways to spoil a mask slice by slice: `spoilt` names them and says what a level is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.synth.fields import smooth


class Sliced(Protocol):
    """What is spoilt, as `spoilt.Mask`."""

    @property
    def mask(self) -> Array:
        """bool [N, H, W]."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices, rows and columns."""

    @property
    def radius_mm(self) -> float:
        """Of a disc with the mean area."""

    @property
    def ends(self) -> tuple[int, int]:
        """Half-open first and last occupied slice."""


def moved(mask: Array, h: int, w: int) -> Array:
    """A mask moved by whole rows and columns; what leaves the array is lost. bool [..., H, W]."""
    found = np.roll(mask, (h, w), axis=(-2, -1))
    if h:
        found[..., slice(0, h) if h > 0 else slice(h, None), :] = False
    if w:
        found[..., slice(0, w) if w > 0 else slice(w, None)] = False
    return found


def jitter(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Every slice moved on its own, by 6 % of the radius a level (standard deviation), at least 0.6 voxels."""
    spread = max(0.4 + 0.2 * level, 0.06 * level * target.radius_mm / target.spacing_mm[1])
    steps = np.rint(rng.normal(0, spread, (len(target.mask), 2))).astype(int)
    return np.stack([moved(one, int(h), int(w)) for one, (h, w) in zip(target.mask, steps, strict=True)])


def dropped(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """5 % of the inner slices a level are empty, one at least: it disappears and returns."""
    low, high = target.ends
    found = target.mask.copy()
    inner = np.arange(low + 1, high - 1)
    n = min(len(inner), max(1, round(0.05 * level * len(inner))))
    found[rng.permutation(inner)[:n]] = False
    return found


def holes(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """A hole in 15 % of the slices a level, of 40 to 80 % of the depth of the slice at its place."""
    low, high = target.ends
    found = target.mask.copy()
    for i in range(low, high):
        depth = ndimage.distance_transform_edt(np.pad(target.mask[i], 1))[1:-1, 1:-1]
        if rng.random() > 0.15 * level or depth.max() < 2:
            continue
        places = np.argwhere(depth >= 0.6 * depth.max())
        h, w = places[int(rng.integers(len(places)))]
        rows, columns = np.ogrid[: depth.shape[0], : depth.shape[1]]
        reach = max(1.0, (0.3 + 0.1 * level) * depth[h, w]) - 0.01
        found[i] &= (rows - h) ** 2 + (columns - w) ** 2 > reach**2
    if (found == target.mask).all() and target.mask.any():  # none was deep enough, or none was drawn
        i = int(target.mask.sum(axis=(1, 2)).argmax())
        inner = ndimage.binary_erosion(target.mask[i])
        if inner.any():
            h, w = np.argwhere(inner)[int(rng.integers(inner.sum()))]
            found[i, h, w] = False
    return found


def blocks(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Blocks of 2 to 6 slices are all like their middle one: a staircase."""
    low, high = target.ends
    n, found = level + 1, target.mask.copy()
    for first in range(low - int(rng.integers(n)), high, n):
        a, b = max(low, first), min(high, first + n)
        if b > a:
            found[a:b] = target.mask[(a + b - 1) // 2]
    return found


def flicker(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Every slice grows or shrinks on its own, by 8 % of the radius a level (standard deviation)."""
    found = np.zeros_like(target.mask)
    spread = max(0.5 + 0.2 * level, 0.08 * level * target.radius_mm / target.spacing_mm[1])
    for i in range(*target.ends):
        one = target.mask[i]
        if one.any():
            out = ndimage.distance_transform_edt(~one) - ndimage.distance_transform_edt(np.pad(one, 1))[1:-1, 1:-1]
            found[i] = out <= rng.normal(0, spread)
    return found


def swaps(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Slices out of order: each moves by up to the level."""
    low, high = target.ends
    order = np.argsort(np.arange(high - low) + rng.uniform(0, level + 1, high - low), kind="stable")
    found = target.mask.copy()
    found[low:high] = target.mask[low:high][order]
    return found


def tail(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Past one end the last full slice goes on and on, for 8 % of the target's slices a level, two at least."""
    return _past(target, level, rng, drift=0.0, growth=0.0)


def runaway(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Past one end the mask goes on, drifts by 8 % of its radius a slice and grows by a third of a voxel."""
    return _past(target, level, rng, drift=0.08, growth=0.33)


def _past(target: Sliced, level: int, rng: np.random.Generator, *, drift: float, growth: float) -> Array:
    forth = bool(rng.random() < 0.5)
    mask = target.mask if forth else target.mask[::-1]
    areas = mask.sum(axis=(1, 2))
    low, high = (int(v) for v in (np.flatnonzero(areas)[0], np.flatnonzero(areas)[-1] + 1))
    n = max(1 + level, round(0.08 * level * (high - low)))
    seed = next((i for i in range(high - 1, low - 1, -1) if areas[i] >= 0.3 * areas.max()), high - 1)
    found, angle = mask.copy(), rng.uniform(0, 2 * np.pi)
    out = ndimage.distance_transform_edt(~mask[seed])
    for i in range(seed + 1, min(high + n, len(mask))):
        reach = drift * (i - seed) * target.radius_mm / target.spacing_mm[1]
        grown = out <= growth * (i - seed)
        found[i] |= moved(grown, round(reach * np.sin(angle)), round(reach * np.cos(angle)))
    return np.asarray(found if forth else found[::-1].copy())


def _distance(target: Sliced) -> Array:
    """float64 [N]: 0 in the middle third of the target, growing to 1 at its ends."""
    low, high = target.ends
    away = np.abs(np.arange(len(target.mask)) - (low + high - 1) / 2) / max(1.0, (high - low) / 2)
    return np.asarray(np.clip((away - 1 / 3) * 1.5, 0, 1))


def shrinking(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """The mask shrinks away from the middle: at the ends by a fifth of its radius a level."""
    inner = ndimage.distance_transform_edt(np.pad(target.mask, 1), (1e3, *target.spacing_mm[1:]))[1:-1, 1:-1, 1:-1]
    reach = max(0.2 * level * target.radius_mm, level * 0.8 * target.spacing_mm[1]) * _distance(target)
    return np.asarray(target.mask & (inner > reach[:, None, None]))


def stop(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Nothing any more in the last 8 % of the slices a level, at one end or shared between both."""
    low, high = target.ends
    n = max(1, round(0.08 * level * (high - low)))
    before = int(rng.choice([0, n, n // 2]))
    found = np.zeros_like(target.mask)
    found[low + before : high - (n - before)] = target.mask[low + before : high - (n - before)]
    return found


def crumbling(target: Sliced, level: int, rng: np.random.Generator) -> Array:
    """Pieces are missing, the more the further from the middle: at the ends 18 % of the mask a level."""
    scale = [max(1.5, 0.3 * target.radius_mm / s) for s in target.spacing_mm]
    field = smooth(target.mask.shape, rng, scale=scale)
    rank = field[target.mask].argsort().argsort() / max(1, int(target.mask.sum()) - 1)
    share = np.ones(target.mask.shape)
    share[target.mask] = rank
    return np.asarray(target.mask & (share >= 0.18 * level * _distance(target)[:, None, None]))
