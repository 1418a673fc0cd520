"""MedSAM: the outputs of the official inference script, from our frame, net and lift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from parity.sam import UNUSED as UNUSED_IN_SAM
from parity.sam import picture, places
from segwise.models import medsam

UNUSED: dict[str, str] = {
    **UNUSED_IN_SAM,
    r"point_embeddings\.[01]\.weight$|not_a_point_embed\.weight$": "of points: MedSAM takes boxes",
    r"mask_downscaling\.": "of a mask prompt: MedSAM takes boxes",
    r"output_hypernetworks_mlps\.[1-9]\d*\.": "of the masks of an ambiguous prompt: MedSAM hands out the first",
}


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    model = medsam.load(checkpoint=str(fixture.folder))
    found: dict[str, Any] = {}
    for name in sorted({key.removeprefix("out.").split("_")[0] for key in fixture.outs}):
        found |= image_outputs(fixture, model, name)
    return found


def image_outputs(fixture: Fixture, model: Any, name: str) -> dict[str, Any]:
    """The outputs of one image: "gray" or "rgb"."""
    image = fixture.io[f"in.{name}"]
    boxes = fixture.io["in.box" if name == "gray" else "in.boxes"]
    prepared = picture(np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image)
    net, frame, window = model.net, model.frame, prepared.grid
    features = net.encode(torch.from_numpy(frame.view(prepared, window))[None])
    marks = frame.queries(places(np.reshape(boxes, (-1, 2, 2))), window)
    decoded = net.decode(features, marks)
    logits = torch.from_numpy(frame.restore(decoded.logits.numpy(), window))[:, :, 0]
    xy = marks.boxes[..., 1:].flip(-1)
    return {
        f"out.{name}_{key}": value
        for key, value in {
            "resized": medsam.squared(prepared.array[:, 0], frame.size).transpose(1, 2, 0),
            "image_embedding": features,
            "box_model": xy.flatten(1),
            "sparse": net.prompt_encoder.sparse(None, None, xy, len(xy)),
            "low_res_logits": decoded.low_res,
            "iou": decoded.quality,
            "prob": logits.sigmoid(),
            "mask": logits.numpy() > 0,
        }.items()
    }
