"""From the positions of slices to a grid: order, step, tilt, gaps. SliceThickness never decides a spacing.

A series is a lattice if its slices' first pixels lie at equal steps on one line. The line need not be normal to the
slices: then the grid is sheared, which is what a tilted gantry did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array, Grid
from segwise.io.dicom_frames import Frame
from segwise.io.placing import checked_spacing, placed
from segwise.io.scan import Finding

SAME_PLACE_MM = 1e-2  # positions are decimal text of at most 16 characters: two this close are one
EVEN = 0.01  # of the step: below it a deviation is rounding
UNEVEN = 0.1  # of the step: above it a series is no lattice
TILT = 1e-3  # tangent of the angle below which a drift is rounding


def normal_of(frame: Frame) -> Array:
    """float64 [3] LPS: the unit normal of a slice."""
    assert frame.orientation is not None
    normal = np.cross(frame.orientation[0], frame.orientation[1])
    return np.asarray(normal / np.linalg.norm(normal))


def heights(frames: Sequence[Frame]) -> Array:
    """float64 [N]: how far along their normal the slices lie, in mm."""
    normal = normal_of(frames[0])
    return np.array([float(np.dot(f.position, normal)) for f in frames])  # type: ignore[arg-type]


def arranged(
    name: str, frames: Sequence[Frame], spacing_mm: tuple[float, float, float] | None = None
) -> tuple[list[Frame], Grid, list[Finding]]:
    """Slices in spatial order, their grid as the file has it, and what was noticed.

    Args:
        name: of the file or folder, for messages.
        frames: slices of one orientation and size, no two at one place.
        spacing_mm: (d, h, w) where the headers give none.

    Raises:
        FileError: places or spacing are missing, slices are missing, or the steps are irregular.
    """
    first = frames[0]
    shape = (len(frames), first.rows, first.columns)
    if first.position is None or first.orientation is None:
        return _unplaced(name, frames, spacing_mm)
    spacing, findings = _in_plane(name, first, spacing_mm)
    directions = _unit(name, first.orientation)
    ordered = [frames[i] for i in np.argsort(heights(frames), kind="stable")]
    places = np.array([f.position for f in ordered])  # [N, 3]
    if len(ordered) == 1:
        step, found = _single(first, spacing, spacing_mm)
    else:
        step, found = _step(name, places, normal_of(first))
    columns = np.stack([step, directions[1] * spacing[0], directions[0] * spacing[1]], axis=1)
    grid = placed(name, shape, columns, places[0], lps=True)
    return ordered, grid, findings + found


def gaps(places: Array, normal: Array) -> tuple[float, list[tuple[float, float, int]]]:
    """(the usual step in mm, [(below, above, how many slices are missing there)]), heights along the normal."""
    along = places @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    if len(steps) == 2 or usual <= 0:
        usual = float(steps.min())
    missing = [
        (float(along[i]), float(along[i + 1]), round(s / usual) - 1) for i, s in enumerate(steps) if s > 1.5 * usual
    ]
    return usual, missing


def _in_plane(
    name: str, frame: Frame, spacing_mm: tuple[float, float, float] | None
) -> tuple[tuple[float, float], list[Finding]]:
    if frame.spacing is not None:
        if spacing_mm is not None and not np.allclose(frame.spacing, spacing_mm[1:], atol=1e-3):
            raise FileError(
                f"{name}: states its own pixel spacing; spacing_mm only supplies a missing one, leave it out"
            )
        return frame.spacing, []
    if spacing_mm is None:
        raise FileError(f"{name}: the headers give no PixelSpacing; give it: --spacing d,h,w (spacing_mm=(d, h, w))")
    _, h, w = checked_spacing(name, spacing_mm)
    text = f"the spacing was given by hand: {spacing_mm} mm (d, h, w)"
    return (float(h), float(w)), [Finding("warning", "spacing-given", text)]


def _unit(name: str, orientation: Array) -> Array:
    lengths = np.linalg.norm(orientation, axis=1)
    if (np.abs(lengths - 1) > 0.01).any() or abs(float(orientation[0] @ orientation[1])) > 0.01:
        raise FileError(f"{name}: ImageOrientationPatient is no pair of orthogonal unit vectors; the header is damaged")
    return np.asarray(orientation / lengths[:, None])


def _single(
    frame: Frame, spacing: tuple[float, float], spacing_mm: tuple[float, float, float] | None
) -> tuple[Array, list[Finding]]:
    """A step for a slice that has no neighbour: its stated extent, as it has no other."""
    said = frame.extent if spacing_mm is None else float(spacing_mm[0])
    extent = said if said is not None else min(spacing)
    source = "the header's thickness" if said is not None else "not in the header: a guess from the pixel size"
    if spacing_mm is not None:
        source = "given by hand"
    text = f"one slice is not a volume: its extent across is {extent:g} mm ({source})"
    return normal_of(frame) * extent, [
        Finding("warning", "one-slice", text, "read as one slice; load the whole series")
    ]


def _step(name: str, places: Array, normal: Array) -> tuple[Array, list[Finding]]:
    """The vector from one slice to the next, in LPS mm."""
    usual, missing = gaps(places, normal)
    multiples = np.diff(places @ normal) / max(usual, 1e-9)
    if missing and float(np.abs(multiples - np.rint(multiples)).max()) <= UNEVEN * 2:
        raise FileError(_missing_text(name, places, normal, usual, missing))
    n = len(places)
    step = (places[-1] - places[0]) / (n - 1)
    ideal = places[0] + np.arange(n)[:, None] * step
    off = np.linalg.norm(places - ideal, axis=1)
    worst = int(off.argmax())
    length = float(step @ normal)
    findings: list[Finding] = []
    if off[worst] > UNEVEN * length:
        raise FileError(
            f"{name}: the slices are irregularly spaced: steps from {np.diff(places @ normal).min():.2f} to "
            f"{np.diff(places @ normal).max():.2f} mm, the slice at {places[worst] @ normal:.2f} mm lies "
            f"{off[worst]:.2f} mm from an even lattice; resample the series to even spacing first"
        )
    if off[worst] > EVEN * length:
        text = f"the steps between slices vary: one slice lies {off[worst]:.3f} mm from an even lattice"
        findings.append(Finding("warning", "uneven", text, f"read as {length:.4g} mm throughout"))
    drift = step - length * normal
    tangent = float(np.linalg.norm(drift)) / length
    if tangent > TILT:
        angle = float(np.degrees(np.arctan(tangent)))
        text = f"the slices are sheared against each other by {angle:.2f} degrees (gantry tilt)"
        findings.append(Finding("warning", "gantry-tilt", text, "kept as a shear; masks go back on the same grid"))
    return step, findings


def _missing_text(
    name: str, places: Array, normal: Array, usual: float, missing: list[tuple[float, float, int]]
) -> str:
    axis = int(np.abs(normal).argmax())
    letter, sign = "xyz"[axis], (-1, -1, 1)[axis]
    along = places @ normal
    parts = []
    for low, high, n in missing[:5]:
        below, above = (float(places[int(np.abs(along - v).argmin())][axis]) * sign for v in (low, high))
        parts.append(f"{n} between {low:.2f} and {high:.2f} mm ({letter} = {below:.2f} and {above:.2f} mm)")
    more = f" and {len(missing) - 5} more gaps" if len(missing) > 5 else ""
    total = sum(n for *_, n in missing)
    return (
        f"{name}: {total} slice{'s are' if total > 1 else ' is'} missing: {', '.join(parts)}{more}; positions along "
        f"the slice normal, where the usual step is {usual:.2f} mm. Segwise closes no gap: find the missing files, or "
        "split the series"
    )


def _unplaced(
    name: str, frames: Sequence[Frame], spacing_mm: tuple[float, float, float] | None
) -> tuple[list[Frame], Grid, list[Finding]]:
    """One slice without a place, or several whose spacing was given by hand, in the order of their numbers."""
    first = frames[0]
    if len(frames) > 1 and spacing_mm is None:
        raise FileError(
            f"{name}: {len(frames)} slices without position or orientation in their headers: their order, "
            "spacing and place are unknown; give --spacing d,h,w (spacing_mm=(d, h, w)) to read them in the order "
            "of their numbers"
        )
    spacing, findings = _in_plane(name, first, spacing_mm)
    text = "the header gives no position and no orientation"
    findings.append(Finding("warning", "no-place", text, "taken as axial at the origin; left and right may be swapped"))
    step = np.array([0.0, 0.0, 0.0 if spacing_mm is None else float(spacing_mm[0])])
    if len(frames) == 1:
        extent = step[2] or first.extent or min(spacing)
        source = "given" if spacing_mm is not None else "stated" if first.extent else "a guess: the header has none"
        text = f"one slice is not a volume: its extent across is {extent:g} mm ({source})"
        findings.append(Finding("warning", "one-slice", text, "read as one slice; load the whole series"))
        step[2] = extent
    ordered = sorted(frames, key=lambda f: (f.number, f.item.name, f.index))
    columns = np.stack([step, [0.0, spacing[0], 0.0], [spacing[1], 0.0, 0.0]], axis=1)
    return ordered, placed(name, (len(frames), first.rows, first.columns), columns, np.zeros(3), lps=True), findings
