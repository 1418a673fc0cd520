"""SegVol: the official model's outputs on a view, from our frame and net."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from segwise.geometry import Grid, Volume
from segwise.lifts.zoom import asked
from segwise.models import segvol
from segwise.nets.contract import Marks

_ONE = "multimask_output=False: SegVol never asks for this candidate, whose token still takes part in attention"
UNUSED: dict[str, str] = {
    r"k_proj\.bias$": "a key's bias adds one number to all scores of a query: softmax drops it",
    r"prompt_encoder\.mask_downscaling\.": "a two-dimensional branch for mask prompts that nothing calls",
    r"output_hypernetworks_mlps\.[1-9]": _ONE,
}
STORED = "_low_res_logits"


def loaded(fixture: Fixture, **arguments: Any) -> Any:
    """Our model with the fixture's checkpoint."""
    return segvol.load(checkpoint=str(fixture.folder), **arguments)


def prepared(fixture: Fixture) -> Volume:
    """The fixture's view as a prepared volume."""
    image = fixture.io["in.volume"]
    return Volume.of(image, Grid(image.shape, np.eye(4)))


def cases(fixture: Fixture) -> list[str]:
    """The prompts for which something was stored: "point", "box_text" ..."""
    return [key.removeprefix("out.").removesuffix(STORED) for key in fixture.outs if key.endswith(STORED)]


def marks_of(fixture: Fixture, case: str) -> Marks:
    """The prompt of a case, in voxels of the view."""
    io, kinds = fixture.io, case.split("_")
    points, signs = (io[key][0] if "point" in kinds else np.empty((0, 3)) for key in ("in.points", "in.labels"))
    box = io["in.box"].reshape(2, 3) if "box" in kinds else None
    words = {"embedding": torch.from_numpy(io["in.text_embedding"])} if "text" in kinds else None
    return asked(points, signs, box, words)


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    with torch.no_grad():
        return _outputs(fixture)


def _outputs(fixture: Fixture) -> dict[str, Any]:
    model, whole = loaded(fixture), prepared(fixture)
    net = model.net
    features = net.encode(torch.from_numpy(model.frame.view(whole, whole.grid))[None])
    found: dict[str, Any] = {"out.image_embedding": features, "out.dense_pe": net.prompt_encoder.places()}
    for case in cases(fixture):
        marks = marks_of(fixture, case)
        decoded = net.decode(features, marks)
        sparse = net.prompt_encoder.sparse(marks.points, marks.signs, marks.boxes, net.worded(marks))
        stored = {"sparse": sparse, "low_res_logits": decoded.low_res, "iou": decoded.quality}
        found |= {f"out.{case}_{name}": value for name, value in stored.items()}
        found[f"out.{case}_logits"] = decoded.logits[0, 0]
    return found
