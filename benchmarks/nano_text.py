"""The small text-driven model on synthetic bodies it never saw: DSC beside the position prior, presence, words.

    python benchmarks/nano_text.py [--model "sat(variant=phantom)"] [--scans 12] [--csv FILE]

Every figure is of a nano model, trained on synthetic data. Two sets of scans: `abdomen` are persons it never saw of a
family it was trained on (seeds below 1,000; training begins at 100,000); `torso` is a family it never saw, drawn by
other code. The position prior of a structure is the mean of its masks in the training's
scans in the box of the body, cut at the threshold that is best there. Presence is scored on pairs: a scan, and the scan
of the same person with the structure replaced by the tissue around it. Prints all; about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from segwise import assemble
from segwise.errors import SegwiseError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, Prediction, Segmenter
from segwise.store import FeatureStore
from segwise.synth.absent import without
from segwise.synth.imaging import ct
from segwise.synth.phantom import Phantom
from segwise.synth.stage import as_world
from segwise.synth.torso import torso
from segwise.training import named_bodies

MODEL = "sat(variant=phantom)"
FIRST = 300  # seed of the first scan
NORM = (40, 40, 40)  # of the box of a body
PRIOR_SCANS = 150  # of the training's own
LEAST_ML = 0.5
LEFT_OUT = tuple(name for name in named_bodies.NAMES if name not in named_bodies.WHOLE)


@dataclass(frozen=True)
class Family:
    """Where scans come from.

    Attributes:
        make: seed -> phantom with the names of the training.
        seen: it was trained on others of them.
    """

    make: Callable[[int], Phantom]
    seen: bool


FAMILIES = {
    "abdomen": Family(named_bodies.BODIES["abdomen"].phantom, True),
    "torso": Family(lambda seed: named_bodies.named(as_world(torso(seed, spacing_mm=2.0))), False),
}
WORDS = (
    "left kidney", "kidney", "kidneys", "Kidney (L)", "hepar", "lung", "liver tumour", "livre", "left kidny",
    "prostate", "flux capacitor", "liver and spleen",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A scan with the masks of what is in it."""

    family: str
    seed: int
    volume: Volume
    masks: Mapping[str, Array]


def rendered(family: str, phantom: Phantom, seed: int) -> Case:
    """A scan of a phantom as `imaging` makes them, and its masks on the scan's grid."""
    scan = ct(phantom, seed, spacing_mm=(5.0, 1.8, 1.8))
    least = LEAST_ML * 1000 / _voxel_mm3(scan.volume.grid)
    masks = {name: scan.labels == label for label, name in scan.names.items()}
    return Case(family, seed, scan.volume, {name: mask for name, mask in masks.items() if mask.sum() >= least})


def asked(model: Segmenter, volume: Volume, names: tuple[str, ...]) -> dict[str, Prediction]:
    """Answers to some names."""
    state = model.encode(volume, store=FeatureStore())
    said = model.segment(state, [Ask(Prompt((Text(name),))) for name in names])
    return dict(zip(names, said, strict=True))


def _voxel_mm3(grid: Grid) -> float:
    return float(abs(np.linalg.det(grid.affine[:3, :3])))


def dice(reference: Array, prediction: Array) -> float:
    """DSC of two masks, not both empty."""
    return float(2 * (reference & prediction).sum() / (reference.sum() + prediction.sum()))


def body(volume: Volume) -> Grid:
    """The box of the body, axes to R, A, S, in as many cells for everyone."""
    values = volume.array[0].astype(np.float32)
    inside = values > (-500 if volume.channels[0].modality == "CT" else 0.15 * np.percentile(values, 99))
    low, high = bounds(inside) or (np.zeros(3, int), np.array(inside.shape))
    return volume.grid.crop(low, high).toward("RAS").resized(NORM)


class Prior:
    """Where structures lie in the training's scans, as shares of the box of the body."""

    def __init__(self, n: int) -> None:
        kept: dict[str, list[Array]] = defaultdict(list)
        for number in range(n):
            kind, found = named_bodies.scan(number)
            for label, name in found.names.items():
                if kind == "abdomen":  # in the thorax the same organs lie elsewhere
                    mask = (found.labels == label).astype(np.float32)
                    kept[name].append(regrid(mask, found.volume.grid, body(found.volume), order=1, outside=0.0))
        self.maps = {name: np.mean(masks, axis=0) for name, masks in kept.items()}
        self.cuts = {name: self._best(name, masks) for name, masks in kept.items()}

    def _best(self, name: str, masks: list[Array]) -> float:
        cuts = np.linspace(0.05, 0.95, 19)
        scores = [np.mean([dice(mask > 0.5, self.maps[name] > cut) for mask in masks]) for cut in cuts]
        return float(cuts[int(np.argmax(scores))])

    def mask(self, name: str, volume: Volume) -> Array:
        """Its guess on a scan."""
        there = regrid(self.maps[name].astype(np.float32), body(volume), volume.grid, order=1, outside=0.0)
        return np.asarray(there > self.cuts[name])


