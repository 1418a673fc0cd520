"""BraTS: glioma in four MR sequences, with the names and values of 2021 and of 2023."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segwise.card import DatasetCard
from segwise.case import Case
from segwise.datasets._case import Label, make
from segwise.datasets._files import nothing, stem, volumes, within

CARD = DatasetCard(
    title="BraTS",
    summary="Brain tumours in registered T1, T1 with contrast, T2 and FLAIR; whole tumor and tumor core are composed.",
    files=(
        "2021 and before: BraTS2021_00000/BraTS2021_00000_{flair,t1,t1ce,t2,seg}.nii.gz",
        "2023: BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t2f,t1n,t1c,t2w,seg}.nii.gz",
        "the root holds case folders (or HGG/, LGG/ with them), or is one",
    ),
    traps=(
        "the enhancing tumour is 4 up to 2021 and 3 from 2023 on",
        "the first channel is FLAIR in both",
        "a file with a value of the other edition is refused, not scored without it",
        "2023 names end in the number of the visit: several cases are one person",
    ),
    source="Baid et al., RSNA-ASNR-MICCAI BraTS 2021, arXiv 2107.02314; Adewole et al., BraTS 2023, arXiv 2305.19369",
)
_OLD = re.compile(r"(?i)(.+)_(flair|t1|t1ce|t1gd|t2|seg)")
_NEW = re.compile(r"(?i)(.+)-(t2f|t1n|t1c|t2w|seg)")
_ORDER = ("flair", "t1", "t1ce", "t1gd", "t2", "t2f", "t1n", "t1c", "t2w")
_KINDS = {
    "flair": "FLAIR",
    "t2f": "FLAIR",
    "t1": "T1",
    "t1n": "T1",
    "t1ce": "T1c",
    "t1gd": "T1c",
    "t1c": "T1c",
    "t2": "T2",
    "t2w": "T2",
}
_LABELS = {
    "old": {"NCR": 1, "ED": 2, "ET": 4},
    "new": {"NCR": 1, "ED": 2, "ET": 3},
}
_WORDS = {"NCR": "necrosis", "ED": "edema", "ET": "enhancing tumor"}


def recognises(root: Path) -> bool:
    """Whether a folder, here or up to two down, holds two or more sequences of one case, named as in 2021 or 2023."""
    return any(len(_images(files)) > 1 for home in within(root, 2) for files in _groups(home).values())


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The cases that have a segmentation.

    Raises:
        DatasetError: there is none.
    """
    n = 0
    for home in within(root, 2):
        for (id_, age), files in _groups(home).items():
            images, labels = _images(files), files.get("seg")
            if labels is None or not images:
                continue
            n += 1
            yield make(
                root=root,
                layout="brats",
                id=id_,
                subject=re.sub(r"-\d{3}$", "", id_) if age == "new" else id_,
                images=[path for _, path in images],
                labels=[Label(raw, labels, (v,), _WORDS[raw]) for raw, v in _LABELS[age].items()],
                modality="MR",
                channels=[_KINDS[kind] for kind, _ in images],
                dataset="BraTS",
                expected=tuple(_LABELS[age].values()),
            )
    if n == 0:
        raise nothing(
            root, "brats", "case folder with CASE_flair, _t1, _t1ce, _t2, _seg or CASE-t2f, -t1n, -t1c, -t2w, -seg"
        )


def _groups(home: Path) -> dict[tuple[str, str], dict[str, Path]]:
    """{(case, "old" or "new"): {kind: file}}."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for path in volumes(home):
        for age, pattern in (("old", _OLD), ("new", _NEW)):
            if match := pattern.fullmatch(stem(path)):
                found.setdefault((match[1], age), {})[match[2].lower()] = path
    return found


def _images(files: dict[str, Path]) -> list[tuple[str, Path]]:
    return [(kind, files[kind]) for kind in _ORDER if kind in files]
