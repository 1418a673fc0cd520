"""Metrics: numbers a person can check, undefined cases, and parity with surface-distance and MONAI (stored figures)."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pairs import random_pair, real_pair
from segwise.errors import GridError, SpecError
from segwise.geometry import Grid
from segwise.metrics import curve, overlap, surface, volume
from segwise.pair import Pair, between, reason, undefined
from segwise.prompt import Box, Points, Prompt, Stroke, Text

FIGURES = json.loads((Path(__file__).parent / "figures" / "metrics.json").read_text(encoding="utf-8"))


def grid_of(shape, spacing=(3.0, 1.5, 0.8)):
    return Grid(shape, np.diag([*spacing, 1.0]))


def dot(*index, shape=(5, 6, 7)):
    mask = np.zeros(shape, dtype=bool)
    mask[index] = True
    return mask


class TestParity:
    """Equal to 1e-9 with surface-distance 0.1; against MONAI 1.6 see the tolerances and `surface.score`."""

    @pytest.mark.parametrize("row", [r for r in FIGURES if "bits" in r], ids=lambda r: str(r["spacing_mm"]))
    def test_parity_on_small_masks(self, row):
        shape = tuple(row["shape"])
        masks = [np.frombuffer(bytes.fromhex(b), dtype=np.uint8) for b in row["bits"]]
        masks = [np.unpackbits(m, count=int(np.prod(shape))).astype(bool).reshape(shape) for m in masks]
        self.compare(row, *masks)

    @pytest.mark.parametrize(
        "row", [r for r in FIGURES if "real" in r], ids=lambda r: f"{r['real']} {r['tolerance_mm']}"
    )
    def test_parity_on_real_masks(self, row, data):
        reference, prediction, spacing = real_pair(data, row["real"])
        assert list(spacing) == row["spacing_mm"]
        self.compare(row, reference, prediction)

    def compare(self, row, reference, prediction):
        pair = Pair(reference, prediction, grid_of(reference.shape, row["spacing_mm"]))
        ours = {**overlap.score(pair), **surface.score(pair, tolerance_mm=row["tolerance_mm"])}
        theirs, monai = row["surface_distance"], row["monai"]
        assert ours["DSC"] == pytest.approx(theirs["DSC"], abs=1e-12)
        assert ours["NSD"] == pytest.approx(theirs["NSD"], abs=1e-9)
        assert ours["HD95"] == pytest.approx(theirs["HD95"], abs=1e-9)
        assert ours["ASSD"] == pytest.approx(np.average(theirs["averages"], weights=theirs["areas"]), abs=1e-9)
        assert ours["DSC"] == pytest.approx(monai["DSC"], abs=1e-6)
        assert ours["NSD"] == pytest.approx(monai["NSD_subvoxels"], abs=1e-6)
        assert ours["HD95"] == pytest.approx(monai["HD95"], abs=max(row["spacing_mm"]))  # voxels there, area here
        assert ours["ASSD"] == pytest.approx(monai["ASSD"], abs=max(row["spacing_mm"]))
        assert ours["NSD"] == pytest.approx(monai["NSD_voxels"], abs=0.34)


class TestOverlap:
    def test_counts_by_hand(self):
        a, b = np.zeros((2, 5, 6, 7), dtype=bool)
        a[0, 0, :4] = True  # 4 voxels
        b[0, 0, 2:7] = True  # 5, of which 2 are common
        found = overlap.score(Pair(a, b, grid_of((5, 6, 7))))
        assert found == pytest.approx({"DSC": 4 / 9, "IoU": 2 / 7, "sensitivity": 2 / 4, "precision": 2 / 5})

    @pytest.mark.parametrize(
        ("reference", "prediction", "expected", "why"),
        [
            (None, dot(1, 1, 1), {}, "no reference"),
            (dot(), dot(), {"DSC": 1, "IoU": 1, "sensitivity": 1, "precision": 1}, ""),
            (~dot(), ~dot(), {}, "both empty"),
            (~dot(), dot(1, 1, 1), {"DSC": 0, "IoU": 0, "precision": 0}, "reference empty"),
            (dot(1, 1, 1), ~dot(), {"DSC": 0, "IoU": 0, "sensitivity": 0}, "prediction empty"),
        ],
        ids=["no reference", "full", "both empty", "reference empty", "prediction empty"],
    )
    def test_what_is_empty(self, reference, prediction, expected, why):
        found = overlap.score(Pair(reference, prediction, grid_of((5, 6, 7))))
        assert {k: v for k, v in found.items() if not np.isnan(v)} == expected
        assert all(reason(found[k]) == why for k in found if k not in expected)


class TestSurface:
    """Two voxels: each has a closed surface of 8 elements, one a corner; distances go from corner to corner."""

    @pytest.mark.parametrize(("axis", "step"), [(0, 3.0), (1, 1.5), (2, 0.8)])
    def test_two_voxels_a_known_distance_apart(self, axis, step):
        there = [1, 1, 1]
        there[axis] = 4
        pair = Pair(dot(1, 1, 1), dot(*there), grid_of((5, 6, 7)))
        found = surface.score(pair, tolerance_mm=2.5 * step)
        assert found["HD95"] == pytest.approx(3 * step)
        assert found["ASSD"] == pytest.approx(2.5 * step)  # half of the corners are 2, half 3 voxels away
        assert found["NSD"] == pytest.approx(0.5)
        assert surface.score(pair, tolerance_mm=3 * step)["NSD"] == 1

    def test_a_tolerance_counts_as_reached_in_spite_of_rounding(self):
        pair = Pair(dot(1, 1, 1), dot(1, 1, 4), grid_of((5, 6, 7), (1, 1, 0.1)))
        assert surface.score(pair, tolerance_mm=0.3)["NSD"] == 1

    def test_area_of_a_large_block_is_nearly_that_of_its_faces(self):
        mask = np.zeros((30, 40, 50), dtype=bool)
        mask[5:25, 5:35, 5:45] = True  # 20 x 30 x 40 voxels of 3 x 1.5 x 0.8 mm
        found = between(mask, mask, np.diag([3.0, 1.5, 0.8]))
        faces = 2 * (60 * 45 + 60 * 32 + 45 * 32)
        assert found.reference_mm2.sum() == pytest.approx(faces, rel=0.03)  # edges and corners are cut

    def test_a_sheared_grid_is_measured_as_it_lies(self):
        affine = np.diag([3.0, 1.5, 0.8, 1.0])
        affine[1, 0] = 4.0  # a step along d is (3, 4, 0) mm: 5 mm long
        pair = Pair(dot(1, 1, 1), dot(2, 1, 1), Grid((5, 6, 7), affine))
        distances = {round(float(mm), 6) for mm in pair.surfaces.reference_mm}
        assert distances == {0.0, round(float(np.hypot(3, 4 - 1.5)), 6), 5.0}  # some corners meet one 1.5 mm back

    @pytest.mark.parametrize("turn", [np.eye(3), np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]])
    def test_every_way_to_a_distance_finds_the_same(self, monkeypatch, turn):
        """Tree, transform and the transform in float32, straight and oblique."""
        a, b = random_pair(2)
        linear = turn @ np.diag([3.0, 1.5, 0.8])
        by_tree = between(a, b, linear)
        monkeypatch.setattr("segwise.pair.FEW", 0)
        by_transform = between(a, b, linear)
        monkeypatch.setattr("segwise.pair.LARGE", 0)
        roughly = between(a, b, linear)
        assert roughly.reference_mm.dtype == np.float32
        for side in ("reference_mm", "prediction_mm"):
            np.testing.assert_allclose(getattr(by_transform, side), getattr(by_tree, side), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(getattr(roughly, side), getattr(by_tree, side), rtol=1e-6)

    def test_a_sheared_grid_is_measured_as_it_lies_however_many(self, monkeypatch):
        a, b = random_pair(2)
        linear = np.array([[3.0, 0.4, 0], [0, 1.5, 0], [0, 0, 0.8]])
        by_tree = between(a, b, linear)
        monkeypatch.setattr("segwise.pair.FEW", 0)
        np.testing.assert_array_equal(between(a, b, linear).reference_mm, by_tree.reference_mm)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
    def test_symmetry_and_scale(self, seed, factor):
        a, b = np.random.default_rng(seed).random((2, 4, 5, 6)) < 0.3
        if not a.any() or not b.any():
            return
        here = surface.score(Pair(a, b, grid_of(a.shape)), tolerance_mm=1.0)
        assert surface.score(Pair(b, a, grid_of(a.shape)), tolerance_mm=1.0) == pytest.approx(here)
        scaled = Grid(a.shape, np.diag([3.0 * factor, 1.5 * factor, 0.8 * factor, 1]))
        there = surface.score(Pair(a, b, scaled), tolerance_mm=1.0 * factor)
        assert there["NSD"] == pytest.approx(here["NSD"], abs=1e-9)
        assert there["HD95"] == pytest.approx(here["HD95"] * factor)
        assert there["ASSD"] == pytest.approx(here["ASSD"] * factor)

    @pytest.mark.parametrize(
        ("reference", "prediction", "nsd", "why"),
        [
            (None, dot(1, 1, 1), None, "no reference"),
            (~dot(), ~dot(), None, "both empty"),
            (~dot(), dot(1, 1, 1), 0.0, "reference empty"),
            (dot(1, 1, 1), ~dot(), 0.0, "prediction empty"),
        ],
        ids=["no reference", "both empty", "reference empty", "prediction empty"],
    )
    def test_what_is_empty(self, reference, prediction, nsd, why):
        found = surface.score(Pair(reference, prediction, grid_of((5, 6, 7))))
        assert reason(found["HD95"]) == reason(found["ASSD"]) == why
        assert reason(found["NSD"]) == why if nsd is None else found["NSD"] == nsd

    def test_a_negative_tolerance_is_refused(self):
        with pytest.raises(SpecError, match="tolerance_mm is -1"):
            surface.score(Pair(dot(1, 1, 1), dot(1, 1, 1), grid_of((5, 6, 7))), tolerance_mm=-1)

    def test_a_large_volume_takes_well_below_a_second(self):
        d, h, w = np.ogrid[:256, :256, :256]
        mask = (d - 100) ** 2 + (h - 120) ** 2 + (w - 90) ** 2 < 17**2  # 20k voxels
        pair = Pair(mask, np.roll(mask, (3, -2, 4), axis=(0, 1, 2)), grid_of(mask.shape))
        surface.score(Pair(dot(1, 1, 1), dot(1, 1, 1), grid_of((5, 6, 7))))  # the table is made once
        start = time.process_time()
        surface.score(pair)
        assert time.process_time() - start < 1.0

    def test_distances_are_made_once(self):
        pair = Pair(dot(1, 1, 1), dot(1, 2, 1), grid_of((5, 6, 7)))
        assert pair.surfaces is pair.surfaces


class TestVolume:
    def test_by_hand(self):
        a, b = np.zeros((2, 10, 10, 10), dtype=bool)
        a[:5], b[:6] = True, True  # 500 and 600 voxels of 3.6 mm3
        found = volume.score(Pair(a, b, grid_of(a.shape)))
        expected = {"volume_ml": 2.16, "volume_error_ml": 0.36, "relative_volume_error": 0.2}
        assert found == pytest.approx(expected)

    def test_what_is_empty(self):
        found = volume.score(Pair(~dot(), dot(), grid_of((5, 6, 7))))
        assert found["volume_error_ml"] == found["volume_ml"] > 0
        assert reason(found["relative_volume_error"]) == "reference empty"
        assert reason(volume.score(Pair(None, dot(), grid_of((5, 6, 7))))["volume_error_ml"]) == "no reference"


def rounds(*n_right, kinds=None, n=10):
    """A pair a round: a line of 10 reference voxels of which the prediction has some; round 0 a box, then clicks."""
    grid = grid_of((1, 1, 20), (1, 1, 1))
    reference = np.zeros(grid.shape, dtype=bool)
    reference[0, 0, :n] = True
    prompt, pairs = Prompt(), []
    kinds = kinds or ["box"] + ["points"] * (len(n_right) - 1)
    for i, (right, kind) in enumerate(zip(n_right, kinds, strict=True)):
        place = np.full((1, 3), float(i))
        mark = {"box": Box.of(grid, (0, 0, 0), (1, 1, 5)), "points": Points(place, np.ones(1, dtype=bool))}
        mark |= {"stroke": Stroke(place), "text": Text("line")}
        prompt = prompt.also(mark[kind])
        prediction = np.zeros(grid.shape, dtype=bool)
        prediction[0, 0, :right] = True
        pairs.append(Pair(reference, prediction, grid, prompt))
    return pairs


class TestCurve:
    """DSC of n of 10 voxels is 2n / (10 + n): 5 -> 2/3, 6 -> .75, 7 -> .8235, 8 -> .8889, 9 -> .9474, 10 -> 1."""

    DSC = tuple(2 * n / (10 + n) for n in range(11))

    def test_a_box_and_five_clicks_as_in_the_challenge(self):
        found = curve.score(rounds(2, 5, 6, 7, 8, 9))
        d = self.DSC
        assert found["DSC_AUC"] == pytest.approx((d[5] + d[9]) / 2 + d[6] + d[7] + d[8])
        assert found["DSC_final"] == pytest.approx(d[9])
        assert (found["n_to_DSC80"], found["n_to_DSC90"]) == (4, 6)  # interactions, the box is one

    def test_perfect_everywhere_is_four(self):
        found = curve.score(rounds(*[10] * 6))
        assert (found["DSC_AUC"], found["NSD_AUC"], found["DSC_final"], found["NSD_final"]) == (4, 4, 1, 1)

    def test_clicks_alone_count_from_the_first(self):
        found = curve.score(rounds(5, 6, 7, kinds=["points"] * 3), steps=3)
        assert found["DSC_AUC"] == pytest.approx((self.DSC[5] + self.DSC[7]) / 2 + self.DSC[6])

    def test_a_content_user_keeps_the_last_score(self):
        assert curve.score(rounds(2, 5, 10))["DSC_AUC"] == pytest.approx((self.DSC[5] + 1) / 2 + 3)
        assert curve.score(rounds(10))["DSC_AUC"] == 4

    def test_a_curve_too_short_has_no_area(self):
        found = curve.score(rounds(2, 5, 6))
        assert reason(found["DSC_AUC"]) == reason(found["NSD_AUC"]) == "2 click rounds, 5 needed"
        assert found["DSC_final"] == pytest.approx(self.DSC[6])

    def test_what_is_not_reached(self):
        found = curve.score(rounds(2, 5, 7))
        assert found["n_to_DSC80"] == 3
        assert reason(found["n_to_DSC90"]) == "DSC 0.9 not reached"

    def test_text_is_no_interaction(self):
        assert curve.score(rounds(9, kinds=["text"]))["n_to_DSC90"] == 0

    def test_strokes_are_clicks(self):
        assert curve.score(rounds(5, 5, kinds=["stroke"] * 2), steps=2)["DSC_AUC"] == pytest.approx(self.DSC[5])

    def test_nsd_counts_nothing_where_dsc_is_too_low(self):
        pairs = rounds(1, 1, kinds=["points"] * 2)  # DSC 2/11
        assert curve.score(pairs, steps=2)["NSD_AUC"] == 0
        assert curve.score(pairs, steps=2, nsd_floor=0.0)["NSD_AUC"] > 0

    def test_undefined(self):
        empty = [Pair(~dot(), ~dot(), grid_of((5, 6, 7)), p.prompt) for p in rounds(*[5] * 6)]
        assert {reason(v) for v in curve.score(empty).values()} == {"both empty"}
        assert {reason(v) for v in curve.score([]).values()} == {"no round"}

    def test_prompts_not_known(self):
        blind = [Pair(p.reference, p.prediction, p.grid) for p in rounds(2, 5, 6, 7, 8, 9)]
        known, found = curve.score(rounds(2, 5, 6, 7, 8, 9)), curve.score(blind)
        assert {k for k in known if known[k] != found[k]} == {"n_to_DSC80", "n_to_DSC90"}
        assert reason(found["n_to_DSC80"]) == reason(curve.score(blind[:3])["DSC_AUC"]) == "prompts not known"

    def test_fewer_than_two_steps_are_refused(self):
        with pytest.raises(SpecError, match="steps is 1"):
            curve.score(rounds(5), steps=1)


class TestPair:
    def test_masks_must_be_bool_and_of_the_grid(self):
        with pytest.raises(GridError, match="prediction is uint8"):
            Pair(dot(), dot().astype(np.uint8), grid_of((5, 6, 7)))
        with pytest.raises(GridError, match=r"reference is bool \(5, 6, 7\), expected bool \(7, 6, 5\)"):
            Pair(dot(), dot(), grid_of((7, 6, 5)))

    def test_an_undefined_value_keeps_its_reason(self):
        value = undefined("both empty")
        assert np.isnan(value) and isinstance(value, float)
        assert reason(value) == reason(pickle.loads(pickle.dumps(value))) == "both empty"
        assert (reason(0.5), reason(float("nan"))) == ("", "not a number")
