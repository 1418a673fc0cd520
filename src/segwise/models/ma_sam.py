"""MA-SAM: SAM adapted to stacks of five slices that names twelve abdominal organs on CT, without any prompt.

Source: Chen et al., MA-SAM, Med Image Anal 2024 (arXiv 2309.08842), and the test script of its authors
(cchen-cc/MA-SAM, `test.py`, `preprocessing/util_script_btcv.py`).
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
from segwise.nets import closed_sam, fact, flops, sam_sizes
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree
from segwise.weights import fill, together

CARD = ModelCard(
    title="MA-SAM",
    summary="Names twelve abdominal organs on CT from stacks of five slices: SAM with adapters, without a prompt.",
    family="specialist",
    takes=("text",),
    labels={
        "": (
            "spleen",
            "right kidney",
            "left kidney",
            "gallbladder",
            "esophagus",
            "liver",
            "stomach",
            "aorta",
            "inferior vena cava",
            "portal vein and splenic vein",
            "pancreas",
            "adrenal gland",
        ),
    },
    modalities=("CT",),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2309.08842",
    code="https://github.com/cchen-cc/MA-SAM (0c3cd90)",
    keys=(
        r"^q_FacTs_\d+ ",
        r"^image_encoder\.FacTu",
    ),
    weights=(
        WeightFile(
            file="ma_sam/epoch_399.pth",
            n_bytes=0,
            signature="747e103b758624582ca2f630a81bd2c06277d612faca5477b8f56fa4265d0363",
        ),
        WeightFile(
            file="sam_vit_h_4b8939.pth",
            n_bytes=2564550879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        ),
    ),
    training_sets=("BTCV", "SA-1B"),
    training_note=(
        "24 of the 30 public CT of BTCV; its test cases are 35 to 40. SAM's frozen encoder saw 11 million photographs "
        "(SA-1B). Of its models (BTCV, prostate MR, EndoVis 2018, MSD pancreas tumor) its authors hand out the BTCV "
        "one only, through a file-sharing page without size or digest; the file's name here is ours"
    ),
    parameters_m=729.9,
    memory="about 6 GB: five slices at a time go through vit_h",
    input=(
        "axial slices with two neighbours on both sides (the first and last slice repeated), CT clipped to -200..250 "
        "HU, scaled to 0..255, minus 50.22, over 68.47, then each stack to 0..1 by its own minimum and maximum, "
        "resized by cubic splines to 512 x 512, three equal channels. Each slice is seen in five stacks: mean softmax, "
        "resized by cubic splines, then the greatest"
    ),
    deviations=(
        "its mean divides by one more than the number of stacks, which makes scores smaller and no other class the "
        "greatest; kept",
        "the score of an answer is a difference of mean probabilities, not of logits; its sign is the original's label",
        "stretch=false leaves out the scaling of each stack by its own minimum and maximum",
        "slices are shown with rows to P and columns to L, as its authors turn files whose axes run to R, A and S "
        "(axes=)",
        "a released SAM is brought from 1024 to 512 pixels as its authors do: positions interpolated bilinearly",
        "both adrenal glands are one class, as in its test script; weights with another number of classes need "
        'labels="name; name; …"',
    ),
    seconds_hint=4000.0,
)

LOW_HU, HIGH_HU = -200.0, 250.0
MEAN, STD = 50.21997497685108, 68.47153712416372  # of BTCV's voxels, clipped and scaled to 0..255
SIZE, SLICES = 512, 5
_EPS = 1e-8
_CODE = "ma-sam-1"


@dataclass(frozen=True)
class MaSamFrame(StackFrame):
    """The official preprocessing.

    Attributes:
        stretch: each stack to 0..1 by its own minimum and maximum.
    """

    slices: int = SLICES
    stretch: bool = True

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = (_CODE, self.size, self.axes, self.slices, self.stretch, scipy.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def scaled(self, values: Array) -> Array:
        """CT by the training set's mean and deviation."""
        grey = (np.clip(values, LOW_HU, HIGH_HU) - LOW_HU) / (HIGH_HU - LOW_HU) * 255.0
        return np.asarray((grey - MEAN) / STD, dtype=np.float32)

    def shown(self, stack: Array) -> Array:
        """The stack between 0 and 1, resized by cubic splines."""
        if self.stretch:
            low, high = stack.min(), stack.max()
            stack = (stack - low) / (high - low + np.float32(_EPS))
        return np.stack([zoomed(image, (self.size, self.size)) for image in stack]).astype(np.float32)

    def scores(self, logits: Array, window: Grid) -> Array:
        """Softmax over the classes, resized by cubic splines."""
        size = (window.shape[1], window.shape[2])
        shares = torch.from_numpy(logits).softmax(dim=0).numpy()
        if shares.shape[-2:] == size:
            return shares
        return np.stack([np.stack([zoomed(image, size) for image in stack]) for stack in shares])

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> tuple[str, ...]:
        """The labels that the prompt's last text means. Errors as `_adapted.asked`."""
        return asked(prompt, self.labels)


