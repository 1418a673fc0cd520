"""Surface distances of one pair: ours against another way, in turn in one process; prints the ratio with its spread.

python benchmarks/surface.py [--runs 7]      # against MONAI, two alike masks of thin slices
python benchmarks/surface.py --peer tree     # against searching a tree of elements, surfaces that lie far apart
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from segwise import assemble, pair
from segwise.geometry import Grid
from segwise.pair import Pair
from segwise.synth.shapes import Space, blob

SPACING_MM = (3.0, 0.8, 0.8)
SHAPE = (60, 256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peer", choices=("MONAI", "tree"), default="MONAI")
    given = parser.parse_args()
    runs, peer = given.runs, given.peer
    reference, prediction, grid = masks() if peer == "MONAI" else apart()
    other = theirs(reference, prediction) if peer == "MONAI" else by_tree(reference, prediction, grid)
    ways = {"segwise": ours(reference, prediction, grid), peer: other}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm-up
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ratios = sorted(a / b for a, b in zip(seconds["segwise"], seconds[peer], strict=True))
    shape = "x".join(map(str, grid.shape))
    print(f"NSD, HD95 and ASSD of a {shape} pair, {reference.sum():,} voxels, {runs} runs in turn")
    for name, values in seconds.items():
        print(f"  {name:8s} median {statistics.median(values):.3f} s")
    print(f"  segwise / {peer}: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


def masks() -> tuple[np.ndarray, np.ndarray, Grid]:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *SPACING_MM, 1
    grid = Grid(SHAPE, affine)
    middle = grid.centre_mm
    spaces = [Space.of(grid, np.random.default_rng(seed), warp_mm=4, scale_mm=30) for seed in (1, 2)]
    one, other = (blob(space, middle, (45, 60, 55)) < 0 for space in spaces)
    return one, other, grid


def apart() -> tuple[np.ndarray, np.ndarray, Grid]:
    """A warped shell, and the box around it filled."""
    grid = Grid((160, 160, 160), np.diag([1.0, 1.0, 1.0, 1.0]))
    field = blob(Space.of(grid, np.random.default_rng(1), warp_mm=8, scale_mm=12), grid.centre_mm, (60, 55, 65))
    reference = (field < 0) & (field > -6)
    low, high = (f(np.argwhere(reference), axis=0) for f in (np.min, np.max))
    box = np.zeros(grid.shape, dtype=bool)
    box[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    return reference, box, grid


def by_tree(reference: np.ndarray, prediction: np.ndarray, grid: Grid) -> Callable[[], object]:
    """Ours, kept from the distance transform."""
    own = ours(reference, prediction, grid)

    def score() -> object:
        before, pair.FEW = pair.FEW, 10**12
        try:
            return own()
        finally:
            pair.FEW = before

    return score


def ours(reference: np.ndarray, prediction: np.ndarray, grid: Grid) -> Callable[[], object]:
    metric = assemble.metric("surface")
    return lambda: metric.score(Pair(reference, prediction, grid, None))


def theirs(reference: np.ndarray, prediction: np.ndarray) -> Callable[[], object]:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    a, b = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
    shared = {"include_background": True, "spacing": SPACING_MM}

    def score() -> tuple[object, object, object]:
        return (
            compute_surface_dice(a, b, [2.0], use_subvoxels=True, **shared),
            compute_hausdorff_distance(a, b, percentile=95, **shared),
            compute_average_surface_distance(a, b, symmetric=True, **shared),
        )

    return score


if __name__ == "__main__":
    main()
