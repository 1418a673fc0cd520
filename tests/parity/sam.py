"""SAM: the official predictor's outputs, from our frame, net and lift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from segwise.geometry import Channel, Grid, Volume
from segwise.models import sam
from segwise.nets.contract import Marks

UNUSED: dict[str, str] = {
    r"k_proj\.bias$": "a key's bias adds one number to all scores of a query: softmax drops it",
}


def picture(image: np.ndarray) -> Volume:
    """uint8 [H, W, 3] as a prepared volume of one slice, rows to P and columns to L, voxels of 1 mm."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1, -1, -1, 1
    grid = Grid((1, *image.shape[:2]), affine)
    return Volume.of(np.ascontiguousarray(image.transpose(2, 0, 1))[:, None], grid, (Channel(),) * 3)


def places(xy: np.ndarray) -> np.ndarray:
    """(x, y) [..., 2] -> (d, h, w) [..., 3], float64."""
    xy = np.asarray(xy, dtype=np.float64)
    return np.concatenate([np.zeros_like(xy[..., :1]), xy[..., ::-1]], axis=-1)


def loaded(fixture: Fixture, candidates: str) -> Any:
    """Our model with the fixture's checkpoint."""
    return sam.load(checkpoint=str(fixture.folder), candidates=candidates)  # type: ignore[arg-type]


def marks_of(fixture: Fixture, case: str, frame: sam.SamFrame, window: Grid) -> Marks:
    """The marks of a case, in pixels of the original image; E has the logits that B answered."""
    io = fixture.io
    seen = io["out.B_low_res_logits"] if case == "E" else None
    boxes = next((io[key] for key in (f"in.{case}_box", f"in.{case}_boxes") if key in io), np.empty(0))
    points = places(io.get(f"in.{case}_points", np.empty((0, 2))))
    positive = io.get(f"in.{case}_labels", np.empty(0)) == 1
    return frame.queries(points, positive, places(np.reshape(boxes, (-1, 2, 2))), window, seen)


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    io = fixture.io
    models = {1: loaded(fixture, "one"), 3: loaded(fixture, "three")}
    net, frame = models[1].net, models[1].frame
    prepared = picture(io["in.image"])
    view = torch.from_numpy(frame.view(prepared, prepared.grid))[None]
    features = net.encode(view)
    resized = [sam.resized(channel, frame.size) for channel in prepared.array[:, 0]]
    found: dict[str, Any] = {
        "out.resized_image": np.stack(resized, axis=-1),
        "out.model_input": view[:, :, 0],
        "out.image_embedding": features,
        "out.dense_pe": net.prompt_encoder.places(),
    }
    low_res = "_low_res_logits"
    for case in (key.removeprefix("out.").removesuffix(low_res) for key in fixture.outs if key.endswith(low_res)):
        found |= case_outputs(fixture, case, models, features, prepared.grid)
    return found


def case_outputs(fixture: Fixture, case: str, models: dict[int, Any], features: Any, window: Grid) -> dict[str, Any]:
    """The outputs of one prompt."""
    shape = fixture.io[f"out.{case}_mask_logits"].shape
    model = models[1 if shape[-3] == 1 else 3]
    encoder, frame = model.net.prompt_encoder, model.frame
    marks = marks_of(fixture, case, frame, window)
    decoded = model.net.decode(features, marks)
    full = frame.restore(decoded.logits.numpy(), window).reshape(shape)
    boxes, points = (None if x is None else x[..., 1:].flip(-1) for x in (marks.boxes, marks.points))
    sparse = encoder.sparse(points, marks.signs, boxes, len(marks.image))
    dense = encoder.dense(marks.low_res, len(marks.image))
    kept = fixture.io.get(f"out.{case}_dense", dense).shape  # stored as one pixel where it is constant
    stored = {
        "mask_logits": full,
        "masks": full > 0,
        "iou": decoded.quality,
        "low_res_logits": decoded.low_res,
        "sparse": sparse,
        "dense": dense[: kept[0], :, : kept[2], : kept[3]],
    }
    found = {f"out.{case}_{name}": np.asarray(value) for name, value in stored.items()}
    for key in (f"out.{case}_iou", f"out.{case}_low_res_logits"):
        found[key] = found[key].reshape(fixture.io[key].shape)
    return found
