"""Read, make a mask, write, read: the same voxels at the same place, for every real file and every output format."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segwise import io
from segwise.errors import FileError, GridError
from segwise.geometry import Grid

FORMS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z")


def check(file: Path, folder: Path, ending: str) -> None:
    scan = io.read(file)
    first = scan.volume.array[0]
    mask = first > np.median(first)
    out = io.write_mask(folder / f"mask{ending}", mask, scan.header)
    labels = io.read_labels(out)
    assert np.array_equal(labels.array, mask), file
    assert labels.array.dtype == np.uint8
    assert np.abs(labels.header.grid.affine - scan.header.grid.affine).max() < 1e-5, file
    assert np.abs(labels.grid.affine - scan.volume.grid.affine).max() < 1e-5, file
    if ending.startswith(".nii") and scan.header.format == "nifti":
        theirs, ours = nib.load(file), nib.load(out)
        assert np.array_equal(theirs.affine, ours.affine)
        assert theirs.header.sizeof_hdr == ours.header.sizeof_hdr
        assert all(np.array_equal(theirs.header[k], ours.header[k]) for k in FORMS), file


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_every_case(data: Path, tmp_path: Path, ending: str) -> None:
    files = sorted(data.glob("*/image*.nii.gz")) + sorted(data.glob("*/dicom")) + sorted(data.glob("*/labels*.nii.gz"))
    small = [f for f in files if f.is_dir() or f.stat().st_size < 1_500_000]
    assert small
    for file in files if ending == ".nii.gz" else small:
        check(file, tmp_path, ending)


UNREADABLE = {
    *("analyze.hdr", "spine_report.nii.gz", "complex.nii.gz", "slice_2d.nii.gz", "dicom_missing_slice"),
    *("MR_truncated.dcm", "rtplan.dcm", "examples_ybr_color.dcm", "truncated.nii.gz", "no_spacing_no_forms.nii.gz"),
}
LABELS = {"seg_image_ct_binary.dcm", "seg_image_ct_true_fractional.dcm"}
SAYS = {
    "example4d.nii.gz": "oblique by 9.3 degrees",
    "mpld_asl.nii.gz": "volume=N",
    "example_nifti2.nii.gz": "volume=N",
    "shear.nii.gz": "not orthogonal",
    "analyze.hdr": "analyze.img is missing",
    "spine_report.nii.gz": "colour",
    "complex.nii.gz": "complex",
    "brats_labels_float32.nii.gz": "labels",
    "brainmask_float_not_quite_one.nii.gz": "rounded",
    "slice_2d.nii.gz": "one slice",
    "dicom_missing_slice": "missing",
    "MR_small_RLE.dcm": "one slice is not a volume",
    "JPEG2000.dcm": "one slice is not a volume",
    "MR_small_bigendian.dcm": "one slice is not a volume",
    "MR_small_implicit.dcm": "one slice is not a volume",
    "MR_truncated.dcm": "62 bytes are missing",
    "rtplan.dcm": "RTPLAN",
    "examples_ybr_color.dcm": "colour",
    "seg_image_ct_binary.dcm": "SEG",
    "seg_image_ct_true_fractional.dcm": "fractional",
    "truncated.nii.gz": "incomplete",
    "no_spacing_no_forms.nii.gz": "spacing",
}


def test_every_awkward_file_gets_what_its_table_says(awkward: Path, tmp_path: Path) -> None:
    for file in sorted(p for p in awkward.iterdir() if p.name != "README.md"):
        entries = io.inspect(file)
        text = "\n".join(line for e in entries for line in e.lines())
        assert io.would_read(entries) == (file.name not in UNREADABLE), file.name
        assert SAYS.get(file.name, "") in text, file.name
        if file.name in UNREADABLE | LABELS:
            with pytest.raises(FileError):
                io.read(file)
        else:
            for ending in (".nii.gz", ".nrrd", ".mha"):
                check(file, tmp_path, ending)


def test_a_2d_image_is_read_as_one_slice_on_request(awkward: Path, tmp_path: Path) -> None:
    scan = io.read(awkward / "slice_2d.nii.gz", spacing_mm=(4.0, 1.0, 1.0))
    assert scan.volume.grid.shape == (1, 256, 256) and np.allclose(scan.volume.grid.spacing_mm, (4, 1, 1))
    out = io.write_mask(tmp_path / "m.nii.gz", scan.volume.array[0] > 100, scan.header)
    assert np.abs(io.peek(out).grid.affine - scan.volume.grid.affine).max() < 1e-5


def test_no_spacing_is_read_once_it_is_given(awkward: Path) -> None:
    scan = io.read(awkward / "no_spacing_no_forms.nii.gz", spacing_mm=(3.0, 2.0, 1.0))
    assert np.allclose(scan.volume.grid.spacing_mm, (3, 2, 1))


def test_real_axis_orders(awkward: Path) -> None:
    assert io.read(awkward / "kits19_axis_order.nii.gz").volume.grid.axes == "LPI"
    assert io.read(awkward / "AIL.nii.gz").volume.grid.axes == "LIA"
    for name in ("kits19_axis_order.nii.gz", "wm.mgz"):
        theirs = nib.load(awkward / name)
        grid = io.peek(awkward / name).grid
        assert np.allclose(grid.affine, theirs.affine[:, [2, 1, 0, 3]]) and grid.shape == theirs.shape[::-1]


@pytest.mark.parametrize(("highest", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65536, np.uint32)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_smallest_unsigned_type(tmp_path: Path, highest: int, dtype: type, ending: str) -> None:
    grid = Grid((3, 4, 5), np.diag([3.0, 2.0, 1.0, 1.0]))
    array = np.zeros(grid.shape, np.int64)
    array[1, 2, 3] = highest
    out = io.write_mask(tmp_path / f"m{ending}", array, io.Header.of(grid))
    assert np.array_equal(io.read_labels(out).array, array)
    if ending.startswith(".nii"):
        assert nib.load(out).get_data_dtype() == dtype


def test_an_existing_file_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    header = io.Header.of(Grid((3, 4, 5), np.eye(4)))
    file = tmp_path / "m.nii.gz"
    io.write_mask(file, np.ones((3, 4, 5), bool), header)
    before = file.read_bytes()
    with pytest.raises(GridError, match="shape of the file"):
        io.write_mask(file, np.ones((3, 4, 6), bool), header)
    with pytest.raises(FileError, match="run from -1"):
        io.write_mask(file, np.full((3, 4, 5), -1), header)
    with pytest.raises(FileError, match="bool or integers"):
        io.write_mask(file, np.ones((3, 4, 5)), header)
    assert file.read_bytes() == before
    io.write_mask(file, np.zeros((3, 4, 5), bool), header)
    assert not io.read_labels(file).array.any()
    assert [p.name for p in tmp_path.iterdir()] == ["m.nii.gz"]


@pytest.mark.parametrize("name", ["m.png", "nowhere/m.nii.gz", "nowhere/m.nrrd"])
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError):
        io.write_mask(tmp_path / name, np.ones((3, 4, 5), bool), io.Header.of(Grid((3, 4, 5), np.eye(4))))
    assert not list(tmp_path.iterdir())


def test_segment_names_are_written_into_nrrd(tmp_path: Path) -> None:
    header = io.Header.of(Grid((3, 4, 5), np.eye(4)))
    out = io.write_mask(tmp_path / "m.nrrd", np.ones((3, 4, 5), bool), header, names={1: "liver"})
    assert b"Segment0_Name:=liver" in out.read_bytes()
