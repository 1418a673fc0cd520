"""An abdomen: solid organs with vessels and lesions, hollow ones with contents, vessels, spine, muscles.

`torso` is the demonstration's and stays as it is; this one names everything, touches more and is quicker.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch, joined
from segwise.synth.skeleton import MUSCLE, column, mass, pair, ribs, wall
from segwise.synth.stage import FAT, SIDES, Stage
from segwise.synth.worlds import World

AIR = Tissue(-980, 12, 5)


def abdomen(seed: int, *, spacing_mm: float = 2.5) -> World:
    """The abdomen of one imaginary person.

    Args:
        seed: decides the person: size, fat, contrast phase, lesions, what the bowel holds.
        spacing_mm: of the isotropic grid.

    Returns:
        About 340 x 250 x 240 mm on a HU scale, with up to some 60 targets.
    """
    stage = Stage.of((342, 252, 240), seed, 22, spacing_mm=spacing_mm, warp_mm=2.4)
    rng = stage.rng
    fat = rng.uniform(5, 24)
    wall(stage, (168, 120, 900), fat_mm=fat, muscle_mm=rng.uniform(7, 11))
    scale = 1 - (fat - 12) / 150
    soft = Tissue(rng.uniform(40, 65), 10, 5)
    _muscles(stage, fat)
    z = np.linspace(112, -108, 8)
    names = [f"vertebra {n}" for n in ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")]
    spine = np.stack([rng.normal(0, 1.5) + 0 * z, -52 + 8 * np.cos((z + 50) / 70), z], axis=1)
    _bowel(stage, soft)
    blood, venous = Tissue(rng.uniform(40, 320), 8, 5), Tissue(rng.uniform(40, 200), 8, 5)
    _chest(stage, scale)
    _liver(stage, scale, venous)
    _left(stage, scale, soft)
    _kidneys(stage)
    _vessels(stage, blood, venous)
    _middle(stage, venous)
    column(stage, spine, names, wide_mm=21)
    tops = [float(top) for top in (104, 78, 52, 26)]
    ribs(stage, tops, wide_mm=152 - fat, deep_mm=104 - fat, first=9, y_mm=2)
    return stage.done()


def _muscles(stage: Stage, fat: float) -> None:
    pair(stage, "back muscle", (34, -80 + fat * 0.5, 0), (26, 21, 300), stage.like(MUSCLE), rim_mm=1.0)
    pair(stage, "psoas", (42, -46, -80), (20, 19, 86), stage.like(MUSCLE), tilt=(0, -6, 0), rim_mm=0.6)
    pair(stage, "rectus abdominis", (32, 112 - fat, -30), (30, 7, 160), stage.like(MUSCLE), tilt=(0, 0, -8))
    pair(stage, "oblique muscle", (146 - fat, 10, -90), (9, 62, 70), stage.like(MUSCLE), tilt=(0, 0, 4))
    pair(stage, "quadratus lumborum", (72, -62, -70), (18, 9, 62), stage.like(MUSCLE), tilt=(0, 0, -20))


def _chest(stage: Stage, scale: float) -> None:
    """The bases of both lungs and the end of the gullet."""
    rng = stage.rng
    for side, word in SIDES:
        lung = stage.egg((side * 76 * scale, -8, 132 + rng.normal(0, 6)), (62 * scale, 78 * scale, 74), power=2.3)
        stage.put(stage.grown(lung, 3), MUSCLE)
        label = stage.put(lung, Tissue(-840, 40, 4), f"{word} lung", target=False)
        vessels = []
        for _ in range(4):
            at = np.array([side * 76, -8, 118]) + rng.normal(0, 22, 3)
            pipe = stage.pipe(np.stack([at, at + rng.normal(0, 18, 3)]), [2.4, 1], n=4)
            vessels.append(stage.put(pipe, Tissue(40, 10), "lung vessel", only=(label,), target=False))
        stage.union(f"{word} lung", label, *vessels)
    heart = stage.egg((-22, 40, 122), (56, 40, 30), rough=0.05)
    stage.put(heart, Tissue(rng.uniform(60, 160), 9, 5), "heart")
    gullet = stage.pipe([(-8, -26, 122), (-16, -14, 84), (-30, 0, 64)], 8.5)
    rim = stage.put(gullet, Tissue(48, 8), "esophagus", target=False)
    inner = stage.put(stage.grown(gullet, -4), Tissue(float(rng.choice((-800, 20))), 9), "esophagus", only=(rim,))
    stage.union("esophagus", rim, inner)


def _liver(stage: Stage, scale: float, venous: Tissue) -> None:
    rng = stage.rng
    dome = np.array((76 * scale, 2, 34)) + rng.normal(0, 4, 3)
    size = rng.uniform(0.9, 1.12)
    lobes = [
        stage.egg(dome, np.array((66 * scale, 76 * scale, 68)) * size, power=2.4, rough=0.05),
        stage.egg(dome + (-66, 34, 22), np.array((62, 36, 34)) * size, tilt=(0, 12, 0), rough=0.08),
        stage.egg(dome + (16, -8, -46), (42, 50, 44 * rng.uniform(0.6, 1.3)), rough=0.05),
    ]
    tissue = Tissue(rng.uniform(45, 125), 8, 4)
    label = stage.put(joined(stage.room, lobes, soft=14 / stage.spacing_mm), tissue, "liver", target=False)
    parts = [label]
    for root, fan, wide in (((10, -20, 60), (0, 4, -6), 5.0), ((34, 6, 22), (26, 4, 6), 6.0)):
        for _ in range(4):
            start = np.array(root) + rng.normal(0, 3, 3)
            middle = dome * 0.5 + start * 0.5 + fan + rng.normal(0, 14, 3)
            branch = np.stack([start, middle, middle * 0.3 + (dome + rng.normal(0, 30, 3)) * 0.7])
            vessel = stage.pipe(branch, [wide, wide * 0.6, 1.4], n=8)
            parts.append(stage.put(vessel, venous, "liver vessel", only=parts, target=False))
    stage.union("liver vessels", *parts[1:])
    for _ in range(int(rng.choice((0, 0, 1, 2, 4)))):
        at = dome + rng.normal(0, 24, 3)
        value = tissue.value + rng.choice((-1, -1, 1)) * rng.uniform(12, 60)
        parts += mass(
            stage, "liver tumor", at, rng.uniform(10, 60), Tissue(float(value), 10, 4), ragged=0.15, within=parts
        )
    for _ in range(int(rng.integers(0, 3))):
        cyst = stage.egg(dome + rng.normal(0, 26, 3), [rng.uniform(3, 14)] * 3)
        parts.append(stage.put(cyst, Tissue(8, 4), "liver cyst", only=parts))
    stage.union("liver", *parts)
    if rng.random() < 0.8:
        gall = stage.egg(
            dome + (-34, 40, -36) + rng.normal(0, 4, 3), np.array((13, 16, 26)) * rng.uniform(0.6, 1.3), tilt=(24, 0, 0)
        )
        rim = stage.put(stage.grown(gall, 1.5), stage.like(MUSCLE), "gallbladder", target=False)
        stage.union("gallbladder", rim, stage.put(gall, Tissue(9, 5), "gallbladder", target=False))


def _left(stage: Stage, scale: float, soft: Tissue) -> None:
    """Spleen and stomach."""
    rng = stage.rng
    size = rng.uniform(0.8, 1.25)
    spleen = stage.egg((-106 * scale, -34, 40), np.array((25, 46, 44)) * size, tilt=(0, 0, -24), rough=0.06)
    stage.put(stage.grown(spleen, 1), FAT)
    stage.put(spleen, Tissue(rng.uniform(45, 140), 8, 4), "spleen")
    path = np.array([(-66, -6, 66), (-70, 18, 40), (-58, 42, 6), (-28, 58, -12), (10, 46, -6)]) + rng.normal(
        0, 5, (5, 3)
    )
    stomach = stage.pipe(path, np.array([24, 32, 28, 20, 13, 10]) * rng.uniform(0.7, 1.15), n=16)
    filled(stage, stomach, "stomach", soft, rim_mm=rng.uniform(3, 6), level_mm=path[2, 1] + rng.normal(0, 14))


def filled(stage: Stage, patch: Patch, name: str, tissue: Tissue, *, rim_mm: float, level_mm: float) -> None:
    """A hollow organ: wall, fluid or food, gas above a level (mm towards the front); one target."""
    rng = stage.rng
    rim = stage.put(patch, stage.like(tissue), name, target=False)
    inside = stage.grown(patch, -rim_mm)
    content = Tissue(float(rng.choice((12.0, 30.0, 60.0, 240.0))), float(rng.uniform(4, 40)), 4)
    parts = [rim, stage.put(inside, content, name, only=(rim,), target=False)]
    if rng.random() < 0.6:
        gas = stage.both(inside, level_mm - stage.coordinate(inside, 1))
        parts.append(stage.put(gas, AIR, name, only=parts, target=False))
    stage.union(name, *parts)


def _kidneys(stage: Stage) -> None:
    rng = stage.rng
    cortex, phase = rng.uniform(40, 210), rng.uniform(0.5, 1.0)
    for side, word in SIDES:
        at = np.array((side * 66, -46, -22 - 8 * (side > 0))) + rng.normal(0, 6, 3)
        size = rng.uniform(0.85, 1.12)
        bean = stage.egg(at, np.array((29, 27, 54)) * size, tilt=(0, side * 10, side * 14), power=2.2, rough=0.04)
        sinus = stage.egg(at + (-side * 24, 8, 0), np.array((19, 12, 24)) * size, rough=0.2)
        stage.put(stage.grown(bean, rng.uniform(2, 9)), FAT)
        parts = [stage.put(bean, Tissue(cortex, 10, 4), f"{word} kidney", target=False)]
        z = stage.coordinate(bean, 2) - at[2]
        deep = stage.both(stage.grown(bean, -7), -np.cos(z * 0.34) * 3.0)
        parts.append(stage.put(deep, Tissue(cortex * phase, 9, 4), f"{word} kidney", only=parts, target=False))
        for _ in range(int(rng.integers(0, 3))):
            cyst = stage.egg(at + rng.normal(0, 22, 3), [rng.uniform(4, 16)] * 3)
            own = stage.put(cyst, Tissue(6, 4), f"{word} kidney cyst", only=parts)
            parts += [own] if rng.random() < 0.5 else []
        if rng.random() < 0.2:
            tumor = Tissue(cortex * rng.uniform(0.5, 1.1), 14, 4)
            parts += mass(stage, "kidney tumor", at + rng.normal(0, 20, 3), rng.uniform(16, 60), tumor)
        stage.put(sinus, stage.like(FAT))
        pelvis = stage.egg(at + (-side * 24, 8, 0), (9, 6, 14), rough=0.2)
        stage.put(pelvis, Tissue(float(rng.choice((10, 200))), 6))
        stage.union(f"{word} kidney", *parts)
        _adrenal(stage, word, at + (-side * 20, 12, 52))


def _adrenal(stage: Stage, word: str, at: Array) -> None:
    rng, labels, tissue = stage.rng, [], Tissue(stage.rng.uniform(30, 90), 8, 4)
    for way in ((2, 12, 8), (8, -16, -10), (-9, -15, -10)):
        limb = stage.pipe(np.stack([at, at + np.array(way) * rng.uniform(0.8, 1.2)]), [3.2, 2.4], n=4)
        labels.append(stage.put(limb, tissue, f"{word} adrenal gland", target=False))
    stage.union(f"{word} adrenal gland", *labels)


def _vessels(stage: Stage, blood: Tissue, venous: Tissue) -> None:
    rng, zs = stage.rng, np.linspace(124, -112, 7)
    sway = rng.normal(0, 2, (7, 2)).cumsum(axis=0) * 0.5
    path = np.stack([-12 + sway[:, 0], -20 + sway[:, 1], zs], axis=1)
    wide = rng.uniform(8, 13)
    bulge = wide * (1 + rng.uniform(0.3, 1.2) * (rng.random() < 0.15) * np.exp(-(((zs + 60) / 34) ** 2)))
    aorta = stage.pipe(path, bulge, n=20)
    rim = stage.put(aorta, Tissue(45, 20, 3), "aorta", target=False)
    stage.union("aorta", rim, stage.put(stage.grown(aorta, -1.2), blood, "aorta", only=(rim,), target=False))
    cava = path * (1, 1, 1) + (34, 6, 0) + rng.normal(0, 1.5, (7, 3))
    flat = ((0.0, 1.0, 0.2), rng.uniform(1.0, 1.7))
    stage.put(stage.pipe(cava, rng.uniform(9, 13), flat=flat, n=20), venous, "inferior vena cava")
    celiac = [(-12, -14, 32), (-8, 2, 34), (30, 16, 28)]
    mesenteric = [(-12, -14, 16), (-10, 4, 4), (-4, 16, -40), (6, 24, -90)]
    for name, points in (("celiac trunk", celiac), ("superior mesenteric artery", mesenteric)):
        stage.put(stage.pipe(np.array(points) + rng.normal(0, 1.5, (len(points), 3)), [4, 2.5]), blood, name)
    for side, word in SIDES:
        renal = np.array([(-12 + 8 * side, -18, -6), (side * 30, -26, -12), (side * 48, -38, -18)])
        stage.put(stage.pipe(renal, [3.4, 2.6]), blood, f"{word} renal artery")


def _middle(stage: Stage, venous: Tissue) -> None:
    """Pancreas, duodenum, portal and splenic vein."""
    rng = stage.rng
    head = np.array([(-72, -12, 30), (-36, 8, 16), (-4, 16, 8), (24, 12, -4), (34, 10, -24)]) + rng.normal(0, 3, (5, 3))
    pancreas = stage.pipe(head, np.array([7, 9, 8, 11, 14, 12]) * rng.uniform(0.75, 1.15), n=14)
    rough = Patch(pancreas.where, pancreas.field + 0.8 * stage.room.rough(pancreas.where, 0))
    parts = [stage.put(rough, Tissue(rng.uniform(35, 105), 16, 4), "pancreas", target=False)]
    if rng.random() < 0.3:
        lump = Tissue(rng.uniform(10, 70), 9, 4)
        parts += mass(stage, "pancreas tumor", head[int(rng.integers(0, 5))], rng.uniform(12, 40), lump)
    stage.union("pancreas", *parts)
    curve = np.array([(14, 44, -4), (44, 28, 2), (52, 6, -24), (40, 0, -56), (0, 2, -58), (-30, 4, -44)])
    gut = stage.pipe(curve + rng.normal(0, 3, (6, 3)), rng.uniform(9, 13), n=16)
    filled(stage, gut, "duodenum", stage.like(MUSCLE), rim_mm=3, level_mm=rng.uniform(0, 30))
    portal = np.array([(-74, -16, 34), (-30, 0, 20), (8, 6, 8), (30, 4, 22), (46, 4, 34)]) + rng.normal(0, 2, (5, 3))
    stage.put(stage.pipe(portal, [4, 5, 7, 7.5, 6], n=14), venous, "portal and splenic vein")


def _bowel(stage: Stage, soft: Tissue) -> None:
    """The colon's frame and loops of small bowel in front."""
    rng = stage.rng
    right = [(92, 6, -112), (98, -4, -70), (94, 6, -34)]
    across = [(94, 6, -34), (60, 58, -40), (0, 76, -56), (-60, 60, -26), (-100, 6, 6)]
    left = [(-100, 6, 6), (-108, -20, -40), (-104, -14, -112)]
    patches = [
        stage.pipe(np.array(points) + rng.normal(0, 5, (len(points), 3)), rng.uniform(13, 23) * _haustra(rng, 18), n=18)
        for points in (right, across, left)
    ]
    filled(stage, joined(stage.room, patches), "colon", soft, rim_mm=2.6, level_mm=rng.uniform(-10, 50))
    loops: list[int] = []
    for _ in range(int(rng.integers(8, 15))):
        at = np.array((rng.uniform(-76, 66), rng.uniform(10, 72), rng.uniform(-108, -36)))
        loop = stage.pipe(at + rng.normal(0, 18, (5, 3)).cumsum(axis=0) * 0.7, rng.uniform(8, 14), n=12)
        rim = stage.put(loop, stage.like(soft), "small bowel", target=False)
        inner = stage.grown(loop, -rng.uniform(2, 6))
        content = Tissue(float(rng.choice((-850.0, 18.0, 40.0, 70.0, 220.0))), 18)
        loops += [rim, stage.put(inner, content, "small bowel", only=(rim,), target=False)]
    stage.union("small bowel", *loops)


def _haustra(rng: np.random.Generator, n: int) -> Array:
    return np.asarray(1 + 0.18 * np.sin(np.linspace(0, n * 1.4, n) + rng.uniform(0, 6)))
