"""A guess of the whole object from its mask on one slice: grown through the image, before a net has seen the others.

It serves propagation: where the net's own answers would lead it astray, the guess says where on a slice the object is.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.lifts import fields

ROOM = 0.3  # of the mask's height and width, left around it on every side
LEAST_ROOM = 4  # voxels
MAX_VOXELS = 60_000  # of a guess; rows and columns of a larger one are taken coarser
CLASSES = 0.5  # weight of brightness beside the distances' 1
SMOOTH = 1.5  # weight of the smoothing between neighbours
LEAN = 0.2  # ties go to the object
SURE = 2.5  # no voxel is surer than this before it is smoothed
BINS = 32
UNSEEN = 1e-3  # share of either class in a brightness that it never showed


def grown(
    image: Array, mask: Array, *, place: int, first: int, last: int, spacing_mm: tuple[float, float, float]
) -> Array:
    """Where the object lies on the slices of a range.

    Seeds are the mask, one voxel inside its edge; background is the rest of its slice from one voxel outside, the rim
    of the rows and columns looked at, and the slices just beyond the range. A voxel is the object's if it is nearer to
    the seeds along edge-avoiding paths, brightness counted in, after smoothing along edges, and if it is connected.

    Args:
        image: [D, H, W], grey levels of any real dtype.
        mask: bool [H, W], the object on the slice `place`.
        place: of the known slice.
        first, last: the range, half-open; nothing lies beyond it.
        spacing_mm: (d, h, w).

    Returns:
        bool [D, H, W]; all False if the mask is empty.
    """
    guess = np.zeros(image.shape, dtype=bool)
    if not mask.any():
        return guess
    rows, columns = _room(mask)
    low, high = max(0, first - 1), min(image.shape[0], last + 1)
    cut = _scaled(image[low:high, rows, columns])
    step = _step(cut.shape)
    small, known = _thinned(cut, step), _thinned(mask[None, rows, columns].astype(np.float32), step)[0] > 0.5
    known = known if known.any() else _thinned_any(mask[rows, columns], known.shape)
    seeds, outside = _certain(small.shape, known, place - low, below=low < first, above=high > last)
    steps_mm = (spacing_mm[0], spacing_mm[1] * step, spacing_mm[2] * step)
    found = _field(small, seeds, outside, known, place - low, steps_mm) > 0
    labels, _ = ndimage.label(found)
    own = np.unique(labels[seeds])
    found = np.isin(labels, own[own > 0])
    guess[low:high, rows, columns] = _thickened(found, cut.shape)
    guess[:first], guess[last:], guess[place] = False, False, mask
    return guess


def _room(mask: Array) -> tuple[slice, slice]:
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(mask.any(axis=axis))
        a, b = int(places[0]), int(places[-1]) + 1
        room = max(LEAST_ROOM, int(ROOM * (b - a)))
        spans.append(slice(max(0, a - room), min(mask.shape[1 - axis], b + room)))
    return spans[0], spans[1]


def _scaled(image: Array) -> Array:
    values = image.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / max(high - low, 1e-12), dtype=np.float32)


def _step(shape: tuple[int, ...]) -> int:
    """By how much rows and columns are thinned so that a guess stays quick."""
    d, h, w = shape
    step = 1
    while d * -(-h // step) * -(-w // step) > MAX_VOXELS and min(h, w) > 2 * step:
        step += 1
    return step


def _thinned(image: Array, step: int) -> Array:
    if step == 1:
        return image
    return np.asarray(ndimage.zoom(image, (1, 1 / step, 1 / step), order=1, grid_mode=True, mode="nearest"))


def _thinned_any(mask: Array, shape: tuple[int, ...]) -> Array:
    """A mask too thin for the coarse grid, on the coarse voxels that it touches."""
    out = np.zeros(shape, dtype=bool)
    places = np.argwhere(mask) * np.array(shape) // np.array(mask.shape)
    out[tuple(places.T)] = True
    return out


def _thickened(mask: Array, shape: tuple[int, ...]) -> Array:
    if mask.shape == shape:
        return mask
    factors = [a / b for a, b in zip(shape, mask.shape, strict=True)]
    return np.asarray(ndimage.zoom(mask.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest") > 0.5)


def _certain(shape: tuple[int, ...], known: Array, place: int, *, below: bool, above: bool) -> tuple[Array, Array]:
    """Sure voxels of the object, and of the background."""
    seeds, outside = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    core = ndimage.binary_erosion(known)
    seeds[place] = core if core.any() else known
    outside[:, 0] = outside[:, -1] = outside[:, :, 0] = outside[:, :, -1] = True
    outside[place] |= ~ndimage.binary_dilation(known)
    if below:
        outside[0] = True
    if above:
        outside[-1] = True
    return seeds, outside & ~seeds


def _field(
    image: Array, seeds: Array, outside: Array, known: Array, place: int, spacing_mm: tuple[float, float, float]
) -> Array:
    """> 0 where the object is more likely. float64 [d, h, w]."""
    even = fields.equalised(image)
    cost = fields.edge_cost(even, ~outside, smooth=0.7, power=2.0, floor=0.03)
    near = fields.nearer(cost, seeds, outside, spacing_mm=spacing_mm)
    blurred = ndimage.gaussian_filter(even, 0.5)
    like = ndimage.gaussian_filter(_likeness(blurred, blurred[place], known), 0.5)
    votes = np.clip(near + CLASSES * like, -SURE, SURE)
    return fields.smoothed(votes, blurred, weight=SMOOTH, beta=0.5, spacing_mm=spacing_mm) + LEAN


def _likeness(image: Array, shown: Array, known: Array) -> Array:
    """Log ratio of the brightness in and out of the mask on the known slice, for every voxel."""
    bins = np.clip((image * BINS).astype(int), 0, BINS - 1)
    there = np.clip((shown * BINS).astype(int), 0, BINS - 1)
    logs = []
    for mask in (known, ~known):
        counts = np.bincount(there[mask], minlength=BINS).astype(np.float64)
        smooth = ndimage.gaussian_filter1d(counts, 1.0, mode="nearest")
        logs.append(np.log(smooth / max(float(smooth.sum()), 1.0) + UNSEEN))
    return np.asarray((logs[0] - logs[1])[bins])
