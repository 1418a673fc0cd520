"""Makes metrics.json: what surface-distance and MONAI say of pairs of masks. Run by hand, never by the tests
(last with surface-distance 0.1 and MONAI 1.6.1).

    pip install surface-distance monai
    python tests/figures/make_metrics.py

Real pairs are named by file, label and what is done to the reference; they are read from ../shared/data again by the
test. Small ones are kept as bits. Tolerances in mm. The average of surface-distance is given as two directed ones with
their areas, so that one over both surfaces can be made.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from surface_distance import metrics as theirs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from metrics_pairs import REAL, random_pair, real_pair  # noqa: E402


def figures(reference, prediction, spacing_mm, tolerance_mm):
    """All figures of both packages for one pair."""
    found = theirs.compute_surface_distances(reference, prediction, spacing_mm)
    a, b = theirs.compute_average_surface_distance(found)
    areas = [float(found["surfel_areas_gt"].sum()), float(found["surfel_areas_pred"].sum())]
    r, p = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (reference, prediction))
    options = {"include_background": True, "spacing": [float(s) for s in spacing_mm]}
    hd95 = compute_hausdorff_distance(p, r, percentile=95, **options)
    assd = compute_average_surface_distance(p, r, symmetric=True, **options)
    nsd = [
        float(compute_surface_dice(p, r, [t], use_subvoxels=s, **options))
        for s in (True, False)
        for t in [tolerance_mm]
    ]
    both = float((r * p).sum())
    return {
        "surface_distance": {
            "NSD": float(theirs.compute_surface_dice_at_tolerance(found, tolerance_mm)),
            "HD95": float(theirs.compute_robust_hausdorff(found, 95)),
            "averages": [float(a), float(b)],
            "areas": areas,
            "DSC": float(theirs.compute_dice_coefficient(reference, prediction)),
        },
        "monai": {
            "DSC": 2 * both / float(r.sum() + p.sum()),
            "HD95": float(hd95),
            "ASSD": float(assd),
            "NSD_subvoxels": nsd[0],
            "NSD_voxels": nsd[1],
        },
    }


def main():
    """Write metrics.json beside this file."""
    rows = []
    data = HERE.parent.parent.parent / "shared" / "data"
    for name in REAL:
        reference, prediction, spacing = real_pair(data, name)
        for tolerance in (1.0, 2.0):
            rows.append(
                {
                    "real": name,
                    "spacing_mm": spacing,
                    "tolerance_mm": tolerance,
                    **figures(reference, prediction, spacing, tolerance),
                }
            )
    for seed, spacing in enumerate([(1, 1, 1), (3.3, 0.586, 0.586), (1, 2, 3), (0.7, 0.9, 5), (2.5, 1.5, 1)]):
        reference, prediction = random_pair(seed)
        bits = [np.packbits(m).tobytes().hex() for m in (reference, prediction)]
        row = {"bits": bits, "shape": reference.shape, "spacing_mm": spacing, "tolerance_mm": 1.0}
        rows.append({**row, **figures(reference, prediction, spacing, 1.0)})
    text = ",\n".join(json.dumps(row) for row in rows)
    (HERE / "metrics.json").write_text("[\n" + text + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
