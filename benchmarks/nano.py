"""What the nano generalists can do, on phantom families that they were never trained on: heads (MR) and torsos (CT).

python benchmarks/nano.py [PHANTOMS]

All figures: nano, trained on synthetic data. PHANTOMS of each family (default 2). Prints: boxes and clicks on single
slices; one prompted slice carried through the target; what shuffled slices and thicker ones do to it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from segwise import assemble
from segwise.case import Target
from segwise.geometry import Volume
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Segmenter
from segwise.store import FeatureStore
from segwise.synth.head import head
from segwise.synth.imaging import ct, mr
from segwise.synth.torso import torso

FIRST_SEED = 700
LEAST_ML = 1.0
LEAST_SLICES = 6
LEAST_MM = 30
SPACINGS_MM = (1.0, 2.0, 3.0, 5.0, 10.0)
FAMILIES = {"head, MR": (head, mr, 1.5), "torso, CT": (torso, ct, 1.8)}
SAM, SAM2 = "sam(size=nano)", "sam2(size=nano)"


@dataclass(frozen=True)
class Scene:
    """A generated scan with its targets."""

    family: str
    volume: Volume
    targets: tuple[Target, ...]


def scene(family: str, seed: int, slice_mm: float) -> Scene:
    """One imaginary person."""
    make, image, pixel = FAMILIES[family]
    scan = image(make(seed), seed, spacing_mm=(slice_mm, pixel, pixel))
    grid = scan.volume.grid
    targets = [Target(name, scan.labels == i, grid) for i, name in scan.names.items()]
    ml = np.prod(grid.spacing_mm) / 1000
    return Scene(family, scan.volume, tuple(t for t in targets if t.mask.sum() * ml >= LEAST_ML))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """DSC of two masks, one of them not empty."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def answered(model: Segmenter, state: object, prompt: Prompt, previous: object = None) -> tuple[object, np.ndarray]:
    """(prediction, mask)."""
    (found,) = model.segment(state, [Ask(prompt, previous)])
    return found, found.mask(state.grid)


def on_slices(scenes: list[Scene]) -> None:
    """Single slices: a tight box, then clicks; a lone point, then clicks."""
    models = {name: assemble.segmenter(name) for name in (SAM, f"{SAM2[:-1]}, lift=slices)", "box-fill", "threshold")}
    clicks = assemble.prompter("clicks(n=9)")
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    wrong: list[tuple[float, float]] = []
    for one in scenes:
        states = {name: model.encode(one.volume, store=FeatureStore()) for name, model in models.items()}
        for target, place in _places(one):
            flat = Target(target.name, _only(target.mask, place), target.grid)
            box = Prompt((_box(flat, place),))
            for name, model in models.items():
                found, mask = answered(model, states[name], box)
                scores[name, one.family, "box"].append(dice(flat.mask, mask))
                if name.startswith("sam"):
                    kept = [("box", box, found, mask)]
                    point = clicks.first(flat, 0)
                    found, mask = answered(model, states[name], point)
                    scores[name, one.family, "point"].append(dice(flat.mask, mask))
                    kept.append(("point", point, found, mask))
                    for start, *last in kept:
                        prompt, found, mask = last
                        before = dice(flat.mask, mask)
                        for n in (1, 2, 3):
                            further = clicks.next(flat, prompt, mask, 0)
                            if further is not None:
                                prompt = further
                                found, mask = answered(model, states[name], prompt, found)
                            scores[name, one.family, f"{start}+{n}"].append(dice(flat.mask, mask))
                            if n == 1 and name == SAM and before < 0.7:
                                wrong.append((before, dice(flat.mask, mask)))
    print("\nSingle slices (three a target): mean DSC. nano, trained on synthetic data")
    columns = ("box", "box+1", "box+2", "box+3", "point", "point+1", "point+2", "point+3")
    _table(scores, columns)
    if wrong:
        before, after = np.mean(wrong, axis=0)
        better = np.mean([b > a for a, b in wrong])
        print(f"{SAM}: a click on {len(wrong)} masks below .7: DSC {before:.3f} -> {after:.3f}; {better:.0%} rise")


def carried(scenes: list[Scene]) -> None:
    """The box of the middle slice and the range of slices: repeated, propagated, remembered, sorted."""
    arms = {
        "box-fill": "box-fill",
        "sam, slices (box repeated)": f"{SAM[:-1]}, lift=slices)",
        "sam, propagate": f"{SAM[:-1]}, lift=propagate)",
        "sam2, slices (box repeated)": f"{SAM2[:-1]}, lift=slices)",
        "sam2, propagate": f"{SAM2[:-1]}, lift=propagate)",
        "sam2, memory": f"{SAM2[:-1]}, lift=memory)",
        "sam2, sorted-memory": f"{SAM2[:-1]}, lift=sorted-memory)",
    }
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for name, spec in arms.items():
        model = assemble.segmenter(spec)
        for one in scenes:
            state = model.encode(one.volume, store=FeatureStore())
            for target, prompt, _ in _ranges(one):
                _, mask = answered(model, state, prompt)
                scores[name, one.family, "DSC"].append(dice(target.mask, mask))
                scores[name, one.family, "jitter"].append(jitter(target.mask, mask))
    print("\nOne prompted slice, 3 mm apart, range known: mean DSC and jitter. nano, trained on synthetic data")
    _table(scores, ("DSC", "jitter"))


