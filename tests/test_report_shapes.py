"""Shapes in levels: the phantom has what its names say, and the report finds a planted break."""

from __future__ import annotations

import numpy as np
import pytest

from report_fakes import join, outcome
from segwise.report import page, shapes
from segwise.report.gather import gather
from segwise.report.turning import broken
from segwise.synth.imaging import ct
from segwise.synth.lesions import CONTRAST_HU, KINDS, LEVELS, lesions

PEOPLE = [f"p{i}" for i in range(10)]


def run(curve, *, noise=0.01, people=PEOPLE):
    rng = np.random.default_rng(0)
    runs = []
    for person in people:
        for level in LEVELS:
            value = float(np.clip(curve(level) + rng.normal(0, noise), 0, 1))
            target = f"branching lesion level {level}"
            runs.append(outcome("general", "box3d", case=person, subject=person, target=target, dsc=(value,)))
    return join(*runs)


def line_of(planted):
    (family,) = shapes.families(gather(*planted))
    (line,) = family.accuracy
    return line


def test_a_planted_break_at_level_4_is_found():
    line = line_of(run(lambda level: 0.8 if level < 4 else 0.5))
    found = broken(line.places, line.values)
    assert (found.verdict, found.holds, found.fails) == ("breaks", 3, 4)
    html = page(*run(lambda level: 0.8 if level < 4 else 0.5))
    assert "branching lesion" in html and "<b>breaks by level 4</b>" in html


def test_noise_and_few_persons_cannot_decide():
    for planted in (run(lambda level: 0.7, noise=0.25), run(lambda level: 0.8 - 0.1 * level, people=PEOPLE[:5])):
        line = line_of(planted)
        assert broken(line.places, line.values).verdict == "cannot decide"


def test_other_targets_have_no_such_section():
    assert shapes.section(gather(*outcome())) == ""


@pytest.fixture(scope="module")
def scan():
    return ct(lesions(1, spacing_mm=3.0), 1, spacing_mm=(4.0, 3.0, 3.0))


def test_every_kind_has_every_level(scan):
    assert sorted(scan.names.values()) == sorted(f"{kind} lesion level {n}" for kind in KINDS for n in LEVELS)


def test_levels_are_what_they_say(scan):
    mask = {name: scan.labels == i for i, name in scan.names.items()}
    image = scan.volume.array[0].astype(float)
    ground = 60.0
    for level, contrast in zip(LEVELS, CONTRAST_HU, strict=True):
        one = mask[f"vanishing lesion level {level}"]
        assert image[one].mean() - ground == pytest.approx(contrast, abs=8)

    def rim(one):
        inside = one.copy()
        for axis in range(3):
            inside &= np.roll(one, 1, axis) & np.roll(one, -1, axis)
        return (one & ~inside).sum() / one.sum()

    assert rim(mask["branching lesion level 5"]) > rim(mask["branching lesion level 1"]) * 1.15
    assert rim(mask["irregular lesion level 5"]) > rim(mask["irregular lesion level 1"]) * 1.1


def test_a_seed_repeats_and_another_differs():
    one, again, other = (lesions(seed, spacing_mm=4.0).labels for seed in (2, 2, 3))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_a_lesion_stays_in_its_place(scan):
    """No more of any lesion than its cell holds: rough borders throw nothing far away."""
    for i, name in scan.names.items():
        places = scan.volume.grid.mm(np.argwhere(scan.labels == i))
        assert np.ptp(places, axis=0).max() < 50, name
