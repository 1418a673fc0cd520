"""VISTA3D: the encoder's two branches, classes, points, and both joined."""

from __future__ import annotations

from typing import Any

import torch

from parity.harness import Fixture
from segwise.models import vista3d
from segwise.nets.contract import Marks
from segwise.nets.vista3d import combined

UNUSED = {
    r"weight_mapper\..*": "the forward never reads it",
    r"point_head\.output_add_hypernetworks_mlps\..*": "the forward never reads it",
    r"point_head\.(class_embeddings|mask_downsample)\..*": "the forward never reads it",
    r"point_head\.not_a_point_embed\..*": "stands for padding, which the lift never makes (the parity outputs do)",
    r"point_head\.(feat_downsample\.[03]|output_upscaling\.0)\.bias": "instance normalisation takes constants away",
    r".*\.k_proj\.bias": "a constant under the softmax",
}


def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every output by product code; the axes of a window are the fixture's."""
    net = vista3d.load(checkpoint=str(fixture.folder), accept_non_commercial=True).parts.net.eval()
    io = {key: torch.from_numpy(value) for key, value in fixture.io.items() if key.startswith("in.")}
    image = io["in.volume"][None, None]
    found: dict[str, Any] = {}
    with torch.inference_mode():
        points, classes = net.image_encoder(image, with_point=True, with_label=True)
        for name, features in (("point", points), ("auto", classes)):
            key = f"out.encoder_{name}_features"
            if fixture.has(key):
                found[key] = features[:, : fixture.io[key].shape[1]]
        if fixture.has("in.class_vector"):
            automatic = net.automatic(image, io["in.class_vector"][:, 0])[:, None]
            found["out.A_auto_logits"] = automatic
            found["out.A_auto_logits_f32_slice"] = automatic[..., :: _step(fixture, automatic.shape[-1])]
        marks = {"points": io["in.point_coords"].float(), "signs": io["in.point_labels"]}
        if fixture.has("in.prompt_class"):
            found["out.B_point_logits"] = clicked(net, image, marks, io["in.prompt_class"][:, 0])
        if fixture.has("in.C_class"):
            signs = marks["signs"]  # the fixture's call C gave the labels 2 and 3 as 0 and 1
            plain = {**marks, "signs": torch.where(signs > 1, signs - 2, signs)}
            found["out.C_combined_logits"] = both(net, image, plain, io["in.C_class"][:, 0])
    return found


def _step(fixture: Fixture, n: int) -> int:
    """Every which position of the last axis was stored."""
    expected = fixture.io.get("out.A_auto_logits_f32_slice")
    n_kept = n if expected is None else expected.shape[-1]
    return next((step for step in range(1, n + 1) if len(range(0, n, step)) == n_kept), 1)


def clicked(net: Any, image: torch.Tensor, marks: dict[str, torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
    """The point branch: [Q, 1, D, H, W]."""
    asks = Marks(torch.zeros(len(classes), dtype=torch.int64), tokens=classes, **marks)
    return net.decode(net.encode(image), asks).logits


def both(net: Any, image: torch.Tensor, marks: dict[str, torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
    """Both branches, joined around the points."""
    one, other = net.automatic(image, classes), clicked(net, image, marks, classes)[:, 0]
    joined = [combined(*four) for four in zip(one, other, marks["points"], marks["signs"], strict=True)]
    return torch.stack(joined)[:, None]
