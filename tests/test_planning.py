"""What cases are like, and the plan that follows: numbers a person can check."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from segwise import assemble
from segwise.case import Case, Structure
from segwise.errors import TrainingError
from segwise.geometry import Channel, Grid, Volume
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask
from segwise.store import FeatureStore
from segwise.training import planning
from segwise.training.planning import Fingerprint, Seen, fingerprint, plan

AXIAL = ((0, 0, -1.0), (0, 1.0, 0), (1.0, 0, 0))  # slices up, rows to A, columns to L


def case(
    name: str = "a",
    *,
    shape=(6, 12, 10),
    spacing=(3.0, 1.0, 2.0),
    modality="MR",
    value=100.0,
    organs=("liver", "spleen"),
    channels: int = 1,
    log: list[str] | None = None,
) -> Case:
    """Air of 0, a voxel thick, around a body of 10; the first organ is `value` everywhere, the second twice that."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(AXIAL).T @ np.diag(spacing)
    grid = Grid(shape, affine)
    array = np.zeros((channels, *shape), dtype=np.float32)
    array[:, 1:-1, 1:-1, 1:-1] = 10
    masks = {}
    for i, organ in enumerate(organs):
        mask = np.zeros(shape, dtype=bool)
        mask[2:4, 2 + 3 * i : 4 + 3 * i, 2:6] = True
        array[:, mask] = value * (i + 1)
        masks[organ] = mask

    def load() -> Volume:
        if log is not None:
            log.append(name)
        return Volume.of(array, grid, [Channel(modality)] * channels)

    return Case(
        id=name,
        subject=name,
        dataset="toy",
        layout="toy",
        modality=modality,
        images=(),
        structures=tuple(Structure(organ, organ) for organ in organs),
        load=load,
        load_masks=lambda wanted: [masks[structure.name] for structure in wanted],
    )


def seen(shape, spacing=(1.0, 1.0, 1.0), *, channels=("CT",), kept=1.0, name="a") -> Seen:
    return Seen(id=name, shape=shape, spacing_mm=spacing, channels=channels, kept=kept, voxels={"liver": 1})


def found(*cases: Seen) -> Fingerprint:
    return Fingerprint(cases=cases, intensity=({"mean": 1.0},) * len(cases[0].channels))


def chosen(found: Fingerprint, **given) -> dict:
    return plan(found, names=["liver"], **given)["plans"]["configurations"]["3d_fullres"]


def test_a_case_is_seen_without_its_air():
    one = fingerprint([case()], ["liver", "spleen"]).cases[0]
    assert one.shape == (4, 10, 8)
    assert one.spacing_mm == (3.0, 1.0, 2.0)
    assert one.kept == pytest.approx(4 * 10 * 8 / (6 * 12 * 10))
    assert one.channels == ("MR",)
    assert one.voxels == {"liver": 16, "spleen": 16}


def test_axes_are_slices_rows_columns_whatever_the_file_has():
    """A file that stores columns, slices, rows (R, S, A) is seen as any other."""
    plain = case()
    turned = plain.volume().on(plain.volume().grid.toward("RSA"), order=0)
    other = Case(**{**plain.__dict__, "load": lambda: turned, "structures": ()})
    one = planning._looked_at(other, (), np.random.default_rng(0))[0]
    assert one.shape == (4, 10, 8)
    assert one.spacing_mm == pytest.approx((3.0, 1.0, 2.0))


def test_intensities_are_those_of_the_foreground_of_all_cases():
    """Liver 100 in one case and 200 in the other, 16 voxels each."""
    cases = [case("a", organs=("liver",)), case("b", organs=("liver",), value=200.0)]
    (values,) = fingerprint(cases, ["liver"]).intensity
    assert values["mean"] == values["median"] == 150
    assert (values["min"], values["max"], values["std"]) == (100, 200, 50)
    assert (values["percentile_00_5"], values["percentile_99_5"]) == (100, 200)


