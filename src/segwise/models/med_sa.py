"""Med-SA: SAM with adapters, and attention along the depth of a chunk of slices; points in, mask out.

Source: Wu et al., Medical SAM Adapter, Med Image Anal 2025 (arXiv 2304.12620). Its code is GPL-3.0: this was written
from the paper, from its behaviour (one rule was learnt by reading it, see the net) and from stored outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from segwise.card import ModelCard
from segwise.errors import WeightsError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.chunks import Chunks
from segwise.lifts.grey import GreyFrame
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.planes import Planes
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.nets import flops, sam_sizes, space_depth
from segwise.nets.contract import Marks
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, opened

CARD = ModelCard(
    title="Med-SA",
    summary="One structure that its weights were trained for, on slices or chunks of slices, from a point.",
    family="specialist",
    takes=("points",),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="GPL-3.0 (the original; none of it is used here)",
    licence_weights="as stated by whoever trained them; its authors hand out files by data set",
    paper="https://arxiv.org/abs/2304.12620",
    code="https://github.com/SuperMedIntel/Medical-SAM-Adapter (0add836)",
    keys=(
        r"^image_encoder\.blocks\.0\.MLP_Adapter\.",
        r"^mask_decoder\.",
    ),
    weights=(),
    training_sets=("SA-1B",),
    training_note=(
        "there is no general checkpoint: each file is trained on one data set (its paper: BTCV, REFUGE2, BraTS 2021, "
        "thyroid ultrasound, ISIC 2019), over SAM's encoder (SA-1B, photographs). Which one a file saw is not in it: "
        "treat scores as possibly seen"
    ),
    parameters_m=104.4,
    memory="about 2.5 GB at 1024 pixels; lift=chunks 0.4 GB more for each slice of a chunk",
    input=(
        "slices in LPS (rows to P, columns to L), 8-bit grey as three equal channels, resized to image_size (1024 in "
        "its vit_b) bilinearly with antialiasing, aspect not kept, SAM's mean and deviation; CT window -160..240 HU, "
        "MR percentiles 0.5..99.5 of voxels > 0; quality is the predicted IoU, mean over slices"
    ),
    deviations=(
        "no weights of its own here: give a file with checkpoint=",
        "the original draws the points of its validation from the reference, in 3D one on every slice of a chunk: here "
        "they are the user's. With lift=chunks a slice without a point takes that of the nearest slice of its chunk "
        "(spread=false: is left out)",
        "a file does not tell whether it was trained with depth (lift=chunks) or without (slices): the tensors are the "
        "same; config.json beside it does, and else the user says",
        "the window of CT and the percentiles of MR are MedSAM's: its loaders differ by data set",
        "its evaluation averages the scores of masks at thresholds 0.1, 0.3, 0.5, 0.7 and 0.9; here 0.5",
        "its relative-position tables and its decoder's attention among tokens differ from SAM's, so a file of SAM is "
        "none of Med-SA",
        "where a slice has several windows, the attention along depth groups windows and slices as they follow each "
        "other in the batch, which mixes them, as the original does (the default); "
        "apart=true keeps each window to itself",
        "lift=propagate and lift=orthogonal are Segwise's",
    ),
    seconds_hint=240.0,
)

PIXEL_MEAN = (123.675, 116.28, 103.53)  # SAM's, of RGB 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
CHUNK = 96
_CODE = "med-sa-1"


@dataclass(frozen=True)
class MedSaFrame(GreyFrame):
    """The preprocessing.

    A prepared volume of three channels is shown in colour; `prepare` makes one of grey levels.

    Attributes:
        size: side of a view.
        mean, std: of the three channels, on 0..255.
    """

    size: int = 1024
    mean: tuple[float, ...] = PIXEL_MEAN
    std: tuple[float, ...] = PIXEL_STD

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(1, size, size)."""
        return 1, self.size, self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, self.size, self.mean, self.std, torch.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, size, size]: resized, then normalised."""
        image = resized(regrid(prepared.array, prepared.grid, window, order=1, outside=0)[:, 0], self.size)
        mean, std = (np.array(x, dtype=np.float32)[:, None, None] for x in (self.mean, self.std))
        return np.asarray((image - mean) / std, dtype=np.float32)[:, None]

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """One query of the slice's points; none where no point is positive."""
        placed = prompt.on(window)
        if not placed.positive.any():
            return Marks(torch.zeros(0, dtype=torch.int64))
        return self.query(placed.points, placed.positive, window)

    def query(self, points: Array, positive: Array, window: Grid) -> Marks:
        """Points [N, 3] (d, h, w) on a slice and their signs, bool [N], as one query."""
        scale = np.array([1.0, self.size / window.shape[1], self.size / window.shape[2]])
        places = (points + 0.5) * scale - 0.5
        places[:, 0] = 0
        return Marks(
            torch.zeros(1, dtype=torch.int64),
            points=torch.from_numpy(places.astype(np.float32))[None],
            signs=torch.from_numpy(positive.astype(np.float32))[None],
        )

    def follow(self, mask: Array, window: Grid) -> Marks:
        """A positive point where the mask is thickest; no query if it is empty."""
        if not mask.any():
            return Marks(torch.zeros(0, dtype=torch.int64))
        inside = ndimage.distance_transform_edt(np.pad(mask[0], 1))[1:-1, 1:-1]
        place = np.unravel_index(int(inside.argmax()), inside.shape)
        return self.query(np.array([[0, *place]], dtype=np.float64), np.array([True]), window)

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of any resolution that cover the view, resized bilinearly to the slice."""
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0]))
        return F.interpolate(own, window.shape[1:], mode="bilinear", align_corners=False)[:, :, None].numpy()


def resized(image: Array, size: int) -> Array:
    """[1 or 3, H, W] of any dtype -> float32 [3, size, size], bilinear and antialiased."""
    own = torch.from_numpy(np.array(image, dtype=np.float32))[None]
    if own.shape[-2:] != (size, size):
        own = F.interpolate(own, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return own[0].expand(3, -1, -1).numpy()


def load(
    *,
    checkpoint: str | None = None,
    lift: Literal["auto", "slices", "propagate", "orthogonal", "chunks"] = "auto",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    chunk: int = 0,
    spread: bool = True,
    apart: bool = False,
    stop: Literal["empty", "quality", "area"] = "area",
    hold: Literal["mask", "image"] = "mask",
    shift: bool = False,
) -> Planes | Orthogonal:
    """Med-SA with a checkpoint.

    Args:
        checkpoint: a file, or a folder with checkpoint.pth, as its authors save it. Its keys tell the sizes,
            config.json beside it what no key tells (args: image_size, thd, chunk, multimask_output;
            decoder_num_heads, pixel_mean, pixel_std).
        lift: "slices" answers on every slice with a point; "propagate" goes on from there; "orthogonal" fuses the
            slices of three planes; "chunks" lets slices attend to each other, as weights trained in 3D want it;
            "auto" is chunks where config.json says "thd", else slices.
        plane: of the slices; not with lift=orthogonal.
        chunk: with chunks, slices of one; 0: what config.json says, else 96.
        spread: with chunks, slices without a point take those of the nearest one in their chunk.
        apart: with chunks, each window of a slice keeps to itself along depth.
        stop: with propagate, what ends a prompt that lies on one slice only.
        hold: with propagate, what the next slice's marks come from where there is a range: the last "mask", or a guess
            of the object grown through the "image" from the first mask.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black.

    Raises:
        WeightsError: no checkpoint is given, or it is damaged or not Med-SA's.
    """
    if checkpoint is None:
        raise WeightsError(
            "Med-SA has no general weights: each file is trained for one structure. Say which: "
            "med-sa(checkpoint=FILE), as its authors save it"
        )
    file = opened("med-sa", CARD, checkpoint=checkpoint)
    arguments: Mapping[str, Any] = file.config.get("args", {})
    chosen = ("chunks" if arguments.get("thd") else "slices") if lift == "auto" else lift
    slices = (chunk or int(arguments.get("chunk") or CHUNK)) if chosen == "chunks" else 0
    net = space_depth.net_of(file.shapes, file.config, chunk=slices, apart=apart)
    fill(net, space_depth.named(file.tensors, net.sam.prompt_encoder.grid[0]), what="Med-SA")
    frame = MedSaFrame(
        plane=plane,
        shift=shift,
        size=net.sam.prompt_encoder.size[0],
        mean=tuple(file.config.get("pixel_mean", PIXEL_MEAN)),
        std=tuple(file.config.get("pixel_std", PIXEL_STD)),
    )
    parts = Parts(net, frame, None, file.digest)
    if chosen == "chunks":
        return Chunks(parts, chunk=slices, spread=spread)
    if chosen == "orthogonal":
        return Orthogonal(parts)
    return Propagate(parts, stop=stop, hold=hold) if chosen == "propagate" else Slices(parts)


def published() -> list[flops.Published]:
    """The size of its vit_b, alone and with a chunk of eight slices, for counting its work."""
    return [_published("lift=slices", 0), _published("lift=chunks, chunk=8", 8)]


def _published(label: str, chunk: int) -> flops.Published:
    n = chunk or 1
    with torch.device("meta"):
        net = space_depth.SpaceDepthNet(sam_sizes.sam("b", 1024))
        space_depth.adapted(net.sam.image_encoder, chunk=chunk)
        net.requires_grad_(False)  # the counter wants no gradients
        image, features = torch.zeros(n, 3, 1, 1024, 1024), torch.zeros(1, 256, 64, 64)
        marks = Marks(torch.zeros(1, dtype=torch.int64), points=torch.zeros(1, 1, 3), signs=torch.ones(1, 1))
    stages = {"encoder": lambda: net.encode(image), "decoder": lambda: net.decode(features, marks)}
    per = f"chunk of {n} slices; the decoder per slice" if chunk else "slice"
    return flops.Published(label=label, net=net, stages=stages, per=per, input=f"{n}×3×1024×1024, one point")
