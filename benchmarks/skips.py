"""What are skip connections worth? `unet` against `unet(skips=false)`, trained equally.

    python benchmarks/skips.py OUT [--seeds 2] [--steps 200] [--tolerance 2] [--csv FILE]

The persons of `learning.py`: ten to learn from, two for the curve, six to test on, five organs each. NSD at a tolerance
in mm and DSC; the difference is paired by test person (mean over organs and seeds), with a bootstrap interval over the
persons. Folders that are done are taken.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from learning import CURVE, LEARNED, ORGANS, people, present
from pretraining import VOXELS, Scores, against, timed, wrote

from segwise import api, assemble
from segwise.evaluate import inventory
from segwise.learn import Who
from segwise.pair import Pair
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, Segmenter
from segwise.store import FeatureStore
from segwise.training.labelled import Budget

MODELS = ("unet", "unet(skips=false)")


def measured(model: Segmenter, cases: list, tolerance_mm: float) -> list[tuple[str, str, float, float]]:
    """(subject, organ, DSC, NSD) of every organ that is there; a prediction that is empty counts 0 in both."""
    found = []
    for case in cases:
        volume = case.volume()
        state = model.encode(volume, store=FeatureStore())
        for target in case.targets(present(case), volume.grid):
            if target.mask.any():
                (said,) = model.segment(state, [Ask(Prompt((Text(target.name),)))])
                pair = Pair(target.mask, said.mask(volume.grid), volume.grid)
                found.append((case.subject, target.name, pair.dice, pair.surface_dice(tolerance_mm)))
    return found


def main() -> None:
    """Train both, test both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tolerance", type=float, default=2.0, help="of NSD, in mm")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    data = given.out / "people"
    if not (given.out / "people-done").is_file():
        people(data, exchanged=False)
        (given.out / "people-done").touch()
    _, cases = inventory.find(data)
    cases.sort(key=lambda case: case.id)
    test = cases[LEARNED + CURVE :]
    dsc: dict[str, Scores] = {spec: {} for spec in MODELS}
    nsd: dict[str, Scores] = {spec: {} for spec in MODELS}
    for seed in range(given.seeds):
        for spec in MODELS:
            out = given.out / f"{'without' if 'false' in spec else 'with'}-skips-{seed}"
            found = out / f"tested-{given.tolerance:g}.json"
            if not found.is_file():
                who = Who(data=data, targets=ORGANS, left_out=tuple(case.subject for case in test))
                budget = Budget(steps=given.steps, seed=seed)
                made = api.specialist(spec, who, out, budget, patch_voxels=VOXELS)
                if not (out / "model.json").is_file():
                    timed(made, out)
                model = assemble.segmenter(str(out.absolute()))
                found.write_text(json.dumps(measured(model, test, given.tolerance)), encoding="utf-8")
            for subject, organ, a, b in json.loads(found.read_text(encoding="utf-8")):
                dsc[spec][subject, organ, seed], nsd[spec][subject, organ, seed] = a, b
    rows = against(nsd, MODELS[0], f"NSD at {given.tolerance:g} mm") + against(dsc, MODELS[0], "DSC")
    wrote(given.csv, rows)


if __name__ == "__main__":
    main()
