"""VISTA3D: 127 structures of CT by name, or anything by points, or a named one mended by points.

Source: He et al., VISTA3D, CVPR 2025 (arXiv 2406.05285), and its inference code. Here windows have their axes towards
R, A, S, as the original's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from segwise import anatomy, weights
from segwise.card import ModelCard, WeightFile
from segwise.errors import NoSuchStructure, SpecError, WeightsError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.clicked import ClassFrame, Clicked
from segwise.lifts.tiles import Tiling
from segwise.nets.contract import Marks
from segwise.nets.flops import Published
from segwise.nets.vista3d import LAST_SUPPORTED, PUBLISHED, VistaNet, net_of, official
from segwise.prompt import Prompt
from segwise.segmenter import Parts, Tree

CARD = ModelCard(
    title="VISTA3D",
    summary="127 structures on CT by name, anything by points, a named one mended by points.",
    family="generalist",
    takes=("points", "text"),
    modalities=("CT",),
    dims=3,
    licence_code="Apache-2.0",
    licence_weights="NVIDIA OneWay Noncommercial License",
    non_commercial=True,
    paper="https://arxiv.org/abs/2406.05285",
    code="https://github.com/Project-MONAI/VISTA (vista3d); weights nvidia/NV-Segment-CT",
    keys=(
        r"^image_encoder\.encoder\.conv_init\.",
        r"^class_head\.",
        r"^point_head\.",
    ),
    weights=(
        WeightFile(
            file="vista3d/model.pt",
            n_bytes=0,
            signature="f29ba41331001518f7d6750ebccc270185df4bbf95363b3e4949f8e803bc69b1",
        ),
    ),
    training_sets=(
        "AbdomenCT-1K",
        "AMOS22",
        "BTCV",
        "BTCV-Cervix",
        "CT-ORG",
        "FLARE22",
        "LIDC",
        "MSD",
        "Pancreas-CT",
        "StonyBrook-CT",
        "TCIA COVID-19",
        "TotalSegmentator",
        "VerSe",
    ),
    training_note=(
        "11454 CT volumes of public and own sets, part of them with pseudo-labels; the list holds the sets whose split "
        "files stand in the repository and is not complete. Of each set the authors kept test cases apart, by these "
        "files; KiTS and WORD stand there as external. Treat any public CT as possibly seen"
    ),
    parameters_m=218.0,
    memory="about 6 GB for a window of 128^3, 50 MB for each clicked window, 1 GB of sums for classes",
    input=(
        "CT, axes to R, A, S, 1.5 mm, -963.8..1053.7 HU to 0..1, cut; windows of 128^3: for names overlapping by 0.625 "
        "with gaussian weights, for points one around each; presence is the probability at the surest voxel, not "
        "calibrated"
    ),
    deviations=(
        "logits are interpolated to the file's voxels, the original inverts the mask by nearest neighbours",
        "where windows around points overlap the original adds their logits and divides by 1 (stitch=sum, the "
        "default); stitch=mean averages them",
        "every round starts from the class's answer and all points; the original goes on from its last answer",
        "the new grid has the old one's middle; the original keeps a corner, up to half a voxel away",
        "air fills what the grid has beyond the scan; the original repeats the border, and for names it does so too "
        "around a scan that is smaller than a window",
    ),
    seconds_hint=600.0,
)
PATCH = 128
OVERLAP = 0.625
SPACING_MM = 1.5
WINDOW_HU = (-963.8247715525971, 1053.678477684517)
SPECIAL = (23, 24, 25, 26, 27, 57, 128)  # classes whose points are told apart: tumours, vessels, airway
NEW = LAST_SUPPORTED + 1  # any class above the last supported one: not trained
RIM = 1e-3  # voxels: a point on the first plane of a window is outside, as in the original
_CODE = "vista3d-1"
# fmt: off
CLASSES: dict[int, str] = {  # vista3d/data/jsons/label_dict.json without the deprecated 16, 18, 129, 130, 131
    1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas", 5: "right kidney", 6: "aorta", 7: "inferior vena cava",
    8: "right adrenal gland", 9: "left adrenal gland", 10: "gallbladder", 11: "esophagus", 12: "stomach",
    13: "duodenum", 14: "left kidney", 15: "bladder", 17: "portal vein and splenic vein", 19: "small bowel",
    20: "lung", 21: "bone", 22: "brain", 23: "lung tumor", 24: "pancreatic tumor", 25: "hepatic vessel",
    26: "hepatic tumor", 27: "colon cancer primaries", 28: "left lung upper lobe", 29: "left lung lower lobe",
    30: "right lung upper lobe", 31: "right lung middle lobe", 32: "right lung lower lobe",
    **{33 + i: f"vertebrae L{5 - i}" for i in range(5)},
    **{38 + i: f"vertebrae T{12 - i}" for i in range(12)},
    **{50 + i: f"vertebrae C{7 - i}" for i in range(7)},
    57: "trachea", 58: "left iliac artery", 59: "right iliac artery", 60: "left iliac vena", 61: "right iliac vena",
    62: "colon",
    **{63 + i: f"left rib {i + 1}" for i in range(12)},
    **{75 + i: f"right rib {i + 1}" for i in range(12)},
    87: "left humerus", 88: "right humerus", 89: "left scapula", 90: "right scapula", 91: "left clavicula",
    92: "right clavicula", 93: "left femur", 94: "right femur", 95: "left hip", 96: "right hip", 97: "sacrum",
    98: "left gluteus maximus", 99: "right gluteus maximus", 100: "left gluteus medius", 101: "right gluteus medius",
    102: "left gluteus minimus", 103: "right gluteus minimus", 104: "left autochthon", 105: "right autochthon",
    106: "left iliopsoas", 107: "right iliopsoas", 108: "left atrial appendage", 109: "brachiocephalic trunk",
    110: "left brachiocephalic vein", 111: "right brachiocephalic vein", 112: "left common carotid artery",
    113: "right common carotid artery", 114: "costal cartilages", 115: "heart", 116: "left kidney cyst",
    117: "right kidney cyst", 118: "prostate", 119: "pulmonary vein", 120: "skull", 121: "spinal cord", 122: "sternum",
    123: "left subclavian artery", 124: "right subclavian artery", 125: "superior vena cava", 126: "thyroid gland",
    127: "vertebrae S1", 128: "bone lesion", 132: "airway",
}
# fmt: on


@dataclass(frozen=True)
class VistaFrame(ClassFrame):
    """The official preprocessing.

    Attributes:
        patch: side of a window.
    """

    patch: int = PATCH

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Of a window."""
        return self.patch, self.patch, self.patch

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view."""
        return hashlib.blake2b(repr((_CODE, self.patch)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W] in 0..1, axes to R, A, S, 1.5 mm, at least a window large; only the first channel."""
        grid = volume.grid.canonical("RAS", spacing_mm=(SPACING_MM,) * 3)
        before = [-(max(self.patch - n, 0) // 2) for n in grid.shape]
        grid = grid.crop(before, [a + max(self.patch, n) for a, n in zip(before, grid.shape, strict=True)])
        low, high = WINDOW_HU
        scaled = (volume.array[:1].astype(np.float32) - np.float32(low)) / np.float32(high - low)
        scaled = np.clip(np.nan_to_num(scaled, nan=0.0), 0, 1)
        moved = regrid(scaled, volume.grid, grid, order=1, outside=0.0)
        return Volume.of(np.asarray(moved, dtype=np.float32), grid, volume.channels[:1])

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """A window around an index, inside the grid."""
        middle = [c - self.patch // 2 for c in centre]
        low = [min(max(a, 0), n - self.patch) for a, n in zip(middle, grid.shape, strict=True)]
        return grid.crop(low, [a + self.patch for a in low])

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, D, H, W]: the part of the prepared volume that the window shows, 0 beyond."""
        return np.asarray(regrid(prepared.array, prepared.grid, window, order=0, outside=0.0), dtype=np.float32)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """One query with the points inside the window (those on its first voxel planes are outside); none without."""
        placed = prompt.on(window)
        inside = (placed.points > RIM).all(axis=1)
        if not inside.any():
            return Marks(torch.zeros(0, dtype=torch.int64))
        classes = self.classes(prompt)
        named = classes[0] if len(classes) == 1 else NEW
        signs = placed.positive[inside].astype(np.int64) + (2 if named in SPECIAL else 0)
        return Marks(
            torch.zeros(1, dtype=torch.int64),
            points=torch.from_numpy(placed.points[inside].astype(np.float32))[None],
            signs=torch.from_numpy(signs)[None],
            tokens=torch.tensor([named]),
        )

    def classes(self, prompt: Prompt) -> tuple[int, ...]:
        """The classes that the prompt's last text means; () for a target that is new, which points then show.

        Raises:
            NoSuchStructure: none, and there are no points either.
        """
        words = prompt.on(Grid((1, 1, 1), np.eye(4))).words
        if not words:
            return ()
        known = {anatomy.resolve(name).name: number for number, name in CLASSES.items()}
        try:
            return tuple(known[name] for name in anatomy.among(words[-1], tuple(known)))
        except NoSuchStructure:
            if "points" not in prompt.kinds:
                raise
            return ()

    def follow(self, mask: Array, window: Grid) -> Marks:
        """Nothing: windows do not follow one another."""
        return Marks(torch.zeros(0, dtype=torch.int64))


def load(
    *,
    checkpoint: str | None = None,
    accept_non_commercial: bool = False,
    patch: int = PATCH,
    overlap: float = OVERLAP,
    stitch: Literal["sum", "mean"] = "sum",
) -> Clicked:
    """VISTA3D.

    Args:
        checkpoint: an official file or a folder with checkpoint.pth; None for the released weights.
        accept_non_commercial: your use is non-commercial, as the licence of the weights wants.
        patch: side of a window in voxels of 1.5 mm.
        overlap: of the windows that answer names.
        stitch: where windows around points overlap, the sum of their logits (as the original) or the mean.

    Raises:
        SpecError: patch or overlap make no sense.
        WeightsError: the weights are missing, not accepted, damaged or of another model.
    """
    if not 0 <= overlap < 1:
        raise SpecError(f"vista3d: overlap is {overlap:g}, expected at least 0 and less than 1")
    file = weights.opened("vista3d", CARD, checkpoint=checkpoint, accept_non_commercial=accept_non_commercial)
    last = int(file.config.get("last_supported", LAST_SUPPORTED))
    try:
        net = net_of(file.shapes, last_supported=last)
    except KeyError as error:
        raise WeightsError(f"{file.path.name} is not a file of VISTA3D: {error} is missing") from error
    if patch < net.multiple or patch % net.multiple:
        raise SpecError(f"vista3d: patch is {patch}, expected a multiple of {net.multiple}")
    weights.fill(net, official(file.tensors), what="VISTA3D")
    parts = Parts(net.eval(), VistaFrame(patch), None, file.digest)
    return Clicked(parts, Tiling.monai((patch, patch, patch), overlap=overlap, padding="replicate"), stitch=stitch)


def published() -> list[Published]:
    """The released size, on the meta device."""
    given: Any = PUBLISHED
    with torch.device("meta"):
        net = VistaNet(**given).eval()
        image = torch.empty(1, 1, PATCH, PATCH, PATCH)
        low = torch.empty(1, given["embed"], *(PATCH // 2,) * 3)
        points, signs = torch.empty(1, 1, 3), torch.empty(1, 1, dtype=torch.int64)
        classes = torch.empty(1, dtype=torch.int64)
    stages = {
        "encoder (points)": lambda: net.encode(image),
        "decoder (points)": lambda: net.point(low, points, signs, new=False),
        "one class": lambda: net.automatic(image, classes),
    }
    return [Published(label="", net=net, stages=stages, per="patch", input="1×128×128×128, one point or class")]
