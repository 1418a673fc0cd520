"""A study that left every subject out once, told by subject, beside what sees no image and what sees brightness only.

    segwise run leave_one_out --data DATA -o RUN
    python benchmarks/left_out.py RUN DATA [--layout LAYOUT] [--modality MR]

Prints the mean DSC over the targets of each subject: of every arm of the run, of the position prior (mean of the other
subjects' masks, cut where that is best on them) and of the best band of intensity (chosen on the other subjects).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import fmean

from baselines import Baselines, dice

from segwise.evaluate import inventory
from segwise.records.run import Run
from segwise.report.gather import gather
from segwise.report.labels import by_person
from segwise.training import splits

Values = dict[str, float]


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--layout")
    parser.add_argument("--modality", default="")
    args = parser.parse_args()
    run = Run.read(args.run)
    arms = gather(list(run.records()), list(run.scores())).arms
    found = {
        re.sub(r" \[[^\]]*\]", "", arm.label): {p.rpartition("\x1f")[2]: v for p, v in by_person([arm]).items()}
        for arm in arms
    }
    targets = sorted({outcome.last.target for arm in arms for outcome in arm.outcomes if outcome.last.target})
    baselines = left_out(inventory.find(args.data, args.layout)[1], targets, args.modality)
    people = sorted(set().union(*found.values()))
    print(f"{'':64}{''.join(f'{p[-12:]:>14}' for p in people)}{'mean':>9}  above prior, band")
    for label, values in [*baselines.items(), *sorted(found.items(), key=lambda one: -fmean(one[1].values()))]:
        cells = "".join(f"{values[p]:14.3f}" if p in values else f"{'–':>14}" for p in people)
        above = [sum(values[p] > other[p] for p in values if p in other) for other in baselines.values()]
        told = "" if label in baselines else f"  {above[0]} and {above[1]} of {len(values)}"
        print(f"{label[:63]:64}{cells}{fmean(values.values()):9.3f}{told}")


def left_out(cases: list, targets: list[str], modality: str) -> dict[str, Values]:
    """The two baselines of every subject, learned from the others."""
    fit = splits.usable(cases, targets=targets, modality=modality)
    prior: Values = {}
    band: Values = {}
    for person in splits.subjects(fit):
        base = Baselines([case for case in fit if case.subject != person], targets)
        scores: list[tuple[float, float]] = []
        for case in (case for case in fit if case.subject == person):
            volume = case.volume()
            here = [name for name in targets if case.structure(name) is not None]
            for target in case.targets(here, volume.grid):
                if target.mask.any():
                    said = base.prior(target.name, volume), base.threshold(target.name, volume)
                    scores.append((dice(target.mask, said[0]), dice(target.mask, said[1])))
        prior[person], band[person] = (fmean(column) for column in zip(*scores, strict=True))
    return {"position prior of the others": prior, "best intensities of the others": band}


if __name__ == "__main__":
    main()
