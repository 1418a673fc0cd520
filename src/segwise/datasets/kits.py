"""KiTS: kidneys, their tumours and cysts in CT (2019, 2021, 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import folders, nothing, visible, volume_named

CARD = DatasetCard(
    title="KiTS",
    summary="Contrast CT scans of kidneys with a tumour; from 2021 on cysts are labelled too.",
    files=(
        "case_00000/imaging.nii.gz, case_00000/segmentation.nii.gz",
        "the root holds the cases, or data/ or dataset/ with them",
    ),
    traps=(
        "slices are stacked along the first axis of the file, and its place is in the qform only",
        "label 3 (cyst) exists from 2021 on; edition=2019 leaves it out where the folder does not tell",
        "both kidneys share one label",
    ),
    source="Heller et al., The KiTS21 Challenge, arXiv 2307.01984; arXiv 1904.00445",
    licence="CC BY-NC-SA 4.0",
)
_CASE = re.compile(r"case_(\d{5})")
_LABELS = (("kidney", "kidney"), ("tumor", "kidney tumor"), ("cyst", "kidney cyst"))
_SEGMENTATIONS = ("segmentation", "aggregated_MAJ_seg", "aggregated_AND_seg", "aggregated_OR_seg")


def recognises(root: Path) -> bool:
    """Whether a case_00000 with imaging and segmentation lies here, in data/ or dataset/, or is the folder itself."""
    return any(_files(home) for home in _homes(root))


def cases(
    root: Path, split: str | None = None, *, edition: Literal["auto", "2019", "2021", "2023"] = "auto"
) -> Iterator[Case]:
    """The labelled cases, by number.

    Args:
        root: the folder of the cases, the one around it, or one case.
        split: not used: KiTS publishes no split.
        edition: whether there are cysts; "auto" looks at the folder's name, its kits.json and what a case folder holds.

    Raises:
        DatasetError: there is no case_00000 with imaging.nii.gz and segmentation.nii.gz.
    """
    found = [(home, files) for home in _homes(root) if (files := _files(home))]
    if not found:
        raise nothing(root, "kits", "case_00000/imaging.nii.gz with segmentation.nii.gz")
    labelled = _LABELS if edition in ("2021", "2023") or (edition == "auto" and _cysts(root, found)) else _LABELS[:2]
    for home, (image, labels) in found:
        yield make(
            root=root if home != root else home.parent,
            layout="kits",
            id=home.name,
            subject=home.name,
            images=[image],
            labels=[Label(raw, labels, (i,), words) for i, (raw, words) in enumerate(labelled, 1)],
            modality="CT",
            dataset="KiTS",
            licence=CARD.licence,
        )


def _homes(root: Path) -> list[Path]:
    if _CASE.fullmatch(root.name):
        return [root]
    around = (root, root / "data", root / "dataset", root / "training", root / "train")
    return [folder for home in around for folder in folders(home) if _CASE.fullmatch(folder.name)]


def _files(home: Path) -> tuple[Path, Path] | None:
    image = volume_named(home, "imaging")
    labels = next((path for name in _SEGMENTATIONS if (path := volume_named(home, name))), None)
    return (image, labels) if image and labels else None


def _cysts(root: Path, found: list[tuple[Path, tuple[Path, Path]]]) -> bool:
    """Whether label 3 is to be expected: not in what is marked as of 2019; unmarked folders are taken as later."""
    marks = f"{root.resolve().name} {root.resolve().parent.name}".lower()
    if re.search(r"kits-?_?(20)?19", marks) or (root / "starter_code").exists():  # the repository of 2019
        return False
    later = re.search(r"kits-?_?(20)?2[13]", marks) or any(_is_later(home) for home, _ in found)
    return bool(later) or not any((folder / "kits.json").exists() for folder in (root, root / "data"))


def _is_later(home: Path) -> bool:
    match = _CASE.fullmatch(home.name)
    names = {path.name for path in visible(home)}
    marked = names & {"instances", "segmentations", "raw"} or any(name.startswith("aggregated") for name in names)
    return bool(marked) or bool(match and int(match[1]) >= 300)
