"""What several regions share: the body wall, a column of vertebrae, ribs, muscles in pairs, lesions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from segwise.geometry import Array
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch, joined
from segwise.synth.stage import BONE, FAT, MARROW, SIDES, Stage

MUSCLE = Tissue(55, 10, 5)


def wall(stage: Stage, radii: ArrayLike, *, fat_mm: float, muscle_mm: float, power: float = 2.4) -> tuple[Patch, Patch]:
    """A body of skin fat, muscle and inner fat; returns its outside and its inside. All of it counts as ground."""
    outer = stage.egg((0, 0, 0), radii, power=power)
    stage.put(outer, FAT)
    stage.put(stage.grown(outer, -fat_mm), stage.like(MUSCLE))
    inner = stage.grown(outer, -fat_mm - muscle_mm)
    stage.room.n_ground = stage.put(inner, stage.like(FAT))
    stage.room.walled = True
    return outer, inner


def column(stage: Stage, centres: Array, names: Sequence[str], *, wide_mm: float, cord: bool = True) -> None:
    """Vertebrae [N, 3] mm from the top down, with discs, processes, canal and cord; each vertebra and disc a target."""
    n = len(centres)
    pitch = float(np.abs(np.diff(centres[:, 2])).mean())
    bone, marrow, disc = stage.like(BONE, by=60), stage.like(MARROW, by=40), Tissue(90 + stage.rng.normal(0, 10), 9, 5)
    back = centres + (0, -wide_mm * 1.05, 0)
    canal = stage.pipe(back, wide_mm * 0.5, n=2 * n)
    for i in range(n - 1):
        flat = (wide_mm * 0.92, wide_mm * 0.72, pitch * 0.2)
        stage.put(stage.egg((centres[i] + centres[i + 1]) / 2, flat, power=2.6), disc, "intervertebral disc")
    for at, name in zip(centres, names, strict=True):
        jitter = stage.rng.uniform(0.94, 1.06)
        body = stage.egg(at, np.array([wide_mm, wide_mm * 0.78, pitch * 0.39]) * jitter, power=3.2, rough=0.05)
        patch = joined(stage.room, [body, *_processes(stage, at, wide_mm, pitch)], soft=2 / stage.spacing_mm)
        hollowed = Patch(patch.where, patch.field)
        stage.cored(hollowed, name, rim_mm=1.6, rim=bone, core=marrow)
    stage.put(canal, Tissue(12, 5, 6), "spinal canal", target=False)
    if cord:
        ids = (max(stage.room.tissues), stage.put(stage.grown(canal, -wide_mm * 0.16), Tissue(38, 4, 6), "spinal cord"))
        stage.union("spinal canal", *ids)


def _processes(stage: Stage, at: Array, wide: float, pitch: float) -> list[Patch]:
    """Arch, spinous and transverse processes behind a vertebra's body."""
    ring = at + wide * np.array(
        [[-0.65, -0.7, 0.1], [-0.85, -1.2, 0], [0, -1.85, -0.1], [0.85, -1.2, 0], [0.65, -0.7, 0.1]]
    )
    thick = pitch * 0.13
    drop = stage.rng.uniform(0.1, 0.7)
    found = [
        stage.pipe(ring, thick, n=8),
        stage.pipe(at + wide * np.array([[0, -1.8, -0.1], [0, -2.9, -drop]]), [thick * 1.2, thick], n=3),
    ]
    for side, _ in SIDES:
        wing = at + wide * np.array([[side * 0.8, -1.15, 0], [side * 1.9, -1.45, 0.1]])
        found.append(stage.pipe(wing, [thick, thick * 0.8], n=3))
        joint = at + wide * np.array([[side * 0.75, -1.35, 0.45], [side * 0.8, -1.5, -0.75]])
        found.append(stage.pipe(joint, thick * 0.9, n=3))
    return found


