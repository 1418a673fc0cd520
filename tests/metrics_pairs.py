"""Pairs of masks for the metric tests: real labels, changed in named ways, and small random ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

# name -> (file of the reference, its labels, what makes the prediction)
REAL = {
    **{f"spine {v}": ("labels_only/spine_ref.nii.gz", (v,), "labels_only/spine_pred.nii.gz") for v in (26, 41, 44, 60)},
    "cord moved": ("mr_spine_t2_sct/labels.nii.gz", (1,), "moved 1 0 2"),
    "liver eroded": ("ct_abdomen_ts/labels.nii.gz", (5,), "eroded 1"),
    "grey matter dilated": ("mr_spine_graymatter_t2s_sct/labels.nii.gz", (1,), "dilated 2"),
    "kidneys moved far": ("labels_only/kits19_case_00015.nii.gz", (1, 2), "moved 9 -14 3"),
    "gtv halved": ("ct_lung_gtv_pat1/labels.nii.gz", (1,), "halved"),
    "lesion eroded": ("mr_brain1_pyradiomics/labels.nii.gz", (1,), "eroded 1"),
}


def read(data: Path, name: str):
    """A label map [D, H, W] in array order and its spacing (d, h, w) mm."""
    image = nib.load(data / name)
    return np.asarray(image.dataobj).T, tuple(float(z) for z in image.header.get_zooms()[2::-1])


def real_pair(data: Path, name: str):
    """(reference, prediction, spacing_mm) of a name in REAL, cut to 3 voxels around the two."""
    file, values, change = REAL[name]
    labels, spacing = read(data, file)
    reference = np.isin(labels, values)
    what, *numbers = change.split()
    if what == "moved":
        prediction = np.roll(reference, [int(n) for n in numbers], axis=(0, 1, 2))
    elif what == "eroded":
        prediction = ndimage.binary_erosion(reference, iterations=int(numbers[0]))
    elif what == "dilated":
        prediction = ndimage.binary_dilation(reference, iterations=int(numbers[0]))
    elif what == "halved":
        prediction = reference.copy()
        prediction[:, : int(np.median(np.nonzero(reference)[1]))] = False
    else:
        prediction = np.isin(read(data, change)[0], values)
    where = np.nonzero(reference | prediction)
    cut = tuple(slice(max(w.min() - 3, 0), w.max() + 4) for w in where)
    return reference[cut], prediction[cut], spacing


def random_pair(seed: int):
    """Two different random masks of shape 7x8x9, one of them smooth."""
    rng = np.random.default_rng(seed)
    noise = rng.random((2, 7, 8, 9))
    return ndimage.gaussian_filter(noise[0], 1) > 0.5, noise[1] > 0.6
