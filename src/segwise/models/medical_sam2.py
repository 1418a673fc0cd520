"""Medical SAM 2: slices or unordered images with one prompt, through a memory bank that sorts itself.

Source: Zhu et al., Medical SAM 2: Segment Medical Images as Video via Segment Anything Model 2, arXiv 2408.00874, and
its authors' code (SuperMedIntel/Medical-SAM2): its 2D validation loop, and for lift=memory its 3D one.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image
from torch.nn import functional as F

from segwise.card import ModelCard, WeightFile
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.memory import Memory
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.lifts.sorted_memory import SortedMemory
from segwise.models._sam2 import Sam2Frame, measured, network
from segwise.nets import flops, sam2_sizes
from segwise.nets.contract import Marks
from segwise.nets.sorted_sam2 import SortedSam2
from segwise.segmenter import Learned, Parts, Tree
from segwise.weights import opened

CARD = ModelCard(
    title="Medical SAM 2",
    summary="An object through a volume, or in a set of images, from one prompt: a bank keeps the most telling slices.",
    family="generalist",
    takes=("points", "box", "mask"),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="not stated; the repository that names them is Apache-2.0",
    paper="https://arxiv.org/abs/2408.00874",
    code="https://github.com/SuperMedIntel/Medical-SAM2",
    keys=(
        r"^image_encoder\.trunk\.pos_embed_window ",
        r"^sam_mask_decoder\.conv_s0\.weight ",
        r"^memory_attention\.layers\.0\.cross_attn_image\.",
        r"!^obj_ptr_tpos_proj\.weight ",
    ),
    weights=(
        WeightFile(
            file="MedSAM2_pretrain.pth",
            n_bytes=0,
            url="https://huggingface.co/jiayuanz3/MedSAM2_pretrain/resolve/main/MedSAM2_pretrain.pth",
            hub="jiayuanz3/MedSAM2_pretrain@main:MedSAM2_pretrain.pth",
        ),
    ),
    training_sets=(),
    training_note=(
        "the published file is tuned from SAM 2 (SA-1B, SA-V) for 3D images, says an author; no list of its data sets"
        " stands beside it, so zero-shot is unknown"
    ),
    parameters_m=46.0,
    memory=(
        "about 1.1 GB, 16 MB for each encoded slice, and with lift=sorted-memory 4.7 MB a target for each entry of the "
        "bank (75 MB; half of it between rounds)"
    ),
    input=(
        "slices in LPS (rows to P, columns to L), grey as three equal channels, CT window -160..240 HU (level=, "
        "width=), MR percentiles 0.5..99.5 of voxels > 0, to 8 bit, stretched to 1024 x 1024 (bilinear) and to 0..1, "
        "no mean nor deviation; lift=memory: bicubic, ImageNet mean and deviation, as its 3D loop has it; quality is "
        "the predicted IoU, mean over slices"
    ),
    deviations=(
        "the original draws memories at random, in validation too, from a softmax of cosine similarity without "
        "temperature (nearly even); here draw=top-k, the default, recalls the likest and draw=seeded draws as the "
        "original with the seed of the ask",
        "the original recalls as many memories as a batch has images, so one alone with batches of one; recalled= says "
        "how many, 4 unless told (its published command has batches of four)",
        "aligned=false, the default, keeps the original's comparison of images, which lists one map by place and then "
        "channel and the other by channel and then place; aligned=true compares like places",
        "the bank's limit is checked before a whole batch is taken, as in the original: with batch=3 it ends at 18; it "
        "is an argument, bank=16",
        "of the pair that an entry is compared with, the nearest neighbour of the least like one is replaced, as in "
        "the original's code",
        "threshold=0.5 on the logit is the evaluation's of the original (a probability of 0.62); threshold=0 is that "
        "of SAM 2",
        "a slice's answer is enlarged by nearest neighbours, as the original's evaluation does; smooth=true: bilinear",
        "in the original every image has a click from its reference, used on each fifth step of a batch; here only "
        "what the user marks prompts a slice. every=5 takes the marks of each fifth step only and repeats a thick box"
        " there",
        "the order begins at the first prompted slice and takes those before it last, as an empty bank would tell a "
        "slice without marks nothing; order=outward goes from the prompted slices outward",
        "a later round goes on with the bank of the round before; the original knows no rounds",
        "float32 but for the memories, which are kept in bfloat16 as in the original; that ran all of it in bfloat16,"
        " so choices of its bank near a tie can differ",
        "the original defines no grey levels for CT and MR in 2D: the window and percentiles are MedSAM's",
        "lift=memory is its 3D mode, SAM 2.0's video predictor without a self-sorting bank, written from its "
        "description and not compared with stored outputs; every=2 takes prompts on each second slice as its loop "
        "does. That loop tells the net by an empty mask where the reference has no object on a prompted slice; here "
        "no reference is looked at. It ran in bfloat16",
        "lift=slices, propagate and orthogonal are Segwise's",
    ),
    seconds_hint=150.0,
)

MARGIN_PX = 12  # LiteMedSAM's 3 of 256, of 1024
_CODE = "medical-sam2-1"
_RECALLED = 4  # memories, unless told
_NEWER = ("no_obj_embed_spatial", "obj_ptr_tpos_proj")  # of SAM 2.1


@dataclass(frozen=True)
class MedicalFrame(Sam2Frame):
    """Medical SAM 2's preprocessing in 2D: a slice stretched to a square, in 0..1.

    Attributes:
        threshold: of the logit, above which a voxel is foreground; it becomes 0 on the slice.
        smooth: answers are enlarged bilinearly, else by nearest neighbours.
    """

    threshold: float = 0.5
    smooth: bool = False

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.plane, self.shift, self.window_hu, self.size, PIL.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, 1, size, size] in 0..1; grey as three equal channels."""
        image = regrid(prepared.array, prepared.grid, window, order=1, outside=0)[:, 0]  # [1 or 3, H, W]
        side = (self.size, self.size)
        resized = [Image.fromarray(channel).resize(side, Image.Resampling.BILINEAR) for channel in image]
        shown = np.stack([np.asarray(channel) for channel in resized]).astype(np.float32) / 255
        return np.ascontiguousarray(np.broadcast_to(shown, (3, *side))[:, None])

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of any resolution that cover the view, enlarged to the slice; the threshold is 0 there."""
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0]))
        if self.smooth:
            full = F.interpolate(own, window.shape[1:], mode="bilinear", align_corners=False)
        else:
            full = F.interpolate(own, window.shape[1:], mode="nearest")
        return (full - self.threshold)[:, :, None].numpy()


def load(
    *,
    checkpoint: str | None = None,
    lift: Literal["sorted-memory", "memory", "slices", "propagate", "orthogonal"] = "sorted-memory",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    bank: int = 16,
    recalled: int = _RECALLED,
    draw: Literal["top-k", "seeded"] = "top-k",
    order: Literal["file", "outward"] = "file",
    every: int = 0,
    batch: int = 1,
    aligned: bool = False,
    threshold: float = 0.5,
    smooth: bool = False,
    carry: bool = True,
    stop: Literal["end", "empty", "quality", "area"] = "end",
    margin: int = MARGIN_PX,
    level: float = 40.0,
    width: float = 400.0,
    shift: bool = False,
) -> Learned:
    """Medical SAM 2 with its released weights, or with a checkpoint of SAM 2.0's format.

    Args:
        checkpoint: a file, or a folder with checkpoint.pth, in the published format; its keys tell the size,
            config.json beside it (the original's configuration of the model) what no key tells.
        lift: "sorted-memory" takes slices in any order and recalls from a bank that sorts itself, its 2D mode; "memory"
            follows a target from slice to slice, its 3D mode; "slices" answers on every slice that a mark lies on;
            "propagate" goes on from the marked slices by boxes; "orthogonal" fuses slices of three planes.
        plane: of the slices; not with lift=orthogonal.
        bank: with lift=sorted-memory, entries from which on new ones must replace old ones.
        recalled: with lift=sorted-memory, memories that a slice recalls.
        draw: with lift=sorted-memory, "top-k" recalls the likest ones, "seeded" draws as the original does.
        order: with lift=sorted-memory, "file" goes up from the first prompted slice and then takes those before it,
            "outward" takes the prompted slices and then ever more distant ones.
        every: 0: each mark prompts its slice and a thick box its middle one; n: a thick box prompts all of its slices,
            and of all prompted slices only those of each n-th step (lift=memory: each n-th one) count. The original:
            5 in 2D, 2 in 3D.
        batch: with lift=sorted-memory, slices a step.
        aligned: with lift=sorted-memory, compare images place by place; the original does not.
        threshold: of the logit for foreground; not with lift=memory.
        smooth: enlarge answers bilinearly; not with lift=memory, which always does.
        carry: with lift=sorted-memory, a later round goes on with the bank; else the logits of a round are the mask
            prompt of the next one.
        stop: what ends a prompt without a thick box: with lift=memory the "end" of the volume; with lift=propagate
            "end" stands for "area".
        margin: with lift=propagate, pixels of the view around a mask for the next slice's box.
        level, width: of the CT window, HU.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black.

    Raises:
        SpecError: an argument is out of range.
        WeightsError: the weights are missing, damaged, or not Medical SAM 2's; the message tells what to type.
    """
    file = opened("medical-sam2", CARD, checkpoint=checkpoint)
    video = lift == "memory"
    sam2 = network(file, what="Medical SAM 2", side=sam2_sizes.SIDE, candidates="best" if video else "one", video=video)
    size, window_hu = sam2.sam_prompt_encoder.size[0], (level - width / 2, level + width / 2)
    if video:
        film = Sam2Frame(plane=plane, shift=shift, window_hu=window_hu, size=size, carries=carry)
        return Memory(Parts(sam2, film, None, file.digest), stop=stop, every=every)
    frame = MedicalFrame(
        plane=plane,
        shift=shift,
        window_hu=window_hu,
        size=size,
        margin=margin,
        carries=carry and lift != "sorted-memory",
        threshold=threshold,
        smooth=smooth,
    )
    parts = Parts(SortedSam2(sam2, aligned=aligned), frame, None, file.digest)
    if lift == "sorted-memory":
        return SortedMemory(
            parts, bank=bank, recalled=recalled, draw=draw, order=order, every=every, batch=batch, carry=carry
        )
    if lift == "propagate":
        return Propagate(parts, stop="area" if stop == "end" else stop)
    return Orthogonal(parts) if lift == "orthogonal" else Slices(parts)


def published() -> list[flops.Published]:
    """Nets of SAM 2.0 on the meta device: a slice, a click on it, and a slice that recalls and remembers."""
    with torch.device("meta"):
        return [_measured(size) for size in ("small", "tiny")]


def _measured(size: str) -> flops.Published:
    """A click, not a box, and what the bank adds; the rest is counted as for SAM 2."""
    newer = sam2_sizes.published(size, candidates="one")
    shapes = {key: tuple(value.shape) for key, value in newer.state_dict().items() if not key.startswith(_NEWER)}
    base = measured(f"size={size}", sam2_sizes.sam2_of(shapes, {}, candidates="one"), sam2_sizes.SIDE)
    net = SortedSam2(base.net)  # type: ignore[arg-type]
    side, h = sam2_sizes.SIDE, sam2_sizes.SIDE // sam2_sizes.STRIDE
    width = sam2_sizes.WIDTH
    features = {
        "map": torch.empty(1, width, h, h),
        "eighth": torch.empty(1, width // 4, 2 * h, 2 * h),
        "quarter": torch.empty(1, width // 8, 4 * h, 4 * h),
    }
    click = Marks(torch.zeros(1, dtype=torch.int64), points=torch.zeros(1, 1, 3), signs=torch.ones(1, 1))
    stages: dict[str, Callable[[], Any]] = {
        "encoder": base.stages["encoder"],
        "decoder": functools.partial(net.decode, features, click),
        "memory": functools.partial(_recalled, net, features),
    }
    told = f"3×{side}×{side}, one click; memory: compare with 16 slices, recall {_RECALLED}, decode, remember"
    return flops.Published(label=base.label, net=net, stages=stages, per="slice", input=told)


def _recalled(net: SortedSam2, features: Tree) -> Tree:
    """One slice without marks before a full bank."""
    with torch.device("meta"):
        kept = {
            "map": torch.empty(1, sam2_sizes.KEYS, *features["map"].shape[2:], dtype=torch.bfloat16),
            "image": torch.empty(1, features["map"].numel()),
        }
        net.likeness(features, [kept] * 16)
        net.closeness([kept] * 17)
        seen = net.recall(features, [kept] * _RECALLED, [1] * _RECALLED, prompted=[False] * _RECALLED, n_slices=99)
        decoded = net.decode(seen, Marks(torch.zeros(1, dtype=torch.int64)))
        return net.remember(seen, decoded, prompted=False)
