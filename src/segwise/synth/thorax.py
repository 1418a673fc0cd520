"""A chest: lungs in lobes, heart chambers, great vessels, ribs, vertebrae, airways, muscles of the wall."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch
from segwise.synth.skeleton import MUSCLE, column, mass, pair, ribs, wall
from segwise.synth.stage import BONE, FAT, MARROW, SIDES, Stage
from segwise.synth.worlds import World

AIR = Tissue(-985, 12, 5)


def thorax(seed: int, *, spacing_mm: float = 2.5) -> World:
    """The chest of one imaginary person.

    Args:
        seed: decides the person: size, fat, contrast of the blood, a lung tumor or an effusion.
        spacing_mm: of the isotropic grid.

    Returns:
        About 350 x 250 x 270 mm on a HU scale, with up to some 90 targets.
    """
    stage = Stage.of((352, 252, 270), seed, 21, spacing_mm=spacing_mm)
    rng = stage.rng
    fat = rng.uniform(4, 16)
    wall(stage, (172, 122, 900), fat_mm=fat, muscle_mm=rng.uniform(10, 15))
    wide, deep = 138 - fat * 0.8, 92 - fat * 0.6
    _muscles(stage, deep)
    cavity = stage.egg((0, 2, -42), (wide, deep, 168), power=2.5)
    stage.put(stage.grown(cavity, 4), MUSCLE)
    stage.put(cavity, FAT)
    _lungs(stage, cavity)
    _below(stage, wide, deep)
    _heart(stage)
    _vessels(stage)
    _airways(stage)
    n = 11
    z = np.linspace(122, -122, n)
    bow = -deep * 0.78 + 10 * (z / 120) ** 2
    column(
        stage, np.stack([rng.normal(0, 1.5) + 0 * z, bow, z], 1), [f"vertebra T{i + 1}" for i in range(n)], wide_mm=14
    )
    ribs(stage, [float(top) + 3 for top in z[1:]], wide_mm=wide + 5, deep_mm=deep + 5, first=2, y_mm=2)
    _bones(stage, deep)
    return stage.done()


def _muscles(stage: Stage, deep: float) -> None:
    pair(stage, "pectoral muscle", (70, deep + 12, 70), (58, 9, 48), MUSCLE, tilt=(10, 0, -22))
    pair(stage, "back muscle", (30, -deep - 8, 0), (22, 15, 300), MUSCLE)
    pair(stage, "trapezius", (42, -deep - 20, 70), (46, 6, 70), MUSCLE, tilt=(0, 0, 14))
    pair(stage, "latissimus", (128, -40, -40), (12, 46, 90), MUSCLE, tilt=(0, 0, 24))
    pair(stage, "subscapular muscle", (108, -48, 70), (10, 36, 46), MUSCLE, tilt=(0, 0, 38))


def _lungs(stage: Stage, cavity: Patch) -> None:
    rng = stage.rng
    inside = stage.grown(cavity, -3)
    x, y, z = (stage.coordinate(inside, i) for i in range(3))
    base = Tissue(rng.uniform(-890, -780), 35, 4)
    middle = 26 + 14 * np.exp(-(((z + 50) / 60) ** 2)) + 10 * np.exp(-(((y + 10) / 30) ** 2))
    for side, word in SIDES:
        floor = -92 + rng.normal(0, 8) - z - 34 * (1 - ((x - side * 72) / 70) ** 2) * -1
        half = np.maximum(middle + (8 if side < 0 else 0) - side * x, floor)
        slant = y * 0.75 + z + rng.normal(0, 8)  # the oblique fissure: below and behind is the lower lobe
        lobes = [("upper lobe", np.minimum(0, 0 * slant) - 1.0), ("lower lobe", slant + 22)]
        if side > 0:
            lobes.insert(1, ("middle lobe", np.maximum(z + 22 + rng.normal(0, 6), -slant - 22)))
        labels = []
        for name, part in lobes:
            field = np.maximum(half, part)
            labels.append(stage.put(stage.both(inside, field), stage.like(base, by=6), f"{word} lung {name}"))
        labels += _lung_vessels(stage, side, labels)
        stage.union(f"{word} lung", *labels)
        _lesions(stage, side, word, labels)


def _lung_vessels(stage: Stage, side: int, lungs: list[int]) -> list[int]:
    """Vessels from the hilum outwards; they belong to the lung, not to a lobe."""
    rng, hilum = stage.rng, np.array([side * 38, -10, -5])
    labels, tissue = [], Tissue(rng.uniform(30, 160), 10, 4)
    for _ in range(9):
        way = rng.normal(size=3) * (0.5, 1, 1.4) + (side * 1.0, 0, -0.2)
        way *= rng.uniform(45, 95) / np.linalg.norm(way)
        bend = rng.normal(0, 9, 3)
        points = np.stack([hilum, hilum + way * 0.5 + bend, hilum + way])
        labels.append(stage.put(stage.pipe(points, [4.2, 2.2, 1.0]), tissue, "lung vessel", only=lungs, target=False))
        twig = np.stack([points[1], points[1] + way * 0.3 - bend * 1.6 + rng.normal(0, 10, 3)])
        labels.append(stage.put(stage.pipe(twig, [2, 0.8], n=4), tissue, "lung vessel", only=lungs, target=False))
    return labels


def _lesions(stage: Stage, side: int, word: str, lungs: list[int]) -> None:
    rng = stage.rng
    if rng.random() < 0.5:
        at = np.array([side * rng.uniform(45, 110), rng.uniform(-55, 50), rng.uniform(-60, 70)])
        mass(stage, "lung tumor", at, rng.uniform(12, 55), Tissue(rng.uniform(0, 70), 14, 5), ragged=0.3, within=lungs)
    for _ in range(int(rng.integers(0, 3))):
        at = np.array([side * rng.uniform(45, 110), rng.uniform(-55, 50), rng.uniform(-60, 70)])
        stage.put(stage.egg(at, rng.uniform(4, 9, 3), rough=0.15), Tissue(20, 15, 4), "lung nodule", only=lungs)
    if rng.random() < 0.2:
        pool = stage.egg((side * 80, -70, -70), (60, 34, 60), rough=0.1)
        stage.put(pool, Tissue(rng.uniform(0, 25), 5, 7), f"{word} pleural effusion", only=lungs)


def _below(stage: Stage, wide: float, deep: float) -> None:
    """The domes of liver, spleen and stomach."""
    rng = stage.rng
    dome = stage.egg((48, 4, -150 + rng.normal(0, 6)), (wide * 0.68, deep - 8, 72), power=2.3)
    stage.put(stage.grown(dome, 2), MUSCLE)
    stage.put(dome, Tissue(rng.uniform(60, 120), 8, 5), "liver")
    stomach = stage.egg((-58, 22, -148), (48, 44, 52), rough=0.1)
    outer, inner = stage.cored(stomach, "stomach", rim_mm=4, rim=Tissue(50, 10, 5), core=Tissue(18, 15, 7))
    gas = stage.both(stomach, 30 - stage.coordinate(stomach, 1))
    stage.union("stomach", outer, inner, stage.put(gas, AIR, "stomach", only=(inner,), target=False))
    spleen = stage.egg((-92, -44, -128), (26, 38, 40), tilt=(0, 0, -24))
    stage.put(spleen, Tissue(rng.uniform(60, 130), 8, 5), "spleen")


def _heart(stage: Stage) -> None:
    rng = stage.rng
    size, shift = rng.uniform(0.9, 1.12), rng.normal(0, 4, 3)
    venous, arterial = (Tissue(rng.uniform(45, 380), 8, 5) for _ in range(2))
    if rng.random() < 0.5:
        arterial = stage.like(venous, by=6)
    wall_ = Tissue(rng.uniform(55, 120), 9, 4)

    def egg(x: float, y: float, z: float, *r: float, tilt: float = 0.0) -> Patch:
        return stage.egg(np.array([x, y, z]) + shift, np.array(r) * size, tilt=(0, tilt, tilt * 1.2), rough=0.07)

    sack = egg(-12, 24, -52, 58, 42, 52, tilt=30)
    stage.put(sack, stage.like(FAT))
    whole = stage.put(stage.grown(sack, -rng.uniform(3, 8)), wall_, "heart")
    left = egg(-34, 24, -60, 38, 29, 29, tilt=35)
    muscle = stage.put(left, stage.like(wall_, by=4), "heart myocardium")
    chambers = [
        stage.put(egg(12, 40, -58, 33, 20, 32, tilt=20), venous, "heart ventricle right"),
        stage.put(egg(26, 18, -42, 21, 22, 27), venous, "heart atrium right"),
        stage.put(egg(-6, -8, -32, 26, 17, 20), arterial, "heart atrium left"),
    ]
    inner = stage.put(stage.grown(left, -rng.uniform(8, 13)), arterial, "heart ventricle left", only=(muscle,))
    for side, _ in SIDES:
        for z in (-28, -44):
            vein = stage.pipe(np.array([[side * 18 - 6, -12, z], [side * 44, -14, z + rng.normal(0, 8)]]), [6, 4], n=5)
            stage.put(vein, arterial)
    stage.union("heart", whole, muscle, inner, *chambers)


def _vessels(stage: Stage) -> None:
    rng = stage.rng
    bright, venous = (Tissue(rng.uniform(45, 380), 8, 5) for _ in range(2))
    lung = bright if rng.random() < 0.4 else Tissue(rng.uniform(45, 420), 8, 5)
    wide = rng.uniform(10, 16)
    arch = [
        (-6, 14, -34),
        (10, 22, 0),
        (10, 18, 32),
        (-6, -2, 50),
        (-22, -34, 40),
        (-26, -46, 0),
        (-20, -48, -60),
        (-10, -44, -134),
    ]
    main = stage.pipe(
        np.array(arch) + rng.normal(0, 2.5, (8, 3)), [wide * 1.1, wide * 1.05, wide, wide * 0.85, wide * 0.8], n=26
    )
    trunk = [(14, 40, -30), (0, 38, -8), (-14, 22, 10), (-26, 2, 14), (-46, -10, 8)]
    right = [(-14, 20, 10), (6, 0, 12), (28, -8, 6), (46, -10, 0)]
    artery = [
        stage.put(stage.pipe(p, [12, 12, 9, 7], n=12), lung, "pulmonary artery", target=False) for p in (trunk, right)
    ]
    stage.union("pulmonary artery", *artery)
    cava = stage.pipe([(26, 14, -40), (26, 10, 0), (26, 14, 40), (20, 22, 66)], rng.uniform(7, 11), n=10)
    stage.put(cava, venous, "superior vena cava")
    names = ("brachiocephalic trunk", "left common carotid artery", "left subclavian artery")
    starts = ((6, 8, 46), (-6, 0, 48), (-14, -12, 46))
    ends = ((30, 2, 104), (-24, 2, 128), (-66, -4, 104))
    for name, a, b in zip(names, starts, ends, strict=True):
        middle = (np.array(a) + b) / 2 + (0, 0, 18) + rng.normal(0, 3, 3)
        stage.put(stage.pipe(np.stack([np.array(a), middle, np.array(b)]), [6.5, 5, 4]), bright, name)
    for side, word in SIDES:
        vein = stage.pipe([(20, 24, 62), (side * 40 + 10, 22, 84), (side * 80, 8, 100)], [7, 6, 5])
        stage.put(vein, venous, f"{word} brachiocephalic vein")
    lumen = stage.put(main, bright, "aorta", target=False)
    stage.union("aorta", lumen)


def _airways(stage: Stage) -> None:
    rng = stage.rng
    gullet = stage.pipe([(-4, -34, 134), (-6, -32, 40), (-8, -34, -40), (-22, -28, -134)], rng.uniform(5, 9), n=14)
    rim, core = stage.put(gullet, Tissue(45, 8, 4), "esophagus", target=False), 0
    content = AIR if rng.random() < 0.4 else Tissue(35, 10, 4)
    core = stage.put(stage.grown(gullet, -3), content, "esophagus", only=(rim,), target=False)
    stage.union("esophagus", rim, core)
    fork = (2, -18, 26)
    pipes = (
        ([(0, -16, 134), (2, -16, 80), fork], [9, 8.5, 8]),
        ([fork, (26, -14, 6), (42, -12, -6)], [7, 5.5, 4]),
        ([fork, (-22, -14, 4), (-42, -14, -10)], [6.5, 5, 4]),
    )
    patches = [stage.pipe(points, radii, n=8) for points, radii in pipes]
    for patch in patches:
        stage.put(stage.grown(patch, 1.6), Tissue(70, 30, 4))
    labels = [stage.put(patch, AIR, "trachea", target=False) for patch in patches]
    stage.union("trachea", labels[0])
    stage.union("airways", *labels)
    pair(stage, "thyroid lobe", (17, -6, 118), (9, 11, 22), Tissue(rng.uniform(90, 190), 9, 4))


def _bones(stage: Stage, deep: float) -> None:
    rng = stage.rng

    def bone(patch: Patch, name: str) -> None:
        stage.cored(patch, name, rim_mm=1.6, rim=BONE, core=MARROW)

    bone(stage.egg((0, deep + 1, 20), (17, 6, 76), tilt=(-7, 0, 0), power=3, rough=0.1), "sternum")
    for side, word in SIDES:
        path: Array = np.array([(20, deep - 18, 96), (70, deep - 26, 104), (118, 10, 112), (140, -8, 116)]) * (
            side,
            1,
            1,
        )
        bone(stage.pipe(path, 5.5, n=10), f"{word} clavicle")
        shell = stage.egg((side * 72, -22, 66), (58, 78, 80), power=2.3)
        blade = stage.egg((side * 96, -84, 74), (40, 40, 58), tilt=(0, side * 16, 0), power=3)
        thin = Patch(shell.where, np.abs(shell.field) - 3.0 / stage.spacing_mm)
        full = np.full(stage.room.labels.shape, 9.0, dtype=np.float32)
        full[blade.where] = blade.field
        bone(stage.both(thin, full[shell.where]), f"{word} scapula")
        head = np.array((150, -14, 92)) * (side, 1, 1) + rng.normal(0, 3, 3)
        bone(stage.egg(head, (24, 24, 24)), f"{word} humerus")
