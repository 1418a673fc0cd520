"""What the cases are like, and the plan for a specialist that follows: spacing, patch, normalisation, labels.

Source: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486), its online methods and the plans that its code
writes. Differs: of a case at most 10,000 foreground voxels are looked at, none twice; the patch grows from small under
a budget of voxels instead of shrinking until a GPU holds it, and one number divides all its sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwise.case import Case
from segwise.errors import SegwiseError, TrainingError
from segwise.geometry import Array, Grid, Volume, bounds

VOXELS = 10_000  # of a case's foreground that are looked at
AIR_HU = -500.0  # below it CT shows air; where nothing is labelled the rest is looked at
ANISOTROPIC = 3.0  # how much coarser than the others an axis is before it has a rule of its own
LEAST = 32  # voxels of a patch along an axis where the volume allows it
MOST = 2**31  # voxels of the median case at the spacing of a plan
MASKED = 0.75  # where less than that is left when what is 0 is cut away, only what is not 0 is normalised
_AXES = ("SI", "AP", "RL")  # slices, rows, columns


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one case is like; axes in the order slices, rows, columns.

    Attributes:
        id: of the case.
        shape: of the box around what is not 0.
        spacing_mm: of its voxels.
        channels: modality of each.
        kept: share of all voxels that lie in that box.
        voxels: name -> voxels of its reference, for the names that the case has one for.
    """

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    channels: tuple[str, ...]
    kept: float
    voxels: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a plan is made from.

    Attributes:
        cases: in the order they came.
        intensity: of each channel, over the foreground of all cases: mean, median, std, min, max, percentile_00_5 and
            percentile_99_5.
    """

    cases: tuple[Seen, ...]
    intensity: tuple[Mapping[str, float], ...]


def fingerprint(
    cases: Sequence[Case],
    names: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    *,
    seed: int = 0,
) -> Fingerprint:
    """What the cases are like; one is in memory at a time.

    Args:
        cases: with references.
        names: of the structures to learn; a case may lack some.
        progress: called with (cases done, of how many) after each.
        seed: of the voxels that are looked at.

    Raises:
        TrainingError: no cases or names, a case that cannot be read, a name that no case has a voxel of, or channels
            that differ between cases.
    """
    if not cases:
        raise TrainingError("no cases came, expected at least one with a reference; give a data set with labels")
    if not names or len(set(names)) < len(names):
        raise TrainingError(f"structures to learn: {', '.join(names) or 'none'}; expected one or more, each once")
    found = _gathered(cases, names, progress, seed)
    lacking = [name for name in names if not any(case.voxels.get(name) for case in found.cases)]
    if lacking:
        there = sorted({s.name for case in cases for s in (*case.structures, *case.derived)})
        raise TrainingError(
            f"none of the {len(cases)} training cases has a voxel of {', '.join(lacking)}; they name "
            f"{', '.join(there) or 'nothing'}: leave it out with --target, or give or train on cases that have it"
        )
    return found


def unlabelled(
    cases: Sequence[Case], progress: Callable[[int, int], None] | None = None, *, seed: int = 0
) -> Fingerprint:
    """What cases are like of which no reference is used: intensities are those of what is not air.

    Args:
        cases, progress, seed: as `fingerprint`. Of CT what is above AIR_HU is looked at, of others what is not 0 and
            brighter than the mean of that; everything where nothing is.

    Raises:
        TrainingError: no cases, one that cannot be read, or channels that differ between cases.
    """
    if not cases:
        raise TrainingError("no cases came, expected at least one; give a folder of scans")
    return _gathered(cases, (), progress, seed)


def plan(
    found: Fingerprint,
    *,
    names: Sequence[str],
    patch_voxels: int = 64**3,
    spacing_mm: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    multiple: int = 16,
) -> dict[str, Any]:
    """The "plans" and the "dataset" of a plan.json, with the one configuration 3d_fullres.

    Args:
        found: of the cases.
        names: background is 0, these are 1, 2, … in this order.
        patch_voxels: how many voxels a patch has at most.
        spacing_mm: (d, h, w), slices first; None for nnU-Net's choice.
        patch: (d, h, w), slices first; None for the shape of the median case, as large as the budget allows.
        multiple: what its sides must be divisible by (`multiple` of the net).

    Raises:
        TrainingError: a spacing or patch that cannot be, or a budget below the smallest patch.
    """
    shapes = np.array([case.shape for case in found.cases], dtype=float)
    spacings = np.array([case.spacing_mm for case in found.cases])
    spacing = _spacing(shapes, spacings) if spacing_mm is None else _given_spacing(spacing_mm)
    median = np.median(np.rint(shapes * spacings / spacing), axis=0)
    if (spacing_mm is not None and median.min() < 1) or median.prod() > MOST:
        raise TrainingError(
            f"at a spacing of {', '.join(f'{s:g}' for s in spacing)} mm (d, h, w) the median case has "
            f"{_sides([int(n) for n in median])} voxels, expected one or more on every axis and {MOST:,} at most: give "
            "another --spacing"
        )
    sides = _patch(median, patch_voxels, multiple) if patch is None else _given_patch(patch, multiple)
    order = _order(spacing)
    channels = found.cases[0].channels
    kept = float(np.median([case.kept for case in found.cases]))
    configuration = {
        "patch_size": [sides[i] for i in order],
        "median_image_size_in_voxels": [float(median[i]) for i in order],
        "spacing": [float(spacing[i]) for i in order],
        "normalization_schemes": ["CTNormalization" if c == "CT" else "ZScoreNormalization" for c in channels],
        "use_mask_for_norm": [c != "CT" and kept < MASKED for c in channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    plans = {
        "plans_name": "segwise",
        "transpose_forward": order,
        "transpose_backward": [order.index(i) for i in range(3)],
        "configurations": {"3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {str(i): dict(s) for i, s in enumerate(found.intensity)},
    }
    dataset = {
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": _labels(names),
        "numTraining": len(found.cases),
        "file_ending": ".nii.gz",
    }
    return {"plans": plans, "dataset": dataset}


def _labels(names: Sequence[str]) -> dict[str, int]:
    return {"background": 0, **{name: i for i, name in enumerate(names, start=1)}}


def same(path: Path, names: Sequence[str], *, patch: Sequence[int] | None, spacing_mm: Sequence[float] | None) -> None:
    """Nothing, if a training that has begun is of these structures, and of the patch and spacing asked for, if any.

    Args:
        path: its plan.json.
        names: of the structures.
        patch, spacing_mm: (d, h, w) as the user gives them, or None.

    Raises:
        TrainingError: it is damaged, or of other structures, another patch or another spacing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        plans, labels = content["plans"], dict(content["dataset"]["labels"])
        said, back = plans["configurations"]["3d_fullres"], plans["transpose_backward"]
        there = {"patch": [said["patch_size"][i] for i in back], "spacing": [said["spacing"][i] for i in back]}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TrainingError(
            f"{path} is damaged ({type(error).__name__}: {error}); put it back as it was, or give another folder"
        ) from error
    if labels != _labels(names):
        raise TrainingError(
            f"{path.parent} holds a training on {', '.join(map(str, list(labels)[1:]))} ({path.name} there), asked is "
            f"{', '.join(names)}: give another folder, or the same structures in the same order"
        )
    for what, asked in (("patch", patch), ("spacing", spacing_mm)):
        if asked is not None and list(asked) != there[what]:
            raise TrainingError(
                f"{path.parent} holds a training with a {what} of {there[what]} (d, h, w), asked is {list(asked)}: "
                f"leave --{what} out, or give another folder"
            )


