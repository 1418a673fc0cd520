"""What is pre-training worth where labels are few, and which mask ratio and target?

    python benchmarks/pretraining.py OUT [--model SPEC] [--seeds 2] [--before 400] [--steps 200] [--batch 1]
        [--labelled 1] [--ratios 0.4,0.6,0.8] [--targets voxels,normalised] [--scans DIR] [--csv FILE] [--minutes M]

The persons of `learning.py`: twelve without labels to pre-train on, of whom one in ten (one person, another for every
seed) has labels to learn from, and six to test on. Arms: the net from scratch, and from an encoder pre-trained at each
ratio and target; all have the same plan (spacing, patch, normalisation), steps and, by seed, the same labelled person
and the same decoder at the start. Every seed has an encoder of its own. The test persons are in no training, labelled
or not. --scans adds an arm at the last ratio and first target whose encoders also saw the CTs of a folder of case.json
cases, each in a folder of its name, under a plan made from all of them.
Difference to the net from scratch: mean over test persons (over organs and seeds within each), with a paired
bootstrap interval over the persons; it says nothing of other seeds. About 20 minutes of one core as it is: a step of
pre-training takes 0.04 s, one on labels 0.24 s. Folders that are done are taken; --minutes stops between two of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from learning import CURVE, LEARNED, ORGANS, people, tested

from segwise import api, assemble
from segwise.evaluate import inventory
from segwise.learn import Who
from segwise.report import statistics
from segwise.training.labelled import Budget
from segwise.weights import pretrained

MODEL = "unetr(features=8, heads=4, mlp=192, width=96)"
VOXELS = 32 * 48 * 64  # of a patch at most
RATIOS, TARGETS = "0.4,0.6,0.8", "voxels,normalised"
SCRATCH = "from scratch"
Scores = dict[tuple[str, str, int], float]  # (subject, organ, seed) -> score


def against(arms: dict[str, Scores], base: str, measure: str) -> list[dict[str, Any]]:
    """Print each arm and its paired difference to one of them; the rows."""
    keys = sorted(set.intersection(*(set(values) for values in arms.values())))
    values = np.array([[arms[name][key] for name in arms] for key in keys])
    found = statistics.compare(values, [subject for subject, _, _ in keys])
    own, rows = list(arms).index(base), []
    for i, name in enumerate(arms):
        row = {"arm": name, "measure": measure, "mean": found.mean[i], "low": found.low[i], "high": found.high[i]}
        words = f"{name:34} {measure} {found.mean[i]:.3f} [{found.low[i]:.3f}, {found.high[i]:.3f}]"
        if i != own:
            more = {
                "difference": found.difference[i, own],
                "difference_low": found.difference_low[i, own],
                "difference_high": found.difference_high[i, own],
            }
            row |= more
            d, low, high = more.values()
            words += f"  {d:+.3f} [{low:+.3f}, {high:+.3f}] to {base}, {found.n_subjects} persons"
        print(words, flush=True)
        rows.append({**row, "persons": found.n_subjects})
    return rows


def wrote(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """The rows as CSV."""
    if path is not None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, columns)
            table.writeheader()
            table.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def listed(path: Path, train: list[str], test: list[str]) -> Path:
    """A split file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"train": train, "valid": [], "test": test}), encoding="utf-8")
    return path


