"""SAM-Med2D: SAM at 256 pixels with adapters, trained on medical images; points or a box in, mask out.

Source: Cheng et al., SAM-Med2D (arXiv 2308.16184), and the predictor and test script of its authors
(OpenGVLab/SAM-Med2D, `predictor_sammed.py`, `test.py`). Inside this file boxes have half-open corners, as the boxes of
its training masks have.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from segwise.card import ModelCard, WeightFile
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.grey import GreyFrame
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.planes import Planes
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.nets import flops, sam_med2d, sam_sizes
from segwise.nets.contract import Marks
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, opened

CARD = ModelCard(
    title="SAM-Med2D",
    summary="Any organ or lesion on CT and MR slices from points or a box; SAM with adapters at 256 pixels.",
    family="generalist",
    takes=("points", "box"),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2308.16184",
    code="https://github.com/OpenGVLab/SAM-Med2D (bfd2b93)",
    keys=(
        r"^image_encoder\.blocks\.0\.Adapter\.",
        r"^mask_decoder\.",
    ),
    weights=(
        WeightFile(
            file="sam-med2d_b.pth",
            n_bytes=0,
            signature="d9dadc1b73e1e2e4937f69398ecede8bbd0641920b69f2b250975d6e0b9f4f6a",
        ),
    ),
    training_sets=("SA-Med2D-20M",),
    training_note=(
        "4.6 million images and 19.7 million masks gathered from public and private sets (its authors name them later "
        "as SA-Med2D-20M's source); which public sets are in the training part is not listed, so scores on any public "
        "CT or MR set are possibly seen. The official file is handed out through a file-sharing page without size or "
        "digest"
    ),
    parameters_m=271.2,
    memory="about 2.5 GB, and 0.3 MB for each encoded slice",
    input=(
        "slices in LPS (rows to P, columns to L), grey as three equal channels, SAM's own mean and deviation, THEN "
        "nearest-neighbour resize to 256 x 256, aspect not kept (small=pad: zero padding around slices below 256 in "
        "both axes, as its test script does); CT window -160..240 HU, MR percentiles 0.5..99.5 of voxels > 0; quality "
        "is the predicted IoU, mean over slices"
    ),
    deviations=(
        "the authors define no grey levels for CT and MR volumes (their data are images already): the window and "
        "percentiles are MedSAM's",
        "small=resize is its predictor, small=pad its test script; the script reads colours as BGR, which changes "
        "nothing on grey slices",
        "the mask prompt of a round is the sigmoid of the last round's low-resolution logits, as in its training and "
        "test loops (carry=false: none)",
        "one mask an answer, of its three the one with the greatest predicted IoU, as its predictor does "
        "(multimask=false: the first of its four)",
        "a slice with only negative points is not asked unless a round before answered on it",
        "lift=propagate and lift=orthogonal are Segwise's: SAM-Med2D has no notion of another slice",
    ),
    seconds_hint=40.0,
)

PIXEL_MEAN = (123.675, 116.28, 103.53)  # SAM's, of RGB 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
FOLLOW_PX = 3  # margin of the next slice's box, in pixels of the view
_CODE = "sam-med2d-1"


class Place(NamedTuple):
    """Where a slice lies on its view: the pixels it fills and its first row and column."""

    rows: int
    columns: int
    top: int
    left: int


@dataclass(frozen=True)
class Med2dFrame(GreyFrame):
    """The official preprocessing.

    A prepared volume of three channels is shown in colour; `prepare` makes one of grey levels.

    Attributes:
        size: side of a view.
        mean, std: of the three channels, on 0..255.
        small: what becomes of slices below `size` in both axes: "resize" or "pad".
        carries: the logits of a round are the mask prompt of the next one.
    """

    size: int = 256
    mean: tuple[float, ...] = PIXEL_MEAN
    std: tuple[float, ...] = PIXEL_STD
    small: str = "resize"
    carries: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(1, size, size)."""
        return 1, self.size, self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, self.size, self.mean, self.std, self.small)
        return hashlib.blake2b(repr((*words, cv2.__version__)).encode(), digest_size=16).hexdigest()

    def place(self, height: int, width: int) -> Place:
        """Where a slice of [height, width] lies on the view."""
        if self.small == "pad" and height < self.size and width < self.size:
            return Place(height, width, (self.size - height) // 2, (self.size - width) // 2)
        return Place(self.size, self.size, 0, 0)

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, size, size]: normalised, then resized to the nearest pixel or padded with zeros."""
        image = regrid(prepared.array, prepared.grid, window, order=1, outside=0)[:, 0]  # [1 or 3, H, W]
        rows, columns, top, left = self.place(*image.shape[1:])
        view = np.zeros((3, 1, self.size, self.size), dtype=np.float32)
        for i, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            level = (image[i % len(image)].astype(np.float32) - np.float32(mean)) / np.float32(std)
            sized = cv2.resize(level, (columns, rows), interpolation=cv2.INTER_NEAREST)
            view[i, 0, top : top + rows, left : left + columns] = sized
        return view

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """A query a box on the slice, with the slice's points; one query of the points where there is no box.

        No query where the slice has only negative points and no round before it.
        """
        placed = prompt.on(window)
        if not len(placed.boxes) and seen is None and not placed.positive.any():
            return Marks(torch.zeros(0, dtype=torch.int64))
        return self.queries(placed.points, placed.positive, placed.boxes, window, seen)

    def queries(self, points: Array, positive: Array, corners: Array, window: Grid, seen: Tree = None) -> Marks:
        """Marks of a slice as queries.

        Args:
            points: [N, 3] (d, h, w) on the slice.
            positive: bool [N].
            corners: [Q, 2, 3] half-open corners of boxes on the slice.
            window: the slice.
            seen: low-resolution logits [1, h, w] of the round before, or None; used if there is one query.
        """
        n = max(len(corners), int(len(points) > 0))
        before = None if seen is None or n != 1 else torch.from_numpy(np.ascontiguousarray(seen))[None].sigmoid()
        return Marks(
            torch.zeros(n, dtype=torch.int64),
            points=self._placed(points, window).expand(n, -1, -1) if len(points) else None,
            signs=torch.from_numpy(positive.astype(np.float32)).expand(n, -1) if len(points) else None,
            boxes=self._placed(corners, window) if len(corners) else None,
            low_res=before,
        )

    def follow(self, mask: Array, window: Grid) -> Marks:
        """The mask's box with a margin; no query if the mask is empty."""
        found = bounds(mask[0])
        if found is None:
            return Marks(torch.zeros(0, dtype=torch.int64))
        box = self._placed(np.array([[(0, *found[0]), (0, *found[1])]], dtype=np.float64), window)
        rows, columns, top, left = self.place(*window.shape[1:])
        low = torch.maximum(box[:, 0] - FOLLOW_PX, box.new_tensor([0, top, left]))
        high = torch.minimum(box[:, 1] + FOLLOW_PX, box.new_tensor([0, top + rows, left + columns]))
        return Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.stack([low, high], dim=1))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of views on the slice: the padding cut off, or resized bilinearly."""
        height, width = window.shape[1:]
        rows, columns, top, left = self.place(height, width)
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0, top : top + rows, left : left + columns]))
        if own.shape[-2:] != (height, width):
            own = F.interpolate(own, (height, width), mode="bilinear", align_corners=False)
        return own[:, :, None].numpy()

    def _placed(self, places: Array, window: Grid) -> torch.Tensor:
        """[..., 3] (d, h, w) on a slice -> float32 on the view: scaled by each axis's own new over old size."""
        height, width = window.shape[1:]
        rows, columns, top, left = self.place(height, width)
        scaled = np.asarray(places) * np.array([0.0, rows / height, columns / width]) + np.array([0.0, top, left])
        return torch.from_numpy(scaled.astype(np.float32))


