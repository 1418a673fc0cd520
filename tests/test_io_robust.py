"""No input ends in anything but a `FileError`, and no header makes us allocate what it pleases."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_makers import saved, series
from segwise import io
from segwise.errors import FileError
from segwise.io import dicom_files

NAMES = ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mgz", "a.dcm", "a.zip", "a.img", "a.hdr", "a", "a.png")


def refused(path: Path, **arguments: object) -> str:
    """The message; every entry point refuses with a FileError, and `inspect` never raises."""
    messages = []
    for reader in (io.read, io.read_labels):
        with pytest.raises(FileError) as caught:
            reader(path, **arguments)  # type: ignore[operator]
        messages.append(str(caught.value))
    assert not io.would_read(io.inspect(path, **arguments))  # type: ignore[arg-type]
    assert messages[0]
    return messages[0]


GARBAGE = (b"", b"\0", b"\x1f\x8b", b"garbage " * 100, b"\x1f\x8b\x08\0" + b"x" * 50, b"PK\x03\x04" + b"x" * 99)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", GARBAGE)
def test_garbage(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "Traceback" not in refused(tmp_path / name)


def test_missing_empty_and_folders(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.nii.gz")
    assert "holds no DICOM" in refused(tmp_path)
    (tmp_path / "e.nii.gz").write_bytes(b"")
    assert "empty (0 bytes)" in refused(tmp_path / "e.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refused(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"x")
    (tmp_path / "a.nii").chmod(0)
    assert "permission" in refused(tmp_path / "a.nii")


def originals(folder: Path) -> list[Path]:
    array = np.random.default_rng(0).integers(0, 900, (9, 8, 7)).astype(np.int16)
    grid = np.diag([2.0, 3.0, 4.0, 1.0])
    nib.save(nib.Nifti1Image(array, grid), folder / "a.nii")
    nib.save(nib.Nifti1Image(array, grid), folder / "a.nii.gz")
    nib.save(nib.Nifti2Image(array, grid), folder / "b.nii")
    nib.save(nib.MGHImage(array, grid), folder / "a.mgz")
    nib.save(nib.MGHImage(array, grid), folder / "a.mgh")
    scan = io.read(folder / "a.nii")
    for name in ("a.nrrd", "a.mha"):
        io.write_mask(folder / name, scan.volume.array[0], scan.header)
    series(1)[0].save_as(folder / "a.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for file in originals(tmp_path):
        data = file.read_bytes()
        for share in (0.02, 0.3, 0.6, 0.95):
            file.write_bytes(data[: int(len(data) * share)])
            refused(file)
        if not file.suffix.startswith(".mg"):  # its tail holds tags that are not read
            file.write_bytes(data[:-3])
            refused(file)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "originals"
    if not folder.exists():
        folder.mkdir()
        originals(folder)
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, min(len(raw), 900) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / f"broken{''.join(file.suffixes)}"
    broken.write_bytes(raw)
    for reader in (io.read, io.read_labels):
        try:
            reader(broken)
        except FileError as error:
            assert str(error)
    for entry in io.inspect(broken):
        entry.lines()


def header(shape: tuple[int, ...], dtype: int = 16) -> bytes:
    head = bytearray(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)).to_bytes()[:352])
    head[40 : 40 + 2 * (1 + len(shape))] = struct.pack(f"<{1 + len(shape)}h", len(shape), *shape)
    head[70:72] = struct.pack("<h", dtype)
    return bytes(head)


@pytest.mark.parametrize("shape", [(3000, 3000, 3000), (512, 512, 512), (32767, 32767, 32767, 32767)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_small_nifti_cannot_ask_for_much(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    raw = header(shape) + bytes(600)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    tracemalloc.start()
    message = refused(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ("limit" in message) == (shape != (512, 512, 512)) and peak < 20e6


def test_text_headers_cannot_ask_for_much(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: float\ndimension: 3\nsizes: 3000 3000 3000\nspace: RAS\nencoding: gzip\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\n\n" + gzip.compress(bytes(99))
    )
    head = b"NDims = 3\nDimSize = 900 900 900\nElementSpacing = 1 1 1\nElementType = MET_SHORT\nCompressedData = True\n"
    (tmp_path / "a.mha").write_bytes(head + b"ElementDataFile = LOCAL\n" + zlib.compress(bytes(99)))
    assert "limit" in refused(tmp_path / "a.nrrd")
    assert "cannot hold that many" in refused(tmp_path / "a.mha")


def test_a_bomb_behind_the_voxels_is_not_unpacked(tmp_path: Path) -> None:
    raw = header((4, 5, 6)) + bytes(4 * 120)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw + bytes(90_000_000), 9))
    tracemalloc.start()
    io.read(tmp_path / "a.nii.gz")
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_archives_are_weighed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.dcm", bytes(2_000_000))
    limits = io.Limits(max_bytes=5_000_000)
    with pytest.raises(FileError, match=r"unpacks to 3 files and 6\.0 MB"):
        io.read(tmp_path / "a.zip", limits=limits)
    with pytest.raises(FileError, match="more than the limit of 2"):
        io.read(saved(tmp_path / "s", series()), limits=io.Limits(max_files=2))
    inner = (tmp_path / "a.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.zip", inner)
    assert "holds no DICOM" in refused(tmp_path / "b.zip")


def test_a_deflated_bomb_is_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_files, "MAX_DEFLATED_BYTES", 30_000_000)
    one = series(1)[0]
    one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    one.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    raw = (tmp_path / "a.dcm").read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join([machine.compress(bytes(10_000_000)) for _ in range(9)]) + machine.flush()
    (tmp_path / "a.dcm").write_bytes(raw[:start] + bomb)
    tracemalloc.start()
    refused(tmp_path / "a.dcm")
    assert tracemalloc.get_traced_memory()[1] < 25e6
    tracemalloc.stop()


def test_limits_can_be_raised_and_lowered(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((50, 50, 50), np.float32), np.eye(4)), tmp_path / "a.nii")
    io.read(tmp_path / "a.nii")
    with pytest.raises(FileError, match="500 kB, more than the limit of 100 kB"):
        io.read(tmp_path / "a.nii", limits=io.Limits(max_bytes=100_000))


def test_a_changed_byte_in_a_gzip_is_noticed(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9999, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    raw = bytearray((tmp_path / "a.nii.gz").read_bytes())
    raw[len(raw) // 2] ^= 0x10
    (tmp_path / "a.nii.gz").write_bytes(raw)
    refused(tmp_path / "a.nii.gz")
