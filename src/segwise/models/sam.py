"""SAM and MobileSAM: generalists of natural images, asked on slices; points or a box in, mask out.

Source: Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643), and the predictor of its authors
(facebookresearch/segment-anything, `predictor.py`, `utils/transforms.py`); MobileSAM: Zhang et al., arXiv 2306.14289.
SAM knows 8-bit pictures only: CT and MR are windowed as MedSAM's authors do before they compare with it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image
from torch.nn import functional as F

from segwise.card import ModelCard, Variant, WeightFile
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.chunks import Chunks
from segwise.lifts.grey import GreyFrame, margin_in
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.planes import Planes
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.nets import flops, mobile_sam, sam_sizes
from segwise.nets.biases import biased
from segwise.nets.contract import Marks
from segwise.nets.mobile_sam import mobile_sam_of
from segwise.nets.sam import Candidates, SamNet
from segwise.nets.sam_vit import Shapes, sam_of
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, opened

CARD = ModelCard(
    title="SAM",
    summary=(
        "Any object on single slices from points or a box; trained on photographs. Also MobileSAM (size=mobile), and "
        "one of our own that comes with Segwise (size=nano)."
    ),
    family="generalist",
    takes=("points", "box"),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2304.02643",
    code="https://github.com/facebookresearch/segment-anything",
    keys=(
        r"^image_encoder\.(blocks\.0\.attn\.qkv|layers\.1\.blocks\.0\.attn\.qkv)\.",
        r"^image_encoder\.patch_embed\.(proj|seq\.0\.c)\.weight \d+x\d+x\d+x\d+$",
        r"^mask_decoder\.",
        "!Adapter",
        "!FacT",
    ),
    weights=(
        WeightFile(
            file="sam_vit_b_01ec64.pth",
            n_bytes=375042383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            variant="b",
            signature="86641a8f7847026c348e244c8b41292e85379ae0afd46270cf8c00be56395627",
        ),
        WeightFile(
            file="sam_vit_l_0b3195.pth",
            n_bytes=1249524607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
            variant="l",
            signature="2782f23acee93d56889efe56a054c2552cf96c4dde5c1b4e99f620171d11cddc",
        ),
        WeightFile(
            file="sam_vit_h_4b8939.pth",
            n_bytes=2564550879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
            variant="h",
            signature="266c2bcda1f0a23b2632dcaf8a9bed3d40e5b9c9a064d677c86506d1bfe57f7f",
        ),
        WeightFile(
            file="mobile_sam.pt",
            n_bytes=40728226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            variant="mobile",
            signature="f2504603c05938ff5bd804ed6422f88c6b36dee9fc8a82dd01c83ab47c2a8cbf",
        ),
        WeightFile(
            file="sam_nano/sam_nano.safetensors",
            n_bytes=2061200,
            sha256="6e31e3a8f8ffb5d868adc3977af50e5a17fc1917acc0b598fd8b3299609af75c",
            variant="nano",
            packaged=True,
        ),
    ),
    training_sets=("SA-1B",),
    remarks={"size=nano": "nano, trained on synthetic data"},
    variants={
        "size=l": Variant(parameters_m=312.3),
        "size=h": Variant(parameters_m=641.1),
        "size=mobile": Variant(parameters_m=9.8),
        "size=nano": Variant(
            summary="Any object on single slices from points or a box; small, of our own, trained on synthetic data.",
            training_sets=("Segwise synth (generated)",),
            training_note=(
                "weights of Segwise (Apache-2.0), trained on synthetic data only, slices of procedural worlds and "
                "bodies (10,000 steps, seed 0); made again by segwise train sam-nano"
            ),
            training_listed=True,
            parameters_m=1.02,
            memory="0.6 GB with the program and a small scan",
            seconds_hint=1.5,
        ),
    },
    parameters_m=93.7,
    memory="size=b 1 GB, l 1.9, mobile 0.5 (peaks measured on a CPU; h was not), and 4 MB for each encoded slice",
    input=(
        "slices in LPS (rows to P, columns to L), grey as three equal channels, longest side 1024 (antialiased "
        "bilinear), SAM's own mean and deviation, then zero padding; CT window -160..240 HU (level=, width=), MR "
        "percentiles 0.5..99.5 of voxels > 0; quality is the predicted IoU, mean over slices. size=nano: "
        "longest side 128"
    ),
    deviations=(
        "SAM's authors define no grey levels for CT and MR: the window and percentiles are MedSAM's",
        "candidates=best takes one mask for a box or several marks, and of the three for a lone point the one with the "
        "greatest predicted IoU, slice by slice, as its authors advise; their predictor leaves the choice to the user",
        "the logits of a round are the mask prompt of the next one (carry=false: they are not), if the prompt is one "
        "query on that slice",
        "a slice with only negative points is not asked unless a round before answered on it",
        "several boxes on one slice are asked one by one, each with all the slice's points",
        "lift=propagate, lift=orthogonal and lift=chunks are Segwise's: SAM has no notion of another slice",
        "MobileSAM: no output of the original was at hand; the keys were compared with its published source",
    ),
    seconds_hint=240.0,
)

PIXEL_MEAN = (123.675, 116.28, 103.53)  # SAM's, of RGB 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
MARGIN_PX = 12  # LiteMedSAM's 3 of 256, of 1024
_CODE = "sam-1"


@dataclass(frozen=True)
class SamFrame(GreyFrame):
    """The official preprocessing.

    A prepared volume of three channels is shown in colour; `prepare` makes one of grey levels.

    Attributes:
        size: longest side of a view.
        mean, std: of the three channels, on 0..255.
        margin: of the next slice's box, in pixels of the view.
        carries: the logits of a round are the mask prompt of the next one.
    """

    size: int = 1024
    mean: tuple[float, ...] = PIXEL_MEAN
    std: tuple[float, ...] = PIXEL_STD
    margin: int = MARGIN_PX
    carries: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(1, size, size)."""
        return 1, self.size, self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, self.size, self.mean, self.std, PIL.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, size, size]: resized, normalised, then zeros right and below."""
        image = regrid(prepared.array, prepared.grid, window, order=1, outside=0)[:, 0]  # [1 or 3, H, W]
        view = np.zeros((3, 1, self.size, self.size), dtype=np.float32)
        channels = [resized(channel, self.size) for channel in image]
        height, width = channels[0].shape
        grey = np.arange(256, dtype=np.float32)
        for i, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            level = (grey - np.float32(mean)) / np.float32(std)
            view[i, 0, :height, :width] = level[channels[i % len(channels)]]
        return view

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """A query a box on the slice, with the slice's points; one query of the points where there is no box.

        Boxes have inclusive corners. No query where the slice has only negative points and no round before it.
        """
        placed = prompt.on(window)
        corners = np.stack([placed.boxes[:, 0], placed.boxes[:, 1] - 1], axis=1)
        if not len(corners) and seen is None and not placed.positive.any():
            return Marks(torch.zeros(0, dtype=torch.int64))
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
        low_res = None if seen is None or n != 1 else torch.from_numpy(np.ascontiguousarray(seen))[None]
        return Marks(
            torch.zeros(n, dtype=torch.int64),
            points=self._placed(points, window).expand(n, -1, -1) if len(points) else None,
            signs=torch.from_numpy(positive.astype(np.float32)).expand(n, -1) if len(points) else None,
            boxes=self._placed(corners, window) if len(corners) else None,
            low_res=low_res,
        )

    def follow(self, mask: Array, window: Grid) -> Marks:
        """The mask's box with a margin; no query if the mask is empty."""
        found = bounds(mask[0])
        if found is None:
            return Marks(torch.zeros(0, dtype=torch.int64))
        corners = np.array([[(0, *found[0]), (0, *(face - 1 for face in found[1]))]], dtype=np.float64)
        boxes = self._placed(corners, window)
        height, width = view_size(*window.shape[1:], self.size)
        low = (boxes[:, 0] - self.margin).clamp(min=0)
        high = torch.minimum(boxes[:, 1] + self.margin, boxes.new_tensor([0, height - 1, width - 1]))
        return Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.stack([low, high], dim=1))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of any resolution that cover the view: to its size, the padding cut off, then to the slice's."""
        height, width = window.shape[1:]
        rows, columns = view_size(height, width, self.size)
        full = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0]))
        if full.shape[-2:] != (self.size, self.size):
            full = F.interpolate(full, (self.size, self.size), mode="bilinear", align_corners=False)
        own = full[..., :rows, :columns]
        return F.interpolate(own, (height, width), mode="bilinear", align_corners=False)[:, :, None].numpy()

    def _placed(self, places: Array, window: Grid) -> torch.Tensor:
        """[..., 3] (d, h, w) on a slice -> float32 on the view: scaled by each axis's own new over old size."""
        rows, columns = view_size(*window.shape[1:], self.size)
        scaled = places * np.array([0.0, rows / window.shape[1], columns / window.shape[2]])
        return torch.from_numpy(scaled.astype(np.float32))


