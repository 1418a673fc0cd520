"""ACDC: the heart in cine MR, end of diastole and of systole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import folders, nothing, stem, volume_named, volumes

CARD = DatasetCard(
    title="ACDC",
    summary="Short-axis cine MR of 150 patients, two labelled frames each: both ventricles and the myocardium.",
    files=(
        "patient001/Info.cfg: ED: 1, ES: 12 ...",
        "patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz",
        "the root holds the patients, or training/ and testing/ with them, or is one patient",
    ),
    traps=(
        "slices are 5 to 10 mm apart",
        "patient001_4d.nii.gz is the whole cine without labels: left out",
        "Info.cfg holds height and weight: only the frames are read",
    ),
    source="Bernard et al., IEEE TMI 2018, doi 10.1109/TMI.2018.2837502",
    licence="CC BY-NC-SA 4.0",
)
_PATIENT = re.compile(r"patient\d{3}")
_FRAME = re.compile(r"(patient\d{3})_frame(\d+)")
_LABELS = (("RV", "right ventricle"), ("MYO", "myocardium"), ("LV", "left ventricle"))


def recognises(root: Path) -> bool:
    """Whether a patient001 with a labelled frame lies here, in training/ or testing/, or is the folder itself."""
    return any(_frames(home) for home in _homes(root))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The labelled frames; of "training" or "testing" where these folders are there.

    Raises:
        DatasetError: there is no patient001_frame01 with its _gt.
    """
    homes = _homes(root)
    if not any(_frames(home) for home in homes):
        raise nothing(root, "acdc", "patient001/patient001_frame01.nii.gz with patient001_frame01_gt.nii.gz")
    for home in homes:
        if split is not None and not home.parent.name.lower().startswith(split.lower()):
            continue
        phases = _phases(home)
        for number, image, labels in _frames(home):
            yield make(
                root=root if home != root else home.parent,
                layout="acdc",
                id=stem(image),
                subject=home.name,
                images=[image],
                labels=[Label(raw, labels, (i,), words) for i, (raw, words) in enumerate(_LABELS, 1)],
                modality="MR",
                dataset="ACDC",
                licence=CARD.licence,
                notes=[phases[number]] if number in phases else [],
            )


def _homes(root: Path) -> list[Path]:
    if _PATIENT.fullmatch(root.name):
        return [root]
    around = [
        root,
        *(
            folder
            for folder in folders(root)
            if folder.name.lower() in ("training", "testing", "train", "test", "database")
        ),
    ]
    around += [root / "database" / name for name in ("training", "testing")]
    return [folder for home in around for folder in folders(home) if _PATIENT.fullmatch(folder.name)]


def _frames(home: Path) -> list[tuple[int, Path, Path]]:
    """(number, image, labels) of the frames that have labels."""
    matches = [(m, path) for path in volumes(home) if (m := _FRAME.fullmatch(stem(path)))]
    found = [(int(m[2]), path, volume_named(home, f"{stem(path)}_gt")) for m, path in matches]
    return [(number, path, labels) for number, path, labels in found if labels]


def _phases(home: Path) -> dict[int, str]:
    """{frame: phase} of Info.cfg; nothing else of it is read."""
    path = home / "Info.cfg"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    words = {"ED": "end of diastole", "ES": "end of systole"}
    return {int(frame): words[phase] for phase, frame in re.findall(r"(?m)^\s*(ED|ES)\s*:\s*(\d+)\s*$", text)}
