"""MetaImage (.mha, .mhd): a text header and raw or zlib voxels, LPS.

The header is parsed here and not by ITK: its reader prints keys of the header (which may name a person), allocates what
a header asks for, and hands out half-filled arrays of truncated files. Only the keys listed below are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.limits import Limits, inflated
from segwise.io.placing import checked_spacing, placed, shape_findings
from segwise.io.scan import Finding, Header, Opened
from segwise.io.values import native

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_KEYS = {
    *("objecttype", "ndims", "dimsize", "elementtype", "elementspacing", "elementsize", "offset", "position", "origin"),
    *("transformmatrix", "rotation", "orientation", "binarydata", "binarydatabyteordermsb", "elementbyteordermsb"),
    *("compresseddata", "compresseddatasize", "headersize", "elementnumberofchannels", "elementdatafile"),
}
_MAX_HEADER = 1024**2


def is_metaimage(head: bytes) -> bool:
    """Whether the first bytes are a MetaImage header."""
    start = head[:4096].lower().replace(b" ", b"")
    return b"ndims=" in start and (start.startswith((b"objecttype=", b"ndims=")) or b"\nelementtype=" in start)


def open_metaimage(path: Path, limits: Limits, spacing_mm: tuple[float, float, float] | None = None) -> Opened:
    """Understands a MetaImage header; a detached file of voxels must lie beside it.

    Raises:
        FileError: damaged, truncated, colour, 2D, without spacing, or too large.
    """
    name = path.name
    fields, start = _fields(path)
    sizes = [int(n) for n in fields["dimsize"].split()]
    shape, n_volumes = _shape(name, sizes)
    kind = fields.get("elementtype", "").upper()
    if kind not in _TYPES:
        raise FileError(f"{name}: ElementType is not one of {', '.join(_TYPES)}")
    if int(fields.get("elementnumberofchannels", "1")) != 1:
        raise FileError(f"{name}: holds several numbers a voxel (colour or vectors), expected one")
    msb = _true(fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")))
    dtype = np.dtype((">" if msb else "<") + _TYPES[kind])
    total = limits.declared(name, sizes, dtype.itemsize)
    spacing, findings = _spacing(name, fields, spacing_mm)
    n = len(sizes)
    matrix = _numbers(fields, ("transformmatrix", "rotation", "orientation"), n * n, np.eye(n)).reshape(n, n)
    origin = _numbers(fields, ("offset", "position", "origin"), n, np.zeros(n))[:3]
    columns = matrix[:3, :3].T * spacing  # the file lists one axis after the other
    grid = placed(name, shape, columns[:, ::-1], origin, lps=True)
    data = _located(path, fields["elementdatafile"], start)

    def load(volume: int) -> Array:
        raw = _raw(data, fields, total, name)
        values = np.frombuffer(raw, dtype=dtype).reshape(n_volumes, *shape)
        return native(values[volume])

    return Opened(Header("mha", grid), n_volumes, findings + shape_findings(shape), load)


def _fields(path: Path) -> tuple[Mapping[str, str], int]:
    """(known keys and their values, where the voxels of a LOCAL file begin)."""
    with path.open("rb") as stream:
        head = stream.read(_MAX_HEADER)
    fields: dict[str, str] = {}
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        if end < 0:
            break
        key, _, value = head[at:end].decode("latin-1").partition("=")
        at = end + 1
        key = key.strip().lower()
        if key in _KEYS:
            fields[key] = value.strip()
        if key == "elementdatafile":
            break
    missing = [k for k in ("dimsize", "elementtype", "elementdatafile") if k not in fields]
    if missing:
        raise FileError(f"{path.name}: the MetaImage header is incomplete or damaged: it has no {', '.join(missing)}")
    return fields, at


def _shape(name: str, sizes: list[int]) -> tuple[tuple[int, int, int], int]:
    if len(sizes) < 3 or len(sizes) > 4:
        raise FileError(f"{name}: has {len(sizes)} axes, expected a volume of 3 (or 4 with volumes last)")
    return (sizes[2], sizes[1], sizes[0]), sizes[3] if len(sizes) == 4 else 1


def _spacing(
    name: str, fields: Mapping[str, str], spacing_mm: tuple[float, float, float] | None
) -> tuple[Array, list[Finding]]:
    """float64 [3] in the file's order, and a finding if it was given by hand."""
    stated = fields.get("elementspacing", fields.get("elementsize"))
    if stated is not None:
        values = np.array([float(v) for v in stated.split()])[:3]
        if spacing_mm is not None and not np.allclose(values[::-1], spacing_mm, atol=1e-3):
            raise FileError(f"{name}: states its own spacing; spacing_mm only supplies a missing one, leave it out")
        return values, []
    if spacing_mm is None:
        raise FileError(f"{name}: the header gives no ElementSpacing; give it: --spacing d,h,w (spacing_mm=(d, h, w))")
    found = Finding("warning", "spacing-given", f"the spacing was given by hand: {spacing_mm} mm (d, h, w)")
    return checked_spacing(name, spacing_mm)[::-1], [found]


def _numbers(fields: Mapping[str, str], keys: tuple[str, ...], n: int, default: Array) -> Array:
    text = next((fields[k] for k in keys if k in fields), None)
    if text is None:
        return default
    values = np.array([float(v) for v in text.split()])
    if len(values) != n:
        raise ValueError
    return values


def _located(path: Path, where: str, start: int) -> tuple[Path, int]:
    """(file of the voxels, first byte)."""
    if where.upper() == "LOCAL":
        return path, start
    if where.upper().startswith("LIST") or "%" in where or len(where.split()) > 1:
        raise FileError(f"{path.name}: spreads its voxels over several files; convert it to one .mha file")
    return beside(path, where), 0


def beside(path: Path, where: str) -> Path:
    """The file of voxels named by a header; only the header's own folder is allowed.

    Raises:
        FileError: it lies elsewhere or is missing.
    """
    target = path.parent / where
    if Path(where).name != where or not target.resolve().parent.samefile(path.parent.resolve()):
        raise FileError(f"{path.name}: its voxels lie in another folder; put both files side by side")
    if not target.is_file():
        raise FileError(f"{path.name}: the file with its voxels is missing; put it beside the header")
    return target


def _raw(data: tuple[Path, int], fields: Mapping[str, str], total: int, name: str) -> bytes:
    path, start = data
    compressed = _true(fields.get("compresseddata", "False"))
    header_size = int(fields.get("headersize", "0"))
    there = path.stat().st_size
    if header_size == -1:
        start = there - total
    elif header_size > 0:
        start = header_size
    if not _true(fields.get("binarydata", "True")):
        raise FileError(f"{name}: holds its voxels as text; convert it to a binary .mha file")
    if not compressed and (start < 0 or there - start < total):
        held = max(0, there - max(start, 0))
        raise FileError(
            f"{name}: the file is incomplete: the header declares {total:,} bytes of voxels, the file has {held:,}; "
            "copy it again"
        )
    with path.open("rb") as stream:
        stream.seek(start)
        raw = stream.read() if compressed else stream.read(total)
    return inflated(raw, total, name=name, kind="zlib") if compressed else raw


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes")
