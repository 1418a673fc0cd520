"""BIDS: a raw data set with segmentations under derivatives/."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, broken, label_names, make, values_in
from segwise.datasets._files import folders, is_volume, nothing, stem, visible, volumes
from segwise.errors import SegwiseError

CARD = DatasetCard(
    title="BIDS derivatives",
    summary="Images under sub-XX/(ses-YY/)anat, segmentations (_dseg, _mask) in the same folders of derivatives/NAME/.",
    files=(
        "sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz",
        "derivatives/NAME/sub-01/ses-01/anat/sub-01_ses-01_space-orig_desc-aseg_dseg.nii.gz: a label map",
        "…_dseg.tsv beside it, or higher up: index, name",
        "…_label-liver_mask.nii.gz: one structure",
    ),
    traps=(
        "files belong together by their entities (sub, ses, run, acq ...), not by their whole names",
        "a segmentation in another space (space-MNI…) belongs to an image of that space",
        "without a table the values are read from the file",
    ),
    source="Brain Imaging Data Structure, Derivatives: Imaging data types, Segmentations",
)
_KINDS = ("anat", "func", "dwi", "perf", "pet", "ct", "fmap", "mri", "micr")
_ORDER = ("T1w", "T2w", "FLAIR", "T2starw", "PDw", "T1map", "CT", "ct", "bold", "sbref", "pet", "dwi")
_NATIVE = ("orig", "native", "individual", "T1w", "T2w", "FLAIR", "bold", "anat")
_LOOSE = {"space", "desc", "label", "res", "den", "seg", "hemi", "atlas", "from", "to"}


@dataclass(frozen=True)
class Named:
    """A file whose name follows BIDS: its entities and suffix."""

    path: Path
    entities: dict[str, str]
    suffix: str


def recognises(root: Path) -> bool:
    """Whether there is a sub-XX with images, and a _dseg or _mask file under derivatives/ or beside them."""
    return next(_segmentations(root), None) is not None and any(True for _ in _images(root))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """A case for every image that has segmentations.

    Raises:
        DatasetError: there is no sub-XX with an image, or no segmentation.
    """
    by_image: dict[Path, list[Named]] = {}
    kept: dict[Path, Named] = {}
    notes: dict[Path, list[str]] = {}
    images = list(_images(root))
    for found in _segmentations(root):
        image, note = _image_of(found, images)
        if image is not None:
            by_image.setdefault(image.path, []).append(found)
            kept[image.path] = image
            notes.setdefault(image.path, []).extend(note)
    if not by_image:
        raise nothing(
            root, "bids", "sub-XX/anat/sub-XX_T1w.nii.gz with derivatives/NAME/sub-XX/anat/sub-XX_dseg.nii.gz"
        )
    for path, parts in sorted(by_image.items()):
        image = kept[path]
        try:
            labels, left_out = _merged(root, parts, path)
        except SegwiseError as error:
            yield broken(root=root, layout="bids", id=stem(path), reason=str(error))
            continue
        yield make(
            root=root,
            layout="bids",
            id=stem(path),
            subject=f"sub-{image.entities['sub']}",
            images=[path],
            labels=labels,
            modality="CT" if image.suffix.lower() == "ct" else "" if image.suffix == "pet" else "MR",
            channels=[{"T1w": "T1", "T2w": "T2"}.get(image.suffix, image.suffix)],
            notes=list(dict.fromkeys((*notes[path], *left_out))),
        )


def _merged(root: Path, parts: list[Named], image: Path) -> tuple[list[Label], list[str]]:
    """The labels of all files of an image; of equal names the first file's, with a note on the others."""
    labels: list[Label] = []
    notes = []
    for part in parts:
        there = {label.raw: label.path.name for label in labels}
        found = _labels(root, part, image)
        labels += [label for label in found if label.raw not in there]
        first = next((there[label.raw] for label in found if label.raw in there), None)
        if first:
            notes.append(f"{part.path.name}: names that {first} has too are left out")
    return labels, notes


