"""Procedural volumes, deterministic by seed: shapes → phantoms → image formation → scans.

`torso`, `head` and `imaging` make the demonstration. `worlds` (things of every shape) and `regions` (eight parts of the
body) feed training through `appearance`; `corrupt` damages a scan in five levels.

Nothing here comes from a patient. Seeds below `DEMO_SEEDS` belong to the demonstration and to tests; nothing is ever
trained on them.
"""

DEMO_SEEDS = range(1000)
GENERATOR = 3  # raised whenever a seed of `worlds`, `regions` or `appearance` gives something else than before
