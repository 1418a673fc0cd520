"""Surface distances of one pair: ours against MONAI's, in turn in one process; prints the ratio with its spread.

python benchmarks/surface.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from segwise import assemble
from segwise.geometry import Grid
from segwise.pair import Pair
from segwise.synth.shapes import Space, blob

SPACING_MM = (3.0, 0.8, 0.8)
SHAPE = (60, 256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    reference, prediction, grid = masks()
    ways = {"segwise": ours(reference, prediction, grid), "MONAI": theirs(reference, prediction)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm-up
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ratios = sorted(a / b for a, b in zip(seconds["segwise"], seconds["MONAI"], strict=True))
    print(f"NSD, HD95 and ASSD of a {'x'.join(map(str, SHAPE))} pair, {reference.sum():,} voxels, {runs} runs in turn")
    for name, values in seconds.items():
        print(f"  {name:8s} median {statistics.median(values):.3f} s")
    print(f"  segwise / MONAI: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


def masks() -> tuple[np.ndarray, np.ndarray, Grid]:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *SPACING_MM, 1
    grid = Grid(SHAPE, affine)
    middle = grid.centre_mm
    spaces = [Space.of(grid, np.random.default_rng(seed), warp_mm=4, scale_mm=30) for seed in (1, 2)]
    one, other = (blob(space, middle, (45, 60, 55)) < 0 for space in spaces)
    return one, other, grid


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