def zoomed(image: Array, size: tuple[int, int]) -> Array:
    """float [H, W] resized by cubic splines, corner pixels on corner pixels."""
    if image.shape == size:
        return image
    return np.asarray(ndimage.zoom(image, (size[0] / image.shape[0], size[1] / image.shape[1]), order=3))


def load(
    *,
    checkpoint: str | None = None,
    base: str | None = None,
    labels: str = "",
    axes: str = "SPL",
    stretch: bool = True,
) -> Stacks:
    """MA-SAM with its released weights, or with a file of the same format.

    Args:
        checkpoint: a file, or a folder with checkpoint.pth, as its authors save it: factors, adapters, prompt encoder
            and mask decoder. Its keys tell rank, adapters and classes, config.json beside it what no key tells
            (img_size, n_slices, scale, decoder_num_heads, pixel_mean, pixel_std).
        base: the frozen SAM: a file; None for base_sam.pth beside the checkpoint, else SAM's released vit_h.
        labels: names of the classes by ";", in their order, where they are not the twelve published ones.
        axes: where slices, rows and columns point, as "SPL".
        stretch: scale each stack by its own minimum and maximum, as its authors do.

    Raises:
        WeightsError: weights are missing, damaged or not MA-SAM's; the message tells what to type.
        SpecError: the weights answer another number of classes than there are names, or axes= are none.
    """
    own, frozen = two_files("ma-sam", CARD, checkpoint=checkpoint, base=base)
    tensors, encoder = own.tensors, fitted(frozen.tensors, own.config, size=SIZE)
    net = closed_sam.net_of({key: tuple(v.shape) for key, v in {**encoder, **tensors}.items()}, own.config)
    slices = int(own.config.get("n_slices", SLICES))
    fact.adapted(
        net.image_encoder,
        rank=fact.rank_of(own.shapes),
        scale=float(own.config.get("scale", 1.0)),
        hidden=fact.hidden_of(own.shapes),
        slices=slices,
    )
    fill(net, fact.named(encoder, tensors), what="MA-SAM")
    listed = names("ma-sam", labels, (CARD.labels or {})[""], net.mask_decoder.mask_tokens.num_embeddings - 1)
    frame = MaSamFrame(listed, size=net.prompt_encoder.size[0], axes=turned(axes), slices=slices, stretch=stretch)
    return Stacks(Parts(net.eval(), frame, listed, together(own, frozen)), count_from=1)


def published() -> list[flops.Published]:
    """The released size, for counting its work."""
    with torch.device("meta"):
        sam = sam_sizes.sam("h", SIZE, masks=13)
        closed_sam.finer(sam.mask_decoder, closed_sam.FINER, masks=13)
        net = closed_sam.ClosedSam(sam_sizes.encoder("h", SIZE), sam.prompt_encoder, sam.mask_decoder)
        fact.adapted(net.image_encoder, rank=32)
        net.requires_grad_(False)  # the counter wants no gradients
        image, embedding = torch.zeros(1, 3, SLICES, SIZE, SIZE), torch.zeros(SLICES, 256, 32, 32)
    stages = {"encoder": lambda: net.embed(image), "decoder": lambda: net.classes(embedding)}
    return [flops.Published(label="", net=net, stages=stages, per="stack of 5 slices", input="5×3×512×512")]