def ribs(stage: Stage, tops_mm: Sequence[float], *, wide_mm: float, deep_mm: float, first: int, y_mm: float) -> None:
    """Pairs of ribs on a barrel from behind to the front, from the top down; each is a target.

    Args:
        stage: where.
        tops_mm: z of every pair at the spine.
        wide_mm: half width of the barrel where it is widest.
        deep_mm: half depth.
        first: number of the uppermost pair.
        y_mm: middle of the barrel.
    """
    bone, marrow, gristle = stage.like(BONE, by=60), stage.like(MARROW, by=50), Tissue(110, 12, 5)
    highest = max(tops_mm)
    for i, top in enumerate(tops_mm):
        narrow = float(np.clip(0.55 + (highest - top + 20) / 130, 0.55, 1.0)) if first < 5 else 1.0
        slope = stage.rng.uniform(28, 40)
        reach = stage.rng.uniform(1.9, 2.25) * (1.0 if first + i < 11 else 0.55)
        for side, word in SIDES:
            angle = np.linspace(np.pi * 0.94, np.pi * 0.94 - reach, 12)
            progress = np.linspace(0, 1, 12)
            path = np.stack(
                [
                    side * wide_mm * narrow * np.sin(angle),
                    y_mm + deep_mm * narrow * np.cos(angle),
                    top - slope * progress + 4 * np.sin(progress * np.pi),
                ],
                axis=1,
            )
            rib = stage.pipe(path, 3.4, flat=((0, 0, 1), 0.6), n=16)
            stage.cored(rib, f"{word} rib {first + i}", rim_mm=1.4, rim=bone, core=marrow)
            if first + i < 9 and stage.rng.random() < 0.8:
                end = np.array([side * 14, y_mm + deep_mm * narrow * 0.97, path[-1, 2] + 14])
                stage.put(stage.pipe([path[-1], end], 4.0, n=4), gristle)


def pair(
    stage: Stage,
    name: str,
    centre: ArrayLike,
    radii: ArrayLike,
    tissue: Tissue,
    *,
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
    power: float = 2.3,
    rim_mm: float = 0.8,
) -> tuple[int, int]:
    """A muscle (or gland) on both sides, given on the right, with a thin rim of fat; each is a target, and both."""
    labels = []
    for side, word in SIDES:
        at = np.asarray(centre, dtype=np.float64) * (side, 1, 1) + stage.rng.normal(0, 1.5, 3)
        size = np.asarray(radii) * stage.rng.uniform(0.93, 1.07, 3)
        turn = (tilt[0], side * tilt[1], side * tilt[2])
        patch = stage.egg(at, size, tilt=turn, power=power, rough=0.08)
        if rim_mm:
            stage.put(stage.grown(patch, rim_mm), FAT)
        labels.append(stage.put(patch, stage.like(tissue, by=2), f"{word} {name}"))
    if stage.rng.random() < 0.5:
        stage.union(f"both {name}", *labels)
    return labels[0], labels[1]


def mass(
    stage: Stage,
    name: str,
    centre: ArrayLike,
    size_mm: float,
    tissue: Tissue,
    *,
    ragged: float = 0.2,
    within: Sequence[int] = (),
) -> tuple[int, ...]:
    """An irregular growth: lobes, soft edge, patches of other tissue inside; the target is all of it."""
    rng, room = stage.rng, stage.room
    at = np.asarray(centre, dtype=np.float64)
    lobes = [
        stage.egg(at + rng.normal(0, size_mm * 0.18, 3), size_mm * rng.uniform(0.25, 0.5, 3), rough=ragged)
        for _ in range(int(rng.integers(2, 6)))
    ]
    patch = joined(room, lobes, soft=size_mm * rng.uniform(0.02, 0.2) / stage.spacing_mm)
    labels = [room.paint(patch, tissue, name, only=within)]
    for _ in range(int(rng.integers(1, 4))):
        depth = size_mm * rng.uniform(0.02, 0.16) / stage.spacing_mm
        field = patch.field + depth + rng.uniform(0.5, 3) * room.rough(patch.where, int(rng.integers(0, 2)))
        value = tissue.value + rng.choice((-1, 1)) * rng.uniform(8, 70)
        other = Tissue(float(value), rng.uniform(4, 25), rng.uniform(3, 9))
        labels.append(room.paint(Patch(patch.where, field), other, name, only=labels))
    room.target(name, *labels)
    return tuple(labels)
