"""What a path holds and what Segwise would do with it: the work behind `segwise inspect`.

An `Inspection` says only what may be said: geometry, value statistics, modality, series by number, names of segments,
findings. It never raises for a bad input: the reason is a finding of level "refusal".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segwise.errors import SegwiseError
from segwise.geometry import Array, Grid
from segwise.io import dicom_seg, dicom_series, rtstruct
from segwise.io.dicom_files import Item
from segwise.io.limits import Limits, guarded
from segwise.io.placing import repaired
from segwise.io.reading import Pathlike, Spacing, content, opened_any, scanned
from segwise.io.scan import Finding
from segwise.io.values import Values, as_labels, guess_modality, looks_like_labels, statistics

_FORMATS = {"nifti": "NIfTI", "analyze": "Analyze", "nrrd": "NRRD", "mha": "MetaImage", "mgz": "MGZ", "dicom": "DICOM"}


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found at one path, or in one series of it.

    Attributes:
        path: as given; for a file of a folder below that.
        readable: Segwise would read it.
        chosen: False for what Segwise leaves aside (a localizer beside the volume).
        format: "NIfTI", "DICOM", ...; "" if unknown.
        kind: "image", "labels" or "".
        series: number of a DICOM series, or None.
        grid: where it lies, or None.
        n_volumes: more than 1 for 4D.
        modality: as the file says, "" if it does not.
        guess: the modality guessed from the values.
        values: statistics, or None.
        names: of segments or structures.
        findings: worst first.
        would: what Segwise would do.
    """

    path: str
    readable: bool
    findings: tuple[Finding, ...]
    chosen: bool = True
    format: str = ""
    kind: str = ""
    series: int | None = None
    grid: Grid | None = None
    n_volumes: int = 1
    modality: str = ""
    guess: str = ""
    values: Values | None = None
    names: tuple[str, ...] = ()
    would: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; shape and spacing are (d, h, w), the affine maps (d, h, w, 1) to RAS+ mm."""
        grid = self.grid
        return {
            "path": self.path,
            "readable": self.readable,
            "chosen": self.chosen,
            "format": self.format,
            "kind": self.kind,
            "series": self.series,
            "shape": None if grid is None else list(grid.shape),
            "spacing_mm": None if grid is None else list(grid.spacing_mm),
            "axes": None if grid is None else grid.axes,
            "oblique_degrees": None if grid is None else round(_oblique(grid), 3),
            "affine": None if grid is None else grid.affine.tolist(),
            "n_volumes": self.n_volumes,
            "modality": self.modality,
            "guessed_modality": self.guess,
            "values": None if self.values is None else self.values.to_json(),
            "names": list(self.names),
            "findings": [
                {"level": f.level, "code": f.code, "message": f.message, "action": f.action} for f in self.findings
            ],
            "would": self.would,
        }

    def lines(self) -> list[str]:
        """For a person, one fact a line; the first one is the path."""
        return list(_lines(self))


def inspect(
    path: Pathlike,
    *,
    series: int | None = None,
    volume: int | None = None,
    spacing_mm: Spacing | None = None,
    limits: Limits | None = None,
) -> list[Inspection]:
    """Looks at a file, folder or zip; one entry for each image, series or label object.

    Arguments are those of `read`, so that the answer is about the same call.
    """
    file = Path(path)
    limits = limits or Limits()
    try:
        if content(file) == "dicom":
            return _dicom(file, limits, series, volume, spacing_mm)
    except SegwiseError as error:
        return [_refused(str(path), error)]
    return [_single(file, str(path), limits, series, volume, spacing_mm)]


def would_read(inspections: Sequence[Inspection]) -> bool:
    """Whether nothing of what Segwise would take is refused: exit code 0 (else 2)."""
    chosen = [i for i in inspections if i.chosen]
    return bool(chosen) and all(i.readable for i in chosen)


def _single(
    file: Path, shown: str, limits: Limits, series: int | None, volume: int | None, spacing_mm: Spacing | None
) -> Inspection:
    try:
        found = opened_any(file, limits, series=series, spacing_mm=spacing_mm)
        scan = scanned(file.name, found, volume)
        with guarded(file.name, "an image"):
            return _image(
                shown,
                scan.volume.array[0],
                scan.volume.grid,
                scan.findings,
                kind=found.header.format,
                n_volumes=found.n_volumes,
                modality=found.modality,
            )
    except SegwiseError as error:
        return _refused(shown, error)


def _image(
    shown: str,
    array: Array,
    grid: Grid,
    findings: Sequence[Finding],
    *,
    kind: str,
    n_volumes: int,
    modality: str,
    series: int | None = None,
    chosen: bool = True,
) -> Inspection:
    labels = modality == "" and looks_like_labels(array)
    extra: list[Finding] = []
    if labels:
        whole, extra = as_labels(array, shown)
        n = len(np.unique(whole)) - 1
        extra.append(
            Finding("note", "labels", f"looks like a label map with {n} value(s) above 0", "can be read as labels")
        )
    guess = "" if labels else guess_modality(array)
    if modality in ("CT", "MR") and guess and guess != modality:
        text = f"the header says {modality}, the values look like {guess}"
        extra.append(Finding("warning", "modality", text, "the header is believed"))
    if not labels and not modality and not guess:
        text = "the modality is not known: neither the header nor the values tell"
        extra.append(Finding("note", "modality", text, "state it (CT or MR)"))
    return Inspection(
        path=shown,
        readable=True,
        chosen=chosen,
        findings=_sorted([*findings, *extra]),
        format=_FORMATS.get(kind, ""),
        kind="labels" if labels else "image",
        series=series,
        grid=grid,
        n_volumes=n_volumes,
        modality=modality,
        guess=guess,
        values=statistics(array),
        would=_would(grid, findings, n_volumes=n_volumes, labels=labels),
    )


def _would(grid: Grid, findings: Sequence[Finding], *, n_volumes: int, labels: bool) -> str:
    codes = {f.code for f in findings}
    if labels:
        return "read it as labels, or as an image if asked to"
    what = "read the first of its volumes" if n_volumes > 1 else "read it"
    if "shear" in codes:
        return f"{what}, show models an orthogonal resampling, map masks back to this grid"
    if grid.axes[0] in "IS":
        return f"{what}; masks go back on this grid"
    return f"{what}; 2D models see axial slices cut along axis {grid.axis_of('axial')}; masks go back on this grid"


def _dicom(
    path: Path, limits: Limits, number: int | None, volume: int | None, spacing_mm: Spacing | None
) -> list[Inspection]:
    place = dicom_series.survey(path, limits)
    images = [item for item in place.others if item.path is not None and _is_image(item.path)]
    notes = [*place.findings]
    out: list[Inspection] = []
    obvious = dicom_series.obvious(place) if place.series else None
    for series in place.series:
        if number is not None and series.number != number:
            continue
        aside = number is None and obvious is not None and series is not obvious
        out.append(_series(path, place, series, limits, volume, spacing_mm, chosen=not aside))
    if number is None and obvious is None and len(place.series) > 1:
        text = f"{len(place.series)} series, none of which is clearly the volume"
        notes.append(Finding("warning", "several-series", text, "choose one with --series N (series=N)"))
    for kind, item, _ in place.objects:
        if kind in ("seg", "rtstruct"):
            out.append(_label_object(path, kind, item))
    if path.is_dir():
        shown = [(i.path, str(i.path)) for i in images if i.path is not None]
        out += [_single(p, text, limits, None, None, None) for p, text in shown]
    if not out:
        kinds = ", ".join(sorted({k for k, *_ in place.objects}))
        held = f"holds no image: {kinds} only" if kinds else "holds no image that Segwise knows"
        message = f"{path.name}: there is no series {number}" if number and place.series else f"{path.name}: {held}"
        return [Inspection(str(path), False, (*notes, Finding("refusal", "no-scan", message)))]
    first = out[0]
    out[0] = replace(first, findings=_sorted([*first.findings, *notes]))
    return out


def _series(
    path: Path,
    place: dicom_series.Place,
    series: dicom_series.Series,
    limits: Limits,
    volume: int | None,
    spacing_mm: Spacing | None,
    *,
    chosen: bool,
) -> Inspection:
    shown = str(path)
    try:
        found = dicom_series.open_series(place, series, limits, spacing_mm)
        scan = scanned(path.name, found, volume)
        with guarded(path.name, "an image"):
            return _image(
                shown,
                scan.volume.array[0],
                scan.volume.grid,
                scan.findings,
                kind="dicom",
                n_volumes=found.n_volumes,
                modality=series.modality,
                series=series.number,
                chosen=chosen,
            )
    except SegwiseError as error:
        refused = _refused(shown, error)
        findings = (*refused.findings, *series.findings)
        return Inspection(
            shown,
            False,
            findings,
            chosen,
            "DICOM",
            "image",
            series.number,
            None,
            1,
            series.modality,
            would=refused.would,
        )


def _label_object(path: Path, kind: str, item: Item) -> Inspection:
    shown = str(item.path or path)
    findings: list[Finding] = []
    grid: Grid | None = None
    try:
        with guarded(item.name, kind.upper()):
            if kind == "rtstruct":
                names = rtstruct.names(item)
                text = "an RTSTRUCT: labels as contours, without voxels"
                findings.append(Finding("note", "labels", text, "drawn on the grid of the image when read with it"))
                would = "read it as labels of the image it belongs to"
            else:
                plan = dicom_seg.outline(item)
                grid, more = repaired(plan.grid)
                findings += more
                names = plan.names
                text = f"a DICOM SEG ({plan.kind.lower()}): labels of {len(names)} segment(s)"
                findings.append(Finding("note", "labels", text, "can be read as labels"))
                would = "read it as labels"
                if plan.kind == "FRACTIONAL":
                    text = "the segments are fractional (values between 0 and 1)"
                    findings.append(
                        Finding("warning", "fractional", text, "thresholded only at a stated level=, e.g. 0.5")
                    )
                    would = "read it as labels once a level is stated"
    except SegwiseError as error:
        return _refused(shown, error)
    called = tuple(names[k] for k in sorted(names))
    return Inspection(shown, True, _sorted(findings), True, "DICOM", "labels", grid=grid, names=called, would=would)


def _is_image(path: Path) -> bool:
    if path.name.lower().endswith((".img", ".img.gz")):
        return not any(
            path.with_name(path.name[: path.name.lower().index(".img")] + e).exists() for e in (".hdr", ".hdr.gz")
        )
    try:
        if content(path):
            return True
    except SegwiseError:
        return path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mgz"))
    return path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mgz", ".mhd", ".nhdr", ".hdr"))


def _oblique(grid: Grid) -> float:
    """Degrees by which the axis furthest from a patient axis is turned away from it."""
    nearest = float(np.abs(grid.directions).max(axis=0).min())
    return float(np.degrees(np.arccos(min(1.0, nearest))))


def _refused(shown: str, error: SegwiseError) -> Inspection:
    return Inspection(shown, False, (Finding("refusal", "refused", str(error)),), would="refuse it")


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = ("refusal", "warning", "note")
    return tuple(sorted(findings, key=lambda f: order.index(f.level)))


def _lines(one: Inspection) -> Iterator[str]:
    label = f", series {one.series}" if one.series is not None else ""
    yield f"{one.path}{label}: {'readable' if one.readable else 'refused'}" + ("" if one.chosen else " (left aside)")
    if one.format:
        said = (
            f"{one.modality} (header)"
            if one.modality
            else f"{one.guess} (guessed)"
            if one.guess
            else "unknown modality"
        )
        yield f"  {one.format} {one.kind}" + ("" if one.kind == "labels" else f", {said}")
    if one.grid is not None:
        grid = one.grid
        size = " x ".join(map(str, grid.shape)) + (f", {one.n_volumes} volumes" if one.n_volumes > 1 else "")
        spacing = " x ".join(f"{v:.4g}" for v in grid.spacing_mm)
        turned = f", oblique by {_oblique(grid):.1f} degrees" if _oblique(grid) > 0.05 else ""
        yield f"  shape {size} (d, h, w); spacing {spacing} mm; axes {grid.axes}{turned}"
        centre = ", ".join(f"{v:.1f}" for v in grid.centre_mm)
        yield f"  centre x, y, z = {centre} mm (RAS)"
    if one.values is not None:
        v = one.values
        low, middle, high = v.percentiles
        spread = f"1 / 50 / 99 % {low:g} / {middle:g} / {high:g}"
        yield f"  values {v.minimum:g} to {v.maximum:g}, mean {v.mean:.4g}; {spread}; {v.dtype}"
    if one.names:
        yield f"  names: {', '.join(one.names)}"
    for finding in one.findings:
        yield f"  {finding.level}: {finding}"
    if one.would:
        yield f"  Segwise would {one.would}"
