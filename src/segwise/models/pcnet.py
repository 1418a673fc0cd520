"""PCNet: the 104 structures of TotalSegmentator on CT by name, and groups of them as categories of their own.

Source: Chen et al., PCNet: Prior Category Network for CT Universal Segmentation Model, IEEE TMI 2024. Written from the
paper; the original code has no licence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segwise import weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import SpecError, WeightsError
from segwise.lifts.spoken import Spoken
from segwise.lifts.tiles import Tiling
from segwise.models._named import NamedFrame, listed
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.nets.pcnet import PCNet, net_of, official
from segwise.nets.swin_unetr import SwinFeatures, SwinSize
from segwise.segmenter import Parts
from segwise.weights.checkpoint import Checkpoint

# fmt: off
CARD = ModelCard(
    title="PCNet",
    summary="The 104 structures of TotalSegmentator on CT, by name, each with a presence score; and groups of them.",
    family="generalist",
    takes=("text",),
    labels={
        "": (
            "spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "inferior vena cava",
            "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
            "left lung upper lobe", "left lung lower lobe", "right lung upper lobe", "right lung middle lobe",
            "right lung lower lobe", "vertebra L5", "vertebra L4", "vertebra L3", "vertebra L2", "vertebra L1",
            "vertebra T12", "vertebra T11", "vertebra T10", "vertebra T9", "vertebra T8", "vertebra T7",
            "vertebra T6", "vertebra T5", "vertebra T4", "vertebra T3", "vertebra T2", "vertebra T1", "vertebra C7",
            "vertebra C6", "vertebra C5", "vertebra C4", "vertebra C3", "vertebra C2", "vertebra C1", "esophagus",
            "trachea", "myocardium", "left atrium", "left ventricle", "right atrium", "right ventricle",
            "pulmonary artery", "brain", "left iliac artery", "right iliac artery", "left iliac vein",
            "right iliac vein", "small bowel", "duodenum", "colon", "left rib 1", "left rib 2", "left rib 3",
            "left rib 4", "left rib 5", "left rib 6", "left rib 7", "left rib 8", "left rib 9", "left rib 10",
            "left rib 11", "left rib 12", "right rib 1", "right rib 2", "right rib 3", "right rib 4", "right rib 5",
            "right rib 6", "right rib 7", "right rib 8", "right rib 9", "right rib 10", "right rib 11",
            "right rib 12", "left humerus", "right humerus", "left scapula", "right scapula", "left clavicle",
            "right clavicle", "left femur", "right femur", "left hip bone", "right hip bone", "sacrum", "face",
            "left gluteus maximus", "right gluteus maximus", "left gluteus medius", "right gluteus medius",
            "left gluteus minimus", "right gluteus minimus", "left deep back muscle", "right deep back muscle",
            "left iliopsoas", "right iliopsoas", "urinary bladder",
        ),
    },
    modalities=("CT",),
    dims=3,
    licence_code="none stated (the original's; none of it is here)",
    licence_weights="none stated",
    paper="Chen et al., PCNet: Prior Category Network for CT Universal Segmentation Model, IEEE TMI 2024",
    code="https://github.com/YixinChen-AI/PCNet",
    weights=(
        WeightFile(file="pcnet/swinunetr.pth", n_bytes=0),
    ),
    training_sets=("TotalSegmentator",),
    training_note="the 104 classes are those of TotalSegmentator's first release",
    parameters_m=62.5,
    memory="about 4 GB for a window of 96^3 with 137 categories, and 1 GB of sums for structures",
    input=(
        "CT, axes to R, A, S, 1.5 mm, -1000..1000 HU to 0..1, cut; windows of 96^3 overlapping by half, gaussian "
        "weights; presence is the greatest blended probability in the volume, not calibrated"
    ),
    deviations=(
        "NOT VERIFIED: no official output was at hand; the head is tested against its equations alone",
        "spacing, window of HU, size of windows and blending are assumptions: the original's were not known; a "
        "config.json beside the checkpoint may state spacing_mm, window_hu and patch",
        "of a file's names only MONAI's are known; the head's tensors are recognised by their shapes, and the leaky "
        "ReLU has torch's slope, 0.01",
        "channel 0 is taken as background and channels 1 to 104 as the labels of TotalSegmentator v1 in their order; "
        "the 32 groups have no names until \"nodes\" in config.json beside the checkpoint names all channels (\"\" for "
        "none). A name with a channel is answered by it, \"kidney\" without one by both kidneys",
        "the original averages its pooled features over a batch, so its answers depend on the company in it; here each "
        "window stands for itself",
        "each category is a sigmoid by itself, 0.5; blend=logits blends before the sigmoid",
        "only the Swin UNETR backbone; SegResNet, U-Net, U-Net++, VNet and STU-Net are refused",
        "the answer's log-odds are interpolated linearly to the file's voxels",
    ),
    seconds_hint=600.0,
)
# fmt: on
PATCH = 96
OVERLAP = 0.5
SPACING_MM = 1.5
WINDOW_HU = (-1000.0, 1000.0)
NODES = 137


def load(
    *,
    checkpoint: str | None = None,
    embeddings: str | None = None,
    patch: int = PATCH,
    overlap: float = OVERLAP,
    blend: Literal["probabilities", "logits"] = "probabilities",
) -> Spoken:
    """PCNet with a Swin UNETR.

    Args:
        checkpoint: a file with its tensors or a folder with checkpoint.pth; None for the released weights. A
            config.json beside it may say "nodes" (a name a channel), spacing_mm, window_hu and patch.
        embeddings: prompt embeddings where the checkpoint lacks them: an .npy file, or a torch file with one named
            tensor [categories, numbers]; they are used as they stand (the original normalises them).
        patch: side of a window in voxels, a multiple of 32; config.json goes before.
        overlap: of the windows.
        blend: what is averaged over overlapping windows.

    Raises:
        SpecError: patch or overlap make no sense.
        WeightsError: the weights are missing, damaged or of another model.
    """
    if not 0 <= overlap < 1:
        raise SpecError(f"pcnet: overlap is {overlap:g}, expected at least 0 and less than 1")
    file = weights.opened("pcnet", CARD, checkpoint=checkpoint)
    patch = int(file.config.get("patch", patch))
    if patch < 64 or patch % SwinFeatures.multiple:
        raise SpecError(f"pcnet: patch is {patch}, expected a multiple of 32 from 64 on")
    net, digest = _net(file, embeddings)
    names = listed(file.config, len(net.embedding), field="nodes", beside=file.path.name)
    if names is None and len(net.embedding) != NODES:
        raise WeightsError(
            f"{file.path.name} knows {len(net.embedding)} categories, the published model {NODES}; "
            'name them in a config.json beside it: {"nodes": [...]}'
        )
    low, high = file.config.get("window_hu", WINDOW_HU)
    frame = NamedFrame(
        names or {name: (i,) for i, name in enumerate((CARD.labels or {})[""], start=1)},
        patch,
        float(file.config.get("spacing_mm", SPACING_MM)),
        (float(low), float(high)),
    )
    tiling = Tiling.monai((patch, patch, patch), overlap=overlap)
    return Spoken(Parts(net.eval(), frame, None, digest), tiling, blend=blend)


def _net(file: Checkpoint, embeddings: str | None) -> tuple[PCNet, str]:
    """The net with its weights, and their digest."""
    table, digest = (None, file.digest) if embeddings is None else _table(Path(embeddings).expanduser(), file)
    try:
        tensors = official(file.tensors, embedding=table)
        net = net_of(tensors)
    except KeyError as error:
        missing = str(error).strip("'")
        hint = "; give the prompt embeddings: pcnet(embeddings=FILE)" if missing == "embedding" else ""
        raise WeightsError(
            f"{file.path.name} is not a file of PCNet with a Swin UNETR: {missing} is missing{hint}"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{file.path.name} does not fit PCNet: {error}") from error
    weights.fill(net, tensors, what="PCNet")
    return net, digest


def _table(path: Path, file: Checkpoint) -> tuple[Tensor, str]:
    """Prompt embeddings of a file of their own, and the digest of both."""
    if path.suffix == ".npy" and path.is_file():
        try:
            found = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        except ValueError as error:
            raise WeightsError(f"{path} is not an array of plain numbers: {error}") from error
        digest = f"unknown:{weights.digest(path)}+{file.digest}"
    else:
        other = weights.read(path)
        tables = [tensor for tensor in other.tensors.values() if tensor.ndim == 2]
        if len(tables) != 1:
            raise WeightsError(f"{path} has {len(tables)} tables, expected one: a named tensor [categories, numbers]")
        found, digest = tables[0], weights.together(file, other)
    if found.ndim != 2:
        raise WeightsError(f"{path} is {tuple(found.shape)}, expected [categories, numbers]")
    return found, digest


def published() -> list[Published]:
    """The published categories with MONAI's default Swin UNETR, on the meta device."""
    net = PCNet(SwinSize(classes=NODES)).eval().to("meta")  # MONAI's class cannot be built there
    with torch.device("meta"):
        image = torch.empty(1, 1, PATCH, PATCH, PATCH)
        features = {"x": torch.empty(1, NODES, PATCH, PATCH, PATCH), "m": torch.empty(1, NODES, NODES)}
    one = torch.zeros(1, dtype=torch.int64)
    stages = {
        "encoder": lambda: net.encode(image),
        "one structure": lambda: net.decode(features, Marks(one, tokens=one)),
    }
    return [Published(label="", net=net, stages=stages, per="patch", input="1×96×96×96, one structure")]
