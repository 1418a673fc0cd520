"""Prompts: marks in mm, placed on grids a person can check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segwise.errors import PromptError
from segwise.geometry import Grid, Volume
from segwise.prompt import Box, MaskMark, Points, Prompt, Stroke, Text

AFFINE = np.array([[0, 0, -1.5, 10], [0, -2, 0, 4], [3, 0, 0, 7], [0, 0, 0, 1.0]])  # d to S, h to P, w to L
AXES = [a + b + c for a in "RL" for b in "AP" for c in "SI"] + ["SPL", "PSR", "ILP", "AIR", "SRA", "LIP"]


@pytest.fixture
def grid() -> Grid:
    return Grid((5, 6, 7), AFFINE)


def everything(grid: Grid) -> Prompt:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1:3, 2, 3:5] = True
    return Prompt(
        (
            Box.of(grid, (1, 2, 3), (2, 4, 6)),
            Points(grid.mm([(1, 2, 3), (4, 5, 6)]), [True, False]),
            Stroke(grid.mm([(0, 0, 0), (0, 1, 1)]), closed=True, positive=False),
            MaskMark(Volume.of(mask, grid)),
            Text("liver"),
        )
    )


def test_placing_gives_back_the_voxels_it_was_made_from(grid):
    placed = everything(grid).on(grid)
    assert placed.boxes.tolist() == [[[1, 2, 3], [2, 4, 6]]]
    assert np.allclose(placed.points, [(1, 2, 3), (4, 5, 6), (0, 0, 0), (0, 1, 1)])
    assert placed.positive.tolist() == [True, False, False, False]
    assert np.argwhere(placed.mask).tolist() == [[1, 2, 3], [1, 2, 4], [2, 2, 3], [2, 2, 4]]
    assert placed.words == ("liver",)


@pytest.mark.parametrize("axes", AXES)
def test_the_same_marks_on_a_turned_grid_hold_the_same_voxels(grid, axes):
    turned = grid.toward(axes)
    box = Prompt((Box.of(grid, (1, 2, 3), (2, 4, 6)),))
    (low, high) = box.on(turned).boxes[0]
    there = np.zeros(turned.shape, dtype=bool)
    there[tuple(map(slice, low, high))] = True
    back = {tuple(np.rint(grid.index(turned.mm(i))[0]).astype(int)) for i in np.argwhere(there)}
    assert back == {(1, h, w) for h in (2, 3) for w in (3, 4, 5)}


def test_a_box_between_voxels_keeps_the_voxel_of_its_centre(grid):
    thin = Prompt((Box(grid.mm((2.1, 1.6, 2.0))[0], grid.affine[:3, :3].T * np.array([[0.2], [1.0], [1.0]])),))
    assert thin.on(grid).boxes.tolist() == [[[2, 2, 2], [3, 3, 3]]]


def test_outside_points_are_dropped_and_boxes_cut(grid):
    placed = Prompt((Points(grid.mm([(1, 1, 1), (9, 1, 1)]), [True, True]), Box.of(grid, (-2, -3, 2), (3, 4, 12)))).on(
        grid
    )
    assert placed.points.tolist() == [[1, 1, 1]]
    assert placed.boxes.tolist() == [[[0, 0, 2], [3, 4, 7]]]
    assert not len(Prompt((Box.of(grid, (9, 9, 9), (10, 10, 10)),)).on(grid).boxes)


def test_json_repeats_every_bit(grid):
    prompt = everything(grid)
    again = Prompt.from_json(prompt.to_json())
    assert again == prompt
    assert again.digest == prompt.digest
    assert hash(again) == hash(prompt)


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 3), min_size=1, max_size=5))
def test_moving_there_and_back_keeps_points(places):
    turn = np.array([[0, -1, 0, 5.5], [1, 0, 0, -2], [0, 0, 1, 1], [0, 0, 0, 1.0]])
    prompt = Prompt((Points(np.array(places), [True] * len(places)),))
    back = prompt.moved(turn).moved(np.linalg.inv(turn))
    assert np.allclose(back.marks[0].xyz_mm, places, atol=1e-9)


def test_moving_an_image_and_its_prompt_together_changes_no_voxel(grid):
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    moved = Grid(grid.shape, mirror @ grid.affine)
    assert np.array_equal(everything(grid).moved(mirror).on(moved).boxes, everything(grid).on(grid).boxes)
    assert np.array_equal(everything(grid).moved(mirror).on(moved).mask, everything(grid).on(grid).mask)


def test_a_round_only_appends(grid):
    first = Prompt((Text("liver"),))
    later = first.also(Points(grid.mm((1, 1, 1)), [True]))
    assert [m.kind for m in later.since(first)] == ["points"]
    assert later.since(None) == later.marks
    with pytest.raises(PromptError, match="append"):
        Prompt((Text("spleen"),)).since(first)


def test_interactions_count_what_a_person_does(grid):
    assert everything(grid).n_interactions == 1 + 2 + 1 + 1
    assert Prompt((Text("liver"),)).n_interactions == 0
    assert everything(grid).kinds == {"box", "points", "stroke", "mask", "text"}


def test_a_mark_of_a_person_is_written_as_before():
    """Digests of prompts in ledgers that stand already do not change."""
    marks = Prompt((Points(np.zeros((1, 3)), np.array([True])), Box(np.zeros(3), np.eye(3)))).to_json()
    assert all("drawn" not in mark for mark in marks) and Prompt.from_json(marks).n_interactions == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Points(np.array([[0, 0, np.nan]]), [True]), "finite"),
        (lambda: Points(np.zeros((2, 3)), [True]), "2 places and 1 signs"),
        (lambda: Box.of(Grid((5, 6, 7), AFFINE), (1, 1, 1), (1, 2, 2)), "low < high"),
        (lambda: Stroke(np.zeros((0, 3))), "no point"),
        (lambda: Prompt.from_json([{"kind": "wish"}]), 'no mark "wish"'),
        (lambda: Prompt.from_json([{"kind": "points"}]), "not a prompt"),
    ],
)
def test_what_is_no_prompt_says_so(make, message):
    with pytest.raises(PromptError, match=message):
        make()
