"""One model's ways from slices to a volume, slice by slice: jitter, loss of track, drift past the object's end."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segwise.report import figures
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import count, e, figure, listing
from segwise.report.outcome import Item, Outcome
from segwise.report.overlay import Crop, Crops

SHOWN = 6  # targets at most
CM2 = 100.0  # mm² in one


_FILES = re.compile(r"""\b(checkpoint|tokenizer|base)=("[^"]*"|[^,()"]*)(, )?""")  # paths in a spec


class _Line(NamedTuple):
    """One arm on one target."""

    arm: Arm
    outcome: Outcome
    crop: Crop


def by_slice(gathered: Gathered, place: dict[str, int], crops: Crops) -> str:
    """Area and DSC by slice of targets that several lifts of one model were asked for with the same prompts.

    Args:
        place: label of an arm -> its place in the ranking, which gives its colour.
        crops: what is stored beside records.
    """
    groups = _groups(gathered)
    ordered = sorted(groups, key=lambda key: (-_spread(groups[key], gathered.primary), key))
    drawn: list[str] = []
    for key in ordered:
        lines = [
            _Line(arm, o, crop) for arm, o in groups[key] if (crop := crops(o.last.key)) is not None and _fits(crop)
        ]
        lines = [line for line in lines if _plane(line.outcome) == _plane(lines[0].outcome)]
        if len(lines) > 1 and len(drawn) < SHOWN:
            drawn.append(_drawn(lines, place, len(drawn)))
    if not drawn:
        return ""
    lead = (
        "<p>Targets that one model was asked for through several lifts with the same prompts, those first on which the "
        f"lifts differ most ({count(len(drawn), 'target')} of {len(groups)}). A line that jumps up and down is "
        "jitter; a DSC that falls to 0 inside the grey band is a lost track; an area beyond the band is drift past the "
        "object's end.</p>"
    )
    return lead + "".join(drawn)


def _groups(gathered: Gathered) -> dict[tuple[str, str, Item], list[tuple[Arm, Outcome]]]:
    """(model, prompter, item) -> its lifts' outcomes of the first seed, where there are several."""
    found: dict[tuple[str, str, Item], list[tuple[Arm, Outcome]]] = defaultdict(list)
    for arm in gathered.arms:
        model = re.split(r"[(+]", arm.key[0], maxsplit=1)[0]
        first: dict[Item, Outcome] = {}
        for outcome in sorted(arm.outcomes, key=lambda o: o.last.seed):
            if outcome.last.status == "done" and "lift" in outcome.last.resolved:
                first.setdefault(outcome.item, outcome)
        for item, outcome in first.items():
            found[model, arm.key[1], item].append((arm, outcome))
    return {key: pairs for key, pairs in found.items() if len(pairs) > 1}


def _spread(pairs: Sequence[tuple[Arm, Outcome]], measure: str) -> float:
    """How much the lifts differ in the primary measure."""
    values = [value for _, outcome in pairs if (value := outcome.values.get(measure)) is not None]
    return max(values) - min(values) if values else 0.0


def _fits(crop: Crop) -> bool:
    """Whether it holds a profile."""
    slices, at = crop.get("slices"), crop.get("slices_at")
    return (
        slices is not None
        and at is not None
        and slices.ndim == 2
        and slices.shape[0] == 3
        and slices.shape[1] > 0
        and at.shape == (3,)
    )


def _plane(outcome: Outcome) -> str:
    return str(outcome.last.resolved.get("plane", "axial"))


def _drawn(lines: Sequence[_Line], place: dict[str, int], number: int) -> str:
    """The figure of one target."""
    last = lines[0].outcome.last
    low = min(int(line.crop["slices_at"][0]) for line in lines)
    high = max(int(line.crop["slices_at"][0]) + line.crop["slices"].shape[1] for line in lines)
    x = list(range(low, high))
    reference = _areas(lines[0].crop, 0, low, high)
    areas, scores, told = [], [], _told([line.arm.key[0] for line in lines])
    for i, (arm, _, crop) in enumerate(lines):
        index = place.get(arm.label, len(place) + i)
        own = np.stack([_areas(crop, row, low, high) for row in range(3)])
        both = own[0] + own[1]
        dsc = np.where(both > 0, 2 * own[2] / np.maximum(both, 1e-9), np.nan)
        areas.append(figures.Series(told[i], index, x, own[1].tolist()))
        scores.append(figures.Series(told[i], index, x, dsc.tolist()))
    svg = figures.slices(reference.tolist(), areas, scores, plane=_plane(lines[0].outcome), name=f"slices{number}")
    names = listing([e(name) for name in told])
    through = float(lines[0].crop["slices_at"][1])
    return figure(
        svg,
        f"<b>{e(last.target)}</b> of {e(last.case)}, asked with {e(last.prompter)}: {names}. Slices {through:.3g} mm "
        "apart; grey: the reference.",
    )


def _told(models: Sequence[str]) -> list[str]:
    """Specs without the files of their weights, where those are not what they differ in."""
    short = [re.sub(r"\(\)$", "", re.sub(r",? *\)$", ")", _FILES.sub("", model))) for model in models]
    return short if len(set(short)) == len(set(models)) else list(models)


def _areas(crop: Crop, row: int, low: int, high: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[high - low] cm² of a profile's row, 0 beyond it."""
    first, _, face = (float(v) for v in crop["slices_at"])
    found = np.zeros(high - low)
    values = crop["slices"][row]
    found[int(first) - low : int(first) - low + len(values)] = values * face / CM2
    return found
