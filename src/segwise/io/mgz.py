"""FreeSurfer's MGH and MGZ; the trailing tags (command lines, names) are never read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.limits import Limits, opened, read_block
from segwise.io.placing import placed, shape_findings
from segwise.io.scan import Finding, Header, Opened
from segwise.io.values import native

_START = 284  # bytes before the voxels
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def is_mgh(head: bytes) -> bool:
    """Whether the first bytes (decompressed) are an MGH header: version 1, big-endian, a known type."""
    if len(head) < 30:
        return False
    version, width, height, depth, frames, kind = struct.unpack(">6i", head[:24])
    return version == 1 and min(width, height, depth, frames) > 0 and kind in _TYPES


def open_mgh(path: Path, limits: Limits) -> Opened:
    """Understands an MGH header: big-endian, direction cosines and centre in RAS.

    Raises:
        FileError: damaged, without spacing, or too large.

    Source: the layout of FreeSurfer's mri_io (MGH version 1) as nibabel documents it.
    """
    stream, _ = opened(path)
    with stream:
        head = stream.read(_START)
    if len(head) < _START:
        raise FileError(f"{path.name}: the file is incomplete: {len(head)} bytes, an MGH header has {_START}")
    _, *dims, kind, _dof, good = struct.unpack(">7ih", head[:30])
    numbers = np.frombuffer(head[30:90], dtype=">f4").astype(np.float64)
    shape = (dims[2], dims[1], dims[0])
    dtype = np.dtype(_TYPES[kind])
    total = limits.declared(path.name, dims, dtype.itemsize)
    findings: list[Finding] = []
    if good != 1:  # FreeSurfer's default: 1 mm, coronal (x to the left, y down, z to the front)
        numbers = np.array([1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0], dtype=np.float64)
        text = "the header says that it holds no orientation"
        findings.append(Finding("warning", "no-forms", text, "taken as FreeSurfer does: 1 mm, LIA, centre at 0"))
    cosines = numbers[3:12].reshape(3, 3).T
    columns = cosines * numbers[:3]
    origin = numbers[12:15] - columns @ (np.array(dims[:3]) / 2)
    grid = placed(path.name, shape, columns[:, ::-1], origin, lps=False)
    one = total // dims[3]

    def load(volume: int) -> Array:
        block = read_block(path, offset=_START + volume * one, n_bytes=one, total=_START + total)
        return native(np.frombuffer(block, dtype=dtype).reshape(shape))

    return Opened(Header("mgz", grid), dims[3], findings + shape_findings(shape), load)
