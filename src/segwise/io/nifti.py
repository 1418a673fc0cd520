"""NIfTI-1, NIfTI-2, .hdr/.img pairs and Analyze 7.5: header, place and values, each weighed before it is believed.

The affine is nibabel's choice: the sform where its code is above 0, else the qform, else the pixel sizes. Header fields
with text (descrip, aux_file, db_name, intent_name) and extensions are never looked at.
"""

from __future__ import annotations

import gzip
import logging
import math
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spm2analyze import Spm2AnalyzeHeader

from segwise.errors import FileError
from segwise.geometry import Array, Grid
from segwise.io.limits import MAX_HEADER_BYTES, Limits, opened, read_block
from segwise.io.placing import checked_spacing, placed, shape_findings
from segwise.io.scan import Finding, Forms, Header, Opened
from segwise.io.values import scaled

_QUIET = logging.getLogger("segwise.io.silent")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False
_COLOUR = {128: "RGB", 2304: "RGBA"}
_COMPLEX = {32, 1792, 2048}
_ORDERS: tuple[Literal["little"], Literal["big"]] = ("little", "big")
_UNITS = {1: "metres", 3: "micrometres"}


def is_nifti(head: bytes) -> bool:
    """Whether the first 348 bytes (decompressed) are a NIfTI or Analyze header."""
    if len(head) < 348:
        return False
    return any(int.from_bytes(head[:4], order) in (348, 540) for order in _ORDERS)


def open_nifti(path: Path, limits: Limits, spacing_mm: tuple[float, float, float] | None = None) -> Opened:
    """Understands the header of a NIfTI or Analyze file; the pair's other half is found from either name.

    Raises:
        FileError: not NIfTI, damaged, colour, complex, 2D, more than 4D, without spacing, or too large.
    """
    header_path, pixel_path = _pair(path)
    header = _parsed(header_path)
    kind = "analyze" if isinstance(header, Spm2AnalyzeHeader) else "nifti"
    name = path.name
    shape = _spatial(name, header, spacing_mm)
    dtype = header.get_data_dtype()
    n_volumes = shape[3]
    total = limits.declared(name, shape, dtype.itemsize)
    limits.declared(name, shape[:3], max(4, dtype.itemsize))
    grid, forms, findings = _place(name, header, (shape[0], shape[1], shape[2]), spacing_mm)
    offset = int(float(header["vox_offset"]))
    if pixel_path is None:
        offset = max(offset, header.sizeof_hdr + 4)
        pixel_path = header_path
    elif not pixel_path.is_file():
        raise FileError(
            f"{name}: the pixel file {pixel_path.name} is missing; put it beside {header_path.name}, its pair"
        )
    if not 0 <= offset <= MAX_HEADER_BYTES:
        raise FileError(
            f"{name}: the header places the voxels at byte {offset:,}, expected at most {MAX_HEADER_BYTES:,}"
        )
    slope, intercept = _scaling(header, findings)
    one = total // n_volumes

    def load(volume: int) -> Array:
        block = read_block(pixel_path, offset=offset + volume * one, n_bytes=one, total=offset + total)
        return scaled(np.frombuffer(block, dtype=dtype).reshape(shape[2::-1]), slope, intercept)

    return Opened(Header(kind, grid, forms), n_volumes, findings, load)


def _pair(path: Path) -> tuple[Path, Path | None]:
    """(file of the header, file of the pixels or None if they are one)."""
    text = path.name
    zipped = ".gz" if text.lower().endswith(".gz") else ""
    stem = text[: len(text) - len(zipped)]
    for ending, other in ((".img", ".hdr"), (".hdr", ".img")):
        if not stem.lower().endswith(ending):
            continue
        base = stem[:-4]
        upper = stem.endswith(ending.upper())
        there = [path.with_name(base + (other.upper() if upper else other) + z) for z in (zipped, "", ".gz")]
        partner = next((p for p in there if p.is_file()), there[0])
        if ending == ".hdr":
            return path, partner
        if not partner.is_file():
            raise FileError(f"{text}: the header file {partner.name} is missing; put it beside: they are a pair")
        return partner, path
    return path, None


def _parsed(path: Path) -> Any:
    stream, zipped = opened(path)
    with stream:
        try:
            head = stream.read(540)
        except (EOFError, gzip.BadGzipFile):
            head = b""
    if len(head) < 348 or not is_nifti(head):
        raise FileError(
            f"{path.name}: the file is incomplete or no NIfTI: it begins with "
            f"{len(head)} {'decompressed ' if zipped else ''}bytes that are no header of 348 or 540 bytes"
        )
    size = head[:4]
    order = "<" if int.from_bytes(size, "little") in (348, 540) else ">"
    if 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big")):
        if len(head) < 540:
            raise FileError(f"{path.name}: the file is incomplete: {len(head)} bytes, a NIfTI-2 header has 540")
        return nib.Nifti2Header(head, endianness=order, check=False)
    if head[344:347] in (b"n+1", b"ni1"):
        return nib.Nifti1Header(head[:348], endianness=order, check=False)
    return Spm2AnalyzeHeader(head[:348], endianness=order, check=False)


