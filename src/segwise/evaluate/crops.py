"""Small three-plane pictures beside records, so that `report` needs no image: RUN/crops/<task>-<target>-<round>.npz."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from segwise.evaluate import profiles
from segwise.geometry import Array, Volume, bounds
from segwise.records import durable
from segwise.records.run import Run
from segwise.records.types import Record

MAX_BYTES = 30_000
SIDES = (112, 88, 64)  # pixels of the longer side, tried until the file is small enough
MARGIN_MM = 12.0


def name_of(task: str, target: str, number: int) -> str:
    """File name of a record's picture."""
    return f"{task}-{re.sub(r'[^A-Za-z0-9 ._+-]', '_', target)}-{number}.npz"


def write(
    run: Run, record: Record, volume: Volume, reference: Array, prediction: Array, more: Mapping[str, Any]
) -> None:
    """Store three planes through the target: image0..2 uint8 [H, W], reference0..2 and prediction0..2 bool [H, W],
    spacing0..2 (row, column) mm, `slices` and `slices_at` (`profiles.profile`), and `meta`, JSON.

    The planes are those of the array's axes d, h, w through the slice with most reference (or prediction).

    Args:
        volume: the image.
        reference, prediction: bool [D, H, W] on its grid.
        more: small arrays that are stored beside them (`flagged.flagged`).
    """
    low, high = _place(reference, prediction, volume)
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    image = volume.array[0][cut].astype(np.float32)
    masks = reference[cut], prediction[cut]
    shown = masks[0] if masks[0].any() else masks[1]
    index = [int(shown.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)]
    meta = {"task": record.task, "target": record.target, "round": record.round, "mask": record.mask}
    meta |= {"low": low, "high": high, "index": [a + i for a, i in zip(low, index, strict=True)]}
    counted = profiles.profile(record, volume.grid, reference, prediction)
    for side in SIDES:
        planes: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **counted, **more}
        for axis in range(3):
            planes |= _plane(image, masks, axis, index[axis], volume.grid.spacing_mm, side)
        file = io.BytesIO()
        np.savez_compressed(file, **planes)
        if file.tell() <= MAX_BYTES:
            break
    durable.write_whole(run.crops / name_of(record.task, record.target, record.round), file.getvalue())


def _place(reference: Array, prediction: Array, volume: Volume) -> tuple[list[int], list[int]]:
    """The half-open box to show: around the reference, and the prediction up to twice as far; all if both are empty."""
    box = bounds(reference) or bounds(prediction) or ((0, 0, 0), volume.grid.shape)
    other = bounds(prediction) or box
    low, high = [], []
    for axis, spacing in enumerate(volume.grid.spacing_mm):
        size = box[1][axis] - box[0][axis]
        reach, margin = max(size // 2, 1), max(2, round(MARGIN_MM / spacing))
        low.append(max(0, max(min(box[0][axis], other[0][axis]), box[0][axis] - reach) - margin))
        end = min(max(box[1][axis], other[1][axis]), box[1][axis] + reach)
        high.append(min(volume.grid.shape[axis], end + margin))
    return low, high


def _plane(
    image: Array, masks: tuple[Array, Array], axis: int, index: int, spacing_mm: tuple[float, ...], side: int
) -> dict[str, Any]:
    grey = np.nan_to_num(image.take(index, axis))
    rows, columns = (s for i, s in enumerate(spacing_mm) if i != axis)
    factor = min(1.0, side / max(grey.shape))
    shape = tuple(max(1, round(n * factor)) for n in grey.shape)
    dark, bright = np.percentile(grey, (1, 99))
    scaled = np.clip((grey - dark) / max(bright - dark, 1e-6), 0, 1) * 255
    small = cv2.resize(scaled.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    found: dict[str, Any] = {f"image{axis}": small.astype(np.uint8) & 0xFC}  # 64 greys: a third smaller
    for name, mask in zip(("reference", "prediction"), masks, strict=True):
        plane = mask.take(index, axis).astype(np.float32)
        found[f"{name}{axis}"] = cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    found[f"spacing{axis}"] = np.array([rows * grey.shape[0] / shape[0], columns * grey.shape[1] / shape[1]])
    return found
