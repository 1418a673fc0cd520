"""Every metric: it returns what its card declares, in the range declared, and says why where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwise import catalog
from segwise.geometry import Grid
from segwise.pair import Pair, reason
from segwise.prompt import Box, Points, Prompt
from segwise.spec import Spec

NAMES = catalog.names("metrics")
GRID = Grid((5, 6, 7), np.diag([3.0, 1.5, 0.8, 1.0]))
NONE = np.zeros(GRID.shape, dtype=bool)
SOME = NONE.copy()
SOME[1:4, 2:5, 1:6] = True
CLICK = Prompt((Points(np.zeros((1, 3)), np.ones(1, dtype=bool)),))
BOX = ((1, 1, 2), (4, 6, 6))


def asked(grid, low=BOX[0], high=BOX[1]):
    """A click and a box that lie the same way in every turn of the array."""
    return Prompt((*CLICK.marks, Box.of(grid, low, high)))


def scored(name, reference, prediction, grid=GRID, prompt=None):
    module, args = catalog.load("metrics", Spec(name))
    pair = Pair(reference, prediction, grid, asked(grid) if prompt is None else prompt)
    return module.score([pair] * 5 if catalog.card("metrics", name).curve else pair, **args)


def in_range(card, values):
    for measure, value in values.items():
        declared = card.measures[measure]
        if np.isnan(value):
            assert reason(value) not in ("", "not a number"), measure
            continue
        assert declared.low is None or value >= declared.low, measure
        assert declared.high is None or value <= declared.high, measure


@pytest.mark.parametrize("name", NAMES)
class TestEveryMetric:
    def test_the_card_is_complete(self, name):
        card = catalog.card("metrics", name)
        assert card.title and card.summary and card.source and card.edge_cases
        assert all(measure.meaning for measure in card.measures.values())

    @pytest.mark.parametrize("reference", ["absent", "empty", "there"])
    @pytest.mark.parametrize("prediction", ["empty", "there"])
    def test_it_returns_what_it_declares_whatever_is_missing(self, name, reference, prediction):
        masks = {"absent": None, "empty": NONE, "there": SOME}
        values = scored(name, masks[reference], masks[prediction])
        card = catalog.card("metrics", name)
        assert tuple(values) == tuple(card.measures)
        in_range(card, values)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
    def test_values_lie_in_their_range(self, name, seed, share):
        masks = np.random.default_rng(seed).random((2, *GRID.shape)) < share
        in_range(catalog.card("metrics", name), scored(name, masks[0], masks[1]))

    @pytest.mark.parametrize("turn", ["flipped", "transposed", "framed"])
    def test_how_the_array_lies_does_not_matter(self, name, turn):
        a, b = np.random.default_rng(3).random((2, *GRID.shape)) < 0.3
        affine = GRID.affine
        if turn == "flipped":
            c, d, grid = a[::-1, :, ::-1], b[::-1, :, ::-1], GRID
            prompt = asked(grid, (1, 1, 1), (4, 6, 5))
        elif turn == "transposed":
            c, d = a.transpose(2, 0, 1), b.transpose(2, 0, 1)
            grid = Grid(c.shape, affine[:, [2, 0, 1, 3]])
            prompt = asked(GRID)
        else:
            c, d = np.pad(a, 2), np.pad(b, 2)
            grid = Grid(c.shape, affine)
            prompt = asked(grid, np.array(BOX[0]) + 2, np.array(BOX[1]) + 2)
        one, two = scored(name, a, b), scored(name, c, d, grid, prompt)
        assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-9, nan_ok=True)

    def test_a_perfect_prediction_has_the_best_values(self, name):
        card = catalog.card("metrics", name)
        for measure, value in scored(name, SOME, SOME.copy()).items():
            declared = card.measures[measure]
            if declared.high is not None and declared.higher_is_better:
                assert value == declared.high
            elif declared.low is not None and not declared.higher_is_better and declared.unit == "mm":
                assert value == declared.low

    def test_inputs_are_left_alone(self, name):
        reference, prediction = SOME.copy(), np.roll(SOME, 1, axis=2)
        for mask in (reference, prediction):
            mask.setflags(write=False)
        scored(name, reference, prediction)
