"""Is learning real? Specialists and adapters on generated persons of a family that nothing was trained on.

    python benchmarks/learning.py OUT [--models unet,resenc,…] [--steps 500] [--tuned 200] [--csv FILE]
    python benchmarks/learning.py OUT [--anywhere] [--exchanged]

Torsos of 44 x 48 x 64 voxels: 10 persons to learn from, 2 for the learning curve, 6 to test on, five organs each. Every
model gets the same few steps (segresnet, which learns slowest, twice as many), and must beat on the test persons: its
own start (the untrained net, or the generalist as it came), the position prior (mean of the training masks, cut at the
threshold that is best on them) and the best band of intensity (chosen on the training persons, inside the prior's
reach). --exchanged gives every person that is learned from the labels of another one. Persons of a family lie alike in
their scans, so these are noisy labels rather than wrong ones (DSC .34 to the right ones), and a net that sees the image
averages some of the noise away. With --anywhere every person lies somewhere else in the scan (image and labels are
moved by distances drawn for each; what leaves on one side comes back on the other): exchanged labels have nothing to do
with the image then, and a net that learned from them must not beat the prior. Trainings that are there are taken as
they are.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from baselines import Baselines, dice

from segwise import api, assemble
from segwise.demo import write_scan
from segwise.evaluate import inventory
from segwise.geometry import Volume
from segwise.learn import Who
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, Learned, Segmenter
from segwise.store import FeatureStore
from segwise.synth.imaging import Scan, ct
from segwise.synth.torso import torso
from segwise.training.labelled import Budget

ORGANS = ("liver", "spleen", "left kidney", "right kidney", "stomach")
FIRST, LEARNED, CURVE, TESTED = 800, 10, 2, 6
SPACING_MM = (3.0, 5.5, 5.5)
VOXELS = 32 * 48 * 64  # of a patch at most
LONGER = {"segresnet": 2}  # times the steps
SPECIALISTS = ("unet", "unetr", "segresnet", "resenc")
ADAPTED = tuple(
    f"sam(size=nano)+{name}"
    for name in ("decoder", "lora", "qlora", "med-sa", "ma-sam", "samed", "ssf", "bias", "norm", "full")
)


def people(root: Path, *, exchanged: bool = False, anywhere: bool = False) -> None:
    """Write the persons, as the demonstration does; with their labels exchanged in a circle, or lying anywhere."""
    n = LEARNED + CURVE + TESTED
    scans = [ct(torso(FIRST + i, spacing_mm=2.2), FIRST + i, spacing_mm=SPACING_MM) for i in range(n)]
    if exchanged or anywhere:
        scans = _alike(scans)
    if anywhere:
        far = np.random.default_rng(FIRST).random((n, 3))
        scans = [_moved(scan, tuple((f * scan.labels.shape).astype(int))) for scan, f in zip(scans, far, strict=True)]
    for i, scan in enumerate(scans):
        donor = scans[(i + 1) % LEARNED] if exchanged and i < LEARNED else scan
        write_scan(root / f"person_{i:02d}", Scan(scan.volume, donor.labels, donor.names), FIRST + i)


def _alike(scans: list[Scan]) -> list[Scan]:
    """The middle of each, as large as all have it."""
    shape = tuple(min(scan.labels.shape[axis] for scan in scans) for axis in range(3))
    found = []
    for scan in scans:
        low = [(n - m) // 2 for n, m in zip(scan.labels.shape, shape, strict=True)]
        high = [a + m for a, m in zip(low, shape, strict=True)]
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        volume = scan.volume
        cut = Volume.of(volume.array[(slice(None), *here)], volume.grid.crop(low, high), volume.channels)
        found.append(Scan(cut, scan.labels[here], scan.names))
    return found


def _moved(scan: Scan, far: tuple[int, ...]) -> Scan:
    volume = scan.volume
    array = np.roll(volume.array, far, axis=(1, 2, 3))
    labels = np.roll(scan.labels, far, axis=(0, 1, 2))
    return Scan(Volume.of(array, volume.grid, volume.channels), labels, scan.names)


def present(case) -> tuple[str, ...]:
    """Which of the organs a case has."""
    return tuple(name for name in ORGANS if case.structure(name) is not None)


def tested(model: Segmenter, cases: list, *, text: bool) -> dict[tuple[str, str], float]:
    """(subject, organ) -> DSC: by name, or from a box on every slice."""
    user = assemble.prompter("box2d")
    found = {}
    for case in cases:
        volume = case.volume()
        state = model.encode(volume, store=FeatureStore())
        for target in case.targets(present(case), volume.grid):
            if target.mask.any():
                prompt = Prompt((Text(target.name),)) if text else user.first(target, 0)
                (said,) = model.segment(state, [Ask(prompt)])
                found[case.subject, target.name] = dice(target.mask, said.mask(volume.grid))
    return found


def main() -> None:
    """Train, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default=",".join((*SPECIALISTS, *ADAPTED)))
    parser.add_argument("--steps", type=int, default=500, help="of a specialist")
    parser.add_argument("--tuned", type=int, default=200, help="of an adapter")
    parser.add_argument("--exchanged", action="store_true", help="every person with the labels of another one")
    parser.add_argument("--anywhere", action="store_true", help="every person somewhere else in the scan")
    parser.add_argument("--csv", type=Path, help="every value, one a line")
    given = parser.parse_args()
    ways = [name for name in ("anywhere", "exchanged") if getattr(given, name)]
    data = given.out / ("-".join(ways) or "people")
    if not data.is_dir():
        people(data, exchanged=given.exchanged, anywhere=given.anywhere)
    _, cases = inventory.find(data)
    cases.sort(key=lambda case: case.id)
    learned, test = cases[:LEARNED], cases[LEARNED + CURVE :]
    base = Baselines(learned, ORGANS)
    arms = {"position prior": {}, "best intensities": {}}
    for case in test:
        volume = case.volume()
        for target in case.targets(present(case), volume.grid):
            if target.mask.any():
                key = case.subject, target.name
                arms["position prior"][key] = dice(target.mask, base.prior(target.name, volume))
                arms["best intensities"][key] = dice(target.mask, base.threshold(target.name, volume))
    for name, values in arms.items():
        tell(name, values)
    for spec in given.models.split(","):
        one(spec, given, data, test, arms)
    if given.csv:
        with given.csv.open("w", newline="", encoding="utf-8") as stream:
            rows = [(arm, *key, round(value, 4)) for arm, values in arms.items() for key, value in values.items()]
            csv.writer(stream).writerows([("model", "subject", "organ", "DSC"), *rows])


