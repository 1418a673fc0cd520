"""A room: a cube of voxels in which shapes are evaluated only near themselves and painted as labels.

A shape is a `Patch`: a field, negative inside and roughly in voxels, on the part of the room it reaches. Coordinates
are indices (d, h, w) bent by a smooth warp; 1 voxel is 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from segwise.geometry import Array
from segwise.synth.fields import smooth
from segwise.synth.phantom import Tissue

Where = tuple[slice, slice, slice]
FAR = 1e3
NOISE_SCALES = (5.0, 10.0, 21.0)


@dataclass(frozen=True, eq=False)
class Patch:
    """A shape near itself.

    Attributes:
        where: the part of the room.
        field: float32, of that part's shape: negative inside, roughly in voxels.
    """

    where: Where
    field: Array


@dataclass(frozen=True, eq=False)
class Spot:
    """Where a thing goes.

    Attributes:
        centre: float64 [3] index.
        size: about how many voxels it is across.
        over: it is painted over what is there; else only where nothing but ground is.
    """

    centre: Array
    size: float
    over: bool


@dataclass
class Room:
    """What is painted so far.

    Attributes:
        rng: every draw.
        palette: tissues that several things share.
        labels: int16 [D, H, W]; ids up to `n_ground` are ground, 0 is outside a body if `walled`.
        bent: float32 [3, D, H, W] warped indices.
        bank: smooth noise at each of `NOISE_SCALES`, float32 [D, H, W].
        tissues: label id -> how it looks.
        names: label id -> kind.
        targets: (kind, label ids) of everything that can be segmented.
        walled: nothing is painted onto label 0.
    """

    rng: np.random.Generator
    palette: list[Tissue]
    labels: Array
    bent: Array
    bank: list[Array]
    tissues: dict[int, Tissue] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    targets: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    n_ground: int = 0
    walled: bool = False

    @staticmethod
    def of(shape: Sequence[int], rng: np.random.Generator, palette: list[Tissue], *, warp: float, scale: float) -> Room:
        """An empty room, bent by noise of a standard deviation of `warp` and a correlation length of `scale` voxels."""
        bank = [smooth(shape, rng, scale=s) for s in NOISE_SCALES]
        bent = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
        for axis in range(3):
            bent[axis] += np.float32(warp) * smooth(shape, rng, scale=scale)
        return Room(rng, palette, np.zeros(shape, dtype=np.int16), bent, bank)

    def around(self, centre: ArrayLike, reach: ArrayLike, *, slack: float = 7.0) -> Where:
        """The part of the room within `reach` (and some slack for the warp) of a place."""
        low = np.floor(np.asarray(centre) - np.asarray(reach) - slack)
        high = np.ceil(np.asarray(centre) + np.asarray(reach) + slack) + 1
        ends = zip(low, high, self.labels.shape, strict=True)
        d, h, w = (slice(int(np.clip(a, 0, n)), int(np.clip(b, 0, n))) for a, b, n in ends)
        return d, h, w

    def local(self, centre: ArrayLike, reach: ArrayLike, turn: Array) -> tuple[Where, Array]:
        """(where, float32 [3, d, h, w]): warped coordinates about a centre along the columns of `turn`."""
        where = self.around(centre, np.abs(turn) @ np.broadcast_to(reach, 3))
        near = self.bent[(slice(None), *where)]
        flat = near.reshape(3, -1) - np.asarray(centre, dtype=np.float32)[:, None]
        return where, (turn.T.astype(np.float32) @ flat).reshape(near.shape)

    def rough(self, where: Where, which: int) -> Array:
        """Smooth noise of scale `NOISE_SCALES[which]` for a part: some other part of the bank, perhaps turned over."""
        bank = self.bank[which]
        sizes = [s.stop - s.start for s in where]
        at = [int(self.rng.integers(0, n - m + 1)) for n, m in zip(bank.shape, sizes, strict=True)]
        block = bank[tuple(slice(a, a + m) for a, m in zip(at, sizes, strict=True))]
        flips = [slice(None, None, -1 if self.rng.random() < 0.5 else 1) for _ in range(3)]
        return block[tuple(flips)]

    def tissue(self, *, unlike: float | None = None, fresh: float = 0.35) -> Tissue:
        """A tissue of the palette, or with probability `fresh` one that nothing else has; seldom like the ground."""
        avoid = [self.tissues[self.n_ground].value] if self.n_ground and self.rng.random() < 0.93 else []
        avoid += [] if unlike is None else [unlike]
        for _ in range(8):
            one = self.palette[int(self.rng.integers(len(self.palette)))]
            if all(abs(one.value - value) > 12 for value in avoid):
                break
        else:
            return Tissue(one.value + self.rng.choice((-1, 1)) * self.rng.uniform(20, 90), one.texture, one.grain_mm)
        if self.rng.random() < fresh:
            return Tissue(one.value + self.rng.normal(0, 30), one.texture, one.grain_mm)
        return one

    def label(self, tissue: Tissue, kind: str = "") -> int:
        """A new label id; with a kind it can be a target or a part of one."""
        new = max(self.tissues, default=-1) + 1
        self.tissues[new] = tissue
        if kind:
            self.names[new] = kind
        return new

    def fill(self, where: Where, mask: Array, label: int, *, over: bool = True, only: Sequence[int] = ()) -> None:
        """Paint a mask; `only` onto these labels, else over everything or, unless `over`, onto ground alone."""
        view = self.labels[where]
        if only:
            mask = mask & np.isin(view, only)
        elif not over:
            mask = mask & (view <= self.n_ground)
        if self.walled:
            mask = mask & (view != 0)
        view[mask] = label

    def paint(
        self, patch: Patch, tissue: Tissue, kind: str = "", *, over: bool = True, only: Sequence[int] = ()
    ) -> int:
        """Paint a patch's inside under a new label."""
        label = self.label(tissue, kind)
        self.fill(patch.where, patch.field < 0, label, over=over, only=only)
        return label

    def target(self, kind: str, *labels: int) -> None:
        """Say that the union of these labels is something to segment."""
        self.targets.append((kind, tuple(labels)))


