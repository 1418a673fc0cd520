"""DICOM SEG and RTSTRUCT as labels, and what `inspect` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_makers import saved, series
from segwise import io
from segwise.errors import FileError
from segwise.geometry import regrid
from segwise.io.values import looks_like_labels


def sources() -> list[Dataset]:
    out = series(6)
    for s in out:
        s.StudyInstanceUID, s.FrameOfReferenceUID = "1.2.7", "1.2.8"
        s.PatientID = s.PatientName = s.StudyID = s.AccessionNumber = "X"
        s.PatientBirthDate = s.PatientSex = s.StudyDate = s.StudyTime = ""
        s.ContentDate = s.ContentTime = ""
    return out


def segmentation(masks: np.ndarray, kind: str = "BINARY") -> Dataset:
    """A SEG of masks [D, H, W, S] over `sources()`."""
    algorithm = hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    described = [
        hd.seg.SegmentDescription(
            n + 1,
            name,
            codes.SCT.Organ,
            codes.SCT.Liver,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for n, name in enumerate(("liver", "spleen")[: masks.shape[-1]])
    ]
    return hd.seg.Segmentation(
        sources(), masks, kind, described, generate_uid(), 1, generate_uid(), 1, "m", "m", "1", "1"
    )


def two() -> np.ndarray:
    masks = np.zeros((6, 5, 7, 2), np.uint8)
    masks[1:3, 1:4, 2:5, 0] = 1
    masks[4, 0:2, 0:3, 1] = 1
    return masks


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_seg_lies_on_its_image(tmp_path: Path) -> None:
    scan = io.read(saved(tmp_path / "s", sources()))
    segmentation(two()).save_as(tmp_path / "seg.dcm")
    own = io.read_labels(tmp_path / "seg.dcm")
    assert own.names == {1: "liver", 2: "spleen"} and own.array.shape == (4, 5, 7)  # slices 1 to 4; 3 is empty
    labels = io.read_labels(tmp_path / "seg.dcm", on=scan.volume.grid)
    assert labels.grid == scan.volume.grid and labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, two()[..., 0] + 2 * two()[..., 1])
    assert np.array_equal(labels.mask(2), two()[..., 1] > 0)


def test_overlapping_segments_are_kept_whole(tmp_path: Path) -> None:
    masks = two()
    masks[1:3, 2:5, 3:6, 1] = 1
    segmentation(masks).save_as(tmp_path / "seg.dcm")
    scan = io.read(saved(tmp_path / "s", sources()))
    labels = io.read_labels(tmp_path / "seg.dcm", on=scan.volume.grid)
    assert any(f.code == "overlap" and "8 voxels" in f.message for f in labels.findings)
    assert all(np.array_equal(labels.mask(n + 1), masks[..., n] > 0) for n in (0, 1))


def test_a_fractional_seg_needs_a_level(tmp_path: Path) -> None:
    masks = np.zeros((6, 5, 7, 1), np.float64)
    masks[2, 1:3, 1:3, 0] = [[0.2, 0.4], [0.6, 0.9]]
    segmentation(masks, "FRACTIONAL").save_as(tmp_path / "seg.dcm")
    with pytest.raises(FileError, match="fractional"):
        io.read_labels(tmp_path / "seg.dcm")
    with pytest.raises(FileError, match="level"):
        io.read_labels(tmp_path / "seg.dcm", level=1.5)
    assert io.read_labels(tmp_path / "seg.dcm", level=0.5).array.sum() == 2
    entry = io.inspect(tmp_path / "seg.dcm")[0]
    assert entry.kind == "labels" and "fractional" in {f.code for f in entry.findings}


def test_real_seg_and_rtstruct_agree_with_their_nifti_copies(data: Path) -> None:
    folder = data / "ct_dicomseg_dcmqi"
    reference, image = io.read_labels(folder / "labels.nii.gz"), io.read(folder / "image.nii.gz")
    labels = io.read_labels(folder / "liver_seg.dcm", on=image.volume.grid)
    assert labels.names == {1: "Liver"}
    assert dice(labels.array == 1, reference.array == 1) > 0.997  # the copy paints spine and heart over the liver
    assert (labels.array[reference.array == 1] == 1).all()
    folder = data / "ct_lung_gtv_pat2_dicom"
    reference, image = io.read_labels(folder / "labels.nii.gz"), io.read(folder / "dicom")
    labels = io.read_labels(folder / "dicom", on=image.volume.grid)
    there = regrid(labels.array, labels.grid, reference.grid, order=0, outside=0)
    assert labels.names == {1: "GTV-1"} and np.array_equal(there, reference.array)


def test_an_rtstruct_needs_a_grid(data: Path) -> None:
    file = data / "ct_lung_gtv_pat2_dicom" / "dicom" / "DCM_RS_00041.dcm"
    with pytest.raises(FileError, match="give the image's grid"):
        io.read_labels(file)
    with pytest.raises(FileError, match="as labels instead"):
        io.read(file)
    entry = io.inspect(file)[0]
    assert entry.names == ("GTV-1",) and entry.kind == "labels"


def structures(contours: list[np.ndarray], kind: str = "CLOSED_PLANAR") -> Dataset:
    """An RTSTRUCT with one structure; contours are [N, 3] LPS mm."""
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    out.Modality = "RTSTRUCT"
    roi = Dataset()
    roi.ROINumber, roi.ROIName = 7, "GTV"
    out.StructureSetROISequence = [roi]
    drawn = Dataset()
    drawn.ReferencedROINumber = 7
    drawn.ContourSequence = []
    for points in contours:
        contour = Dataset()
        contour.ContourGeometricType = kind
        contour.ContourData = [f"{v:.6f}" for v in points.ravel()]
        contour.NumberOfContourPoints = len(points)
        drawn.ContourSequence.append(contour)
    out.ROIContourSequence = [drawn]
    return out


def square(low: tuple[float, float], high: tuple[float, float], z: float) -> np.ndarray:
    (r0, c0), (r1, c1) = low, high
    index = np.array([(r0, c0), (r0, c1), (r1, c1), (r1, c0)])
    return np.stack([-20 + 0.8 * index[:, 1], -30 + 0.5 * index[:, 0], np.full(4, z)], axis=1)


def test_contours_with_a_hole(tmp_path: Path) -> None:
    grid = io.read(saved(tmp_path / "s", series())).volume.grid
    outer, inner = square((-0.4, 0.6), (4.4, 5.4), 45.0), square((1.6, 2.6), (2.4, 3.4), 45.0)
    structures([outer, inner]).save_as(tmp_path / "rt.dcm", enforce_file_format=True)
    labels = io.read_labels(tmp_path / "rt.dcm", on=grid)
    expected = np.zeros(grid.shape, bool)
    expected[2, 0:5, 1:6] = True
    expected[2, 2, 3] = False
    assert np.array_equal(labels.array == 1, expected) and labels.names == {1: "GTV"}


def test_contours_that_cannot_be_drawn(tmp_path: Path) -> None:
    grid = io.read(saved(tmp_path / "s", series())).volume.grid
    structures([square((0, 0), (4, 4), 200.0)]).save_as(tmp_path / "far.dcm", enforce_file_format=True)
    labels = io.read_labels(tmp_path / "far.dcm", on=grid)
    assert not labels.array.any() and labels.findings[0].code == "contours-outside"
    tilted = square((0, 0), (4, 4), 45.0)
    tilted[:, 2] += [0, 2, 4, 2]
    structures([tilted]).save_as(tmp_path / "t.dcm", enforce_file_format=True)
    with pytest.raises(FileError, match="no plane"):
        io.read_labels(tmp_path / "t.dcm", on=grid)
    structures([square((0, 0), (4, 4), 45.0)], "POINT").save_as(tmp_path / "p.dcm", enforce_file_format=True)
    with pytest.raises(FileError, match="no closed contours"):
        io.read_labels(tmp_path / "p.dcm", on=grid)


def test_inspect_as_json(awkward: Path, data: Path) -> None:
    seg = io.inspect(awkward / "seg_image_ct_binary.dcm")[0].to_json()
    assert seg["kind"] == "labels" and seg["names"] == ["first segment"] and seg["shape"] == [3, 16, 16]
    scan = io.inspect(data / "ct_abdomen_ts" / "image.nii.gz")[0].to_json()
    assert scan["guessed_modality"] == "CT" and scan["shape"] == [30, 101, 122] and scan["readable"]
    assert scan["values"]["minimum"] == -1100
    labels = io.inspect(data / "ct_abdomen_ts" / "labels.nii.gz")[0]
    assert labels.kind == "labels"
    json.dumps([seg, scan, labels.to_json()], allow_nan=False)


def test_labels_are_told_from_images(data: Path) -> None:
    for folder in sorted(p for p in data.iterdir() if (p / "labels.nii.gz").exists()):
        for name in ("image", "labels"):
            array = io.read(folder / f"{name}.nii.gz").volume.array[0]
            assert looks_like_labels(array) == (name == "labels"), f"{folder.name} {name}"


def test_several_label_objects_in_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        segmentation(two()).save_as(tmp_path / f"{name}.dcm")
    with pytest.raises(FileError, match=r"2 label objects; name one of them: a\.dcm"):
        io.read_labels(tmp_path)
    assert pydicom.dcmread(tmp_path / "a.dcm").Modality == "SEG"


def test_a_labelmap_seg(tmp_path: Path) -> None:
    array = two()[..., 0] + 2 * two()[..., 1]
    described = segmentation(two()).SegmentSequence
    one = hd.seg.Segmentation(
        sources(), array, "LABELMAP", described, generate_uid(), 1, generate_uid(), 1, "m", "m", "1", "1"
    )
    one.save_as(tmp_path / "seg.dcm")
    grid = io.read(saved(tmp_path / "s", sources())).volume.grid
    labels = io.read_labels(tmp_path / "seg.dcm", on=grid)
    assert labels.names == {1: "liver", 2: "spleen"} and np.array_equal(labels.array, array)