def _spatial(name: str, header: Any, spacing_mm: object) -> tuple[int, int, int, int]:
    code = int(header["datatype"])
    if code in _COLOUR:
        raise FileError(f"{name}: holds {_COLOUR[code]} colours, a picture and no scan; expected one number a voxel")
    if code in _COMPLEX:
        raise FileError(f"{name}: holds complex numbers; take the magnitude first, Segwise drops no imaginary part")
    try:
        itemsize = header.get_data_dtype().itemsize
    except Exception:
        itemsize = 0
    if not itemsize:
        raise FileError(f"{name}: the header names the unknown data type {code}; expected integers or floats")
    n_dims = int(header["dim"][0])
    if not 1 <= n_dims <= 7:
        raise FileError(f"{name}: the header declares {n_dims} dimensions, expected 3 or 4; it is damaged")
    dims = [int(n) for n in header["dim"][1 : 1 + n_dims]]
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if len(dims) < 3:
        if spacing_mm is None or len(dims) < 2:
            raise FileError(
                f"{name}: is {len(dims)}D ({' x '.join(map(str, dims))}), expected a volume of three axes; to read it "
                "as one slice give its spacing with a thickness (spacing_mm=(d, h, w); --spacing d,h,w of segwise "
                "segment and inspect); for a data set write it as a volume of one slice"
            )
        dims.append(1)
    if len(dims) > 4:
        raise FileError(
            f"{name}: has {len(dims)} dimensions ({' x '.join(map(str, dims))}), expected 3, or 4 with volumes last; "
            "vector and tensor images are not scans: extract one component"
        )
    return dims[0], dims[1], dims[2], dims[3] if len(dims) == 4 else 1


def _place(
    name: str, header: Any, ijk: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None
) -> tuple[Grid, Forms | None, list[Finding]]:
    """The file's own grid, its forms and what to say about them."""
    analyze = isinstance(header, Spm2AnalyzeHeader)
    codes = (0, 0) if analyze else (int(header["qform_code"]), int(header["sform_code"]))
    pixdim = [abs(float(v)) for v in header["pixdim"][1:4]]
    usable = all(math.isfinite(v) and v > 0 for v in pixdim)
    findings: list[Finding] = []
    flat = header["dim"][0] == 2
    if codes[1] <= 0 and (not usable or flat):
        if spacing_mm is None:
            raise FileError(
                f"{name}: the header gives no spacing (pixdim {pixdim}, no sform); Segwise guesses none: "
                "give it with --spacing d,h,w (spacing_mm=(d, h, w))"
            )
        pixdim = list(checked_spacing(name, spacing_mm)[::-1])
        findings.append(
            Finding("warning", "spacing-given", f"the spacing was given by hand: {spacing_mm} mm (d, h, w)")
        )
    elif flat and spacing_mm is not None:
        findings.append(Finding("warning", "slice-axis", "a 2D image; one slice axis was added as asked"))
    elif spacing_mm is not None and not np.allclose(_spacing(header, codes, pixdim), spacing_mm[::-1], atol=1e-3):
        raise FileError(f"{name}: states its own spacing; spacing_mm only supplies a missing one, leave it out")
    affine = _affine(header, codes, ijk, pixdim)
    if flat and spacing_mm is not None:
        affine = _thick(affine, float(checked_spacing(name, spacing_mm)[0]))
    columns = affine[:3, 2::-1]
    shape = (ijk[2], ijk[1], ijk[0])
    grid = placed(name, shape, columns, affine[:3, 3], lps=False)
    forms = None if analyze or flat else _forms(header, pixdim)
    return grid, forms, findings + _form_findings(header, codes, ijk, pixdim, analyze=analyze) + shape_findings(shape)


def _thick(affine: Array, thickness_mm: float) -> Array:
    """A 2D image's affine with a third axis across the slice, as thick as asked for."""
    across = np.cross(affine[:3, 0], affine[:3, 1])
    across *= thickness_mm / np.linalg.norm(across)
    affine = affine.copy()
    affine[:3, 2] = across if across @ affine[:3, 2] >= 0 else -across
    return affine