class Runs:
    """The trainings of one experiment, in a folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.out, self.data = given, given.out, given.out / "people"
        if not (self.out / "people-done").is_file():
            people(self.data)
            (self.out / "people-done").touch()
        _, cases = inventory.find(self.data)
        cases.sort(key=lambda case: case.id)
        self.bare = [case.subject for case in cases[: LEARNED + CURVE]]
        self.test = cases[LEARNED + CURVE :]
        self.left = [case.subject for case in self.test]

    def pool(self) -> tuple[Path, list[str]]:
        """The persons and the scans of --scans in one folder, and the subjects of these."""
        root, more = self.out / "pool", inventory.find(self.given.scans)[1]
        more = [case for case in more if case.modality == "CT" and not case.broken]
        if not root.is_dir():
            root.mkdir()
            for folder in (*self.data.iterdir(), *(self.given.scans / case.id for case in more)):
                (root / folder.name).symlink_to(folder.resolve())
        return root, sorted({case.subject for case in more})

    def encoder(self, ratio: float, target: str, seed: int, *, scans: bool = False) -> Path:
        """An encoder pre-trained on everybody but the test persons."""
        out = self.out / f"encoder-{ratio}-{target}-{seed}{'-scans' * scans}"
        if not (out / "pretrained.json").is_file():
            data, more = self.pool() if scans else (self.data, [])
            split = listed(self.out / "splits" / f"bare{'-scans' * scans}.json", [*self.bare, *more], self.left)
            budget = Budget(steps=self.given.before, rate=5e-4, seed=seed)
            who = Who(data=data, split=split, modality="CT")
            made = api.pretraining(
                self.given.model, who, out, budget, mask_ratio=ratio, target=target, patch_voxels=VOXELS
            )
            timed(made, out)
        return out

    def tuned(self, name: str, start: Path, seed: int, *, taken: bool) -> Scores:
        """A specialist of few labels, tested; with the encoder of a folder, or only its plan."""
        out = self.out / f"{name.replace(' ', '-')}-{seed}"
        found = out / "tested.json"
        if not found.is_file():
            n = self.given.labelled
            few = [self.bare[(seed * n + i) % len(self.bare)] for i in range(n)]
            split = listed(self.out / "splits" / f"few-{n}-{seed}.json", few, self.left)
            if not taken and not (out / "plan.json").is_file():
                out.mkdir(parents=True, exist_ok=True)
                plan = pretrained.read(start).relabelled(ORGANS, ("CT",), "the data")
                (out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
            who = Who(data=self.data, targets=ORGANS, split=split)
            budget = Budget(steps=self.given.steps, size=self.given.batch, seed=seed, validate_every=10**9)
            made = api.specialist(self.given.model, who, out, budget, start=start if taken else None)
            assert bool(made.taken) == taken
            if not (out / "model.json").is_file():
                timed(made, out)
            scores = tested(assemble.segmenter(str(out.absolute())), self.test, text=True)
            found.write_text(json.dumps([[*key, value] for key, value in scores.items()]), encoding="utf-8")
        listed_ = json.loads(found.read_text(encoding="utf-8"))
        return {(subject, organ, seed): value for subject, organ, value in listed_}


def timed(made: Any, out: Path) -> None:
    """Train, and say how long it took."""
    begun = time.process_time()
    api.learn(made, out, command=("benchmarks",))
    print(f"{out.name}: {time.process_time() - begun:.0f} s of one core", flush=True)


def main() -> None:
    """Pre-train, fine-tune, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--ratios", default=RATIOS, help="of what is hidden")
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--before", type=int, default=400, help="steps of pre-training")
    parser.add_argument("--steps", type=int, default=200, help="steps on labels")
    parser.add_argument("--batch", type=int, default=1, help="patches a step on labels")
    parser.add_argument("--labelled", type=int, default=1, help="persons with labels")
    parser.add_argument("--scans", type=Path, help="folder of further scans to pre-train on")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so long")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    ratios, targets = [float(text) for text in given.ratios.split(",")], given.targets.split(",")
    until, runs = time.monotonic() + 60 * given.minutes, Runs(given)
    arms: dict[str, Scores] = {SCRATCH: {}}
    for seed in range(given.seeds):
        for ratio in ratios:
            for target in targets:
                if time.monotonic() >= until:
                    print("the time is over: repeat to go on")
                    return
                start, name = runs.encoder(ratio, target, seed), f"{ratio} {target}"
                arms.setdefault(name, {}).update(runs.tuned(name, start, seed, taken=True))
        if given.scans:
            name = f"{ratios[-1]} {targets[0]}, scans too"
            start = runs.encoder(ratios[-1], targets[0], seed, scans=True)
            arms.setdefault(name, {}).update(runs.tuned(name.replace(",", ""), start, seed, taken=True))
        start = runs.encoder(ratios[0], targets[0], seed)
        arms[SCRATCH].update(runs.tuned(SCRATCH, start, seed, taken=False))
    wrote(given.csv, against(arms, SCRATCH, "DSC"))


if __name__ == "__main__":
    main()
