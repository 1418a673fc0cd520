"""What each component of a signature may be in a good mask: values are divided by these, so that above 1 is a flag.

How they came about: `python benchmarks/failures.py DATA --calibrate`.
"""

from __future__ import annotations

from collections.abc import Mapping

Scales = Mapping[str, Mapping[str, float]]  # signature -> component -> value that counts as 1

REFERENCE: Scales = {
    "leak": {"outside": 1.0, "excess": 1.0},
    "discontinuity": {"gaps": 1.0, "holes": 1.0, "odd": 1.0, "jitter": 1.0, "steps": 1.0, "stairs": 1.0},
    "hallucination": {"apart": 1.0},
    "overrun": {"past": 1.0, "volume": 1.0},
    "decay": {"lost": 1.0, "falling": 1.0},
}
BLIND: Scales = {
    "leak": {"beyond": 1.0, "filled": 1.0, "bulge": 1.0, "lobes": 1.0},
    "discontinuity": {"gaps": 1.0, "holes": 1.0, "odd": 1.0, "jitter": 1.0, "steps": 1.0, "stairs": 1.0},
    "hallucination": {"astray": 1.0, "crumbs": 1.0, "pieces": 1.0, "rough": 1.0},
    "overrun": {"past": 1.0, "volume": 1.0, "tail": 1.0},
    "decay": {"lost": 1.0, "short": 1.0, "fading": 1.0},
}
