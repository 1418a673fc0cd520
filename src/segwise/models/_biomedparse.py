"""What BiomedParse's official scripts do to a slice, and the words that it was trained with on CT and MR.

Source: microsoft/BiomedParse (750eb40): inference_utils, utilities/constants.py and the names of its demonstration
masks; the sentence of a prompt is that of its paper, "[object] in [site] [modality]".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from skimage import transform
from torch.nn import functional as F

from segwise import anatomy
from segwise.geometry import Array, Grid
from segwise.lifts.grey import lowest

WINDOWS_HU = {
    "abdomen": (-150.0, 250.0),
    "lung": (-1000.0, 1000.0),
    "pelvis": (-55.0, 200.0),
    "liver": (-25.0, 230.0),
    "colon": (-68.0, 187.0),
    "pancreas": (-100.0, 200.0),
}
MR_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Known:
    """How the model names a structure in one kind of image.

    Attributes:
        word: in its training.
        site: part of the body, in its training.
        image: kind of image in target_dist.json, or "".
    """

    word: str
    site: str
    image: str = ""

    def sentence(self, modality: str) -> str:
        """ "liver in abdomen CT"."""
        return " ".join([self.word, "in", self.site, {"MR": "MRI"}.get(modality, modality)]).strip()


def _alike(names: str, site: str, image: str = "") -> dict[str, Known]:
    return {name: Known(name, site, image) for name in names.split(", ")}


_ABDOMEN = (
    "liver, spleen, pancreas, stomach, duodenum, esophagus, gallbladder, kidney, left kidney, right kidney, "
    "adrenal gland, left adrenal gland, right adrenal gland, aorta"
)
KNOWN: Mapping[str, Mapping[str, Known]] = {
    "CT": {
        **_alike(_ABDOMEN, "abdomen", "CT-Abdomen"),
        "inferior vena cava": Known("postcava", "abdomen", "CT-Abdomen"),
        "urinary bladder": Known("bladder", "pelvis"),
        **_alike("prostate, uterus", "pelvis"),
        "kidney cyst": Known("kidney cyst", "kidney"),
        "kidney tumor": Known("tumor", "kidney"),
        "liver tumor": Known("tumor", "liver", "CT-Liver"),
        "liver vessel": Known("vessel", "liver", "CT-Liver"),
        "pancreas tumor": Known("tumor", "pancreas"),
        "colon tumor": Known("tumor", "colon"),
        "lung tumor": Known("tumor", "lung", "CT-Chest"),
        "lung nodule": Known("nodule", "lung", "CT-Chest"),
        "lung infiltrate": Known("COVID-19 infection", "lung", "CT-Chest"),
    },
    "MR": {
        **_alike(_ABDOMEN, "abdomen", "MRI-Abdomen"),
        "inferior vena cava": Known("postcava", "abdomen", "MRI-Abdomen"),
        "urinary bladder": Known("bladder", "pelvis"),
        "left ventricle": Known("left heart ventricle", "heart", "MRI-Cardiac"),
        "right ventricle": Known("right heart ventricle", "heart", "MRI-Cardiac"),
        "myocardium": Known("myocardium", "heart", "MRI-Cardiac"),
        "left atrium": Known("left heart atrium", "heart"),
        "glioma": Known("lower-grade glioma", "brain"),
        "whole tumor": Known("whole tumor", "brain"),
        **_alike("tumor core, edema", "brain", "MRI-FLAIR-Brain"),
        **_alike("enhancing tumor, non-enhancing tumor", "brain", "MRI-T1-Gd-Brain"),
        **_alike("anterior hippocampus, posterior hippocampus", "brain"),
        "prostate": Known("prostate", "prostate"),
        "prostate transition zone": Known("prostate transitional zone", "prostate"),
        "prostate peripheral zone": Known("prostate peripheral zone", "prostate"),
    },
}


def slice_image(values: Array, window_hu: tuple[float, float] | None, *, size: int) -> Array:
    """One slice as the official readers make it.

    Args:
        values: [H, W]; what is not finite counts as the lowest.
        window_hu: (low, high) of CT; None: percentiles 0.5 and 99.5 of what is > 0.
        size: S.

    Returns:
        uint8 [S, S, 3], three equal channels; cut, not rounded. Black if nothing lies between the limits.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=lowest(values), posinf=lowest(values), neginf=lowest(values))
    above = values[values > 0]
    if window_hu is None and not above.size:
        return np.zeros((size, size, 3), dtype=np.uint8)
    low, high = window_hu if window_hu is not None else np.percentile(above, MR_PERCENTILES)
    cut = np.clip(values, low, high)
    if cut.max() <= cut.min():
        return np.zeros((size, size, 3), dtype=np.uint8)
    grey = (cut - cut.min()) / (cut.max() - cut.min()) * 255.0
    top, left = padding(*grey.shape)
    grey = np.pad(grey, ((top, top), (left, left)))
    small = transform.resize(grey, (size, size), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    return np.repeat(small.astype(np.uint8)[:, :, None], 3, axis=2)


def padding(height: int, width: int) -> tuple[int, int]:
    """(rows above and below, columns left and right) that make a slice square; short by one if they cannot be equal."""
    return max(0, (width - height) // 2), max(0, (height - width) // 2)


def resized(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[Q, M, h, w] on another size, bilinear, half-pixel convention."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def likeness(image: Array, probability: Array, beta: Any) -> float:
    """How well a mask and what lies under it fit a structure's distributions, in [0, 1].

    Args:
        image: uint8 [S, S, 3].
        probability: [S, S].
        beta: four (a, b): of the mean probability inside, and of mean red, green and blue inside.

    Returns:
        The fourth root of the product of four two-sided Kolmogorov-Smirnov p-values, each of one number; 0 for an
        empty mask.
    """
    mask = probability * 255
    inside = mask >= 128
    if mask.max() <= 127 or not inside.any():
        return 0.0
    means = [mask[inside].mean() / 256, *(image[..., c][inside].mean() / 256 for c in range(3))]
    p = [stats.ks_1samp([m], stats.beta(*ab[:2]).cdf).pvalue for m, ab in zip(means, beta, strict=False)]
    return float(np.prod(p) ** 0.25)


def as_stored(grid: Grid, plane: str) -> str:
    """The axes of a plane's slices with rows and columns in the file's own order and direction."""
    first = grid.axis_of(plane)
    return grid.axes[first] + "".join(letter for i, letter in enumerate(grid.axes) if i != first)


def unknown(words: str, found: anatomy.Resolved) -> str:
    """The message for words that name nothing the model knows, with what is near."""
    listed = {name for table in KNOWN.values() for name in table}
    shared = [name for name in sorted(listed) if set(name.split()) & set(found.name.split()) - {"left", "right"}]
    near = list(dict.fromkeys([*(name for name in found.near if name in listed), *shared]))[:4]
    hint = f"; near: {', '.join(near)}" if near else ""
    return f'"{words}" is not among the {len(listed)} structures of BiomedParse{hint}; open=true asks anyway'