def _spacing(header: Any, codes: tuple[int, int], pixdim: list[float]) -> Array:
    if codes[1] > 0:
        return np.asarray(np.linalg.norm(header.get_sform()[:3, :3], axis=0))
    return np.array(pixdim)


def _affine(header: Any, codes: tuple[int, int], ijk: tuple[int, int, int], pixdim: list[float]) -> Array:
    if codes[1] > 0:
        return np.asarray(header.get_sform(), dtype=np.float64)
    if codes[0] > 0:
        return _qform(header, pixdim)
    if isinstance(header, Spm2AnalyzeHeader):
        return _analyze(header, ijk, pixdim)
    affine = np.diag([-pixdim[0], pixdim[1], pixdim[2], 1.0])  # nibabel's base affine: x runs to the left
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(ijk) - 1) / 2)
    return affine


def _qform(header: Any, pixdim: list[float]) -> Array:
    clean = header.copy()
    clean["pixdim"][1:4] = pixdim
    if float(clean["pixdim"][0]) not in (-1.0, 1.0):
        clean["pixdim"][0] = 1.0
    return np.asarray(clean.get_qform(), dtype=np.float64)


def _analyze(header: Any, ijk: tuple[int, int, int], pixdim: list[float]) -> Array:
    """SPM's reading: x runs to the left, the origin field (1-based voxels) is (0, 0, 0) mm where it is plausible."""
    origin = np.array([int(v) for v in header["origin"][:3]], dtype=np.float64)
    inside = bool((origin != 0).any() and (origin > -np.array(ijk)).all() and (origin < 2 * np.array(ijk)).all())
    affine = np.diag([-pixdim[0], pixdim[1], pixdim[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (origin - 1 if inside else (np.array(ijk) - 1) / 2)
    return affine


def _forms(header: Any, pixdim: list[float]) -> Forms:
    qfac = float(header["pixdim"][0])
    return Forms(
        version=2 if isinstance(header, nib.Nifti2Header) else 1,
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
        pixdim=(qfac if qfac in (-1.0, 1.0) else 1.0, *(v if math.isfinite(v) else 0.0 for v in pixdim)),
        quaternion=tuple(_number(header[k]) for k in ("quatern_b", "quatern_c", "quatern_d")),
        offset=tuple(_number(header[k]) for k in ("qoffset_x", "qoffset_y", "qoffset_z")),
        sform=tuple(_number(v) for k in ("srow_x", "srow_y", "srow_z") for v in header[k]),
        units=int(header["xyzt_units"]) & 7,
    )


def _number(value: Any) -> float:
    return float(value) if math.isfinite(float(value)) else 0.0


def _form_findings(
    header: Any, codes: tuple[int, int], ijk: tuple[int, int, int], pixdim: list[float], *, analyze: bool
) -> list[Finding]:
    if analyze:
        text = "Analyze 7.5 has no trustworthy orientation: left and right may be swapped"
        return [Finding("warning", "analyze", text, "read as SPM does (x to the left); convert it to NIfTI")]
    out: list[Finding] = []
    units = int(header["xyzt_units"]) & 7
    if units in _UNITS:
        text = f"the header gives lengths in {_UNITS[units]}"
        out.append(Finding("warning", "units", text, "numbers are taken as mm, as the usual readers do"))
    if codes == (0, 0):
        text = "the header has neither qform nor sform: orientation and place are not known"
        return [*out, Finding("warning", "no-forms", text, "taken as x to the left, y to the front, z up, centre at 0")]
    if codes[0] > 0 and codes[1] > 0:
        try:
            apart = _apart(_qform(header, pixdim), np.asarray(header.get_sform()), ijk)
        except Exception:
            apart = math.inf
        if not apart <= 0.01:
            text = f"qform and sform disagree by up to {apart:.3g} mm at a corner"
            out.append(Finding("warning", "forms-disagree", text, "the sform is used; both are kept in masks"))
    used = "sform" if codes[1] > 0 else "qform"
    out.append(Finding("note", "form", f"placed by the {used} (qform code {codes[0]}, sform code {codes[1]})"))
    return out


def _apart(a: Array, b: Array, ijk: tuple[int, int, int]) -> float:
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(ijk) - 1)
    return float(np.abs(corners @ (a - b)[:3, :3].T + (a - b)[:3, 3]).max())


def _scaling(header: Any, findings: list[Finding]) -> tuple[float, float]:
    if isinstance(header, Spm2AnalyzeHeader):
        slope, intercept = _number(header["scl_slope"]), _number(header["scl_inter"])
        return (slope or 1.0), intercept if slope else 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(intercept):
        findings.append(Finding("warning", "scaling", "the intercept of the values is not a number", "taken as 0"))
        intercept = 0.0
    return slope, intercept
