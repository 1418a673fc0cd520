"""What needs no weights, on the targets of plans/floor.toml: mean DSC of each model with a tight box and five points.

    python benchmarks/floor.py ../shared/data [-m geodesic -m "random-walker(beta=90)"] [--seeds 3]

Prints DSC by target and model (mean over seeds), the first exploration's geodesic of floor.csv beside them, then the
means over targets and over subjects and the seconds a prompt takes. `segwise run floor` gives the same as a report;
this is the quick look while a method is made.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segwise import catalog
from segwise.case import Target
from segwise.datasets import case_json
from segwise.geometry import Array, Volume
from segwise.prompt import Box, Prompt
from segwise.prompters import box_points
from segwise.records import plan
from segwise.segmenter import Ask
from segwise.spec import parse, seed_of

MODELS = ("box-fill", "threshold", "posterior", "random-walker", "geodesic", "geodesic-bayes")


def items(root: Path) -> Iterator[tuple[str, str, Volume, Target]]:
    """Case, subject, volume and target, in the plan's order."""
    cases = {case.id: case for case in case_json.cases(root)}
    for choice in plan.read(catalog.plan_path("floor")).cases:
        case = cases[choice.case]
        volume = case.volume()
        for target in case.targets(choice.targets, volume.grid):
            yield case.id, case.subject, volume, target


def dice(reference: Array, prediction: Array) -> float:
    """DSC of two masks, not both empty."""
    return float(2 * (reference & prediction).sum() / (reference.sum() + prediction.sum()))


def loaded(text: str) -> Any:
    """A model by its spec."""
    module, arguments = catalog.load("models", parse(text))
    return module.load(**arguments)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds floor.csv")
    parser.add_argument("-m", dest="models", action="append", help="spec of a model, several times; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--box-alone", action="store_true", help="give the tight box without points")
    args = parser.parse_args()
    with (args.data / "floor.csv").open() as file:
        first = [float(row["geodesic"]) for row in csv.DictReader(file)]
    models = {text: loaded(text) for text in args.models or MODELS}
    scores: dict[str, list[float]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    subjects: list[str] = []
    states: dict[tuple[str, str], Any] = {}
    for (case, subject, volume, target), before in zip(items(args.data), first, strict=True):
        drawn = [box_points.first(target, seed_of(case, target.name, seed)) for seed in range(args.seeds)]
        prompts = [prompt for prompt in drawn if prompt is not None]
        if args.box_alone:
            prompts = [Prompt(tuple(m for m in prompts[0].marks if isinstance(m, Box)))]
        subjects.append(subject)
        for name, model in models.items():
            key = (model.encoder, volume.digest)
            if key not in states:
                states = {key: model.encode(volume, store=None)}
            found = []
            for prompt in prompts:
                start = time.perf_counter()
                (prediction,) = model.segment(states[key], [Ask(prompt)])
                seconds[name].append(time.perf_counter() - start)
                found.append(dice(target.mask, prediction.mask(volume.grid)))
            scores[name].append(float(np.mean(found)))
        row = "  ".join(f"{name} {values[-1]:.3f}" for name, values in scores.items())
        print(f"{case[:25]:25} {target.name[:22]:22} {row}  [{before:.3f}]", flush=True)
    print()
    for name, values in scores.items():
        by_subject = defaultdict(list)
        for subject, value in zip(subjects, values, strict=True):
            by_subject[subject].append(value)
        people = np.mean([np.mean(v) for v in by_subject.values()])
        print(
            f"{name:30} mean DSC {np.mean(values):.4f}, over subjects {people:.4f}; "
            f"{np.mean(seconds[name]):.2f} s a prompt, slowest {max(seconds[name]):.2f} s"
        )


if __name__ == "__main__":
    main()
