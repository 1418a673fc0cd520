"""What SAM 2 and the models with its format share: the preprocessing of slices, and the net of a checkpoint."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image
from torch.nn import functional as F

from segwise.errors import WeightsError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.grey import GreyFrame
from segwise.nets import flops, sam2_sizes
from segwise.nets.contract import Marks
from segwise.nets.sam2 import Candidates, Sam2Net
from segwise.prompt import Prompt
from segwise.segmenter import Tree
from segwise.weights import Checkpoint, fill

MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1
STD = (0.229, 0.224, 0.225)
MARGIN_PX = 12  # of 1024: LiteMedSAM's 3 of 256
MASK_LOGIT = 10.0  # of a given mask, where clicks go with it
_CODE = "sam2-1"

Resizing = Literal["image", "video", "volume"]


@dataclass(frozen=True)
class Sam2Frame(GreyFrame):
    """The official preprocessing: a slice stretched to a square.

    A prepared volume of three channels is shown in colour; `prepare` makes one of grey levels.

    Attributes:
        size: side of a view.
        resizing: "image" as the image predictor does it (to 0..1, then antialiased bilinear), "video" as the video
            predictor does (8-bit bicubic, then to 0..1), "volume" the same as MedSAM2 does it, normalised in float64.
        margin: of the next slice's box (lift=propagate), in pixels of the view.
        carries: the logits of a round are the mask prompt of the next one.
    """

    size: int = 1024
    resizing: Resizing = "video"
    margin: int = MARGIN_PX
    carries: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(1, size, size)."""
        return 1, self.size, self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, self.size, self.resizing, PIL.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, size, size]: resized and normalised; grey as three equal channels."""
        image = regrid(prepared.array, prepared.grid, window, order=1, outside=0)[:, 0]  # [1 or 3, H, W]
        levels = (_antialiased if self.resizing == "image" else _bicubic)(image, self.size)
        mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (MEAN, STD))
        levels = levels if self.resizing == "volume" else levels.astype(np.float32)
        return np.ascontiguousarray(((levels - mean) / std).astype(np.float32)[:, None])

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """A query a box on the slice, with the slice's points; one query of the points where there is no box.

        Boxes have inclusive corners. A mask that lies on the slice, alone there, is itself the answer; with points or
        boxes it is their mask prompt, unless a round before left one. No query where nothing positive is said.
        """
        placed = prompt.on(window)
        corners = np.stack([placed.boxes[:, 0], placed.boxes[:, 1] - 1], axis=1)
        given = placed.mask is not None and bool(placed.mask.any())
        if given and not len(corners) and not len(placed.points):
            assert placed.mask is not None
            return self.masked(placed.mask)
        if not len(corners) and seen is None and not given and not placed.positive.any():
            return Marks(torch.zeros(0, dtype=torch.int64))
        if given and seen is None:
            assert placed.mask is not None
            small = _squared(placed.mask, self.size // 4)
            seen = (small * 2 * MASK_LOGIT - MASK_LOGIT).numpy()
        return self.queries(placed.points, placed.positive, corners, window, seen)

    def queries(self, points: Array, positive: Array, corners: Array, window: Grid, seen: Tree = None) -> Marks:
        """Marks of a slice as queries.

        Args:
            points: [N, 3] (d, h, w) on the slice.
            positive: bool [N].
            corners: [Q, 2, 3] inclusive corners of boxes on the slice.
            window: the slice.
            seen: low-resolution logits [1, h, w] of the round before, or None; used if there is one query.
        """
        n = max(len(corners), int(len(points) > 0))
        low_res = None if seen is None or n != 1 else torch.from_numpy(np.array(seen, dtype=np.float32))[None]
        return Marks(
            torch.zeros(n, dtype=torch.int64),
            points=self._placed(points, window).expand(n, -1, -1) if len(points) else None,
            signs=torch.from_numpy(positive.astype(np.float32)).expand(n, -1) if len(points) else None,
            boxes=self._placed(corners, window) if len(corners) else None,
            low_res=low_res,
        )

    def masked(self, mask: Array) -> Marks:
        """A query of a given mask, bool [1, H, W] on the slice."""
        return Marks(torch.zeros(1, dtype=torch.int64), masks=_squared(mask, self.size)[None])

    def follow(self, mask: Array, window: Grid) -> Marks:
        """The mask's box with a margin; no query if the mask is empty."""
        found = bounds(mask[0])
        if found is None:
            return Marks(torch.zeros(0, dtype=torch.int64))
        corners = np.array([[(0, *found[0]), (0, *(face - 1 for face in found[1]))]], dtype=np.float64)
        boxes = self._placed(corners, window)
        low = (boxes[:, 0] - self.margin).clamp(min=0)
        high = (boxes[:, 1] + self.margin).clamp(max=self.size - 1)
        low[:, 0] = high[:, 0] = 0
        return Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.stack([low, high], dim=1))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of any resolution that cover the view, resized bilinearly to the slice."""
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0]))
        full = F.interpolate(own, window.shape[1:], mode="bilinear", align_corners=False)
        return full[:, :, None].numpy()

    def _placed(self, places: Array, window: Grid) -> torch.Tensor:
        """[..., 3] (d, h, w) on a slice -> float32 on the view; rounded as the predictors do, first to a share."""
        share = places.astype(np.float32) / np.array([1, *window.shape[1:]], dtype=np.float32)
        return torch.from_numpy(share * np.array([0, self.size, self.size], dtype=np.float32))


def network(file: Checkpoint, *, what: str, side: int, candidates: Candidates = "best", video: bool) -> Sam2Net:
    """The net of a checkpoint, filled.

    Args:
        file: its config.json is the original's configuration of the model, if there is one.
        what: the model, for messages.
        side: of the square input, if the configuration does not tell.
        candidates, video: as `Sam2Net`.

    Raises:
        WeightsError: the file is of another model; or of sizes with which no object can be followed (video).
    """
    if sam2_sizes.MARK not in file.shapes:
        raise WeightsError(f"these weights are not {what}'s: no {sam2_sizes.MARK}; expected a published file of {what}")
    net = sam2_sizes.sam2_of(file.shapes, file.config, side=side, candidates=candidates, video=video)
    fill(net, file.tensors, what=what)
    width = net.no_obj_ptr.shape[1]
    if video and width % net.keys:
        raise WeightsError(
            f"lift=memory cannot use these weights: {what} cuts an object's pointer of width {width} into tokens of "
            f"width {net.keys}, and it does not divide; expected a published size (256 and 64)"
        )
    return net


def measured(label: str, net: Sam2Net, side: int) -> flops.Published:
    """A net on the meta device: a slice, a box on it, and one slice that recalls seven and remembers."""
    image, features = torch.empty(1, 3, 1, side, side), _features(side)
    box = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.zeros(1, 2, 3))
    return flops.Published(
        label=label,
        net=net.requires_grad_(False),
        stages={
            "encoder": functools.partial(net.encode, image),
            "decoder": functools.partial(net.decode, features, box),
            "memory": functools.partial(_followed, net, features),
        },
        per="slice",
        input=f"3×{side}×{side}, one box; memory: recall 7 slices, decode, remember",
    )


def _features(side: int) -> Tree:
    width, h = sam2_sizes.WIDTH, side // sam2_sizes.STRIDE
    return {
        "map": torch.empty(1, width, h, h),
        "eighth": torch.empty(1, width // 4, 2 * h, 2 * h),
        "quarter": torch.empty(1, width // 8, 4 * h, 4 * h),
    }


def _followed(net: Sam2Net, features: Tree) -> Any:
    """One slice on the way: seven memories, sixteen pointers at most."""
    with torch.device("meta"):
        shape = (1, sam2_sizes.KEYS, *features["map"].shape[2:])
        tree = {"map": torch.empty(shape, dtype=torch.bfloat16), "pointer": torch.empty(1, sam2_sizes.WIDTH)}
        offsets = list(range(1, 17))
        recalled = net.recall(features, [tree] * 16, offsets, prompted=[False] * 15 + [True], n_slices=sam2_sizes.SIDE)
        decoded = net.decode(recalled, Marks(torch.zeros(1, dtype=torch.int64)))
        return net.remember(features, decoded, prompted=False)


def _antialiased(image: Array, size: int) -> Array:
    """uint8 [C, H, W] -> float32 [C, size, size] in 0..1."""
    levels = torch.from_numpy(image.astype(np.float32)) / 255
    return F.interpolate(levels[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0].numpy()


def _bicubic(image: Array, size: int) -> Array:
    """uint8 [C, H, W] -> float64 [C, size, size] in 0..1."""
    resized = [Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC) for channel in image]
    return np.stack([np.asarray(channel) for channel in resized]) / 255.0


def _squared(mask: Array, size: int) -> torch.Tensor:
    """bool [1, H, W] -> float32 [1, size, size] of 0 and 1: antialiased, then cut at one half."""
    values = torch.from_numpy(mask.astype(np.float32))[None]
    if values.shape[-2:] != (size, size):
        values = F.interpolate(values, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (values >= 0.5).float()[0]
