"""One folder with one image and one label file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, label_names, make, modality_of, name_of, values_in
from segwise.datasets._files import folders, maybe_json, nothing, stem, visible, volumes

CARD = DatasetCard(
    title="One image with its labels",
    summary="A folder that holds exactly one scan and one label file.",
    files=(
        "NAME.nii.gz, or a folder of DICOM files, or DICOM files",
        "one file whose name says that it holds labels: labels, seg, segmentation, mask, gt, annotation",
        "labels.json, if you have it: {value: name}; else the values are read from the file: 'label 1' ...",
    ),
    traps=("without labels.json the label file is read while listing, as nothing else tells which values it holds",),
)
_LABELS = re.compile(
    r"(?i)(^|[-_. ])(labels?|seg|segmentations?|masks?|gt|annotations?|rtstruct|rtss|rs)(\d*)([-_. ]|$)"
)
_OTHERS = re.compile(r"(volume|segmentation)-\d+")  # LiTS


def recognises(root: Path) -> bool:
    """Whether the folder holds one image, one label file and nothing of another layout."""
    return _found(root) is not None


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The one case; its id is the folder's name.

    Raises:
        DatasetError: there is not exactly one image and one label file.
    """
    found = _found(root)
    if found is None:
        raise nothing(root, "single", "exactly one image and one label file (its name with labels, seg or mask)")
    image, labels = found
    names = label_names(maybe_json(root / "labels.json"))
    yield make(
        root=root,
        layout="single",
        id=name_of(root),
        subject=name_of(root),
        images=[image],
        labels=[Label(raw, labels, v) for raw, v in names.items()] if names else values_in(labels, image),
        modality=modality_of(stem(image)),
    )


def _found(root: Path) -> tuple[Path, Path] | None:
    """(image, labels) if the folder holds exactly these."""
    files = [*volumes(root), *(p for p in visible(root) if p.suffix.lower() == ".dcm" and _LABELS.search(stem(p)))]
    slices = [p for p in visible(root) if p.suffix.lower() in (".dcm", ".ima") and p not in files]
    scans = [root] if slices else [path for path in folders(root) if any(_is_dicom(p) for p in visible(path)[:3])]
    if (
        (root / "case.json").exists()
        or (not slices and len(folders(root)) > len(scans))
        or len(files) + len(scans) != 2
    ):
        return None
    labels = [path for path in files if _LABELS.search(stem(path)) or path.name.lower().endswith(".seg.nrrd")]
    images = [path for path in (*files, *scans) if path not in labels]
    if len(labels) != 1 or len(images) != 1 or any(_OTHERS.fullmatch(stem(path)) for path in images):
        return None
    kits = re.fullmatch(r"case_\d{5}", root.name) and stem(images[0]) == "imaging"
    return None if kits or _bids(images[0]) else (images[0], labels[0])


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in (".dcm", ".ima") or (not path.suffix and path.is_file())


def _bids(image: Path) -> bool:
    return image.name.startswith("sub-") and image.parent.name in ("anat", "func", "dwi", "pet")
