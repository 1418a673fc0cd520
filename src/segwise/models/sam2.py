"""SAM 2 and 2.1: generalists of photographs and films; on a volume the slices are the film.

Source: Ravi et al., SAM 2: Segment Anything in Images and Videos, arXiv 2408.00714, and the image and video predictors
of its authors (facebookresearch/sam2). SAM 2 knows 8-bit pictures only: CT and MR are windowed as MedSAM's authors do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from segwise.card import ModelCard, Variant, WeightFile
from segwise.lifts.grey import margin_in
from segwise.lifts.memory import Memory
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.lifts.sorted_memory import SortedMemory
from segwise.models._sam2 import Sam2Frame, measured, network
from segwise.nets import flops, sam2_sizes
from segwise.nets.sam2 import Candidates
from segwise.nets.sorted_sam2 import SortedSam2
from segwise.segmenter import Learned, Parts
from segwise.weights import opened

CARD = ModelCard(
    title="SAM 2",
    summary=(
        "Any object on slices or through a volume from points, a box or a mask; trained on photographs and films. Also "
        "one of our own that comes with Segwise (size=nano)."
    ),
    family="generalist",
    takes=("points", "box", "mask"),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    paper="https://arxiv.org/abs/2408.00714",
    code="https://github.com/facebookresearch/sam2",
    keys=(
        r"^image_encoder\.trunk\.pos_embed_window ",
        r"^sam_mask_decoder\.conv_s0\.weight ",
        r"^memory_attention\.layers\.0\.cross_attn_image\.",
    ),
    weights=(
        WeightFile(
            file="sam2.1_hiera_tiny.pt",
            n_bytes=156008466,
            sha256="7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_tiny.pt",
            signature="5a31f53548be1d302b6676cd6f9023a0673a98c87a7da656025d0ba4dbb85693",
            variant="tiny-2.1",
        ),
        WeightFile(
            file="sam2.1_hiera_small.pt",
            n_bytes=184416285,
            sha256="6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_small.pt",
            signature="30f7030432d1687ed663f3af622cffa176ea66b099af2a801c326ce4cd821a96",
            variant="small-2.1",
        ),
        WeightFile(
            file="sam2.1_hiera_base_plus.pt",
            n_bytes=323606802,
            sha256="a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_base_plus.pt",
            signature="cf1e236598a9fe861ef07265b59bda770809a8db7f5b0620a2ffe9ab38328a37",
            variant="base-plus-2.1",
        ),
        WeightFile(
            file="sam2.1_hiera_large.pt",
            n_bytes=898083611,
            sha256="2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_large.pt",
            signature="b38bb6c453cb2b40ecb2a6f62046638d9cf30e9124bef55eae47a37a4eb636eb",
            variant="large-2.1",
        ),
        WeightFile(
            file="sam2_hiera_tiny.pt",
            n_bytes=0,
            sha256="65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/072824/sam2_hiera_tiny.pt",
            signature="8f656ac26e870b4134e0bfc8eacb2b7a826fb920fef1f48f267a23843a6c563c",
            variant="tiny-2.0",
        ),
        WeightFile(
            file="sam2_hiera_small.pt",
            n_bytes=0,
            sha256="95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/072824/sam2_hiera_small.pt",
            signature="7e5f9d3d6099de9e86d65a46b45e0ecb0bef2bd827f286ecd48c2fe0737f6172",
            variant="small-2.0",
        ),
        WeightFile(
            file="sam2_hiera_base_plus.pt",
            n_bytes=0,
            sha256="d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/072824/sam2_hiera_base_plus.pt",
            signature="0da3ee56516065b3f67621df5a1bd5f6377263c845e2d963df211affefe31d70",
            variant="base-plus-2.0",
        ),
        WeightFile(
            file="sam2_hiera_large.pt",
            n_bytes=0,
            sha256="7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
            url="https://dl.fbaipublicfiles.com/segment_anything_2/072824/sam2_hiera_large.pt",
            signature="11c4512af4a0183a874baf5d0f9973105237f96f4f6376b55bcb53f17ec3bb91",
            variant="large-2.0",
        ),
        WeightFile(
            file="sam2_nano/sam2_nano.safetensors",
            n_bytes=3218564,
            sha256="fe0389777f92fe1c9d92f76c45cfe9b89c4c3b8c8970cb566d05fa8c5d1bf794",
            variant="nano",
            packaged=True,
        ),
    ),
    training_sets=("SA-1B", "SA-V"),
    training_note="beside SA-1B and SA-V films that its authors do not publish, none of them said to be medical",
    remarks={"size=nano": "nano, trained on synthetic data"},
    variants={
        "size=small": Variant(parameters_m=46.1),
        "size=base-plus": Variant(parameters_m=80.9),
        "size=large": Variant(parameters_m=224.4),
        "size=nano": Variant(
            summary="An object through a volume from points or a box; small, of our own, trained on synthetic data.",
            training_sets=("Segwise synth (generated)",),
            training_note=(
                "weights of Segwise (Apache-2.0), trained on synthetic data only, slices and clips of up to six slices "
                "of procedural worlds and bodies (10,500 steps, seed 0); made again by segwise train sam2-nano"
            ),
            training_listed=True,
            parameters_m=1.59,
            memory="0.6 GB with the program and a small scan",
            seconds_hint=3.0,
        ),
    },
    parameters_m=39.0,
    memory=(
        "size=tiny about 1.5 GB (large 3), 16 MB for each encoded slice, and with lift=memory 0.5 MB a target for each "
        "of the slices that can still be recalled"
    ),
    input=(
        "slices in LPS (rows to P, columns to L), grey as three equal channels, stretched to 1024 x 1024 (lift=memory: "
        "8-bit bicubic as the video predictor; other lifts: antialiased bilinear as the image predictor), ImageNet "
        "mean and deviation; CT window -160..240 HU (level=, width=), MR percentiles 0.5..99.5 of voxels > 0; quality "
        "is the predicted IoU, mean over slices. size=nano: stretched to 192 x 192"
    ),
    deviations=(
        "SAM 2's authors define no grey levels for CT and MR: the window and percentiles are MedSAM's",
        "candidates=best takes one mask for a box or several marks (where that is not stable, the best of three, as "
        "the authors' predictors do) and of the three for a lone point the one with the greatest predicted IoU, slice "
        "by slice; with lift=memory that is the video predictor's own rule",
        "lift=memory: a later round answers all prompted slices again, each with all its marks and the logits of the "
        "round before (carry=false: without); the original answers a slice that it has followed before by what it "
        "recalls, and does not remember a correction there as prompted",
        "lift=memory: each target starts at its own first prompted slice; the original starts all at the first of any",
        "lift=memory follows the whole volume as the original does, but the range of a thick box is kept; other stop "
        "rules are Segwise's",
        "holes of up to 8 pixels in the low-resolution mask are not filled: the original fills them only with its own "
        "CUDA extension and skips it with a warning without",
        "float32 throughout but for memories, kept in bfloat16 as in the original; its users often run all of it in "
        "bfloat16",
        "a slice with only negative points is not asked unless a round before answered on it",
        "lift=propagate and lift=orthogonal are Segwise's; lift=sorted-memory is Medical SAM 2's rule on weights that "
        "were not trained for it: memories without their place in time, and no object pointers",
    ),
    seconds_hint=120.0,
)

MARGIN_PX = 12  # LiteMedSAM's 3 of 256, of 1024


def load(
    *,
    size: Literal["tiny", "small", "base-plus", "large", "nano"] = "tiny",
    version: Literal["2.1", "2.0"] = "2.1",
    checkpoint: str | None = None,
    lift: Literal["memory", "slices", "propagate", "orthogonal", "sorted-memory"] = "memory",
    plane: Literal["axial", "coronal", "sagittal"] = "axial",
    candidates: Literal["best", "one", "three"] = "best",
    carry: bool = True,
    stop: Literal["end", "empty", "quality", "area"] = "end",
    fresh: bool = False,
    margin: int = MARGIN_PX,
    level: float = 40.0,
    width: float = 400.0,
    shift: bool = False,
) -> Learned:
    """SAM 2 with its released weights, or with a checkpoint of the same format.

    Args:
        size: which of the released files; "nano" comes with Segwise, for tests and first tries: small, and trained on
            synthetic data.
        version: 2.1, or the first release; nano is of 2.1.
        checkpoint: a file, or a folder with checkpoint.pth, in the published format; its keys tell the size,
            config.json beside it (the original's configuration of the model) what no key tells.
        lift: "memory" follows a target through the volume as the video predictor does; "slices" answers on every slice
            that a mark lies on, as the image predictor does; "propagate" goes on from the marked slices by boxes;
            "orthogonal" fuses the answers on slices of three planes; "sorted-memory" is Medical SAM 2's bank, of the
            four likest slices, on these weights.
        plane: of the slices; not with lift=orthogonal.
        candidates: "best" one mask a slice; "one" that of a clear prompt always; "three" candidates always, to choose
            from (not with the two memories, which are always "best").
        carry: give the logits of a round back as the mask prompt of the next one.
        stop: what ends a prompt without a thick box: with lift=memory the "end" of the volume; with lift=propagate
            "end" stands for "area".
        fresh: with lift=memory, forget the way up before the way down, as MedSAM2 does.
        margin: with lift=propagate, pixels around a mask for the next slice's box, of a view of 1024 (of a smaller one
            in proportion).
        level, width: of the CT window, HU.
        shift: shift z-scored MR by its minimum first; without it voxels <= 0 are black.

    Raises:
        WeightsError: the weights are missing, damaged, or not SAM 2's; the message tells what to type.
    """
    file = opened("sam2", CARD, checkpoint=checkpoint, variant=size if size == "nano" else f"{size}-{version}")
    video = lift == "memory"
    answers: Candidates = "best" if video or lift == "sorted-memory" else candidates
    net = network(file, what="SAM 2", side=sam2_sizes.SIDE, candidates=answers, video=video)
    frame = Sam2Frame(
        plane=plane,
        shift=shift,
        window_hu=(level - width / 2, level + width / 2),
        size=net.sam_prompt_encoder.size[0],
        resizing="video" if lift in ("memory", "sorted-memory") else "image",
        margin=margin_in(margin, net.sam_prompt_encoder.size[0]),
        carries=carry,
    )
    parts = Parts(net, frame, None, file.digest)
    if lift == "memory":
        return Memory(parts, stop=stop, fresh=fresh)
    if lift == "sorted-memory":
        return SortedMemory(replace(parts, net=SortedSam2(net, tuned=False)), carry=carry)
    if lift == "propagate":
        return Propagate(parts, stop="area" if stop == "end" else stop)
    return Orthogonal(parts) if lift == "orthogonal" else Slices(parts)


def published() -> list[flops.Published]:
    """The published sizes on the meta device: a slice, a box on it, and one slice that recalls seven and remembers."""
    with torch.device("meta"):
        nets = {name: sam2_sizes.published(name, video=True) for name in sam2_sizes.SIZES}
        return [measured(f"size={name}", net, sam2_sizes.SIDE) for name, net in nets.items()]
