"""Pictures of a case: three planes with the outlines of reference and prediction, as inline SVG over a small PNG."""

from __future__ import annotations

import base64
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import measure

Crop = Mapping[
    str, NDArray[Any]
]  # image0..2 uint8 [H,W], reference0..2, prediction0..2 bool, spacing0..2 (row, col) mm
KEY = (
    '<p class="key"><span class="line reference"></span>reference <span class="line prediction"></span>prediction · '
    "three planes through the target; where both outlines agree the prediction lies on top.</p>"
)
Key = tuple[str, str, int]  # task, target, round
Crops = Callable[[Key], Crop | None]


def folder(path: Path) -> Crops:
    """Crops of a folder by key, read when asked for; None where there is none or it is damaged.

    Args:
        path: holds `<task>-<target>-<round>.npz`, signs of the target that no file name bears written as "_".
    """

    def read(key: Key) -> Crop | None:
        task, target, n = key
        file = path / f"{task}-{re.sub(r'[^A-Za-z0-9 ._+-]', '_', target)}-{n}.npz"
        try:
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    return read


def pictures(crop: Crop, alt: str) -> str:
    """The planes of a crop side by side, "" if it holds none.

    Args:
        crop: arrays by name; planes whose arrays do not fit each other are left out.
        alt: what is shown, already escaped.
    """
    planes = [_plane(crop, i, alt) for i in range(3)]
    return f'<div class="planes">{"".join(planes)}</div>' if any(planes) else ""


def _plane(crop: Crop, i: int, alt: str) -> str:
    image = crop.get(f"image{i}")
    if image is None or image.ndim != 2 or not image.size:
        return ""
    height, width = image.shape
    row, column = (float(v) for v in np.asarray(crop.get(f"spacing{i}", (1.0, 1.0)), dtype=float).ravel()[:2])
    scale = row / column if row > 0 and column > 0 else 1.0
    ok, data = cv2.imencode(".png", np.ascontiguousarray(image, dtype=np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not ok:
        return ""
    picture = base64.b64encode(data.tobytes()).decode()
    outlines = "".join(
        f'<path class="{kind}" d="{outline(mask, scale)}"/>'
        for kind in ("reference", "prediction")
        if (mask := crop.get(f"{kind}{i}")) is not None and mask.shape == image.shape and mask.any()
    )
    return (
        f'<svg viewBox="0 0 {width} {height * scale:.2f}" role="img" aria-label="{alt}, plane {i + 1}">'
        f'<image width="{width}" height="{height * scale:.2f}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{picture}"/>{outlines}</svg>'
    )


def outline(mask: NDArray[Any], scale: float = 1.0) -> str:
    """SVG path of a mask's outline in pixels, pixel (0, 0) covering [0, 1]²; rows are stretched by `scale`.

    Args:
        mask: bool [H, W].
        scale: row spacing over column spacing.
    """
    lines = measure.find_contours(np.pad(mask.astype(np.float32), 1), 0.5)
    parts = []
    for line in lines:
        kept = measure.approximate_polygon(line, 0.2) - 0.5  # padding moved it by one, centres lie at a half
        parts.append("M" + "L".join(f"{w:.4g} {h * scale:.4g}" for h, w in kept) + "Z")
    return "".join(parts)
