"""CLIP-Driven Universal Model: 25 organs and 7 kinds of tumour and cyst on abdominal CT, by name.

Source: Liu et al., ICCV 2023 (arXiv 2301.00785); Liu et al., Med Image Anal 2024 (arXiv 2405.18356). Written from the
papers; the original code (CC BY-NC-ND 4.0) was not read.
"""

from __future__ import annotations

from typing import Literal

import torch

from segwise import weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import SpecError, WeightsError
from segwise.lifts.spoken import Spoken
from segwise.lifts.tiles import Tiling
from segwise.models._named import NamedFrame, listed
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.nets.swin_unetr import SwinFeatures, SwinSize
from segwise.nets.universal import UNUSED, UniversalNet, net_of, official
from segwise.segmenter import Parts

CARD = ModelCard(
    title="CLIP-Driven Universal Model",
    summary="25 organs and 7 kinds of tumour and cyst on abdominal CT, by name, each with a presence score.",
    family="generalist",
    takes=("text",),
    labels={
        "": (
            "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
            "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland",
            "left adrenal gland", "duodenum", "liver vessel", "right lung", "left lung", "colon", "bowel", "rectum",
            "urinary bladder", "prostate", "head of femur", "celiac trunk", "kidney tumor", "liver tumor",
            "pancreas tumor", "liver vessel tumor", "lung tumor", "colon tumor", "kidney cyst",
        )
    },
    modalities=("CT",),
    dims=3,
    licence_code="CC BY-NC-ND 4.0 (the original's; none of it is here)",
    licence_weights="CC BY-NC-ND 4.0",
    non_commercial=True,
    paper="https://arxiv.org/abs/2301.00785",
    code="https://github.com/ljwztc/CLIP-Driven-Universal-Model",
    weights=(WeightFile(file="universal/swinunetr.pth", n_bytes=0),),
    keys=(r"organ_embedding \d+x\d+$", r"swinViT\.patch_embed\.proj\."),
    training_sets=(
        "BTCV", "CHAOS", "Pancreas-CT", "CT-ORG", "WORD", "LiTS", "AMOS22", "KiTS", "AbdomenCT-1K", "MSD",
    ),
    training_note=(
        "the paper counts 3,410 CT volumes of 14 public sets; this list may lack some: treat any public abdominal CT "
        "as possibly seen"
    ),
    parameters_m=62.6,
    memory="about 3 GB for a window of 96^3, and 1 GB of sums for structures",
    input=(
        "CT, axes to R, A, S, 1.5 mm, -175..250 HU to 0..1, cut; windows of 96^3 overlapping by half, gaussian "
        "weights; presence is the greatest blended probability in the volume, not calibrated"
    ),
    deviations=(
        "NOT VERIFIED: no official output was at hand; the head is tested against its equations alone",
        "of the official file only the names of the backbone and of organ_embedding are known; the head's tensors are "
        "recognised by their shapes, and the weights of the generated layers are taken as (out, in)",
        "the deepest features are those after encoder10, which is assumed",
        "left and right head of femur are answered together: their order is not certain; a list \"classes\" in "
        "config.json beside the checkpoint names every channel and settles it",
        "probabilities are blended over the windows (blend=probabilities); blend=logits blends before the sigmoid",
        "post-processing is not done: the original splits the lungs, keeps largest parts, and keeps some tumours only "
        "inside their organ",
        "only the Swin UNETR backbone: files of U-Net, U-Net++ and DiNTS are refused",
        "the answer's log-odds are interpolated linearly to the file's voxels",
    ),
    seconds_hint=600.0,
)  # fmt: skip
PATCH = 96
OVERLAP = 0.5
SPACING_MM = 1.5
WINDOW_HU = (-175.0, 250.0)
FEMURS = 22  # and the next one
CLASSES = 32


def load(
    *,
    checkpoint: str | None = None,
    accept_non_commercial: bool = False,
    patch: int = PATCH,
    overlap: float = OVERLAP,
    blend: Literal["probabilities", "logits"] = "probabilities",
) -> Spoken:
    """CLIP-Driven Universal Model with a Swin UNETR.

    Args:
        checkpoint: an official file or a folder with checkpoint.pth; None for the released weights. A config.json
            beside it may name the channels: {"classes": ["spleen", …]}.
        accept_non_commercial: your use is non-commercial, as the licence of the weights wants.
        patch: side of a window in voxels of 1.5 mm, a multiple of 32.
        overlap: of the windows.
        blend: what is averaged over overlapping windows.

    Raises:
        SpecError: patch or overlap make no sense.
        WeightsError: the weights are missing, not accepted, damaged or of another model.
    """
    if not 0 <= overlap < 1:
        raise SpecError(f"universal: overlap is {overlap:g}, expected at least 0 and less than 1")
    if patch < 64 or patch % SwinFeatures.multiple:
        raise SpecError(f"universal: patch is {patch}, expected a multiple of 32 from 64 on")
    file = weights.opened("universal", CARD, checkpoint=checkpoint, accept_non_commercial=accept_non_commercial)
    try:
        tensors = official(file.tensors)
        net = net_of(tensors)
    except KeyError as error:
        raise WeightsError(
            f"{file.path.name} is not a file of {CARD.title} with a Swin UNETR: {error} is missing"
        ) from error
    weights.fill(net, tensors, what=CARD.title, unused=UNUSED)
    names = listed(file.config, len(net.organ_embedding), field="classes", beside=file.path.name) or _names()
    if max(max(channels) for channels in names.values()) >= len(net.organ_embedding):
        raise WeightsError(
            f"{file.path.name} knows {len(net.organ_embedding)} classes, the published model {CLASSES}; "
            'name them in a config.json beside it: {"classes": [...]}'
        )
    frame = NamedFrame(names, patch, SPACING_MM, WINDOW_HU)
    tiling = Tiling.monai((patch, patch, patch), overlap=overlap)
    return Spoken(Parts(net.eval(), frame, None, file.digest), tiling, blend=blend)


def _names() -> dict[str, tuple[int, ...]]:
    """The published classes: name -> channels."""
    found: dict[str, tuple[int, ...]] = {}
    at = 0
    for label in (CARD.labels or {})[""]:
        n = 2 if at == FEMURS else 1
        found[label] = tuple(range(at, at + n))
        at += n
    return found


def published() -> list[Published]:
    """The released size, on the meta device."""
    net = UniversalNet(SwinSize()).eval().to("meta")  # MONAI's class cannot be built there
    with torch.device("meta"):
        image = torch.empty(1, 1, PATCH, PATCH, PATCH)
        features = {"a": torch.empty(1, 256), "h": torch.empty(1, 8, PATCH, PATCH, PATCH)}
        one = torch.zeros(1, dtype=torch.int64)
    index = torch.zeros(1, dtype=torch.int64)
    stages = {
        "encoder": lambda: net.encode(image),
        "one structure": lambda: net.decode(features, Marks(index, tokens=net.words({"class": one}))),
    }
    return [Published(label="", net=net, stages=stages, per="patch", input="1×96×96×96, one structure")]
