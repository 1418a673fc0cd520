"""SAM-Med2D: the official predictor's and test script's outputs, from our frame and net."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from segwise.geometry import Channel, Grid, Volume
from segwise.models import sam_med2d
from segwise.nets.contract import Decoded
from segwise.prompt import Points, Prompt

UNUSED: dict[str, str] = {
    r"\.attn\.qkv\.bias$|k_proj\.bias$": "the part for keys adds one number to all scores of a query: softmax drops it",
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


def loaded(fixture: Fixture, **arguments: Any) -> Any:
    """Our model with the fixture's checkpoint."""
    return sam_med2d.load(checkpoint=str(fixture.folder), **arguments)


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    io = fixture.io
    models = {"best": loaded(fixture), "one": loaded(fixture, multimask=False)}
    prepared = picture(io["in.image"])
    view = torch.from_numpy(models["best"].frame.view(prepared, prepared.grid))[None]
    features = models["best"].net.encode(view)
    found: dict[str, Any] = {"out.model_input": view[:, :, 0], "out.image_embedding": features}
    seen = None
    cases = {key[4:].split("_")[0] for key in fixture.outs if key.endswith("_logits")} - {"T"}
    for case in sorted(cases, key=lambda name: (name != "A1", name)):  # A1 goes before: B takes its logits back
        model = models["one" if case == "A1" else "best"]
        given = places_of(fixture, case[0])
        before = seen if case == "B" else None
        marks = model.frame.queries(*given, prepared.grid, before)
        decoded: Decoded = model.net.decode(features, marks)
        if case == "A1":
            assert decoded.low_res is not None
            seen = decoded.low_res[0]
        if case == "A" and given[1].any():  # a person's click, in mm
            click = Points(prepared.grid.mm(given[0]), given[1])
            again = model.net.decode(features, model.frame.marks(Prompt((click,)), prepared.grid, None))
            assert torch.allclose(again.logits, decoded.logits, atol=1e-4)
        stored = {
            "logits": model.frame.restore(decoded.logits.numpy(), prepared.grid),
            "iou": decoded.quality,
            "low_res_logits": decoded.low_res,
        }
        found |= shaped(fixture, case, stored)
    return found | padded(fixture) if "in.small" in io else found


def places_of(fixture: Fixture, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, their signs and boxes of a case, as the frame's `queries` takes them."""
    io = fixture.io
    boxes = next((io[key] for key in (f"in.{case}_box", f"in.{case}_boxes") if key in io), np.empty((0, 4)))
    points = places(io.get(f"in.{case}_points", np.empty((0, 2))))
    return points, io.get(f"in.{case}_labels", np.empty(0)) == 1, places(np.reshape(boxes, (-1, 2, 2)))


def padded(fixture: Fixture) -> dict[str, Any]:
    """The test script's path: colours as BGR, zeros around, one box in the view's own pixels."""
    model = loaded(fixture, small="pad")
    image = fixture.io["in.small"]
    prepared = picture(image[..., ::-1])
    frame = model.frame
    view = torch.from_numpy(frame.view(prepared, prepared.grid))[None]
    height, width = image.shape[:2]
    box = np.array([[5, 4], [0.6 * width, 0.7 * height]])  # (x, y) on the slice; the frame adds the padding
    marks = frame.queries(np.empty((0, 3)), np.empty(0, dtype=bool), places(box)[None], prepared.grid)
    features = model.net.encode(view)
    three, best = model.net.sam.decode(features, marks), model.net.decode(features, marks)
    stored = {
        "model_input": view[:, :, 0],
        "low_res_logits": best.low_res,
        "iou": three.quality,
        "logits": frame.restore(best.logits.numpy(), prepared.grid),
    }
    return shaped(fixture, "T", stored)


def shaped(fixture: Fixture, case: str, stored: dict[str, Any]) -> dict[str, Any]:
    """By the fixture's keys, in its shapes where only axes of length 1 differ."""
    found = {}
    for name, value in stored.items():
        key = f"out.{case}_{name}"
        if key in fixture.io:
            array = np.asarray(value)
            fits = array.size == fixture.io[key].size
            found[key] = array.reshape(fixture.io[key].shape) if fits else array
    return found
