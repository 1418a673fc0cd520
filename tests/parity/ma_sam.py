"""MA-SAM: the official test script's outputs, from our frame, net and lift."""

from __future__ import annotations

from typing import Any

import torch

from parity.harness import Fixture
from parity.samed import BASE_UNUSED, labels_of, named, prepared_of
from parity.samed import UNUSED as SAMED_UNUSED
from segwise.lifts.stacks import Stacks
from segwise.models import ma_sam

__all__ = ["BASE_UNUSED", "UNUSED", "loaded", "outputs"]
UNUSED: dict[str, str] = {**SAMED_UNUSED}


def loaded(fixture: Fixture) -> Stacks:
    """Our model with the fixture's checkpoint and base; its volume is stretched already."""
    names = labels_of(fixture.config["num_classes"])
    return ma_sam.load(checkpoint=str(fixture.folder), labels=names, stretch=False)


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    model = loaded(fixture)
    prepared, grid = prepared_of(model, fixture.io["in.volume"])
    net, frame = model.parts.net, model.frame
    found: dict[str, Any] = {"out.prediction": named(model, prepared, grid)}
    for place in range(grid.shape[0]):
        window = frame.window(prepared.grid, (place + frame.slices // 2, 0, 0))
        view = torch.from_numpy(frame.view(prepared, window))[None]
        embedding = net.embed(view)
        said, masks = net.classes(embedding), net(view)[0]  # [1, K, D, S, S]
        kept = fixture.io.get(f"out.s{place}_masks", masks[0].transpose(0, 1)).shape[0]
        found |= {
            f"out.s{place}_model_input": view[0, 0],
            f"out.s{place}_image_embedding": embedding,
            f"out.s{place}_low_res_logits": said.low_res,
            f"out.s{place}_iou": said.iou,
            f"out.s{place}_masks": masks[0].transpose(0, 1)[:kept],  # stored for the first slices only
        }
    return found
