"""Conditions turn a case into another one: lazily, by seed and case, references alike; records carry them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import members
import toys
from segwise.case import Case, Structure
from segwise.errors import CatalogError, InputError, PlanError
from segwise.evaluate import compare, conditions
from segwise.geometry import Channel, Grid, Volume
from segwise.records import plan as plans
from segwise.records.run import Run
from segwise.synth.conditions import AXES

SHAPE = (12, 9, 8)
GRID = Grid(SHAPE, np.array([[0, 0, 1.5, 4], [0, 2.0, 0, -3], [3.0, 0, 0, 7], [0, 0, 0, 1]]))  # d is z, 3 mm apart
NUMBERS = {"spacing": "mm=6", "shuffle": "block=3", "drop": "percent=25", "without": "target=spleen"}
READ: list[str] = []


def _labels():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:6, 2:6, 1:4] = 1
    labels[5:10, 3:8, 4:7] = 2
    return labels


def case(modality="CT", *, dtype=np.int16, channels=1):
    def load():
        READ.append("image")
        image = np.random.default_rng(0).normal(40, 10, (channels, *SHAPE)) + 60 * _labels()
        return Volume.of(image.astype(dtype), GRID, (Channel(modality),) * channels)

    def load_masks(structures):
        READ.append("masks")
        return [_labels() == s.values[0] for s in structures]

    names = (Structure("liver", "liver", (1,)), Structure("spleen", "spleen", (2,)))
    return Case("c", "s", "d", "toy", modality, (), names, load, load_masks)


def spec_of(name, level=3):
    return f"{name}({NUMBERS.get(name, f'level={level}')})"


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize(("dtype", "channels", "modality"), [(np.int16, 1, "CT"), (np.float32, 2, "MR")])
def test_every_condition_gives_an_image_and_references_on_one_grid(name, dtype, channels, modality):
    READ.clear()
    made = conditions.under(case(modality, dtype=dtype, channels=channels), spec_of(name))
    assert READ == [], "nothing is read before it is asked for"
    assert (made.id, made.subject, made.structures) == ("c", "s", case().structures)
    volume, masks = made.volume(), made.load_masks(made.structures)
    assert volume.array.dtype == dtype and len(volume.channels) == channels
    assert all(mask.dtype == bool and mask.shape == volume.grid.shape for mask in masks)
    again = conditions.under(case(modality, dtype=dtype, channels=channels), spec_of(name))
    assert again.volume().digest == volume.digest, "the same case and seed give the same bits"
    assert volume.digest != case(modality, dtype=dtype, channels=channels).volume().digest


def test_another_seed_and_another_case_draw_anew():
    digests = {
        conditions.under(case(), "noise(level=2)").volume().digest,
        conditions.under(case(), "noise(level=2, seed=1)").volume().digest,
        conditions.under(Case(**{**vars(case()), "id": "other"}), "noise(level=2)").volume().digest,
    }
    assert len(digests) == 3


def test_spacing_averages_slices_and_keeps_the_place():
    made = conditions.under(case(dtype=np.float32), "spacing(mm=6)")
    volume, plain = made.volume(), case(dtype=np.float32).volume()
    assert volume.grid.shape == (6, 9, 8) and volume.grid.spacing_mm == pytest.approx((6, 2, 1.5))
    np.testing.assert_allclose(volume.array[0, 0], plain.array[0, :2].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(volume.grid.mm([0, 0, 0])[0], plain.grid.mm([0.5, 0, 0])[0])
    liver = made.load_masks(made.structures)[0]
    assert liver.sum() == 2 * 4 * 3 and liver[1:3].any()


def test_spacing_of_a_fraction_weighs_what_a_slice_covers():
    volume = conditions.under(case(dtype=np.float32), "spacing(mm=4.5)").volume()
    plain = case(dtype=np.float32).volume().array[0]
    assert volume.grid.shape[0] == 8
    np.testing.assert_allclose(volume.array[0, 0], (plain[0] + plain[1] / 2) / 1.5, rtol=1e-5)


def test_slices_that_are_thicker_already_are_refused_in_one_message():
    with pytest.raises(InputError, match="3 mm apart, and finer ones cannot be made"):
        conditions.under(case(), "spacing(mm=2)").volume()


def test_shuffled_slices_take_their_references_along():
    made, plain = conditions.under(case(), "shuffle(block=3)"), case().volume().array[0]
    volume, masks = made.volume().array[0], made.load_masks(made.structures)
    order = [int(np.flatnonzero((plain == one).all(axis=(1, 2)))[0]) for one in volume]
    assert sorted(order) == list(range(12)) and order != list(range(12))
    assert all(order[i : i + 3] == list(range(order[i], order[i] + 3)) for i in range(0, 12, 3))
    assert np.array_equal(masks[1], (_labels() == 2)[order])


def test_lost_slices_close_up():
    made, plain = conditions.under(case(), "drop(percent=25)"), case().volume().array[0]
    volume = made.volume()
    assert volume.grid.shape == (9, 9, 8) and volume.grid.spacing_mm == pytest.approx((3, 2, 1.5))
    order = [int(np.flatnonzero((plain == one).all(axis=(1, 2)))[0]) for one in volume.array[0]]
    assert order == sorted(order)
    assert np.array_equal(made.load_masks(made.structures)[0], (_labels() == 1)[order])


def test_without_takes_one_target_out_of_image_and_references():
    made, plain = conditions.under(case(), "without(target=spleen)+noise(level=1)"), case()
    liver, spleen = made.load_masks(made.structures)
    assert not spleen.any() and np.array_equal(liver, _labels() == 1)
    inside = _labels() == 2
    assert made.volume().array[0][inside].mean() < plain.volume().array[0][inside].mean() - 60


def test_a_cut_view_cuts_references_alike():
    made = conditions.under(case(), "cut-view(level=5)")
    grid = made.volume().grid
    low = np.rint(GRID.index(grid.mm([0, 0, 0]))[0]).astype(int)
    there = _labels()[tuple(slice(a, a + n) for a, n in zip(low, grid.shape, strict=True))]
    assert np.array_equal(made.load_masks(made.structures)[1], there == 2) and grid.shape != SHAPE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nois(level=1)", 'did you mean "noise"'),
        ("rain", "there are noise"),
        ("noise", "level is None, expected a whole number from 1 to 5"),
        ("noise(level=6)", "expected a whole number from 1 to 5"),
        ("noise(level=2.5)", "expected a whole number"),
        ("spacing(mm=0)", "expected a number from 0.1 to 50"),
        ("shuffle(blocks=2)", 'no argument "blocks"'),
        ("without(target=3)", "expected the name of a structure"),
        ("noise(level=2, seed=x)", "expected a whole number"),
    ],
)
def test_a_wrong_condition_gets_one_message(text, words):
    with pytest.raises(CatalogError, match=words.replace("(", r"\(")):
        conditions.check(text)


def test_axes_say_where_a_condition_lies():
    assert conditions.axis_of("") == {}
    assert conditions.axis_of("spacing(mm=5)") == {
        "kind": "spacing", "before": "", "at": 5.0, "start": None, "unit": "{} mm between slices",
    }  # fmt: skip
    found = conditions.axis_of("without(target=spleen)+noise(level=3, seed=2)")
    assert (found["kind"], found["before"], found["at"]) == ("noise(seed=2)", "without(target=spleen)", 3.0)
    assert conditions.axis_of("shuffle(block=4)")["at"] == 25.0
    assert conditions.axis_of("without(target=spleen)") == {"kind": "without(target=spleen)", "before": ""}


def _plan(**fields):
    content = {"models": ["box-fill", "threshold"], "prompters": ["box3d"], "metrics": ["overlap"], **fields}
    return plans.build(content, name="mine", source="mine.toml")


def test_a_plan_with_an_unknown_condition_or_target_gets_one_message(tmp_path):
    with members.installed(tmp_path / "package", {"datasets/toy.py": members.TOY_DATASET}):
        data = toys.make(tmp_path / "data")
        with pytest.raises(PlanError, match=r'conditions\[1\]: no condition "nois"'):
            compare.preview(_plan(conditions=["as-is", "noise(level=1)", "nois(level=1)"]), data)
        with pytest.raises(PlanError, match="no case has liverr; did you mean liver"):
            compare.preview(_plan(conditions=["noise(level=1)"], targets=["liverr"]), data)


def test_a_run_carries_conditions_and_resumes(tmp_path):
    with members.installed(tmp_path / "package", {"datasets/toy.py": members.TOY_DATASET}):
        data, out = toys.make(tmp_path / "data"), tmp_path / "run"
        wanted = ["as-is", "noise(level=3)", "drop(percent=20)"]
        found = compare.preview(_plan(conditions=wanted), data)
        assert len(found.tasks) == 2 * 2 * 3
        assert len({task.id for task in found.tasks}) == len(found.tasks)
        compare.run(found, out)
        records = Run.read(out).records()
        assert {r.condition for r in records} == {"", "noise(level=3)", "drop(percent=20)"}
        axis = next(r for r in records if r.condition == "drop(percent=20)").provenance["condition"]
        assert (axis["kind"], axis["at"], axis["start"]) == ("drop", 20.0, 0.0)
        rows = list(compare.export_rows(out))
        by_condition = {row["condition"]: row for row in rows if row["metric"] == "DSC"}
        assert len(by_condition) == 3 and all(row["value"] is not None for row in by_condition.values())
        assert compare._pending(compare.preview(_plan(conditions=wanted), data), records) == []
        more = compare.preview(_plan(conditions=[*wanted, "noise(level=5)"]), data)
        assert {task.condition for task in compare._pending(more, records)} == {"noise(level=5)"}


def test_the_same_prompts_go_to_every_damaged_image(tmp_path):
    """A reference that stays gives the prompts of the case as it is: only the image differs."""
    with members.installed(tmp_path / "package", {"datasets/toy.py": members.TOY_DATASET}):
        data, out = toys.make(tmp_path / "data", n=1), tmp_path / "run"
        plan = _plan(prompters=["box3d(jitter_mm=3)"], conditions=["noise(level=4)"])
        compare.run(compare.preview(plan, data), out)
        prompts = {(r.target, r.prompt) for r in Run.read(out).records()}
        assert len(prompts) == len({target for target, _ in prompts})
        assert json.loads((out / "run.json").read_text())["plan"]["conditions"] == ["noise(level=4)"]
