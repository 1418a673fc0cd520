"""Med-SA: the outputs of its validation steps, from our frame, net and lift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from segwise.geometry import Channel, Grid, Volume
from segwise.models import med_sa
from segwise.nets.contract import Marks
from segwise.segmenter import State
from segwise.store import FeatureStore

UNUSED: dict[str, str] = {
    r"\.attn\.qkv\.bias$|k_proj\.bias$": "the part for keys adds one number to all scores of a query: softmax drops it",
    r"^prompt_encoder\.(point_embeddings\.[023]|mask_downscaling)\.": "no negative point, box or mask is given",
    r"\.Depth_Adapter\.": "used in 3D only",
    r"output_hypernetworks_mlps\.[1-9]": "of masks beyond multimask_output, which are not handed out",
}


def loaded(fixture: Fixture, lift: str) -> Any:
    """Our model with the fixture's checkpoint."""
    return med_sa.load(checkpoint=str(fixture.folder), lift=lift)  # type: ignore[arg-type]


def prepared_of(images: np.ndarray) -> Volume:
    """[C, D, H, W] as a prepared volume, voxels of 1 mm."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1, -1, -1, 1
    return Volume.of(np.ascontiguousarray(images), Grid(images.shape[1:], affine), (Channel(),) * len(images))


def viewed(xy: np.ndarray) -> np.ndarray:
    """(x, y) [N, 2] in model pixels -> (d, h, w) [N, 3]."""
    return np.concatenate([np.zeros((len(xy), 1)), np.asarray(xy, dtype=np.float64)[:, ::-1]], axis=1)


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    return two_d(fixture) | volume(fixture)


def two_d(fixture: Fixture) -> dict[str, Any]:
    """One image of three channels at the model's size, one positive point."""
    model = loaded(fixture, "slices")
    prepared = prepared_of(fixture.io["in.image"][:, None])
    state = State(prepared, prepared.grid, FeatureStore())
    (features,) = model.features(state, [0])
    points = viewed(fixture.io["in.point2d"])
    marks = model.frame.query(points, np.ones(len(points), dtype=bool), prepared.grid)
    return {"out.two_d_image_embedding": features} | answered(fixture, "two_d", model, features, [marks])


def volume(fixture: Fixture) -> dict[str, Any]:
    """The slices of a volume in chunks, one positive point on each."""
    model = loaded(fixture, "chunks")
    prepared = prepared_of(fixture.io["in.volume"][None])
    state = State(prepared, prepared.grid, FeatureStore())
    depth = prepared.grid.shape[0]
    features = torch.cat([model.stacked(state, first) for first in range(0, depth, model.chunk)])[:depth]
    at_size = model.window(state, 0).resized((1, model.frame.size, model.frame.size))  # points are in model pixels
    queries = [model.frame.query(viewed(point[None]), np.ones(1, bool), at_size) for point in fixture.io["in.points3d"]]
    found = {
        "out.volume_resized": np.stack([med_sa.resized(x[None], model.frame.size)[0] for x in prepared.array[0]]),
        "out.volume_image_embedding": features,
    }
    return found | answered(fixture, "volume", model, features, queries)


def answered(fixture: Fixture, name: str, model: Any, features: Any, queries: list[Marks]) -> dict[str, Any]:
    """What is said of each query about its own slice."""
    decoded = [model.net.decode(features[i : i + 1], marks) for i, marks in enumerate(queries)]
    out = fixture.io[f"out.{name}_logits"].shape[-2:]
    logits = model.frame.restore(torch.cat([d.logits for d in decoded]).numpy(), Grid((1, *out), np.eye(4)))[:, :, 0]
    sparse = [
        model.net.sam.prompt_encoder.sparse(marks.points[..., 1:].flip(-1), marks.signs, None, 1) for marks in queries
    ]
    return {
        f"out.{name}_sparse": torch.cat(sparse),
        f"out.{name}_low_res_logits": torch.cat([d.low_res for d in decoded]),
        f"out.{name}_iou": torch.cat([d.quality for d in decoded]),
        f"out.{name}_logits": logits,
        f"out.{name}_mask": logits > 0,
    }
