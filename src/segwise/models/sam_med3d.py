"""SAM-Med3D: a generalist that sees a cube of 19 cm at once; clicks in, 3D mask out.

Source: Wang et al., SAM-Med3D (arXiv 2310.15161), and its authors' inference code (uni-medical/SAM-Med3D,
`utils/infer_utils.py`, `medim_val_dataset.py`). Inside this file volumes are RAS+ with the axes in that order, as the
official pipeline has them; a click is the index of a voxel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from segwise.card import ModelCard, WeightFile
from segwise.geometry import Array, Grid, Shape, Volume, regrid
from segwise.lifts.crop import Crop, CropFrame
from segwise.nets import sam_med3d
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.nets.sam import TwoWayTransformer
from segwise.nets.sam_3d import MaskDecoder3d
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, opened

CARD = ModelCard(
    title="SAM-Med3D",
    summary="Any organ or lesion on CT and MR volumes from clicks, in three dimensions at once.",
    family="generalist",
    takes=("points",),
    modalities=("CT", "MR"),
    dims=3,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2310.15161",
    code="https://github.com/uni-medical/SAM-Med3D (f3de1fa)",
    keys=(
        r"^image_encoder\.patch_embed\.proj\.weight \d+x\d+x\d+x\d+x\d+$",
        r"^image_encoder\.blocks\.0\.attn\.qkv\.",
        r"^prompt_encoder\.mask_downscaling\.0\.weight \d+x1x2x2x2$",
        r"^mask_decoder\.output_upscaling\.0\.weight \d+x\d+x2x2x2$",
    ),
    weights=(
        WeightFile(
            file="sam_med3d_turbo.pth",
            n_bytes=0,
            signature="a5347a2c0732243042930fe13cd9c492e022186f50c3a5bb23ba6d49f14125de",
        ),
    ),
    training_sets=("SA-Med3D-140K",),
    training_note=(
        "22,000 volumes and 143,000 masks of 70 public sets and licensed private ones (its paper); which public set is "
        "in the training part was not looked up, so scores on any public CT or MR set are possibly seen"
    ),
    parameters_m=100.5,
    memory="about 1.5 GB, and 0.8 MB for each encoded cube",
    input=(
        "the file's own axes nearest to RAS+, 1.5 mm, one channel; a cube of 128 voxels (192 mm), zeros beyond the "
        "volume; mean 0 and deviation 1 (unbiased) by the cube's voxels > 0, which leaves out what is 0 HU or less on "
        "CT; points only; quality is the predicted IoU"
    ),
    deviations=(
        "the original centres the cube on the reference mask, which no user has: here it lies around the middle of the "
        "marks (crop=marks) or of the volume (crop=volume)",
        "later rounds keep the cube of the first one, as in the original; where a click lies outside, it moves to the "
        "middle of all clicks (or, if they do not fit, to the last click), the previous logits move along and what lay "
        "beyond the new cube is given up",
        "its newest inference script leaves out the turn to RAS+ and orders axes and spacings as its reader does; here "
        "they are those of its validation data set",
        "a cube without two different values > 0 is only centred; the original stops with an error",
        "the answer comes back by linear interpolation of logits; the original takes the nearest voxel of the mask",
        "kept, because its weights were trained so: places coded [sin, cos, sin] with the grid's first two axes "
        "exchanged, and terms for relative positions that its broadcasting reads from other queries than its names say",
        "the first round's previous mask is zeros, as in the original (first=none: the net's own 'no mask')",
    ),
    seconds_hint=10.0,
)

NAME = "sam-med3d"
SPACING_MM = 1.5
SIDE = 128
_CODE = "sam-med3d-1"


@dataclass(frozen=True)
class Med3dFrame(CropFrame):
    """The official preprocessing.

    Attributes:
        size: (D, H, W) of a view.
        low_res: of the mask prompt.
        first: what the first round's mask prompt is: "zeros", or "none" at all.
        carries: the logits of a round are the mask prompt of the next one.
    """

    size: Shape = (SIDE, SIDE, SIDE)
    low_res: Shape = (SIDE // 4, SIDE // 4, SIDE // 4)
    first: str = "zeros"
    carries: bool = True

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Of a view."""
        return self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        return hashlib.blake2b(repr((_CODE, self.size, SPACING_MM)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W] in the file's own values, 1.5 mm, axes to R, A and S."""
        grid = volume.grid.canonical("RAS", spacing_mm=(SPACING_MM,) * 3)
        values = np.nan_to_num(volume.array[:1].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        return Volume.of(regrid(values, volume.grid, grid, order=1, outside=0.0), grid, volume.channels[:1])

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, *size]: the cube, z-scored by its voxels > 0."""
        values = regrid(prepared.array[:1], prepared.grid, window, order=1, outside=0.0)
        return np.ascontiguousarray(z_scored(values), dtype=np.float32)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """All clicks in the cube, at the voxels that hold them."""
        placed = prompt.on(window)
        if not len(placed.points):
            return Marks(torch.zeros(0, dtype=torch.int64))
        index = np.clip(np.floor(placed.points + 0.5 + 1e-6), 0, np.array(window.shape) - 1)
        return self.clicked(index, placed.positive, seen)

    def clicked(self, index: Array, positive: Array, seen: Tree) -> Marks:
        """The one query of clicks [N, 3] in voxels of the view, and of the last round's logits [1, d, h, w]."""
        zeros = np.zeros((1, *self.low_res), dtype=np.float32) if self.first == "zeros" else None
        low_res = zeros if seen is None else seen
        return Marks(
            torch.zeros(1, dtype=torch.int64),
            points=torch.from_numpy(np.asarray(index, dtype=np.float32))[None],
            signs=torch.from_numpy(np.asarray(positive, dtype=np.float32))[None],
            low_res=None if low_res is None else torch.from_numpy(np.array(low_res, dtype=np.float32))[None],
        )


def z_scored(values: Array) -> Array:
    """Values less the mean of those > 0, over their unbiased deviation; only centred where that is 0 or unknown."""
    inner = torch.from_numpy(np.ascontiguousarray(values[values > 0]))
    mean = float(inner.mean()) if len(inner) else 0.0
    deviation = float(inner.std()) if len(inner) > 1 else 0.0
    return (values - np.float32(mean)) / np.float32(deviation or 1.0)


def load(
    *,
    checkpoint: str | None = None,
    crop: Literal["marks", "volume"] = "marks",
    first: Literal["zeros", "none"] = "zeros",
    candidates: Literal["one", "three"] = "one",
) -> Crop:
    """SAM-Med3D.

    Args:
        checkpoint: a file in the format of sam_med3d_turbo.pth, or a folder with checkpoint.pth; None for the released
            weights.
        crop: where the cube lies: around the middle of the marks, or of the volume. The original puts it around the
            reference.
        first: the mask prompt of a first round: "zeros", as the original's programs, or "none".
        candidates: "one" mask, as the original's programs ask, or the "three" of an ambiguous prompt.

    Raises:
        WeightsError: the weights are missing, damaged, or of another model.
    """
    found = opened(NAME, CARD, checkpoint=checkpoint)
    net = sam_med3d.net_of(found.shapes, found.config, candidates=candidates)
    fill(net, found.tensors, what=CARD.title)
    d, h, w = net.image_encoder.grid
    frame = Med3dFrame(size=net.image_encoder.size, low_res=(4 * d, 4 * h, 4 * w), first=first)
    return Crop(Parts(net, frame, None, found.digest), placed=crop)


def published() -> list[Published]:
    """The released size (vit_b_ori) on the meta device: a cube, and one click with a mask prompt."""
    with torch.device("meta"):
        net = released()
        image = torch.empty(1, 1, SIDE, SIDE, SIDE)
        features = torch.empty(1, 384, *net.image_encoder.grid)
        place = torch.zeros(1, dtype=torch.int64)
        click = Marks(place, torch.empty(1, 1, 3), torch.empty(1, 1), low_res=torch.empty(1, 1, *(SIDE // 4,) * 3))
    stages = {"encoder": lambda: net.encode(image), "decoder": lambda: net.decode(features, click)}
    return [Published(label="", net=net, stages=stages, per="volume", input="1×128×128×128, one click")]


def released() -> sam_med3d.SamMed3dNet:
    """The net of the released weights, untrained."""
    encoder = sam_med3d.ImageEncoder3d(
        grid=(8, 8, 8),
        patch=(16, 16, 16),
        width=768,
        heads=12,
        hidden=3072,
        windows=[0 if i in (2, 5, 8, 11) else sam_med3d.WINDOW for i in range(12)],
        out=384,
    )
    prompts = sam_med3d.PromptEncoder3d(width=384, grid=encoder.grid, size=encoder.size)
    decoder = MaskDecoder3d(width=384, masks=4, transformer=TwoWayTransformer(width=384))
    return sam_med3d.SamMed3dNet(encoder, prompts, decoder)