def turned(rng: np.random.Generator) -> Array:
    """float64 [3, 3]: a random rotation; half of them nearly keep the axes."""
    keeps = rng.random() < 0.5
    matrix = np.eye(3) + rng.normal(0, 0.15, (3, 3)) if keeps else rng.normal(size=(3, 3))
    q, r = np.linalg.qr(matrix)
    return np.asarray(q * np.sign(np.diag(r)))


def ellipsoid(
    room: Room, centre: ArrayLike, radii: ArrayLike, turn: Array, *, power: float = 2.0, rough: float = 0.0
) -> Patch:
    """A superquadric whose surface is moved by noise of a standard deviation of `rough` times its least radius."""
    r = np.asarray(radii, dtype=np.float32)
    where, q = room.local(centre, r * (1 + 2 * rough), turn)
    q /= r[:, None, None, None]
    if power == 2:
        rho = np.sqrt(np.einsum("i...,i...->...", q, q))
    else:
        np.abs(q, out=q)
        np.power(q, np.float32(power), out=q)
        rho = q.sum(axis=0) ** np.float32(1 / power)
    out = (rho - 1) * r.min()
    if rough:
        which = int(np.searchsorted((9, 22), float(r.mean())))
        out += np.float32(rough * r.min()) * room.rough(where, which)
    return Patch(where, out)


def tube(
    room: Room, path: ArrayLike, radii: ArrayLike, *, flat: tuple[Array, float] | None = None, margin: float = 3.0
) -> Patch:
    """A tube around a polyline [N, 3] with a radius at each vertex; `flat`: (unit vector, factor) thins it that way."""
    points, sizes = np.asarray(path, dtype=np.float32), np.asarray(radii, dtype=np.float32)
    reach = float(sizes.max()) + margin
    middle, half = (points.max(0) + points.min(0)) / 2, (points.max(0) - points.min(0)) / 2
    where = room.around(middle, half + reach, slack=0)
    start = np.array([s.start for s in where])
    out = np.full([s.stop - s.start for s in where], FAR, dtype=np.float32)
    for a, b, ra, rb in zip(points[:-1], points[1:], sizes[:-1], sizes[1:], strict=True):
        near = room.around((a + b) / 2, np.abs(b - a) / 2 + reach, slack=0)
        d, h, w = (slice(max(n.start, o.start), min(n.stop, o.stop)) for n, o in zip(near, where, strict=True))
        part = d, h, w  # rounding may take a segment's reach a voxel beyond the whole's
        if any(s.stop <= s.start for s in part):
            continue
        spot = tuple(slice(s.start - o, s.stop - o) for s, o in zip(part, start, strict=True))
        np.minimum(out[spot], _capsule(part, a, b - a, ra, rb - ra, flat), out=out[spot])
    return Patch(where, out)


def _capsule(part: Where, a: Array, along: Array, ra: float, grows: float, flat: tuple[Array, float] | None) -> Array:
    axes = [np.arange(s.start, s.stop, dtype=np.float32) - o for s, o in zip(part, a, strict=True)]
    d, h, w = axes[0][:, None, None], axes[1][:, None], axes[2]
    t = np.clip((d * along[0] + h * along[1] + w * along[2]) / max(float(along @ along), 1e-6), 0, 1)
    d, h, w = d - along[0] * t, h - along[1] * t, w - along[2] * t
    square = d * d + h * h + w * w
    if flat is not None:
        normal, factor = flat[0].astype(np.float32), np.float32(flat[1] ** 2 - 1)
        square = square + factor * (d * normal[0] + h * normal[1] + w * normal[2]) ** 2
    return np.asarray(np.sqrt(square) - (ra + grows * t), dtype=np.float32)


def joined(room: Room, patches: Sequence[Patch], *, soft: float = 0.0) -> Patch:
    """Union of patches, creases rounded over `soft` voxels."""
    starts, stops = ([[getattr(s, end) for s in p.where] for p in patches] for end in ("start", "stop"))
    low, high = np.min(starts, axis=0), np.max(stops, axis=0)
    out = np.full(high - low, FAR, dtype=np.float32)
    for patch in patches:
        spot = tuple(slice(s.start - o, s.stop - o) for s, o in zip(patch.where, low, strict=True))
        here = out[spot]
        if soft > 0:
            blend = np.clip(0.5 + 0.5 * (here - patch.field) / soft, 0, 1)
            np.copyto(here, here + (patch.field - here) * blend - soft * blend * (1 - blend))
        else:
            np.minimum(here, patch.field, out=here)
    d, h, w = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return Patch((d, h, w), out)
