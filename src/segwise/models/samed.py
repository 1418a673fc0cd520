"""SAMed: SAM with low-rank changes that names eight abdominal organs on CT, without any prompt.

Source: Zhang and Liu, SAMed (arXiv 2304.13785), and the test script of its authors (hitachinsk/SAMed, `utils.py`,
`preprocess/preprocess_data.py`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from scipy import ndimage

from segwise.card import ModelCard, WeightFile
from segwise.geometry import Array, Grid
from segwise.lifts.stacks import StackFrame, Stacks
from segwise.models._adapted import asked, fitted, names, turned, two_files
from segwise.nets import closed_sam, flops, lora, sam_sizes
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, together

CARD = ModelCard(
    title="SAMed",
    summary="Names eight abdominal organs on CT slices: SAM with low-rank changes, without a prompt.",
    family="specialist",
    takes=("text",),
    labels={
        "": ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"),
    },
    modalities=("CT",),
    dims=2,
    licence_code="MIT",
    licence_weights="MIT (SAM's encoder: Apache-2.0)",
    paper="https://arxiv.org/abs/2304.13785",
    code="https://github.com/hitachinsk/SAMed (e351840)",
    keys=(
        r"^w_a_\d+ ",
        r"^w_b_\d+ ",
    ),
    weights=(
        WeightFile(
            file="samed/epoch_159.pth",
            n_bytes=0,
            signature="91587dfb6adc97d77662299189b781877879adcb976e47abc3eb0fba8544ad3f",
        ),
        WeightFile(
            file="sam_vit_b_01ec64.pth",
            n_bytes=375042383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        ),
    ),
    training_sets=("BTCV", "SA-1B"),
    training_note=(
        '18 of the 30 public CT of BTCV ("Synapse"); its test cases are 1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36 and 38. '
        "SAM's frozen encoder saw 11 million photographs (SA-1B). The official file is handed out through a "
        "file-sharing page without size or digest"
    ),
    parameters_m=92.2,
    memory="about 1.5 GB",
    input=(
        "axial slices, CT clipped to -125..275 HU and scaled to 0..1, resized by cubic splines to 224 x 224, then to "
        "512 x 512, three equal channels; the class map is resized back to the nearest pixel"
    ),
    deviations=(
        "the authors take rows and columns as their files store them (rows along the file's second axis, columns along "
        "its first); axes= says where they point, SAR as in files whose axes run to R, A and S. It was trained with "
        "flips and quarter turns",
        "the original resizes the map of classes, this one the logits the same way: the label of each voxel is equal",
        "a released SAM is brought from 1024 to 512 pixels as its authors do: positions interpolated bilinearly",
        'weights with another number of classes need labels="name; name; …"',
    ),
    seconds_hint=200.0,
)

LOW_HU, HIGH_HU = -125.0, 275.0
SIZE, INPUT = 512, 224
_CODE = "samed-1"


@dataclass(frozen=True)
class SamedFrame(StackFrame):
    """The official preprocessing.

    Attributes:
        between: (rows, columns) that a slice is resized to first.
    """

    axes: str = "SAR"
    between: tuple[int, int] = (INPUT, INPUT)

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.size, self.axes, self.between, scipy.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def scaled(self, values: Array) -> Array:
        """CT to 0..1."""
        return np.asarray((np.clip(values, LOW_HU, HIGH_HU) - LOW_HU) / (HIGH_HU - LOW_HU), dtype=np.float32)

    def shown(self, stack: Array) -> Array:
        """Two resizes by cubic splines, each left out where the size is right."""
        size = (self.size, self.size)
        return np.stack([zoomed(zoomed(image, self.between), size) for image in stack]).astype(np.float32)

    def scores(self, logits: Array, window: Grid) -> Array:
        """The logits of the nearest pixel, as scipy's zoom of order 0 finds it."""
        rows, columns = (nearest(self.size, n) for n in window.shape[1:])
        return np.ascontiguousarray(logits[..., rows, :][..., columns])

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> tuple[str, ...]:
        """The labels that the prompt's last text means. Errors as `_adapted.asked`."""
        return asked(prompt, self.labels)


def zoomed(image: Array, size: tuple[int, int]) -> Array:
    """float [H, W] resized by cubic splines, corner pixels on corner pixels."""
    if image.shape == size:
        return image
    return np.asarray(ndimage.zoom(image, (size[0] / image.shape[0], size[1] / image.shape[1]), order=3))


def nearest(old: int, new: int) -> Array:
    """int [new]: which of `old` pixels of an axis each of `new` ones repeats, corner on corner."""
    return np.asarray(ndimage.zoom(np.arange(old), new / old, order=0)) if old != new else np.arange(old)


def load(
    *,
    checkpoint: str | None = None,
    base: str | None = None,
    labels: str = "",
    axes: str = "SAR",
) -> Stacks:
    """SAMed with its released weights, or with a file of the same format.

    Args:
        checkpoint: a file, or a folder with checkpoint.pth, as its authors save it: the low-rank changes, prompt
            encoder and mask decoder. Its keys tell the rank and the classes, config.json beside it what no key tells
            (img_size, input_size, decoder_num_heads, pixel_mean, pixel_std).
        base: the frozen SAM: a file; None for base_sam.pth beside the checkpoint, else SAM's released vit_b.
        labels: names of the classes by ";", in their order, where they are not the eight published ones.
        axes: where slices, rows and columns point, as "SAR".

    Raises:
        WeightsError: weights are missing, damaged or not SAMed's; the message tells what to type.
        SpecError: the weights answer another number of classes than there are names, or axes= are none.
    """
    own, frozen = two_files("samed", CARD, checkpoint=checkpoint, base=base)
    tensors, encoder = own.tensors, fitted(frozen.tensors, own.config, size=SIZE)
    net = closed_sam.net_of({key: tuple(v.shape) for key, v in {**encoder, **tensors}.items()}, own.config)
    lora.adapted(net.image_encoder, rank=lora.rank_of(own.shapes))
    fill(net, lora.named(encoder, tensors), what="SAMed")
    listed = names("samed", labels, (CARD.labels or {})[""], net.mask_decoder.mask_tokens.num_embeddings - 1)
    high, wide = np.broadcast_to(own.config.get("input_size", INPUT), 2)
    frame = SamedFrame(listed, size=net.prompt_encoder.size[0], axes=turned(axes), between=(int(high), int(wide)))
    return Stacks(Parts(net.eval(), frame, listed, together(own, frozen)))


def published() -> list[flops.Published]:
    """The released size, for counting its work."""
    with torch.device("meta"):
        sam = sam_sizes.sam("b", SIZE, masks=9)
        net = closed_sam.ClosedSam(sam_sizes.encoder("b", SIZE), sam.prompt_encoder, sam.mask_decoder)
        lora.adapted(net.image_encoder, rank=4)
        net.requires_grad_(False)  # the counter wants no gradients
        image, embedding = torch.zeros(1, 3, 1, SIZE, SIZE), torch.zeros(1, 256, 32, 32)
    stages = {"encoder": lambda: net.embed(image), "decoder": lambda: net.classes(embedding)}
    return [flops.Published(label="", net=net, stages=stages, per="slice", input="3×512×512")]
