"""Simulated users against their protocols, computed here in another way."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segwise import catalog
from segwise.case import Target
from segwise.errors import GridError, SpecError
from segwise.geometry import Grid, bounds
from segwise.prompt import Box, Points, Prompt, Stroke, Text
from segwise.spec import Spec, parse

SPL = np.array([[0, 0, -0.7, 50.0], [0, -1.0, 0, 20.0], [3.0, 0, 0, -70.0], [0, 0, 0, 1]])  # (d,h,w) 3 x 1 x 0.7 mm
IPL = SPL @ np.array([[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def target_of(mask, affine=SPL, name="spleen"):
    mask = np.asarray(mask, dtype=bool)
    mask.setflags(write=False)
    return Target(name, mask, Grid(mask.shape, affine))


def block(low, high, shape=(9, 20, 30)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def first(spec, target, seed=0):
    module, args = catalog.load("prompters", parse(spec))
    return module.first(target, seed, **args)


def after(spec, target, prompt, mask, seed=0):
    module, args = catalog.load("prompters", parse(spec))
    return module.next(target, prompt, mask, seed, **args)


def boxes(prompt, grid):
    return prompt.on(grid).boxes.tolist()


def clicks(prompt, grid):
    return np.rint(prompt.on(grid).points).astype(int)


def real(data, file, *values):
    image = nib.load(data / file)
    affine = image.affine @ np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    return target_of(np.isin(np.asarray(image.dataobj).T, values), affine)


class TestBounds:
    def test_half_open(self):
        assert bounds(block((2, 3, 4), (5, 7, 9))) == ((2, 3, 4), (5, 7, 9))

    def test_nothing(self):
        assert bounds(np.zeros((2, 3), dtype=bool)) is None


class TestBoxes:
    def test_3d_box_is_tight_and_half_open(self):
        target = target_of(block((2, 3, 4), (5, 7, 9)))
        assert boxes(first("box3d", target), target.grid) == [[[2, 3, 4], [5, 7, 9]]]

    def test_margin_is_in_mm_on_every_axis(self):
        target = target_of(block((3, 5, 10), (5, 7, 15)))  # 3 x 1 x 0.7 mm
        box = first("box3d(margin_mm=2.1)", target).marks[0]
        np.testing.assert_allclose(np.linalg.norm(box.edges_mm, axis=1), [6 + 4.2, 2 + 4.2, 3.5 + 4.2])

    def test_jitter_stays_within_its_bound(self):
        target = target_of(block((3, 5, 10), (5, 7, 15)))
        for seed in range(20):
            edges = np.linalg.norm(first("box3d(jitter_mm=1)", target, seed).marks[0].edges_mm, axis=1)
            assert (np.abs(edges - [6, 2, 3.5]) <= 2 + 1e-9).all()

    def test_a_box_is_cut_at_the_image(self):
        target = target_of(block((0, 0, 0), (2, 2, 2)))
        assert boxes(first("box3d(margin_mm=500)", target), target.grid) == [[[0, 0, 0], [9, 20, 30]]]

    @pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
    def test_a_box_on_every_slice_of_a_plane(self, plane, axis):
        mask = block((2, 3, 4), (5, 7, 9))
        mask[2, 3, 4:6] = False
        target = target_of(mask)
        expected = []
        for i in np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))):
            where = np.argwhere(mask)
            where = where[where[:, axis] == i]
            expected.append([where.min(0).tolist(), (where.max(0) + 1).tolist()])
        assert sorted(boxes(first(f"box2d(plane={plane})", target), target.grid)) == sorted(expected)

    def test_slice_boxes_keep_their_slice_under_jitter_and_margin(self):
        target = target_of(block((2, 3, 4), (5, 7, 9)))
        found = np.array(boxes(first("box2d(margin_mm=3, jitter_mm=3)", target), target.grid))
        assert found[:, 0, 0].tolist() == [2, 3, 4]
        assert (found[:, 1, 0] - found[:, 0, 0] == 1).all()

    def test_sheared_and_flipped_real_file(self, data):
        target = real(data, "mr_spine_t2_sct/labels.nii.gz", 1)  # axes P, S, R in the file
        axis = target.grid.axis_of("axial")
        assert axis == 1
        for low, high in boxes(first("box2d", target), target.grid):
            inside = np.argwhere(target.mask.take(low[axis], axis=axis))
            assert np.delete(low, axis).tolist() == inside.min(0).tolist()
            assert np.delete(high, axis).tolist() == (inside.max(0) + 1).tolist()

    @pytest.mark.parametrize("spec", ["box3d(margin_mm=-1)", "box2d(jitter_mm=-1)", "human(observer_share=2)"])
    def test_impossible_arguments_are_refused(self, spec):
        with pytest.raises(SpecError, match="expected at least 0"):
            first(spec, target_of(block((2, 3, 4), (5, 7, 9))))


class TestMiddle:
    """A cone: slice i has the width 2 + i; slices 2..7, the middle int((7-2)/2+2) = 4 from the feet."""

    def cone(self):
        mask = np.zeros((10, 20, 30), dtype=bool)
        for i in range(2, 8):
            mask[i, 5 : 7 + i, 5 : 8 + i] = True
        return mask

    def test_middle_box(self):
        target = target_of(self.cone())
        assert boxes(first("middle-box", target), target.grid) == [[[2, 5, 5], [8, 11, 12]]]

    def test_seed_slice(self):
        target = target_of(self.cone())
        assert boxes(first("seed-slice", target), target.grid) == [[[4, 5, 5], [5, 11, 12]]]

    def test_slices_are_counted_from_the_feet(self):
        affine = IPL.copy()
        affine[:3, 3] += SPL[:3, 0] * 9  # the same place, slices stored from the head down
        upright, flipped = target_of(self.cone()), target_of(self.cone()[::-1], affine)
        for spec in ("middle-box", "seed-slice"):
            there = Prompt(first(spec, flipped).marks)
            assert boxes(there, upright.grid) == boxes(first(spec, upright), upright.grid)

    def test_an_empty_middle_slice_gives_way_to_the_nearest(self):
        mask = self.cone()
        mask[4] = False
        assert boxes(first("seed-slice", target_of(mask)), Grid(mask.shape, SPL))[0][0][0] == 3


class TestPoints:
    def test_without_repeats_and_inside(self):
        target = target_of(block((2, 3, 4), (4, 5, 7)))  # 12 voxels
        found = clicks(first("points(n=12)", target), target.grid)
        assert len({tuple(p) for p in found}) == 12
        assert target.mask[tuple(found.T)].all()

    def test_too_few_voxels_are_all_taken_and_then_repeated(self):
        target = target_of(block((2, 3, 4), (3, 4, 6)))  # 2 voxels
        found = clicks(first("points(n=5)", target), target.grid)
        assert len(found) == 5 and len({tuple(p) for p in found}) == 2

    def test_per_slice(self):
        target = target_of(block((2, 3, 4), (5, 7, 9)))
        found = clicks(first("points(n=3, dims=2)", target), target.grid)
        assert np.bincount(found[:, 0]).tolist() == [0, 0, 3, 3, 3]

    def test_centre_point_of_the_largest_component(self):
        mask = block((2, 3, 4), (5, 8, 11)) | block((7, 15, 20), (9, 17, 22))
        assert clicks(first("center-point", target_of(mask)), Grid(mask.shape, SPL)).tolist() == [[3, 5, 7]]

    def test_centre_point_is_moved_onto_the_target_in_mm(self):
        mask = block((4, 5, 5), (5, 14, 25))
        mask[4, 6:13, 6:24] = False  # a frame: rows 1 mm, columns 0.7 mm apart; its centre (9, 14.5 -> 14) is empty
        found = clicks(first("center-point(dims=2)", target_of(mask)), Grid(mask.shape, SPL))
        assert found.tolist() == [[4, 5, 14]]  # 4 rows up is 4 mm; the side is 9 columns, 6.3 mm

    def test_n_below_one_is_refused(self):
        for spec in ("points(n=0)", "box-points(n=0)", "clicks(n=0)", "cvpr2025(n=0)", "human-clicks(n=0)"):
            with pytest.raises(SpecError, match="n is 0, expected at least 1"):
                first(spec, target_of(block((2, 3, 4), (5, 7, 9))))


class TestBoxPoints:
    def test_one_box_then_the_deepest_point_then_deep_ones(self, data):
        for file, value in (("ct_abdomen_ts/labels.nii.gz", 5), ("mr_brain1_pyradiomics/labels.nii.gz", 1)):
            target = real(data, file, value)
            depth = ndimage.distance_transform_edt(target.mask, sampling=target.grid.spacing_mm)
            drawn = set()
            for seed in range(3):
                box, points = first("box-points(n=5)", target, seed).marks
                where = np.argwhere(target.mask)
                assert boxes(Prompt((box,)), target.grid) == [[where.min(0).tolist(), (where.max(0) + 1).tolist()]]
                found = clicks(Prompt((points,)), target.grid)
                assert len({tuple(p) for p in found}) == 5
                assert depth[tuple(found[0])] == pytest.approx(depth.max(), rel=1e-5)
                assert (depth[tuple(found.T)] >= depth.max() / 2 * (1 - 1e-5)).all()
                drawn |= {tuple(p) for p in found[1:]}
            assert len(drawn) > 5

    def test_one_voxel_is_clicked_as_often_as_asked(self):
        target = target_of(block((2, 3, 4), (3, 4, 5)))
        assert clicks(first("box-points(n=3)", target), target.grid).tolist() == [[2, 3, 4]] * 3


class TestClicks:
    def test_the_first_is_the_middle_of_the_target(self):
        target = target_of(block((2, 3, 4), (5, 8, 11)))
        prompt = first("clicks", target)
        assert clicks(prompt, target.grid).tolist() == [[3, 5, 7]] and prompt.marks[0].positive.all()

    def test_the_largest_error_wins_and_gives_the_sign(self):
        target = target_of(block((2, 3, 4), (5, 8, 11)))
        too_much = block((6, 10, 15), (9, 17, 24))
        prompt = first("clicks", target)
        later = after("clicks", target, prompt, target.mask | too_much)
        assert clicks(later, target.grid)[1].tolist() == [7, 13, 19]
        assert later.on(target.grid).positive.tolist() == [True, False]

    def test_n_rounds_in_all(self):
        target = target_of(block((2, 3, 4), (5, 8, 11)))
        prompt = first("clicks(n=3)", target)
        for _ in range(2):
            prompt = after("clicks(n=3)", target, prompt, np.zeros_like(target.mask))
        assert after("clicks(n=3)", target, prompt, np.zeros_like(target.mask)) is None
        assert prompt.n_interactions == 3

    def test_a_click_of_another_prompter_is_not_counted(self):
        target = target_of(block((2, 3, 4), (5, 8, 11)))
        prompt = first("points(n=1)", target, 4).also(*first("clicks(n=2)", target).marks)
        prompt = after("clicks(n=2)", target, prompt, np.zeros_like(target.mask))
        assert prompt.n_interactions == 3
        assert after("clicks(n=2)", target, prompt, np.zeros_like(target.mask)) is None

    def test_a_mask_of_another_kind_is_refused(self):
        target = target_of(block((2, 3, 4), (5, 8, 11)))
        with pytest.raises(GridError, match="prediction is uint8"):
            after("clicks", target, Prompt(), target.mask.astype(np.uint8))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_any_prediction_is_clicked_where_it_is_wrong(self, seed):
        rng = np.random.default_rng(seed)
        noise = ndimage.gaussian_filter(rng.random((2, 9, 20, 30)), (0, 1, 1.5, 1.5))
        target, mask = target_of(noise[0] > 0.5), noise[1] > 0.5
        for spec in ("clicks", "cvpr2025", "human-clicks", "scribble"):
            prompt = first(spec, target, seed)
            mark = after(spec, target, prompt, mask, seed).since(prompt)[0]
            index = np.rint(target.grid.index(mark.xyz_mm)).astype(int)
            positive = mark.positive if isinstance(mark, Stroke) else mark.positive[0]
            assert (target.mask[tuple(index.T)] == positive).all()
            assert (mask[tuple(index.T)] != positive).all()


class TestCvpr2025:
    def big(self):
        mask = np.zeros((12, 140, 256), dtype=bool)
        mask[3, 60:62, 100:103] = True
        mask[4:9, 50:80, 90:130] = True
        mask[8, 50:60] = False
        return target_of(mask)

    def test_the_box_is_enlarged_by_one_draw_scaled_to_the_image(self):
        target, seen = self.big(), set()
        for seed in range(40):
            ((low, high),) = boxes(first("cvpr2025", target, seed), target.grid)
            assert (low[0], high[0]) == (3, 9)
            columns, rows = 90 - low[2], 50 - low[1]
            assert (high[2] - 130, high[1] - 80) == (columns, rows)
            assert rows == int(columns * 140 / 256)
            seen.add(columns)
        assert seen == {0, 1, 2, 3, 4, 5}

    def test_whose_slice_it_is(self):
        mask = np.zeros((9, 20, 256), dtype=bool)
        mask[1:6, 3:5, 3:5] = True  # five small slices, then two large ones with most voxels
        mask[6:8, 3:15, 3:18] = True
        target = target_of(mask)
        widths = {
            spec: np.ptp(np.array(boxes(first(spec, target, 3), target.grid))[0], axis=0)[1]
            for spec in ("cvpr2025(middle=voxels)", "cvpr2025")
        }
        assert widths["cvpr2025(middle=voxels)"] >= 12 > widths["cvpr2025"]

    def test_clicks_as_the_challenge_places_them(self):
        target = self.big()
        mask = np.roll(target.mask, (1, 6, -4), axis=(0, 1, 2))
        mask[:2, :9, :9] = True  # another, smaller error
        prompt = first("cvpr2025", target, 1)
        later = after("cvpr2025", target, prompt, mask, 1)
        labels, n = ndimage.label(target.mask ^ mask, np.ones((3, 3, 3)))
        component = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        (d, h, w) = ndimage.find_objects(component.astype(int))[0]
        depth = ndimage.distance_transform_edt(np.pad(component[d, h, w], 3))[3:-3, 3:-3, 3:-3]
        ties = np.argwhere(depth == depth.max()) + np.array([d.start, h.start, w.start])
        expected = ties[np.random.RandomState(42).choice(len(ties))]
        assert n > 1 and clicks(later, target.grid).tolist() == [expected.tolist()]

    def test_five_clicks(self):
        target = self.big()
        prompt, mask = first("cvpr2025", target), np.zeros_like(target.mask)
        while (later := after("cvpr2025", target, prompt, mask, 99)) is not None:  # another seed does not miscount
            prompt = later
        assert [mark.kind for mark in prompt.marks] == ["box", *["points"] * 5]


class TestInterpolation:
    def lean(self):
        """Slices 1..7; a square of 4 x 4 that moves by 2 columns a slice."""
        mask = np.zeros((9, 20, 30), dtype=bool)
        for i in range(1, 8):
            mask[i, 5:9, 2 * i : 2 * i + 4] = True
        return mask

    def test_boxes_on_a_straight_object_are_its_own(self):
        target = target_of(self.lean())
        assert boxes(first("interpolate-boxes(k=2)", target), target.grid) == boxes(first("box2d", target), target.grid)

    def test_points_lie_on_a_line(self):
        found = clicks(first("interpolate-points(k=3)", target_of(self.lean())), Grid((9, 20, 30), SPL))
        assert found[:, 0].tolist() == [1, 4, 7, 2, 3, 5, 6]  # those of the person, then those between
        found = found[np.argsort(found[:, 0])]
        assert (found[:, 1] == 6).all()  # the box's middle 6.5 rounds to the even voxel
        assert np.diff(found[:, 2]).tolist() == [2] * 6

    @pytest.mark.parametrize("name", ["interpolate-points", "interpolate-boxes"])
    @pytest.mark.parametrize("k", [2, 3, 7, 20])
    def test_only_what_a_person_makes_is_an_interaction(self, name, k):
        prompt = first(f"{name}(k={k})", target_of(self.lean()))
        assert prompt.n_interactions == min(k, 7)
        again = Prompt.from_json(prompt.to_json())
        assert again == prompt and again.n_interactions == min(k, 7)
        assert prompt.moved(np.diag([-1.0, 1, 1, 1])).n_interactions == min(k, 7)

    def test_slices_between_parts_are_filled(self):
        mask = self.lean()
        mask[3:6] = False
        assert len(boxes(first("interpolate-boxes(k=2)", target_of(mask)), Grid(mask.shape, SPL))) == 7

    def test_empty_prompted_slices_move_to_the_nearest_occupied(self):
        mask = self.lean()
        mask[4] = False  # linspace(1, 7, 3) asks for 1, 4, 7
        target = target_of(mask)
        found = boxes(first("interpolate-boxes(k=3)", target), target.grid)
        assert found[2] == [[3, 5, 6], [4, 9, 10]]

    def test_k_below_two_is_refused(self):
        with pytest.raises(SpecError, match="k is 1, expected at least 2"):
            first("interpolate-boxes(k=1)", target_of(self.lean()))


class TestScribble:
    def test_it_lies_inside_what_is_missed_at_a_distance(self):
        target = target_of(block((4, 3, 3), (5, 17, 27)))
        mark = first("scribble(distance_mm=2)", target).marks[0]
        assert isinstance(mark, Stroke) and mark.positive and not mark.closed
        index = np.rint(target.grid.index(mark.xyz_mm)).astype(int)
        depth = ndimage.distance_transform_edt(target.mask[4], sampling=(1, 0.7))
        assert (np.abs(depth[index[:, 1], index[:, 2]] - 2) <= 1).all()

    def test_it_runs_along_the_target_where_too_much_was_taken(self):
        target = target_of(block((4, 5, 5), (5, 15, 15)))
        mask = target.mask | block((4, 2, 15), (5, 18, 28))
        prompt = first("scribble", target)
        (mark,) = after("scribble(distance_mm=2.8)", target, prompt, mask).since(prompt)
        index = np.rint(target.grid.index(mark.xyz_mm)).astype(int)
        assert not mark.positive
        away = ndimage.distance_transform_edt(~target.mask[4], sampling=(1, 0.7))
        assert (np.abs(away[index[:, 1], index[:, 2]] - 2.8) <= 1).all()
        assert len(index) > 5 and (np.abs(np.diff(index[:, 1:], axis=0)).max(axis=1) <= 2).all()

    @pytest.mark.parametrize("spec", ["scribble(length=0)", "scribble(length=1.5)", "scribble(distance_mm=0)"])
    def test_impossible_arguments_are_refused(self, spec):
        with pytest.raises(SpecError, match="scribble"):
            first(spec, target_of(block((2, 3, 4), (5, 7, 9))))


class TestHuman:
    def test_boxes_spread_as_stated(self):
        target = target_of(block((20, 60, 60), (40, 120, 140), (60, 180, 200)), np.diag([1.0, 1, 1, 1]))
        module, args = catalog.load("prompters", Spec("human"))
        faces = []
        for seed in range(400):
            corners = module.first(target, seed, **args).marks[0].corners_mm()
            faces.append(np.concatenate([[19.5, 59.5, 59.5] - corners.min(0), corners.max(0) - [39.5, 119.5, 139.5]]))
        faces = np.array(faces)
        assert faces.mean() == pytest.approx(1.0, abs=0.2)
        assert faces.std() == pytest.approx(2.0, rel=0.15)  # cut at two deviations: a little less
        assert np.corrcoef(faces.T)[0, 1] == pytest.approx(0.5, abs=0.12)  # the observer's share

    def test_one_observer_draws_all_slices(self):
        target = target_of(block((2, 3, 4), (5, 17, 27)))
        assert len(first("human(dims=2)", target).marks) == 3
        assert isinstance(first("human(dims=2)", target).marks[0], Box)

    def test_clicks_miss_the_centre_by_millimetres(self):
        target = target_of(block((5, 20, 20), (35, 60, 60), (40, 80, 80)), np.diag([1.0, 1, 1, 1]))
        module, args = catalog.load("prompters", Spec("human-clicks", {"spread_mm": 2.0}))
        found = np.array([module.first(target, seed, **args).marks[0].xyz_mm[0] for seed in range(300)])
        assert found.std(axis=0) == pytest.approx([2, 2, 2], rel=0.2)


class TestName:
    def test_it_is_the_targets_name(self):
        (mark,) = first("name", target_of(np.zeros((2, 3, 4), dtype=bool), name="left kidney")).marks
        assert mark == Text("left kidney")

    def test_points_count_as_interactions_and_words_do_not(self):
        target = target_of(block((2, 3, 4), (5, 7, 9)))
        assert first("name", target).n_interactions == 0
        assert isinstance(first("points", target).marks[0], Points)
        assert first("box-points(n=5)", target).n_interactions == 6
