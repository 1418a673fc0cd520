"""The demonstration: six imaginary people written as a data set, and the plan that compares on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from segwise import weights
from segwise.card import ModelCard
from segwise.catalog import card
from segwise.errors import FileError
from segwise.evaluate.compare import named_plan
from segwise.geometry import Array, Grid
from segwise.records.types import Pair, Plan
from segwise.synth import DEMO_SEEDS
from segwise.synth.head import head
from segwise.synth.imaging import Scan, ct, mr
from segwise.synth.torso import torso

Tick = Callable[[int, int, str], None]
N_EACH = 3
TORSO_MM, HEAD_MM = (7.5, 1.8, 1.8), (7.5, 1.25, 1.25)
WITH_WEIGHTS = (("litemedsam", "box2d"),)  # joins the plan where its weights are here


def write_cases(root: Path, *, progress: Tick | None = None) -> Path:
    """Write three torsos (CT) and three heads (MR) in the case.json layout; cases that are there are kept.

    Raises:
        FileError: the folder cannot be written.
    """
    made = [("torso_ct", seed) for seed in DEMO_SEEDS[:N_EACH]]
    made += [("head_mr", seed) for seed in DEMO_SEEDS[N_EACH : 2 * N_EACH]]
    for n, (kind, seed) in enumerate(made):
        if progress:
            progress(n, len(made), f"making {kind} {seed}")
        folder = root / f"{kind}_{seed}"
        if not (folder / "case.json").exists():
            try:
                write_scan(folder, _scan(kind, seed), seed)
            except OSError as error:
                raise FileError(f"{folder}: cannot be written ({error.strerror}); choose another -o") from error
    return root


def plan_with_what_is_here() -> Plan:
    """The demonstration's plan, with those learned models whose weights are on this machine."""
    plan = named_plan("demo")
    here = [(model, prompter) for model, prompter in WITH_WEIGHTS if _present(model)]
    pairs = tuple(Pair(model=model, prompter=prompter) for model, prompter in here)
    return dataclasses.replace(plan, pairs=plan.pairs + pairs)


def _present(model: str) -> bool:
    found: ModelCard = card("models", model)
    states = [item.state for item in weights.status() if item.model == model]
    return bool(found.weights) and set(states) <= {"present", "trusted"}


def _scan(kind: str, seed: int) -> Scan:
    if kind == "torso_ct":
        return ct(torso(seed), seed, spacing_mm=TORSO_MM)
    return mr(head(seed), seed, spacing_mm=HEAD_MM)


def write_scan(folder: Path, scan: Scan, seed: int) -> None:
    """Image and labels first, case.json last: a case that was cut short is made again."""
    folder.mkdir(parents=True, exist_ok=True)
    _nifti(folder / "image.nii.gz", scan.volume.array[0], scan.volume.grid)
    _nifti(folder / "labels.nii.gz", scan.labels, scan.volume.grid)
    about = {
        "id": folder.name,
        "title": "procedural scan of an imaginary person",
        "subject": f"imaginary_{seed}",
        "modality": scan.volume.channels[0].modality,
        "label_quality": "gold",
        "label_note": "gold: the generator knows what it painted",
        "licence": "Apache-2.0",
        "anatomy": scan.anatomy or "usual",
        "label_map": {str(label): name for label, name in scan.names.items()},
    }
    (folder / "case.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _nifti(path: Path, array: Array, grid: Grid) -> None:
    affine = grid.affine[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)
