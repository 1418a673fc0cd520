"""What the image says of a mask: where its outline should lie, and which of its tissue is that of its surroundings.

A good outline lies on the strongest step of intensity near it, a leak's lies on nothing, or on the far side of what it
ran into. Source: the local search along the normal is that of active shape models (Cootes et al., Computer Vision and
Image Understanding 1995); the log ratio of likelihoods inside and around is that of region competition (Zhu and Yuille,
PAMI 1996). What is drawn from them is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import edt
import numpy as np
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from segwise.geometry import Array

ROOM = (3, 7, 7)  # slices, rows, columns around the mask
REACH = 4.0  # voxels within the slice, how far a step of intensity is looked for to both sides
NEARER = 2.0  # standard deviation, in voxels, of the weight by which nearer steps are preferred
BESIDE, APART = 2.0, (1.5, 1.0, 1.0)  # voxels to the places whose profiles are averaged; how far a step counts
FAINT = 0.3  # of the median strength: fainter steps do not say where the outline should lie
ON = 1.0  # voxel: an outline that is no further from a step lies on it
WELL = 1.5  # voxels: an edge is well within or well outside an outline from here on
BINS = 24
FEWEST = 30  # voxels that a histogram needs
SELDOM = 0.005  # added to the share of a bin: what is met in neither core nor surroundings speaks for none
LARGEST = 50_000_000  # voxels of the window; a larger mask is judged without the image
_OFFSETS = np.arange(-REACH, REACH + 0.01, 0.5)


@dataclass(frozen=True, eq=False)
class Sight:
    """The image around a mask.

    Attributes:
        image: float32 [C, n, h, w], every channel from 0 (its first percentile here) to 1 (its 99th), hardly smoothed.
        mask: bool [n, h, w], not empty.
        low: [3] index of the first voxel in the frame of `Seen`.
    """

    image: Array
    mask: Array
    low: tuple[int, int, int]

    @cached_property
    def outline(self) -> tuple[Array, Array]:
        """(places, steps): the outline's voxels, and where the image has its strongest step.

        Returns:
            int64 [P, 3] places on the outline of each slice, in the frame of `Seen`; float64 [P] voxels from there to
            the step along the outward normal, negative where it lies inside. Places with a faint step are left out.
        """
        border = self.mask & ~_eroded(self.mask)
        places = np.argwhere(border)
        if not len(places):
            return places, np.zeros(0)
        near = self._profiles(places)  # [C, P, T]
        change = np.linalg.norm(near[:, :, 2:] - near[:, :, :-2], axis=0)
        strength, offsets = change.max(axis=1), _OFFSETS[1:-1]
        steps = offsets[(change * np.exp(-(offsets**2) / (2 * NEARER**2))).argmax(axis=1)]
        sure = strength > FAINT * np.median(strength)
        return places[sure] + np.array(self.low), steps[sure]

    def _profiles(self, places: Array) -> Array:
        """float64 [C, P, T] intensity along the normals of the outline, averaged over neighbouring places."""
        there, normal = self.mask.any(axis=(1, 2)), np.zeros((2, len(places)))
        for i in map(int, np.flatnonzero(there)):  # slice by slice: what lies on others turns no normal
            here = places[:, 0] == i
            away = self._away[i] - self._depth[i]
            for axis, order in enumerate(((1, 0), (0, 1))):
                slope = ndimage.gaussian_filter(away, 1.0, order=order, mode="nearest")
                normal[axis, here] = slope[tuple(places[here, 1:].T)]
        normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
        at = np.repeat(places.T[:, :, None].astype(float), len(_OFFSETS), axis=2)
        at[1:] += normal[:, :, None] * (_OFFSETS + 0.5)  # the outline is half a voxel beyond its voxels
        sampled = np.stack([ndimage.map_coordinates(one, at, order=1, mode="nearest") for one in self.image])
        pairs = cKDTree(places * np.array(APART)).query_pairs(BESIDE, output_type="ndarray")
        one, other = np.concatenate([pairs, pairs[:, ::-1], np.arange(len(places))[:, None].repeat(2, axis=1)]).T
        near = sparse.csr_array((np.ones(len(one)), (one, other)), shape=(len(places), len(places)))
        total = np.stack([near @ channel for channel in sampled])
        return np.asarray(total / near.sum(axis=1)[:, None])

    @cached_property
    def fit(self) -> Array:
        """float64 [n]: share of a slice's outline that lies on the strongest step near it; 0 for an empty slice."""
        places, steps = self.outline
        here = places[np.abs(steps) <= ON, 0] - self.low[0]
        length = (self.mask & ~_eroded(self.mask)).sum(axis=(1, 2))
        return np.asarray(np.bincount(here, minlength=len(length)) / np.maximum(length, 1))

    @cached_property
    def familiar(self) -> Array:
        """float64 [n]: share of a slice's mask that looks like the whole's core; 0 for an empty slice or no core."""
        if self.core is None:
            return np.zeros(len(self.mask))
        return np.asarray((self.core & self.mask).sum(axis=(1, 2)) / np.maximum(self.mask.sum(axis=(1, 2)), 1))

    @cached_property
    def likeness(self) -> Array | None:
        """float32 [n, h, w]: log of how much more often a voxel's intensity is met in the mask's core than around it.

        Summed over the channels; None where core or surroundings are too small to say.
        """
        depth, away = self._depth, self._away
        deep = self.mask & (depth >= min(2.0, float(np.quantile(depth[self.mask], 0.6))))
        around = (away >= 2) & (away <= 5)
        if deep.sum() <= FEWEST or around.sum() <= FEWEST:
            return None
        found = np.zeros(self.mask.shape, dtype=np.float32)
        for one in self.image:
            shares = []
            for part in (deep, around):
                counts, _ = np.histogram(one[part], BINS, (0, 1))
                shares.append(ndimage.gaussian_filter1d(counts / counts.sum(), 1) + SELDOM)
            found += np.log(shares[0] / shares[1])[np.clip((one * BINS).astype(int), 0, BINS - 1)]
        return found

    @cached_property
    def core(self) -> Array | None:
        """bool [n, h, w]: what looks more like the mask's core than like what is around it, hardly smoothed."""
        return None if self.likeness is None else ndimage.gaussian_filter(self.likeness, (0, 0.7, 0.7)) > 0

    @cached_property
    def _depth(self) -> Array:
        """float32 [n, h, w] voxels within the slice to what is not mask, 0 outside; at most the size of a slice."""
        return np.stack([np.minimum(edt.edt(one, parallel=1), sum(one.shape)) for one in self.mask])

    @cached_property
    def _away(self) -> Array:
        """float32 [n, h, w] voxels within the slice to the mask, 0 inside; a slice without it is endlessly far away."""
        far = np.full(self.mask.shape[1:], np.inf, dtype=np.float32)
        return np.stack([edt.edt(~one, parallel=1) if one.any() else far for one in self.mask])


