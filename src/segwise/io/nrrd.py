"""NRRD (.nrrd, .nhdr): a text header and raw, gzip, bzip2, ascii or hex voxels; any of its patient spaces.

Parsed here and not by ITK for the reasons given in `metaimage`: only the fields below are looked at, key/value pairs
and comments never. Source: the NRRD format definition, version 5 (teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.limits import Limits, inflated
from segwise.io.metaimage import beside
from segwise.io.placing import checked_spacing, placed, shape_findings
from segwise.io.scan import Finding, Header, Opened
from segwise.io.values import native

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_BY_NAME = {name: code for code, names in _TYPES.items() for name in names}
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}  # what turns it into LPS
_UNITS = {"mm": 1.0, "millimeter": 1.0, "um": 1e-3, "µm": 1e-3, "cm": 10.0, "m": 1e3}
_FIELDS = {
    *("type", "dimension", "sizes", "endian", "encoding", "space", "space dimension", "space directions", "kinds"),
    *("space origin", "space units", "spacings", "data file", "datafile", "line skip", "lineskip", "byte skip"),
    *("byteskip", "units"),
}
_MAX_HEADER = 1024**2


def is_nrrd(head: bytes) -> bool:
    """Whether the first bytes are an NRRD header."""
    return head[:6] == b"NRRD00"


def open_nrrd(path: Path, limits: Limits, spacing_mm: tuple[float, float, float] | None = None) -> Opened:
    """Understands an NRRD header: three spatial axes, and possibly one list of volumes first or last.

    Raises:
        FileError: damaged, truncated, colour, 2D, without spacing, in an unknown space, or too large.
    """
    name = path.name
    fields, start = _fields(path)
    sizes = [int(n) for n in fields["sizes"].split()]
    kind = _BY_NAME.get(fields["type"].lower())
    if kind is None:
        raise FileError(f"{name}: the NRRD type is none of the number types, expected e.g. short or float")
    dtype = np.dtype((">" if fields.get("endian", "little").lower() == "big" else "<") + kind)
    total = limits.declared(name, sizes, dtype.itemsize)
    listed = _list_axis(name, fields, sizes)
    spatial = [i for i in range(len(sizes)) if i != listed]
    columns, origin, findings = _place(name, fields, spatial, spacing_mm)
    shape = (sizes[spatial[2]], sizes[spatial[1]], sizes[spatial[0]])
    grid = placed(name, shape, columns[:, ::-1], origin, lps=True)
    where = fields.get("data file", fields.get("datafile"))
    data = (path, start) if where is None else (beside(path, where), 0)
    n_volumes = 1 if listed is None else sizes[listed]

    def load(volume: int) -> Array:
        raw = _raw(data, fields, total=total, dtype=dtype, name=name)
        values = np.frombuffer(raw, dtype=dtype).reshape(sizes[::-1])
        if listed is not None:
            values = np.take(values, volume, axis=len(sizes) - 1 - listed)
        return native(np.ascontiguousarray(values))

    return Opened(Header("nrrd", grid), n_volumes, findings + shape_findings(shape), load)


def _fields(path: Path) -> tuple[Mapping[str, str], int]:
    with path.open("rb") as stream:
        head = stream.read(_MAX_HEADER)
    fields: dict[str, str] = {}
    at, first = 0, True
    while at < len(head):
        end = head.find(b"\n", at)
        line = head[at : end if end >= 0 else len(head)].decode("latin-1").rstrip("\r")
        at = end + 1 if end >= 0 else len(head)
        if not line:
            break
        if not first and not line.startswith("#") and ":=" not in line and ": " in line:
            key, _, value = line.partition(": ")
            if key.strip().lower() in _FIELDS:
                fields[key.strip().lower()] = value.strip()
        first = False
    missing = [k for k in ("type", "dimension", "sizes", "encoding") if k not in fields]
    if missing:
        raise FileError(f"{path.name}: the NRRD header is incomplete or damaged: it has no {', '.join(missing)}")
    return fields, at


def _list_axis(name: str, fields: Mapping[str, str], sizes: list[int]) -> int | None:
    """The axis that counts volumes, if there is one."""
    if len(sizes) not in (3, 4) or int(fields["dimension"]) != len(sizes):
        raise FileError(f"{name}: has {len(sizes)} axes, expected a volume of 3 (or 4 with one list of volumes)")
    directions = _vectors(fields["space directions"]) if "space directions" in fields else None
    kinds = [k.lower() for k in fields.get("kinds", "").split()]
    odd = [i for i, v in enumerate(directions) if v is None] if directions else []
    odd = odd or [i for i, k in enumerate(kinds) if k not in ("domain", "space", "???", "none", "time")]
    if any(i < len(kinds) and "color" in kinds[i] for i in odd):
        raise FileError(f"{name}: holds colours, a picture and no scan; expected one number a voxel")
    if len(sizes) == 3:
        if odd:
            raise FileError(f"{name}: is 2D with several values a pixel, expected a volume of three axes")
        return None
    return odd[0] if odd else 3


def _place(
    name: str, fields: Mapping[str, str], spatial: list[int], spacing_mm: tuple[float, float, float] | None
) -> tuple[Array, Array, list[Finding]]:
    """(columns [3, 3] LPS in the file's order, origin [3] LPS, findings)."""
    space = fields.get("space", "").lower().removesuffix("-time").removesuffix("t")
    findings: list[Finding] = []
    if space in _SPACES:
        turn = np.array(_SPACES[space])
    else:
        turn = np.ones(3)
        text = "the header names no patient space (LPS, RAS, LAS)"
        findings.append(
            Finding("warning", "no-space", text, "its axes are taken as LPS; left and right may be swapped")
        )
    unit = _unit(name, fields.get("space units", ""))
    origin = np.zeros(3)
    if "space origin" in fields:
        origin = np.asarray(_vectors(fields["space origin"])[0], dtype=np.float64)[:3] * turn * unit
    if "space directions" in fields:
        vectors = [_vectors(fields["space directions"])[i] for i in spatial]
        columns = np.array([np.asarray(v, dtype=np.float64)[:3] for v in vectors]).T
        lengths = np.linalg.norm(columns, axis=0)[::-1] * unit
        if spacing_mm is not None and not np.allclose(lengths, spacing_mm, atol=1e-3):
            raise FileError(f"{name}: states its own spacing; spacing_mm only supplies a missing one, leave it out")
        return columns * turn[:, None] * unit, origin, findings
    stated = [float(v) for i, v in enumerate(fields.get("spacings", "").split()) if i in spatial]
    if len(stated) == 3 and np.isfinite(stated).all():
        return np.diag(stated), origin, findings
    if spacing_mm is None:
        raise FileError(
            f"{name}: the header gives no spacing (space directions); give it: --spacing d,h,w (spacing_mm=(d, h, w))"
        )
    text = f"the spacing was given by hand: {spacing_mm} mm (d, h, w)"
    findings.append(Finding("warning", "spacing-given", text))
    return np.diag(checked_spacing(name, spacing_mm)[::-1]), origin, findings


def _unit(name: str, text: str) -> float:
    units = {u.strip().strip('"').lower() for u in text.split()} - {"", "none", "???"}
    if not units:
        return 1.0
    if len(units) > 1 or next(iter(units)) not in _UNITS:
        raise FileError(f"{name}: the space units are not lengths that Segwise knows ({', '.join(_UNITS)})")
    return _UNITS[next(iter(units))]


def _vectors(text: str) -> list[list[float] | None]:
    """ "none (1,0,0) (0,1,0)" -> [None, [1, 0, 0], [0, 1, 0]]."""
    out: list[list[float] | None] = []
    for part in text.replace(", ", ",").split():
        out.append(None if part.lower() == "none" else [float(v) for v in part.strip("()").split(",")])
    return out


def _raw(data: tuple[Path, int], fields: Mapping[str, str], *, total: int, dtype: np.dtype[Any], name: str) -> bytes:
    path, start = data
    encoding = fields["encoding"].lower()
    there = path.stat().st_size - start
    with path.open("rb") as stream:
        stream.seek(start)
        raw = stream.read(total + _MAX_HEADER) if encoding == "raw" else stream.read()
    for _ in range(int(fields.get("line skip", fields.get("lineskip", "0")))):
        raw = raw[raw.index(b"\n") + 1 :]
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if encoding in ("gzip", "gz", "bzip2", "bz2"):
        return inflated(raw, total, name=name, kind="gzip" if encoding.startswith("g") else "bzip2")
    if encoding == "raw":
        if skip == -1:
            with path.open("rb") as stream:
                stream.seek(max(0, path.stat().st_size - total))
                raw, skip = stream.read(), 0
        raw = raw[skip : skip + total]
    elif encoding in ("ascii", "text", "txt"):
        raw = np.array(raw.split(), dtype=np.float64).astype(dtype).tobytes()[:total]
    elif encoding == "hex":
        raw = bytes.fromhex(b"".join(raw.split()).decode("ascii"))[:total]
    else:
        raise FileError(f"{name}: the encoding is unknown, expected raw, gzip, bzip2, ascii or hex")
    if len(raw) < total:
        raise FileError(
            f"{name}: the file is incomplete: the header declares {total:,} bytes of voxels, the file has "
            f"{max(0, min(there, len(raw))):,}; copy it again"
        )
    return raw
