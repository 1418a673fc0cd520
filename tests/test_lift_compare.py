"""Lifts of one model side by side: what is counted of each slice, and what the report draws of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

import probes
from report_fakes import Run, crop, join, outcome, profile
from segwise.evaluate.profiles import profile as counted
from segwise.geometry import Grid
from segwise.records.types import Record
from segwise.report.document import page

HEADING = 'id="slices"'


def record(**resolved: object) -> Record:
    return outcome(resolved=resolved)[0][0]


# What is counted


@pytest.mark.parametrize("axes", probes.orientations())
def test_slices_are_counted_towards_the_head_whatever_the_files_axes(axes: str) -> None:
    where = probes.grid("SPL").toward(axes)
    reference = np.zeros(probes.grid("SPL").shape, dtype=bool)
    reference[5:9, 4:10, 3:8] = True  # 4 slices of 30 voxels
    prediction = reference.copy()
    prediction[8] = False
    prediction[4, :2, :2] = True  # a slice too low, one missing at the top
    found = counted(record(), where, _as(reference, where), _as(prediction, where))
    assert found["slices"].tolist() == [
        [0, 0, 0, 30, 30, 30, 30, 0, 0],
        [0, 0, 4, 30, 30, 30, 0, 0, 0],
        [0, 0, 0, 30, 30, 30, 0, 0, 0],
    ]
    assert found["slices_at"].tolist() == pytest.approx([2, 4.0, 2.0 * 2.5])


def _as(mask: np.ndarray, where: Grid) -> np.ndarray:
    """A mask of the scene's SPL grid on another orientation of it."""
    index = np.argwhere(mask)
    found = np.zeros(where.shape, dtype=bool)
    found[tuple(np.rint(where.index(probes.grid("SPL").mm(index))).astype(int).T)] = True
    return found


def test_the_models_own_plane_is_counted() -> None:
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[2, 3:5, 1:6] = True
    where = Grid(mask.shape, probes.grid("SPL").affine)
    for plane, n in (("axial", 1), ("coronal", 2), ("sagittal", 5)):
        found = counted(record(plane=plane), where, mask, mask)["slices"]
        assert (found[0] > 0).sum() == n and np.array_equal(found[0], found[2])
    assert counted(record(), where, ~mask & mask, ~mask & mask) == {}


# What is drawn


def lifted(lift: str, value: float, **more: object) -> Run:
    model = "general" if lift == "slices" else f"general(lift={lift})"
    return outcome(model, "box3d", dsc=(value,), resolved={"lift": lift}, **more)


AREAS = {"slices": [40, 80, 80, 40, 0], "propagate": [40, 75, 0, 0, 0], "memory": [40, 80, 80, 60, 90]}


def crops_of(run: Run):
    """A crop with a profile a lift."""
    lift_of = {r.key: r.resolved.get("lift") for r in run[0]}
    return lambda key: crop() | profile(AREAS[lift_of[key]]) if lift_of.get(key) in AREAS else crop()


def test_lifts_of_a_model_are_drawn_slice_by_slice() -> None:
    run = join(lifted("slices", 0.95), lifted("propagate", 0.6), lifted("memory", 0.8))
    html = page(*run, crops=crops_of(run))
    assert HEADING in html and html.count("Area and DSC by slice") == 1
    part = html[html.index(HEADING) :]
    part = part[: part.index("</section>")]
    assert "liver" in part and "1 target of 1" in part
    assert all(word in part for word in ("area, cm²", "DSC of the slice", "towards the head", "general(lift=memory)"))
    assert page(*run, crops=crops_of(run)) == html


def test_those_that_differ_most_come_first_and_six_are_enough() -> None:
    runs = [
        run
        for i in range(8)
        for run in (lifted("slices", 0.9, case=f"c{i}"), lifted("propagate", 0.9 - i / 10, case=f"c{i}"))
    ]
    run = join(*runs)
    html = page(*run, crops=crops_of(run))
    part = html[html.index(HEADING) :]
    shown = re.findall(r"</b> of (c\d)", part[: part.index("</section>")])
    assert shown == ["c7", "c6", "c5", "c4", "c3", "c2"] and "6 targets of 8" in part


@pytest.mark.parametrize(
    "run",
    [
        lifted("slices", 0.9),
        join(lifted("slices", 0.9), outcome("special", "box3d", resolved={"lift": "memory"})),
        join(lifted("slices", 0.9), outcome("general(lift=memory)", "clicks", resolved={"lift": "memory"})),
        join(outcome("floor", "box3d"), outcome("floor(a=1)", "box3d")),
        join(lifted("slices", 0.9), lifted("orthogonal", 0.9)),
        join(lifted("slices", 0.9), lifted("propagate", 0.0, status="failed", reason="out of memory")),
    ],
    ids=["one lift", "two models", "two prompters", "no lift", "no profile stored", "failed"],
)
def test_without_two_lifts_to_compare_there_is_no_section(run: Run) -> None:
    assert HEADING not in page(*run, crops=crops_of(run))


def test_damaged_profiles_and_other_planes_do_no_harm() -> None:
    run = join(lifted("slices", 0.9), lifted("propagate", 0.6))
    bad = [
        {"slices": np.zeros((2, 4))},
        {"slices": np.zeros((3, 0)), "slices_at": np.zeros(3)},
        {"slices": np.zeros(3)},
    ]
    for odd in bad:
        assert HEADING not in page(*run, crops=lambda _, odd=odd: crop() | odd)
    other = outcome("general(lift=memory)", "box3d", resolved={"lift": "memory", "plane": "coronal"})
    run = join(lifted("slices", 0.9), other)
    assert HEADING not in page(*run, crops=crops_of(run))


def test_doubtful_weights_are_drawn_too() -> None:
    run = join(lifted("slices", 0.9, weights="unknown:12"), lifted("memory", 0.6, weights="unknown:12"))
    assert HEADING in page(*run, crops=crops_of(run))
