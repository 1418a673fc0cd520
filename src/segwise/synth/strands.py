"""Thin and repeated things of a world: tubes with siblings, vessel trees, rows of vertebrae, ribs."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch, Room, Spot, ellipsoid, joined, tube


def wander(room: Room, centre: Array, length: float, *, bend: float = 0.5, n: int = 12) -> Array:
    """float64 [n, 3]: a smooth path through a centre; two in five run along d."""
    first = np.array([1.0, 0, 0]) if room.rng.random() < 0.4 else room.rng.normal(size=3)
    turns = np.cumsum(room.rng.normal(0, 1, (n, 3)), axis=0) * bend / np.sqrt(n)
    steps = first / np.linalg.norm(first) + turns - turns.mean(axis=0)
    path = np.cumsum(steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0) * length / n
    return np.asarray(centre + path - path.mean(axis=0))


def tubes(room: Room, spot: Spot) -> None:
    """A tube and perhaps up to three siblings beside it, some with a wall; each is a target."""
    rng = room.rng
    r = float(np.clip(spot.size / rng.uniform(3, 14), 1.1, 10))
    path = wander(room, spot.centre, spot.size * rng.uniform(1.0, 2.2), bend=rng.uniform(0.2, 1.6))
    tissue = room.tissue()
    for i in range(1 + int(rng.integers(0, 4)) * int(rng.random() < 0.6)):
        one = r * rng.uniform(0.6, 1.2)
        side = rng.normal(size=3)
        side *= (r + one + rng.uniform(-0.5, 2)) / np.linalg.norm(side) * (i > 0)
        own = tissue if rng.random() < 0.6 else room.tissue()
        patch = tube(room, path + side + rng.normal(0, 0.4, path.shape), one * _swell(rng, len(path)))
        labels = [room.paint(patch, own, "tube", over=spot.over or i > 0)]
        if one > 2.5 and rng.random() < 0.35:
            inner = Patch(patch.where, patch.field + rng.uniform(0.8, 0.4 * one))
            labels.append(room.paint(inner, room.tissue(), "tube", only=labels))
        room.target("tube", *labels)
        if len(labels) > 1 and rng.random() < 0.5:
            room.target("lumen", labels[-1])


def tree(room: Room, spot: Spot) -> None:
    """One or two branching trees of vessels; each is a target."""
    tissue = room.tissue()
    for i in range(1 + int(room.rng.random() < 0.5)):
        r = float(np.clip(spot.size * room.rng.uniform(0.04, 0.1), 1.2, 6))
        root = spot.centre + room.rng.normal(0, 0.12, 3) * spot.size
        heading = room.rng.normal(size=3)
        depth = 3 if spot.size < 25 else 4
        twigs = _branches(room, root, heading / np.linalg.norm(heading), r, spot.size * 0.3, depth)
        patch = joined(room, [tube(room, path, sizes) for path, sizes in twigs])
        own = tissue if room.rng.random() < 0.6 else room.tissue()
        room.target("tree", room.paint(patch, own, "tree", over=spot.over or i > 0))


def _branches(room: Room, at: Array, heading: Array, r: float, length: float, depth: int) -> list[tuple[Array, Array]]:
    """(path, radii) of a branch and everything that springs from its end."""
    n = 4
    steps = heading + np.cumsum(room.rng.normal(0, 0.18, (n, 3)), axis=0)
    path = np.vstack([at, at + np.cumsum(steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0) * length / n])
    found = [(path, np.linspace(r, r * 0.85, n + 1))]
    if depth <= 1:
        return found
    for _ in range(2 + int(room.rng.random() < 0.25)):
        way = steps[-1] / np.linalg.norm(steps[-1]) + room.rng.normal(0, 0.6, 3)
        thinner = max(0.75, r * room.rng.uniform(0.6, 0.85))
        longer = length * room.rng.uniform(0.6, 1.0)
        found += _branches(room, path[-1], way / np.linalg.norm(way), thinner, longer, depth - 1)
    return found


def chain(room: Room, spot: Spot) -> None:
    """A row of like bodies, as vertebrae: cortex, marrow, an arch behind, discs and a canal; each is a target."""
    rng, n = room.rng, int(room.rng.integers(3, 7))
    pitch = max(5.0, spot.size * rng.uniform(1.2, 2.0) / n)
    path = wander(room, spot.centre, pitch * n, bend=rng.uniform(0.1, 0.9), n=n)
    wide = pitch * rng.uniform(0.4, 1.0)
    bone, marrow, disc = (room.tissue(fresh=0.6) for _ in range(3))
    has_disc, has_arch = rng.random() < 0.6, rng.random() < 0.6
    cortex = rng.uniform(0.7, 0.16 * pitch + 0.8)
    gap = rng.uniform(0.3, 0.45)
    for i, at in enumerate(path):
        turn = _frame(path[min(i + 1, n - 1)] - path[max(i - 1, 0)])
        body = ellipsoid(room, at, [pitch * gap, wide, wide * 1.2], turn, power=4, rough=0.06)
        if has_disc and i:
            middle = (at + path[i - 1]) / 2
            flat = ellipsoid(room, middle, [pitch * (0.55 - gap), wide * 0.95, wide * 1.15], turn, power=3)
            room.target("disc", room.paint(flat, disc, "disc", over=spot.over))
        if has_arch:
            body = joined(room, [body, *_arch(room, at, turn, pitch, wide)], soft=1.0)
        labels = [room.paint(body, bone, "vertebra", over=True)]
        inner = Patch(body.where, body.field + cortex)
        labels.append(room.paint(inner, marrow, "vertebra", only=labels))
        room.target("vertebra", *labels)
    if has_arch:
        back = np.array([_frame(path[-1] - path[0])[:, 1] * wide * 1.6] * n)
        room.target("canal", room.paint(tube(room, path + back, [wide * 0.45] * n), room.tissue(), "canal"))


def _arch(room: Room, at: Array, turn: Array, pitch: float, wide: float) -> list[Patch]:
    """The bony ring behind a vertebra's body with two side processes and a spine."""
    local = wide * np.array([[0, 0.7, 0.8], [0, 1.6, 0.95], [-0.1, 2.3, 0.1], [0, 1.6, -0.95], [0, 0.7, -0.8]])
    ring = at + local @ turn.T
    thick = max(0.9, pitch * 0.1)
    spine = at + (wide * np.array([[0, 2.2, 0], [-0.4, 3.4, 0]])) @ turn.T
    found = [tube(room, ring, [thick] * 5), tube(room, spine, [thick * 1.2, thick])]
    for side in (-1, 1):
        wing = at + (wide * np.array([[0, 1.6, side * 0.9], [0, 1.9, side * 2.0]])) @ turn.T
        found.append(tube(room, wing, [thick * 1.1, thick * 0.9]))
    return found


