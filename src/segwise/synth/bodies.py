"""Solid and hollow things of a world: blobs, lobes, walls with fluid levels, beans, crescents, folds, bundles, tumours.

Each is a function of a room and a spot that paints labels and says which unions of them can be segmented.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch, Room, Spot, ellipsoid, joined, tube, turned


def radii(room: Room, size: float, *, flat: float = 0.45) -> Array:
    """float64 [3]: half axes of something `size` across, the shortest at least `flat` of the longest."""
    return np.asarray(size / 2 * room.rng.uniform(flat, 1.0, 3))


def lump(room: Room, spot: Spot) -> Patch:
    """A superquadric with a rough surface."""
    power = float(room.rng.choice((2.0, 2.0, 2.0, 1.5, 2.6, 3.5, 5.0)))
    rough = float(room.rng.choice((0.0, room.rng.uniform(0.03, 0.3))))
    return ellipsoid(room, spot.centre, radii(room, spot.size), turned(room.rng), power=power, rough=rough)


def lobes(room: Room, spot: Spot) -> Patch:
    """Two to five joined lumps."""
    n = int(room.rng.integers(2, 6))
    parts = [
        ellipsoid(
            room,
            spot.centre + room.rng.normal(0, spot.size * 0.2, 3),
            radii(room, spot.size * room.rng.uniform(0.45, 0.85)),
            turned(room.rng),
            rough=room.rng.uniform(0, 0.15),
        )
        for _ in range(n)
    ]
    return joined(room, parts, soft=room.rng.uniform(0, spot.size * 0.2))


def solid(room: Room, spot: Spot) -> Patch:
    """A lump or lobes."""
    return lobes(room, spot) if room.rng.random() < 0.4 else lump(room, spot)


def blob(room: Room, spot: Spot) -> None:
    """One solid thing, perhaps with a capsule that belongs to it or not."""
    patch = solid(room, spot)
    label = room.paint(patch, room.tissue(), "blob", over=spot.over)
    if room.rng.random() < 0.15:
        rim = Patch(patch.where, np.abs(patch.field - 1) - room.rng.uniform(0.6, 1.6))
        room.paint(rim, room.tissue(), over=spot.over)
    room.target("blob", label)


def twins(room: Room, spot: Spot) -> None:
    """A thing and its mirror image across w, each a target, and both together."""
    patch = solid(room, spot)
    side, where = room.labels.shape[2], patch.where
    axis = side / 2 + room.rng.normal(0, 3)
    start = round(2 * axis - where[2].stop)
    low, high = max(0, start), min(side, start + where[2].stop - where[2].start)
    field = patch.field[:, :, ::-1][:, :, low - start : max(low, high) - start]
    other = Patch((where[0], where[1], slice(low, max(low, high))), field)
    tissue = room.tissue()
    labels = [room.paint(p, tissue, "twin", over=spot.over) for p in (patch, other)]
    for label in labels:
        room.target("twin", label)
    room.target("twins", *labels)


def hollow(room: Room, spot: Spot) -> None:
    """A wall around fluid, gas or both with a level (the front is up); targets: the organ and perhaps its parts."""
    patch = solid(room, spot)
    wall = max(1.2, room.rng.uniform(0.04, 0.2) * spot.size)
    outer = room.paint(patch, room.tissue(), "wall", over=spot.over)
    inside = patch.field < -wall
    fluid = room.label(Tissue(room.rng.choice((10.0, 25.0, 60.0, 220.0)), room.rng.uniform(0, 25), 8), "fluid")
    room.fill(patch.where, inside, fluid, only=(outer,))
    parts = [outer, fluid]
    if room.rng.random() < 0.5:
        level = spot.centre[1] + room.rng.normal(0, spot.size * 0.2)
        row = np.arange(patch.where[1].start, patch.where[1].stop)[None, :, None]
        gas = room.label(Tissue(-960, 10), "gas")
        room.fill(patch.where, inside & (row < level), gas, only=(outer, fluid))
        parts.append(gas)
    room.target("hollow", *parts)
    if room.rng.random() < 0.4:
        room.target("shell", outer)
    if room.rng.random() < 0.5:
        room.target("lumen", *parts[1:])


def crescent(room: Room, spot: Spot) -> None:
    """What a second body leaves of a first."""
    r, turn = radii(room, spot.size, flat=0.6), turned(room.rng)
    patch = ellipsoid(room, spot.centre, r, turn, rough=room.rng.uniform(0, 0.1))
    away = turn @ (np.array([0, 0, 1.0]) * r[2] * room.rng.uniform(0.35, 0.9))
    bite = ellipsoid(room, spot.centre + away, r * room.rng.uniform(0.75, 1.05), turn)
    label = room.paint(_without(patch, bite), room.tissue(), "crescent", over=spot.over)
    if room.rng.random() < 0.5:
        other = room.paint(bite, room.tissue(), "blob", over=False)
        room.target("blob", other)
    room.target("crescent", label)


def bean(room: Room, spot: Spot) -> None:
    """A kidney: cortex, medulla, a hilum with fat and a tube, a rim of fat; target: cortex and medulla."""
    size, turn = spot.size, turned(room.rng)
    patch = ellipsoid(room, spot.centre, np.array([0.5, 0.27, 0.28]) * size, turn, rough=0.05)
    notch = spot.centre + turn @ np.array([0, 0, 0.3 * size])
    bite = ellipsoid(room, notch, np.array([0.22, 0.15, 0.17]) * size, turn)
    rim = Patch(patch.where, patch.field - room.rng.uniform(1, 0.12 * size + 1.5))
    fat = Tissue(-95, 14, 8)
    room.paint(rim, fat, over=spot.over)
    kidney = _without(patch, bite)
    tissue = room.tissue(unlike=-95)
    cortex = room.paint(kidney, tissue, "bean", over=True)
    parts = [cortex]
    if size > 18 and room.rng.random() < 0.7:
        inner = kidney.field < -0.1 * size + 0.06 * size * room.rough(kidney.where, 0)
        medulla = room.label(Tissue(tissue.value * room.rng.uniform(0.55, 1.1), 12, 4), "bean")
        room.fill(kidney.where, inner, medulla, only=(cortex,))
        parts.append(medulla)
    room.paint(bite, fat, only=parts)
    if room.rng.random() < 0.5:
        path = np.linspace(spot.centre + turn[:, 2] * 0.15 * size, spot.centre + turn[:, 2] * size, 4)
        room.paint(tube(room, path, [size * 0.06] * 4), room.tissue())
    room.target("bean", *parts)


def fold(room: Room, spot: Spot) -> None:
    """A folded sheet over a core, as a brain's cortex; targets: the sheet, the core, both."""
    outer = ellipsoid(room, spot.centre, radii(room, spot.size, flat=0.7), turned(room.rng), power=2.3)
    waves = room.rough(outer.where, 0) + 0.7 * room.rough(outer.where, 1)
    deep = spot.size * room.rng.uniform(0.05, 0.12)
    surface = outer.field + np.maximum(0, deep * (1.2 - 3 * np.abs(waves)))
    thick = max(1.5, spot.size * room.rng.uniform(0.05, 0.14))
    core = np.maximum(surface + thick * 0.7, outer.field + thick + deep * np.clip(waves, -1.4, 1.4))
    sheet = room.paint(Patch(outer.where, surface), room.tissue(), "sheet", over=spot.over)
    inner = room.paint(Patch(outer.where, core), room.tissue(unlike=room.tissues[sheet].value), "core", only=(sheet,))
    room.target("sheet", sheet)
    room.target("core", inner)
    room.target("fold", sheet, inner)


