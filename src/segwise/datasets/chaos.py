"""CHAOS: liver in CT; liver, kidneys and spleen in MR; DICOM slices with PNG masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from segwise import io
from segwise.card import DatasetCard
from segwise.case import Case, Structure
from segwise.datasets._case import Label, described, require_same
from segwise.datasets._files import folders, nothing, relative, stem, visible
from segwise.errors import DatasetError, FileError
from segwise.geometry import Array, Channel, Grid, Volume, regrid

CARD = DatasetCard(
    title="CHAOS",
    summary="20 + 20 labelled abdominal scans of different people: CT with the liver, MR with four organs.",
    files=(
        "CT/1/DICOM_anon/*.dcm, CT/1/Ground/*.png",
        "MR/1/T2SPIR/DICOM_anon/*.dcm, MR/1/T2SPIR/Ground/*.png",
        "MR/1/T1DUAL/DICOM_anon/InPhase/*.dcm and OutPhase/*.dcm, MR/1/T1DUAL/Ground/*.png (one for both)",
        "the root holds CT and MR, or Train_Sets/ with them, or is one of the two",
    ),
    traps=(
        "masks are grey levels: MR 63 liver, 126 right kidney, 189 left kidney, 252 spleen; CT 255 liver",
        "a PNG belongs to the slice with its number in the file name, not to the one at its place in the stack",
        "CT/1 and MR/1 are two people",
    ),
    source="Kavur et al., CHAOS Challenge, Medical Image Analysis 69 (2021), doi 10.1016/j.media.2020.101950",
    licence="CC BY-NC-SA 4.0",
)
_MR = {
    "liver": (63, 55, 70),
    "right kidney": (126, 110, 135),
    "left kidney": (189, 175, 200),
    "spleen": (252, 240, 255),
}
_CT = {"liver": (255, 1, 255)}
_AROUND = ("", "Train_Sets", "CHAOS_Train_Sets/Train_Sets", "Test_Sets")


def recognises(root: Path) -> bool:
    """Whether CT/N or MR/N/SEQUENCE with DICOM_anon lies here or in Train_Sets/."""
    return any(True for _ in _series(root))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled series: one a CT person, three an MR person (T1DUAL in and out of phase, T2SPIR).

    Raises:
        DatasetError: there is no CT/N/DICOM_anon or MR/N/SEQUENCE/DICOM_anon with Ground.
    """
    n = 0
    for modality, person, kind, dicom, ground in _series(root):
        pngs = [path for path in visible(ground) if path.suffix.lower() == ".png"]
        if not pngs:
            continue
        n += 1
        levels = _MR if modality == "MR" else _CT
        structures, derived, _ = described([Label(raw, ground, (level[0],)) for raw, level in levels.items()])
        files = ChaosFiles(dicom, ground, modality, kind)
        yield Case(
            id="-".join(word for word in (modality, person, kind) if word),
            subject=f"{modality}-{person}",
            dataset="CHAOS",
            layout="chaos",
            modality=modality,
            images=(relative(dicom, root),),
            structures=structures,
            load=files.volume,
            load_masks=files.masks,
            licence=CARD.licence,
            derived=derived,
        )
    if n == 0:
        raise nothing(root, "chaos", "CT/1/DICOM_anon or MR/1/T2SPIR/DICOM_anon with Ground/*.png")


def _series(root: Path) -> Iterator[tuple[str, str, str, Path, Path]]:
    """(modality, person, sequence, folder of DICOM files, folder of PNGs)."""
    homes = [root] if root.name in ("CT", "MR") else [root / a / m for a in _AROUND for m in ("CT", "MR")]
    for home in homes:
        for person in folders(home):
            for sequence in [person] if home.name == "CT" else folders(person):
                kind = "" if home.name == "CT" else sequence.name
                dicom, ground = sequence / "DICOM_anon", sequence / "Ground"
                phases = [phase for phase in folders(dicom) if phase.name in ("InPhase", "OutPhase")]
                for phase in phases:
                    yield home.name, person.name, f"{kind}-{phase.name}", phase, ground
                if dicom.is_dir() and not phases:
                    yield home.name, person.name, kind, dicom, ground


@dataclass(frozen=True)
class ChaosFiles:
    """Where a series is.

    Attributes:
        dicom: folder of its slices.
        ground: folder of its masks.
        modality: "CT" or "MR", which decides the grey levels.
        kind: the sequence.
    """

    dicom: Path
    ground: Path
    modality: str
    kind: str

    def volume(self) -> Volume:
        """Reads the series."""
        read = io.read(self.dicom).volume
        return Volume.of(read.array, read.grid, (Channel(self.kind[:2] or self.modality, read.channels[0].window_hu),))

    def masks(self, structures: tuple[Structure, ...]) -> list[Array]:
        """bool [D, H, W] a structure, on the grid of the series.

        Raises:
            DatasetError: numbers of PNGs and slices do not fit, or a grey level is none of those known.
        """
        levels, grid = self._levels()
        target = io.peek(self.dicom).grid
        require_same(target, grid.toward(target.axes), self.dicom, self.ground)
        bands = _MR if self.modality == "MR" else _CT
        wanted = [bands[structure.raw] for structure in structures]
        placed = regrid(levels, grid, target, order=0, outside=0)
        return [(placed >= low) & (placed <= high) for _, low, high in wanted]

    def _levels(self) -> tuple[Array, Grid]:
        """uint8 grey levels [D, H, W] in the order of the slices' positions, and their grid."""
        pngs = _by_number([path for path in visible(self.ground) if path.suffix.lower() == ".png"])
        pairs = _paired([_slice(path) for path in _dicoms(self.dicom)], pngs, self.ground)
        pairs.sort(key=lambda pair: pair[0].position_mm)
        images = [_png(mask, self.modality) for _, mask in pairs]
        if len({image.shape for image in images}) > 1:
            raise DatasetError(f"{self.ground}: the PNGs differ in size")
        array = np.stack(images)
        affine = pairs[0][0].affine.copy()
        if len(pairs) > 1:
            affine[:3, 0] = (pairs[-1][0].affine[:3, 3] - affine[:3, 3]) / (len(pairs) - 1)
        return array, Grid((array.shape[0], array.shape[1], array.shape[2]), affine)


