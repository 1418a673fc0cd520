"""What needs no weights, on the targets of floor.csv: mean DSC of each zero-weights model with tight box + five points.

    python benchmarks/floor.py ../shared/data [-m geodesic -m "random-walker(beta=90)"] [--seeds 3] [--hold-out]

Prompts follow `box-points(n=5)`: the tight 3D box, the deepest point and four random ones at least half as deep. Prints
DSC by target and model (mean over seeds), the means, and the first exploration's figures of floor.csv beside them.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from segwise.geometry import Array, Channel, Grid, Volume
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask
from segwise.spec import parse, seed_of

MODELS = ("box-fill", "threshold", "posterior", "random-walker", "geodesic")


class Item(NamedTuple):
    """A target of floor.csv."""

    case: str
    subject: str
    target: str
    volume: Volume
    mask: Array
    first: dict[str, float]  # the first exploration's DSC by method


def items(root: Path) -> Iterator[Item]:
    """The targets of floor.csv, case by case."""
    with (root / "floor.csv").open() as file:
        rows = list(csv.DictReader(file))
    for case, group in itertools.groupby(rows, key=lambda row: row["case"]):
        meta = json.loads((root / case / "case.json").read_text())
        image, labels = (nib.load(root / case / f"{name}.nii.gz") for name in ("image", "labels"))
        affine = image.affine @ np.eye(4)[[2, 1, 0, 3]]
        array = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)
        volume = Volume.of(array, Grid(array.shape, affine), (Channel(meta["modality"]),))
        values = np.asarray(labels.dataobj).transpose(2, 1, 0)
        for row in group:
            mask = np.isin(values, [int(v) for v in row["values"].split("+")])
            first = {k: float(v) for k, v in row.items() if k not in ("case", "target", "labels", "values")}
            yield Item(case, meta["subject"], row["target"], volume, mask, first)


def box_points(mask: Array, grid: Grid, rng: np.random.Generator, *, n: int = 5) -> Prompt:
    """The tight box, the deepest point and n - 1 random ones at least half as deep."""
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    cut = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 1)
    depth = ndimage.distance_transform_edt(cut, sampling=grid.spacing_mm)[1:-1, 1:-1, 1:-1]
    deep = np.argwhere(depth >= depth.max() / 2)
    drawn = deep[rng.choice(len(deep), n - 1, replace=len(deep) < n - 1)]
    points = np.vstack([np.unravel_index(depth.argmax(), depth.shape), drawn]) + low
    return Prompt((Box.of(grid, low, high), Points(grid.mm(points), np.ones(n, dtype=bool))))


def dice(reference: Array, prediction: Array) -> float:
    """DSC of two masks, not both empty."""
    return float(2 * (reference & prediction).sum() / (reference.sum() + prediction.sum()))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds floor.csv")
    parser.add_argument("-m", dest="models", action="append", help="spec of a model, several times; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    specs = [parse(text) for text in args.models or MODELS]
    models = {
        str(s): importlib.import_module(f"segwise.models.{s.name.replace('-', '_')}").load(**s.args) for s in specs
    }
    scores: dict[str, list[float]] = {name: [] for name in models}
    seconds = dict.fromkeys(models, 0.0)
    slowest = dict.fromkeys(models, 0.0)
    states: dict[tuple[str, str], object] = {}
    for item in items(args.data):
        prompts = [
            box_points(item.mask, item.volume.grid, np.random.default_rng(seed_of(item.case, item.target, seed)))
            for seed in range(args.seeds)
        ]
        for name, model in models.items():
            key = (model.encoder, item.volume.digest)
            if key not in states:
                states = {key: model.encode(item.volume, store=None)}
            found = []
            for prompt in prompts:
                start = time.perf_counter()
                (prediction,) = model.segment(states[key], [Ask(prompt)])
                spent = time.perf_counter() - start
                seconds[name], slowest[name] = seconds[name] + spent, max(slowest[name], spent)
                found.append(dice(item.mask, prediction.mask(item.volume.grid)))
            scores[name].append(float(np.mean(found)))
        row = "  ".join(f"{name} {values[-1]:.3f}" for name, values in scores.items())
        print(f"{item.case[:24]:24} {item.target[:20]:20} {row}  [{item.first['geodesic']:.3f}]", flush=True)
    print()
    for name, values in scores.items():
        print(
            f"{name:40} mean DSC {np.mean(values):.4f}   {seconds[name] / len(values) / args.seeds:.2f} s a prompt, "
            f"slowest {slowest[name]:.2f} s"
        )


if __name__ == "__main__":
    main()
