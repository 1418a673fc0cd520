"""A prompt's own part of a volume, for methods that solve a whole region at once and know no weights.

`Region.of` cuts the sub-box of a prompt with a shell around it, on a coarser grid when it is large, and says where the
seeds are: clicks, or the core of the boxes when nobody clicked. `RegionSegmenter` turns a function `solve(region)` into
a `Segmenter`: it solves, brings the margin back to the voxels of the input, and clips it to the boxes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Shape, Volume, regrid
from segwise.prompt import Placed
from segwise.segmenter import OUTSIDE, Ask, Prediction, Segmenter, State, Store

MAX_VOXELS = 200_000  # of a region that is solved; a larger one is solved on a coarser grid
SHELL = 3  # voxels around the boxes that are known not to be the target
CORE = 0.35  # half axes of the core of a box, as a share of the box's: the seeds of a box without clicks
REACH_MM = (30.0, 60.0, 120.0, float("inf"))  # how far a region reaches around clicks without a box, tried in order
Index = NDArray[np.int64]


@dataclass(frozen=True)
class RegionState(State):
    """A volume prepared for regions.

    Attributes:
        volume: as it came, or on the nearest orthogonal grid if the input's is sheared.
        low, high: its 0.5 and 99.5 percentiles (first channel); regions are clipped to them.
    """

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a volume, ready to be solved; at most about `MAX_VOXELS` voxels.

    Attributes:
        image: float32 [d, h, w], first channel, clipped to the volume's percentiles and scaled to 0..1.
        grid: where it lies: a crop of the prepared volume's grid, or the same field of view with fewer voxels.
        inside: bool [d, h, w]: the target may be here (in a box; without one, everywhere but at the region's rim).
        outside: bool [d, h, w]: surely background: the shell around the boxes, the rim, negative clicks.
        seeds: bool [d, h, w]: surely target: positive clicks, or the core of the boxes if there are none.
        clicks: int [N, 3] positive clicks, in order; () for a core.
        negative: int [M, 3] negative clicks.
        place: float32 [3, d, h, w]: place in the hull of the boxes, -1..1 from face to face; zeros without a box.
        boxed: there is a box.
        whole: the region is the whole volume.
    """

    image: Array
    grid: Grid
    inside: Array
    outside: Array
    seeds: Array
    clicks: Index
    negative: Index
    place: Array
    boxed: bool
    whole: bool

    @staticmethod
    def of(state: RegionState, placed: Placed, *, reach_mm: float, max_voxels: int) -> Region:
        """The region of a prompt.

        Args:
            state: the prepared volume.
            placed: the prompt on the prepared volume's grid.
            reach_mm: without a box: how far it reaches around the positive clicks.
            max_voxels: a larger region gets a coarser grid.
        """
        full = state.volume.grid
        low, high = _extent(placed, full, reach_mm)
        fine = full.crop(low.tolist(), high.tolist())
        grid = fine.resized(coarser(fine, max_voxels))
        image = _clipped(state, fine, low, high)
        image = _shrunk(image, fine, grid)
        inside, place = _inside(placed, fine, grid, low, _open_faces(full, low, high))
        clicks = _on(placed.points[placed.positive] - low, fine, grid)
        negative = _on(placed.points[~placed.positive] - low, fine, grid)
        seeds = _marked(grid.shape, clicks if len(clicks) else _core(placed, fine, grid, low, negative))
        outside = ~inside | _marked(grid.shape, negative)
        outside &= ~_marked(grid.shape, clicks)
        if not outside.any():  # the box is the whole volume: its corners are rarely the target
            far = (place**2).sum(axis=0)
            outside = (far >= 0.8 * far.max()) & ~seeds & (far > 0)
        seeds &= ~outside
        whole = bool((low == 0).all() and (high == np.array(full.shape)).all())
        return Region(image, grid, inside, outside, seeds, clicks, negative, place, bool(len(placed.boxes)), whole)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(d, h, w) of the solved grid."""
        return self.grid.spacing_mm

    def samples(self) -> Array:
        """float32 [N]: the image in 3x3x3 voxels around each click, or in the core."""
        if not len(self.clicks):
            return np.asarray(self.image[self.seeds])
        patches = [self.image[tuple(slice(max(0, i - 1), i + 2) for i in click)].ravel() for click in self.clicks]
        return np.concatenate(patches)

    def carved(self, margin: Array) -> Array:
        """A margin made to agree with the clicks, for methods that know no space.

        A negative click takes away the ball around it that reaches half way to the nearest seed, at most 10 mm; a
        positive click adds its voxel.
        """
        margin = margin.copy()
        size = max(float(np.abs(margin).max()), 1e-3)
        spacing = np.array(self.spacing_mm)
        seeds = np.argwhere(self.seeds) * spacing
        for click in self.negative:
            nearest = np.linalg.norm(seeds - click * spacing, axis=1).min() if len(seeds) else 20.0
            ball = _distance_sq(margin.shape, click, spacing) <= min(nearest / 2, 10.0) ** 2
            margin[ball] = -size
        for click in self.clicks:
            margin[tuple(click)] = size
        return margin

    def connected(self, mask: Array) -> Array:
        """bool [d, h, w]: the components of a mask that hold a seed; the mask if none does."""
        labels, _ = ndimage.label(mask)
        wanted = np.unique(labels[self.seeds])
        kept = np.isin(labels, wanted[wanted > 0])
        return kept if kept.any() else mask


class RegionSegmenter(Segmenter):
    """A Segmenter from a function that gives a region's margin.

    Args:
        solve: Region -> float32 [d, h, w], > 0 is foreground; it must not keep anything.
        name: of the method with all that decides its answers, for the digest.
        max_voxels: the greatest number of voxels to solve.
    """

    def __init__(self, solve: Callable[[Region], Array], *, name: str, max_voxels: int = MAX_VOXELS) -> None:
        self._solve = solve
        self._max_voxels = max_voxels
        words = f"region 1/{name}/{max_voxels}/{SHELL}/{CORE}/{REACH_MM}"
        self.digest = hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
        self.encoder = "region 1"

    def encode(self, volume: Volume, *, store: Store) -> RegionState:
        """The volume on an orthogonal grid, and its percentiles."""
        return prepared(volume, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask; asks do not know each other.

        Raises:
            PromptError: neither a box nor a positive click lies in the volume.
        """
        if not isinstance(state, RegionState):
            raise TypeError(f"state is {type(state).__name__}, expected what encode of this model gave")
        return [self._answer(state, ask) for ask in asks]

    def _answer(self, state: RegionState, ask: Ask) -> Prediction:
        placed = ask.prompt.on(state.volume.grid)
        if not len(placed.boxes) and not placed.positive.any():
            kinds = ", ".join(sorted(ask.prompt.kinds)) or "no mark"
            raise PromptError(
                f"the prompt holds {kinds} but no box and no positive point inside the volume; "
                "expected at least one of them: give a box, or a point on the target"
            )
        for reach_mm in REACH_MM[-1:] if len(placed.boxes) else REACH_MM:
            region = Region.of(state, placed, reach_mm=reach_mm, max_voxels=self._max_voxels)
            margin = self._solve(region)
            if region.boxed or region.whole or not _touches(margin > 0, region):
                break
        return _prediction(ask, state, region, margin)


