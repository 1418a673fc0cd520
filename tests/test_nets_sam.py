"""SAM's prompt encoder and mask decoder against what the official code computed with random weights (parity/sam)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from segwise.nets.contract import Marks
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer


class Known(nn.Module):
    """Stands where an image encoder would."""

    def forward(self, image):
        return image


@pytest.fixture(scope="module")
def sam(parity_dir):
    folder = parity_dir / "sam"
    if not folder.exists():
        pytest.skip("no parity fixture of sam")
    config = json.loads((folder / "config.json").read_text())
    width, size = config["prompt_embed_dim"], config["image_size"]
    grid = size // config["vit_patch_size"]
    net = SamNet(
        Known(),
        PromptEncoder(width=width, grid=(grid, grid), size=(size, size), mask_width=config["mask_in_chans"]),
        MaskDecoder(
            width=width,
            masks=config["num_multimask_outputs"] + 1,
            transformer=TwoWayTransformer(
                depth=config["decoder_depth"],
                width=width,
                heads=config["decoder_num_heads"],
                hidden=config["decoder_mlp_dim"],
            ),
            head_depth=config["iou_head_depth"],
            head_hidden=config["iou_head_hidden_dim"],
        ),
    )
    weights = torch.load(folder / "checkpoint.pth", weights_only=True)
    net.load_state_dict({key: value for key, value in weights.items() if not key.startswith("image_encoder.")})
    with np.load(folder / "io.npz") as file:
        return net.eval(), dict(file)


def near(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= max(1e-5, 1e-3 * expected.std())


def placed(stored, xy):
    """(x, y) of the original image -> (d, h, w) of the net's input, float32."""
    old, new = stored["in.image"].shape[:2], stored["out.resized_image"].shape[:2]
    xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2) * np.array([new[1] / old[1], new[0] / old[0]])
    return torch.from_numpy(np.column_stack([np.zeros(len(xy)), xy[:, ::-1]]).astype(np.float32))


def marks_of(stored, case):
    box = stored.get(f"in.{case}_boxes", stored.get(f"in.{case}_box"))
    points = stored.get(f"in.{case}_points")
    boxes = None if box is None else placed(stored, box).view(-1, 2, 3)
    n = 1 if boxes is None else len(boxes)
    return Marks(
        torch.zeros(n, dtype=torch.int64),
        points=None if points is None else placed(stored, points)[None],
        signs=None if points is None else torch.from_numpy(stored[f"in.{case}_labels"]).float()[None],
        boxes=boxes,
        low_res=torch.from_numpy(stored["out.B_low_res_logits"])[None] if case == "E" else None,
    )


@pytest.mark.parametrize("case", ["A", "B", "C", "D", "E", "F"])
def test_parity_prompts_and_masks(sam, case):
    net, stored = sam
    marks = marks_of(stored, case)
    expected = stored[f"out.{case}_low_res_logits"].reshape(len(marks.image), -1, 64, 64)
    net.candidates = "three" if expected.shape[1] == 3 else "one"
    with torch.no_grad():
        decoded = net.decode(torch.from_numpy(stored["out.image_embedding"]), marks)
        xy = [None if x is None else x[..., 1:].flip(-1) for x in (marks.points, marks.boxes)]
        sparse = net.prompt_encoder.sparse(xy[0], marks.signs, xy[1], len(marks.image))
        dense = net.prompt_encoder.dense(marks.low_res, len(marks.image))
    near(decoded.low_res, expected)
    near(decoded.quality, stored[f"out.{case}_iou"].reshape(len(marks.image), -1))
    near(net.prompt_encoder.places().detach(), stored["out.dense_pe"])
    if f"out.{case}_sparse" in stored:
        near(sparse, stored[f"out.{case}_sparse"])
        kept = stored[f"out.{case}_dense"]
        near(dense.detach()[:, :, : kept.shape[2], : kept.shape[3]], kept)
    old, new = stored["in.image"].shape[:2], stored["out.resized_image"].shape[:2]
    own = decoded.logits[:, :, 0, : new[0], : new[1]]
    full = nn.functional.interpolate(own, old, mode="bilinear", align_corners=False)
    near(full.reshape(stored[f"out.{case}_mask_logits"].shape), stored[f"out.{case}_mask_logits"])


def test_candidates_that_do_not_fit_are_never_the_best(sam):
    net, stored = sam
    net.candidates = "auto"
    features = torch.from_numpy(stored["out.image_embedding"])
    with torch.no_grad():
        lone, several = net.decode(features, marks_of(stored, "A")), net.decode(features, marks_of(stored, "B"))
    assert torch.isneginf(lone.quality)[0].tolist() == [True, False, False, False]
    assert torch.isneginf(several.quality)[0].tolist() == [False, True, True, True]
    near(lone.low_res[:, 1:], stored["out.A_low_res_logits"][None])
    near(several.low_res[:, :1], stored["out.B_low_res_logits"][None])


def test_a_query_does_not_depend_on_its_company(sam):
    net, stored = sam
    net.candidates = "one"
    features = torch.from_numpy(np.concatenate([stored["out.image_embedding"], stored["out.image_embedding"] * 2]))
    marks = marks_of(stored, "F")
    mixed = Marks(torch.tensor([1, 0, 1]), boxes=marks.boxes)
    with torch.no_grad():
        together = net.decode(features, mixed).logits
        for i in range(3):
            alone = net.decode(features, Marks(mixed.image[i : i + 1], boxes=marks.boxes[i : i + 1])).logits
            assert torch.allclose(alone[0], together[i], atol=1e-5)
