"""Nothing personal leaves a header: planted in every field of every format, searched in everything that comes out."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Extension
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_makers import saved, series
from segwise import io
from segwise.errors import FileError

SECRET = "Planted"  # with any number behind it
VALUES = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC"}
KEPT = {"SpecificCharacterSet", "SegmentLabel", "ROIName"}


def plant(dataset: Dataset) -> None:
    """Every text field of the DICOM dictionary, UIDs, dates, and a private block."""
    n = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in TEXT and keyword and keyword not in KEPT and Tag(tag).group not in (0, 2) and keyword not in dataset:
            setattr(dataset, keyword_for_tag(tag), f"{SECRET}{n}")
            n += 1
    assert n > 700
    dataset.PatientBirthDate, dataset.StudyDate = "19991231", "19991230"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "1.99.1", "1.99.2"
    dataset.SeriesInstanceUID = "1.99.3"
    block = dataset.private_block(0x0099, f"{SECRET} creator", create=True)
    block.add_new(1, "LO", f"{SECRET} private")


def everything(path: Path, folder: Path, **arguments: object) -> str:
    """All that reading, inspecting, failing and writing says or stores about a path."""
    texts: list[str] = []
    entries = io.inspect(path)
    texts += [line for e in entries for line in e.lines()]
    texts += [json.dumps(e.to_json()) for e in entries] + [repr(e) for e in entries]
    try:
        scan = io.read(path)
        texts += [repr(scan), repr(scan.header), repr(scan.volume.channels), *map(repr, scan.findings)]
        folder.mkdir(exist_ok=True)
        for ending in (".nii", ".nii.gz", ".nrrd", ".mha"):
            out = io.write_mask(folder / f"m{ending}", scan.volume.array[0] > 5, scan.header)
            raw = out.read_bytes()
            raw = gzip.decompress(raw) if ending == ".nii.gz" else raw
            texts.append(raw.decode("latin-1"))
    except FileError as error:
        texts += [str(error), repr(error.__cause__), "" if error.__suppress_context__ else repr(error.__context__)]
    try:
        labels = io.read_labels(path, **arguments)  # type: ignore[arg-type]
        texts += [repr(labels.findings), repr(labels.header), repr(labels.names)]
    except FileError as error:
        texts += [str(error), repr(error.__cause__)]
    return "\n".join(texts)


def clean(text: str) -> bool:
    return SECRET not in text and not any(f"1.99.{i}" in text for i in (1, 2, 3)) and "19991231" not in text


def broken(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    half = bytearray(raw)
    half[len(raw) // 2 :: 97] = b"\xff" * len(half[len(raw) // 2 :: 97])
    return [raw[: len(raw) // 2], raw[:-40], bytes(half)]


def check(path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert clean(everything(path, folder))
    whole = path.read_bytes()
    for raw in broken(path):
        path.write_bytes(raw)
        assert clean(everything(path, folder))
    path.write_bytes(whole)
    out, err = capfd.readouterr()
    assert clean(out) and clean(err)


def test_dicom(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    slices = series()
    for s in slices:
        plant(s)
    folder = saved(tmp_path / "s", slices)
    assert io.would_read(io.inspect(folder))
    assert clean(everything(folder, tmp_path / "out"))
    check(sorted(folder.iterdir())[0], tmp_path / "out", capfd)
    assert all(clean(str(w.message)) for w in recwarn if "io" in str(w.filename))


@pytest.mark.parametrize("fault", ["gap", "colour", "two series", "no spacing", "bad numbers"])
def test_faulty_dicom(tmp_path: Path, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    slices = series()
    for s in slices:
        plant(s)
    if fault == "gap":
        del slices[2]
    elif fault == "colour":
        for s in slices:
            s.PhotometricInterpretation = f"{SECRET}"
    elif fault == "two series":
        more = copy.deepcopy(slices)
        for s in more:
            s.SeriesInstanceUID = "1.99.31"
        slices += more
    elif fault == "no spacing":
        for s in slices:
            del s.PixelSpacing
    else:
        for s in slices:
            s.Modality = SECRET.upper()
            s.ImageType = [SECRET, SECRET]
            s.AcquisitionTime = "1999"
    folder = saved(tmp_path / "s", slices)
    assert clean(everything(folder, tmp_path / "out"))
    out, err = capfd.readouterr()
    assert clean(out) and clean(err)


def test_real_dicom_carries_no_name(awkward: Path, tmp_path: Path) -> None:
    import pydicom

    for file in sorted(awkward.glob("*.dcm")):
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        keys = (
            "PatientName",
            "PatientID",
            "StudyDescription",
            "SeriesDescription",
            "InstitutionName",
            "StudyInstanceUID",
        )
        private = [str(dataset.get(k) or "") for k in (*keys, "SeriesInstanceUID", "SOPInstanceUID")]
        text = everything(file, tmp_path / "out").replace(file.name, "")
        assert not [p for p in private if len(p) > 4 and p in text], file.name


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti(tmp_path: Path, kind: type, ending: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = kind(VALUES.T, np.diag([2.0, 3.0, 4.0, 1.0]))
    for i, field in enumerate(("descrip", "aux_file", "intent_name")):
        image.header[field] = f"{SECRET}{i}"
    if kind is nib.Nifti1Image:
        image.header["db_name"], image.header["data_type"] = f"{SECRET}3", f"{SECRET}4"[:10]
    for code in (2, 4, 6):
        image.header.extensions.append(Nifti1Extension(code, f"{SECRET} extension".encode()))
    nib.save(image, tmp_path / f"a{ending}")
    assert io.would_read(io.inspect(tmp_path / f"a{ending}"))
    check(tmp_path / f"a{ending}", tmp_path / "out", capfd)


def test_analyze(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = nib.Spm2AnalyzeImage(VALUES.T, np.diag([-2.0, 3.0, 4.0, 1.0]))
    for field in ("descrip", "aux_file", "patient_id", "scannum", "generated", "exp_date", "exp_time", "db_name"):
        image.header[field] = SECRET[: image.header[field].dtype.itemsize]
    nib.save(image, tmp_path / "a.img")
    check(tmp_path / "a.hdr", tmp_path / "out", capfd)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nhdr", "a.mhd"])
def test_itk_formats(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((2, 3, 4))
    for i, key in enumerate(("Patient", "0010|0010", "Segment0_Name", "Comment", "Name", "ObjectSubType")):
        image.SetMetaData(key, f"{SECRET}{i}")
    sitk.WriteImage(image, str(tmp_path / name), False)
    text = (tmp_path / name).read_bytes()
    assert SECRET.encode() in text
    if name == "a.nrrd":
        text = text.replace(b"type: short", f"# {SECRET}\ncontent: {SECRET}\ntype: short".encode(), 1)
        (tmp_path / name).write_bytes(text)
    assert io.would_read(io.inspect(tmp_path / name))
    check(tmp_path / name, tmp_path / "out", capfd)


def test_mgz(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nib.save(nib.MGHImage(VALUES.T, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.mgh")
    with (tmp_path / "a.mgh").open("ab") as stream:
        stream.write(f"{SECRET} command line".encode())
    check(tmp_path / "a.mgh", tmp_path / "out", capfd)
