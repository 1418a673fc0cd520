"""Which object of a DICOM place holds labels, and reading it: SEG or RTSTRUCT."""

from __future__ import annotations

from pathlib import Path

from segwise.errors import FileError
from segwise.geometry import Grid
from segwise.io import dicom_series
from segwise.io.dicom_seg import read_seg
from segwise.io.limits import Limits, guarded
from segwise.io.rtstruct import read_rtstruct
from segwise.io.scan import LabelMap


def read_dicom_labels(path: Path, *, on: Grid | None, level: float | None, limits: Limits) -> LabelMap | None:
    """Labels of the one SEG or RTSTRUCT at a place; None if it holds neither but images.

    Args:
        path: a file, folder or zip.
        on: the image's grid.
        level: for a fractional SEG.
        limits: what reading may cost.

    Raises:
        FileError: several such objects, an RTSTRUCT without `on`, a fractional SEG without `level`, or damage.
    """
    place = dicom_series.survey(path, limits)
    labelled = [(kind, item) for kind, item, _ in place.objects if kind in ("seg", "rtstruct")]
    if not labelled:
        if place.series:
            return None
        raise FileError(f"{path.name}: holds no DICOM SEG, RTSTRUCT or image")
    if len(labelled) > 1:
        listing = ", ".join(f"{item.name} ({kind.upper()})" for kind, item in labelled[:10])
        raise FileError(f"{path.name}: holds {len(labelled)} label objects; name one of them: {listing}")
    kind, item = labelled[0]
    with guarded(item.name, kind.upper()):
        if kind == "seg":
            return read_seg(item, on=on, level=level, limits=limits)
        if on is None:
            raise FileError(
                f"{item.name}: holds contours and no voxels; give the image's grid (on=), they are drawn on it"
            )
        return read_rtstruct(item, on=on)