def layer(room: Room, spot: Spot) -> None:
    """A thin curved sheet: part of a shell, as a flat muscle, a leaflet or a fluid film."""
    turn = turned(room.rng)
    patch = ellipsoid(room, spot.centre, radii(room, spot.size, flat=0.7), turn, rough=0.06)
    thin = room.rng.uniform(1.0, 1.0 + 0.09 * spot.size)
    cap = ellipsoid(room, spot.centre + turn[:, 0] * spot.size * 0.35, [spot.size * 0.45] * 3, turn, rough=0.2)
    sheet = Patch(patch.where, np.maximum(np.abs(patch.field) - thin, _on(patch, cap)))
    room.target("layer", room.paint(sheet, room.tissue(), "layer", over=spot.over))


def parts(room: Room, spot: Spot) -> None:
    """One organ cut into two to four touching parts of one tissue, with or without a thin fissure; each is a target."""
    patch, n = solid(room, spot), int(room.rng.integers(2, 5))
    places = spot.centre + room.rng.normal(0, spot.size * 0.22, (n, 3))
    near = room.bent[(slice(None), *patch.where)].reshape(3, -1).astype(np.float32)
    wave = room.rough(patch.where, 1).ravel() * spot.size * 0.1
    gaps = [np.sqrt(((near - p[:, None].astype(np.float32)) ** 2).sum(axis=0)) for p in places]
    gaps[0] = gaps[0] + wave
    which = np.argmin(gaps, axis=0).reshape(patch.field.shape)
    tissue, inside = room.tissue(), patch.field < 0
    if room.rng.random() < 0.4:
        two = np.partition(np.stack(gaps), 1, axis=0)[:2]
        inside &= ((two[1] - two[0]) > room.rng.uniform(0.6, 2.0)).reshape(inside.shape)
    labels = []
    for i in range(n):
        shift = 0.0 if room.rng.random() < 0.7 else room.rng.normal(0, 25)
        labels.append(room.label(Tissue(tissue.value + shift, tissue.texture, tissue.grain_mm), "part"))
        room.fill(patch.where, inside & (which == i), labels[-1], over=spot.over)
        room.target("part", labels[-1])
    room.target("parts", *labels)


