"""Training on labelled cases: splits, preparation, patches, augmentation, and the two objectives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import labelled_cases
from segwise import assemble
from segwise.errors import TrainingError
from segwise.geometry import Grid, Volume
from segwise.models._planned import PlannedFrame, recipe
from segwise.nets.contract import ClosedNet
from segwise.segmenter import Parts
from segwise.training import augment, closed, labelled, loop, patches, prepared, prompted, splits

# what a forecast adds for features that are kept


def test_what_keeping_features_will_bring():
    """Twelve encodings of 2 s and 100 bytes in the probe, ten of them in training; a million draws see every view."""
    own = prompted.OnSlices.__new__(prompted.OnSlices)
    own._kept, own._bytes = dict.fromkeys("abcdefghijkl"), 1200
    own._made, own._learned, own.spent_s = 12, 10, 24.0
    more, seconds = own.to_come(50, 1_000_000)
    assert more == 4000 and seconds == pytest.approx((50 + 2) * 2.0)  # 40 views more; all once, and two held ones
    more, seconds = own.to_come(50, 50)
    different = 50 * (1 - 0.98**50)  # 31.8 of 50 draws
    assert more == pytest.approx(100 * (different - 10), abs=1) and seconds == pytest.approx((different + 2) * 2)
    assert own.to_come(10**9, 10**9)[0] == prompted.KEPT_BYTES - 1200  # no more than that is kept
    own._kept = {}
    assert own.to_come(50, 50) == (0, 0.0)


# who is trained on


def test_a_split_is_by_subject_and_every_subject_is_in_one_part():
    cases = [labelled_cases.case(i, subject=f"p{i // 2}") for i in range(20)]
    found = splits.split(cases, seed=3, left_out=("p4",))
    parts = (found.train, found.valid, found.test)
    assert sorted(s for part in parts for s in part) == sorted({case.subject for case in cases})
    assert found.test == ("p4",) and len(found.valid) == 2
    assert {c.id for c in found.of(cases, "test")} == {"case8", "case9"}
    assert splits.split(cases, seed=3, left_out=("p4",)) == found != splits.split(cases, seed=4, left_out=("p4",))


def test_a_larger_fraction_holds_all_of_a_smaller_one():
    cases = labelled_cases.cases(13)
    small, large = (splits.split(cases, fraction=f) for f in (0.3, 0.8))
    assert set(small.train) < set(large.train)
    assert small.valid == large.valid
    assert len(small.train) == 3


def test_folds_test_everyone_once():
    cases = labelled_cases.cases(7)
    tested = [s for k in range(3) for s in splits.fold(cases, k=k, n=3).test]
    assert sorted(tested) == sorted(splits.subjects(cases))
    for k in range(3):
        found = splits.fold(cases, k=k, n=3)
        assert not set(found.train) & set(found.test)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"fraction": 0.1},
            "10% of 4 training subjects is less than one subject; expected a fraction of 0.25 at least",
        ),
        ({"left_out": ("nobody",)}, "no subject nobody to leave out; the data set has person0, person1"),
        ({"left_out": tuple(f"person{i}" for i in range(5))}, "nobody is left to train on"),
        ({"fraction": 0}, "expected a fraction above 0"),
    ],
)
def test_a_split_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(TrainingError, match=words):
        splits.split(labelled_cases.cases(5), **arguments)


def test_more_folds_than_subjects_are_refused():
    with pytest.raises(TrainingError, match="fold 0 of 3 with 1 subject; expected 2 folds or more"):
        splits.fold(labelled_cases.cases(1), k=0, n=3)


def test_a_split_survives_its_file_and_a_wrong_file_is_refused(tmp_path):
    found = splits.split(labelled_cases.cases(6), left_out=("person2",))
    assert splits.read(splits.write(found, tmp_path)) == found
    for text, words in (
        ("[1]", "is no split"),
        ('{"train": ["a"], "test": ["a"]}', "a is in the split twice"),
        ('{"valid": ["a"]}', "nobody to train on"),
    ):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(TrainingError, match=words):
            splits.read(tmp_path / "other.json")


# cases as a frame prepares them


def frame(patch=(16, 16, 16), spacing=(2.0, 1.0, 1.0)) -> PlannedFrame:
    chosen = {
        "spacing": spacing,
        "patch_size": patch,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
    }
    plans = {"transpose_forward": [0, 1, 2], "image_reader_writer": "SimpleITKIO"}
    dataset = {"labels": {"background": 0, "liver": 1, "spleen": 2}}
    return PlannedFrame(recipe(plans, dataset, chosen, {}))


def ready(tmp_path, n=3, names=labelled_cases.NAMES, **more):
    return prepared.prepare(labelled_cases.cases(n), frame(**more), names, tmp_path / "prepared")


def test_labels_lie_where_the_image_shows_them(tmp_path):
    (one,) = ready(tmp_path, n=1, spacing=(2.0, 1.5, 1.0))
    values = one.volume.array[0]
    means = [values[one.labels == label].mean() for label in (0, 1, 2)]
    assert means[0] < means[1] < means[2]
    assert one.grid.shape == values.shape == one.labels.shape
    voxel_ml = 2 * 1.5 * 1.0 / 1000
    for i, name in enumerate(labelled_cases.NAMES):
        ml = labelled_cases.masks(0)[name].sum() * 2.0 / 1000
        assert (one.labels == i + 1).sum() * voxel_ml == pytest.approx(ml, rel=0.06)
        places = one.places(name)
        assert (one.labels[tuple(places.T)] == i + 1).all()


def test_what_is_prepared_is_taken_as_it_is_until_something_changes(tmp_path):
    first = ready(tmp_path, n=2)
    stamp = [(p.folder / "image.npy").stat().st_mtime_ns for p in first]
    assert ready(tmp_path, n=2) == first
    assert [(p.folder / "image.npy").stat().st_mtime_ns for p in first] == stamp
    assert ready(tmp_path, n=1, spacing=(2.0, 2.0, 2.0))[0].folder != first[0].folder
    assert ready(tmp_path, n=1, names=("liver",))[0].folder != first[0].folder
    changed = labelled_cases.case(0)
    flipped = labelled_cases.Case(
        **{**vars(changed), "load_masks": lambda wanted: [labelled_cases.masks(1)[s.name] for s in wanted]}
    )
    (other,) = prepared.prepare([flipped], frame(), labelled_cases.NAMES, tmp_path / "prepared")
    assert other.folder != first[0].folder


def test_a_structure_that_nobody_has_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="pancreas is in none of the 2 training cases"):
        ready(tmp_path, n=2, names=("liver", "pancreas"))
    with pytest.raises(TrainingError, match="none of the 2 cases has any voxel of pancreas"):
        ready(tmp_path, n=2, names=("pancreas",))


# patches


def test_a_patch_is_that_crop_of_the_prepared_case(tmp_path):
    cases = ready(tmp_path)
    stream = patches.Patches(tuple(cases), frame(), size=4, seed=5, augment=False)
    for patch in [p for i in range(5) for p in stream.batch(i)]:
        one = next(c for c in cases if c.id == patch.case)
        low = [c - n // 2 for c, n in zip(patch.centre, patch.labels.shape, strict=True)]
        inside = tuple(slice(max(0, a), a + n) for a, n in zip(low, patch.labels.shape, strict=True))
        own = one.labels[inside]
        at = tuple(slice(max(0, -a), max(0, -a) + m) for a, m in zip(low, own.shape, strict=True))
        np.testing.assert_array_equal(patch.labels[at], own)
        np.testing.assert_array_equal(patch.image[0][at], one.volume.array[0][inside])


def test_batches_are_functions_of_their_index_and_show_structures(tmp_path):
    stream = patches.Patches(tuple(ready(tmp_path)), frame(), size=3, seed=1)
    first, again = stream.batch(7), stream.batch(7)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.change == b.change
    shown = [bool(batch[0].labels.any()) for batch in map(stream.batch, range(12))]
    assert sum(shown) >= 11  # the first of each batch is centred on a structure
    assert not np.array_equal(stream.batch(8)[0].image, first[0].image)


def test_batches_of_one_see_what_lies_elsewhere_too(tmp_path):
    """A net that only ever saw patches around structures paints them everywhere else."""
    stream = patches.Patches(tuple(ready(tmp_path)), frame(patch=(4, 4, 4)), size=1, seed=3, augment=False)
    shown = [bool(stream.batch(i)[0].labels.any()) for i in range(120)]
    pairs = patches.Patches(stream.cases, frame(patch=(4, 4, 4)), size=2, seed=3, augment=False)
    firsts = [bool(pairs.batch(i)[0].labels[1:3, 1:3, 1:3].any()) for i in range(30)]
    anywhere = np.mean([bool(pairs.batch(i)[1].labels.any()) for i in range(120)])
    assert all(firsts)
    assert abs(np.mean(shown) - (1 / 3 + 2 / 3 * anywhere)) < 0.15


def test_the_learning_curve_sees_what_is_painted_where_nothing_is(tmp_path):
    class Painter(ClosedNet):
        """Right about what is bright, and paints the dark third of the case too."""

        def __init__(self, wrong):
            super().__init__()
            self.wrong, self.weight = wrong, nn.Parameter(torch.zeros(1))

        def forward(self, image):
            liver, spleen = (image > 0.7) & (image < 2.5), image >= 2.5
            if self.wrong and not (liver | spleen).any():
                liver = torch.ones_like(liver)
            return [torch.cat([~(liver | spleen), liver, spleen], dim=1) * 10.0 + self.weight]

    cases, own = ready(tmp_path), frame(patch=(4, 4, 4))
    right, wrong = (closed.Labelled(Painter(one), own, held=cases).validate()["dsc"] for one in (False, True))
    assert wrong < right - 0.05


def test_sides_are_not_mirrored():
    assert patches.mirrored(("liver",), "SAR") == (0, 1, 2)
    assert patches.mirrored(("left kidney", "liver"), "SAR") == (0, 1)
    assert patches.mirrored(("Left Kidney",), "LPS") == (1, 2)


# augmentation


@pytest.mark.parametrize(
    "change",
    [
        augment.Change(mirror=(True, False, True)),
        augment.Change(angles=(0.0, 0.0, np.pi / 2)),
        augment.Change(scale=1.3),
        augment.Change(angles=(0.3, 0.1, -0.2), scale=0.8),
    ],
)
def test_image_and_labels_move_together(change):
    shape = (16, 18, 20)
    large = augment.reach(shape, change)
    mask = labelled_cases.egg([n / 2 - 1 for n in large], (5, 3, 6), large)
    image, labels = augment.changed(mask[None].astype(np.float32), mask.astype(np.uint8), change, shape)
    assert image.shape == (1, *shape) and labels.shape == shape
    found = image[0] > 0.5
    assert 2 * (found & (labels > 0)).sum() / (found.sum() + labels.sum()) > 0.88
    assert labels.sum() == pytest.approx(mask.sum() * change.scale**3, rel=0.15)


def test_a_quarter_turn_is_a_quarter_turn():
    image = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    change = augment.Change(angles=(np.pi / 2, 0.0, 0.0))
    found, _ = augment.changed(image, np.zeros((1, 4, 4), np.uint8), change, (1, 4, 4))
    turned = [np.rot90(image[0, 0], k) for k in (1, 3)]
    assert any(np.allclose(found[0, 0], one, atol=1e-4) for one in turned)


def test_no_change_changes_nothing_and_values_change_only_the_image():
    rng = np.random.default_rng(0)
    image, labels = rng.normal(size=(2, 8, 9, 10)).astype(np.float32), rng.integers(0, 3, (8, 9, 10)).astype(np.uint8)
    same, kept = augment.changed(image, labels, augment.Change(), labels.shape)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(kept, labels)
    for change in (
        augment.Change(noise=0.2, seed=4),
        augment.Change(blur=0.8),
        augment.Change(brightness=1.2),
        augment.Change(contrast=0.8),
        augment.Change(coarse=1.9),
        augment.Change(gamma=0.8),
        augment.Change(gamma=1.4, inverted=True),
    ):
        other, kept = augment.changed(image, labels, change, labels.shape)
        np.testing.assert_array_equal(kept, labels)
        assert np.isfinite(other).all() and not np.allclose(other, image)


# the two objectives


class Tiny(ClosedNet):
    """Two convolutions, and a coarse answer for deep supervision."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 8, 3, padding=1)
        self.last = nn.Conv3d(8, classes, 3, padding=1)

    def forward(self, image):
        found = self.last(self.first(image).relu())
        return [found, nn.functional.avg_pool3d(found, 2)]


