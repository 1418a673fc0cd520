"""DICOM series: spacing from positions, every fault found and named, nothing closed or guessed silently."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from dicom_makers import enhanced, saved, series, slice_of
from segwise import io
from segwise.errors import FileError
from segwise.geometry import regrid

EXPECTED = 100 * np.arange(6)[:, None, None] + np.arange(35).reshape(5, 7) - 1000


def codes(findings: tuple[io.Finding, ...]) -> set[str]:
    return {f.code for f in findings if f.level != "note"}


def refused(path: Path, **arguments: object) -> str:
    with pytest.raises(FileError) as caught:
        io.read(path, **arguments)  # type: ignore[arg-type]
    entries = io.inspect(path, **{k: v for k, v in arguments.items() if k in ("series", "volume", "spacing_mm")})
    assert not io.would_read(entries) or "choose" in str(caught.value)
    return str(caught.value)


def test_spacing_comes_from_positions_and_order_from_space(tmp_path: Path) -> None:
    scan = io.read(saved(tmp_path / "s", series()))
    assert np.array_equal(scan.volume.array[0], EXPECTED)
    assert scan.volume.grid.axes == "SPL"
    assert np.allclose(scan.volume.grid.spacing_mm, (2.5, 0.5, 0.8))  # not the thickness of 9.9
    assert np.allclose(scan.volume.grid.mm((0, 0, 0)), (20, 30, 40))  # LPS becomes RAS
    assert np.allclose(scan.volume.grid.mm((1, 2, 3)), (20 - 3 * 0.8, 30 - 2 * 0.5, 42.5))
    assert not codes(scan.findings)
    assert scan.volume.channels[0].modality == "CT"


def test_descending_positions_give_the_same_volume(tmp_path: Path) -> None:
    up, down = series(), series(step=(0, 0, -2.5))
    a = io.read(saved(tmp_path / "a", up)).volume
    b = io.read(saved(tmp_path / "b", down)).volume
    assert np.array_equal(b.array[0], EXPECTED[::-1])
    assert b.grid.mm((5, 0, 0))[0][2] == a.grid.mm((0, 0, 0))[0][2]


def test_missing_slice_is_named_and_refused(tmp_path: Path) -> None:
    slices = series(8)
    message = refused(saved(tmp_path / "s", slices[:3] + slices[4:]))
    assert "1 slice is missing" in message and "between 45.00 and 50.00 mm" in message


def test_real_missing_slice(awkward: Path) -> None:
    message = refused(awkward / "dicom_missing_slice")
    assert "1 slice is missing" in message and "z = 17.20 and 22.89 mm" in message


def test_irregular_spacing_is_refused(tmp_path: Path) -> None:
    slices = series(6)
    for d, z in enumerate((40, 42, 45.1, 47, 50.3, 52)):
        slices[d].ImagePositionPatient = [-20.0, -30.0, z]
    assert "irregularly spaced" in refused(saved(tmp_path / "s", slices))


def test_slightly_uneven_steps_are_read_with_a_warning(tmp_path: Path) -> None:
    slices = series(6)
    slices[2].ImagePositionPatient = [-20.0, -30.0, 45.1]
    scan = io.read(saved(tmp_path / "s", slices))
    assert codes(scan.findings) == {"uneven"}
    assert np.allclose(scan.volume.grid.spacing_mm, (2.5, 0.5, 0.8))


def test_gantry_tilt_becomes_a_true_shear(tmp_path: Path) -> None:
    scan = io.read(saved(tmp_path / "s", series(step=(0, 0.7, 2.5))))
    assert {"gantry-tilt", "shear"} <= codes(scan.findings)
    assert np.allclose(scan.volume.grid.mm((5, 0, 0)), (20, 30 - 3.5, 52.5))
    out = io.write_mask(tmp_path / "m.nii.gz", scan.volume.array[0] > -800, scan.header)
    again = io.read(out)
    assert np.abs(again.volume.grid.affine - scan.header.grid.affine).max() < 1e-5


def test_slices_that_wander_sideways_are_refused(tmp_path: Path) -> None:
    slices = series(6)
    slices[3].ImagePositionPatient = [-16.0, -30.0, 47.5]
    assert "irregularly spaced" in refused(saved(tmp_path / "s", slices))


def test_mixed_orientations_are_listed_apart(tmp_path: Path) -> None:
    coronal = series(5, step=(0, 3, 0), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    folder = saved(tmp_path / "s", series() + coronal)
    message = refused(folder)
    assert "series=N" in message and "series 1: CT, " in message and "series 2: CT, " in message
    sizes = {io.read(folder, series=n).volume.grid.axis_of("axial") for n in (1, 2)}
    assert sizes == {0, 1}
    assert "mixed-orientations" in codes(io.read(folder, series=1).findings)
    assert "no series 3" in refused(folder, series=3)


def test_a_localizer_beside_the_volume_is_left_aside(tmp_path: Path) -> None:
    scout = series(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], SeriesInstanceUID="1.2.3.5", SeriesNumber=1)
    folder = saved(tmp_path / "s", [*series(SeriesNumber=2), *scout])
    scan = io.read(folder)
    assert scan.volume.grid.shape == (6, 5, 7) and "series-chosen" in codes(scan.findings)
    entries = io.inspect(folder)
    assert [(e.series, e.chosen) for e in entries] == [(1, False), (2, True)]
    assert io.would_read(entries)


def test_several_echoes_are_volumes(tmp_path: Path) -> None:
    slices = series(EchoTime=10.0) + series(EchoTime=80.0)
    for s in slices[6:]:
        s.PixelData = (np.frombuffer(s.PixelData, "<i2") + 1).astype("<i2").tobytes()
    folder = saved(tmp_path / "s", slices)
    scan = io.read(folder)
    assert codes(scan.findings) == {"4d"} and np.array_equal(scan.volume.array[0], EXPECTED)
    assert any("told apart by echo" in f.message for f in scan.findings)
    assert np.array_equal(io.read(folder, volume=1).volume.array[0], EXPECTED + 1)
    assert io.read(folder, channels=True).volume.array.shape == (2, 6, 5, 7)
    assert io.peek(folder).n_volumes == 2
    assert "no volume 2" in refused(folder, volume=2)


def test_copies_are_dropped(tmp_path: Path) -> None:
    slices = series()
    folder = saved(tmp_path / "s", slices)
    slices[2].save_as(folder / "zz.dcm", enforce_file_format=True)
    scan = io.read(folder)
    assert {"copies", "duplicate-uid"} == codes(scan.findings)
    assert np.array_equal(scan.volume.array[0], EXPECTED)
    assert any("45.00 mm" in f.message for f in scan.findings if f.code == "duplicate-uid")


def test_two_slices_at_one_position_are_refused(tmp_path: Path) -> None:
    slices = series()
    other = slice_of(np.ones((5, 7)), (-20, -30, 45), InstanceNumber=9)
    message = refused(saved(tmp_path / "s", [*slices, other]))
    assert "1 positions hold more than one slice" in message and "45.00 mm" in message


def test_repeated_whole_volume_without_a_reason(tmp_path: Path) -> None:
    again = series()
    for i, s in enumerate(again):
        s.InstanceNumber = 10 + i
        s.PixelData = (np.frombuffer(s.PixelData, "<i2") + 5).astype("<i2").tobytes()
    scan = io.read(saved(tmp_path / "s", series() + again))
    assert codes(scan.findings) == {"several-volumes", "4d"}
    assert np.array_equal(scan.volume.array[0], EXPECTED)


@pytest.mark.parametrize("uid", ["", "1.2.3.4.5"])
def test_empty_and_duplicate_instance_uids(tmp_path: Path, uid: str) -> None:
    slices = series()
    for s in slices:
        s.SOPInstanceUID = uid
    scan = io.read(saved(tmp_path / "s", slices))
    assert codes(scan.findings) == ({"duplicate-uid"} if uid else {"empty-uid"})
    assert np.array_equal(scan.volume.array[0], EXPECTED)


def test_empty_series_uid(tmp_path: Path) -> None:
    scan = io.read(saved(tmp_path / "s", series(SeriesInstanceUID="")))
    assert codes(scan.findings) == {"empty-uid"}


def test_no_spacing_is_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s", series(PixelSpacing=None))
    assert "spacing_mm=(d, h, w)" in refused(folder)
    scan = io.read(folder, spacing_mm=(2.5, 0.5, 0.8))
    assert np.allclose(scan.volume.grid.spacing_mm, (2.5, 0.5, 0.8)) and codes(scan.findings) == {"spacing-given"}
    assert "leave it out" in refused(saved(tmp_path / "t", series()), spacing_mm=(1, 1, 1))


def test_no_positions(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s", series(ImagePositionPatient=None))
    assert "without position" in refused(folder)
    scan = io.read(folder, spacing_mm=(2.5, 0.5, 0.8))
    assert np.array_equal(scan.volume.array[0], EXPECTED) and "no-place" in codes(scan.findings)


def test_rescale_of_each_slice(tmp_path: Path) -> None:
    slices = series()
    for d, s in enumerate(slices):
        s.RescaleSlope, s.RescaleIntercept = 1 + d, 0.5
    scan = io.read(saved(tmp_path / "s", slices))
    assert np.allclose(scan.volume.array[0], (EXPECTED + 1000) * (1 + np.arange(6))[:, None, None] + 0.5)


def test_window_of_a_ct(tmp_path: Path) -> None:
    scan = io.read(saved(tmp_path / "s", series(WindowCenter=[40, 300], WindowWidth=[400, 1500])))
    assert scan.volume.channels[0].window_hu == (-160, 240)


def test_enhanced_multi_frame_is_put_in_spatial_order(tmp_path: Path) -> None:
    enhanced(series(), [3, 0, 5, 1, 4, 2]).save_as(tmp_path / "e.dcm", enforce_file_format=True)
    scan = io.read(tmp_path / "e.dcm")
    assert np.array_equal(scan.volume.array[0], EXPECTED)
    assert np.allclose(scan.volume.grid.spacing_mm, (2.5, 0.5, 0.8))


def test_enhanced_with_a_missing_frame(tmp_path: Path) -> None:
    enhanced(series(7), [3, 0, 6, 1, 4, 2]).save_as(tmp_path / "e.dcm", enforce_file_format=True)
    assert "1 slice is missing" in refused(tmp_path / "e.dcm")


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_compressed_series(tmp_path: Path, syntax: str) -> None:
    slices = series()
    for s in slices:
        if syntax == DeflatedExplicitVRLittleEndian:
            s.file_meta.TransferSyntaxUID = syntax
        else:
            s.compress(syntax, generate_instance_uid=False)
    scan = io.read(saved(tmp_path / "s", slices))
    assert np.array_equal(scan.volume.array[0], EXPECTED)


def test_jpeg2000_series(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2000, (4, 64, 48))
    slices = [slice_of(page, (-20, -30, 40 + 2.0 * d)) for d, page in enumerate(pixels)]
    for s in slices:
        s.compress(JPEG2000Lossless, generate_instance_uid=False)
    scan = io.read(saved(tmp_path / "s", slices))
    assert np.array_equal(scan.volume.array[0], pixels - 1000)


def test_a_coded_size_that_differs_is_not_decoded(tmp_path: Path) -> None:
    large = slice_of(np.zeros((512, 512)), (0, 0, 0))
    large.compress(JPEG2000Lossless, generate_instance_uid=False)
    large.Rows = large.Columns = 8
    assert "512 x 512, the header declares 8 x 8" in refused(saved(tmp_path / "s", [large]))


def test_an_old_multi_frame_object_has_no_places(tmp_path: Path) -> None:
    slices = series()
    one = slices[0]
    one.NumberOfFrames = 6
    one.PixelData = b"".join(s.PixelData for s in slices)
    one.save_as(tmp_path / "m.dcm", enforce_file_format=True)
    assert "without position" in refused(tmp_path / "m.dcm")
    assert np.array_equal(io.read(tmp_path / "m.dcm", spacing_mm=(2.5, 0.5, 0.8)).volume.array[0], EXPECTED)


def test_zip_of_a_series(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s", series())
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, file in enumerate(sorted(folder.iterdir())):
            archive.write(file, f"../../../tmp/evil{i}.dcm")
        archive.writestr("notes.txt", "not an image")
    scan = io.read(tmp_path / "s.zip")
    assert np.array_equal(scan.volume.array[0], EXPECTED)
    assert not list(tmp_path.glob("**/evil*"))


def test_truncated_pixels_name_the_missing_bytes(tmp_path: Path) -> None:
    slices = series()
    slices[4].PixelData = slices[4].PixelData[:-10]
    folder = saved(tmp_path / "s", slices)
    assert "10 bytes are missing" in refused(folder)


def test_cut_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s", series())
    file = sorted(folder.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-20])
    message = refused(folder)
    assert file.name in message


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert "holds no DICOM image" in refused(tmp_path)


def test_colour_and_mosaic_are_refused(tmp_path: Path) -> None:
    colour = series(1, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8)
    assert "colour" in refused(saved(tmp_path / "c", colour))
    mosaic = series(1, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    assert "mosaic" in refused(saved(tmp_path / "m", mosaic))


def test_other_objects_are_skipped_with_a_note(tmp_path: Path, awkward: Path) -> None:
    folder = saved(tmp_path / "s", series())
    (folder / "plan.dcm").write_bytes((awkward / "rtplan.dcm").read_bytes())
    scan = io.read(folder)
    assert any("RTPLAN" in f.message for f in scan.findings)


def test_real_series_equals_its_nifti_copy(data: Path) -> None:
    folders = [p for p in sorted(data.glob("*/dicom")) if (p.parent / "image.nii.gz").exists()]
    assert folders
    for folder in folders:
        dicom, nifti = io.read(folder).volume, io.read(folder.parent / "image.nii.gz").volume
        there = nifti.grid.toward(dicom.grid.axes)
        assert np.abs(there.affine - dicom.grid.affine).max() < 1e-5
        moved = regrid(dicom.array, dicom.grid, nifti.grid, order=0, outside=-30000)
        assert np.array_equal(moved, nifti.array)


def test_single_compressed_slices(awkward: Path) -> None:
    plain = io.read(awkward / "MR_small_implicit.dcm")
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm"):
        scan = io.read(awkward / name)
        assert np.array_equal(scan.volume.array, plain.volume.array)
        assert codes(scan.findings) == {"one-slice"}
    assert pydicom.dcmread(awkward / "MR_small_implicit.dcm").pixel_array.max() == plain.volume.array.max()


def test_enhanced_time_points_are_volumes(tmp_path: Path) -> None:
    first, second = series(), series()
    for s in second:
        s.PixelData = (np.frombuffer(s.PixelData, "<i2") + 7).astype("<i2").tobytes()
    one = enhanced(first + second, list(range(12)))
    for i, frame in enumerate(one.PerFrameFunctionalGroupsSequence):
        content = pydicom.Dataset()
        content.TemporalPositionIndex = 1 + i // 6
        frame.FrameContentSequence = [content]
    one.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    assert codes(io.read(tmp_path / "e.dcm").findings) == {"4d"}
    assert np.array_equal(io.read(tmp_path / "e.dcm", volume=1).volume.array[0], EXPECTED + 7)
