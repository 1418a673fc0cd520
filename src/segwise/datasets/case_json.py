"""A folder a case, with a case.json that says what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, broken, label_names, make, modality_of
from segwise.datasets._files import first, folders, maybe_json, nothing, read_json, volume_named
from segwise.errors import DatasetError

CARD = DatasetCard(
    title="case.json folders",
    summary="One folder a case: an image, a label map of the same grid and a case.json that names the labels.",
    files=(
        "<case>/case.json: id, subject, modality, label_map {value: name}, label_quality, licence, channels, scanner, "
        "anatomy",
        "<case>/image.nii.gz (any format that is read; image_*.nii.gz are further channels, off by default)",
        'further channels on other grids: "registered": true says that all share one world space, and brings them onto '
        "the first image's grid",
        "<case>/labels.nii.gz",
        "the root is the folder of case folders (links are followed) or one case folder",
    ),
    traps=(
        "a dicom/ folder is the same scan as image.nii.gz, not a second case",
        "a case.json that holds a list describes loose files without images: left out",
        "several cases can be one subject",
    ),
)
QUALITIES = ("gold", "silver", "template", "unknown")


def recognises(root: Path) -> bool:
    """Whether the folder, or a folder in it, holds a case.json that describes a case."""
    return any(_is_case(folder) for folder in (root, *folders(root)))


def cases(root: Path, split: str | None = None, *, channels: bool = False, unlabelled: bool = False) -> Iterator[Case]:
    """The labelled cases, by name of their folders.

    Args:
        root: folder of case folders, or one case folder.
        split: only those whose case.json has this "split".
        channels: the further channels (image_*.nii.gz) as well.
        unlabelled: those without a label file or label_map as well, without structures.

    Raises:
        DatasetError: there is no case.json, or the only one is damaged or lacks what it needs; one among others
            gives a case without targets, which says why.
    """
    homes = [root] if (root / "case.json").exists() else folders(root)
    homes = [home for home in homes if (home / "case.json").exists()]
    if not homes:
        raise nothing(root, "case-json", "case.json in it or in a folder in it")
    told = [(home, what) for home, what in ((home, _told(home)) for home in homes) if what is not None]
    ids = [str(what.get("id") or home.name) if isinstance(what, Mapping) else home.name for home, what in told]
    for (home, what), id_ in zip(told, ids, strict=True):
        unique = id_ if ids.count(id_) == 1 else home.name
        try:
            if isinstance(what, DatasetError):
                raise what
            if split is None or what.get("split") == split:
                yield _case(root, home, what, id=unique, channels=channels, unlabelled=unlabelled)
        except DatasetError as error:
            if home == root:
                raise
            yield broken(root=root, layout="case-json", id=unique, reason=str(error))


def _is_case(folder: Path) -> bool:
    content = maybe_json(folder / "case.json")
    if content is None:  # a damaged one: `cases` says what is wrong
        return (folder / "case.json").is_file()
    return isinstance(content, Mapping) and ("label_map" in content or "modality" in content)


def _told(home: Path) -> dict[str, Any] | DatasetError | None:
    """What a case.json says, or what is wrong with it; None if it holds a list: files without an image."""
    if isinstance(maybe_json(home / "case.json"), list):
        return None
    try:
        return read_json(home / "case.json")
    except DatasetError as error:
        return error


def _case(root: Path, home: Path, what: Mapping[str, Any], *, id: str, channels: bool, unlabelled: bool) -> Case:
    names = label_names(what.get("label_map"))
    image, labels = volume_named(home, "image"), volume_named(home, "labels") or volume_named(home, "label")
    said = what.get("channels")
    kinds = {str(key): str(value) for key, value in said.items()} if isinstance(said, Mapping) else {}
    image = image or first(*(home / name for name in kinds), home / "dicom")
    if image is None or not (unlabelled or (labels and names)):
        lack = "image" if image is None else "label file" if labels is None else '"label_map" {value: name}'
        raise DatasetError(f"{home.name}/case.json: the case has no {lack}; expected image.nii.gz and labels.nii.gz")
    files = [image, *(path for name in kinds if channels and (path := home / name).is_file() and path != image)]
    quality, note = str(what.get("label_quality", "unknown")).lower(), what.get("label_note")
    return make(
        root=root if home != root else home.parent,
        layout="case-json",
        id=id,
        subject=str(what.get("subject") or id),
        images=files,
        labels=[Label(raw, labels, values) for raw, values in names.items()] if labels else [],
        modality=modality_of(str(what.get("modality", ""))),
        channels=[kinds.get(path.name, modality_of(str(what.get("modality", "")))) for path in files],
        dataset=(root if home != root else home.parent).resolve().name,
        quality=quality if quality in QUALITIES else "unknown",
        licence=str(what.get("licence") or what.get("license") or ""),
        notes=[note] if isinstance(note, str) and note else [],
        registered=what.get("registered") is True,
        facts={key: what[key] for key in ("scanner", "anatomy") if isinstance(what.get(key), str)},
    )