def view_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(rows, columns) of a slice whose longest side becomes `size`."""
    scale = size * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(image: Array, size: int) -> Array:
    """uint8 [H, W] with the longest side `size`, bilinear and antialiased."""
    height, width = view_size(image.shape[0], image.shape[1], size)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def net_of(shapes: Shapes, config: Mapping[str, Any], *, candidates: Candidates = "best") -> SamNet:
    """SAM or MobileSAM, untrained, with the sizes that a checkpoint's keys have.

    Raises:
        WeightsError: they are neither's.
    """
    build = mobile_sam_of if mobile_sam.MARK in shapes else sam_of
    return build(shapes, config, candidates=candidates, enlarge=False)


def load(
    *,
    size: Literal["b", "l", "h", "mobile", "nano"] = "b",
    checkpoint: str | None = None,
    lift: Literal["slices", "propagate", "orthogonal", "chunks"] = "slices",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    candidates: Literal["best", "one", "three"] = "best",
    carry: bool = True,
    chunk: int = 5,
    stop: Literal["empty", "quality", "area"] = "area",
    margin: int = MARGIN_PX,
    level: float = 40.0,
    width: float = 400.0,
    shift: bool = False,
) -> Planes | Orthogonal:
    """SAM with its released weights, or with a checkpoint of the same format.

    Args:
        size: which of the released files; "nano" comes with Segwise, for tests and first tries: small, and trained on
            synthetic data.
        checkpoint: a file, or a folder with checkpoint.pth, in the published format of SAM or MobileSAM; its keys
            tell the size, config.json beside it what no key tells (decoder_num_heads, pixel_mean, pixel_std).
        lift: "slices" answers on every slice that a mark lies on; "propagate" goes on from the marked slices;
            "orthogonal" fuses the slices of three planes; "chunks" shows the encoder neighbouring slices at once, so
            that adapters made for volumes (ma-sam, med-sa) act along depth; without one it answers as "slices".
        plane: of the slices; not with lift=orthogonal.
        candidates: "best" one mask for a box or several marks, and the best by predicted IoU of three for a lone point;
            "one" mask always; "three" candidates always, to choose from.
        carry: give the logits of a round back as the mask prompt of the next one.
        chunk: with lift=chunks, slices of one; MA-SAM's are 5.
        stop: with lift=propagate, what ends a prompt that lies on one slice only.
        margin: with lift=propagate, pixels around a mask for the next slice's box, of a view of 1024 (of a smaller one
            in proportion).
        level, width: of the CT window, HU.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black.

    Raises:
        WeightsError: the weights are missing, damaged, or not SAM's; the message tells what to type.
    """
    file = opened("sam", CARD, checkpoint=checkpoint, variant=size)
    tensors = file.tensors
    network = net_of(file.shapes, file.config, candidates=candidates)
    biased(network, file.config.get("biases", ()))
    fill(network, tensors, what="SAM", unused=mobile_sam.UNUSED)
    frame = SamFrame(
        plane=plane,
        shift=shift,
        window_hu=(level - width / 2, level + width / 2),
        size=network.prompt_encoder.size[0],
        mean=tuple(file.config.get("pixel_mean", PIXEL_MEAN)),
        std=tuple(file.config.get("pixel_std", PIXEL_STD)),
        margin=margin_in(margin, network.prompt_encoder.size[0]),
        carries=carry,
        chunk=chunk if lift == "chunks" else 1,
    )
    parts = Parts(network, frame, None, file.digest)
    if lift == "orthogonal":
        return Orthogonal(parts)
    if lift == "chunks":
        return Chunks(parts, chunk=chunk, spread=False)
    return Propagate(parts, stop=stop) if lift == "propagate" else Slices(parts)


def published() -> list[flops.Published]:
    """The published sizes on the meta device: a slice through the encoder, a box through the decoder."""
    with torch.device("meta"):
        nets = {name: sam_sizes.sam(name, 1024, candidates="best", enlarge=False) for name in sam_sizes.SIZES}
        nets["mobile"] = mobile_sam.mobile_sam(candidates="best", enlarge=False)
        image, features = torch.empty(1, 3, 1, 1024, 1024), torch.empty(1, sam_sizes.WIDTH, 64, 64)
        box = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.zeros(1, 2, 3))
    return [
        flops.Published(
            label=f"size={name}",
            net=net.requires_grad_(False),
            stages={
                "encoder": functools.partial(net.encode, image),
                "decoder": functools.partial(net.decode, features, box),
            },
            per="slice",
            input="3×1024×1024, one box",
        )
        for name, net in nets.items()
    ]
