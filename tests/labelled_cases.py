"""Small labelled cases, made in memory: two eggs of different grey in noise, for trainings on a user's own data."""

from __future__ import annotations

import numpy as np

from segwise.case import Case, Structure
from segwise.geometry import Grid, Volume

SHAPE, SPACING = (20, 24, 28), (2.0, 1.0, 1.0)
AFFINE = np.array([[0, 0, -1.0, 30], [0, -1.0, 0, 20], [2.0, 0, 0, -15], [0, 0, 0, 1]])
NAMES = ("liver", "spleen")


def egg(centre, half, shape=SHAPE):
    """bool [D, H, W]."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return (((places - np.array(centre)) / np.array(half)) ** 2).sum(axis=-1) <= 1


def masks(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    liver = egg(np.array([9, 12, 8]) + rng.uniform(-2, 2, 3), rng.uniform(4, 6, 3))
    spleen = egg(np.array([10, 11, 21]) + rng.uniform(-1, 1, 3), rng.uniform(3, 4.5, 3)) & ~liver
    return {"liver": liver, "spleen": spleen}


def volume(seed: int) -> Volume:
    """MR-like: liver bright, spleen brighter, the rest dark."""
    own = masks(seed)
    values = 100 + 150 * own["liver"] + 300 * own["spleen"]
    noise = np.random.default_rng([seed, 1]).normal(0, 15, SHAPE)
    return Volume.of((values + noise).astype(np.float32), Grid(SHAPE, AFFINE))


def case(seed: int, *, subject: str = "", names=NAMES) -> Case:
    """One case; its subject is its own unless another is given."""
    return Case(
        id=f"case{seed}",
        subject=subject or f"person{seed}",
        dataset="eggs",
        layout="made",
        modality="MR",
        images=("made",),
        structures=tuple(Structure(name, name, (i + 1,)) for i, name in enumerate(names)),
        load=lambda: volume(seed),
        load_masks=lambda wanted: [masks(seed)[s.name] for s in wanted],
        quality="gold",
    )


def cases(n: int) -> list[Case]:
    return [case(i) for i in range(n)]


def write(root, n: int, *, subjects=None) -> None:
    """The same cases as files of nnU-Net's raw layout."""
    import json

    import nibabel

    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        name = subjects[i] if subjects else f"case{i:03d}"
        scan, own = volume(i), masks(i)
        grid = np.diag([1.0, 1.0, 1.0, 1.0])
        grid[:3] = AFFINE[:3][:, [2, 1, 0, 3]]  # files are (x, y, z)
        labels = own["liver"] * 1 + own["spleen"] * 2
        nibabel.save(nibabel.Nifti1Image(scan.array[0].T, grid), root / "imagesTr" / f"{name}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels.T.astype(np.uint8), grid), root / "labelsTr" / f"{name}.nii.gz")
    said = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": n,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(said))