def prepared(volume: Volume, store: Store) -> RegionState:
    """A volume as regions want it: orthogonal, with its 0.5 and 99.5 percentiles (of about a million voxels)."""
    if volume.grid.skew > 1e-3:
        volume = Volume.of(volume.array[:1].astype(np.float32), volume.grid, volume.channels[:1])
        low = float(np.nanmin(volume.array))
        straight = volume.on(volume.grid.straight(), order=1, outside=low)
    else:
        straight = volume
    step = max(1, round((straight.array[0].size / 1e6) ** (1 / 3)))
    values = straight.array[0, ::step, ::step, ::step].astype(np.float32)
    values = values[np.isfinite(values)]
    low_, high_ = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
    return RegionState(straight, volume.grid, store, float(low_), float(high_))


def coarser(grid: Grid, max_voxels: int) -> Shape:
    """The finest shape of at most about `max_voxels` over the same field: the finest axes give way first.

    Every axis gets the larger of its own spacing and a common one, found by bisection.
    """
    shape, spacing = np.array(grid.shape), np.array(grid.spacing_mm)
    if shape.prod() <= max_voxels:
        return grid.shape

    def at(common: float) -> Array:
        return np.asarray(np.maximum(1, np.floor(shape * spacing / np.maximum(spacing, common) + 1e-6)), dtype=int)

    low, high = 0.0, float((shape * spacing).max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).prod() > max_voxels else (low, middle)
    d, h, w = (int(n) for n in at(high))
    return d, h, w