def test_a_net_learns_what_the_labels_say_and_answers_on_the_held_subject(tmp_path):
    torch.manual_seed(0)
    cases, own = ready(tmp_path, n=4), frame()
    budget = labelled.Budget(steps=120, rate=2e-2, size=2, validate_every=120, augment=False)
    parts = Parts(Tiny(), own, labelled_cases.NAMES, "random")
    made = labelled.specialist("tiny", parts, cases[:3], cases[3:], budget, lambda out, net, known: [], "")
    before = made.objective.validate()["dsc"]
    outcome = loop.train(made, tmp_path / "out")
    assert outcome.measures["valid_dsc"] > max(0.6, before + 0.4)


def test_dice_and_entropy_of_a_perfect_answer_are_nothing():
    labels = torch.tensor([[[[0, 1], [2, 1]]]])
    sure = nn.functional.one_hot(labels, 3).movedim(-1, 1).float() * 200 - 100
    for loss in ("dice-ce", "dice-focal", "dice", "ce"):
        assert float(closed.judged(sure, labels, loss)) == pytest.approx(0, abs=1e-4)
    assert float(closed.judged(sure.roll(1, 1), labels)) > 10
    assert float(closed.soft_dice(torch.full((1, 3, 1, 2, 2), 1 / 3), labels)) == pytest.approx(
        1 - (2 * 2 / 3 / (4 / 3 + 2) + 2 * 1 / 3 / (4 / 3 + 1)) / 2, abs=1e-4
    )
    assert closed.dsc(torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]]), 3) == pytest.approx(2 / 3)


