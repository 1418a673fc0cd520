"""UniverSeg: in-context segmentation; its support set, slices with masks of each structure, is its weights.

Source: Butoi et al., UniverSeg: Universal Medical Image Segmentation, ICCV 2023 (arXiv 2304.06131).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from segwise import anatomy, weights
from segwise.card import ModelCard, Variant, WeightFile
from segwise.errors import NoSuchStructure, SpecError, WeightsError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.grey import GreyFrame
from segwise.lifts.worded import Worded, WordFrame
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.nets.universeg import UniverSegNet, widths_of
from segwise.segmenter import Parts
from segwise.weights import Checkpoint, opened

CARD = ModelCard(
    title="UniverSeg",
    summary="Any structure that a few labelled slices show it, by name: a support set stands for training.",
    family="generalist",
    takes=("text",),
    modalities=("CT", "MR"),
    dims=2,
    licence_code="Apache-2.0",
    licence_weights="OpenRAIL++-M, for research only (the released ones; those you train are yours)",
    weights=(
        WeightFile(
            file="universeg_nano/universeg_nano.safetensors",
            n_bytes=597818,
            sha256="f5d98280e7924a839fee19767ab41481ca88fe4626f38e14858efcb043a10da9",
            variant="nano",
            packaged=True,
        ),
        WeightFile(
            file="universeg_nano/config.json",
            n_bytes=16,
            sha256="5ad005139bb1c3872b041d0381b2521c69e2d51a5e3d66b97b283eb2f99171ad",
            variant="nano",
            packaged=True,
        ),
    ),
    keys=(r"^enc_blocks\.0\.cross\.cross_conv\.weight \d+x3x3x3$", r"^out_conv\.conv\.weight "),
    paper="https://arxiv.org/abs/2304.06131",
    code="https://github.com/JJGO/UniverSeg",
    training_note=(
        "the released net saw MegaMedical, 53 public sets of 26 domains with 16 modalities: treat public sets as "
        "possibly seen; the subjects of the support set stand in the folder's model.json"
    ),
    parameters_m=1.2,
    memory="0.3 GB for 16 support slices at 128x128 and 64 features",
    input=(
        "first channel; axial slices in LPS; CT by a window of -160..240 HU, MR by its percentiles 0.5 and 99.5, to "
        "0..1; each slice stretched to 128x128 (config.json: size; nano: 64x64); every slice of the volume is asked"
    ),
    deviations=(
        "the released weights could not be had here: net and key names are verified against the released code with "
        "random weights (833a0c3: 1e-6 of logits whose deviation is 0.2), the preparation of slices is not",
        "the query's part of a CrossConv is computed once for the whole support set: equal up to rounding",
        "no average over several support sets (the paper ensembles ten)",
        "choose=like is ours: the paper draws the support set at random",
        "a quarter of a support set are slices without the structure, as all slices of a volume are asked",
    ),
    remarks={"size=nano": "nano, trained on synthetic data"},
    variants={
        "size=nano": Variant(
            licence_weights="Apache-2.0, for research, not for patients",
            training_sets=("Segwise synth (generated)",),
            training_note=(
                "weights of Segwise, trained on slices of procedural worlds and bodies only (segwise train "
                "universeg-nano: 4,500 steps, seed 0); the subjects of the support set stand in the folder's model.json"
            ),
            training_listed=True,
            parameters_m=0.30,
            memory="0.2 GB",
            seconds_hint=20.0,
        ),
    },
    seconds_hint=120.0,
)
SIZE, SUPPORT = 128, 16
NANO = "nano"
CHOICES = ("like", "random")


@dataclass(frozen=True)
class SupportFrame(GreyFrame, WordFrame):
    """Slices as the net sees them; its marks are the place of a name in the support set.

    Attributes:
        names: common names of the structures, in the order of the support set.
        size: side of a view.
        support: slices of the set that a query meets.
        choose: which: "random", the first of the pool as it was drawn; "like", those most like the query.
    """

    names: tuple[str, ...] = field(kw_only=True)
    size: int = SIZE
    support: int = SUPPORT
    choose: str = "like"

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(1, size, size)."""
        return 1, self.size, self.size

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        words = ("universeg-1", self.plane, self.shift, self.window_hu, self.size, cv2.__version__)
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, 1, size, size] in 0..1: a slice stretched, by area where that shrinks it."""
        shown = regrid(prepared.array[:1], prepared.grid, window, order=0, outside=0.0)[0, 0]
        return self.stretched(shown.astype(np.float32))[None, None] / np.float32(255)

    def stretched(self, image: Array) -> Array:
        """float32 [size, size] of float32 [H, W]."""
        how = cv2.INTER_AREA if max(image.shape) > self.size else cv2.INTER_LINEAR
        found = cv2.resize(np.ascontiguousarray(image), (self.size, self.size), interpolation=how)
        return np.asarray(found, dtype=np.float32)

    def asked(self, words: str, *, modality: str) -> Marks:
        """One query of the structure.

        Raises:
            NoSuchStructure: the support set shows none of that name, or each side by itself.
        """
        found = anatomy.among(words, self.names)
        if len(found) > 1:
            raise NoSuchStructure(f'"{words}": the support set shows {" and ".join(found)}; ask for one of them')
        said = {"class": self.names.index(found[0]), "support": self.support, "like": int(self.choose == "like")}
        tokens = {key: torch.tensor([value], dtype=torch.int64) for key, value in said.items()}
        return Marks(torch.zeros(1, dtype=torch.int64), tokens=tokens)

    def presence(self, prepared: Volume, window: Grid, logits: Array, words: str) -> float:
        """The greatest probability on a slice."""
        return float(1 / (1 + np.exp(-np.clip(float(logits.max()), -50, 50))))

    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits on the slice, bilinear."""
        own = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0]))
        full = F.interpolate(own, tuple(window.shape[1:]), mode="bilinear", align_corners=False)
        return full[:, :, None].numpy()


