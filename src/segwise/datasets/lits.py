"""LiTS: the liver and its tumours in CT."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import nothing, stem, volumes, within

CARD = DatasetCard(
    title="LiTS",
    summary="131 labelled CT scans of the liver with its tumours.",
    files=("volume-0.nii and segmentation-0.nii, in one folder, in batches or in two folders",),
    traps=(
        "files are not compressed",
        "affines differ from file to file, also in the sign of the axes: only the affine says where left is",
        "3D-IRCADb cases are among them (27 to 47), and MSD's liver task is the same data",
    ),
    source="Bilic et al., The Liver Tumor Segmentation Benchmark, arXiv 1901.04056",
    licence="CC BY-NC-SA 4.0",
)
_NAME = re.compile(r"(volume|segmentation)-(\d+)")


def recognises(root: Path) -> bool:
    """Whether volume-N and segmentation-N with one number lie in the folder or up to two folders down."""
    return bool(_pairs(root))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled cases, by number.

    Raises:
        DatasetError: there is no volume-N with a segmentation-N.
    """
    pairs = _pairs(root)
    if not pairs:
        raise nothing(root, "lits", "volume-0.nii with segmentation-0.nii")
    for number, (image, labels) in sorted(pairs.items()):
        yield make(
            root=root,
            layout="lits",
            id=f"volume-{number}",
            subject=f"volume-{number}",
            images=[image],
            labels=[Label("liver", labels, (1,)), Label("tumor", labels, (2,), "liver tumor")],
            modality="CT",
            dataset="LiTS",
            licence=CARD.licence,
        )


def _pairs(root: Path) -> dict[int, tuple[Path, Path]]:
    found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}}
    for folder in within(root, 2):
        for path in volumes(folder):
            if match := _NAME.fullmatch(stem(path)):
                found[match[1]].setdefault(int(match[2]), path)
    both = found["volume"].keys() & found["segmentation"].keys()
    return {number: (found["volume"][number], found["segmentation"][number]) for number in both}