def one(spec: str, given: argparse.Namespace, data: Path, test: list, arms: dict) -> None:
    """Train a model, or take the one that is there, and test it and its start."""
    plain = spec.translate(str.maketrans({"(": "-", "+": "-", ")": None, "=": None}))  # a path with + would be a spec
    out = given.out / f"{plain}-{data.name}"
    _, cases = inventory.find(data)
    subjects = [case.subject for case in sorted(cases, key=lambda case: case.id)]
    who = Who(data=data, targets=ORGANS, left_out=tuple(subjects[LEARNED + CURVE :]))
    text = "+" not in spec
    steps = given.steps * LONGER.get(spec, 1) if text else given.tuned
    budget = Budget(steps=steps, size=1 if text else 2, rate=1e-3 if text else 3e-4)
    if text:
        made = api.specialist(spec, who, out, budget, patch_voxels=VOXELS)
    else:
        made = api.adaptation(spec, who, out, budget)
    assert isinstance(made.recipe.objective.net.training, bool)
    start = assemble.segmenter(spec.split("+", maxsplit=1)[0]) if not text else untrained(spec, out)
    if not (out / "model.json").is_file():
        api.learn(made, out, command=("benchmarks/learning.py",))
    arms[f"{spec}, start"] = tested(start, test, text=text)
    arms[spec] = tested(assemble.segmenter(str(out) if out.is_absolute() else f"./{out}"), test, text=text)
    tell(f"{spec}, start", arms[f"{spec}, start"])
    tell(spec, arms[spec], against=[arms["position prior"], arms["best intensities"], arms[f"{spec}, start"]])


def untrained(spec: str, out: Path) -> Segmenter:
    """The same net without training."""
    found = assemble.segmenter(f'{spec}(plan="{out / "plan.json"}", untrained=0)')
    assert isinstance(found, Learned)
    return found


def tell(name: str, values: dict, *, against: list[dict] | None = None) -> None:
    """Mean over targets, over persons, and by how much it beats others, person by person."""
    persons = sorted({subject for subject, _ in values})
    by_person = np.array([np.mean([v for (s, _), v in values.items() if s == p]) for p in persons])
    words = f"{name:36} {np.mean(list(values.values())):.3f}  by person {by_person.min():.3f} to {by_person.max():.3f}"
    for other in against or []:
        theirs = np.array([np.mean([v for (s, _), v in other.items() if s == p]) for p in persons])
        words += f"  +{np.mean(by_person - theirs):.3f} ({int((by_person > theirs).sum())} of {len(persons)})"
    print(words, flush=True)


if __name__ == "__main__":
    main()
