"""Worlds: cubes full of procedural things that touch, look alike and are of every shape anatomy has.

One world serves many training samples: its labels are cropped and made into images by `appearance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segwise.geometry import Array, Grid
from segwise.synth import bodies, strands
from segwise.synth.phantom import Phantom, Tissue
from segwise.synth.room import Room, Spot, ellipsoid, turned

LEAST_VOXELS = 40  # a target smaller than this after everything is painted is none

_KINDS: tuple[tuple[Callable[[Room, Spot], None], float, tuple[float, float]], ...] = (
    # what, how often, sizes across
    (bodies.blob, 4.0, (6, 60)),
    (bodies.organ, 2.0, (22, 60)),
    (bodies.hollow, 2.0, (10, 50)),
    (bodies.parts, 1.2, (18, 60)),
    (bodies.tumor, 2.0, (8, 50)),
    (bodies.bean, 1.0, (16, 50)),
    (bodies.crescent, 1.0, (10, 50)),
    (bodies.fold, 0.8, (28, 70)),
    (bodies.layer, 0.9, (16, 60)),
    (bodies.bundle, 1.0, (16, 56)),
    (bodies.twins, 1.2, (6, 34)),
    (strands.tubes, 3.0, (12, 56)),
    (strands.tree, 1.2, (18, 60)),
    (strands.chain, 1.5, (18, 60)),
    (strands.ribs, 1.0, (24, 70)),
    (strands.loops, 0.8, (16, 46)),
)

_VALUES = (-850.0, -120.0, -95.0, 5.0, 30.0, 50.0, 60.0, 75.0, 100.0, 120.0, 180.0, 260.0, 380.0, 700.0)


@dataclass(frozen=True, eq=False)
class World:
    """A generated world.

    Attributes:
        phantom: labels, how each looks, and the kind of every label that is a target or a part of one.
        targets: (kind, label ids): what can be segmented, each the union of its labels; at least one.
    """

    phantom: Phantom
    targets: tuple[tuple[str, tuple[int, ...]], ...]


def world(seed: int, *, side: int = 88) -> World:
    """A cube of things.

    Args:
        seed: decides everything.
        side: voxels along each axis; 1 mm each.

    Returns:
        About 6 to 25 things of log-uniform size, with `side`^3 labels; array axes towards S, P, L.
    """
    rng = np.random.default_rng([seed, 11])
    warp, scale = rng.uniform(0.5, 2.5), rng.uniform(14, 40)
    room = Room.of((side, side, side), rng, _palette(rng), warp=warp, scale=scale)
    _ground(room)
    n = int(rng.integers(6, 12)) if rng.random() < 0.4 else int(rng.integers(12, 26))
    chosen = rng.choice(len(_KINDS), size=n, p=_shares())
    favourite = int(rng.choice(len(_KINDS), p=_shares()))  # worlds differ: some are mostly of one kind
    chosen[rng.random(n) < rng.choice((0.0, 0.0, 0.5))] = favourite
    things = sorted(((int(k), _size(rng, int(k), side)) for k in chosen), key=lambda thing: -thing[1])
    spots: list[Spot] = []
    for kind, size in things:
        spots.append(Spot(_place(rng, spots, size, side), size, bool(rng.random() < 0.6)))
        _KINDS[kind][0](room, spots[-1])
    return _finished(room, side)


def _shares() -> list[float]:
    total = sum(often for _, often, _ in _KINDS)
    return [often / total for _, often, _ in _KINDS]


def _size(rng: np.random.Generator, kind: int, side: int) -> float:
    low, high = _KINDS[kind][2]
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) * side / 88


def _place(rng: np.random.Generator, spots: list[Spot], size: float, side: int) -> Array:
    """Anywhere, or just beside (or partly in) a thing that is there."""
    if spots and rng.random() < 0.7:
        other = spots[int(rng.integers(len(spots)))]
        way = rng.normal(size=3)
        gap = (other.size + size) / 2 * rng.uniform(0.5, 1.0)
        return np.asarray(np.clip(other.centre + way / np.linalg.norm(way) * gap, 4, side - 5))
    return np.asarray(rng.uniform(0.1, 0.9, 3) * side)


def _palette(rng: np.random.Generator) -> list[Tissue]:
    """A few tissues: most alike, as soft tissues are."""
    n = int(rng.integers(4, 9))
    centre = rng.uniform(20, 120)
    values = [
        float(rng.choice(_VALUES)) if rng.random() < 0.55 else float(centre + rng.normal(0, 35)) for _ in range(n)
    ]
    return [Tissue(v, float(rng.choice((0, 5, 10, 20)) + 0.03 * abs(v)), float(rng.uniform(2.5, 9))) for v in values]


def _ground(room: Room) -> None:
    """Flat or of several tissues, perhaps within a body with a layer of fat and air around."""
    rng, shape = room.rng, room.labels.shape
    everywhere = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    room.label(Tissue(-1000.0, 4.0))
    if rng.random() < 0.4:
        _body(room)
        room.walled = True
    else:
        room.labels[:] = room.label(room.tissue(fresh=0.1))
    inner = max(room.tissues)
    if rng.random() < 0.22:
        _cells(room, inner)
    for _ in range(int(rng.choice((0, 0, 1, 2)))):
        field = room.rough(everywhere, int(rng.choice((0, 1, 1, 2, 2, 2)))) + rng.uniform(0.0, 1.2)
        room.labels[(field < 0) & (room.labels == inner)] = room.label(room.tissue())
    room.n_ground = max(room.tissues)


def _cells(room: Room, ground: int) -> None:
    """The ground divided into touching cells, as organs and muscles fill a body; each is a target."""
    rng, n, side = room.rng, int(room.rng.integers(5, 22)), room.labels.shape[0]
    stretch = (turned(rng) * np.exp(rng.normal(0, 0.5, 3))).astype(np.float32)
    places = (rng.uniform(-0.05, 1.05, (n, 3)) * side).astype(np.float32) @ stretch
    bias = (places**2).sum(axis=1) - (rng.uniform(0, 0.2, n) * side).astype(np.float32) ** 2
    pull = np.ascontiguousarray((-2 * places @ stretch.T).astype(np.float32))
    far = pull @ room.bent.reshape(3, -1) + bias[:, None]  # [n, voxels], up to what all cells share
    best, which = far[0].copy(), np.zeros(far.shape[1], dtype=np.int16)
    for i in range(1, n):
        which[far[i] < best] = i
        np.minimum(best, far[i], out=best)
    which = which.reshape(room.labels.shape)
    inside = room.labels == ground
    if rng.random() < 0.5:  # thin septa
        for axis in range(3):
            edge = np.diff(which, axis=axis, append=which.take([-1], axis=axis)) != 0
            inside &= ~edge
    alike = room.tissue()
    ids = [room.label(alike if rng.random() < 0.4 else room.tissue(), "cell") for _ in range(n)]
    room.labels[inside] = np.array(ids, dtype=np.int16)[which[inside]]
    for label in ids:
        room.target("cell", label)


def _body(room: Room) -> None:
    """A trunk or a head: skin of fat, perhaps a layer of muscle, and what is inside."""
    rng, side = room.rng, room.labels.shape[0]
    long = 9.0 if rng.random() < 0.7 else 0.62  # times the room: a trunk has no ends
    centre = side / 2 + rng.normal(0, 0.08, 3) * side
    radii = side * np.array([long, rng.uniform(0.36, 0.52), rng.uniform(0.42, 0.6)])
    outer = ellipsoid(room, centre, radii, np.eye(3), power=2.3)
    depth = 0.0
    for tissue in (Tissue(-104, 9, 9), room.tissue(), room.tissue(fresh=0.1)):
        room.labels[outer.where][outer.field < -depth] = room.label(tissue)
        depth += rng.uniform(0.5, 7)


def _finished(room: Room, side: int) -> World:
    """The world, with one thing on top in the rare case that everything was painted over."""
    affine = np.array([[0, 0, -1, side / 2], [0, -1, 0, side / 2], [1, 0, 0, -side / 2], [0, 0, 0, 1]])
    found = shown(room, Grid((side, side, side), affine))
    if found.targets:
        return found
    room.walled = False
    bodies.blob(room, Spot(np.full(3, side / 2), side / 4, over=True))
    return shown(room, found.phantom.grid)


def shown(room: Room, grid: Grid) -> World:
    """What is left of everything in a room, with the targets that still show."""
    counts = np.bincount(room.labels.ravel(), minlength=max(room.tissues) + 1)
    targets = []
    for kind, labels in room.targets:
        there = tuple(i for i in labels if counts[i])
        if counts[list(there)].sum() >= LEAST_VOXELS and (kind, there) not in targets:
            targets.append((kind, there))
    names = {i: kind for i, kind in room.names.items() if counts[i]}
    tissues = {i: t for i, t in room.tissues.items() if counts[i] or i == 0}
    return World(Phantom(room.labels, grid, tissues, names), tuple(targets))