def test_a_constant_organ_has_no_spread():
    (values,) = fingerprint([case()], ["liver"]).intensity
    assert values == {
        **dict.fromkeys(("mean", "median", "min", "max", "percentile_00_5", "percentile_99_5"), 100.0),
        "std": 0.0,
    }


def test_every_channel_has_its_own_statistics_and_a_large_foreground_is_sampled(monkeypatch):
    monkeypatch.setattr(planning, "VOXELS", 5)
    large = case(channels=2)
    values = planning._looked_at(large, ("liver", "spleen"), np.random.default_rng(0))[1]
    assert values.shape == (2, 5) and np.isin(values, (100, 200)).all()
    assert fingerprint([large], ["liver", "spleen"], seed=1) == fingerprint([large], ["liver", "spleen"], seed=1)


def test_cases_are_read_one_by_one_and_once():
    log: list[str] = []
    done: list[tuple[int, int]] = []

    def progress(n: int, of: int) -> None:
        assert len(log) == n
        done.append((n, of))

    fingerprint([case(name, log=log) for name in "abc"], ["liver"], progress)
    assert log == ["a", "b", "c"] and done == [(1, 3), (2, 3), (3, 3)]


def test_a_case_may_lack_a_structure():
    both = fingerprint([case("a"), case("b", organs=("liver",))], ["liver", "spleen"])
    assert both.cases[1].voxels == {"liver": 16}


@pytest.mark.parametrize(
    ("cases", "names", "message"),
    [
        ([], ["liver"], "no cases came"),
        ([case()], [], "structures to learn: none"),
        ([case()], ["liver", "liver"], "liver, liver; expected one or more, each once"),
        ([case()], ["liver", "aorta"], "none of the 1 training cases has a voxel of aorta; they name liver, spleen"),
        ([case(organs=())], ["liver"], "they name nothing"),
        ([case(), case("b", channels=2)], ["liver"], "case b has the channels MR, MR, case a has MR"),
        ([case(), case("b", modality="CT")], ["liver"], "case b has the channels CT, case a has MR"),
    ],
)
def test_what_no_plan_can_be_made_of(cases, names, message):
    with pytest.raises(TrainingError, match=message):
        fingerprint(cases, names)


def test_the_spacing_is_the_median():
    cases = [seen((90, 80, 70), (s, 1.0, 2.0)) for s in (1.0, 2.5, 2.0)]
    assert chosen(found(*cases))["spacing"] == [2.0, 1.0, 2.0]
    assert chosen(found(*cases))["median_image_size_in_voxels"] == [90.0, 80.0, 70.0]


def test_a_coarse_axis_takes_the_finest_tenth():
    """Slices of 4, 5 and 8 mm on 1 mm pixels: 4 + 0.2 * (5 - 4)."""
    cases = [seen((20, 200, 200), (s, 1.0, 1.0)) for s in (4.0, 5.0, 8.0)]
    assert chosen(found(*cases))["spacing"] == pytest.approx([4.2, 1.0, 1.0])
    many = [seen((100, 200, 200), (s, 1.0, 1.0)) for s in (4.0, 5.0, 8.0)]  # enough slices: the median
    assert chosen(found(*many))["spacing"] == [5.0, 1.0, 1.0]
    fine = [seen((20, 200, 200), (s, 1.0, 1.0)) for s in (0.5, 5.0, 8.0)]  # never finer than the others
    assert chosen(found(*fine))["spacing"][0] == pytest.approx(1.4)


