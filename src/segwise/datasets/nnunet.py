"""nnU-Net's raw data, versions 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, channel_of, label_names, make, modality_of
from segwise.datasets._files import folders, maybe_json, nothing, read_json, stem, visible, volume_named, volumes
from segwise.errors import DatasetError

CARD = DatasetCard(
    title="nnU-Net raw",
    summary="A dataset.json with imagesTr/CASE_0000.nii.gz (a file a channel) and labelsTr/CASE.nii.gz.",
    files=(
        "dataset.json: labels {name: value} or {name: [values]} for regions, channel_names, file_ending; or version 1",
        "imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz ...: the channels",
        "labelsTr/CASE.nii.gz",
        "imagesTs/, labelsTs/: only with split=test, where both are there",
        "the root is one Dataset folder or a folder of them",
    ),
    traps=(
        "regions overlap: a region is a list of values, painted in the order of regions_class_order",
        'voxels of the label "ignore" must not be scored',
    ),
    source="nnU-Net, documentation/dataset_format.md",
)
_CHANNEL = re.compile(r"(.+)_(\d{4})$")


def recognises(root: Path) -> bool:
    """Whether it is a Dataset folder, or holds one, whose images end in a channel number that its labels lack."""
    return any(_is_set(folder) for folder in (root, *_inside(root)))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled cases of the training folder, or of imagesTs with split "test".

    Raises:
        DatasetError: dataset.json is missing or names no labels, or there are no labelled cases.
    """
    homes = [folder for folder in (root, *_inside(root)) if (folder / "dataset.json").is_file()]
    if not homes:
        raise nothing(root, "nnunet", "dataset.json beside imagesTr/ and labelsTr/")
    n = 0
    for home in homes:
        for case in _cases(
            root, home, "Ts" if split == "test" else "Tr", prefix=f"{home.name}_" if len(homes) > 1 else ""
        ):
            n += 1
            yield case
    if n == 0 and split is None:
        raise nothing(root, "nnunet", "imagesTr/CASE_0000 with a labelsTr/CASE")


def _inside(root: Path) -> list[Path]:
    return [] if (root / "dataset.json").exists() else folders(root)


def _is_set(home: Path) -> bool:
    what = maybe_json(home / "dataset.json")
    if not isinstance(what, Mapping) or "labels" not in what:
        return False
    images = [stem(path) for path in _files(home / "imagesTr", what)]
    channels = [match for name in images if (match := _CHANNEL.match(name))]
    if not images or len(channels) < len(images):
        return False
    labels = {stem(path) for path in _files(home / "labelsTr", what)}
    return any(m[1] in labels for m in channels) or (not labels and ("file_ending" in what or "channel_names" in what))


def _files(folder: Path, what: Mapping[str, Any]) -> list[Path]:
    ending = str(what.get("file_ending", ""))
    return [p for p in visible(folder) if p.name.endswith(ending)] if ending else volumes(folder)


def _cases(root: Path, home: Path, part: str, *, prefix: str) -> Iterator[Case]:
    what = read_json(home / "dataset.json")
    names = label_names(what.get("labels"))
    if not names:
        raise DatasetError(f'{home.name}/dataset.json: no "labels"; expected {{name: value}}, as {{"liver": 1}}')
    ignored = next((values[0] for raw, values in names.items() if raw.lower() == "ignore"), None)
    kinds = what.get("channel_names") or what.get("modality") or {}
    kinds = {int(key): str(value) for key, value in kinds.items()} if isinstance(kinds, Mapping) else {}
    by_case: dict[str, list[Path]] = {}
    for path in _files(home / f"images{part}", what):
        if match := _CHANNEL.match(stem(path)):
            by_case.setdefault(match[1], []).append(path)
    for id_, images in by_case.items():
        labels = volume_named(home / f"labels{part}", id_)
        if labels is None:
            continue
        modalities = {modality_of(kind) for kind in kinds.values()} - {""}
        yield make(
            root=root,
            layout="nnunet",
            id=prefix + id_,
            subject=prefix + subject_of(id_),
            images=images,
            labels=[Label(raw, labels, values) for raw, values in names.items() if raw.lower() != "ignore"],
            modality=modalities.pop() if len(modalities) == 1 else "",
            channels=[channel_of(kinds.get(i, "")) for i in range(len(images))],
            dataset=str(what.get("name") or home.resolve().name),
            licence=str(what.get("licence") or what.get("license") or ""),
            ignore=ignored,
        )


def subject_of(id: str) -> str:
    """The person in a case's name: "patient001_frame01" and "…_ED" are patient001; a name that says no more is one."""
    match = re.match(r"(?i)(.*?(?:patient|pat|subject|subj|sub)[-_]?\d+)[-_](?:frame|time|tp|ed|es|ses|visit|scan)", id)
    return match[1] if match else id