def _extent(placed: Placed, full: Grid, reach_mm: float) -> tuple[Index, Index]:
    """Low and high corner of the region: the boxes and their shell, or the clicks and their reach."""
    shape = np.array(full.shape)
    if len(placed.boxes):
        low, high = placed.boxes[:, 0].min(axis=0) - SHELL, placed.boxes[:, 1].max(axis=0) + SHELL
    else:
        clicks = np.floor(placed.points[placed.positive] + 0.5)
        reach = np.minimum(np.ceil(reach_mm / np.array(full.spacing_mm)), shape) if np.isfinite(reach_mm) else shape
        reach = np.maximum(reach, (np.ptp(clicks, axis=0) + 1) / 2) if np.isfinite(reach_mm) else reach
        low, high = clicks.min(axis=0) - reach, clicks.max(axis=0) + 1 + reach
    return np.maximum(low, 0).astype(np.int64), np.minimum(high, shape).astype(np.int64)


def _open_faces(full: Grid, low: Index, high: Index) -> Array:
    """bool [3, 2]: the region's faces that are not the volume's; all of them if none is (the whole volume)."""
    faces = np.stack([low > 0, high < np.array(full.shape)], axis=1)
    return np.asarray(faces if faces.any() else np.ones((3, 2), dtype=bool))


def _clipped(state: RegionState, fine: Grid, low: Index, high: Index) -> Array:
    cut = state.volume.array[0][tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    image = np.nan_to_num(cut.astype(np.float32), nan=state.low, posinf=state.high, neginf=state.low)
    image = np.clip(image, state.low, state.high) - state.low
    return np.asarray(image / max(state.high - state.low, 1e-12), dtype=np.float32)


def _shrunk(image: Array, fine: Grid, grid: Grid) -> Array:
    """The image on a coarser grid, smoothed first so that nothing aliases."""
    if fine == grid or fine.shape == grid.shape:
        return image
    step = np.array(fine.shape) / np.array(grid.shape)
    smooth = ndimage.gaussian_filter(image, np.where(step > 1, 0.5 * (step - 1), 0.0), mode="nearest")
    return regrid(smooth, fine, grid, order=1, outside=0.0)


def _inside(placed: Placed, fine: Grid, grid: Grid, low: Index, faces: Array) -> tuple[Array, Array]:
    """Where the target may be, and the place in the hull of the boxes, on the solved grid."""
    inside = np.zeros(fine.shape, dtype=bool)
    place = np.zeros((3, *grid.shape), dtype=np.float32)
    if not len(placed.boxes):
        inside[:] = True
        for axis, n in enumerate(fine.shape):
            rim = np.moveaxis(inside, axis, 0)
            if n >= 5:  # a thin volume is not all rim
                rim[0] &= not faces[axis, 0]
                rim[-1] &= not faces[axis, 1]
        return _rim(inside, fine, grid), place
    for first, last in placed.boxes - low:
        inside[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = True
    first, last = placed.boxes[:, 0].min(axis=0) - low, placed.boxes[:, 1].max(axis=0) - low
    for axis, (a, b) in enumerate(zip(first, last, strict=True)):
        step = fine.shape[axis] / grid.shape[axis]
        where = ((np.arange(grid.shape[axis]) + 0.5) * step - (a + b) / 2) / ((b - a) / 2)
        place[axis] = where.reshape([-1 if i == axis else 1 for i in range(3)])
    return regrid(inside, fine, grid, order=0, outside=0), place


def _rim(inside: Array, fine: Grid, grid: Grid) -> Array:
    """The inside of a region without a box on the solved grid: a coarse rim voxel holds a fine one."""
    if inside.shape == grid.shape:
        return inside
    out = np.ones(grid.shape, dtype=bool)
    rim = _on(np.argwhere(~inside).astype(np.float64), fine, grid)
    out[tuple(rim.T)] = False
    return out


def _core(placed: Placed, fine: Grid, grid: Grid, low: Index, negative: Index) -> Index:
    """int [N, 3]: the ellipsoid in the middle of each box, without what is nearer to a negative click than to it."""
    found = []
    for first, last in placed.boxes - low:
        centre, half = (first + last - 1) / 2, (last - first) / 2
        reach = np.ceil(half * CORE).astype(int)
        from_, to = np.floor(centre - reach).astype(int), np.ceil(centre + reach).astype(int) + 1
        near = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(from_, to, strict=True)), indexing="ij"), -1)
        near = near.reshape(-1, 3)
        far = (((near - centre) / half) ** 2).sum(axis=1)
        found.append(near[far <= max(CORE**2, float(far.min()) + 1e-9)])
    core = _on(np.concatenate(found).astype(np.float64), fine, grid)
    if len(negative):
        spacing, middle = np.array(grid.spacing_mm), core.mean(axis=0)
        to_middle = np.linalg.norm((core - middle) * spacing, axis=1)
        to_click = np.min([np.linalg.norm((core - click) * spacing, axis=1) for click in negative], axis=0)
        core = core[to_click > np.minimum(to_middle, to_click.max() - 1e-9)]
    return core