def ribs(room: Room, spot: Spot) -> None:
    """Thin flattened bars along parallel arcs, some with marrow; each is a target, and all of them are one."""
    rng, n = room.rng, int(room.rng.integers(2, 7))
    across = max(14.0, spot.size * rng.uniform(0.5, 0.9))
    start, span = rng.uniform(0, 2 * np.pi), rng.uniform(1.2, 3.6)
    angle = start + np.linspace(0, span, 14)
    pitch, slope = rng.uniform(5, 12), rng.normal(0, 0.25)
    r = float(np.clip(across * rng.uniform(0.03, 0.08), 1.0, 3.0))
    bone, marrow = room.tissue(), room.tissue(fresh=0.7)
    every: list[int] = []
    for i in range(n):
        arc = np.stack(
            [
                np.full(14, (i - n / 2) * pitch) + slope * across * np.cos(angle - start),
                across * np.sin(angle) * 0.8,
                across * np.cos(angle),
            ],
            axis=1,
        )
        path = spot.centre + arc + rng.normal(0, 0.25, arc.shape)
        patch = tube(room, path, [r * rng.uniform(1.2, 1.6)] * 14, flat=(np.array([0.0, 0.6, 0.8]), 1.5))
        labels = [room.paint(patch, bone, "rib", over=True)]
        if r > 1.6:
            labels.append(room.paint(Patch(patch.where, patch.field + 0.9), marrow, "rib", only=labels))
        room.target("rib", *labels)
        every += labels
    room.target("ribs", *every)


def loops(room: Room, spot: Spot) -> None:
    """A long winding tube with a wall and changing contents, as a bowel; target: all of it."""
    rng = room.rng
    r = float(np.clip(spot.size * rng.uniform(0.09, 0.2), 2.2, 9))
    path = wander(room, spot.centre, spot.size * rng.uniform(2, 3.5), bend=rng.uniform(2, 5), n=20)
    patch = tube(room, path, r * _swell(rng, 20))
    labels = [room.paint(patch, room.tissue(), "bowel", over=spot.over)]
    inside = patch.field < -max(0.9, r * rng.uniform(0.12, 0.4))
    blotch = room.rough(patch.where, 1)
    for mask, value in ((inside, 20.0), (inside & (blotch > 0.3), -900.0), (inside & (blotch < -0.6), 90.0)):
        if rng.random() < 0.6:
            labels.append(room.label(Tissue(value, 15, 4), "bowel"))
            room.fill(patch.where, mask, labels[-1], only=labels)
    room.target("bowel", *labels)


def _swell(rng: np.random.Generator, n: int) -> Array:
    """float64 [n]: how a radius changes along a path: steady, tapering or bulging."""
    steady = np.full(n, 1.0) + rng.normal(0, 0.05, n)
    place = np.linspace(0, 1, n)
    if rng.random() < 0.3:
        steady *= 1 - place * rng.uniform(0.2, 0.6)
    if rng.random() < 0.25:
        steady *= 1 + rng.uniform(0.3, 1.0) * np.exp(-(((place - rng.random()) / 0.15) ** 2))
    return np.asarray(steady)


def _frame(along: Array) -> Array:
    """float64 [3, 3]: columns along a direction, then as near to h as it goes, then across both."""
    first = along / (np.linalg.norm(along) + 1e-9)
    second = np.array([0.0, 1, 0]) if abs(first[1]) < 0.9 else np.array([0.0, 0, 1])
    second = second - first * (first @ second)
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], axis=1)