def test_the_coarsest_axis_comes_first():
    said = plan(found(seen((90, 80, 70), (1.0, 2.0, 3.0))), names=["liver"], patch=(32, 48, 64))["plans"]
    assert said["transpose_forward"] == [2, 0, 1] and said["transpose_backward"] == [1, 2, 0]
    configuration = said["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [3.0, 1.0, 2.0] and configuration["patch_size"] == [64, 32, 48]


@pytest.mark.parametrize(
    ("shape", "given", "patch"),
    [
        ((256, 256, 256), {}, [64, 64, 64]),
        ((512, 512, 512), {"multiple": 32}, [64, 64, 64]),
        ((60, 500, 500), {}, [32, 96, 80]),  # like the volume, 245,760 of 262,144 voxels
        ((40, 50, 60), {}, [48, 64, 64]),  # no larger than the volume needs
        ((10, 100, 100), {}, [16, 112, 112]),
        ((20, 20, 20), {}, [32, 32, 32]),
        ((16, 16, 16), {}, [32, 16, 16]),  # a net needs one side of twice its divisor
        ((100, 100, 100), {"patch_voxels": 20 * 32 * 32}, [32, 32, 16]),
        ((100, 100, 100), {"patch": (16, 32, 48)}, [16, 32, 48]),
    ],
)
def test_patches(shape, given, patch):
    sides = chosen(found(seen(shape)), **given)["patch_size"]
    assert sides == patch
    assert np.prod(sides) <= given.get("patch_voxels", 64**3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch_voxels": 1000}, "patch_voxels is 1,000, expected at least 8,192: .* 32×16×16"),
        ({"patch": (16, 32, 40)}, "patch is 16×32×40, expected three sides divisible by 16"),
        ({"patch": (16, 32)}, "patch is 16×32, expected three sides"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "expected three numbers above 0"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "expected three numbers above 0"),
    ],
)
def test_a_spacing_or_patch_that_cannot_be(given, message):
    with pytest.raises(TrainingError, match=message):
        chosen(found(seen((100, 100, 100))), **given)


def test_normalisation_follows_the_modality():
    mixed = seen((90, 80, 70), channels=("CT", "MR"), kept=0.5)
    assert chosen(found(mixed))["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"]
    assert chosen(found(mixed))["use_mask_for_norm"] == [False, True]
    assert chosen(found(seen((90, 80, 70), channels=("MR",))))["use_mask_for_norm"] == [False]


def test_labels_stand_in_the_order_of_the_names():
    dataset = plan(found(seen((90, 80, 70))), names=["spleen", "liver"])["dataset"]
    assert dataset["labels"] == {"background": 0, "spleen": 1, "liver": 2}
    assert dataset["channel_names"] == {"0": "CT"}


def test_a_given_spacing_is_taken():
    configuration = chosen(found(seen((90, 80, 70), (1.0, 1.0, 1.0))), spacing_mm=(3.0, 2.0, 1.0))
    assert configuration["spacing"] == [3.0, 2.0, 1.0]
    assert configuration["median_image_size_in_voxels"] == [30.0, 40.0, 70.0]


def test_a_specialist_takes_the_plan_and_sees_the_cases(tmp_path):
    """From cases to masks: the plan is JSON, the frame has its spacing, the labels are asked by name."""
    cases = [case("a", modality="CT"), case("b", modality="CT")]
    said = plan(fingerprint(cases, ["spleen", "liver"]), names=["spleen", "liver"])
    (tmp_path / "plan.json").write_text(json.dumps(said))
    model = assemble.segmenter(f'unet(plan="{tmp_path / "plan.json"}", untrained=1, features=4-6)')
    assert model.parts.labels == ("spleen", "liver")
    volume = cases[0].volume()
    state = model.encode(volume, store=FeatureStore())
    assert state.volume.grid.shape == (4, 10, 8) and state.volume.grid.spacing_mm == (3.0, 1.0, 2.0)
    inside = torch.from_numpy(np.array(state.volume.array[0, 1:3, 1:3, 1:5]))  # the liver: (100 - mean) / std
    statistics = said["plans"]["foreground_intensity_properties_per_channel"]["0"]
    assert inside.numpy() == pytest.approx((100 - statistics["mean"]) / statistics["std"], abs=1e-5)
    (answer,) = model.segment(state, [Ask(Prompt((Text("liver"),)))])
    assert answer.mask(volume.grid).shape == (6, 12, 10)
