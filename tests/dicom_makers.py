"""Tiny DICOM series for tests, with whatever fault a test asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slice_of(pixels: np.ndarray, position: tuple[float, ...], **fields: object) -> Dataset:
    """One slice; `fields` are DICOM keywords, None removes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CT
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing = [0.5, 0.8]  # between rows, between columns
    dataset.SliceThickness = 9.9  # a lie that must not matter
    dataset.ImagePositionPatient = [float(v) for v in position]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000
    dataset.PixelData = pixels.astype("<i2").tobytes()
    for key, value in fields.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    return dataset


def series(n: int = 6, *, step: tuple[float, float, float] = (0, 0, 2.5), **fields: object) -> list[Dataset]:
    """n slices of 5 x 7 pixels; the stored value is 100 x slice + pixel number."""
    start = np.array([-20.0, -30.0, 40.0])
    out = []
    for d in range(n):
        pixels = 100 * d + np.arange(35).reshape(5, 7)
        out.append(slice_of(pixels, tuple(start + d * np.array(step)), InstanceNumber=d + 1, **fields))
    return out


def saved(folder: Path, datasets: list[Dataset], prefix: str = "im") -> Path:
    """Files in an order that is not the spatial one."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(3).permutation(len(datasets))
    for name, i in enumerate(order):
        datasets[i].save_as(folder / f"{prefix}{name:03}.dcm", enforce_file_format=True)
    return folder


def enhanced(datasets: list[Dataset], order: list[int]) -> Dataset:
    """The slices as one multi-frame object, frames in a given order."""
    first = datasets[0]
    out = pydicom.Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    out.SeriesInstanceUID = "1.2.3.9"
    out.Modality = "CT"
    for key in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"):
        setattr(out, key, first[key].value)
    out.HighBit, out.PixelRepresentation, out.NumberOfFrames = 15, 1, len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=first.PixelSpacing, SliceThickness=9.9)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelValueTransformationSequence = [_item(RescaleSlope=1, RescaleIntercept=-1000)]
    out.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for i in order:
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=datasets[i].ImagePositionPatient)]
        frames.append(frame)
    out.PerFrameFunctionalGroupsSequence = frames
    out.PixelData = b"".join(datasets[i].PixelData for i in order)
    return out


def _item(**fields: object) -> Dataset:
    dataset = Dataset()
    for key, value in fields.items():
        setattr(dataset, key, value)
    return dataset
