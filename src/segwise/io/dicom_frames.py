"""What one DICOM file says of each of its frames: place, scaling, and what tells frames at one place apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.dicom_files import LABELMAP_SEG_CLASS, RTSTRUCT_CLASS, SEG_CLASS, Item, modality

DISCRIMINATORS = (
    *("echo", "b-value", "time point", "inversion time", "image type", "acquisition", "trigger time"),
    *("frame time", "acquisition time"),
)
_NO_SCAN = {"RTDOSE", "RTPLAN", "RTIMAGE", "RTRECORD", "SR", "PR", "KO", "REG", "DOC", "FID", "AU", "RWV", "PLAN"}


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        item: the file.
        index: frame number within the file, from 0.
        uid: SOP instance UID, for comparing only.
        number: InstanceNumber, or the frame's number.
        rows: height.
        columns: width.
        position: float64 [3] LPS mm of the first pixel, or None.
        orientation: float64 [2, 3] LPS: direction of growing column, of growing row; or None.
        spacing: (between rows, between columns) in mm, or None.
        extent: SpacingBetweenSlices, else SliceThickness; used only where there is a single slice.
        slope: of the stored values.
        intercept: of the stored values.
        marks: values of `DISCRIMINATORS`, None where absent.
    """

    item: Item
    index: int
    uid: str
    number: int
    rows: int
    columns: int
    position: Array | None
    orientation: Array | None
    spacing: tuple[float, float] | None
    extent: float | None
    slope: float
    intercept: float
    marks: tuple[Any, ...]


def kind_of(dataset: Any) -> str:
    """What an object is: "image", "seg", "rtstruct", or the modality (or "object") of what is no scan."""
    sop = str(dataset.get("SOPClassUID", ""))
    name = modality(dataset)
    if sop in (SEG_CLASS, LABELMAP_SEG_CLASS) or name == "SEG":
        return "seg"
    if sop == RTSTRUCT_CLASS or name == "RTSTRUCT":
        return "rtstruct"
    if name in _NO_SCAN or not (dataset.get("Rows") and dataset.get("Columns")):
        return name or "object"
    return "image"


def refusal(dataset: Any) -> str | None:
    """Why an image is no scan (colour, mosaic), or None."""
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        where = "" if _has_place(dataset) else ", and no geometry"
        return f"a colour image{where}: a picture and no scan; expected one number a pixel"
    kinds = [str(v).upper() for v in _many(dataset.get("ImageType"))]
    if "MOSAIC" in kinds:
        return "a mosaic of slices in one picture; convert it with a tool that unfolds it (dcm2niix)"
    return None


def frames_of(item: Item, dataset: Any) -> list[Frame]:
    """All frames of an image; places come from the functional groups where there are some.

    Raises:
        FileError: the header counts frames that it does not describe.
    """
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if n_frames < 1 or n_frames > 100_000:
        raise FileError(f"{item.name}: the header declares {n_frames} frames")
    if per_frame is None:
        return [_frame(item, i, [dataset], dataset) for i in range(n_frames)]
    if len(per_frame) != n_frames:
        raise FileError(
            f"{item.name}: the header declares {n_frames} frames and describes {len(per_frame)}; the file is damaged"
        )
    common = [shared[0]] if shared else []
    return [_frame(item, i, [groups, *common], dataset) for i, groups in enumerate(per_frame)]


def number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def numbers(value: Any, n: int) -> Array | None:
    """float64 [n], or None where they are missing, of another count, or not finite."""
    values = [number(v) for v in _many(value)]
    if len(values) != n or any(v is None for v in values):
        return None
    return np.array(values, dtype=np.float64)


def _frame(item: Item, index: int, groups: list[Any], dataset: Any) -> Frame:
    enhanced = groups[0] is not dataset

    def get(sequence: str, field: str) -> Any:
        for group in groups if enhanced else []:
            there = group.get(sequence)
            if there and there[0].get(field) is not None:
                return there[0].get(field)
        return None if enhanced and field == "ImagePositionPatient" else dataset.get(field)

    orientation = numbers(get("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = numbers(get("PixelMeasuresSequence", "PixelSpacing"), 2)
    spacing = numbers(dataset.get("ImagerPixelSpacing"), 2) if spacing is None else spacing
    between = number(get("PixelMeasuresSequence", "SpacingBetweenSlices"))
    thickness = number(get("PixelMeasuresSequence", "SliceThickness"))
    extent = next((v for v in (between, thickness) if v is not None and v > 0), None)
    slope = number(get("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = number(get("PixelValueTransformationSequence", "RescaleIntercept"))
    single = int(dataset.get("NumberOfFrames") or 1) == 1
    return Frame(
        item=item,
        index=index,
        uid=str(dataset.get("SOPInstanceUID") or ""),
        number=int(number(dataset.get("InstanceNumber")) or 0) if single else index,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        # frames of an old multi-frame object share one position: it is no frame's own
        position=numbers(get("PlanePositionSequence", "ImagePositionPatient"), 3) if enhanced or single else None,
        orientation=None if orientation is None else orientation.reshape(2, 3),
        spacing=None if spacing is None or (spacing <= 0).any() else (float(spacing[0]), float(spacing[1])),
        extent=extent,
        slope=1.0 if slope is None or slope == 0 else slope,
        intercept=0.0 if intercept is None else intercept,
        marks=_marks(get, dataset),
    )


def _marks(get: Any, dataset: Any) -> tuple[Any, ...]:
    kinds = tuple(str(v) for v in _many(get("MRImageFrameTypeSequence", "FrameType") or dataset.get("ImageType")))
    temporal = get("FrameContentSequence", "TemporalPositionIndex")
    return (
        number(get("MREchoSequence", "EffectiveEchoTime") or dataset.get("EchoTime"))
        or number((_many(dataset.get("EchoNumbers")) or [None])[0]),
        number(get("MRDiffusionSequence", "DiffusionBValue")),
        number(temporal if temporal is not None else dataset.get("TemporalPositionIdentifier")),
        number(dataset.get("InversionTime")),
        kinds or None,
        number(get("FrameContentSequence", "FrameAcquisitionNumber") or dataset.get("AcquisitionNumber")),
        number(dataset.get("TriggerTime")),
        number(dataset.get("FrameReferenceTime")),
        number(dataset.get("AcquisitionTime")),
    )


def _has_place(dataset: Any) -> bool:
    return dataset.get("ImagePositionPatient") is not None or "PerFrameFunctionalGroupsSequence" in dataset


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str | bytes | int | float):
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]
