"""Procedural volumes, deterministic by seed: shapes → phantoms (a torso, a head) → image formation → cases.

Nothing here comes from a patient. Seeds below `DEMO_SEEDS` belong to the demonstration and to tests; nothing is ever
trained on them.
"""

DEMO_SEEDS = range(1000)
