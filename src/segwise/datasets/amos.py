"""AMOS 2022: abdominal organs in CT and MR."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import folders, nothing, stem, volume_named, volumes

CARD = DatasetCard(
    title="AMOS 2022",
    summary="15 abdominal organs in 500 CT and 100 MR scans; the number says which.",
    files=(
        "imagesTr/amos_0001.nii.gz, labelsTr/amos_0001.nii.gz; imagesVa/, labelsVa/; dataset.json",
        "the root is the folder that holds imagesTr/, or the one around it",
    ),
    traps=("numbers from 500 on are MR", 'dataset.json spells the aorta "arota"'),
    source="Ji et al., AMOS, NeurIPS 2022, arXiv 2206.08023",
    licence="CC BY 4.0",
)
LABELS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
FIRST_MR = 500
_NAME = re.compile(r"amos_(\d{4})")
_PARTS = {"train": "Tr", "training": "Tr", "val": "Va", "validation": "Va", "test": "Ts"}


def recognises(root: Path) -> bool:
    """Whether images of a part are called amos_0001 and their labels alike."""
    return _home(root) is not None


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled cases of all parts, or of "train", "val" or "test".

    Raises:
        DatasetError: there is no imagesTr/amos_0001.nii.gz with its labels.
    """
    home = _home(root)
    if home is None:
        raise nothing(root, "amos", "imagesTr/amos_0001.nii.gz with labelsTr/")
    for part in ("Tr", "Va", "Ts") if split is None else (_PARTS.get(split, split),):
        for image in volumes(home / f"images{part}"):
            match = _NAME.fullmatch(stem(image))
            labels = volume_named(home / f"labels{part}", stem(image))
            if match and labels:
                yield make(
                    root=root,
                    layout="amos",
                    id=stem(image),
                    subject=stem(image),
                    images=[image],
                    labels=[Label(raw, labels, (i,)) for i, raw in enumerate(LABELS, 1)],
                    modality="MR" if int(match[1]) >= FIRST_MR else "CT",
                    dataset="AMOS",
                    licence=CARD.licence,
                )


def _home(root: Path) -> Path | None:
    return next((folder for folder in (root, *folders(root)) if _is_home(folder)), None)


def _is_home(folder: Path) -> bool:
    for part in ("Tr", "Va", "Ts"):
        names = [stem(path) for path in volumes(folder / f"images{part}")]
        labels = {stem(path) for path in volumes(folder / f"labels{part}")}
        if names and all(_NAME.fullmatch(name) for name in names) and any(name in labels for name in names):
            return True
    return False
