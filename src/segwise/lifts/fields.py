"""What an image says about each voxel of a region: edges, distances, walks, brightness classes, smoothing along edges.

Pure functions on arrays `[d, h, w]`, shared by the models without weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.segmentation import random_walker

from segwise.geometry import Array

BINS = 64  # of a brightness histogram
UNSEEN = 1e-4  # share of either class in a brightness that it never showed
Spacing = tuple[float, float, float]


def gradient(image: Array, *, smooth: float) -> Array:
    """Sobel gradient magnitude per voxel (not per mm: a thick slice blurs its edge) after Gaussian smoothing."""
    blurred = ndimage.gaussian_filter(image, smooth) if smooth > 0 else image
    return np.asarray(np.sqrt(sum(ndimage.sobel(blurred, axis) ** 2 for axis in range(3))))


def edge_cost(image: Array, inside: Array, *, smooth: float, power: float, floor: float) -> Array:
    """Cost of a step: (gradient / its median inside) ** power + floor."""
    strength = gradient(image, smooth=smooth)
    usual = (float(np.median(strength[inside])) if inside.any() else 0.0) or float(strength.mean()) or 1.0
    return np.asarray((strength / usual) ** power + floor)


def distance(cost: Array, seeds: Array, *, spacing_mm: Spacing) -> Array:
    """Cost of the cheapest path from any seed to each voxel, 26 neighbours. float64 [d, h, w]; inf without a seed."""
    if not seeds.any():
        return np.full(cost.shape, np.inf)
    starts = np.argwhere(seeds & ~ndimage.binary_erosion(seeds, border_value=1))
    starts = starts if len(starts) else np.argwhere(seeds)
    found, _ = MCP_Geometric(cost, sampling=spacing_mm).find_costs(starts)
    return np.where(seeds, 0.0, found)


def nearer(cost: Array, seeds: Array, outside: Array, *, spacing_mm: Spacing) -> Array:
    """Log of the distance to `outside` over the distance to `seeds`: > 0 where the seeds are nearer."""
    tiny = 1e-3 * float(np.median(cost)) * min(spacing_mm)
    inner = distance(cost, seeds, spacing_mm=spacing_mm)
    outer = distance(cost, outside, spacing_mm=spacing_mm)
    inner, outer = (np.minimum(found, 1e9) for found in (inner, outer))
    return np.asarray(np.log((outer + tiny) / (inner + tiny)), dtype=np.float32)


def walk(image: Array, seeds: Array, outside: Array, *, beta: float, scale: float, spacing_mm: Spacing) -> Array:
    """Log odds that a random walk that avoids edges meets the seeds first (scikit-image). float32, -14..14.

    Args:
        image: float32 [d, h, w] in 0..1.
        seeds: bool [d, h, w]; a seed counts with its 26 neighbours.
        outside: bool [d, h, w], sure background.
        beta: how much an edge hinders the walk.
        scale: the image's span; scikit-image's beta depends on the image's unit.
        spacing_mm: (d, h, w).
    """
    near = ndimage.binary_dilation(seeds, np.ones((3, 3, 3))) & ~outside
    labels = np.where(outside, 2, np.where(near, 1, 0))
    if not near.any() or not outside.any() or (labels > 0).all():
        return np.where(labels == 2, -1.0, 1.0).astype(np.float32)
    spacing = np.array(spacing_mm) / min(spacing_mm)
    data = ndimage.gaussian_filter(image, 0.5) * scale  # noise is no edge
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a flat image has no weights to scale; the advice to install pyamg
        chance = random_walker(
            data, labels, beta=beta, mode="cg_j", tol=1e-3, return_full_prob=True, spacing=spacing, copy=True
        )
    inner, outer = (np.clip(np.nan_to_num(c, nan=0.5), 1e-6, 1.0) for c in (chance[0], chance[1]))
    return np.asarray(np.log(inner / outer), dtype=np.float32)


def log_ratio(image: Array, target: Array, background: Array) -> Array:
    """Log of p(brightness | target) / p(brightness | background), clipped to -4..4.

    Args:
        image: float32 [d, h, w] in 0..1.
        target: float32 [N] samples, taken as a Gaussian: median, and the larger of the MAD and half the deviation.
        background: float32 [N] samples, taken as a smoothed histogram of 64 bins.
    """
    centre = float(np.median(target))
    spread = max(1.4826 * float(np.median(np.abs(target - centre))), float(target.std()) / 2, 1 / BINS)
    bins = np.clip((image * BINS).astype(int), 0, BINS - 1)
    counts, _ = np.histogram(background, bins=BINS, range=(0.0, 1.0))
    there = ndimage.gaussian_filter1d(counts.astype(np.float64), 1.5, mode="nearest")
    here = np.exp(-0.5 * (((np.arange(BINS) + 0.5) / BINS - centre) / spread) ** 2)
    here, there = (p / max(float(p.sum()), 1e-12) + UNSEEN for p in (here, there))
    return np.asarray(np.clip(np.log(here / there), -4.0, 4.0)[bins])


def class_ratio(channels: Sequence[Array], target: Array, *, bins: int = 32, unseen: float = 1e-2) -> Array:
    """Log ratio of the joint histograms of some channels in and out of a mask. float64 [d, h, w].

    Args:
        channels: [d, h, w] each, in 0..1.
        target: bool [d, h, w].
        bins: of each channel.
        unseen: share of each class that is spread evenly.
    """
    shape = (bins,) * len(channels)
    places = np.ravel_multi_index([np.clip((c * bins).astype(int), 0, bins - 1) for c in channels], shape)
    logs = []
    for mask in (target, ~target):
        counts = np.bincount(places[mask], minlength=bins ** len(channels)).reshape(shape).astype(np.float64)
        smooth = ndimage.gaussian_filter(counts, 1.0, mode="nearest")
        logs.append(np.log(smooth / max(smooth.sum(), 1e-12) + unseen / counts.size).ravel())
    return np.asarray((logs[0] - logs[1])[places])


def equalised(image: Array, *, share: float = 0.5) -> Array:
    """The image blended with its own ranks: soft tissue gets room that air and bone would take. float32, 0..1."""
    quantiles = np.quantile(image, np.linspace(0, 1, 513))
    quantiles = np.maximum.accumulate(quantiles + np.arange(513) * 1e-7)
    ranks = np.interp(image, quantiles, np.linspace(0, 1, 513))
    return np.asarray(share * ranks + (1 - share) * image, dtype=np.float32)


def smoothed(field: Array, image: Array, *, weight: float, beta: float, spacing_mm: Spacing, rounds: int = 60) -> Array:
    """The field x that is least for sum (x - field)^2 + weight * sum w (x_i - x_j)^2: smooth but for edges.

    w = exp(-beta * (difference / mean difference)^2) * (finest spacing / spacing)^2 between neighbours; solved by
    conjugate gradients.
    """
    steps = [np.diff(image, axis=axis) for axis in range(3)]
    usual = float(np.mean([np.abs(s).mean() for s in steps if s.size])) if any(s.size for s in steps) else 1.0
    ties = [
        weight * (np.exp(-beta * (s / (usual + 1e-9)) ** 2) * (min(spacing_mm) / mm) ** 2 + 1e-3)
        for s, mm in zip(steps, spacing_mm, strict=True)
    ]

    def system(x: Array) -> Array:
        out = x.copy()
        for axis, tie in enumerate(ties):
            flow = np.diff(x, axis=axis) * tie
            seen = np.moveaxis(out, axis, 0)
            seen[1:] += np.moveaxis(flow, axis, 0)
            seen[:-1] -= np.moveaxis(flow, axis, 0)
        return out

    found = field.astype(np.float64)
    rest = found - system(found)
    way, size, enough = rest.copy(), float((rest**2).sum()), 1e-6 * float((found**2).sum())
    for _ in range(rounds):
        if size <= enough:
            break
        ahead = system(way)
        step = size / float((way * ahead).sum())
        found, rest = found + step * way, rest - step * ahead
        before, size = size, float((rest**2).sum())
        way = rest + size / before * way
    return found
