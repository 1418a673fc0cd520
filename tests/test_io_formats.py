"""NIfTI, Analyze, NRRD, MetaImage and MGZ: values and place against nibabel and SimpleITK."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from segwise import io
from segwise.errors import FileError

VALUES = np.random.default_rng(0).integers(-500, 500, (5, 6, 7)).astype(np.int16)  # [d, h, w]
AFFINE = np.array([[-0.7, 0.02, 0.1, 11], [0.03, 0.9, -0.2, -22.5], [0.1, 0.2, 3.1, 33.25], [0, 0, 0, 1]])


def nifti(path: Path, array: np.ndarray = VALUES, affine: np.ndarray | None = None, **fields: int) -> Path:
    """A NIfTI of an array [d, h, w] (or [t, d, h, w])."""
    turn = np.diag([-2.0, 3.0, 4.0, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(array.transpose(*range(array.ndim)[::-1]), turn)
    image.set_qform(turn, 1, strip_shears=True)
    image.set_sform(turn, 2)
    nib.save(image, path)
    if fields:  # nibabel would renew the codes
        raw = bytearray(gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes())
        for key, value in fields.items():
            at = {"qform_code": 252, "sform_code": 254}[key]
            raw[at : at + 2] = int(value).to_bytes(2, "little")
        path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


def codes(findings: tuple[io.Finding, ...]) -> set[str]:
    return {f.code for f in findings if f.level != "note"}


def refused(path: Path, **arguments: object) -> str:
    with pytest.raises(FileError) as caught:
        io.read(path, **arguments)  # type: ignore[arg-type]
    assert not io.would_read(io.inspect(path, **arguments))  # type: ignore[arg-type]
    return str(caught.value)


def test_nifti_is_read_slowest_axis_first(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    scan, theirs = io.read(file), nib.load(file)
    assert scan.volume.grid.shape == (5, 6, 7)
    assert np.array_equal(scan.volume.array[0], np.asarray(theirs.dataobj).T)
    assert np.array_equal(scan.volume.grid.affine, theirs.affine[:, [2, 1, 0, 3]])
    assert scan.volume.array.dtype == np.int16


@pytest.mark.parametrize(("slope", "inter", "dtype"), [(1, -1024, "int16"), (2, 0, "int16"), (0.5, 3, "float32")])
def test_scaling(tmp_path: Path, slope: float, inter: float, dtype: str) -> None:
    image = nib.Nifti1Image(VALUES.T, np.diag([2.0, 3.0, 4.0, 1.0]))
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    volume = io.read(tmp_path / "a.nii").volume
    assert np.allclose(volume.array[0], VALUES * slope + inter) and volume.array.dtype == dtype


def test_forms_that_disagree_are_named_and_both_kept(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    image = nib.load(file)
    other = np.diag([2.0, 3.0, 4.0, 1.0])
    other[:3, 3] = 5
    image.set_qform(other, 1)
    nib.save(image, file)
    scan = io.read(file)
    assert codes(scan.findings) == {"forms-disagree"}
    out = nib.load(io.write_mask(tmp_path / "m.nii.gz", VALUES > 0, scan.header))
    assert np.allclose(out.get_qform(), other) and np.array_equal(out.get_sform(), nib.load(file).get_sform())
    assert (int(out.header["qform_code"]), int(out.header["sform_code"])) == (1, 2)


@pytest.mark.parametrize("code", ["qform", "sform"])
def test_one_form_alone(tmp_path: Path, code: str) -> None:
    file = nifti(tmp_path / "a.nii.gz", **{f"{'s' if code == 'qform' else 'q'}form_code": 0})
    scan, theirs = io.read(file), nib.load(file)
    assert np.allclose(scan.volume.grid.affine, theirs.affine[:, [2, 1, 0, 3]])
    out = nib.load(io.write_mask(tmp_path / "m.nii", VALUES > 0, scan.header))
    assert np.array_equal(out.header["pixdim"][:4], theirs.header["pixdim"][:4])
    for key in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x"):
        assert np.array_equal(out.header[key], theirs.header[key])
    assert int(out.header[f"{code}_code"]) > 0 and np.array_equal(out.affine, theirs.affine)


def test_no_forms_with_spacing_is_a_warning_and_without_a_refusal(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii", qform_code=0, sform_code=0)
    scan = io.read(file)
    assert codes(scan.findings) == {"no-forms"}
    assert np.allclose(scan.volume.grid.affine, nib.load(file).affine[:, [2, 1, 0, 3]])
    raw = bytearray(file.read_bytes())
    raw[80:92] = bytes(12)
    file.write_bytes(raw)
    assert "no spacing" in refused(file)
    scan = io.read(file, spacing_mm=(4, 3, 2))
    assert np.allclose(scan.volume.grid.spacing_mm, (4, 3, 2)) and "spacing-given" in codes(scan.findings)
    again = io.read(io.write_mask(tmp_path / "m.nii.gz", VALUES > 0, scan.header))
    assert np.allclose(again.volume.grid.affine, scan.volume.grid.affine)
    assert "three positive numbers" in refused(file, spacing_mm=(0, 1, 1))


def test_stated_spacing_is_not_overruled(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii")
    assert "leave it out" in refused(file, spacing_mm=(9, 9, 9))
    assert io.read(file, spacing_mm=(4, 3, 2)).volume.grid.spacing_mm == (4, 3, 2)


def test_4d_is_read_with_a_warning_or_by_volume(tmp_path: Path) -> None:
    four = np.stack([VALUES, VALUES + 1, VALUES + 2])
    file = nifti(tmp_path / "a.nii.gz", four)
    scan = io.read(file)
    assert np.array_equal(scan.volume.array[0], VALUES)
    assert any("volume=N" in str(f) for f in scan.findings if f.code == "4d")
    assert np.array_equal(io.read(file, volume=2).volume.array[0], VALUES + 2)
    assert np.array_equal(io.read(file, channels=True).volume.array, four)
    assert "no volume 3" in refused(file, volume=3)
    assert io.peek(file).n_volumes == 3 and io.peek(file).grid.shape == (5, 6, 7)
    assert nib.load(io.write_mask(tmp_path / "m.nii.gz", VALUES > 0, scan.header)).shape == (7, 6, 5)


def test_more_or_fewer_axes(tmp_path: Path) -> None:
    assert "is 2D" in refused(nifti(tmp_path / "a.nii", VALUES[0]))
    scan = io.read(tmp_path / "a.nii", spacing_mm=(5, 3, 2))
    assert scan.volume.grid.shape == (1, 6, 7) and "one-slice" in codes(scan.findings)
    assert np.allclose(scan.volume.grid.spacing_mm, (5, 3, 2))
    again = io.read(io.write_mask(tmp_path / "m.nii.gz", VALUES[:1] > 0, scan.header))
    assert np.allclose(again.volume.grid.affine, scan.volume.grid.affine)
    assert "5 dimensions" in refused(nifti(tmp_path / "b.nii", np.zeros((3, 1, 5, 6, 7), np.float32)))
    assert io.read(nifti(tmp_path / "c.nii", VALUES[None, None])).volume.grid.shape == (5, 6, 7)


def test_nan_is_replaced_and_said(tmp_path: Path) -> None:
    array = VALUES.astype(np.float32)
    array[0, 0, 0], array[0, 0, 1], array[0, 0, 2] = np.nan, np.inf, -np.inf
    scan = io.read(nifti(tmp_path / "a.nii", array))
    assert codes(scan.findings) == {"not-finite"}
    low, high = array[np.isfinite(array)].min(), array[np.isfinite(array)].max()
    assert scan.volume.array[0, 0, 0, :3].tolist() == [low, high, low]
    assert "no voxel holds a finite number" in refused(nifti(tmp_path / "b.nii", np.full((3, 4, 5), np.nan)))


def test_rounded_cosines_are_repaired_and_kept_in_the_mask(tmp_path: Path) -> None:
    a = np.radians(20)
    turn = np.eye(4)
    turn[:3, :3] = np.round([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]], 3) @ np.diag([1, 2, 3])
    turn[0, 1] += 0.001
    file = nifti(tmp_path / "a.nii.gz", affine=turn)
    scan = io.read(file)
    assert any(f.code == "rounded-directions" for f in scan.findings)
    assert scan.volume.grid.skew < 1e-9 < scan.header.grid.skew
    assert scan.volume.grid.close(scan.header.grid, tolerance_mm=0.01)
    out = nib.load(io.write_mask(tmp_path / "m.nii.gz", VALUES > 0, scan.header))
    assert np.array_equal(out.affine, nib.load(file).affine)


def test_shear_is_kept_with_a_warning(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii.gz", affine=AFFINE)
    scan = io.read(file)
    assert "shear" in codes(scan.findings) and scan.volume.grid == scan.header.grid
    for name in ("m.nii.gz", "m.nrrd", "m.mha"):
        again = io.read_labels(io.write_mask(tmp_path / name, VALUES > 0, scan.header))
        assert np.abs(again.grid.affine - scan.volume.grid.affine).max() < 1e-5
        assert np.array_equal(again.array, VALUES > 0)


def test_pair_from_either_name_and_missing_halves(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(VALUES.T, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.img")
    a, b = io.read(tmp_path / "a.img").volume, io.read(tmp_path / "a.hdr").volume
    assert a.digest == b.digest and np.array_equal(a.array[0], VALUES)
    (tmp_path / "a.img").rename(tmp_path / "b.img")
    assert "pixel file a.img is missing" in refused(tmp_path / "a.hdr")
    assert "header file b.hdr is missing" in refused(tmp_path / "b.img")


def test_analyze_is_read_with_a_warning(tmp_path: Path) -> None:
    image = nib.Spm2AnalyzeImage(VALUES.T, np.diag([-2.0, 3.0, 4.0, 1.0]))
    nib.save(image, tmp_path / "a.img")
    (tmp_path / "a.mat").unlink(missing_ok=True)
    scan, theirs = io.read(tmp_path / "a.hdr"), nib.load(tmp_path / "a.img")
    assert "analyze" in codes(scan.findings)
    assert np.array_equal(scan.volume.array[0], VALUES)
    assert np.allclose(scan.volume.grid.affine, theirs.affine[:, [2, 1, 0, 3]])
    out = io.read(io.write_mask(tmp_path / "m.nii.gz", VALUES > 0, scan.header))
    assert np.allclose(out.volume.grid.affine, scan.volume.grid.affine)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd", "a.nhdr"])
@pytest.mark.parametrize("packed", [True, False])
def test_itk_formats_agree_with_itk(tmp_path: Path, name: str, packed: bool) -> None:
    image = sitk.GetImageFromArray(VALUES)
    turn, _ = np.linalg.qr(AFFINE[:3, :3])
    image.SetDirection(turn.ravel().tolist())
    image.SetSpacing((0.7, 1.1, 3.2))
    image.SetOrigin((-471.9, 22.5, 33.1))
    sitk.WriteImage(image, str(tmp_path / name), packed)
    scan = io.read(tmp_path / name)
    assert np.array_equal(scan.volume.array[0], VALUES)
    for index in ((0, 0, 0), (1, 2, 3), (4, 5, 6)):
        lps = image.TransformIndexToPhysicalPoint(index[::-1])
        assert np.allclose(scan.volume.grid.mm(index)[0] * [-1, -1, 1], lps, atol=1e-9)


@pytest.mark.parametrize("name", ["mha.mha", "test3d_bigendian_raw.nrrd"])
def test_real_itk_formats_agree_with_itk(awkward: Path, name: str) -> None:
    image, volume = sitk.ReadImage(str(awkward / name)), io.read(awkward / name).volume
    assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(image))
    assert np.allclose(volume.grid.mm((1, 2, 0))[0] * [-1, -1, 1], image.TransformIndexToPhysicalPoint((0, 2, 1)))


def nrrd(path: Path, lines: list[str], data: bytes) -> Path:
    path.write_bytes("\n".join(["NRRD0005", *lines, "", ""]).encode() + data)
    return path


SMALL = np.arange(60, dtype="<i2").reshape(5, 4, 3)
LINES = ["type: short", "dimension: 3", "sizes: 3 4 5", "endian: little", "encoding: raw"]


@pytest.mark.parametrize(
    ("space", "signs"), [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1))]
)
def test_nrrd_spaces(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    more = [f"space: {space}", "space directions: (1,0,0) (0,2,0) (0,0,3)", "space origin: (10,20,30)"]
    volume = io.read(nrrd(tmp_path / "a.nrrd", LINES + more, SMALL.tobytes())).volume
    assert np.array_equal(volume.array[0], SMALL)
    assert np.allclose(volume.grid.mm((1, 1, 1)), np.array([11, 22, 33]) * signs)


def test_nrrd_other_encodings(tmp_path: Path) -> None:
    import bz2

    more = [*LINES[:4], "spacings: 1 2 3"]
    forms = {
        "bzip2": bz2.compress(SMALL.tobytes()),
        "gzip": gzip.compress(SMALL.tobytes()),
        "ascii": " ".join(map(str, SMALL.ravel())).encode(),
        "hex": SMALL.tobytes().hex().encode(),
    }
    for kind, data in forms.items():
        scan = io.read(nrrd(tmp_path / f"{kind}.nrrd", [*more, f"encoding: {kind}"], data))
        assert np.array_equal(scan.volume.array[0], SMALL) and codes(scan.findings) == {"no-space"}


def test_nrrd_without_spacing(tmp_path: Path) -> None:
    file = nrrd(tmp_path / "a.nrrd", LINES, SMALL.tobytes())
    assert "no spacing" in refused(file)
    assert io.read(file, spacing_mm=(3, 2, 1)).volume.grid.spacing_mm == (3, 2, 1)


def test_nrrd_lists_of_volumes_and_colours(tmp_path: Path) -> None:
    four = ["type: short", "dimension: 4", "sizes: 2 3 4 5", "endian: little", "encoding: raw", "space: RAS"]
    where = "space directions: none (1,0,0) (0,2,0) (0,0,3)"
    data = np.stack([SMALL, SMALL + 100], axis=-1).astype("<i2").tobytes()
    file = nrrd(tmp_path / "a.nrrd", [*four, where, "kinds: list domain domain domain"], data)
    assert np.array_equal(io.read(file, volume=1).volume.array[0], SMALL + 100)
    assert codes(io.read(file).findings) == {"4d"}
    file = nrrd(tmp_path / "b.nrrd", [*four, where, "kinds: RGB-color domain domain domain"], data)
    assert "colours" in refused(file)


def test_metaimage_without_spacing_and_with_channels(tmp_path: Path) -> None:
    head = "NDims = 3\nDimSize = 3 4 5\nElementType = MET_SHORT\n{}ElementDataFile = LOCAL\n"
    file = tmp_path / "a.mha"
    file.write_bytes(head.format("").encode() + SMALL.tobytes())
    assert "no ElementSpacing" in refused(file)
    file.write_bytes(head.format("ElementSpacing = 1 2 3\nElementNumberOfChannels = 3\n").encode() + SMALL.tobytes())
    assert "several numbers a voxel" in refused(file)


@pytest.mark.parametrize("elsewhere", ["../b.raw", "/etc/hostname", "sub/b.raw"])
def test_voxels_in_another_folder_are_refused(tmp_path: Path, elsewhere: str) -> None:
    head = (
        f"NDims = 3\nDimSize = 1 1 1\nElementSpacing = 1 1 1\nElementType = MET_CHAR\nElementDataFile = {elsewhere}\n"
    )
    (tmp_path / "a.mhd").write_text(head)
    assert "another folder" in refused(tmp_path / "a.mhd")


@pytest.mark.parametrize("ending", ["mgz", "mgh"])
def test_mgh_agrees_with_nibabel(tmp_path: Path, ending: str) -> None:
    theirs = nib.MGHImage(VALUES.T.astype(np.float32), AFFINE.astype(np.float32))
    nib.save(theirs, tmp_path / f"a.{ending}")
    scan, theirs = io.read(tmp_path / f"a.{ending}"), nib.load(tmp_path / f"a.{ending}")
    assert np.array_equal(scan.volume.array[0], VALUES)
    assert np.allclose(scan.header.grid.affine, theirs.affine[:, [2, 1, 0, 3]], atol=1e-4)


def test_content_decides_not_the_ending(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii")
    file.rename(tmp_path / "b.nii.gz")
    assert np.array_equal(io.read(tmp_path / "b.nii.gz").volume.array[0], VALUES)


@pytest.mark.parametrize(("array", "dtype", "code"), [
    (np.array([0.0, 3.0]), "uint8", "float-labels"),
    (np.array([0.0, 299.9999]), "uint16", "near-integers"),
    (np.array([0, 70000]), "uint32", None),
])  # fmt: skip
def test_labels_become_the_smallest_integers(tmp_path: Path, array: np.ndarray, dtype: str, code: str | None) -> None:
    values = np.resize(array, (5, 6, 7)).astype(np.float32 if array.dtype.kind == "f" else np.int32)
    labels = io.read_labels(nifti(tmp_path / "a.nii", values))
    assert labels.array.dtype == dtype and np.array_equal(labels.array, np.rint(values))
    assert code is None or any(f.code == code for f in labels.findings)


@pytest.mark.parametrize(("value", "says"), [(0.4, "not whole"), (-1, "negative"), (np.nan, "NaN")])
def test_what_is_no_label(tmp_path: Path, value: float, says: str) -> None:
    with pytest.raises(FileError, match=says):
        io.read_labels(nifti(tmp_path / "a.nii", np.full((5, 6, 7), value, np.float32)))


def test_modality_is_guessed_from_values() -> None:
    rng = np.random.default_rng(0)
    ct = np.where(rng.random((20, 20, 20)) < 0.4, -1000, rng.normal(40, 60, (20, 20, 20)))
    assert io.guess_modality(ct) == "CT"
    assert io.guess_modality(rng.gamma(2, 100, (20, 20, 20))) == "MR"
    assert io.guess_modality(rng.normal(0, 1, (20, 20, 20))) == "MR"
    assert io.guess_modality(np.zeros((5, 6, 7))) == ""
    assert io.guess_modality(np.kron(np.arange(8).reshape(2, 2, 2), np.ones((5, 5, 5)))) == ""


def test_real_modalities(data: Path) -> None:
    for folder in sorted(p for p in data.iterdir() if (p / "image.nii.gz").exists()):
        scan = io.read(folder / "image.nii.gz")
        assert io.guess_modality(scan.volume.array[0]) == folder.name[:2].upper(), folder.name
