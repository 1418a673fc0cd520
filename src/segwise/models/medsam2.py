"""MedSAM2: SAM 2.1 tuned on medical volumes and films; a box on a key slice in, the object in the volume out.

Source: Ma et al., MedSAM2: Segment Anything in 3D Medical Images and Videos, arXiv 2504.03600, and its authors' script
(bowang-lab/MedSAM2, `medsam2_infer_3D_CT.py`): forward from the key slice, all forgotten, backward, union.
"""

from __future__ import annotations

from typing import Literal

import torch

from segwise.card import ModelCard, WeightFile
from segwise.lifts.memory import Memory
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models._sam2 import Sam2Frame, measured, network
from segwise.nets import flops, sam2_sizes
from segwise.segmenter import Learned, Parts
from segwise.weights import opened

CARD = ModelCard(
    title="MedSAM2",
    summary="Any organ or lesion through a CT or MR volume from a box, points or a mask on one slice; a tuned SAM 2.1.",
    family="generalist",
    takes=("points", "box", "mask"),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="not stated in the repository; quoted of its page: CC BY-SA 4.0, research and education only",
    paper="https://arxiv.org/abs/2504.03600",
    code="https://github.com/bowang-lab/MedSAM2",
    keys=(
        r"^image_encoder\.trunk\.pos_embed_window ",
        r"^sam_mask_decoder\.conv_s0\.weight ",
        r"^obj_ptr_tpos_proj\.weight ",
        r"^memory_attention\.layers\.0\.cross_attn_image\.",
    ),
    weights=(
        WeightFile(
            file="MedSAM2_latest.pt",
            n_bytes=0,
            url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
            hub="wanglab/MedSAM2@main:MedSAM2_latest.pt",
            signature="5a31f53548be1d302b6676cd6f9023a0673a98c87a7da656025d0ba4dbb85693",
            variant="latest",
        ),
        WeightFile(
            file="MedSAM2_2411.pt",
            n_bytes=0,
            url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_2411.pt",
            hub="wanglab/MedSAM2@main:MedSAM2_2411.pt",
            signature="5a31f53548be1d302b6676cd6f9023a0673a98c87a7da656025d0ba4dbb85693",
            variant="2411",
        ),
        WeightFile(
            file="MedSAM2_CTLesion.pt",
            n_bytes=0,
            url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_CTLesion.pt",
            hub="wanglab/MedSAM2@main:MedSAM2_CTLesion.pt",
            signature="5a31f53548be1d302b6676cd6f9023a0673a98c87a7da656025d0ba4dbb85693",
            variant="ct-lesion",
        ),
        WeightFile(
            file="MedSAM2_MRI_LiverLesion.pt",
            n_bytes=0,
            url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_MRI_LiverLesion.pt",
            hub="wanglab/MedSAM2@main:MedSAM2_MRI_LiverLesion.pt",
            signature="5a31f53548be1d302b6676cd6f9023a0673a98c87a7da656025d0ba4dbb85693",
            variant="mri-liver-lesion",
        ),
    ),
    training_sets=("SA-1B", "SA-V"),
    training_note=(
        "tuned from SAM 2.1 tiny on more than 455,000 pairs of volume and mask and 76,000 frames, gathered from public "
        "sets whose list was not at hand here (arXiv 2504.03600): treat scores on public CT and MR sets as possibly "
        "seen"
    ),
    parameters_m=39.0,
    memory="about 1 GB, 4 MB for each encoded slice, and 0.13 MB a target for each slice that can be recalled",
    input=(
        "slices in LPS (rows to P, columns to L), grey as three equal channels, CT window -160..240 HU (level=, "
        "width=; the authors take the window of the DICOM file), scaled over the volume to 8 bit, stretched to "
        "512 x 512 (bicubic), ImageNet mean and deviation; MR percentiles 0.5..99.5 of voxels > 0; quality is the "
        "predicted IoU, mean over slices"
    ),
    deviations=(
        "several prompted slices, points, masks and later rounds are SAM 2's video predictor's; the authors' script "
        "knows one box on one slice",
        "a box has inclusive corners in whole pixels, as the authors' script has them",
        "the authors run all of it in bfloat16 on CUDA; here float32 but for memories, kept in bfloat16",
        "holes of up to 8 pixels in the low-resolution mask are not filled: the original fills them only with its own "
        "CUDA extension and skips it with a warning without",
        "largest=true keeps the largest component of each answer, as the script does (it takes that of all its lesions "
        "together)",
        "the range of a thick box is kept; the original always goes to both ends of the volume",
        "lift=slices, propagate and orthogonal are Segwise's",
    ),
    seconds_hint=60.0,
)

SIDE = 512
MARGIN_PX = 6  # LiteMedSAM's 3 of 256


def load(
    *,
    variant: Literal["latest", "2411", "ct-lesion", "mri-liver-lesion"] = "latest",
    checkpoint: str | None = None,
    lift: Literal["memory", "slices", "propagate", "orthogonal"] = "memory",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    carry: bool = True,
    stop: Literal["end", "empty", "quality", "area"] = "end",
    fresh: bool = True,
    largest: bool = True,
    margin: int = MARGIN_PX,
    level: float = 40.0,
    width: float = 400.0,
    shift: bool = False,
) -> Learned:
    """MedSAM2 with its released weights, or with a checkpoint of the same format.

    Args:
        variant: which of the released files.
        checkpoint: a file, or a folder with checkpoint.pth, in the published format; its keys tell the size,
            config.json beside it (the original's configuration of the model) what no key tells.
        lift: "memory" follows a target through the volume; "slices" answers on every slice that a mark lies on;
            "propagate" goes on from the marked slices by boxes; "orthogonal" fuses slices of three planes.
        plane: of the slices; not with lift=orthogonal.
        carry: give the logits of a round back as the mask prompt of the next one.
        stop: what ends a prompt without a thick box: with lift=memory the "end" of the volume; with lift=propagate
            "end" stands for "area".
        fresh: with lift=memory, forget the way up before the way down.
        largest: with lift=memory, keep the largest component of the answer only.
        margin: with lift=propagate, pixels of the view around a mask for the next slice's box.
        level, width: of the CT window, HU.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black.

    Raises:
        WeightsError: the weights are missing, damaged, or not MedSAM2's; the message tells what to type.
    """
    file = opened("medsam2", CARD, checkpoint=checkpoint, variant=variant)
    net = network(file, what="MedSAM2", side=SIDE, video=lift == "memory")
    frame = Sam2Frame(
        plane=plane,
        shift=shift,
        window_hu=(level - width / 2, level + width / 2),
        size=net.sam_prompt_encoder.size[0],
        resizing="volume",
        margin=margin,
        carries=carry,
    )
    parts = Parts(net, frame, None, file.digest)
    if lift == "memory":
        return Memory(parts, stop=stop, fresh=fresh, largest=largest)
    if lift == "propagate":
        return Propagate(parts, stop="area" if stop == "end" else stop)
    return Orthogonal(parts) if lift == "orthogonal" else Slices(parts)


def published() -> list[flops.Published]:
    """SAM 2.1 tiny at 512, on the meta device."""
    with torch.device("meta"):
        return [measured("", sam2_sizes.published("tiny", SIDE, video=True), SIDE)]
