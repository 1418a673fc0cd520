"""`read`, `read_labels` and `peek`: whatever came, told apart by its content and read by the file that knows it."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Channel, Grid, Volume
from segwise.io import dicom_series
from segwise.io.dicom_files import is_dicom
from segwise.io.limits import Limits, guarded, opened
from segwise.io.metaimage import is_metaimage, open_metaimage
from segwise.io.mgz import is_mgh, open_mgh
from segwise.io.nifti import is_nifti, open_nifti
from segwise.io.nrrd import is_nrrd, open_nrrd
from segwise.io.placing import repaired
from segwise.io.scan import Finding, LabelMap, Opened, Peek, Scan
from segwise.io.values import as_labels, finite

Pathlike = str | PathLike[str]
Spacing = tuple[float, float, float]
_EXPECTED = "NIfTI, NRRD, MHA, MGZ, Analyze, or DICOM (a file, folder or zip)"


def read(
    path: Pathlike,
    *,
    series: int | None = None,
    volume: int | None = None,
    spacing_mm: Spacing | None = None,
    modality: str = "",
    channels: bool = False,
    limits: Limits | None = None,
) -> Scan:
    """One image as a volume on its own grid.

    Array axes are the file's own, slowest first: a NIfTI (i, j, k) is `[k, j, i]`, the affine's columns likewise; NRRD,
    MHA and DICOM are (slice, row, column). NaN and infinite values are replaced, with a finding.

    Args:
        path: a file, or a folder or zip of DICOM.
        series: which DICOM series, by the number that `inspect` lists.
        volume: which volume of a 4D file, from 0; without it the first is read, with a warning.
        spacing_mm: (d, h, w), only where the file has none.
        modality: "CT", "MR" or finer, where the file does not say.
        channels: read all volumes of a 4D file, as channels.
        limits: what reading may cost.

    Raises:
        FileError: it cannot be read, or must not be; the message says why and what to do.
    """
    file = Path(path)
    limits = limits or Limits()
    found = opened_any(file, limits, series=series, spacing_mm=spacing_mm)
    return scanned(file.name, found, volume, modality=modality, channels=channels)


def scanned(name: str, found: Opened, volume: int | None, *, modality: str = "", channels: bool = False) -> Scan:
    """The voxels of an opened file, one volume or all of them as channels; see `read`."""
    with guarded(name, "an image"):
        chosen, findings = _volumes(name, found, volume, channels=channels)
        parts = [found.load(v) for v in chosen]
        array = np.stack(parts) if len(parts) > 1 else parts[0][None]
        array, not_finite = finite(array, name)
        grid, repairs = repaired(found.header.grid)
        channel = Channel(modality or found.modality, found.window_hu)
        made = Volume.of(array, grid, [channel] * len(chosen))
    return Scan(made, found.header, (*found.findings, *findings, *repairs, *not_finite))


def read_labels(
    path: Pathlike,
    *,
    on: Grid | None = None,
    level: float | None = None,
    series: int | None = None,
    volume: int | None = None,
    spacing_mm: Spacing | None = None,
    limits: Limits | None = None,
) -> LabelMap:
    """Labels as unsigned integers, 0 = background.

    Args:
        path: an image format with whole numbers, a DICOM SEG, or an RTSTRUCT (or a folder or zip holding one of these).
        on: the grid of the image; needed for an RTSTRUCT, and puts a SEG on the image's voxels.
        level: for a fractional SEG: its values from this level on (in 0..1) count as the segment.
        series: as in `read`.
        volume: as in `read`.
        spacing_mm: as in `read`.
        limits: as in `read`.

    Raises:
        FileError: it cannot be read, its values are no labels, or an argument is missing.
    """
    file = Path(path)
    limits = limits or Limits()
    if content(file) == "dicom":
        from segwise.io.dicom_labels import read_dicom_labels

        labels = read_dicom_labels(file, on=on, level=level, limits=limits)
        if labels is not None:
            return labels
    found = opened_any(file, limits, series=series, spacing_mm=spacing_mm)
    with guarded(file.name, "labels"):
        chosen, findings = _volumes(file.name, found, volume, channels=False)
        array, more = as_labels(found.load(chosen[0]), file.name)
        grid, repairs = repaired(found.header.grid)
    return LabelMap(array, grid, {}, found.header, (*found.findings, *findings, *repairs, *more))


def peek(
    path: Pathlike, *, series: int | None = None, spacing_mm: Spacing | None = None, limits: Limits | None = None
) -> Peek:
    """Geometry, number of volumes and modality of an image, from its headers.

    Raises:
        FileError: as `read`, as far as headers tell.
    """
    found = opened_any(Path(path), limits or Limits(), series=series, spacing_mm=spacing_mm)
    with guarded(Path(path).name, "an image"):
        grid, repairs = repaired(found.header.grid)
    return Peek(grid, found.n_volumes, found.modality, found.header, (*found.findings, *repairs))


def content(path: Path) -> str:
    """What a path holds by its first bytes: "dicom", "nifti", "nrrd", "mha", "mgz" or "".

    Raises:
        FileError: it does not exist, is empty, or may not be read.
    """
    with guarded(path.name, _EXPECTED):
        if not path.exists():
            raise FileError(f"{path}: no such file or folder")
        if path.is_dir():
            return "dicom"
        if not path.is_file():
            raise FileError(f"{path.name}: is neither a file nor a folder")
        if path.stat().st_size == 0:
            raise FileError(f"{path.name}: the file is empty (0 bytes); copy it again")
        with path.open("rb") as stream:
            plain = stream.read(4096)
        if is_nrrd(plain):
            return "nrrd"
        if is_metaimage(plain):
            return "mha"
        if is_dicom(plain) or (plain[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path)):
            return "dicom"
        unzipped, _ = opened(path)
        with unzipped:
            head = _most(unzipped)
        pixels = path.name.lower().endswith((".img", ".img.gz"))  # their header is another file
        return "nifti" if pixels or is_nifti(head) else "mgz" if is_mgh(head) else ""


def opened_any(path: Path, limits: Limits, *, series: int | None, spacing_mm: Spacing | None) -> Opened:
    """The file with its header understood.

    Raises:
        FileError: as `read`.
    """
    kind = content(path)
    with guarded(path.name, _EXPECTED):
        if kind == "dicom":
            place = dicom_series.survey(path, limits)
            chosen = dicom_series.pick(place, series)
            found = dicom_series.open_series(place, chosen, limits, spacing_mm)
            notes = [*place.findings]
            if len(place.series) > 1 and series is None:
                text = f"{len(place.series)} series found; took {chosen.label}, the only one larger than a localizer"
                notes.append(Finding("warning", "series-chosen", text, "choose another with --series N (series=N)"))
            return replace(found, findings=[*notes, *found.findings])
        if series is not None:
            raise FileError(f"{path.name}: series={series} is for DICOM; this is a single file")
        if kind == "nifti":
            return open_nifti(path, limits, spacing_mm)
        if kind == "nrrd":
            return open_nrrd(path, limits, spacing_mm)
        if kind == "mha":
            return open_metaimage(path, limits, spacing_mm)
        if kind == "mgz":
            return open_mgh(path, limits)
    raise FileError(f"{path.name}: {_unknown(path)}; expected {_EXPECTED}")


def _most(stream: object, n: int = 1024) -> bytes:
    """As many of the first bytes as can be read, also of a damaged gzip."""
    out = b""
    try:
        while len(out) < n and (more := stream.read(n - len(out))):  # type: ignore[attr-defined]
            out += more
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError):
        return out
    return out


def _unknown(path: Path) -> str:
    if path.name.lower().endswith((".gz", ".mgz")):
        return "the file is damaged, incomplete, or no image"
    return "is no image that Segwise knows, or it is damaged"


def _volumes(name: str, found: Opened, volume: int | None, *, channels: bool) -> tuple[list[int], list[Finding]]:
    n = found.n_volumes
    if volume is not None and not 0 <= volume < n:
        raise FileError(f"{name}: there is no volume {volume}; it holds {n} (0 to {n - 1})")
    if channels:
        return list(range(n)), []
    if n == 1 or volume is not None:
        return [volume or 0], []
    text = f"is 4D: it holds {n} volumes"
    return [0], [Finding("warning", "4d", text, "the first is read; choose another with --volume N, from 0 (volume=N)")]
