"""Tiny copies of every layout, written with other libraries than Segwise reads them with.

Every volume is (i, j, k) = (7, 6, 5) with spacing 1.5, 2, 3 mm unless a layout says otherwise, so that the array is
[5, 6, 7]. Label value v fills the voxels [v % 5, 1:3, v % 4 : v % 4 + 2]: four voxels each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (5, 6, 7)
AFFINE = np.array([[1.5, 0, 0, -10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1.0]])


def labels(*values: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """uint8 [D, H, W] with four voxels of each value."""
    array = np.zeros(shape, dtype=np.uint8)
    for value in values:
        array[place(value)] = value
    return array


def place(value: int) -> tuple[int, slice, slice]:
    return value % 5, slice(1, 3), slice(value % 4, value % 4 + 2)


def centroid(value: int) -> list[float]:
    """Of a value's voxels in mm, by hand: (i, j, k) = (v % 4 + 0.5, 1.5, v % 5)."""
    return [-10 + 1.5 * (value % 4 + 0.5), 20 + 2 * 1.5, 30 + 3 * (value % 5)]


def image(n_channels: int = 1) -> np.ndarray:
    array = np.arange(n_channels * 210, dtype=np.int16).reshape(n_channels, *SHAPE)
    return array if n_channels > 1 else array[0]


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, *, qform_only: bool = False) -> Path:
    """A [D, H, W] or [C, D, H, W] array as NIfTI (i, j, k, c)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nib.Nifti1Image(array.T, affine)
    made.set_qform(affine, 1)
    made.set_sform(affine, 0 if qform_only else 1)
    nib.save(made, path)
    return path


def hide(path: Path) -> None:
    """The litter of a Mac beside a file."""
    path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    path.with_name(".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")


def case_json(root: Path) -> Path:
    for name, label_map in {
        "one": {"1": "liver", "2": "kidney_left", "3": "kidney_right"},
        "two": {"4": "Odd_name"},
    }.items():
        save(root / name / "image.nii.gz", image())
        save(root / name / "image_t1c.nii.gz", image())
        save(root / name / "labels.nii.gz", labels(*map(int, label_map)))
        what = {
            "id": f"case_{name}",
            "subject": "person",
            "modality": "MR",
            "label_map": label_map,
            "label_quality": "gold",
            "licence": "CC0",
            "split": "dev",
            "channels": {"image.nii.gz": "FLAIR", "image_t1c.nii.gz": "T1c"},
            "something new": [1, 2],
        }
        (root / name / "case.json").write_text(json.dumps(what))
        hide(root / name / "image.nii.gz")
    (root / "labels_only").mkdir()
    (root / "labels_only" / "case.json").write_text('[{"file": "a.nii.gz"}]')
    return root


def pair(root: Path) -> Path:
    for name in ("a", "b_2"):
        save(root / "images" / f"{name}.nii.gz", image())
        save(root / "labels" / f"{name}_seg.nii.gz", labels(1, 2))
    save(root / "images" / "unlabelled.nii.gz", image())
    hide(root / "images" / "a.nii.gz")
    return root


def single(root: Path) -> Path:
    save(root / "scan.nii.gz", image())
    save(root / "scan_labels.nii.gz", labels(3))
    hide(root / "scan.nii.gz")
    return root


def nnunet(root: Path) -> Path:
    home = root / "Dataset042_Brain"
    for name in ("case_1", "case_2"):
        for channel in (0, 1):
            save(home / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image())
        save(home / "labelsTr" / f"{name}.nii.gz", labels(1, 2, 3, 4))
    save(home / "imagesTs" / "case_9_0000.nii.gz", image())
    what = {
        "channel_names": {"0": "FLAIR", "1": "T1w"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3, "ignore": 4},
        "regions_class_order": [1, 2, 3],
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (home / "dataset.json").write_text(json.dumps(what))
    return root


def nnunet_v1(root: Path) -> Path:
    save(root / "imagesTr" / "patient007_ED_0000.nii.gz", image())
    save(root / "labelsTr" / "patient007_ED.nii.gz", labels(1, 2))
    what = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "Liver", "2": "cancer"}, "training": []}
    (root / "dataset.json").write_text(json.dumps(what))
    return root


def msd(root: Path) -> Path:
    home = root / "Task03_Liver"
    for n in (0, 10):
        hide(save(home / "imagesTr" / f"liver_{n}.nii.gz", image()))
        hide(save(home / "labelsTr" / f"liver_{n}.nii.gz", labels(1, 2)))
    save(home / "imagesTs" / "liver_5.nii.gz", image())
    what = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "licence": "CC-BY-SA 4.0",
        "training": [{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}],
    }
    (home / "dataset.json").write_text(json.dumps(what))
    return root


def msd_brain(root: Path) -> Path:
    save(root / "imagesTr" / "BRATS_001.nii.gz", image(4))
    save(root / "labelsTr" / "BRATS_001.nii.gz", labels(1, 2, 3))
    what = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    }
    (root / "dataset.json").write_text(json.dumps(what))
    return root


def btcv(root: Path) -> Path:
    home = root / "RawData" / "Training"
    for n in (1, 10, 37):
        save(home / "img" / f"img{n:04d}.nii.gz", image())
        save(home / "label" / f"label{n:04d}.nii.gz", labels(1, 2, 3, 6))
    save(root / "RawData" / "Testing" / "img" / "img0061.nii.gz", image())
    return root


def lits(root: Path) -> Path:
    odd = AFFINE @ np.diag([-1, -1, 1, 1])
    for n, affine in ((0, AFFINE), (27, odd)):
        save(root / "Training Batch 1" / f"volume-{n}.nii", image(), affine)
        save(root / "Training Batch 1" / f"segmentation-{n}.nii", labels(1, 2), affine)
    save(root / "Test" / "test-volume-3.nii", image())
    return root


def kits(root: Path) -> Path:
    """Slices on the first axis of the file, so that the array's last axis runs from slice to slice."""
    affine = np.array([[0, 0, -0.7, 50], [0, -0.7, 0, 60], [-3.0, 0, 0, 70], [0, 0, 0, 1]])
    for n in (0, 12):
        save(root / f"case_{n:05d}" / "imaging.nii.gz", image(), affine, qform_only=True)
        save(root / f"case_{n:05d}" / "segmentation.nii.gz", labels(1, 2), affine, qform_only=True)
    (root / "case_00300").mkdir()
    save(root / "case_00300" / "imaging.nii.gz", image(), affine)
    (root / "kits.json").write_text("[]")
    return root


