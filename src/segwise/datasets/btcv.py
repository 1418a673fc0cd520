"""BTCV, Beyond the Cranial Vault: 13 abdominal organs in CT."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import nothing, stem, volume_named, volumes, within

CARD = DatasetCard(
    title="BTCV Abdomen",
    summary="30 labelled portal venous CT scans with 13 organs.",
    files=("RawData/Training/img/img0001.nii.gz, RawData/Training/label/label0001.nii.gz",),
    traps=("numbers have gaps", "images and labels pair by number, their names differ", "Testing has no labels"),
    source="Landman et al., MICCAI 2015 Multi-Atlas Labeling Beyond the Cranial Vault, synapse syn3193805",
)
LABELS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal vein and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
_IMAGE = re.compile(r"img(\d{4})")


def recognises(root: Path) -> bool:
    """Whether img/img0001 with label/label0001 lies in the folder or up to three folders down."""
    return any(_pairs(home) for home in within(root, 3))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled cases.

    Args:
        root: the folder around RawData, or RawData, or Training.
        split: "training" or "testing" (which has no labels as published).

    Raises:
        DatasetError: there is no img/img0001.nii.gz with label/label0001.nii.gz.
    """
    found = [(home, pairs) for home in within(root, 3) if (pairs := _pairs(home))]
    if not found:
        raise nothing(root, "btcv", "img/img0001.nii.gz with label/label0001.nii.gz")
    for home, pairs in found:
        if split is None or home.name.lower().startswith(split.lower()):
            for number, image, labels in pairs:
                yield make(
                    root=root,
                    layout="btcv",
                    id=f"img{number}",
                    subject=f"img{number}",
                    images=[image],
                    labels=[Label(raw, labels, (i,)) for i, raw in enumerate(LABELS, 1)],
                    modality="CT",
                    dataset="BTCV",
                )


def _pairs(home: Path) -> list[tuple[str, Path, Path]]:
    matches = [(m[1], path) for path in volumes(home / "img") if (m := _IMAGE.fullmatch(stem(path)))]
    found = [(number, path, volume_named(home / "label", f"label{number}")) for number, path in matches]
    return [(number, path, labels) for number, path, labels in found if labels]
