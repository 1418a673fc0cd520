"""Failure signatures as stored beside records, read again, and what each of them is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segwise.report.gather import Arm
from segwise.report.outcome import Outcome
from segwise.report.overlay import Crops

SIGNATURES = {  # name -> what it is called
    "leak": "leak",
    "discontinuity": "discontinuity",
    "hallucination": "hallucination",
    "overrun": "over-propagation",
    "decay": "decay",
}
SAID = {  # component -> what was found, with its value
    "outside": "{:.0%} of it beyond the reference's border",
    "beside": "{:.0%} of it outside the reference",
    "excess": "{:.2f} volumes of the reference too much",
    "beyond": "{:.0%} of it beside the box",
    "filled": "fills {:.0%} of the box",
    "over": "sticks out of the box by {:.0%} of its size a side",
    "slice": "{:.0%} beside the box on its own slice",
    "wide": "{:.0%} of it far beside the box",
    "burst": "widens at once by {:.0%} of its mean area",
    "inner": "the image's edges lie {:.1f} voxels inside its outline",
    "place": "{:.0%} of its outline runs beyond the image's edges at one place",
    "foreign": "a tenth of it looks like its surroundings",
    "gaps": "{:.0%} of its slices empty in between",
    "holes": "holes of {:.0%} of its area",
    "odd": "{:.0%} of it disagrees with both neighbouring slices",
    "detour": "slices go back and forth ({:.0%} of their area)",
    "jumps": "slices jump by {:.2f} radii",  # of older runs, as the next
    "steps": "area jumps (log ratio {:.2f} a slice)",
    "stairs": "{:.0%} of its slices repeat the one before",
    "apart": "{:.0%} of it apart from the reference",
    "astray": "{:.0%} of it in pieces that do not touch the box",
    "aside": "{:.0%} of it in pieces beside the box",
    "crumbs": "{:.0%} of it crumbs",
    "pieces": "many pieces (log of their number {:.1f})",
    "rough": "{:.0%} of it thinner than three voxels",
    "past": "runs past an end by {:.0%} of the target's length",
    "volume": "runs past the ends with {:.0%} of the volume",
    "strange": "at an end, over {:.0%} of its slices, it looks like its surroundings",  # of older runs
    "blunt": "ends wide, where neither tissue nor edges are those of its middle (grade {:.2f})",
    "tail": "hardly changes over {:.0%} of its slices at an end",
    "lost": "{:.0%} of the slices never reached",
    "falling": "finds {:.0%} less of the target far from the prompt",
    "short": "leaves {:.0%} of the box's width untouched",
    "fading": "loses {:.0%} of its area away from the prompt",
    "farther": "{:.0%} more of its outline lies within the image's edges away from the prompt",
    "goes_on": "ends bluntly, and its tissue goes on beyond ({:.2f})",
    "gnawed": "{:.0%} more of its tissue is missing in gaps away from the prompt",
    "waning": "loses {:.0%} of its area away from the prompt",
    "ragged": "frays away from the prompt (compactness {:.2f} less)",
}


@dataclass(frozen=True)
class Flag:
    """A flag as stored by `evaluate.flagged`.

    Attributes:
        signature, component: which one; value: of the component; severity: in units of what good masks reach.
        axis, slice: index of the slice to look at, along which axis of the array.
        low, high: corners (d, h, w) of the box to look at, half-open.
    """

    signature: str
    component: str
    value: float
    severity: float
    axis: int
    slice: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Flag:
        """Raises KeyError, TypeError or ValueError if it is none."""
        low, high = ((int(d), int(h), int(w)) for d, h, w in (item["low"], item["high"]))
        axis = (0, 1, 2).index(int(item["axis"]))
        numbers = float(item["value"]), float(item["severity"]), axis, int(item["slice"])
        return cls(str(item["signature"]), str(item["component"]), *numbers, low, high)


@dataclass(frozen=True, eq=False)
class Flagged:
    """One result with its flags, the gravest first, and every severity without the reference by signature."""

    arm: Arm
    outcome: Outcome
    seen: tuple[Flag, ...]
    blind: tuple[Flag, ...]
    severities: Mapping[str, float]

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Those with the reference; where there is none, those without it."""
        return self.seen or self.blind

    @property
    def grave(self) -> tuple[bool, float]:
        """For sorting, the gravest first: those with the reference before those without it."""
        return not self.seen, -(self.flags[0].severity if self.flags else 0.0)


def read(arm: Arm, outcome: Outcome, crops: Crops) -> Flagged | None:
    """What was stored of a result; None if nothing was, or if it is of another version or damaged."""
    crop = crops(outcome.last.key) if outcome.last.status == "done" else None
    text = None if crop is None else crop.get("failures")
    if text is None:
        return None
    try:
        value = json.loads(str(text))
        seen, blind = (tuple(map(Flag.of, value[name])) for name in ("flags", "blind_flags"))
        severities = {str(name): float(v) for name, v in value["blind"].items()}
        return Flagged(arm, outcome, seen, blind, severities) if severities else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
