"""Two folders, images/ and labels/, with files that pair by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, broken, label_names, make, modality_of, values_in
from segwise.datasets._files import folders, maybe_json, nothing, stem, visible, volumes
from segwise.errors import DatasetError, SegwiseError

CARD = DatasetCard(
    title="Folder pair",
    summary="A folder of images and one of label files; equal names, but for words like _seg, belong together.",
    files=(
        "images/NAME.nii.gz (or image/, scans/, volumes/); a scan may be a folder of DICOM files",
        "labels/NAME.nii.gz (or label/, masks/, mask/, segmentations/)",
        "labels.json beside them, if you have it: {value: name}; else values are read from the files: 'label 1' ...",
    ),
    traps=("without labels.json every label file is read while listing, as nothing else tells which values it holds",),
)
_IMAGES = ("images", "image", "volumes", "scans", "imgs", "img", "imagestr")
_LABELS = ("labels", "label", "masks", "mask", "segmentations", "annotations", "gts", "gt", "labelstr")
_ROLE = r"(?:image|img|scan|volume|vol|labels?|masks?|seg|segmentation|gt|annotation|0000)"
_OTHERS = re.compile(r"(volume|segmentation)-\d+")  # LiTS


def recognises(root: Path) -> bool:
    """Whether the folder holds images and labels of which at least two files pair."""
    home = _homes(root)
    try:
        return home is not None and bool(_pairs(*home))
    except DatasetError:  # two files of one case: `cases` says which
        return True


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The pairs, by name.

    Raises:
        DatasetError: there are no two such folders, nothing pairs, or names are not clear.
    """
    home = _homes(root)
    if home is None:
        raise nothing(root, "pair", "two folders images/ and labels/")
    pairs = _pairs(*home)
    if not pairs:
        raise DatasetError(f"{root}: no file in {home[0].name}/ has the name of one in {home[1].name}/")
    names = label_names(maybe_json(root / "labels.json"))
    for key, (image, labels) in pairs.items():
        try:
            found = [Label(raw, labels, v) for raw, v in names.items()] if names else values_in(labels, image)
        except SegwiseError as error:
            yield broken(root=root, layout="pair", id=key, reason=str(error))
            continue
        yield make(
            root=root,
            layout="pair",
            id=key,
            subject=key,
            images=[image],
            labels=found,
            modality=modality_of(stem(image)) or modality_of(root.name.replace("_", " ")),
        )


def _homes(root: Path) -> tuple[Path, Path] | None:
    if (root / "dataset.json").exists():
        return None
    inside = {path.name.lower(): path for path in folders(root)}
    images = next((inside[name] for name in _IMAGES if name in inside), None)
    labels = next((inside[name] for name in _LABELS if name in inside), None)
    return (images, labels) if images and labels else None


def _pairs(images: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """By case id: an image and its labels.

    Raises:
        DatasetError: two files of one folder have the same name but for their role.
    """
    left = _keyed([path for path in visible(images) if path.is_dir() or path in volumes(images)])
    right = _keyed([p for p in visible(labels) if p in volumes(labels) or p.suffix.lower() == ".dcm"])
    return {key: (left[key], right[key]) for key in left if key in right}


def _keyed(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if _OTHERS.fullmatch(stem(path)):
            continue
        key = key_of(stem(path))
        if key in found:
            raise DatasetError(f"{path.parent.name}/: {found[key].name} and {path.name} both belong to the case {key}")
        found[key] = path
    return found


def key_of(name: str) -> str:
    """A file's stem without the words that say its role: "case1_seg" -> "case1"."""
    key = re.sub(rf"(?i)^{_ROLE}[-_. ]+|[-_. ]+{_ROLE}$", "", name)
    return key or name
