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
        "the root holds CT and MR, or Train_Sets/ with them",
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
    for around in _AROUND:
        for person in folders(root / around / "CT"):
            if (person / "DICOM_anon").is_dir():
                yield "CT", person.name, "", person / "DICOM_anon", person / "Ground"
        for person in folders(root / around / "MR"):
            for sequence in folders(person):
                dicom = sequence / "DICOM_anon"
                phases = [phase for phase in folders(dicom) if phase.name in ("InPhase", "OutPhase")]
                for phase in phases:
                    yield "MR", person.name, f"{sequence.name}-{phase.name}", phase, sequence / "Ground"
                if dicom.is_dir() and not phases:
                    yield "MR", person.name, sequence.name, dicom, sequence / "Ground"


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
        slices = {_number(path): path for path in _dicoms(self.dicom)}
        pngs = {_number(path): path for path in visible(self.ground) if path.suffix.lower() == ".png"}
        pairs = _paired(slices, pngs, self.ground)
        placed = sorted((_place(path, mask) for path, mask in pairs), key=lambda place: place[0])
        images = [_png(mask, self.modality) for _, _, mask in placed]
        if len({image.shape for image in images}) > 1:
            raise DatasetError(f"{self.ground}: the PNGs differ in size")
        array = np.stack(images)
        first, last = placed[0][1], placed[-1][1]
        step = (last[:3, 3] - first[:3, 3]) / max(1, len(placed) - 1)
        affine = first.copy()
        if len(placed) > 1:
            affine[:3, 0] = step
        return array, Grid((array.shape[0], array.shape[1], array.shape[2]), affine)


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


def _paired(slices: dict[int, Path], pngs: dict[int, Path], ground: Path) -> list[tuple[Path, Path]]:
    """Slices with their masks: of one number, or, where one side counts otherwise, in the order of the numbers."""
    if slices.keys() == pngs.keys():
        return [(slices[number], pngs[number]) for number in sorted(slices)]
    if len(slices) != len(pngs):
        lonely = sorted(slices.keys() ^ pngs.keys())
        raise DatasetError(
            f"{ground}: {len(pngs)} PNGs for {len(slices)} slices (numbers without a partner: "
            f"{', '.join(map(str, lonely[:8]))}{' ...' if len(lonely) > 8 else ''}); expected one a slice"
        )
    return list(zip((slices[n] for n in sorted(slices)), (pngs[n] for n in sorted(pngs)), strict=True))


def _place(path: Path, mask: Path) -> tuple[float, Array, Path]:
    """(position along the normal, affine of the slice in RAS+ mm over (d, h, w), mask)."""
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True)
        position = np.array([float(v) for v in head.ImagePositionPatient])
        cosines = np.array([float(v) for v in head.ImageOrientationPatient]).reshape(2, 3)
        rows, columns = (float(v) for v in head.PixelSpacing)
    except (InvalidDicomError, AttributeError, TypeError, ValueError, OSError) as error:
        raise FileError(f"{path.parent.name}/{path.name}: no slice with a place ({type(error).__name__})") from None
    normal = np.cross(cosines[0], cosines[1])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = normal, cosines[1] * rows, cosines[0] * columns
    affine[:3, 3] = position
    affine[:2] *= -1  # LPS to RAS
    return float(normal @ position), affine, mask


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
