"""SAMed: the official test script's outputs, from our frame, net and lift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.stacks import Stacks
from segwise.models import samed
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, State
from segwise.store import FeatureStore

UNUSED: dict[str, str] = {
    r"k_proj\.bias$": "adds one number to all scores of a query: softmax drops it",
    r"^prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)\.": "no prompt is ever given",
}
BASE_UNUSED: dict[str, str] = {
    r"^(prompt_encoder|mask_decoder)\.": "the adapted file has its own",
    r"\.attn\.qkv\.bias$": "its part for keys adds one number to all scores of a query: softmax drops it",
}


def labels_of(n: int) -> str:
    """Names for n classes."""
    return ";".join(f"class {i + 1}" for i in range(n))


def loaded(fixture: Fixture) -> Stacks:
    """Our model with the fixture's checkpoint and base."""
    return samed.load(checkpoint=str(fixture.folder), labels=labels_of(fixture.config["num_classes"]))


def prepared_of(model: Stacks, slices: np.ndarray) -> tuple[Volume, Grid]:
    """float32 [D, H, W], scaled as the original had it, as a prepared volume; and the grid of these slices."""
    grid = Grid(slices.shape, np.diag([3.0, 2.0, 1.5, 1.0])[[2, 1, 0, 3]]).toward(model.frame.axes)
    grid = Grid(slices.shape, grid.affine)
    return model.frame.padded(Volume.of(slices.astype(np.float32), grid, (Channel("CT"),))), grid


def named(model: Stacks, prepared: Volume, grid: Grid) -> np.ndarray:
    """int [D, H, W]: which label is answered where, asked one by one."""
    state = State(prepared, grid, FeatureStore())
    asks = [Ask(Prompt((Text(label),))) for label in model.parts.labels or ()]
    found = np.zeros(grid.shape, dtype=np.int16)
    for value, prediction in enumerate(model.segment(state, asks), start=1):
        mask = prediction.mask(grid)
        assert not found[mask].any(), "two labels on one voxel"
        found[mask] = value
    return found


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    model = loaded(fixture)
    prepared, grid = prepared_of(model, fixture.io["in.volume"])
    net, frame = model.parts.net, model.frame
    found: dict[str, Any] = {"out.prediction": named(model, prepared, grid)}
    for place in range(grid.shape[0]):
        view = torch.from_numpy(frame.view(prepared, frame.window(prepared.grid, (place, 0, 0))))[None]
        embedding = net.embed(view)
        said, masks = net.classes(embedding), net(view)[0][:, :, 0]
        found |= {
            f"out.s{place}_model_input": view[:, :1, 0],
            f"out.s{place}_image_embedding": embedding,
            f"out.s{place}_low_res_logits": said.low_res,
            f"out.s{place}_iou": said.iou,
            f"out.s{place}_masks": masks,
            f"out.s{place}_labels_model": masks.argmax(dim=1)[0].numpy().astype(np.int16),
        }
    return found