@dataclass(frozen=True, eq=False)
class Slice:
    """One DICOM file as far as its header tells.

    Attributes:
        path: the file.
        instance: its InstanceNumber, or -1.
        position_mm: along the normal of the slice.
        affine: of this slice alone, (d, h, w, 1) -> RAS+ mm.
    """

    path: Path
    instance: int
    position_mm: float
    affine: Array


def _dicoms(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_file() and path.suffix.lower() in (".dcm", "")]


def _number(path: Path) -> int:
    """The number of a slice in a name: "IMG-0004-00012", "liver_GT_012", "i0012,0000b" -> 12.

    Raises:
        DatasetError: the name holds no number.
    """
    comma = re.match(r"\D*(\d+),\d+", stem(path))
    numbers = [comma[1]] if comma else re.findall(r"\d+", stem(path))
    if not numbers:
        raise DatasetError(f"{path.parent.name}/{path.name}: expected a number in the name, as in IMG-0004-00012")
    return int(numbers[-1])


def _by_number(paths: Sequence[Path]) -> dict[int, Path]:
    """Files by the number in their name.

    Raises:
        DatasetError: two have one number.
    """
    found: dict[int, Path] = {}
    for path in paths:
        if (other := found.setdefault(_number(path), path)) != path:
            raise DatasetError(f"{path.parent}: {other.name} and {path.name} have the same number {_number(path)}")
    return found


def _paired(slices: Sequence[Slice], pngs: dict[int, Path], ground: Path) -> list[tuple[Slice, Path]]:
    """Slices with their masks: of one number, or, where one side counts otherwise, in the order of the numbers.

    A slice's number is that of its file's name, else its InstanceNumber.
    """
    numbered = [{_number(one.path): one for one in slices}, {one.instance: one for one in slices}]
    for by_number in numbered:
        if by_number.keys() == pngs.keys():
            return [(by_number[number], pngs[number]) for number in pngs]
    if len(slices) != len(pngs):
        lonely = sorted(numbered[0].keys() ^ pngs.keys())
        raise DatasetError(
            f"{ground}: {len(pngs)} PNGs for {len(slices)} slices (numbers without a partner: "
            f"{', '.join(map(str, lonely[:8]))}{' ...' if len(lonely) > 8 else ''}); expected one a slice"
        )
    for by_number in numbered:
        if len(by_number) == len(slices):
            return list(zip((by_number[n] for n in sorted(by_number)), (pngs[n] for n in sorted(pngs)), strict=True))
    raise DatasetError(f"{slices[0].path.parent}: several slices have the same number in their name and header")


def _slice(path: Path) -> Slice:
    """Reads the header of a slice.

    Raises:
        FileError: it is no DICOM slice with a place.
    """
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True)
        position = np.array([float(v) for v in head.ImagePositionPatient])
        cosines = np.array([float(v) for v in head.ImageOrientationPatient]).reshape(2, 3)
        rows, columns = (float(v) for v in head.PixelSpacing)
        instance = int(head.get("InstanceNumber") or -1)
    except (InvalidDicomError, AttributeError, TypeError, ValueError, OSError) as error:
        raise FileError(f"{path.parent.name}/{path.name}: no slice with a place ({type(error).__name__})") from None
    normal = np.cross(cosines[0], cosines[1])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = normal, cosines[1] * rows, cosines[0] * columns
    affine[:3, 3] = position
    affine[:2] *= -1  # LPS to RAS
    return Slice(path, instance, float(normal @ position), affine)


def _png(path: Path, modality: str) -> Array:
    """uint8 [H, W] grey levels.

    Raises:
        DatasetError: it cannot be read, or a level lies in no band of the organs.
    """
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DatasetError(f"{path.parent.name}/{path.name}: cannot be read as a PNG image")
    bands: Sequence[tuple[int, int, int]] = tuple((_MR if modality == "MR" else _CT).values())
    known = np.zeros(256, dtype=bool)
    known[0] = True
    for _, low, high in bands:
        known[low : high + 1] = True
    odd = np.unique(image[~known[image]])
    if odd.size:
        raise DatasetError(
            f"{path.parent.name}/{path.name}: grey level {int(odd[0])} belongs to no organ; expected near "
            f"{', '.join(str(level) for level, _, _ in bands)}"
        )
    return np.asarray(image)