def channels(case: Case) -> tuple[str, ...]:
    """The modality of each channel of a case; reads it.

    Raises:
        TrainingError: it cannot be read.
    """
    return _channels(case, _opened(case, ())[0])


def _gathered(
    cases: Sequence[Case], names: Sequence[str], progress: Callable[[int, int], None] | None, seed: int
) -> Fingerprint:
    seen: list[Seen] = []
    samples: list[Array] = []
    for i, case in enumerate(cases):
        found, values = _looked_at(case, names, np.random.default_rng([seed, i]))
        if seen and found.channels != seen[0].channels:
            raise TrainingError(
                f"case {found.id} has the channels {_listed(found.channels)}, case {seen[0].id} has "
                f"{_listed(seen[0].channels)}; expected the same in all: say which with --modality"
            )
        seen.append(found)
        samples.append(values)
        if progress is not None:
            progress(i + 1, len(cases))
    values = np.concatenate(samples, axis=1)
    return Fingerprint(cases=tuple(seen), intensity=tuple(_statistics(v) if len(v) else {} for v in values))


def _looked_at(case: Case, names: Sequence[str], rng: np.random.Generator) -> tuple[Seen, Array]:
    """What a case is like, and its channels at some voxels of its foreground: float64 [C, N]."""
    here = tuple(name for name in names if case.structure(name) is not None)
    volume, masks = _opened(case, here)
    array = np.nan_to_num(volume.array, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = bounds((array != 0).any(axis=0)) or ((0, 0, 0), volume.grid.shape)
    box = _standing(volume.grid.crop(low, high))
    seen = Seen(
        id=case.id,
        shape=box.shape,
        spacing_mm=box.spacing_mm,
        channels=_channels(case, volume),
        kept=math.prod(box.shape) / math.prod(volume.grid.shape),
        voxels={name: int(mask.sum()) for name, mask in zip(here, masks, strict=True)},
    )
    places = np.flatnonzero(np.any(masks, axis=0) if masks else np.zeros(volume.grid.shape, dtype=bool))
    if not names:
        places = np.flatnonzero(np.any([_body(a, c) for a, c in zip(array, seen.channels, strict=True)], axis=0))
    if len(places) > VOXELS:
        places = rng.choice(places, VOXELS, replace=False)
    return seen, array.reshape(len(array), -1)[:, places].astype(np.float64)


def _opened(case: Case, names: tuple[str, ...]) -> tuple[Volume, list[Array]]:
    """A case's volume, and bool [D, H, W] for each of some structures that it has.

    Raises:
        TrainingError: one of its files cannot be read.
    """
    try:
        volume = case.volume()
        return volume, [target.mask for target in case.targets(names, volume.grid)] if names else []
    except SegwiseError as error:
        raise TrainingError(f"case {case.id} cannot be read: {error}") from error


def _body(values: Array, channel: str) -> Array:
    """bool [D, H, W]: what is not air or background; everything where that is nothing."""
    if channel == "CT":
        found = values > AIR_HU
    else:
        there = values != 0
        found = there & (values > (values[there].mean() if there.any() else 0))
    return found if found.any() else np.ones_like(found)


def _standing(grid: Grid) -> Grid:
    """The same grid with its axes ordered to slices, rows, columns, as the preprocessing has them."""
    return grid.toward("".join(next(letter for letter in grid.axes if letter in pair) for pair in _AXES))


def _channels(case: Case, volume: Volume) -> tuple[str, ...]:
    return tuple(channel.modality or case.modality for channel in volume.channels)


def _statistics(values: Array) -> dict[str, float]:
    low, high = np.percentile(values, (0.5, 99.5))
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }


