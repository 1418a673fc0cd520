"""DICOM objects of a file, folder or zip: headers only, and only the tags that reading needs.

No tag that may name a person is ever loaded. UIDs are compared and dropped; they are never shown. Archives are read in
memory, member by member, so no name inside one can reach the disk.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom import config as pydicom_config

from segwise.errors import FileError, SegwiseError
from segwise.io.limits import CHUNK, Limits, guarded, size_text

_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality", "ImageType"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("PixelSpacing", "ImagerPixelSpacing", "SpacingBetweenSlices", "SliceThickness", "ImagePositionPatient"),
    *("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"),
    *("EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "TriggerTime"),
    *("InversionTime", "AcquisitionTime", "FrameReferenceTime", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "SegmentSequence", "SegmentationType", "MaximumFractionalValue"),
    *("ROIContourSequence", "StructureSetROISequence", "SegmentsOverlap"),
]
MAX_DEFLATED_BYTES = 1024**3  # of one object; pydicom unpacks it whole, and deflated objects are single slices or SEGs
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_IMAGES = "CT MR PT NM US CR DX MG XA RF OT SC IO ES GM SM XC OPT OP BMD IVUS PX M3D"
_OBJECTS = "ECG SEG RTSTRUCT RTPLAN RTDOSE RTIMAGE RTRECORD REG PR KO SR DOC FID AU RWV PLAN"
KNOWN_MODALITIES = frozenset(f"{_IMAGES} {_OBJECTS}".split())
SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True, eq=False)
class Item:
    """A file that may be DICOM.

    Attributes:
        name: of the file, without its folder.
        open: a new stream of its bytes.
        path: where it lies, None inside an archive.
    """

    name: str
    open: Callable[[], BinaryIO]
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What a place holds.

    Attributes:
        objects: (file, header) of every DICOM object.
        broken: names of files that begin as DICOM and cannot be read.
        others: files that are no DICOM.
    """

    objects: list[tuple[Item, Any]]
    broken: list[str]
    others: list[Item]


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes are DICOM, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    return len(head) > 16 and head[:4] in (
        b"\x08\0\x00\0",
        b"\x08\0\x05\0",
        b"\x08\0\x08\0",
        b"\x08\0\x16\0",
        b"\x02\0\0\0",
    )


def items(path: Path, limits: Limits) -> list[Item]:
    """All files of a file, folder or zip, in the order of their names.

    Raises:
        FileError: too many files, or an archive that is damaged, encrypted or would unpack to too much.
    """
    if path.is_dir():
        found = [Path(root) / n for root, _, names in os.walk(path) for n in names if not n.startswith("._")]
        if len(found) > limits.max_files:
            raise FileError(f"{path.name}: holds {len(found):,} files, more than the limit of {limits.max_files:,}")
        return [_of_file(p) for p in sorted(found) if p.is_file()]
    if zipfile.is_zipfile(path):
        return _of_zip(path, limits)
    return [_of_file(path)]


def scan(path: Path, limits: Limits) -> Found:
    """Reads the headers of all DICOM objects at a place.

    Raises:
        FileError: as `items`.
    """
    found = Found([], [], [])
    with guarded(path.name, "DICOM"):
        for item in items(path, limits):
            with item.open() as stream:
                head = stream.read(2048)
            if not is_dicom(head):
                found.others.append(item)
                continue
            try:
                found.objects.append((item, header(item)))
            except SegwiseError:
                found.broken.append(item.name)
    return found


def header(item: Item) -> Any:
    """The tags that reading needs, without pixels.

    Raises:
        FileError: the file is damaged.
    """
    return load(item, stop_before_pixels=True, specific_tags=_TAGS)


def load(item: Item, **options: Any) -> Any:
    """A dataset of a file; deflated ones are weighed first.

    Raises:
        FileError: the file is damaged or unpacks to more than 1 GB.
    """
    with guarded(item.name, "DICOM"), item.open() as stream:
        _weigh_deflated(stream, item.name)
        before = pydicom_config.settings.reading_validation_mode
        pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
        try:
            return pydicom.dcmread(stream, force=True, **options)
        finally:
            pydicom_config.settings.reading_validation_mode = before


def modality(dataset: Any) -> str:
    """The modality if it is one that DICOM defines, else ""."""
    text = str(dataset.get("Modality", "")).strip().upper()
    return text if text in KNOWN_MODALITIES else ""


def _of_file(path: Path) -> Item:
    return Item(path.name, lambda: path.open("rb"), path)


def _of_zip(path: Path, limits: Limits) -> list[Item]:
    with zipfile.ZipFile(path) as archive:
        infos = [i for i in archive.infolist() if not i.is_dir() and not Path(i.filename).name.startswith("._")]
    total = sum(i.file_size for i in infos)
    if len(infos) > limits.max_files or total > limits.max_bytes:
        raise FileError(
            f"{path.name}: unpacks to {len(infos):,} files and {size_text(total)}, more than the limits of "
            f"{limits.max_files:,} files and {size_text(limits.max_bytes)}"
        )
    if any(i.flag_bits & 1 for i in infos):
        raise FileError(f"{path.name}: the archive is encrypted; unpack it first")

    def item(info: zipfile.ZipInfo) -> Item:
        def opened() -> BinaryIO:
            with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
                return io.BytesIO(stream.read(info.file_size))

        return Item(Path(info.filename.replace("\\", "/")).name, opened)

    return [item(i) for i in sorted(infos, key=lambda i: i.filename)]


def _weigh_deflated(stream: BinaryIO, name: str) -> None:
    """Refuses a deflated object that unpacks to more than a limit, without unpacking it into memory."""
    head = stream.read(2048)
    if head[128:132] == b"DICM" and _DEFLATED in head:
        stream.seek(144 + int.from_bytes(head[140:144], "little"))
        machine, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := stream.read(64 * 1024):
            while chunk:
                total += len(machine.decompress(chunk, CHUNK))
                chunk = machine.unconsumed_tail
                if total > MAX_DEFLATED_BYTES:
                    raise FileError(f"{name}: unpacks to more than {size_text(MAX_DEFLATED_BYTES)}")
    cast(Any, stream).seek(0)
