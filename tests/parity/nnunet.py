"""nnU-Net: preprocessing, network, windows with and without mirroring, labels on the file's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture, Near, Skip
from segwise.geometry import Channel, Grid, Volume
from segwise.models import nnunet
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask
from segwise.store import FeatureStore

UNUSED = {
    r"decoder\.encoder\..*|.*\.all_modules\..*": "the file holds this tensor twice; it is the one without this part",
    r"decoder\.seg_layers\.(?!LAST\.).*": "heads of deep supervision: training alone reads them",
    r".*\.conv\.bias": "the instance normalisation behind it takes every constant away",
}
HALF = 2e-3  # of the logits' size: the README's tolerance for sums in half precision


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every output by product code: frame, lift, net."""
    volume = volume_of(fixture)
    found: dict[str, Any] = {}
    for name, mirror in (("plain", False), ("mirrored", True)):
        if not any(key.startswith(f"out.{name}") for key in fixture.outs):
            continue
        model = nnunet.load(checkpoint=str(fixture.folder), mirror=mirror)
        state = model.encode(volume, store=FeatureStore())
        logits = torch.cat(list(model.logits(state.volume)), dim=1).float().numpy()
        expected = fixture.io.get(f"out.{name}_logits")
        size = 0.0 if expected is None else float(np.abs(expected).max())
        found[f"out.{name}_logits"] = Near(logits, HALF * size, "sums in half precision, as the README allows")
        found[f"out.{name}_segmentation"] = segmentation(model, state, fixture)
    return found | prepared(nnunet.load(checkpoint=str(fixture.folder)), volume, fixture)


def prepared(model: Any, volume: Volume, fixture: Fixture) -> dict[str, Any]:
    """What the frame makes of the volume, and the net of one window."""
    frame = model.parts.frame
    cut, whole = frame.cut(volume), frame.turned(volume)
    low = np.rint(whole.grid.index(cut.grid.mm((0, 0, 0)))[0]).astype(np.int64)
    found: dict[str, Any] = {
        "out.preprocessed": frame.prepare(volume).array,
        "out.bbox_used_for_cropping": np.stack([low, low + cut.grid.shape], axis=1),
        "out.shape_before_cropping": np.array(whole.grid.shape),
        "out.shape_after_cropping_and_before_resampling": np.array(cut.grid.shape),
    }
    if fixture.has("out.patch_input"):
        patch = fixture.io["out.patch_input"]
        found["out.patch_input"] = _first_window(model, frame.prepare(volume), patch)
        with torch.inference_mode():
            found["out.patch_logits"] = model.parts.net(torch.from_numpy(patch))[0]
    return found


def _first_window(model: Any, volume: Volume, patch: np.ndarray) -> Any:
    image = torch.from_numpy(np.array(model.parts.frame.view(volume, volume.grid)))
    image, _ = model.tiling.padded(image)
    d, h, w = patch.shape[2:]
    found = image[None, :, :d, :h, :w]
    return found if found.shape == patch.shape else Skip("another window than the first")


def segmentation(model: Any, state: Any, fixture: Fixture) -> np.ndarray:
    """The label map: every label asked by its name, painted in the original's order."""
    names = list(model.parts.labels)
    values = fixture.config["dataset_json"].get("regions_class_order") or range(1, len(names) + 1)
    out = np.zeros(state.grid.shape, dtype=np.uint8)
    answers = model.segment(state, [Ask(Prompt((Text(name),))) for name in names])
    for value, answer in zip(values, answers, strict=True):
        out[answer.mask(state.grid)] = value
    return out


def volume_of(fixture: Fixture) -> Volume:
    """The fixture's image: (z, y, x) with z to S, y to P, x to L."""
    image, spacing = fixture.io["in.volume"], fixture.io["in.spacing"]
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) * spacing
    return Volume.of(image, Grid(image.shape[1:], affine), [Channel()] * len(image))