def load(
    *,
    size: Literal["", "nano"] = "",
    checkpoint: str | None = None,
    support: int | None = None,
    choose: Literal["", "random", "like"] = "",
) -> Worded:
    """UniverSeg with its support set.

    Args:
        size: "nano" for the small net that comes with Segwise, trained on synthetic data; its folder says so.
        checkpoint: a folder that `segwise adapt universeg DATA -o FOLDER` wrote.
        support: slices of the set that a query meets; None: as the folder says.
        choose: "random" or "like" (the slices of the pool that are most like the query); "": as the folder says.

    Raises:
        SpecError: support is no number of slices.
        WeightsError: none is given, or it is no checkpoint of UniverSeg, or it has no support set.
    """
    file = opened("universeg", CARD, checkpoint=checkpoint, variant=NANO)
    names = file.config.get("names")
    tensors = dict(file.tensors)
    if not names or "images" not in tensors:
        raise WeightsError(
            f"{file.path} has no support set: it knows no structure yet; type: segwise adapt "
            f'"universeg{"" if checkpoint is None else f"(checkpoint={checkpoint})"}" DATA -o FOLDER, then use ./FOLDER'
        )
    frame = SupportFrame(
        names=tuple(map(str, names)),
        size=size_of(file),
        support=int(file.config.get("support", SUPPORT) if support is None else support),
        choose=choose or str(file.config.get("choose", CHOICES[0])),
    )
    if frame.support < 1 or frame.choose not in CHOICES:
        raise SpecError(
            f"universeg: support={frame.support}, choose={frame.choose}; expected 1 or more, random or like"
        )
    net = net_of(file, tensors)
    if len(net.images) != len(frame.names):
        raise WeightsError(f"{file.path} holds {len(net.images)} structures, its config.json names {len(frame.names)}")
    return Worded(Parts(net.eval(), frame, None, file.digest))


def bare(checkpoint: str | None) -> tuple[UniverSegNet, int]:
    """The net without a support set, and the side of its views; without a checkpoint the small one.

    Raises:
        WeightsError: it is no checkpoint of UniverSeg.
    """
    file = opened("universeg", CARD, checkpoint=checkpoint, variant=NANO)
    own = {key: value for key, value in file.tensors.items() if key not in ("images", "masks")}
    return net_of(file, own), size_of(file)


def size_of(file: Checkpoint) -> int:
    """The side of a view: config.json says, else as published."""
    return int(file.config.get("size", SIZE))


def net_of(file: Checkpoint, tensors: Mapping[str, Any]) -> UniverSegNet:
    """The net of some tensors, filled.

    Raises:
        WeightsError: they do not fit it.
    """
    name, size = file.path.name, size_of(file)
    images = tensors.get("images", torch.zeros(0, 0, size, size, dtype=torch.uint8))
    if images.ndim != 4 or images.shape[2:] != (size, size):
        raise WeightsError(f"{name} holds a support set of {tuple(images.shape)}, expected (K, M, {size}, {size})")
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    net = UniverSegNet(widths_of(shapes, name=name), size=size, structures=images.shape[0], pool=images.shape[1])
    weights.fill(net, tensors, what=CARD.title)
    return net


def published() -> list[Published]:
    """The released size, on the meta device: a slice with 16 support slices."""
    with torch.device("meta"):
        net = UniverSegNet().eval()
        query, support = torch.empty(1, 1, SIZE, SIZE), torch.empty(1, SUPPORT, 1, SIZE, SIZE)
    stages = {"whole net": lambda: net(query, support, support)}
    shown = f"1×{SIZE}×{SIZE}, {SUPPORT} support slices"
    return [Published(label="", net=net, stages=stages, per="slice", input=shown)]
