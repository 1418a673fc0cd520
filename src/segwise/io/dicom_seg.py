"""DICOM Segmentation objects: frames of segments placed on one lattice, with their names.

Frames without a segment's voxels are usually left out, so missing slices are empty slices here. Names are the segments'
labels; nothing else of the object is kept. Source: DICOM PS3.3 C.8.20 (Segmentation) and C.8.20.3 (fractional values).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array, Grid, regrid
from segwise.io.dicom_files import Item, header
from segwise.io.dicom_frames import Frame, frames_of, number
from segwise.io.dicom_geometry import heights, normal_of
from segwise.io.dicom_pixels import decoded
from segwise.io.limits import Limits
from segwise.io.placing import placed, repaired
from segwise.io.scan import Finding, Header, LabelMap
from segwise.io.values import smallest

MAX_NAME = 64  # characters of a segment's label (LO allows 64)


@dataclass(frozen=True, eq=False)
class SegOutline:
    """What the header of a SEG says.

    Attributes:
        grid: the lattice of its frames.
        slices: for each frame its slice.
        segments: for each frame its segment number; 0 in a LABELMAP.
        names: {segment number: label}.
        kind: "BINARY", "FRACTIONAL" or "LABELMAP".
        full: the stored value that means 1 in a fractional SEG.
    """

    grid: Grid
    slices: tuple[int, ...]
    segments: tuple[int, ...]
    names: dict[int, str]
    kind: str
    full: int


def outline(item: Item) -> SegOutline:
    """Geometry and names of a SEG, without its pixels.

    Raises:
        FileError: damaged, tiled, or its frames lie on no lattice.
    """
    dataset = header(item)
    frames = frames_of(item, dataset)
    if any(f.position is None or f.orientation is None or f.spacing is None for f in frames):
        raise FileError(f"{item.name}: its frames have no place in the patient (a tiled or damaged SEG); not supported")
    if any(np.abs(f.orientation - frames[0].orientation).max() > 1e-3 for f in frames):  # type: ignore[operator]
        raise FileError(f"{item.name}: its frames have several orientations, expected one")
    grid, slices = _lattice(item.name, frames)
    kind = str(dataset.get("SegmentationType") or "BINARY")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    segments = [0] * len(frames) if kind == "LABELMAP" else [_segment(g, shared, item.name) for g in groups]
    names = {int(s.SegmentNumber): _name(s.get("SegmentLabel")) for s in dataset.get("SegmentSequence") or []}
    if kind == "LABELMAP":
        names.pop(0, None)
    full = int(number(dataset.get("MaximumFractionalValue")) or 255)
    return SegOutline(grid, tuple(slices), tuple(segments), names, kind, full)


def read_seg(item: Item, *, on: Grid | None, level: float | None, limits: Limits) -> LabelMap:
    """Label map of a SEG: values are segment numbers.

    Args:
        item: the file.
        on: put the labels on this grid (nearest voxel); default: the SEG's own lattice.
        level: least fraction in 0..1 that counts, needed for a fractional SEG.
        limits: what reading may cost.

    Raises:
        FileError: as `outline`, fractional without `level`, or damaged pixels.
    """
    plan = outline(item)
    limits.declared(item.name, plan.grid.shape, 4)
    findings: list[Finding] = []
    if plan.kind == "FRACTIONAL":
        if level is None or not 0 < level <= 1:
            raise FileError(
                f"{item.name}: is a fractional SEG (0 to {plan.full} stand for 0 to 1); it is thresholded only at a "
                "stated level: give level= above 0 and up to 1, e.g. level=0.5"
            )
        text = f"fractional segments, thresholded at {level:g}"
        findings.append(Finding("warning", "fractional", text))
    pixels = decoded(item, limits)
    if plan.kind == "FRACTIONAL" and level is not None:
        pixels = pixels >= max(1.0, level * plan.full - 1e-9)
    array, overlapping = _painted(plan, pixels)
    masks: dict[int, Array] = {}
    if overlapping:
        masks = _apart(plan, pixels)
        text = f"segments overlap in {overlapping:,} voxels"
        findings.append(Finding("warning", "overlap", text, "the later segment is on top; each mask is kept whole"))
    return _on(array, plan, masks, findings, on)


def _on(array: Array, plan: SegOutline, masks: dict[int, Array], findings: list[Finding], on: Grid | None) -> LabelMap:
    own, repairs = repaired(plan.grid)
    findings += repairs
    if on is None:
        return LabelMap(array, own, plan.names, Header("dicom", plan.grid), tuple(findings), masks)
    moved = regrid(array, own, on, order=0, outside=0)
    lost = int(np.count_nonzero(array)) - int(np.count_nonzero(moved))
    if lost:
        text = f"{np.count_nonzero(array):,} labelled voxels became {np.count_nonzero(moved):,} on the image's grid"
        findings.append(
            Finding("warning", "another-grid", text, "nearest voxels; what lies beyond the image is dropped")
        )
    masks = {v: regrid(m, own, on, order=0, outside=0) for v, m in masks.items()}
    return LabelMap(moved, on, plan.names, Header("dicom", on), tuple(findings), masks)


def _lattice(name: str, frames: Sequence[Frame]) -> tuple[Grid, list[int]]:
    """(grid of all slices between the first and the last frame, slice of each frame)."""
    first = frames[0]
    assert first.orientation is not None and first.spacing is not None
    along = heights(frames)
    order = np.argsort(along, kind="stable")
    low, high = frames[int(order[0])], frames[int(order[-1])]
    assert low.position is not None and high.position is not None
    steps = np.diff(np.unique(np.round(along, 3)))
    steps = steps[steps > 0.02]
    step = first.extent or min(first.spacing)
    if len(steps):
        stated = first.extent if first.extent and _whole(steps / first.extent) else None
        step = stated or float(steps.min())
    places = (along - along.min()) / step
    slices = np.rint(places).astype(int)
    if float(np.abs(places - slices).max()) > 0.1:
        raise FileError(f"{name}: its frames are irregularly spaced (steps {steps.min():.3f} to {steps.max():.3f} mm)")
    n = int(slices.max()) + 1
    vector = normal_of(first) * step if n == 1 else (high.position - low.position) / (n - 1)
    directions = first.orientation / np.linalg.norm(first.orientation, axis=1)[:, None]
    columns = np.stack([vector, directions[1] * first.spacing[0], directions[0] * first.spacing[1]], axis=1)
    return placed(name, (n, first.rows, first.columns), columns, low.position, lps=True), slices.tolist()


def _whole(multiples: Array) -> bool:
    return bool((np.rint(multiples) >= 1).all() and np.abs(multiples - np.rint(multiples)).max() < 0.05)


def _segment(groups: Any, shared: Any, name: str) -> int:
    for place in (groups, shared[0] if shared else None):
        found = place.get("SegmentIdentificationSequence") if place is not None else None
        if found:
            return int(found[0].ReferencedSegmentNumber)
    raise FileError(f"{name}: a frame names no segment; the SEG is damaged")


def _name(label: Any) -> str:
    return "".join(c for c in str(label or "") if c.isprintable()).strip()[:MAX_NAME]


def _painted(plan: SegOutline, pixels: Array) -> tuple[Array, int]:
    """(label map, number of voxels where segments overlap)."""
    if plan.kind == "LABELMAP":
        array = np.zeros(plan.grid.shape, dtype=smallest(int(pixels.max(initial=0))))
        for d, page in zip(plan.slices, pixels, strict=True):
            array[d] = page
        return array, 0
    array = np.zeros(plan.grid.shape, dtype=smallest(max(plan.segments)))
    overlapping = 0
    for i in sorted(range(len(pixels)), key=lambda i: plan.segments[i]):
        page, there = array[plan.slices[i]], pixels[i] != 0
        overlapping += int(np.count_nonzero(page[there]))
        page[there] = plan.segments[i]
    return array, overlapping


def _apart(plan: SegOutline, pixels: Array) -> dict[int, Array]:
    masks = {n: np.zeros(plan.grid.shape, dtype=bool) for n in sorted(set(plan.segments))}
    for d, n, page in zip(plan.slices, plan.segments, pixels, strict=True):
        masks[n][d] |= page != 0
    return masks
