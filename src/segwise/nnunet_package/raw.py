"""Labelled cases of any layout as nnU-Net's raw data set, with its split by subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from segwise.case import Case
from segwise.errors import SegwiseError, TrainingError
from segwise.geometry import Array, Grid, Volume
from segwise.models._planned import ordered
from segwise.training.prepared import labelled

ENDING = ".nii.gz"
STRAIGHT = 1e-4  # skew up to which SimpleITK reads a NIfTI file
Tick = Callable[[int, int, str], None]


def write(
    folder: Path,
    train: Sequence[Case],
    valid: Sequence[Case],
    names: Sequence[str],
    *,
    tick: Tick | None = None,
) -> list[dict[str, list[str]]]:
    """A data set folder: imagesTr, labelsTr, dataset.json. Axes lie in slices, rows, columns, as the model has them.

    Args:
        folder: of the data set, made if need be.
        train, valid: cases of subjects that share nobody.
        names: structures; the label of each is its place, from 1 on; of several on a voxel the last one.
        tick: told (cases done, all, id).

    Returns:
        What splits_final.json is to hold: one fold. Without validation cases the training ones stand there too.

    Raises:
        TrainingError: a case cannot be read or has another number of channels, or a structure is in no training case.
    """
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    everything = [*train, *valid]
    kinds: list[str] = []
    seen = np.zeros(len(names), dtype=bool)
    called = [f"{i:04d}_{_plain(case.id)}" for i, case in enumerate(everything)]
    for i, (case, name) in enumerate(zip(everything, called, strict=True)):
        if tick is not None:
            tick(i, len(everything), case.id)
        volume, labels, own = _read(case, names)
        kinds = kinds or own
        if len(own) != len(kinds):
            raise TrainingError(
                f"case {case.id} has {len(own)} channels and {everything[0].id} has {len(kinds)}; expected the same "
                "number in all cases"
            )
        if i < len(train):
            seen |= np.isin(np.arange(1, len(names) + 1), labels)
        for c, channel in enumerate(volume.array):
            _save(folder / "imagesTr" / f"{name}_{c:04d}{ENDING}", channel, volume.grid)
        _save(folder / "labelsTr" / f"{name}{ENDING}", labels, volume.grid)
    if absent := [name for name, there in zip(names, seen, strict=True) if not there]:
        raise TrainingError(
            f"{', '.join(absent)} is in none of the {len(train)} training cases; expected every structure in one at "
            "least: leave it out with --target, or choose another split"
        )
    said: dict[str, Any] = {
        "channel_names": {str(c): kind for c, kind in enumerate(kinds)},
        "labels": {"background": 0, **{name: i + 1 for i, name in enumerate(names)}},
        "numTraining": len(everything),
        "file_ending": ENDING,
    }
    (folder / "dataset.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    learned, checked = called[: len(train)], called[len(train) :]
    return [{"train": learned, "val": checked or learned}]


def _read(case: Case, names: Sequence[str]) -> tuple[Volume, Array, list[str]]:
    """The volume with finite values, labels on its grid, and what nnU-Net is to call its channels."""
    try:
        volume = case.volume()
        asked = [name for name in names if case.structure(name) is not None]
        masks = [target.mask for target in case.targets(tuple(asked), volume.grid)] if asked else []
    except SegwiseError as error:
        raise TrainingError(f"case {case.id} cannot be read: {error}") from error
    values = [list(names).index(name) + 1 for name in asked]
    source, grid = volume.grid, volume.grid.toward(ordered(volume.grid.axes))
    grid = grid if grid.skew <= STRAIGHT else grid.straight()
    array = np.nan_to_num(volume.array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    turned = Volume.of(array, source, volume.channels).on(grid)
    kinds = ["CT" if "CT" in (case.modality, c.modality) else c.modality or "MR" for c in volume.channels]
    return turned, labelled(masks, values, source, grid), kinds


def _save(path: Path, array: Array, grid: Grid) -> None:
    """[D, H, W] as NIfTI, through SimpleITK as nnU-Net reads it."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]  # LPS, columns (i, j, k)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    try:
        sitk.WriteImage(image, str(path), True)
    except RuntimeError as error:
        raise TrainingError(f"{path} cannot be written; is its disk full?") from error


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:40]
