"""SAM-Med3D: the official inference's outputs, from our frame and net."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from segwise.geometry import Grid, Volume
from segwise.models import sam_med3d

UNUSED: dict[str, str] = {
    r"k_proj\.bias$": "a key's bias adds one number to all scores of a query: softmax drops it",
}


def loaded(fixture: Fixture, **arguments: Any) -> Any:
    """Our model with the fixture's checkpoint."""
    return sam_med3d.load(checkpoint=str(fixture.folder), **arguments)


def prepared(fixture: Fixture) -> Volume:
    """The fixture's cube as a prepared volume."""
    image = fixture.io["in.volume"]
    affine = np.diag([sam_med3d.SPACING_MM] * 3 + [1.0])
    return Volume.of(image, Grid(image.shape, affine))


def rounds(fixture: Fixture) -> list[int]:
    """The numbers of clicks after which something was stored."""
    found = (re.match(r"out\.click(\d+)_", key) for key in fixture.outs)
    return sorted({int(match[1]) for match in found if match})


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    with torch.no_grad():
        return _outputs(fixture)


def _outputs(fixture: Fixture) -> dict[str, Any]:
    io, model, whole = fixture.io, loaded(fixture), prepared(fixture)
    net, frame = model.net, model.frame
    view = frame.view(whole, whole.grid)
    features = net.encode(torch.from_numpy(view)[None])
    places = net.prompt_encoder.places()
    found: dict[str, Any] = {"out.model_input": view[0], "out.image_embedding": features, "out.dense_pe": places}
    seen, logits = None, None
    for n in range(1, max(rounds(fixture), default=0) + 1):
        marks = frame.clicked(io["in.points"][:n], io["in.labels"][:n] == 1, seen)
        decoded = net.decode(features, marks)
        stored = prompted(net, marks) | {"low_res_logits": decoded.low_res, "iou": decoded.quality}
        found |= {f"out.click{n}_{name}": value for name, value in stored.items()}
        seen, logits = decoded.low_res[0].numpy(), decoded.logits[0, 0]
    if logits is not None:
        found |= {"out.final_logits": logits, "out.final_mask": logits > 0}
    return found | nomask(fixture, features)


def nomask(fixture: Fixture, features: torch.Tensor) -> dict[str, Any]:
    """One click without a mask prompt, three candidates."""
    io, model = fixture.io, loaded(fixture, first="none", candidates="three")
    marks = model.frame.clicked(io["in.points"][:1], io["in.labels"][:1] == 1, None)
    decoded = model.net.decode(features, marks)
    found = prompted(model.net, marks)
    dense = io.get("out.nomask_dense")
    if dense is not None:  # the same everywhere; stored at one place
        found["dense"] = found["dense"][tuple(slice(n) for n in dense.shape)]
    return {
        **{f"out.nomask_{name}": value for name, value in found.items()},
        "out.nomask_multimask_low_res_logits": decoded.low_res,
        "out.nomask_multimask_iou": decoded.quality,
    }


def prompted(net: Any, marks: Any) -> dict[str, Any]:
    """The tokens of a prompt."""
    encoder = net.prompt_encoder
    return {"sparse": encoder.sparse(marks.points, marks.signs), "dense": encoder.dense(marks.low_res, 1)}