def hollow(wanted_case):
    """The same case with structures that are shells: a generalist fills them."""
    seed = int(wanted_case.id.removeprefix("case"))

    def load(wanted):
        own = labelled_cases.masks(seed)
        return [own[s.name] & ~ndimage.binary_erosion(own[s.name], iterations=2) for s in wanted]

    return labelled_cases.Case(**{**vars(wanted_case), "load_masks": load})


def slices(tmp_path, takes=("box", "points"), tune="mask_decoder", **more):
    model = assemble.segmenter("sam(size=nano)")
    model.parts.net.requires_grad_(False)
    model.parts.net.get_submodule(tune).requires_grad_(True)
    cases = prepared.prepare(
        list(map(hollow, labelled_cases.cases(3))), model.parts.frame, ("liver", "spleen"), tmp_path / "prepared_slices"
    )
    budget = labelled.Budget(steps=more.pop("steps", 8), rate=3e-4, size=2, validate_every=100)
    made = labelled.adaptation(
        "sam", model, takes, cases[:2], cases[2:], budget, lambda out, net, known: [], "", **more
    )
    return model, made


def test_logits_come_back_to_the_slice_as_the_frame_brings_them(tmp_path):
    model, made = slices(tmp_path)
    one = made.stream.batch(0)[0]
    places = np.linspace(-3, 3, 64, dtype=np.float32)
    smooth = np.sin(places)[:, None] + np.cos(1.3 * places)[None]
    expected = model.parts.frame.restore(smooth[None, None, None], one.window)[0, 0, 0]
    found = made.objective._on_slice(torch.from_numpy(smooth), one.window).numpy()
    assert np.abs(found - expected).max() < 0.03
    assert expected.shape == one.window.shape[1:]