def bundle(room: Room, spot: Spot) -> None:
    """Long bodies side by side of one tissue, as muscles with thin fat between; each is a target."""
    turn, n = turned(room.rng), int(room.rng.integers(2, 6))
    tissue, each = room.tissue(), spot.size / np.sqrt(n) * 0.75
    for _ in range(n):
        offset = turn @ (room.rng.normal(0, 0.28, 3) * spot.size * np.array([0.3, 1, 1]))
        r = np.array([spot.size * 0.55, *(each * room.rng.uniform(0.4, 0.75, 2))])
        body = ellipsoid(room, spot.centre + offset, r, turn, power=2.4, rough=0.1)
        if room.rng.random() < 0.6:
            rim = Patch(body.where, body.field - room.rng.uniform(0.3, 1.2))
            room.paint(rim, Tissue(-90, 12), over=spot.over)
        room.target("strand", room.paint(body, tissue, "strand", over=True))


def organ(room: Room, spot: Spot) -> None:
    """An organ with vessels and lesions inside, which belong to it or, at random, do not."""
    patch = solid(room, spot)
    tissue = room.tissue()
    body = room.paint(patch, tissue, "organ", over=spot.over)
    inside: list[int] = []
    for _ in range(int(room.rng.integers(0, 4))):
        start = spot.centre + room.rng.normal(0, 0.12, 3) * spot.size
        path = start + np.cumsum(room.rng.normal(0, 1, (6, 3)) + room.rng.normal(0, 2, 3), axis=0) * spot.size / 18
        vessel = tube(room, path, np.linspace(max(0.9, spot.size * 0.045), 0.7, 6))
        inside.append(room.paint(vessel, Tissue(tissue.value + room.rng.normal(40, 60), 8), "vessel", only=(body,)))
    for _ in range(int(room.rng.integers(0, 4))):
        at = spot.centre + room.rng.normal(0, 0.2, 3) * spot.size
        lesion = ellipsoid(room, at, radii(room, spot.size * room.rng.uniform(0.12, 0.5)), np.eye(3), rough=0.15)
        value = tissue.value + room.rng.choice((-1, 1)) * room.rng.uniform(15, 90)
        inside.append(room.paint(lesion, Tissue(value, 10, 4), "lesion", only=(body, *inside)))
        room.target("lesion", inside[-1])
    room.target("organ", body, *(inside if room.rng.random() < 0.65 else ()))


def tumor(room: Room, spot: Spot) -> None:
    """An irregular growth with a ragged or soft edge, perhaps a bright rim and a dead core; target: all of it."""
    patch = lobes(room, spot)
    ragged = patch.field + room.rng.uniform(0.02, 0.09) * spot.size * room.rough(patch.where, 0)
    base = room.tissue()
    below = float(np.median([room.tissues[i].value for i in np.unique(room.labels[patch.where])]))
    soft = room.rng.uniform(0.8, 3.0) if room.rng.random() < 0.6 else 0.0
    labels: list[int] = []
    steps = [(soft, 0.3), (0.0, 0.7), (-soft, 1.0)] if soft else [(0.0, 1.0)]
    for distance, share in steps:
        tissue = Tissue(below + share * (base.value - below), 6 + base.texture * share, base.grain_mm)
        inner = distance <= 0
        label = room.label(tissue, "tumor" if inner else "")
        room.fill(patch.where, ragged < distance, label, over=True)
        labels += [label] if inner else []
    for share in room.rng.uniform(0.05, 0.25, int(room.rng.integers(0, 3))):  # rim, then core
        field = ragged + spot.size * share + 1.5 * room.rough(patch.where, int(room.rng.integers(0, 2)))
        tissue = Tissue(base.value + room.rng.normal(0, 70), room.rng.uniform(5, 40), room.rng.uniform(2, 8))
        labels.append(room.label(tissue, "tumor"))
        room.fill(patch.where, field < 0, labels[-1], only=labels)
    room.target("tumor", *labels)
    if len(labels) > 2 and room.rng.random() < 0.3:
        room.target("core", *labels[-1:])


def _without(patch: Patch, bite: Patch) -> Patch:
    return Patch(patch.where, np.maximum(patch.field, -_on(patch, bite)))


def _on(patch: Patch, other: Patch) -> Array:
    """Another patch's field where this one is, far outside elsewhere."""
    out = np.full(patch.field.shape, 1e3, dtype=np.float32)
    both = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(patch.where, other.where, strict=True)]
    if all(low < high for low, high in both):
        mine = tuple(slice(lo - s.start, hi - s.start) for (lo, hi), s in zip(both, patch.where, strict=True))
        theirs = tuple(slice(lo - s.start, hi - s.start) for (lo, hi), s in zip(both, other.where, strict=True))
        out[mine] = other.field[theirs]
    return out
