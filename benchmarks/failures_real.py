"""How well signatures and agreement tell real failures without a reference: AUC and AURC of a run.

    segwise run failures --data ../shared/data -o runs/failures
    python benchmarks/failures_real.py runs/failures

A failure has DSC below 0.5, a good answer above 0.8; what lies between is left out of the AUC and kept in the AURC.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from failures import auc
from failures_masks import in_calibration

from segwise.records.run import Run
from segwise.report.quality import aurc

BAD, GOOD = 0.5, 0.8
LOWER = ("agreement_seeds", "agreement_models", "the model's own estimate")  # the lower, the worse
SIGNATURES = ("leak", "discontinuity", "hallucination", "overrun", "decay", "worst")
Row = dict[str, float]


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    by_arm = rows(Run.read(args.run))
    every = [row for own in by_arm.values() for row in own]
    groups = {**by_arm, "all": every, "all, names not calibrated on": [r for r in every if not r["calibrated"]]}
    names = [f"blind_{name}" for name in SIGNATURES] + list(LOWER)
    for title, own in groups.items():
        bad, good = [r for r in own if r["DSC"] < BAD], [r for r in own if r["DSC"] > GOOD]
        print(f"\n{title}: {len(own)} results, {len(bad)} below {BAD}, {len(good)} above {GOOD}")
        if not bad or not good:
            continue
        for name in names:
            worse = _worse(name)
            known = [[worse(r) for r in part if name in r] for part in (good, bad)]
            graded = [(-worse(r), 1 - r["DSC"]) for r in own if name in r]
            if not known[0] or not known[1]:
                continue
            trust, risk = [g[0] for g in graded], [g[1] for g in graded]
            told = (
                f"AURC {aurc(trust, risk):.3f} (perfect {aurc([-r for r in risk], risk):.3f}, none {np.mean(risk):.3f})"
            )
            flagged = " ".join(f"{np.mean(np.array(k) > 1):.2f}" for k in known) if name not in LOWER else ""
            print(f"  {name:26} AUC {auc(np.array(known[0]), np.array(known[1])):.3f}  {told}  flagged {flagged}")


def rows(run: Run) -> dict[str, list[Row]]:
    """Measures of every finished result by model and prompter; unions of two sides are left out."""
    values: dict[tuple[str, str, int], dict[str, tuple[float, str]]] = defaultdict(dict)
    for score in run.scores():
        if score.value is not None:
            values[score.task, score.target, score.round][score.measure] = score.value, score.mask
    found: dict[str, list[Row]] = defaultdict(list)
    for record in run.records():
        if record.status != "done" or "union" in record.provenance:
            continue
        row = {name: v for name, (v, mask) in values[record.key].items() if mask == record.mask}
        if "DSC" not in row:
            continue
        if record.quality is not None:
            row[LOWER[2]] = record.quality
        row["calibrated"] = float(in_calibration(record.target))
        found[f"{record.model} {record.prompter}"].append(row)
    return dict(found)


def _worse(name: str) -> Callable[[Row], float]:
    return (lambda row: -row[name]) if name in LOWER else (lambda row: row[name])


if __name__ == "__main__":
    main()
