"""What a folder of scans holds, as far as the readers of `datasets/` see it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segwise import catalog
from segwise.case import Case, Structure
from segwise.errors import DatasetError, SegwiseError
from segwise.geometry import Array, Grid
from segwise.spec import parse

_AT_ONCE = 8  # masks in memory


def find(root: Path, layout: str | None = None) -> tuple[str, list[Case]]:
    """The layout of a folder (with its arguments, if any) and its cases; no image is read.

    Args:
        root: a folder.
        layout: the member of `datasets/` to read it with, with arguments if it has any; default: the one that
            recognises it.

    Raises:
        DatasetError: it is no folder, no layout or more than one fits, or the one that does finds no case.
        SpecError: `layout` is no known member.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise DatasetError(f"{root}: {what}; expected a folder of scans with labels")
    spec = parse(layout) if layout else parse(_recognised(root))
    module, arguments = catalog.load("datasets", spec)
    cases = list(module.cases(root, **arguments))
    if not cases:
        raise DatasetError(f"{root}: {spec.name} found no labelled case in it")
    ids = [case.id for case in cases]
    twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
    if twice:
        raise DatasetError(f"{root}: {', '.join(twice[:3])} is the id of more than one case; expected each once")
    return str(spec), cases


def recognising(root: Path) -> list[str]:
    """The layouts that a folder looks like; exactly one if all is well."""
    return [name for name in catalog.names("datasets") if catalog.load("datasets", parse(name))[0].recognises(root)]


def _recognised(root: Path) -> str:
    fitting = recognising(root)
    if len(fitting) == 1:
        return fitting[0]
    names = fitting or catalog.names("datasets")
    shapes = "\n".join(f"  {name}: {'; '.join(catalog.card('datasets', name).files)}" for name in names)
    what = f"looks like {' and '.join(fitting)}" if fitting else "looks like no layout that is known"
    if torn := [path.name for path in sorted(root.glob("*.json")) if not _whole(path)]:
        what += f" ({', '.join(torn)} is no valid JSON: mend it first)"
    raise DatasetError(f"{root}: {what}; say which with --layout:\n{shapes}")


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return True


def inventory(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """What `segwise cases --json` prints: a row a case; reads every image and label file.

    A case that cannot be read has `error` with the reason, and nulls for what is not known of it.

    Returns:
        id, subject, dataset, layout, images, shape [D, H, W], spacing_mm (d, h, w), modality (guessed from the values
        where nothing says), channels, quality, licence, ignore (value not to be scored), notes, error, and targets:
        name, raw, value (a number, or a list for composites and regions; 1 for a file a structure), known, voxels,
        centroid_ras_mm (the mean of the voxels' centres; null if empty).
    """
    return [_row(case) for case in cases]


def _row(case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": case.id,
        "subject": case.subject,
        "dataset": case.dataset,
        "layout": case.layout,
        "images": list(case.images),
        "shape": None,
        "spacing_mm": None,
        "modality": case.modality,
        "channels": [],
        "quality": case.quality,
        "licence": case.licence,
        "ignore": case.ignore,
        "notes": list(case.notes),
        "targets": [_target(structure) for structure in case.structures],
        "error": "",
    }
    try:
        volume = case.volume()
        row["shape"] = list(volume.grid.shape)
        row["spacing_mm"] = [round(mm, 6) for mm in volume.grid.spacing_mm]
        row["modality"] = case.modality or volume.channels[0].modality
        row["channels"] = [channel.modality for channel in volume.channels]
        for start in range(0, len(case.structures), _AT_ONCE):
            masks = case.load_masks(case.structures[start : start + _AT_ONCE])
            for mask, entry in zip(masks, row["targets"][start:], strict=False):
                entry.update(_measured(mask, volume.grid))
    except SegwiseError as error:
        row["error"] = str(error)
    return row


def _target(structure: Structure) -> dict[str, Any]:
    values = structure.values or (1,)
    return {
        "name": structure.name,
        "raw": structure.raw,
        "value": values[0] if len(values) == 1 else list(values),
        "known": structure.known,
        "voxels": None,
        "centroid_ras_mm": None,
    }


def _measured(mask: Array, grid: Grid) -> dict[str, Any]:
    n = int(mask.sum())
    if n == 0:
        return {"voxels": 0, "centroid_ras_mm": None}
    middle = [float(np.arange(size) @ mask.sum(axis=_others(axis))) / n for axis, size in enumerate(mask.shape)]
    return {"voxels": n, "centroid_ras_mm": [round(float(v), 6) for v in grid.mm(middle)[0]]}


def _others(axis: int) -> tuple[int, int]:
    return (1, 2) if axis == 0 else (0, 2) if axis == 1 else (0, 1)