def _on(index: Array, fine: Grid, grid: Grid) -> Index:
    """Indices of the fine grid as voxels of the solved one, each once, in order; those outside are dropped."""
    step = np.array(fine.shape) / np.array(grid.shape)
    voxel = np.floor((np.asarray(index, dtype=np.float64) + 0.5) / step + 1e-9).astype(np.int64)
    voxel = voxel[((voxel >= 0) & (voxel < np.array(grid.shape))).all(axis=1)]
    _, first = np.unique(voxel, axis=0, return_index=True)
    return np.asarray(voxel[np.sort(first)], dtype=np.int64)


def _marked(shape: Shape, voxels: Index) -> Array:
    out = np.zeros(shape, dtype=bool)
    out[tuple(voxels.T)] = True
    return out


def _distance_sq(shape: Sequence[int], centre: Index, spacing: Array) -> Array:
    axes: list[Any] = [((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)]
    return np.asarray(axes[0][:, None, None] + axes[1][:, None] + axes[2])


def _touches(mask: Array, region: Region) -> bool:
    """The connected answer reaches the rim of a region without a box: it may go on beyond."""
    near = ndimage.binary_dilation(~region.inside)
    return bool((region.connected(mask) & near).any())


def _prediction(ask: Ask, state: RegionState, region: Region, margin: Array) -> Prediction:
    """The margin on a crop of the input's grid, clipped to the boxes."""
    full = state.grid
    placed = ask.prompt.on(full)
    margin = np.asarray(np.where(np.isfinite(margin), margin, OUTSIDE), dtype=np.float32)
    if len(placed.boxes):
        low, high = placed.boxes[:, 0].min(axis=0), placed.boxes[:, 1].max(axis=0)
    else:
        low, high = _box_of(region.grid, full)
    answer = full.crop(low.tolist(), high.tolist())
    logits = regrid(margin, region.grid, answer, order=1, outside=OUTSIDE)
    if len(placed.boxes):
        allowed = np.zeros(answer.shape, dtype=bool)
        for first, last in placed.boxes - low:
            allowed[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = True
        logits = np.where(allowed, logits, np.float32(OUTSIDE))
    logits = np.clip(logits, OUTSIDE, -OUTSIDE).astype(np.float32)
    return Prediction(ask.prompt, logits[None], answer)


def _box_of(grid: Grid, full: Grid) -> tuple[Index, Index]:
    """The voxels of the input's grid that a solved grid covers."""
    ends = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in grid.shape), indexing="ij")).reshape(3, -1).T
    corners = full.index(grid.mm(ends)) + 0.5
    low = np.maximum(np.floor(corners.min(axis=0) + 1e-6), 0).astype(np.int64)
    high = np.minimum(np.ceil(corners.max(axis=0) - 1e-6), full.shape).astype(np.int64)
    return low, np.maximum(high, low + 1)
