"""Decoded values of DICOM frames: sizes are weighed first, rescaling is applied, nothing is clipped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.uid import UID, RLELossless

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.dicom_files import Item, load
from segwise.io.dicom_frames import Frame
from segwise.io.limits import Limits, guarded
from segwise.io.values import scaled


def stacked(name: str, frames: Sequence[Frame], limits: Limits) -> Array:
    """Rescaled values [D, H, W] of frames in the given order; each file is decoded once.

    Raises:
        FileError: too large, truncated, or not decodable.
    """
    first = frames[0]
    limits.declared(name, (len(frames), first.rows, first.columns), 4)
    pages: dict[int, Array] = {}
    for item in dict.fromkeys(f.item for f in frames):
        mine = [i for i, f in enumerate(frames) if f.item is item]
        values = decoded(item, limits)
        pages |= {i: values[frames[i].index] for i in mine}
    kinds = {(f.slope, f.intercept) for f in frames}
    if len(kinds) == 1:
        return scaled(np.stack([pages[i] for i in range(len(frames))]), *next(iter(kinds)))
    each = [scaled(pages[i], f.slope, f.intercept) for i, f in enumerate(frames)]
    dtype = np.float32 if any(p.dtype.kind == "f" for p in each) else np.result_type(*each)
    return np.stack(each).astype(dtype, copy=False)


def decoded(item: Item, limits: Limits) -> Array:
    """Stored values [frames, rows, columns] of one file, not rescaled.

    Raises:
        FileError: pixels are missing, cut short, of another size than declared, or not decodable.
    """
    dataset = load(item)
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.get("BitsAllocated") or 16)
    limits.declared(item.name, (n_frames, rows, columns), max(1, bits // 8))
    syntax = dataset.file_meta.get("TransferSyntaxUID") if "file_meta" in dir(dataset) else None
    expected = (n_frames * rows * columns * bits + 7) // 8
    held = next(
        (k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if dataset.get(k) is not None), None
    )
    compressed = syntax is not None and UID(syntax).is_compressed and "deflated" not in UID(syntax).name.lower()
    if held is None:
        raise FileError(
            f"{item.name}: the pixel data are missing or cut short, expected {expected:,} bytes; copy it again"
        )
    data = dataset[held].value
    if not compressed and len(data) < expected:
        raise FileError(
            f"{item.name}: the file is incomplete: the pixel data have {len(data):,} bytes, expected {expected:,} "
            f"({expected - len(data):,} bytes are missing); copy it again"
        )
    if compressed:
        _weigh_coded(item.name, data, n_frames, rows, columns)
    return _decoded(item, dataset, syntax, (n_frames, rows, columns))


def fingerprint(frame: Frame) -> str:
    """Hash of the stored pixels of a frame's file, to tell copies from other images at the same place."""
    dataset = load(frame.item, specific_tags=["PixelData", "FloatPixelData"])
    data = dataset.get("PixelData") or dataset.get("FloatPixelData") or b""
    return f"{frame.index}:{hashlib.blake2b(bytes(data), digest_size=16).hexdigest()}"


def _decoded(item: Item, dataset: Any, syntax: Any, shape: tuple[int, int, int]) -> Array:
    if syntax is None:
        dataset.file_meta.TransferSyntaxUID = (
            "1.2.840.10008.1.2" if dataset.original_encoding[0] else "1.2.840.10008.1.2.1"
        )
    try:
        with guarded(item.name, "DICOM pixels"):
            if syntax == RLELossless:  # the other plug-in for RLE can bring the process down on damaged data
                dataset.pixel_array_options(decoding_plugin="pydicom")
            values = np.asarray(dataset.pixel_array)
            if values.size != int(np.prod(shape)):
                raise FileError(f"{item.name}: decodes to {values.shape}, the header declares {shape}")
            return values.reshape(shape)
    except FileError as error:
        if "decodes to" in str(error) or syntax is None or not UID(syntax).is_compressed:
            raise
        name = UID(syntax).name
        raise FileError(
            f"{item.name}: its pixels ({name}) cannot be decoded: they are damaged, or the plug-in is missing: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        ) from None


def _weigh_coded(name: str, data: bytes, n_frames: int, rows: int, columns: int) -> None:
    """Compares the size inside JPEG and JPEG 2000 streams with the header's before a decoder allocates it."""
    with guarded(name, "compressed pixels"):
        for coded in generate_frames(data, number_of_frames=n_frames):
            size = _coded_size(bytes(coded[:65536]))
            if size is not None and size != (rows, columns):
                raise FileError(
                    f"{name}: its compressed pixels are {size[0]} x {size[1]}, the header declares {rows} x {columns}"
                )


def _coded_size(coded: bytes) -> tuple[int, int] | None:
    """(rows, columns) as a JPEG 2000 or JPEG stream says, or None where it is neither."""
    at = coded.find(b"\xff\x4f\xff\x51")
    if 0 <= at < 256 and len(coded) >= at + 24:
        x, y, x0, y0 = (int.from_bytes(coded[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
        return y - y0, x - x0
    if coded[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(coded) and coded[at] == 0xFF:
        marker = coded[at + 1]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return int.from_bytes(coded[at + 5 : at + 7], "big"), int.from_bytes(coded[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(coded[at + 2 : at + 4], "big")
    return None