def test_a_tuned_decoder_learns_and_all_else_stays(tmp_path):
    model, made = slices(tmp_path, steps=30)
    before = {key: value.clone() for key, value in model.parts.net.state_dict().items()}
    assert made.objective.frozen
    assert not made.stream.augment  # features are kept: a view is encoded once
    start = made.objective.validate()["dsc"]
    outcome = loop.train(made, tmp_path / "out")
    changed = {key for key, value in model.parts.net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith("mask_decoder.") for key in changed)
    assert outcome.measures["valid_dsc"] > start + 0.02


def test_features_of_a_frozen_encoder_are_made_once_a_slice(tmp_path, monkeypatch):
    _, made = slices(tmp_path)
    encoded = []
    own = made.objective.net.encode
    monkeypatch.setattr(made.objective.net, "encode", lambda image: encoded.append(len(image)) or own(image))
    batch = made.stream.batch(0)
    for _ in range(3):
        list(made.objective.losses(batch, np.random.default_rng(0)))
    assert sum(encoded) == len({one.key for one in batch})


def test_an_adapted_encoder_sees_changed_slices(tmp_path):
    _, made = slices(tmp_path, tune="image_encoder.neck")
    assert not made.objective.frozen and made.stream.augment
    loss, shown = next(made.objective.losses(made.stream.batch(1), np.random.default_rng(0)))
    loss.backward()
    assert all(p.grad is not None for p in made.objective.net.image_encoder.neck.parameters())
    assert 0 <= shown["dsc0"] <= 1


