"""Failure signatures on masks whose numbers a person can check, and where their flags point."""

from __future__ import annotations

import numpy as np
import pytest

from segwise.errors import GridError, InputError, SpecError
from segwise.geometry import Grid
from segwise.metrics import failures
from segwise.pair import Pair, reason
from segwise.prompt import Box, Prompt, Text
from segwise.signatures import judge, look, overrun, scale
from segwise.synth import spoilt

SHAPE = (20, 24, 28)
GRID = Grid(SHAPE, np.array([[0, 0, 0.8, 0], [0, 1.5, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]))  # slices are axial
BLOCK = np.zeros(SHAPE, dtype=bool)
BLOCK[5:15, 8:16, 10:20] = True


def seen(prediction, *, reference=BLOCK, box=((5, 8, 10), (15, 16, 20)), grid=GRID, plane="axial", image=None):
    prompt = None if box is None else Prompt((Box.of(grid, *box),))
    return look.look(Pair(reference, prediction, grid, prompt, image), plane=plane)


def values(prediction, signature, *, blind, **more):
    found = judge.components(seen(prediction, **more), blind=blind)[signature]
    return {name: round(one.value, 4) for name, one in found.items()}


def changed(*places, value=True):
    mask = BLOCK.copy()
    for place in places:
        mask[place] = value
    return mask


def test_a_perfect_mask_is_flagged_by_nothing_with_the_reference():
    assert all(one.severity == 0 for one in judge.judge(seen(BLOCK), blind=False).values())


def test_leak_counts_what_lies_beyond_the_border_on_the_slices_of_the_reference():
    leaking = changed(np.s_[9:11, 8:16, 20:27])
    leak = values(leaking, "leak", blind=False)
    assert leak["excess"] == 2 * 8 * 7 / 800
    assert leak["outside"] == round(2 * 8 * 5 / (800 + 2 * 8 * 7), 4)  # 2 mm are two voxels of 0.8 mm
    beyond = 2 * 8 * 3 / (800 + 2 * 8 * 7)  # a drawn face may be 3 mm off, four voxels
    assert values(leaking, "leak", blind=True)["beyond"] == round(beyond, 4)
    assert leak["beside"] == round(2 * 8 * 7 / (800 + 2 * 8 * 7), 4)
    moved = np.roll(BLOCK, 1, axis=2)  # one column of ten, within the tolerance
    leak = values(moved, "leak", blind=False)
    assert (leak["outside"], leak["beside"], leak["excess"]) == (0, 0.1, 0)
    past = changed(np.s_[15:18, 8:16, 10:20])
    assert values(past, "leak", blind=False)["excess"] == 0


def test_a_box_on_one_slice_says_what_is_beside_it_there():
    wider = changed(np.s_[9, 8:16, 20:26])  # two columns more than a face may be off
    found = values(wider, "leak", blind=True, box=((9, 8, 10), (10, 16, 20)))
    assert found["slice"] == round(2 / 16, 4) and found["beyond"] == found["wide"] == 0


def test_an_empty_slice_in_between_is_a_gap():
    torn = changed(np.s_[8:10], value=False)
    assert values(torn, "discontinuity", blind=False)["gaps"] == 0.2
    assert values(torn, "discontinuity", blind=True)["gaps"] == 0.2


def test_a_hole_is_one_only_where_the_reference_has_none():
    pierced = changed(np.s_[7, 10:12, 12:14], value=False)
    assert values(pierced, "discontinuity", blind=True)["holes"] == round(4 / 796, 4)
    assert values(pierced, "discontinuity", blind=False)["holes"] == round(4 / 796, 4)
    assert values(pierced, "discontinuity", blind=False, reference=pierced)["holes"] == 0


def test_a_slice_that_disagrees_with_both_neighbours_is_odd_and_a_cone_is_not():
    moved = BLOCK.copy()
    moved[9] = np.roll(BLOCK[9], 2, axis=1)
    assert values(moved, "discontinuity", blind=True)["odd"] == round(2 * 2 * 8 / 800, 4)
    cone = np.zeros(SHAPE, dtype=bool)
    for i in range(8):
        cone[4 + i, 4 : 20 - i, 4 : 20 - i] = True
    assert values(cone, "discontinuity", blind=True)["odd"] == 0


def test_change_of_the_true_shape_is_no_jitter():
    walk = np.stack([np.roll(one, (i * 7) % 5 - 2, axis=1) for i, one in enumerate(BLOCK)])
    assert values(walk, "discontinuity", blind=True)["odd"] > 0.2
    assert values(walk, "discontinuity", blind=False, reference=walk)["odd"] == 0


def scan(there=BLOCK):
    """[1, D, H, W]: bright where a mask is, with a little noise."""
    return (there * 100 + np.random.default_rng(0).normal(0, 5, there.shape))[None].astype(np.float32)


def test_an_image_whose_edges_are_those_of_the_mask_raises_no_flag():
    found = judge.judge(seen(_ball(), reference=None, box=None, image=scan(_ball())), blind=True)
    assert all(one.severity <= 1 for one in found.values()), {k: (v.component, v.value) for k, v in found.items()}


def test_edges_inside_the_outline_are_a_leak():
    wide = np.roll(BLOCK, 2, axis=2) | BLOCK | np.roll(BLOCK, -2, axis=2)
    leak = values(wide, "leak", blind=True, box=None, image=scan())
    assert values(BLOCK, "leak", blind=True, image=scan())["inner"] < 0.2
    assert leak["inner"] > 0.75 and leak["place"] > 0.6
    flags = judge.flags(found := seen(wide, box=None, image=scan()), judge.judge(found, blind=True))
    (flag,) = (one for one in flags if one.signature == "leak")
    assert (flag.low, flag.high) == ((5, 8, 8), (15, 16, 22))  # to both sides
    blank = values(wide, "leak", blind=True, box=None)
    assert blank["inner"] == blank["place"] == blank["foreign"] == 0


def test_a_leak_in_one_place_is_found_there():
    one = changed(np.s_[8:12, 8:16, 20:24])
    leak = values(one, "leak", blind=True, box=None, image=scan())
    assert leak["place"] > 0.05 and leak["foreign"] > 0.3
    where = judge.components(seen(one, box=None, image=scan()), blind=True)["leak"]["place"].where
    assert np.argwhere(where)[:, 2].min() >= 14  # in the frame of what is seen, which begins at column 9
    tissue = values(BLOCK, "leak", blind=True, box=None, image=scan())
    assert tissue["place"] == tissue["foreign"] == tissue["inner"] == 0


def test_a_slice_that_is_odd_in_the_image_too_is_not_odd():
    moved = BLOCK.copy()
    moved[9] = np.roll(BLOCK[9], 2, axis=1)
    wrong = values(moved, "discontinuity", blind=True, image=scan())["odd"]
    assert wrong == pytest.approx(2 * 2 * 8 / 800, rel=0.15)
    assert values(moved, "discontinuity", blind=True, image=scan(moved))["odd"] < 0.2 * wrong


def test_a_blunt_end_whose_tissue_goes_on_is_decay():
    half = BLOCK & (np.arange(SHAPE[0]) < 10)[:, None, None]
    assert values(half, "decay", blind=True, box=None, image=scan())["goes_on"] > 0.7
    assert values(BLOCK, "decay", blind=True, box=None, image=scan())["goes_on"] < 0.1
    ends = scan()
    ends[:, 10:] = ends[:, 9:10]  # filled up with copies: nothing is known beyond
    assert values(half, "decay", blind=True, box=None, image=ends)["goes_on"] == 0


def test_tissue_that_is_missing_far_from_the_prompt_is_decay():
    gnawed = changed(np.s_[12:15, 10:12, 10:13], np.s_[12:15, 13:14, 15:20], value=False)
    missing = values(gnawed, "decay", blind=True, image=scan())["gnawed"]
    assert missing > 0.12 > values(gnawed, "decay", blind=True, image=scan(gnawed))["gnawed"]  # edges are blurred
    thin = changed(np.s_[5:7, 8:16, 10:12], np.s_[5:7, 8:16, 18:20], value=False)
    assert values(thin, "decay", blind=True, image=scan())["farther"] > 0.3


def test_an_end_of_other_tissue_is_over_propagation():
    past = changed(np.s_[15:18, 8:16, 10:20])
    wide = values(past, "overrun", blind=True, box=None, image=scan())["blunt"]
    assert 1.5 < wide <= 2  # nothing of tissue and outline is the target's, over the whole of its area
    narrow = changed(np.s_[15:18, 8:12, 10:20])
    assert values(narrow, "overrun", blind=True, box=None, image=scan())["blunt"] == pytest.approx(wide / 2, rel=0.1)
    assert values(past, "overrun", blind=True, box=None, image=scan(past))["blunt"] < 0.1
    assert values(past, "overrun", blind=True, box=None, image=None)["blunt"] == 0
    seen = look.look(Pair(None, past, GRID, None, scan()))
    where = overrun.without(seen)["blunt"].where
    assert where.sum() == past[17].sum() and np.argwhere(where)[:, 0].min() == seen.ends[1] - 1


def test_what_the_image_says_does_not_depend_on_how_it_lies_or_on_the_reference():
    wide = np.roll(BLOCK, 2, axis=2) | BLOCK
    turned = Grid(SHAPE[::-1], GRID.affine[:, [2, 1, 0, 3]])
    here = look.look(Pair(None, wide, GRID, None, scan()))
    there = look.look(Pair(None, wide.T.copy(), turned, None, scan().transpose(0, 3, 2, 1)))
    for name, found in judge.components(here, blind=True).items():
        for component, one in found.items():
            assert one.value == pytest.approx(judge.components(there, blind=True)[name][component].value, abs=1e-6)
    known = look.look(Pair(BLOCK, wide, GRID, None, scan()))
    assert judge.judge(known, blind=True)["leak"].severity == judge.judge(here, blind=True)["leak"].severity


def test_without_an_image_other_thresholds_hold():
    moved = BLOCK.copy()
    moved[9] = np.roll(BLOCK[9], 2, axis=1)
    blank, imaged = (judge.judge(seen(moved, image=one), blind=True)["discontinuity"] for one in (None, scan(moved)))
    assert blank.severity == pytest.approx(blank.value / scale.ALONE["discontinuity"][blank.component])
    assert imaged.severity == pytest.approx(imaged.value / scale.BLIND["discontinuity"][imaged.component])


def test_tissue_that_is_met_in_neither_core_nor_surroundings_speaks_for_none():
    for other in (30.0, 60.0, 200.0):
        image = np.random.default_rng(0).normal(0, 5, (1, *SHAPE)).astype(np.float32)
        image[:, BLOCK] += 100
        image[:, :5] = image[:, 15:] = other
        assert values(BLOCK, "decay", blind=True, box=None, image=image)["goes_on"] < 0.1


def test_where_a_box_over_slices_ends_the_target_ends():
    half = BLOCK & (np.arange(SHAPE[0]) < 10)[:, None, None]
    told = ((5, 8, 10), (10, 16, 20))
    assert values(half, "decay", blind=True, box=told, image=scan())["goes_on"] == 0
    assert values(half, "decay", blind=True, image=scan())["goes_on"] > 0.7  # the box goes on, too


def test_a_mask_too_small_to_know_its_tissue_has_the_thresholds_without_an_image():
    small = np.zeros(SHAPE, dtype=bool)
    small[6:12, 10:12, 12:14] = True
    found = seen(small, box=None, image=scan(small))
    assert found.sight is not None and found.sight.core is None and not found.imaged
    assert judge.judge(found, blind=True)["discontinuity"].severity == 0


@pytest.mark.parametrize("turn", [(1,), (2,), (1, 2), (0,)])
def test_turning_a_scan_over_changes_nothing(turn):
    image = scan(_ball()) + np.random.default_rng(1).normal(0, 15, (1, *SHAPE)).astype(np.float32)
    mask = np.roll(_ball(), 1, axis=2)
    mask[: SHAPE[0] // 2 - 4] = False  # ends bluntly, beside empty slices
    one = look.look(Pair(None, mask, GRID, None, image))
    other = look.look(Pair(None, np.flip(mask, turn), GRID, None, np.flip(image, tuple(axis + 1 for axis in turn))))
    for name in ("leak", "decay", "overrun"):
        for component, found in judge.components(one, blind=True)[name].items():
            assert found.value == pytest.approx(judge.components(other, blind=True)[name][component].value, abs=1e-5)


@pytest.mark.parametrize("n", range(2, 10))
def test_turning_any_number_of_slices_over_changes_no_blunt_end(n):
    image = scan(_ball()) + np.random.default_rng(n).normal(0, 15, (1, *SHAPE)).astype(np.float32)
    slices = np.arange(SHAPE[0])[:, None, None]
    mask = np.roll(_ball(), 2, axis=2) & (slices >= SHAPE[0] // 2) & (slices < SHAPE[0] // 2 + n)
    found = [
        judge.components(look.look(Pair(None, one, GRID, None, scan_)), blind=True)["overrun"]["blunt"].value
        for one, scan_ in ((mask, image), (mask[::-1], image[:, ::-1]))
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        (BLOCK, np.zeros((1, *SHAPE))),  # says nothing
        (BLOCK, np.full((1, *SHAPE), np.nan, dtype=np.float32)),
        (BLOCK, np.concatenate([scan(), -scan(), scan() * 0])),  # channels
        (BLOCK, (scan() * 10).astype(np.int16)),
        (np.ones(SHAPE, dtype=bool), scan()),  # all of the scan
        (np.roll(BLOCK, (-5, -8, -10), axis=(0, 1, 2)), scan()),  # at its corner
        (BLOCK & (np.arange(SHAPE[0]) == 9)[:, None, None], scan()),  # one slice
        (np.argwhere(BLOCK)[0], scan()),  # one voxel
        (np.zeros(SHAPE, dtype=bool), scan()),
    ],
)
def test_odd_images_and_masks_get_numbers(mask, image):
    if mask.ndim == 1:
        mask = (mask == np.indices(SHAPE).T).all(axis=-1).T
    found = seen(mask, image=image, box=None)
    assert all(np.isfinite(one.value) for part in judge.components(found, blind=True).values() for one in part.values())
    for flag in judge.flags(found, judge.judge(found, blind=True)):
        assert all(0 <= a <= b <= n for a, b, n in zip(flag.low, flag.high, SHAPE, strict=True))


def test_several_channels_say_what_one_of_them_does():
    wide = np.roll(BLOCK, 2, axis=2) | BLOCK
    one, two = (values(wide, "leak", blind=True, box=None, image=i) for i in (scan(), np.concatenate([scan(), scan()])))
    assert one["inner"] == two["inner"] and one["place"] == two["place"]


def test_slices_of_another_plane_look_at_the_image_along_it():
    wide = np.roll(BLOCK, 2, axis=2) | BLOCK
    found = seen(wide, box=None, image=scan(), plane="coronal")
    assert found.sight is not None and found.sight.mask.shape[0] == 8 + 2 * 3
    assert judge.components(found, blind=True)["leak"]["inner"].value > 0.3


def test_a_mask_too_large_to_look_at_is_judged_without_the_image(monkeypatch):
    from segwise.signatures import sight

    monkeypatch.setattr(sight, "LARGEST", 1000)
    assert seen(BLOCK, image=scan()).sight is None


def test_what_the_reference_leaves_open_is_not_cut_out_of_the_answer_without_it():
    hole = BLOCK.copy()
    hole[7:12, 10:14, 12:17] = False
    cut = judge.judged(Pair(hole, hole, GRID, None, scan()), "axial")
    whole = judge.judged(Pair(hole, hole, GRID, None, scan(), BLOCK), "axial")
    plain = judge.judged(Pair(None, BLOCK, GRID, None, scan()), "axial")
    assert {k: v.severity for k, v in whole.blind.items()} == {k: v.severity for k, v in plain.blind.items()}
    assert cut.blind["discontinuity"].severity > 1 >= whole.blind["discontinuity"].severity
    assert whole.answered.prediction.sum() != whole.seen.prediction.sum()


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(GridError, match=r"image is \(20, 24, 28\), expected channels and \(20, 24, 28\)"):
        Pair(None, BLOCK, GRID, None, scan()[0])


def test_stairs_are_slices_that_repeat_among_slices_that_change():
    ball = spoilt.Mask(_ball(), (3.0, 1.5, 0.8))
    stairs = spoilt.spoil(ball, "blocks", level=2, seed=0)
    smooth, stepped = (values(m, "discontinuity", blind=True)["stairs"] for m in (ball.mask, stairs))
    assert smooth < 0.2 < stepped


def test_hallucination_counts_pieces_that_do_not_touch():
    astray = changed(np.s_[0:2, 0:4, 0:5])
    assert values(astray, "hallucination", blind=False)["apart"] == round(40 / 840, 4)
    assert values(astray, "hallucination", blind=True)["astray"] == round(40 / 840, 4)
    assert values(astray, "hallucination", blind=True)["pieces"] == round(float(np.log(2)), 4)
    nothing = np.zeros_like(BLOCK)
    assert values(BLOCK, "hallucination", blind=False, reference=nothing)["apart"] == 1


def test_overrun_counts_slices_past_an_end():
    past = changed(np.s_[15:18, 8:16, 10:20], np.s_[4, 8:16, 10:20])
    assert values(past, "overrun", blind=False) == {"past": 0.3, "volume": 0.4}
    assert values(past, "overrun", blind=True)["past"] == 0.2  # an end may be a slice off
    assert values(past, "overrun", blind=True, box=None)["past"] == 0


def test_decay_counts_slices_that_were_never_reached_and_what_is_lost_on_the_way():
    short = changed(np.s_[12:15], value=False)
    assert values(short, "decay", blind=False)["lost"] == 0.3
    assert values(short, "decay", blind=True)["lost"] == 0.2  # an end may be a slice off
    fading = changed(np.s_[13:15, 8:12], value=False)
    assert values(fading, "decay", blind=False)["falling"] == 0.5  # slices 10 to 14: one of each third


def test_an_empty_mask_that_was_asked_for_is_decay():
    nothing = np.zeros_like(BLOCK)
    assert judge.judge(seen(nothing), blind=False)["decay"].severity > 1
    assert judge.judge(seen(nothing), blind=True)["decay"].severity > 1
    values_ = failures.score(Pair(None, nothing, GRID, Prompt((Text("liver"),))))
    assert reason(values_["blind_decay"]) == "prediction empty"


def test_an_empty_reference_leaves_only_hallucination():
    found = failures.score(Pair(np.zeros_like(BLOCK), BLOCK, GRID))
    assert found["hallucination"] > 1 and reason(found["leak"]) == "reference empty"
    assert found["false_ml_per_empty_slice"] == pytest.approx(80 * GRID_ML)


GRID_ML = 3.0 * 1.5 * 0.8 / 1000


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flag_points_to_the_slice_and_the_box_in_the_order_of_the_file(axis):
    past = changed(np.s_[15:19, 8:16, 10:20])
    order = [1, 2]
    order.insert(axis, 0)
    turned = Grid(tuple(SHAPE[a] for a in order), GRID.affine[:, [*order, 3]])
    masks = [np.ascontiguousarray(m.transpose(order)) for m in (BLOCK, past)]
    found = look.look(Pair(masks[0], masks[1], turned), plane="axial")
    flag = next(f for f in judge.flags(found, judge.judge(found, blind=False)) if f.signature == "overrun")
    assert (flag.axis, flag.slice) == (axis, 15)
    assert [flag.low[order.index(a)] for a in range(3)] == [15, 8, 10]
    assert [flag.high[order.index(a)] for a in range(3)] == [19, 16, 20]


def test_an_unknown_plane_is_said():
    with pytest.raises(SpecError, match='plane is "oblique"'):
        failures.score(Pair(None, BLOCK, GRID), plane="oblique")


def test_every_component_has_a_scale():
    for blind, tables in ((False, [scale.REFERENCE]), (True, [scale.BLIND, scale.ALONE])):
        found = judge.components(seen(BLOCK, image=scan()), blind=blind)
        known = {name: set().union(*(table[name] for table in tables)) for name in found}
        assert {name: set(parts) for name, parts in found.items()} == known


def _ball():
    z, y, x = np.indices(SHAPE)
    return ((z - 10) / 7) ** 2 + ((y - 12) / 8) ** 2 + ((x - 14) / 9) ** 2 < 1


class TestSpoilt:
    @pytest.mark.parametrize("kind", [kind for group in spoilt.KINDS.values() for kind in group])
    def test_it_grows_worse_by_level_and_repeats_by_seed(self, kind):
        target = spoilt.Mask(np.pad(_ball(), 8), (3.0, 1.5, 0.8))
        made = [spoilt.spoil(target, kind, level=level, seed=3) for level in (1, 5)]
        again = spoilt.spoil(target, kind, level=5, seed=3)
        assert (made[1] == again).all() and made[0].dtype == bool and made[0].shape == target.mask.shape
        wrong = [int((mask != target.mask).sum()) for mask in made]
        assert 0 < wrong[0] < wrong[1]

    @pytest.mark.parametrize("signature", list(spoilt.KINDS))
    def test_its_signature_is_what_flags_it(self, signature):
        mask = np.pad(_ball(), 10)
        target = spoilt.Mask(mask, (3.0, 1.5, 0.8))
        grid = Grid(mask.shape, GRID.affine)
        for kind in spoilt.KINDS[signature]:
            made = spoilt.spoil(target, kind, level=5, seed=1)
            found = judge.judge(look.look(Pair(mask, made, grid)), blind=False)
            assert found[signature].severity > 1, kind

    def test_a_wobble_is_a_good_mask(self):
        mask = _ball()
        made = spoilt.spoil(spoilt.Mask(mask, (3.0, 1.5, 0.8)), "wobble", level=1, seed=0)
        assert 0.9 < Pair(mask, made, GRID).dice < 1

    def test_what_cannot_be_spoilt_is_said(self):
        target = spoilt.Mask(_ball(), (3.0, 1.5, 0.8))
        with pytest.raises(InputError, match="no way to spoil a mask"):
            spoilt.spoil(target, "melting", level=1, seed=0)
        with pytest.raises(InputError, match="level is 6"):
            spoilt.spoil(target, "tail", level=6, seed=0)
        with pytest.raises(InputError, match="empty"):
            spoilt.spoil(spoilt.Mask(np.zeros(SHAPE, dtype=bool), (1.0, 1.0, 1.0)), "tail", level=1, seed=0)