def load(
    *,
    checkpoint: str | None = None,
    lift: Literal["slices", "propagate", "orthogonal"] = "slices",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    small: Literal["resize", "pad"] = "resize",
    multimask: bool = True,
    carry: bool = True,
    stop: Literal["empty", "quality", "area"] = "area",
    hold: Literal["mask", "image"] = "mask",
    shift: bool = False,
) -> Planes | Orthogonal:
    """SAM-Med2D with its released weights, or with a checkpoint of the same format.

    Args:
        checkpoint: a file, or a folder with checkpoint.pth, as its authors save it; a file without adapters (FT-SAM)
            makes a net without. Its keys tell the size, config.json beside it what no key tells (decoder_num_heads,
            pixel_mean, pixel_std).
        lift: "slices" answers on every slice that a mark lies on; "propagate" goes on from the marked slices;
            "orthogonal" fuses the slices of three planes.
        plane: of the slices; not with lift=orthogonal.
        small: slices below the view's size in both axes are enlarged ("resize", its predictor) or padded ("pad", its
            test script).
        multimask: the best of three masks by predicted IoU; False: the one mask for unambiguous prompts.
        carry: give the probabilities of a round back as the mask prompt of the next one.
        stop: with lift=propagate, what ends a prompt that lies on one slice only.
        hold: with propagate, what the next slice's marks come from where there is a range: the last "mask", or a guess
            of the object grown through the "image" from the first mask.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black.

    Raises:
        WeightsError: the weights are missing, damaged, or not SAM-Med2D's; the message tells what to type.
    """
    file = opened("sam-med2d", CARD, checkpoint=checkpoint)
    network = sam_med2d.net_of(file.shapes, file.config, best_of_three=multimask)
    fill(network, sam_med2d.named(file.tensors), what="SAM-Med2D")
    frame = Med2dFrame(
        plane=plane,
        shift=shift,
        size=network.sam.prompt_encoder.size[0],
        mean=tuple(file.config.get("pixel_mean", PIXEL_MEAN)),
        std=tuple(file.config.get("pixel_std", PIXEL_STD)),
        small=small,
        carries=carry,
    )
    parts = Parts(network, frame, None, file.digest + ("" if multimask else " one mask"))
    if lift == "orthogonal":
        return Orthogonal(parts)
    return Propagate(parts, stop=stop, hold=hold) if lift == "propagate" else Slices(parts)


def published() -> list[flops.Published]:
    """The released size, for counting its work."""
    with torch.device("meta"):
        net = sam_med2d.SamMed2dNet(sam_sizes.sam("b", 256, candidates="three"))
        sam_med2d.adapted(net.sam.image_encoder)
        net.requires_grad_(False)  # the counter wants no gradients
        image, features = torch.zeros(1, 3, 1, 256, 256), torch.zeros(1, 256, 16, 16)
        marks = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.zeros(1, 2, 3))
    stages = {"encoder": lambda: net.encode(image), "decoder": lambda: net.sam.decode(features, marks)}
    return [flops.Published(label="", net=net, stages=stages, per="slice", input="3×256×256, one box")]
