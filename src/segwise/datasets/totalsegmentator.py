"""TotalSegmentator's data: one file a structure, CT and MR."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import first, folders, nothing, stem, volumes

CARD = DatasetCard(
    title="TotalSegmentator",
    summary="CT (or MR) scans with a mask file for each of 117 (or 50) structures.",
    files=(
        "s0000/ct.nii.gz (CT) or s0000/mri.nii.gz (MR)",
        "s0000/segmentations/liver.nii.gz ...",
        "meta.csv with semicolons: image_id, split ...",
        "the root holds the cases, or is one",
    ),
    traps=(
        "structures out of view have an empty mask",
        "meta.csv is separated by semicolons and holds ages: only the split is read",
    ),
    source="Wasserthal et al., TotalSegmentator, doi 10.1148/ryai.230024",
    licence="CC BY 4.0",
)
_IMAGES = {"ct.nii.gz": "CT", "mri.nii.gz": "MR", "mr.nii.gz": "MR", "ct.nii": "CT", "mri.nii": "MR", "mr.nii": "MR"}


def recognises(root: Path) -> bool:
    """Whether a folder, here or one down, holds ct.nii.gz or mri.nii.gz beside segmentations/."""
    return any(_image(home) and (home / "segmentations").is_dir() for home in (root, *folders(root)))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The cases, by name; of one split where meta.csv names it ("train", "val", "test").

    Raises:
        DatasetError: there is no case with segmentations.
    """
    homes = [home for home in (root, *folders(root)) if _image(home) and volumes(home / "segmentations")]
    if not homes:
        raise nothing(root, "totalsegmentator", "s0000/ct.nii.gz (or mri.nii.gz) with s0000/segmentations/*.nii.gz")
    splits = _splits(root)
    for home in homes:
        image = _image(home)
        if image is not None and (split is None or splits.get(home.name) == split):
            yield make(
                root=root if home != root else home.parent,
                layout="totalsegmentator",
                id=home.name,
                subject=home.name,
                images=[image],
                labels=[Label(stem(path), path) for path in volumes(home / "segmentations")],
                modality=_IMAGES[image.name],
                dataset="TotalSegmentator",
                licence=CARD.licence,
            )


def _image(home: Path) -> Path | None:
    return first(*(home / name for name in _IMAGES))


def _splits(root: Path) -> dict[str, str]:
    """{case: split} of meta.csv, whichever of ";" and "," separates it."""
    path = root / "meta.csv"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    rows = csv.DictReader(lines, delimiter=";" if lines and ";" in lines[0] else ",")
    return {row["image_id"]: row["split"] for row in rows if row.get("image_id") and row.get("split")}