def brats2021(root: Path) -> Path:
    for kind in ("flair", "t1", "t1ce", "t2"):
        save(root / "BraTS2021_00000" / f"BraTS2021_00000_{kind}.nii.gz", image())
    save(root / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz", labels(1, 2, 4))
    return root


def brats2023(root: Path) -> Path:
    for visit in ("000", "001"):
        name = f"BraTS-GLI-00005-{visit}"
        for kind in ("t1n", "t1c", "t2w", "t2f"):
            save(root / name / f"{name}-{kind}.nii.gz", image())
        save(root / name / f"{name}-seg.nii.gz", labels(1, 2, 3))
    return root


def amos(root: Path) -> Path:
    for n in (1, 507):
        save(root / "imagesTr" / f"amos_{n:04d}.nii.gz", image())
        save(root / "labelsTr" / f"amos_{n:04d}.nii.gz", labels(6, 8))
    save(root / "imagesVa" / "amos_0008.nii.gz", image())
    save(root / "labelsVa" / "amos_0008.nii.gz", labels(6))
    save(root / "imagesTs" / "amos_0002.nii.gz", image())
    what = {"name": "AMOS", "modality": {"0": "CT"}, "labels": {"0": "background", "6": "liver", "8": "arota"}}
    (root / "dataset.json").write_text(json.dumps(what))
    return root


def totalsegmentator(root: Path) -> Path:
    for name in ("s0000", "s0010"):
        save(root / name / "ct.nii.gz", image())
        for i, structure in enumerate(("kidney_left", "kidney_right", "liver", "vertebrae_L1")):
            save(root / name / "segmentations" / f"{structure}.nii.gz", np.minimum(labels(i + 1), 1))
        save(root / name / "segmentations" / "prostate.nii.gz", labels())
        hide(root / name / "segmentations" / "liver.nii.gz")
    (root / "meta.csv").write_text("\ufeffimage_id;age;gender;split\ns0000;70;m;train\ns0010;60;f;test\n")
    return root


def totalsegmentator_mr(root: Path) -> Path:
    save(root / "s0001" / "mri.nii.gz", image())
    save(root / "s0001" / "segmentations" / "lung_left.nii.gz", np.minimum(labels(1), 1))
    return root


def acdc(root: Path) -> Path:
    for part, n in (("training", 1), ("testing", 101)):
        home = root / part / f"patient{n:03d}"
        for frame in (1, 12):
            save(home / f"{home.name}_frame{frame:02d}.nii.gz", image())
            save(home / f"{home.name}_frame{frame:02d}_gt.nii.gz", labels(1, 2, 3))
        save(home / f"{home.name}_4d.nii.gz", image(3))
        (home / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    return root


def dicom(path: Path, pixels: np.ndarray, *, z_mm: float, series: str, study: str, number: int, modality: str) -> None:
    """One axial slice at z_mm with spacing 2 mm (rows), 1.5 mm (columns), upper left corner at LPS (10, -20)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SeriesInstanceUID, made.StudyInstanceUID, made.Modality = series, study, modality
    made.FrameOfReferenceUID = study
    made.InstanceNumber, made.SliceThickness = number, 1.0
    made.ImagePositionPatient, made.ImageOrientationPatient = [10.0, -20.0, z_mm], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing = [2.0, 1.5]
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    if modality == "CT":
        made.RescaleSlope, made.RescaleIntercept = 1, 0
    made.PixelData = pixels.astype(np.int16).tobytes()
    pydicom.dcmwrite(path, made, enforce_file_format=True)


def chaos(root: Path) -> Path:
    """Slice number n (from 1) lies at z = 100 - 3 n: numbers and positions run against each other."""
    for modality, folder, step in (("CT", "CT/1", 1), ("MR", "MR/1/T2SPIR", 1), ("MR", "MR/1/T1DUAL", 2)):
        phases = {"InPhase": 0, "OutPhase": -1} if "DUAL" in folder else {"": 0}
        study = generate_uid()
        for phase, shift in phases.items():
            series = generate_uid()
            for n in range(1, 6):
                dicom(
                    root / folder / "DICOM_anon" / phase / f"IMG-0004-{n * step + shift:05d}.dcm",
                    image()[n - 1],
                    z_mm=100 - 3.0 * n,
                    series=series,
                    study=study,
                    number=n,
                    modality=modality,
                )
        (root / folder / "Ground").mkdir(parents=True)
        for n in range(1, 6):
            png = np.zeros((6, 7), dtype=np.uint8)
            if n == 2:
                png[1:3, 0:4] = 255 if modality == "CT" else 63
            if n == 4 and modality == "MR":
                png[4, 5:7] = 189
                png[0, 0] = 252
            name = f"liver_GT_{n - 1:03d}.png" if modality == "CT" else f"IMG-0004-{n * step:05d}.png"
            cv2.imwrite(str(root / folder / "Ground" / name), png)
    return root


def bids(root: Path) -> Path:
    (root).mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    name = "sub-01_ses-a"
    save(root / "sub-01" / "ses-a" / "anat" / f"{name}_T1w.nii.gz", image())
    save(root / "sub-02" / "anat" / "sub-02_T2w.nii.gz", image())
    there = root / "derivatives" / "fs"
    save(there / "sub-01" / "ses-a" / "anat" / f"{name}_space-orig_desc-aseg_dseg.nii.gz", labels(1, 2))
    (there / "desc-aseg_dseg.tsv").write_text("index\tname\n0\tUnknown\n1\tLeft-Thalamus\n2\tRight-Thalamus\n")
    save(there / "sub-02" / "anat" / "sub-02_label-lesion_mask.nii.gz", np.minimum(labels(3), 1))
    return root


def npz(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    whole = {"spacing": (1.5, 2.0, 3.0), "direction": np.eye(3).ravel(), "origin": (10.0, -20.0, 30.0)}
    np.savez_compressed(root / "CT_a.npz", imgs=image().astype(np.uint8), gts=labels(1, 2), **whole)
    np.savez_compressed(root / "MR_b.npz", imgs=image().astype(np.uint8), gts=labels(1), spacing=(1.5, 2.0, 3.0))
    return root


def npz_apart(root: Path) -> Path:
    for folder, name, array in (("3D_val_npz", "imgs", image().astype(np.uint8)), ("3D_val_gt", "gts", labels(2))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        np.savez_compressed(root / folder / "CT_x.npz", **{name: array})
    return root


TREES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    make.__name__: (layout, make)
    for layout, makes in {
        "case-json": (case_json,),
        "pair": (pair,),
        "single": (single,),
        "nnunet": (nnunet, nnunet_v1),
        "msd": (msd, msd_brain),
        "btcv": (btcv,),
        "lits": (lits,),
        "kits": (kits,),
        "brats": (brats2021, brats2023),
        "amos": (amos,),
        "totalsegmentator": (totalsegmentator, totalsegmentator_mr),
        "acdc": (acdc,),
        "chaos": (chaos,),
        "bids": (bids,),
        "npz": (npz, npz_apart),
    }.items()
    for make in makes
}