def of(image: Array, prediction: Array, bounds: tuple[Array, Array], low: Sequence[int]) -> Sight | None:
    """What is seen of a mask; None if it is too large to look at.

    Args:
        image: [C, N, H, W].
        prediction: bool [N, H, W], not empty.
        bounds: its half-open box.
        low: index that the first voxel of the frame of `Seen` has in `prediction`.
    """
    first = np.maximum(bounds[0] - np.array(ROOM), 0)
    last = np.minimum(bounds[1] + np.array(ROOM), prediction.shape)
    if float(np.prod((last - first).astype(float))) * len(image) > LARGEST:
        return None
    cut = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    near = np.nan_to_num(np.asarray(image[(slice(None), *cut)], dtype=np.float32))
    dark, bright = np.percentile(near, [1, 99], axis=(1, 2, 3), keepdims=True)
    near = np.clip((near - dark) / np.maximum(bright - dark, 1e-6), 0, 1)
    smooth = np.stack([ndimage.gaussian_filter(one, (0, 0.6, 0.6)) for one in near])
    a, b, c = (int(v) for v in first - np.array(low))
    return Sight(smooth, prediction[cut], (a, b, c))


def _eroded(mask: Array) -> Array:
    return np.asarray(ndimage.binary_erosion(mask, structure=ndimage.generate_binary_structure(2, 1)[None]))
