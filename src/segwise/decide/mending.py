"""How long it takes to mend a mask: what is wrong with it, in one formula for cost and workflow.

A mask just below good enough takes `repair_minutes`. From there the minutes rise linearly as DSC falls, up to drawing
anew by hand, `hand_minutes`, at and below `redo_below`: nobody mends what is quicker drawn. Linear in DSC is linear in
the voxels that are wrong: 2 (1 - DSC) is their number (too many and too few together) as a share of the mean size of
reference and mask, so at DSC 0.5 as much is wrong as there is to draw.

Source of the direction: Kiser et al., J Digit Imaging 2021;34:541, abstract, seen 2026-11: minutes to correct 329
masks of the thoracic cavity fall with volumetric DSC (Spearman -0.25), more so with surface DSC (-0.48), and rise with
the added path length (0.69). So DSC tells the minutes of one mask badly; it is what every round of a run has. The
shape, and where a person starts anew, are our assumptions; the sensitivity moves all three numbers.
"""

from __future__ import annotations

from segwise.decide.scenario import Scenario


def mending_s(dsc: float | None, scenario: Scenario, *, wanted: float | None = None) -> float:
    """Seconds of a person to bring a mask that is not good enough to what is wanted.

    Args:
        dsc: of the mask, None where nobody can say (drawn anew).
        scenario: minutes of mending and drawing, and where a person starts anew.
        wanted: DSC that is good enough, None for the scenario's. A mask at or above it that a reader misjudged takes
            as long as one just below.

    Returns:
        From 60 `repair_minutes`, or `hand_minutes` where these are fewer, to 60 `hand_minutes`. Never less for a
        lower DSC, nor for a higher `wanted`.
    """
    anew = 60 * scenario["hand_minutes"]
    least = min(60 * scenario["repair_minutes"], anew)
    good = scenario["accept_dsc"] if wanted is None else wanted
    if drawn_anew(dsc, scenario):
        return anew
    assert dsc is not None
    if dsc >= good:
        return least
    return least + (anew - least) * (good - dsc) / (good - scenario["redo_below"])


def drawn_anew(dsc: float | None, scenario: Scenario) -> bool:
    """A person who is not content with this mask throws it away."""
    return dsc is None or dsc <= scenario["redo_below"]


def in_words(scenario: Scenario) -> str:
    """How a page tells it; plain text."""
    least, anew = min(scenario["repair_minutes"], scenario["hand_minutes"]), scenario["hand_minutes"]
    lost = "the looks and marks that came before are not given back"
    if scenario["redo_below"] >= scenario["accept_dsc"]:
        return f"a mask that is not good enough is not mended but drawn anew, {anew:g} minutes; {lost}"
    if least == anew:
        return f"mending takes as long as drawing anew, {anew:g} minutes; {lost}"
    return (
        f"mending takes {least:g} minutes just below good enough and rises linearly to drawing anew, {anew:g} minutes, "
        f"at DSC {scenario['redo_below']:g} and below; {lost}"
    )