def test_regions_of_cases_are_asked_about_as_inference_asks(tmp_path):
    model = assemble.segmenter("default")
    own: list = [p for n, p in model.parts.net.named_parameters() if n.startswith("head")]
    model.parts.net.requires_grad_(False)
    for parameter in own:
        parameter.requires_grad_(True)
    cases = prepared.prepare(labelled_cases.cases(3), model.parts.frame, ("liver", "spleen"), tmp_path / "p")
    budget = labelled.Budget(steps=2, size=2, validate_every=5)
    made = labelled.adaptation(
        "default", model, ("box", "points"), cases[:2], cases[2:], budget, lambda out, net, known: [], ""
    )
    for sample in made.stream.batch(3):
        assert sample.view.shape == (1, 40, 40, 40) == (1, *sample.soft.shape)
        inside = sample.soft > 0.9
        assert sample.view[0][inside].mean() > sample.view[0][sample.soft < 0.1].mean()  # the eggs are bright
    first, again = made.stream.batch(4), made.stream.batch(4)
    np.testing.assert_array_equal(first[0].view, again[0].view)
    outcome = loop.train(made, tmp_path / "out")
    assert outcome.measures["valid_round0"] > 0.8


def test_what_cannot_be_adapted_says_so(tmp_path):
    model = assemble.segmenter("sam(size=nano)")
    model.parts.net.requires_grad_(False)
    one = prepared.prepare(labelled_cases.cases(1), model.parts.frame, ("liver",), tmp_path / "p")
    budget = labelled.Budget(steps=1)
    arguments = (one, one, budget, lambda out, net, known: [], "")
    with pytest.raises(TrainingError, match=r"has nothing to train; put an adapter behind it, such as sam\+lora"):
        labelled.adaptation("sam", model, ("box",), *arguments)
    model.parts.net.requires_grad_(True)
    with pytest.raises(TrainingError, match="takes text; expected a model that takes boxes or points"):
        labelled.adaptation("sam", model, ("text",), *arguments)
    with pytest.raises(TrainingError, match="expected a promptable model of slices"):
        labelled.adaptation("threshold", Odd(), ("box",), *arguments)


class Odd:
    """A closed list, as far as an adaptation sees."""

    parts = Parts(Tiny(), frame(), ("liver",), "random")


def test_running_statistics_of_frozen_parts_stay():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Linear(2, 2))
    net.requires_grad_(False)
    net[3].requires_grad_(True)
    net.train()
    prompted.still(net)
    assert not net[1].training and not net[0].training and net[3].training


def test_the_labels_of_two_masks_on_a_coarser_grid():
    """A voxel belongs to the mask that fills half of it or more; of two alike the last one counts."""
    left, right = np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), bool)
    left[:, :, :2], right[:, :, 2:] = True, True
    grid = Grid((1, 4, 4), np.eye(4))
    found = prepared.labelled([left, right], [1, 2], grid, grid.resized((1, 2, 2)))
    np.testing.assert_array_equal(found, [[[1, 2], [1, 2]]])
    assert json.loads(json.dumps(found.tolist())) == [[[1, 2], [1, 2]]]
    assert Volume.of(found, grid.resized((1, 2, 2))).array.dtype == np.uint8
