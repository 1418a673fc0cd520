"""What each component of a signature may be in a good mask: values are divided by these, so that above 1 is a flag.

How they came about: `python benchmarks/failures.py DATA --rows FILE --calibrate`, one pass over the development data.
Good masks are 36 real ones of 29 names (one half of the names, CT and MR) and the same with outlines off by up to a
voxel, 144 in all. Each number is the quantile of its component at which all components of a signature together flag
one good mask in twenty; none is below 0.005.
"""

from __future__ import annotations

from collections.abc import Mapping

Scales = Mapping[str, Mapping[str, float]]  # signature -> component -> value that counts as 1

REFERENCE: Scales = {
    "leak": {"outside": 0.0744, "beside": 0.196, "excess": 0.174},
    "discontinuity": {"gaps": 0.0697, "holes": 0.0115, "odd": 0.0549, "stairs": 0.0696, "detour": 0.053},
    "hallucination": {"apart": 0.005},
    "overrun": {"past": 0.143, "volume": 0.0512},
    "decay": {"lost": 0.005, "falling": 0.379},
}
BLIND: Scales = {  # with mask, prompt and image
    "leak": {"beyond": 0.0109, "slice": 0.127, "inner": 0.553, "place": 0.544, "foreign": 1.36},
    "discontinuity": {"odd": 0.087, "stairs": 0.182, "detour": 0.284, "gaps": 0.0556, "holes": 0.045},
    "hallucination": {"astray": 0.005, "aside": 0.484, "crumbs": 0.0685, "pieces": 1.39, "rough": 0.919},
    "overrun": {"past": 0.167, "volume": 0.0173, "tail": 0.5, "blunt": 0.214},
    "decay": {"lost": 0.005, "fading": 0.809, "farther": 0.441, "goes_on": 0.366, "gnawed": 0.0656},
}
ALONE: Scales = {  # with mask and prompt
    "leak": {"beyond": 0.0109, "over": 0.0417, "filled": 0.516, "slice": 0.127, "wide": 0.605, "burst": 0.829},
    "discontinuity": {"odd": 0.248, "stairs": 0.182, "detour": 0.284, "gaps": 0.0556, "holes": 0.045},
    "hallucination": {"astray": 0.005, "aside": 0.484, "crumbs": 0.0685, "pieces": 1.39, "rough": 0.919},
    "overrun": {"past": 0.125, "volume": 0.0145, "tail": 0.5},
    "decay": {"lost": 0.005, "short": 0.0701, "fading": 0.806, "waning": 0.767, "ragged": 0.43},
}
