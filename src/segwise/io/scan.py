"""What reading gives: `Scan`, `LabelMap`, `Peek`, the `Header` a mask is written back with, and `Finding`.

None of them holds a person or free-text field of a file: only sizes, geometry, codes, values and the modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from segwise.geometry import Array, Grid, Volume

Level = Literal["note", "warning", "refusal"]


@dataclass(frozen=True)
class Finding:
    """Something a reader noticed.

    Attributes:
        level: "note" (good to know), "warning" (read, but look), "refusal" (not read).
        code: a stable short name, e.g. "missing-slice".
        message: what was found, in a sentence.
        action: what Segwise does about it, or what the user can do.
    """

    level: Level
    code: str
    message: str
    action: str = ""

    def __str__(self) -> str:
        return self.message + (f"; {self.action}" if self.action else "")


@dataclass(frozen=True)
class Forms:
    """The fields of a NIfTI header that say where voxels are, exactly as stored; (i, j, k) and RAS+ mm.

    Attributes:
        version: 1 or 2.
        qform_code: 0 is "not given".
        sform_code: 0 is "not given".
        pixdim: qfac, then the spacing along i, j, k.
        quaternion: b, c, d.
        offset: qoffset x, y, z.
        sform: the three rows of the sform, 12 numbers.
        units: the spatial part of xyzt_units.
    """

    version: int
    qform_code: int
    sform_code: int
    pixdim: tuple[float, ...]
    quaternion: tuple[float, ...]
    offset: tuple[float, ...]
    sform: tuple[float, ...]
    units: int


@dataclass(frozen=True, eq=False)
class Header:
    """What `write_mask` needs to put a mask back on the grid of the file it came from.

    Attributes:
        format: "nifti", "analyze", "nrrd", "mha", "mgz", "dicom" or "" (made without a file).
        grid: the file's own grid, before any repair; 3D also for a 4D file.
        forms: for NIfTI: its own geometry fields.
    """

    format: str
    grid: Grid
    forms: Forms | None = None

    @staticmethod
    def of(grid: Grid) -> Header:
        """The header of a mask that belongs to no file."""
        return Header("", grid)


@dataclass(frozen=True, eq=False)
class Scan:
    """One image as read.

    Attributes:
        volume: values and place; array axes are the file's own, slowest first.
        header: for writing masks back.
        findings: what was noticed; none is a refusal.
    """

    volume: Volume
    header: Header
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels as read.

    Attributes:
        array: unsigned integer [D, H, W], 0 = background. Where segments overlap the later one is on top.
        grid: where it lies.
        names: {value: name} as the file gives them; empty where the format has none.
        header: for writing masks back.
        findings: what was noticed.
        masks: {value: bool [D, H, W]} if segments overlap (then `array` cannot hold them all), else empty.
    """

    array: Array
    grid: Grid
    names: Mapping[int, str]
    header: Header
    findings: tuple[Finding, ...] = ()
    masks: Mapping[int, Array] = field(default_factory=dict)

    def mask(self, value: int) -> Array:
        """bool [D, H, W] of one label value, whole even where another segment lies on top of it."""
        return self.masks[value] if value in self.masks else np.asarray(self.array == value)


@dataclass(frozen=True, eq=False)
class Peek:
    """Geometry of a file, where the format allows without its voxels.

    Attributes:
        grid: of one volume.
        n_volumes: more than 1 for a 4D file.
        modality: as the file says; "" where it does not.
        header: for writing masks back.
        findings: what was noticed in the headers.
    """

    grid: Grid
    n_volumes: int
    modality: str
    header: Header
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, eq=False)
class Opened:
    """A file of any format whose header was understood, before its voxels are read.

    Attributes:
        header: for writing masks back.
        n_volumes: of a 4D file.
        findings: from the header.
        load: volume number -> [D, H, W] values, scaled.
        modality: as the file says.
        window_hu: display window of a CT, or None.
    """

    header: Header
    n_volumes: int
    findings: Sequence[Finding]
    load: Callable[[int], Array]
    modality: str = ""
    window_hu: tuple[float, float] | None = None
