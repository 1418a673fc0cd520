"""Medical Segmentation Decathlon."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, channel_of, label_names, make, modality_of
from segwise.datasets._files import folders, maybe_json, nothing, read_json, stem, volume_named, volumes
from segwise.errors import DatasetError

CARD = DatasetCard(
    title="Medical Segmentation Decathlon",
    summary="Ten tasks, each with a dataset.json, imagesTr/ and labelsTr/ with equal names; channels in one 4D file.",
    files=(
        "Task03_Liver/dataset.json: labels {value: name}, modality {channel: name}",
        "Task03_Liver/imagesTr/liver_0.nii.gz, labelsTr/liver_0.nii.gz",
        "the root is one task or a folder of tasks",
    ),
    traps=(
        "4 channels in one 4D file for the brain, 2 for the prostate",
        "hidden ._ files beside the real ones",
        '"cancer" and "Tumour" mean the tumour of the task\'s organ: they become liver tumor, lung tumor ...',
    ),
    source="Antonelli et al., The Medical Segmentation Decathlon, arXiv 2106.05735",
    licence="CC BY-SA 4.0",
)
_TASKS = {  # what a task's words mean: (task, raw) -> words for the vocabulary
    "liver": {"cancer": "liver tumor", "tumor": "liver tumor", "tumour": "liver tumor"},
    "lung": {"cancer": "lung tumor", "tumor": "lung tumor", "tumour": "lung tumor"},
    "pancreas": {"cancer": "pancreas tumor", "tumor": "pancreas tumor", "tumour": "pancreas tumor"},
    "hepaticvessel": {"vessel": "liver vessel", "tumour": "liver tumor", "tumor": "liver tumor"},
    "hippocampus": {"anterior": "anterior hippocampus", "posterior": "posterior hippocampus"},
    "colon": {"cancer": "colon tumor"},
    "prostate": {"pz": "prostate peripheral zone", "tz": "prostate transition zone"},
}
_KINDS = {"FLAIR": "FLAIR", "T1w": "T1", "t1gd": "T1c", "T1gd": "T1c", "T2w": "T2"}
_NUMBERED = re.compile(r".+_\d{4}$")


def recognises(root: Path) -> bool:
    """Whether it is a task, or holds one, whose images and labels have equal names."""
    return any(_is_task(folder) for folder in (root, *_inside(root)))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled cases of the training folders.

    Raises:
        DatasetError: dataset.json is missing or names no labels, or there are no labelled cases.
    """
    homes = [folder for folder in (root, *_inside(root)) if (folder / "dataset.json").is_file()]
    if not homes:
        raise nothing(root, "msd", "dataset.json beside imagesTr/ and labelsTr/")
    n = 0
    for home in homes:
        for case in _cases(root, home, split, prefix=f"{home.name}_" if len(homes) > 1 else ""):
            n += 1
            yield case
    if n == 0 and split is None:
        raise nothing(root, "msd", "imagesTr/NAME.nii.gz with a labelsTr/NAME.nii.gz")


def _inside(root: Path) -> list[Path]:
    return [] if (root / "dataset.json").exists() else folders(root)


def _is_task(home: Path) -> bool:
    what = maybe_json(home / "dataset.json")
    if not isinstance(what, Mapping) or "labels" not in what or "file_ending" in what or "channel_names" in what:
        return False
    images = [stem(path) for path in volumes(home / "imagesTr")]
    labels = {stem(path) for path in volumes(home / "labelsTr")}
    if not images or all(re.fullmatch(r"amos_\d{4}", name) for name in images):
        return False
    return any(n in labels for n in images) or (not labels and not all(_NUMBERED.match(n) for n in images))


def _cases(root: Path, home: Path, split: str | None, *, prefix: str) -> Iterator[Case]:
    what = read_json(home / "dataset.json")
    names = label_names(what.get("labels"))
    if not names:
        raise DatasetError(f'{home.name}/dataset.json: no "labels"; expected {{value: name}}, as {{"1": "liver"}}')
    known = _words(what, home)
    kinds = _kinds(what.get("modality"))
    modalities = {modality_of(kind) for kind in kinds} - {""}
    part = {"test": "Ts", "val": "Va"}.get(split or "", "Tr")
    for image in volumes(home / f"images{part}"):
        labels = volume_named(home / f"labels{part}", stem(image))
        if labels is not None:
            yield make(
                root=root,
                layout="msd",
                id=prefix + stem(image),
                subject=prefix + stem(image),
                images=[image],
                labels=[Label(raw, labels, v, known.get(raw.lower(), "")) for raw, v in names.items()],
                modality=_only(modalities),
                channels=kinds,
                dataset=home.resolve().name,
                licence=str(what.get("licence") or what.get("license") or ""),
            )


def _only(modalities: set[str]) -> str:
    return next(iter(modalities)) if len(modalities) == 1 else ""


def _words(what: Mapping[str, Any], home: Path) -> Mapping[str, str]:
    """The task's own meaning of its labels, by the name in dataset.json or of the folder (Task03_Liver)."""
    for name in (str(what.get("name", "")), re.sub(r"(?i)^task\d+_", "", home.resolve().name)):
        key = re.sub(r"[^a-z]", "", name.lower())
        if key in _TASKS:
            return _TASKS[key]
    return {}


def _kinds(said: object) -> list[str]:
    if isinstance(said, Mapping):
        said = [said[key] for key in sorted(said, key=str)]
    kinds = [str(kind) for kind in said] if isinstance(said, list) else [str(said or "")]
    return [_KINDS.get(kind, channel_of(kind) or kind) for kind in kinds]
