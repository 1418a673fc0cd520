"""Toy data on disk for the members of tests/members.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

NAMES = ["liver", "spleen", "left thalamus", "right thalamus"]


def make(root: Path, *, n: int = 2, modality: str = "CT", empty: str = "") -> Path:
    """`n` cases of 6x9x11 voxels with four structures; `empty` is absent from the first case."""
    root.mkdir(parents=True, exist_ok=True)
    cases = []
    for i in range(n):
        labels = np.zeros((6, 9, 11), dtype=np.uint8)
        labels[1:4, 1:4, 1:5] = 1
        labels[2:5, 5:8, 1:4] = 2
        labels[1:3, 1:4, 7:10] = 3
        labels[3:5, 5:8, 7 : 9 + i % 2] = 4
        if empty and i == 0:
            labels[labels == NAMES.index(empty) + 1] = 0
        np.save(root / f"c{i}.npy", labels)
        image = labels * 40 + np.random.default_rng(i).normal(0, 10, labels.shape)
        np.save(root / f"c{i}_image.npy", image.astype(np.float32))
        cases.append({"id": f"c{i}", "shape": [6, 9, 11], "structures": NAMES, "modality": modality})
    (root / "toy.json").write_text(json.dumps({"cases": cases}))
    return root
