"""The default model on real scans that it was never trained or tuned on: protocols A and B, the click, the file.

    python benchmarks/default_model.py ../shared/data [-m default -m geodesic -m random-walker] [--only A|B|click]

A: every structure of at least 2 mL and 100 voxels of five images; a box with each face moved by -2.4 to +6 % of the
box's side (seed 0), then one click a round at the centre (greatest distance to its border) of the largest error
component. B: the 32 targets of floor.csv with a tight box and five points, three draws, beside the peers in the same
run. Prints means over objects and by subject, and how many objects stay below .1 after three clicks. Models that take
no clicks are shown with the box alone. The click is timed with one thread, bf16 and fp32 in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import floor
import numpy as np
import torch

from segwise import assemble
from segwise.case import Target
from segwise.datasets import case_json
from segwise.geometry import Array, Grid, Volume, bounds
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask
from segwise.spec import seed_of
from segwise.store import FeatureStore

IMAGES = ("ct_abdomen_ts", "ct_trunk_vertebrae_ts", "ct_thorax_aorta_ts", "ct_heart_pulmonary_ts", "mr_abdomen_ts")
PEERS = ("default", "geodesic-bayes", "geodesic", "random-walker", "threshold")
CLICKS = 5
FILLED = 0.2  # of its box, by an object that counts as filling it


def objects(root: Path) -> Iterator[tuple[str, Volume, list[Target]]]:
    """Subject, volume and the structures large enough, by image."""
    cases = {case.id: case for case in case_json.cases(root)}
    for name in IMAGES:
        case = cases[name]
        volume = case.volume()
        ml = abs(np.linalg.det(volume.grid.affine[:3, :3])) / 1000
        names = tuple(s.name for s in case.structures)
        kept = [t for t in case.targets(names, volume.grid) if t.mask.sum() >= 100 and t.mask.sum() * ml >= 2]
        yield case.subject, volume, kept


def jittered(mask: Array, grid: Grid, rng: np.random.Generator) -> Box:
    """The tight box with every face moved by -2.4 to +6 % of its side."""
    low, high = (np.array(corner, dtype=float) for corner in bounds(mask) or ())
    side = high - low
    move = rng.uniform(-0.024, 0.06, (2, 3)) * side
    first, last = low - move[0], high + move[1]
    return Box(grid.mm(first - 0.5)[0], grid.affine[:3, :3].T * (last - first)[:, None])


def rounds(model: Any, takes: tuple[str, ...], state: Any, volume: Volume, target: Target, box: Box) -> list[float]:
    """DSC after the box and after each click."""
    user = assemble.prompter(f"cvpr2025(n={CLICKS})")
    prompt, previous, scores = Prompt((box,)), None, []
    for _ in range(CLICKS + 1):
        previous = model.segment(state, [Ask(prompt, previous, 0)])[0]
        mask = previous.mask(volume.grid)
        scores.append(floor.dice(target.mask, mask))
        more = user.next(target, prompt, mask, 0) if "points" in takes else None
        if more is None:
            break
        prompt = more
    return scores + [scores[-1]] * (CLICKS + 1 - len(scores))


def protocol_a(root: Path, specs: list[str], *, verbose: bool) -> None:
    """Print protocol A."""
    rows: dict[str, list[tuple[str, bool, list[float]]]] = defaultdict(list)
    models = {spec: assemble.build(spec) for spec in specs}
    rng = np.random.default_rng(0)
    for subject, volume, targets in objects(root):
        states = {spec: built.segmenter.encode(volume, store=FeatureStore()) for spec, built in models.items()}
        for target in targets:
            low, high = bounds(target.mask) or ((), ())
            filled = bool(target.mask.sum() >= FILLED * np.prod(np.subtract(high, low)))
            box = jittered(target.mask, volume.grid, rng)
            for spec, built in models.items():
                found = rounds(built.segmenter, built.info.card.takes, states[spec], volume, target, box)
                rows[spec].append((subject, filled, found))
                if verbose:
                    print(f"  {spec} {target.name}: {' '.join(f'{s:.2f}' for s in found)}", file=sys.stderr)
    print(f"\nA: {len(next(iter(rows.values())))} objects of {len(IMAGES)} images")
    print(f"{'model':40} {'filled: box / +3 / +5':>24} {'all: box / +3 / +5':>24} {'< .1 after 3':>14}")
    for spec, found in rows.items():
        scores = np.array([s for _, _, s in found])
        filled = np.array([f for _, f, _ in found])
        shown = [
            " / ".join(f"{v:.3f}" for v in scores[pick][:, [0, 3, 5]].mean(axis=0)) for pick in (filled, filled | True)
        ]
        print(f"{spec:40} {shown[0]:>24} {shown[1]:>24} {(scores[:, 3] < 0.1).sum():>14}")
    for spec, found in rows.items():
        by_subject(spec, [(s, v[0]) for s, _, v in found], "A, box")
        by_subject(spec, [(s, v[5]) for s, _, v in found], "A, box and 5 clicks")


def by_subject(spec: str, values: list[tuple[str, float]], what: str) -> None:
    """Print a mean by subject; an interval (bootstrap, 95 %) from six subjects on."""
    found: dict[str, list[float]] = defaultdict(list)
    for subject, value in values:
        found[subject].append(value)
    means = {subject: statistics.mean(v) for subject, v in found.items()}
    text = ", ".join(f"{subject} {value:.3f}" for subject, value in means.items())
    if len(means) >= 6:
        drawn = np.random.default_rng(0).choice(list(means.values()), (2000, len(means))).mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        text += f"; mean {statistics.mean(means.values()):.3f} ({low:.3f} to {high:.3f})"
    print(f"{spec}: {what}, by subject: {text}")


def protocol_b(root: Path, specs: list[str], *, seeds: int = 3) -> None:
    """Print protocol B."""
    models = {spec: assemble.build(spec).segmenter for spec in specs}
    user = assemble.prompter("box-points(n=5)")
    found: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    names = []
    for case, subject, volume, target in floor.items(root):
        names.append(f"{case} {target.name}")
        for spec, model in models.items():
            state = model.encode(volume, store=FeatureStore())
            scores = []
            for seed in range(seeds):
                prompt = user.first(target, seed_of(case, target.name, seed))
                mask = model.segment(state, [Ask(prompt, None, 0)])[0].mask(volume.grid)
                scores.append(floor.dice(target.mask, mask))
            found[spec].append((subject, target.name, statistics.mean(scores)))
    print(f"\nB: {len(names)} targets, tight box and five points, {seeds} draws")
    for i, name in enumerate(names):
        print(f"  {name:52} " + "  ".join(f"{spec} {rows[i][2]:.3f}" for spec, rows in found.items()))
    for spec, rows in found.items():
        tumors = [v for _, name, v in rows if "tumor" in name]
        every = statistics.mean(v for *_, v in rows)
        print(f"{spec:40} all {every:.3f}   {len(tumors)} tumours {statistics.mean(tumors):.3f}")
    for spec, rows in found.items():
        by_subject(spec, [(subject, v) for subject, _, v in rows], "B")


def click(root: Path, checkpoint: str) -> None:
    """Print what a click takes on a small and on a large scan, one thread, bf16 and fp32 in turn."""
    torch.set_num_threads(1)
    case = {case.id: case for case in case_json.cases(root)}["ct_abdomen_ts"]
    small = case.volume()
    large = small.on(small.grid.resized([3 * n for n in small.grid.shape]))
    target = next(t for t in case.targets(("liver",), small.grid))
    for title, volume in (("as it is", small), ("27 times the voxels", large)):
        box = Box.of(small.grid, *bounds(target.mask))
        times: dict[str, list[float]] = {"bf16": [], "fp32": []}
        for precision, taken in times.items():
            model = assemble.segmenter(f"default(precision={precision}{checkpoint})")
            state = model.encode(volume, store=FeatureStore())
            for _ in range(12):
                first = model.segment(state, [Ask(Prompt((box,)), None, 0)])[0]
                more = first.prompt.also(Points(small.grid.mm(np.argwhere(target.mask)[7]), [True]))
                start = time.process_time()
                model.segment(state, [Ask(more, first, 0)])
                taken.append(1000 * (time.process_time() - start))
        shown = ", ".join(f"{p} {statistics.median(v):.0f} ms ({min(v):.0f} to {max(v):.0f})" for p, v in times.items())
        print(f"click, liver, {'x'.join(map(str, volume.grid.shape))} ({title}): {shown}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds floor.csv")
    parser.add_argument("-m", dest="models", action="append", help="spec of a model, several times")
    parser.add_argument("--only", choices=("A", "B", "click"))
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    specs = args.models or list(PEERS)
    if args.only in (None, "A"):
        protocol_a(args.data, specs, verbose=args.verbose)
    if args.only in (None, "B"):
        protocol_b(args.data, specs)
    if args.only in (None, "click"):
        own = next((spec for spec in specs if spec.startswith("default")), "default")
        click(args.data, "".join(f", {part}" for part in own.removeprefix("default").strip("()").split(",") if part))


if __name__ == "__main__":
    main()
