"""What each component of a signature may be in a good mask: values are divided by these, so that above 1 is a flag.

How they came about: `python benchmarks/failures.py DATA --calibrate`.
"""

from __future__ import annotations

from collections.abc import Mapping

Scales = Mapping[str, Mapping[str, float]]  # signature -> component -> value that counts as 1

REFERENCE: Scales = {
    "leak": {"outside": 0.0744, "excess": 0.174},
    "discontinuity": {
        "gaps": 0.0697,
        "holes": 0.0115,
        "odd": 0.0549,
        "detour": 1.0,
        "stairs": 0.0696,
        "jitter": 0.667,
        "steps": 0.276,
    },
    "hallucination": {"apart": 0.005},
    "overrun": {"past": 0.143, "volume": 0.0512},
    "decay": {"lost": 0.005, "falling": 0.379},
}
BLIND: Scales = {
    "leak": {"beyond": 0.406, "over": 0.188, "filled": 0.516, "slice": 0.75, "wide": 0.746, "burst": 0.829},
    "discontinuity": {
        "odd": 0.248,
        "detour": 1.0,
        "stairs": 0.182,
        "gaps": 0.0556,
        "holes": 0.045,
        "jitter": 1.02,
        "steps": 0.917,
    },
    "hallucination": {"astray": 0.005, "aside": 0.484, "crumbs": 0.0685, "pieces": 1.39, "rough": 0.919},
    "overrun": {"past": 0.227, "volume": 0.151, "tail": 0.5},
    "decay": {"lost": 0.0833, "short": 0.444, "fading": 0.806, "waning": 0.767, "ragged": 0.43},
}