def shuffled(scenes: list[Scene]) -> None:
    """The same with the slices of the target's range in another order, the prompted one in its place."""
    model = assemble.segmenter(f"{SAM2[:-1]}, lift=memory)")
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for one in scenes:
        state = model.encode(one.volume, store=FeatureStore())
        for target, prompt, (low, middle, high) in _ranges(one):
            _, mask = answered(model, state, prompt)
            scores["in order", one.family, "DSC"].append(dice(target.mask, mask))
            rng = np.random.default_rng(low)
            order = np.arange(one.volume.grid.shape[0])
            others = np.array([i for i in range(low, high) if i != middle])
            order[others] = rng.permutation(others)
            mixed = Volume.of(one.volume.array[:, order], one.volume.grid, one.volume.channels)
            _, mask = answered(model, model.encode(mixed, store=FeatureStore()), prompt)
            scores["shuffled", one.family, "DSC"].append(dice(target.mask[order], mask))
    print(f"\n{SAM2[:-1]}, lift=memory): slices in order and shuffled. nano, trained on synthetic data")
    _table(scores, ("DSC",))


def spacing(n: int) -> None:
    """The same targets of the same persons in thicker slices, scored on the slices that nobody prompted."""
    arms = (f"{SAM2[:-1]}, lift=memory)", f"{SAM[:-1]}, lift=propagate)", f"{SAM[:-1]}, lift=slices)")
    columns = [f"{s:g} mm" for s in SPACINGS_MM]
    found: dict[tuple[str, str, int, str], dict[str, float]] = defaultdict(dict)
    for slice_mm, column in zip(SPACINGS_MM, columns, strict=True):
        for family, i in ((family, i) for family in FAMILIES for i in range(n)):
            one = scene(family, FIRST_SEED + i, slice_mm)
            for spec in arms:
                model = assemble.segmenter(spec)
                state = model.encode(one.volume, store=FeatureStore())
                for target, prompt, (_, middle, _) in _ranges(one, least=LEAST_MM / slice_mm):
                    _, mask = answered(model, state, prompt)
                    others = np.arange(len(mask)) != middle
                    if target.mask[others].any():
                        score = dice(target.mask[others], mask[others])
                        found[spec, family, i, target.name][column] = score
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    whole = {key[1:] for key in found if all(len(found[spec, *key[1:]]) == len(columns) for spec in arms)}
    for (spec, *who), values in found.items():
        for column in columns if tuple(who) in whole else ():
            scores[spec, str(who[0]), column].append(values[column])
    print(
        f"\nDistance of slices, one prompted slice, targets of {LEAST_MM} mm and more, the same in every column: mean "
        "DSC of the other slices. nano, trained on synthetic data"
    )
    _table(scores, columns)


def jitter(reference: np.ndarray, mask: np.ndarray) -> float:
    """How unsteady a mask's area is from slice to slice beyond the reference's: mean |second difference| of the
    difference of areas, over the reference's mean area; 0 is as steady as the reference. Lower is better."""
    there = np.flatnonzero(reference.any(axis=(1, 2)))
    inside = slice(there[0], there[-1] + 1)
    excess = (mask[inside].sum(axis=(1, 2)) - reference[inside].sum(axis=(1, 2))).astype(float)
    return float(np.abs(np.diff(excess, 2)).mean() / reference[inside].sum(axis=(1, 2)).mean())


def _places(one: Scene) -> Iterator[tuple[Target, int]]:
    """Slices at a quarter, a half and three quarters of every target."""
    for target in one.targets:
        there = np.flatnonzero(target.mask.sum(axis=(1, 2)) >= 12)
        for share in (0.25, 0.5, 0.75):
            if len(there):
                yield target, int(there[int(share * (len(there) - 1))])


def _ranges(one: Scene, least: float = LEAST_SLICES) -> Iterator[tuple[Target, Prompt, tuple[int, int, int]]]:
    """(target, a box as wide as on its middle slice over all its slices, (first, middle, last + 1))."""
    for target in one.targets:
        there = np.flatnonzero(target.mask.any(axis=(1, 2)))
        if there[-1] + 1 - there[0] < least:
            continue
        low, high = int(there[0]), int(there[-1]) + 1
        middle = int((high - 1 - low) / 2 + low)
        if target.mask[middle].any():
            yield target, Prompt((_box(target, middle, low, high),)), (low, middle, high)


def _box(target: Target, place: int, low: int | None = None, high: int | None = None) -> Box:
    found = np.argwhere(target.mask[place])
    first, last = found.min(axis=0), found.max(axis=0) + 1
    ends = (place, place + 1) if low is None or high is None else (low, high)
    return Box.of(target.grid, (ends[0], *first), (ends[1], *last))


def _only(mask: np.ndarray, place: int) -> np.ndarray:
    flat = np.zeros_like(mask)
    flat[place] = mask[place]
    return flat


def _table(scores: dict[tuple[str, str, str], list[float]], columns: tuple[str, ...] | list[str]) -> None:
    names = list(dict.fromkeys(name for name, _, _ in scores))
    groups = [*FAMILIES, "both"]
    print(f"{'':30} {'':10}" + "".join(f"{c:>9}" for c in columns) + f"{'targets':>9}")
    for name in names:
        for group in groups:
            cells, n = [], 0
            for column in columns:
                found = [v for family in FAMILIES if group in (family, "both") for v in scores[name, family, column]]
                cells.append(f"{np.mean(found):9.3f}" if found else f"{'–':>9}")
                n = max(n, len(found))
            print(f"{name:30} {group:10}" + "".join(cells) + f"{n:9}")


def main(n: int = 2) -> None:
    """Print everything."""
    scenes = [scene(family, FIRST_SEED + i, 3.0) for family in FAMILIES for i in range(n)]
    steps: tuple[Callable[[list[Scene]], None], ...] = (on_slices, carried, shuffled)
    for step in steps:
        step(scenes)
    spacing(max(1, n // 2))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
