"""RTSTRUCT contours drawn on an image's grid.

A voxel belongs to a structure where its centre lies inside an odd number of the contours of its slice (even-odd rule),
so that a contour inside another one is a hole. Source: DICOM PS3.3 C.8.8.6 (ROI Contour module).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.draw import polygon

from segwise.errors import FileError
from segwise.geometry import Array, Grid
from segwise.io.dicom_files import Item, header
from segwise.io.dicom_frames import numbers
from segwise.io.dicom_seg import MAX_NAME
from segwise.io.scan import Finding, Header, LabelMap
from segwise.io.values import smallest

FLAT = 0.25  # voxels: a contour must keep this close to one slice
_SURFACES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")


def names(item: Item) -> dict[int, str]:
    """{ROI number: name} of the structures."""
    rois = header(item).get("StructureSetROISequence") or []
    return {int(r.ROINumber): _name(r.get("ROIName")) for r in rois}


def read_rtstruct(item: Item, *, on: Grid) -> LabelMap:
    """Label map of the structures on a grid: values count structures from 1 in the file's order.

    Args:
        item: the file.
        on: grid of the image that the contours were drawn on.

    Raises:
        FileError: no closed contours, or contours that lie in no plane of the grid.
    """
    dataset = header(item)
    called = {int(r.ROINumber): _name(r.get("ROIName")) for r in dataset.get("StructureSetROISequence") or []}
    findings: list[Finding] = []
    masks: dict[int, Array] = {}
    labels: dict[int, str] = {}
    for roi in dataset.get("ROIContourSequence") or []:
        contours = [c for c in roi.get("ContourSequence") or [] if str(c.get("ContourGeometricType")) in _SURFACES]
        if not contours:
            continue
        value = len(masks) + 1
        masks[value], outside = _drawn(item.name, contours, on)
        labels[value] = called.get(int(roi.ReferencedROINumber), "")
        if outside:
            text = f"structure {value}: {outside} of {len(contours)} contours lie outside the image"
            findings.append(Finding("warning", "contours-outside", text, "dropped"))
    if not masks:
        raise FileError(f"{item.name}: the RTSTRUCT holds no closed contours")
    array = np.zeros(on.shape, dtype=smallest(len(masks)))
    overlapping = 0
    for value, mask in masks.items():
        overlapping += int(np.count_nonzero(array[mask]))
        array[mask] = value
    if overlapping:
        text = f"structures overlap in {overlapping:,} voxels"
        findings.append(Finding("warning", "overlap", text, "the later one is on top; each mask is kept whole"))
    return LabelMap(array, on, labels, Header("dicom", on), tuple(findings), masks if overlapping else {})


def _drawn(name: str, contours: list[Any], grid: Grid) -> tuple[Array, int]:
    """(bool [D, H, W], number of contours outside the grid)."""
    mask = np.zeros(grid.shape, dtype=bool)
    outside = 0
    for contour in contours:
        values = list(contour.get("ContourData") or [])
        points = numbers(values, len(values))
        if points is None or len(points) < 9 or len(points) % 3:
            raise FileError(
                f"{name}: a contour has {len(values)} numbers, expected three for each of at least 3 points"
            )
        index = grid.index(points.reshape(-1, 3) * [-1, -1, 1])
        axis = int(np.ptp(index, axis=0).argmin())
        if np.ptp(index[:, axis]) > 2 * FLAT:
            raise FileError(f"{name}: a contour lies in no plane of the image's grid; give the grid it was drawn on")
        at = round(float(index[:, axis].mean()))
        if not 0 <= at < grid.shape[axis]:
            outside += 1
            continue
        page = np.moveaxis(mask, axis, 0)[at]
        rows, columns = np.delete(index, axis, axis=1).T
        page[polygon(rows, columns, page.shape)] ^= True
    return mask, outside


def _name(text: Any) -> str:
    return "".join(c for c in str(text or "") if c.isprintable()).strip()[:MAX_NAME]