def _named(path: Path) -> Named | None:
    parts = stem(path).split("_")
    entities = dict(part.split("-", 1) for part in parts[:-1] if "-" in part)
    return Named(path, entities, parts[-1]) if "sub" in entities and "-" not in parts[-1] else None


def _files(home: Path) -> Iterator[Named]:
    """All volumes of sub-XX/(ses-YY/)anat … under a folder."""
    for subject in folders(home):
        if not re.fullmatch(r"sub-[A-Za-z0-9]+", subject.name):
            continue
        for folder in (subject, *(f for f in folders(subject) if f.name.startswith("ses-"))):
            for kind in (folder / name for name in _KINDS):
                yield from (found for path in volumes(kind) if (found := _named(path)))


def _homes(root: Path) -> list[Path]:
    derived = folders(root / "derivatives")
    return [
        root,
        *derived,
        *(inner for home in derived for inner in folders(home) if not inner.name.startswith("sub-")),
    ]


def _segmentations(root: Path) -> Iterator[Named]:
    for home in _homes(root):
        yield from (found for found in _files(home) if found.suffix in ("dseg", "mask"))


def _images(root: Path) -> Iterator[Named]:
    """Raw images, and those of derivatives that stand in a space of their own."""
    for home in _homes(root):
        for found in _files(home):
            if found.suffix not in ("dseg", "mask", "probseg") and (home == root or "space" in found.entities):
                yield found


def _image_of(found: Named, images: list[Named]) -> tuple[Named | None, list[str]]:
    """The image that a segmentation belongs to, and a note where its name left a choice."""
    space = found.entities.get("space", "")
    near = [image for image in images if _agree(found, image)]
    same = [image for image in near if image.entities.get("space", "") == space]
    if not same and (not space or space in _NATIVE):
        same = [image for image in near if "space" not in image.entities]
    named = [image for image in same if image.suffix in (space, *re.split(r"[-_]", stem(found.path)))]
    best = sorted(
        named or same, key=lambda i: (_ORDER.index(i.suffix) if i.suffix in _ORDER else 99, len(i.entities), i.path)
    )
    if not best:
        return None, []
    rest = {image.suffix for image in best[1:]} - {best[0].suffix}
    return best[0], [f"{found.path.name} could also belong to {', '.join(sorted(rest))}"] if rest else []


def _agree(found: Named, image: Named) -> bool:
    """One subject and session, and no entity of the segmentation that the image has otherwise."""
    if found.path.parent.name != image.path.parent.name or found.entities.get("ses") != image.entities.get("ses"):
        return False
    tight = {key: value for key, value in found.entities.items() if key not in _LOOSE}
    return all(image.entities.get(key) == value for key, value in tight.items())


def _labels(root: Path, found: Named, image: Path) -> list[Label]:
    """What a segmentation holds: one structure of a mask, or those of the table of a label map."""
    if found.suffix == "mask":
        return [Label(found.entities.get("label") or found.entities.get("desc") or "mask", found.path)]
    table = _table(root, found)
    if table is None:
        return values_in(found.path, image)
    lines = table.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    rows = [row for row in csv.DictReader(lines, delimiter="\t") if (row.get("index") or "").strip().isdecimal()]
    named = {row["index"].strip(): row.get("name") or row.get("label") or f"label {row['index']}" for row in rows}
    return [Label(name.strip(), found.path, values) for name, values in label_names(named).items()]


def _table(root: Path, found: Named) -> Path | None:
    """The table of a label map: beside it under its name, or the nearest above whose entities it has."""
    beside = found.path.with_name(f"{stem(found.path)}.tsv")
    if beside.is_file():
        return beside
    folder = found.path.parent
    while folder != root.parent and folder.is_relative_to(root):
        fitting = [path for path in visible(folder) if path.name.endswith("dseg.tsv") and _covers(path, found)]
        if fitting:
            return max(fitting, key=lambda path: path.name.count("_"))
        folder = folder.parent
    return None


def _covers(table: Path, found: Named) -> bool:
    entities = dict(part.split("-", 1) for part in table.stem.split("_")[:-1] if "-" in part)
    return all(found.entities.get(key) == value for key, value in entities.items()) and not is_volume(table)
