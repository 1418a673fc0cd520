"""MedSAM: SAM tuned on medical images; any organ or lesion on slices from a box.

Source: Ma et al., Segment anything in medical images, Nat Commun 2024 (arXiv 2304.12306), and its authors' inference
script (bowang-lab/MedSAM, `MedSAM_Inference.py`, `pre_CT_MR.py`). Inside this file boxes have inclusive corners.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
from skimage.transform import resize
from torch.nn import functional as F

from segwise.card import ModelCard, WeightFile
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.chunks import Chunks
from segwise.lifts.grey import GreyFrame
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.planes import Planes
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.nets import flops, sam_sizes
from segwise.nets.biases import biased
from segwise.nets.contract import Marks
from segwise.nets.sam_vit import sam_of
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, opened

CARD = ModelCard(
    title="MedSAM",
    summary="Any organ or lesion on CT and MR slices from a box; SAM's ViT-B tuned on medical images.",
    family="generalist",
    takes=("box",),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2304.12306",
    code="https://github.com/bowang-lab/MedSAM",
    keys=(
        r"^image_encoder\.blocks\.0\.attn\.qkv\.",
        r"^image_encoder\.patch_embed\.proj\.weight \d+x\d+x\d+x\d+$",
        r"^mask_decoder\.",
        "!Adapter",
        "!FacT",
    ),
    weights=(
        WeightFile(
            file="medsam_vit_b.pth",
            n_bytes=375049145,
            sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
            signature="86641a8f7847026c348e244c8b41292e85379ae0afd46270cf8c00be56395627",
            url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        ),
    ),
    training_note=(
        "1.57 million image-mask pairs of ten modalities from public sets: 51 of volumes and 34 of images, some of "
        "them held back for external validation (supplementary tables 1 to 4; bowang-lab/MedSAM, issue 176). "
        "The tables were not at hand here: treat scores on public CT and MR sets as possibly seen"
    ),
    parameters_m=93.7,
    memory="1 GB (peak measured on a CPU), and 4 MB for each encoded slice",
    input=(
        "slices in LPS (rows to P, columns to L), grey as three equal channels, squeezed or stretched to 1024 x 1024 "
        "(cubic, antialiased, 8 bit), each slice scaled to 0..1; CT window -160..240 HU (level=, width=), MR "
        "percentiles 0.5..99.5 of voxels > 0; quality is the predicted IoU, mean over slices"
    ),
    deviations=(
        "the mask is the original's, where the sigmoid, taken before the resize, exceeds 0.5; logits are handed out as "
        "log odds of that probability",
        "lift=propagate and lift=orthogonal are Segwise's: the original asks a box on every slice",
        "a slice of one value becomes 0, as in the original",
    ),
    seconds_hint=240.0,
)

MARGIN_PX = 12  # LiteMedSAM's 3 of 256, of 1024
SURE = 1e-7  # least probability of either answer: log odds stay finite
_CODE = "medsam-2"


@dataclass(frozen=True)
class MedSamFrame(GreyFrame):
    """The official preprocessing.

    A prepared volume of three channels is shown in colour; `prepare` makes one of grey levels.

    Attributes:
        size: side of a view.
        margin: of the next slice's box, in pixels of the view.
    """

    size: int = 1024
    margin: int = MARGIN_PX

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(1, size, size)."""
        return 1, self.size, self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, self.size, version("scikit-image"))
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, size, size], 0..1 over the slice."""
        image = regrid(prepared.array, prepared.grid, window, order=1, outside=0)[:, 0]  # [1 or 3, H, W]
        square = squared(image, self.size)
        low, high = int(square.min()), int(square.max())
        level = ((np.arange(256) - low) / max(high - low, 1e-8)).astype(np.float32)
        return np.asarray(level[square][:, None])

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """A query a box that lies on the slice, inclusive corners."""
        boxes = prompt.on(window).boxes
        return self.queries(np.stack([boxes[:, 0], boxes[:, 1] - 1], axis=1), window)

    def queries(self, corners: Array, window: Grid) -> Marks:
        """Inclusive corners [Q, 2, 3] (d, h, w) on the slice as queries: divided by its size, times the view's."""
        placed = corners / np.array([1.0, *window.shape[1:]]) * np.array([0.0, self.size, self.size])
        return Marks(torch.zeros(len(corners), dtype=torch.int64), boxes=torch.from_numpy(placed.astype(np.float32)))

    def follow(self, mask: Array, window: Grid) -> Marks:
        """The mask's box with a margin; no query if the mask is empty."""
        found = bounds(mask[0])
        if found is None:
            return self.queries(np.empty((0, 2, 3)), window)
        corners = np.array([[(0, *found[0]), (0, *(face - 1 for face in found[1]))]], dtype=np.float64)
        marks = self.queries(corners, window)
        assert marks.boxes is not None
        away = marks.boxes.new_tensor([[0, -self.margin, -self.margin], [0, self.margin, self.margin]])
        return Marks(marks.image, boxes=(marks.boxes + away).clamp(0, self.size - 1))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of any resolution that cover the view, on the slice: sigmoid, bilinear resize, log odds."""
        low = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0])).sigmoid()
        share = F.interpolate(low, window.shape[1:], mode="bilinear", align_corners=False)
        return share.double().clamp(SURE, 1 - SURE).logit().float()[:, :, None].numpy()


def squared(image: Array, size: int) -> Array:
    """uint8 [1 or 3, H, W] as [3, size, size]: cubic, antialiased where it shrinks, cut (not rounded) to 8 bit.

    All three channels at once, as the original, whose splines run along the channels as well: their last bit decides
    to which side a region of one value is cut, and the values are held within the range of the three together.
    """
    colours = np.ascontiguousarray(np.repeat(image, 3 // len(image), axis=0).transpose(1, 2, 0))
    wide = resize(colours, (size, size), order=3, preserve_range=True, anti_aliasing=True)
    return np.ascontiguousarray(wide.astype(np.uint8).transpose(2, 0, 1))


def load(
    *,
    checkpoint: str | None = None,
    lift: Literal["slices", "propagate", "orthogonal", "chunks"] = "slices",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    chunk: int = 5,
    stop: Literal["empty", "quality", "area"] = "area",
    margin: int = MARGIN_PX,
    level: float = 40.0,
    width: float = 400.0,
    shift: bool = False,
) -> Planes | Orthogonal:
    """MedSAM with its released weights, or with a checkpoint of the same format.

    Args:
        checkpoint: a file, or a folder with checkpoint.pth: SAM's keys, flat or under "model"; they tell the size,
            config.json beside it what no key tells (decoder_num_heads).
        lift: "slices" answers on every slice that a box lies on; "propagate" prompts the middle slice of a box and
            follows the mask over the box's range; "orthogonal" fuses the slices of three planes; "chunks" shows the
            encoder neighbouring slices at once, so that adapters made for volumes (ma-sam, med-sa) act along depth;
            without one it answers as "slices".
        plane: of the slices; not with lift=orthogonal.
        chunk: with lift=chunks, slices of one; MA-SAM's are 5.
        stop: with lift=propagate, what ends a prompt that lies on one slice only.
        margin: with lift=propagate, pixels of the view around a mask for the next slice's box.
        level, width: of the CT window, HU.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black, as in the official path.

    Raises:
        WeightsError: the weights are missing, damaged, or not MedSAM's; the message tells what to type.
    """
    file = opened("medsam", CARD, checkpoint=checkpoint)
    network = sam_of(file.shapes, file.config, candidates="one", enlarge=False)
    biased(network, file.config.get("biases", ()))
    fill(network, file.tensors, what="MedSAM")
    window_hu = (level - width / 2, level + width / 2)
    size = network.prompt_encoder.size[0]
    shown = chunk if lift == "chunks" else 1
    frame = MedSamFrame(plane=plane, shift=shift, window_hu=window_hu, size=size, margin=margin, chunk=shown)
    parts = Parts(network, frame, None, file.digest)
    if lift == "orthogonal":
        return Orthogonal(parts)
    if lift == "chunks":
        return Chunks(parts, chunk=chunk, spread=False)
    return Propagate(parts, stop=stop) if lift == "propagate" else Slices(parts)


def published() -> list[flops.Published]:
    """The published net on the meta device: a slice through the encoder, a box through the decoder."""
    with torch.device("meta"):
        net = sam_sizes.sam("b", 1024, candidates="one", enlarge=False)
        image, features = torch.empty(1, 3, 1, 1024, 1024), torch.empty(1, sam_sizes.WIDTH, 64, 64)
        box = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.zeros(1, 2, 3))
    return [
        flops.Published(
            label="",
            net=net.requires_grad_(False),
            stages={
                "encoder": functools.partial(net.encode, image),
                "decoder": functools.partial(net.decode, features, box),
            },
            per="slice",
            input="3×1024×1024, one box",
        )
    ]