def auc(present: list[float], absent: list[float]) -> float:
    """Chance that one that is there has the greater score; ties count half."""
    a, b = np.array(present)[:, None], np.array(absent)[None]
    return float(((a > b) + 0.5 * (a == b)).mean()) if a.size and b.size else float("nan")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--scans", type=int, default=12, help="of each set")
    parser.add_argument("--csv", type=Path, help="every value, one a line")
    given = parser.parse_args()
    model = assemble.build(given.model).segmenter
    prior = Prior(PRIOR_SCANS)
    print(f"{given.model}: nano, trained on synthetic data\n")
    rows: list[tuple[str, int, str, str, float]] = []
    for family in FAMILIES:
        overlaps(model, prior, family, given.scans, rows)
    for family in FAMILIES:
        presence(model, family, given.scans, rows)
    words(model)
    if given.csv:
        with given.csv.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("family", "seed", "structure", "measure", "value"), *rows])


def overlaps(model: Segmenter, prior: Prior, family: str, n: int, rows: list[tuple[str, int, str, str, float]]) -> None:
    """DSC of what is there, model and prior, by structure."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    persons = []
    for seed in range(FIRST, FIRST + n):
        phantom = FAMILIES[family].make(seed)
        case = rendered(family, phantom, seed)
        said = asked(model, case.volume, tuple(case.masks))
        own = []
        for name, mask in case.masks.items():
            pair = (dice(mask, said[name].mask(case.volume.grid)), dice(mask, prior.mask(name, case.volume)))
            found[name].append(pair)
            own.append(pair)
            rows += [(family, seed, name, "DSC", pair[0]), (family, seed, name, "DSC of the prior", pair[1])]
        persons.append(np.mean(own, axis=0))
    seen = "a family it was trained on" if FAMILIES[family].seen else "a family it never saw"
    print(f"{family} ({seen}), {n} persons it never saw: DSC, model | position prior")
    for name, pairs in sorted(found.items(), key=lambda kv: -np.mean([p[0] for p in kv[1]])):
        a, b = np.mean(pairs, axis=0)
        print(f"  {name:30s} {a:.3f} | {b:.3f}   ({len(pairs)})")
    both = np.array([pair for pairs in found.values() for pair in pairs])
    by_structure = np.array([np.mean(pairs, axis=0) for pairs in found.values()])
    least, most = np.percentile(_resampled(np.array(persons)[:, 0]), (2.5, 97.5))
    print(f"  {'mean over targets':30s} {both[:, 0].mean():.3f} | {both[:, 1].mean():.3f}   ({len(both)})")
    print(f"  {'mean over structures':30s} {by_structure[:, 0].mean():.3f} | {by_structure[:, 1].mean():.3f}")
    print(
        f"  {'mean over persons':30s} {np.mean(persons, axis=0)[0]:.3f} (95 % {least:.3f} to {most:.3f})\n", flush=True
    )


def _resampled(values: Array) -> Array:
    rng = np.random.default_rng(0)
    return np.asarray(values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1))


def presence(model: Segmenter, family: str, n: int, rows: list[tuple[str, int, str, str, float]]) -> None:
    """Presence of what is there, and of the same left out."""
    there: dict[str, list[float]] = defaultdict(list)
    gone: dict[str, list[float]] = defaultdict(list)
    for seed in range(FIRST, FIRST + n):
        phantom = FAMILIES[family].make(seed)
        case = rendered(family, phantom, seed)
        names = tuple(name for name in LEFT_OUT if name in case.masks)
        said = asked(model, case.volume, names)
        first = 3 * (seed - FIRST)
        for name in dict.fromkeys(names[(first + i) % len(names)] for i in range(3)):
            empty = without(phantom, {name})
            volume = rendered(family, empty, seed).volume
            there[name].append(_presence(said[name]))
            gone[name].append(_presence(asked(model, volume, (name,))[name]))
            rows += [(family, seed, name, "presence", there[name][-1])]
            rows += [(family, seed, name, "presence, left out", gone[name][-1])]
    print(f"{family}: presence of a structure, with it | with it left out (share of answers below 0.5)")
    for name, values in there.items():
        a, b = np.array(values), np.array(gone[name])
        low = f"{a.mean():.3f} ({np.mean(a < 0.5):.2f}) | {b.mean():.3f} ({np.mean(b < 0.5):.2f})"
        print(f"  {name:30s} {low}   ({len(a)})")
    whole, out = list(chain(*there.values())), list(chain(*gone.values()))
    print(f"  AUC, left out                  {auc(whole, out):.3f}   ({len(whole)} pairs)\n", flush=True)


def _presence(said: Prediction) -> float:
    return 1.0 if said.presence is None else float(said.presence)


def words(model: Segmenter) -> None:
    """What some words do on one torso: one name, both sides, a synonym, a misspelling, an unknown word."""
    case = rendered("torso", FAMILIES["torso"].make(FIRST), FIRST)
    print("words on one torso: what is answered")
    for text in WORDS:
        print(f"  {text:16s} {_told(lambda text=text: asked(model, case.volume, (text,))[text], case)}")


def _told(ask: Callable[[], Prediction], case: Case) -> str:
    try:
        said = ask()
    except SegwiseError as error:
        return f"refused: {error}"
    mask = said.mask(case.volume.grid)
    near = {name: dice(own, mask) for name, own in case.masks.items() if (own & mask).any()}
    pairs = {base: case.masks[f"left {base}"] | case.masks[f"right {base}"] for base in ("kidney", "lung")}
    near |= {f"both {base}s": dice(own, mask) for base, own in pairs.items() if (own & mask).any()}
    best = max(near, key=lambda name: near[name], default="")
    ml = mask.sum() * _voxel_mm3(case.volume.grid) / 1000
    return f"presence {said.presence:.3f}, {ml:.0f} mL" + (f", DSC {near[best]:.3f} with {best}" if best else "")


if __name__ == "__main__":
    main()