def _spacing(shapes: Array, spacings: Array) -> Array:
    """float64 [3] mm: the median, but of an axis far coarser than the others and with fewer voxels the finest tenth."""
    found = np.median(spacings, axis=0)
    sizes = np.median(shapes, axis=0)
    worst = int(np.argmax(found))
    others = [i for i in range(3) if i != worst]
    coarse = found[worst] > ANISOTROPIC * found[others].max()
    if coarse and sizes[worst] * ANISOTROPIC < sizes[others].min():
        finest = float(np.percentile(spacings[:, worst], 10))
        found[worst] = max(finest, float(found[others].max()) + 1e-5)
    return np.asarray(found)


def _order(spacing: Array) -> list[int]:
    """The coarsest axis first, the others as they stand."""
    first = int(np.argmax(spacing))
    return [first, *(i for i in range(3) if i != first)]


def _patch(median: Array, budget: int, multiple: int) -> tuple[int, ...]:
    """Sides like the median volume's: from the least ones, the axis that lacks most of the volume grows first."""
    covers = [_up(n, multiple) for n in median]
    sides = [min(cover, _up(LEAST, multiple)) for cover in covers]
    if math.prod(sides) > budget:
        sides = [multiple] * 3
    if all(side == multiple for side in sides):  # a net needs one side of twice its divisor
        sides[int(np.argmax(median))] = 2 * multiple
    if math.prod(sides) > budget:
        raise TrainingError(
            f"patch_voxels is {budget:,}, expected at least {math.prod(sides):,}: the smallest patch whose sides "
            f"{multiple} divides is {_sides(sides)}"
        )
    while True:
        grown = [math.prod(sides) // side * (side + multiple) for side in sides]
        able = [i for i in range(3) if sides[i] < covers[i] and grown[i] <= budget]
        if not able:
            return tuple(sides)
        sides[max(able, key=lambda i: median[i] / sides[i])] += multiple


def _given_patch(patch: Sequence[int], multiple: int) -> tuple[int, ...]:
    if len(patch) != 3 or any(n < multiple or n % multiple for n in patch):
        raise TrainingError(f"patch is {_sides(patch)}, expected three sides divisible by {multiple}")
    return tuple(patch)


def _given_spacing(spacing_mm: Sequence[float]) -> Array:
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise TrainingError(f"spacing_mm is {tuple(spacing_mm)}, expected three numbers above 0 (d, h, w)")
    return np.array(spacing_mm, dtype=np.float64)


def _up(n: float, multiple: int) -> int:
    return max(1, math.ceil(n / multiple)) * multiple


def _sides(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))


def _listed(channels: Sequence[str]) -> str:
    return ", ".join(channel or "?" for channel in channels)
